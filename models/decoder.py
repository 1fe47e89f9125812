"""The decoder: an image embedding and a caption to pixels (§2.1).

B batch, D embedding dimension, L caption positions, K caption width, S = L + 4 context tokens, E U-Net embedding width.
zi: unit-norm image embeddings (B, D), or text embeddings where `config.embedding` says so; images are (B, 3, P, P) in
[-1, 1].
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks import CaptionEncoder, ResBlock, TransformerBlock
from models.config import DecoderConfig
from models.diffusion import draw_noise, draw_timesteps, high_noise_weight, hybrid_loss, min_snr_weight, q_sample
from models.guidance import Network, guided
from models.samplers import Denoiser, ddim, ddim_invert, ddpm, eps_denoiser
from models.schedule import Schedule, named_schedule, respaced, truncated
from models.unet import Context, MapAttention, UNet

# The latent xT is taken where this much of the picture's power is left. Above it, x0 follows from the difference of
# xT and its predicted noise divided by almost nothing (5e-5 at t = 999), and no inversion comes back.
LATENT_MIN_SIGNAL = 1e-3
BLOCKS = (TransformerBlock, ResBlock, MapAttention)  # what the network repeats


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the U-Net is told of a batch: (B, E) to add to the timestep's embedding, and tokens to attend to."""

    emb: Tensor
    context: Context


