"""Image embeddings from captions, one quantised principal component after another (§2.2).

B batch, L caption positions, D embedding dimension, K components, Q buckets of each, W width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import CaptionEncoder, KVCache, TransformerBlock
from models.config import ArPriorConfig
from models.guidance import guide
from models.pca import Pca, quantiles

Decode = Callable[[Tensor], Tensor]  # the next inputs (B, W) to hidden states (B, W)
NUM_WAVES = 4  # of `smooth_table`
TABLE_STD = 0.1


class ArPrior(nn.Module):
    """Causal transformer over zt, the quantised dot product zi·zt, and the codes of zi.

    The caption reaches it by cross-attention: 256 text tokens and 319 codes don't fit in table 3's context of 384.
    Position 0 predicts the dot product, position k + 1 the code of component k; embeddings and heads are a
    component's own.
    """

    dot_edges: Tensor  # (num_dot_buckets - 1,), rising

    def __init__(
        self,
        config: ArPriorConfig,
        pca: Pca,
        embed_dim: int,
        vocab_size: int,
        context: int,
        pad_id: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.pca = pca
        width, num_codes, num_buckets = config.width, pca.num_components, pca.num_buckets
        self.caption = CaptionEncoder(config.caption, vocab_size, context, pad_id)
        self.text_in = nn.Linear(embed_dim, width)
        self.text_null = nn.Parameter(torch.zeros(width))
        self.dot_in = nn.Embedding(config.num_dot_buckets + 1, width)  # the last one: text dropped
        self.code_in = nn.Embedding((num_codes - 1) * num_buckets, width)  # the last component is never read
        self.position = nn.Parameter(torch.empty(num_codes + 1, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads, context_width=config.caption.width, dropout_prob=config.dropout_prob)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.dot_out = nn.Linear(width, config.num_dot_buckets)
        self.code_out = nn.Parameter(torch.empty(num_codes, num_buckets, width))
        self.register_buffer("dot_edges", torch.zeros(config.num_dot_buckets - 1))
        for table in (self.position, self.dot_in.weight):
            nn.init.normal_(table, std=0.02)
        with torch.no_grad():
            self.dot_in.weight[:-1] = smooth_table(1, config.num_dot_buckets, width)[0]
            self.code_in.weight.copy_(smooth_table(num_codes - 1, num_buckets, width).flatten(0, 1))
            self.code_out.copy_(smooth_table(num_codes, num_buckets, width))

    @torch.no_grad()
    def fit_dot_buckets(self, zi: Tensor, zt: Tensor) -> None:
        """Set the edges of the dot product's buckets so that unit embeddings zi, zt (N, D) fill them equally."""
        num_buckets = self.config.num_dot_buckets
        shares = torch.arange(1, num_buckets, device=zi.device) / num_buckets
        self.dot_edges.copy_(quantiles((zi * zt).sum(-1, keepdim=True), shares)[:, 0])

    def quantise(self, zi: Tensor, zt: Tensor) -> tuple[Tensor, Tensor]:
        """The bucket (B,) of zi·zt and the codes (B, K) of zi."""
        dot = torch.searchsorted(self.dot_edges, (zi * zt).sum(-1).to(self.dot_edges.dtype))
        return dot, self.pca.quantise(self.pca.encode(zi))

    def forward(
        self, dot: Tensor, codes: Tensor, zt: Tensor, tokens: Tensor, drop: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of the dot product (B, num_dot_buckets) and of every code (B, K, Q), each from what precedes it.

        drop: (B,) bool, True where caption, zt and dot product are left out together.
        """
        start, hidden, mask = self._condition(zt, tokens, drop)
        if drop is not None:
            dot = torch.where(drop, self.config.num_dot_buckets, dot)
        parts = [start[:, None], self.dot_in(dot)[:, None], self._embed(codes[:, :-1])]
        x = torch.cat(parts, dim=1) + self.position  # (B, K + 1, W)
        for block in self.blocks:
            x = block(x, causal=True, context=block.cross.keys_values(hidden), context_mask=mask)
        x = self.norm(x)
        return self.dot_out(x[:, 0]), torch.einsum("bkw,kqw->bkq", x[:, 1:], self.code_out.to(x.dtype))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """What `forward` takes for one embedding, on the meta device."""
        counts = (self.pca.num_components, len(self.caption.position))
        with torch.device("meta"):
            codes, tokens = (torch.zeros(1, count, dtype=torch.long) for count in counts)
            return codes[:, 0], codes, torch.zeros(1, len(self.pca.mean)), tokens

    def loss(
        self, zi: Tensor, zt: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy averaged over the dot product and the codes of unit zi (B, D).

        While training, the text is dropped with `condition_drop_prob` (§2.2).
        """
        drop = None
        if self.training:
            drop = torch.rand(len(zi), generator=generator, device=generator.device) < self.config.condition_drop_prob
            drop = drop.to(zi.device)
        dot, codes = self.quantise(zi, zt)
        dot_logits, code_logits = self(dot, codes, zt, tokens, drop)
        dot_loss = F.cross_entropy(dot_logits.float(), dot)
        code_loss = F.cross_entropy(code_logits.float().flatten(0, 1), codes.flatten())
        num_codes = self.pca.num_components
        loss = (dot_loss + num_codes * code_loss) / (num_codes + 1)
        return loss, {"dot_loss": dot_loss.detach(), "code_loss": code_loss.detach()}

    @torch.no_grad()
    def sample(
        self,
        zt: Tensor,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Tensor:
        """Unit image embeddings (B, D) drawn for unit text embeddings (B, D) and their tokens (B, L).

        The dot product is drawn from the top half of its predicted distribution (§2.2), unguided; guidance 1.0 runs
        the conditional model alone.
        """
        if temperature <= 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature must be > 0 and top_p in (0, 1], got {temperature} and {top_p}")
        drop = torch.zeros(len(zt), dtype=torch.bool, device=zt.device)
        if guidance != 1.0:
            zt, tokens, drop = torch.cat([zt, zt]), torch.cat([tokens, tokens]), torch.cat([drop, ~drop])
        codes = self._draw_codes(zt, tokens, drop, generator, guidance, (temperature, top_p))
        return F.normalize(self.pca.decode(self.pca.dequantise(codes)), dim=-1)

    def _draw_codes(
        self,
        zt: Tensor,
        tokens: Tensor,
        drop: Tensor,
        generator: torch.Generator | None,
        guidance: float,
        shaping: tuple[float, float],
    ) -> Tensor:
        start, decode = self.decoder(zt, tokens, drop)
        twice = 1 if guidance == 1.0 else 2  # the second half of the batch is unconditional
        dot = draw_top_half(self.dot_out(decode(start)).float()[: len(zt) // twice], generator).repeat(twice)
        x = self.dot_in(torch.where(drop, self.config.num_dot_buckets, dot))
        codes = torch.empty(len(zt) // twice, self.pca.num_components, dtype=torch.long, device=zt.device)
        for component in range(self.pca.num_components):
            logits = (decode(x) @ self.code_out[component].T.to(x.dtype)).float()
            if twice == 2:
                conditional, unconditional = logits.chunk(2)
                logits = guide(conditional, unconditional, guidance)
            codes[:, component] = draw(logits, generator, *shaping)
            if component + 1 < self.pca.num_components:
                x = self._embed(codes[:, component : component + 1], component)[:, 0].repeat(twice, 1)
        return codes

    def decoder(self, zt: Tensor, tokens: Tensor, drop: Tensor | None = None) -> tuple[Tensor, Decode]:
        """The first input (B, W), and a function that takes inputs one after another, remembering keys and values."""
        start, hidden, mask = self._condition(zt, tokens, drop)
        length = self.pca.num_components + 1
        states = [(block, block.cross.keys_values(hidden), KVCache(length)) for block in self.blocks]
        positions = iter(self.position)

        def decode(x: Tensor) -> Tensor:
            x = (x + next(positions))[:, None]  # (B, 1, W)
            for block, context, cache in states:
                x = block(x, causal=True, cache=cache, context=context, context_mask=mask)
            return self.norm(x)[:, 0]

        return start, decode

    def _condition(self, zt: Tensor, tokens: Tensor, drop: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        hidden, mask = self.caption(tokens, drop)
        start = self.text_in(zt * zt.shape[-1] ** 0.5)  # (B, W), from entries of unit variance
        if drop is not None:
            start = torch.where(drop[:, None], self.text_null.to(start.dtype), start)
        return start, hidden, mask

    def _embed(self, codes: Tensor, first: int = 0) -> Tensor:
        """Embeddings (B, k, W) of the codes (B, k) of components first, first + 1, ..."""
        components = torch.arange(first, first + codes.shape[1], device=codes.device)
        return self.code_in(codes + components * self.pca.num_buckets)


def smooth_table(num_tables: int, num_buckets: int, width: int) -> Tensor:
    """Random (num_tables, num_buckets, width) in which near buckets are alike: a few slow waves along the buckets.

    Ours. Buckets are ordered, and tables without that order must see every bucket often before they know it:
    docs/log.md has a short run with and without.
    """
    places = (torch.arange(num_buckets) + 0.5) / num_buckets
    rates = torch.arange(1, NUM_WAVES + 1)
    waves = torch.cos(math.pi * rates * places[:, None]) / rates  # (Q, waves)
    waves = waves * (TABLE_STD / waves.square().sum(1).mean().sqrt())
    return torch.einsum("qr,krw->kqw", waves, torch.randn(num_tables, NUM_WAVES, width))


def draw_top_half(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A bucket (B,) from the upper half of the distribution of logits (B, Q) over rising buckets (§2.2).

    The bucket that holds the median counts with the part of its probability above the median.
    """
    probs = logits.softmax(-1)
    upper = probs.cumsum(-1)
    kept = upper - torch.maximum(upper - probs, upper.new_tensor(0.5))
    return draw_index(kept.clamp(min=0), generator)


def draw(logits: Tensor, generator: torch.Generator | None, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """A choice (B,) from logits (B, Q): the likeliest ones that together reach top_p (Holtzman et al. 2020)."""
    probs, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
    before = probs.cumsum(-1) - probs
    kept = probs * (before < top_p)
    kept[:, 0] = probs[:, 0]
    return order.gather(1, draw_index(kept, generator)[:, None])[:, 0]


def draw_index(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """An index (B,) in proportion to weights (B, Q) >= 0, drawn where the generator lives."""
    here = weights if generator is None else weights.to(generator.device)
    return torch.multinomial(here, 1, generator=generator)[:, 0].to(weights.device)
