"""Image embeddings from captions by diffusion in CLIP's space (§2.2).

B batch, L caption positions, D embedding dimension, W width. Inside, embeddings are scaled: x0, xt = scale * zi.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import CaptionEncoder, KVCache, TransformerBlock, timestep_embedding
from models.config import PRIOR_SAMPLERS, DiffusionPriorConfig
from models.diffusion import draw_noise, draw_timesteps, q_sample, x0_loss
from models.guidance import Network, guided
from models.samplers import analytic_dpm, ddim, ddpm, x0_denoiser
from models.schedule import named_schedule, respaced

SCALE_PER_ROOT_DIM = 0.5375  # 17.2 at D = 1024 (App. C)
NUM_LAST = 3  # timestep, noised embedding, query: what changes from step to step


class DiffusionPrior(nn.Module):
    """Decoder-only transformer over caption, zt, timestep, noised zi and a query, whose output is the unnoised zi.

    The mask is causal, so caption and zt are computed once and kept while sampling. The width is free of D.
    """

    scale: Tensor  # () what unit embeddings are multiplied by; saved with the weights

    def __init__(
        self, config: DiffusionPriorConfig, embed_dim: int, vocab_size: int, context: int, pad_id: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = embed_dim
        self.schedule = named_schedule(config.schedule, config.num_steps)
        width = config.width
        self.caption = CaptionEncoder(config.caption, vocab_size, context, pad_id)
        self.caption_in = nn.Linear(config.caption.width, width)
        self.text_in = nn.Linear(embed_dim, width)
        self.text_null = nn.Parameter(torch.zeros(width))
        self.time_in = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noised_in = nn.Linear(embed_dim, width)
        self.query = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty(context + 1 + NUM_LAST, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads, dropout_prob=config.dropout_prob) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, embed_dim)
        scale = SCALE_PER_ROOT_DIM * math.sqrt(embed_dim) if config.scale is None else config.scale
        self.register_buffer("scale", torch.tensor(float(scale)))
        nn.init.normal_(self.query, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, xt: Tensor, t: Tensor, zt: Tensor, tokens: Tensor, drop: Tensor | None = None) -> Tensor:
        """The unnoised, scaled embedding (B, D) predicted for xt (B, D) at timesteps t (B,).

        zt: (B, D) unit; tokens: (B, L), L the context; drop: (B,) bool, True where caption and zt are left out
        together. The noised embedding always stays.
        """
        first, mask = self._condition(zt, tokens, drop)
        x = torch.cat([first, self._last(xt, t)], dim=1)  # (B, L + 4, W)
        for block in self.blocks:
            x = block(x, mask, causal=True)
        return self.out(self.norm(x[:, -1]))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """What `forward` takes for one embedding, on the meta device."""
        with torch.device("meta"):
            one, tokens = torch.zeros(1, dtype=torch.long), torch.zeros(1, len(self.caption.position), dtype=torch.long)
            embedding = torch.zeros(1, self.embed_dim)
            return embedding, one, embedding, tokens

    def network(self, zt: Tensor, tokens: Tensor, drop: Tensor | None = None) -> Network:
        """`forward` with its conditions given, for samplers: what comes before the timestep is computed once."""
        x, mask = self._condition(zt, tokens, drop)
        length = x.shape[1]
        caches = [KVCache(length + NUM_LAST) for _ in self.blocks]
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, mask[:, :length], causal=True, cache=cache)

        def predict(xt: Tensor, t: Tensor) -> tuple[Tensor, None]:
            x = self._last(xt, t)
            for block, cache in zip(self.blocks, caches, strict=True):
                cache.filled = length
                x = block(x, mask, causal=True, cache=cache)
            return self.out(self.norm(x[:, -1])), None

        return predict

    def loss(
        self, zi: Tensor, zt: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the predicted unit zi (B, D), scaled, at random noise levels (§2.2).

        While training, caption and zt are dropped with `condition_drop_prob`.
        """
        x0 = zi * self.scale
        drop = None
        if self.training:
            drop = torch.rand(len(zi), generator=generator, device=generator.device) < self.config.condition_drop_prob
            drop = drop.to(zi.device)
        t = draw_timesteps(len(zi), self.schedule, generator, zi.device)
        xt = q_sample(x0, t, draw_noise(x0, generator), self.schedule)
        return x0_loss(self(xt, t, zt, tokens, drop), x0)

    @torch.no_grad()
    def sample(
        self,
        zt: Tensor,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        num_steps: int = 64,
        num_candidates: int = 2,
        guidance: float = 1.0,
        sampler: str = "analytic",
    ) -> Tensor:
        """Unit image embeddings (B, D) for unit text embeddings (B, D) and their tokens (B, L).

        Of `num_candidates` draws the one with the greatest zi·zt is kept (§2.2), after the return to the sphere.
        guidance: 1.0 is the conditional model ("guiding the prior hurt", §5.5). sampler: "analytic" (App. C), "ddpm"
        with the posterior's variance, or "ddim".
        """
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be >= 1, got {num_candidates}")
        many_zt = zt.repeat_interleave(num_candidates, dim=0)
        zi = self._draw(
            many_zt, tokens.repeat_interleave(num_candidates, dim=0), generator, num_steps, guidance, sampler
        )
        zi = F.normalize(zi, dim=-1)
        best = (zi * many_zt).sum(-1).unflatten(0, (-1, num_candidates)).argmax(1)  # (B,)
        return zi.unflatten(0, (-1, num_candidates))[torch.arange(len(zt), device=zt.device), best]

    def _draw(
        self,
        zt: Tensor,
        tokens: Tensor,
        generator: torch.Generator | None,
        num_steps: int,
        guidance: float,
        sampler: str,
    ) -> Tensor:
        chain = respaced(self.schedule, num_steps)
        start = draw_noise(zt, generator)
        if guidance == 1.0:
            network = self.network(zt, tokens)
        else:
            drop = torch.arange(2 * len(zt), device=zt.device) >= len(zt)
            network = guided(self.network(torch.cat([zt, zt]), torch.cat([tokens, tokens]), drop), guidance)
        denoiser = x0_denoiser(network)
        if sampler == "analytic":
            power = float(self.scale) ** 2 / self.embed_dim  # every x0 lies on the sphere of radius `scale`
            return analytic_dpm(denoiser, start, chain, generator, x0_power=power)
        if sampler == "ddpm":
            return ddpm(denoiser, start, chain, generator, learned=False)
        if sampler == "ddim":
            return ddim(denoiser, start, chain)
        raise ValueError(f"the prior's sampler must be one of {', '.join(PRIOR_SAMPLERS)}, got {sampler!r}")

    def _condition(self, zt: Tensor, tokens: Tensor, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """Caption and zt as the first positions (B, L + 1, W), and the mask (B, L + 4) of the whole sequence."""
        hidden, mask = self.caption(tokens, drop)
        text = self.text_in(zt * zt.shape[-1] ** 0.5)  # (B, W), from entries of unit variance
        if drop is not None:
            text = torch.where(drop[:, None], self.text_null.to(text.dtype), text)
        x = torch.cat([self.caption_in(hidden), text[:, None]], dim=1)
        return x + self.position[: x.shape[1]], F.pad(mask, (0, 1 + NUM_LAST), value=True)

    def _last(self, xt: Tensor, t: Tensor) -> Tensor:
        """Timestep, noised embedding and query as the last positions (B, 3, W)."""
        time = self.time_in(timestep_embedding(t, self.config.width).to(self.query.dtype))
        parts = [time, self.noised_in(xt), self.query.expand(len(xt), -1).to(time.dtype)]
        return torch.stack(parts, dim=1) + self.position[-NUM_LAST:]