class Decoder(nn.Module):
    """GLIDE's text-conditional U-Net with the image embedding in the timestep embedding and in four tokens (§2.1)."""

    def __init__(
        self, config: DecoderConfig, embed_dim: int, vocab_size: int, context: int, pad_id: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.schedule = named_schedule(config.schedule, config.num_steps)
        width = config.caption.width
        self.unet = UNet(config.unet, 3, 6, config.image_px, context_width=width)
        self.caption = CaptionEncoder(config.caption, vocab_size, context, pad_id)
        self.null_image = nn.Parameter(torch.zeros(embed_dim))
        self.image_emb = nn.Linear(embed_dim, self.unet.emb_width)
        self.image_tokens = nn.Linear(embed_dim, config.num_image_tokens * width)
        self.caption_emb = nn.Linear(width, self.unet.emb_width)

    def condition(
        self, zi: Tensor, tokens: Tensor, drop_image: Tensor | None = None, drop_caption: Tensor | None = None
    ) -> Condition:
        """The conditions of a batch, the null embedding or caption in place of what the (B,) masks drop.

        zi is scaled to entries of unit variance; a dropped one is the same learned vector in both its paths. The last
        token's hidden state joins the timestep embedding (GLIDE §2.3).
        """
        image = zi * zi.shape[-1] ** 0.5  # (B, D)
        if drop_image is not None:
            image = torch.where(drop_image[:, None], self.null_image, image)
        hidden, mask = self.caption(tokens, drop_caption)  # (B, L, K), (B, L)
        end = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]  # (B, K)
        image_tokens = self.image_tokens(image).unflatten(1, (self.config.num_image_tokens, -1))  # (B, 4, K)
        real = mask.new_ones(image_tokens.shape[:2])
        context = Context(
            tokens=torch.cat([image_tokens.to(hidden.dtype), hidden], dim=1), mask=torch.cat([real, mask], dim=1)
        )
        return Condition(emb=self.image_emb(image) + self.caption_emb(end), context=context)

    def predict(self, xt: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The noise in xt and the variance channels, (B, 3, P, P) each."""
        eps, v = self.unet(xt, t, condition.emb, condition.context).chunk(2, dim=1)
        return eps, v

    def forward(
        self,
        xt: Tensor,
        t: Tensor,
        zi: Tensor,
        tokens: Tensor,
        drop_image: Tensor | None = None,
        drop_caption: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The noise in xt and the variance channels; t: (B,); tokens: (B, L); drop masks: (B,) bool or None."""
        return self.predict(xt, t, self.condition(zi, tokens, drop_image, drop_caption))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """What `forward` takes for one picture, on the meta device."""
        px, dim, length = self.config.image_px, len(self.null_image), len(self.caption.position)
        with torch.device("meta"):
            one, tokens = torch.zeros(1, dtype=torch.long), torch.zeros(1, length, dtype=torch.long)
            return torch.zeros(1, 3, px, px), one, torch.zeros(1, dim), tokens

    def loss(
        self, x0: Tensor, zi: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Hybrid loss at random levels; image and caption dropped independently, none of either in eval mode."""
        t = draw_timesteps(len(x0), self.schedule, generator, x0.device)
        noise = draw_noise(x0, generator)
        chance = torch.rand(2, len(x0), generator=generator, device=generator.device).to(x0.device)
        drop_image = chance[0] < self.config.image_drop_prob if self.training else None
        drop_caption = chance[1] < self.config.caption_drop_prob if self.training else None
        xt = q_sample(x0, t, noise, self.schedule)
        eps, v = self(xt, t, zi, tokens, drop_image, drop_caption)
        return hybrid_loss(eps, v, noise, x0, xt, t, self.schedule, self._weights(t))

    def _weights(self, t: Tensor) -> Tensor:
        """(B,) of the noise errors at these levels; all 1 as the paper has it."""
        weights = high_noise_weight(t, self.schedule, self.config.high_noise_weight)
        gamma = self.config.snr_gamma
        return weights if gamma is None else weights * min_snr_weight(t, self.schedule, gamma)

    @torch.no_grad()
    def sample(
        self,
        zi: Tensor,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        *,
        num_steps: int = 250,
        sampler: str = "ddpm",
        guidance: float = 1.0,
        drop_image: Tensor | None = None,
    ) -> Tensor:
        """Pictures (B, 3, P, P) in [-1, 1] from embeddings and captions.

        sampler: "ddpm" with the learned variance (App. C, table 3) or "ddim"; drop_image: (B,) bool, True where the
        caption alone is followed.
        Raises: ValueError for another sampler.
        """
        if sampler not in ("ddpm", "ddim"):
            raise ValueError(f"sampler must be 'ddpm' or 'ddim', got {sampler!r}")
        chain = respaced(self.schedule, num_steps)
        px = self.config.image_px
        noise = draw_noise(zi.new_empty(len(zi), 3, px, px), generator)
        condition = self._guided_condition(zi, tokens, guidance, drop_image)
        denoiser = eps_denoiser(guided(self._network(condition), guidance), self.schedule, clamp=True)
        if sampler == "ddim":
            return ddim(denoiser, noise, chain)
        return ddpm(denoiser, noise, chain, generator).clamp(-1, 1)

    @torch.no_grad()
    def decode(
        self,
        xt: Tensor,
        zi: Tensor,
        tokens: Tensor,
        num_steps: int = 100,
        *,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        **drops: Tensor | None,
    ) -> Tensor:
        """Pictures from the bipartite latent (zi, xT) by DDIM, unclamped; at eta 0 what `invert` undoes (§3).

        Raises: ValueError for eta outside [0, 1].
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, got {eta}")
        return ddim(self._unclamped(zi, tokens, drops), xt, self._latent_chain(num_steps), generator, eta=eta)

    @torch.no_grad()
    def invert(
        self,
        x0: Tensor,
        zi: Tensor,
        tokens: Tensor,
        num_steps: int = 100,
        num_refinements: int = 1,
        **drops: Tensor | None,
    ) -> Tensor:
        """The latent xT of pictures under their own embedding, by DDIM inversion on the chain `decode` walks (§3)."""
        chain = self._latent_chain(num_steps)
        return ddim_invert(self._unclamped(zi, tokens, drops), x0, chain, num_refinements=num_refinements)

    def _latent_chain(self, num_steps: int) -> Schedule:
        return respaced(truncated(self.schedule, LATENT_MIN_SIGNAL), num_steps)

    def _unclamped(self, zi: Tensor, tokens: Tensor, drops: dict[str, Any]) -> Denoiser:
        return eps_denoiser(self._network(self.condition(zi, tokens, **drops)), self.schedule, clamp=False)

    def _network(self, condition: Condition) -> Network:
        return lambda x, t: self.predict(x, t, condition)

    def _guided_condition(self, zi: Tensor, tokens: Tensor, guidance: float, drop_image: Tensor | None) -> Condition:
        """The batch's conditions, followed under guidance by as many null ones, image and caption both dropped."""
        if guidance == 1:
            return self.condition(zi, tokens, drop_image)
        kept = torch.zeros(len(zi), dtype=torch.bool, device=zi.device)
        drops = [torch.cat([kept if drop is None else drop, ~kept]) for drop in (drop_image, None)]
        return self.condition(torch.cat([zi, zi]), torch.cat([tokens, tokens]), *drops)
