"""The upsamplers: a low-resolution picture to a larger one; convolutions only, unconditional (§2.1).

B batch, h low side, P high side, p side of a training crop. Images are float32 (B, 3, side, side) in [-1, 1].
"""

from functools import partial

import torch
from torch import Tensor, nn

from models.config import UpsamplerConfig
from models.degrade import degrade, resize, to_grid
from models.diffusion import draw_noise, draw_timesteps, eps_of_v, level, noise_error, predict_eps, q_sample
from models.samplers import ddim, eps_denoiser
from models.schedule import named_schedule, respaced
from models.tiles import tiled
from models.unet import UNet


class Upsampler(nn.Module):
    """ADM's upsampler: the low-resolution picture, resized, is three more channels of the U-Net's input.

    Noise prediction is the paper's; in a few hundred steps a small network does not learn to pass the noise through,
    and DDIM then keeps what it missed. Prediction "v" (Salimans & Ho 2022, §4) spares it that where noise is all there
    is, "x0" everywhere.
    """

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = named_schedule(config.schedule, config.num_steps)
        self.unet = UNet(config.unet, 6, 3, config.high_px)

    def forward(self, xt: Tensor, t: Tensor, resized_low: Tensor) -> Tensor:
        """The noise in xt (B, 3, P, P); resized_low: the low-resolution picture at the same side; t: (B,).

        With prediction "v" or "x0" the network gives that less what `resized_low` as x0 would make of it: a picture
        that is nearly known leaves little to predict, and a small network need not learn to copy it.
        """
        given = self.unet(torch.cat([xt, resized_low], dim=1), t)
        if self.config.prediction == "eps":
            return given
        alpha_bar = level(self.schedule.alpha_bar, t, xt)
        if self.config.prediction == "x0":
            return predict_eps(xt, resized_low + given.float(), alpha_bar)
        return eps_of_v(xt, given.float() - (1 - alpha_bar) ** 0.5 * resized_low, alpha_bar)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """What `forward` takes for one training crop, on the meta device."""
        picture = torch.zeros(1, 3, self.crop_px, self.crop_px, device="meta")
        return picture, torch.zeros(1, dtype=torch.long, device="meta"), picture

    def loss(self, high: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise error at random levels on crops of pictures (B, 3, P, P), their low resolution degraded at random."""
        x0, resized_low = self.training_pair(high, generator)
        t = draw_timesteps(len(x0), self.schedule, generator, x0.device)
        noise = draw_noise(x0, generator)
        eps = self(q_sample(x0, t, noise, self.schedule), t, resized_low)
        error = noise_error(eps, noise, t, self.schedule, self.config.prediction)
        return error, {"mse": error.detach()}

    def training_pair(self, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A crop of each picture and the same crop of its degraded low resolution, both (B, 3, p, p)."""
        config = self.config
        low = degrade(resize(high, config.low_px), config.degradation, generator, blur_prob=config.blur_prob)
        both = torch.cat([high, resize(low, config.high_px)], dim=1)  # (B, 6, P, P): one crop keeps them in register
        x0, resized_low = random_crop(both, self.crop_px, generator).chunk(2, dim=1)
        return x0, resized_low

    @property
    def crop_px(self) -> int:
        """Side of a training crop: the configured fraction of the area, rounded to what the levels can halve."""
        step = self.unet.min_multiple
        return max(step, round(self.config.high_px * self.config.crop_fraction**0.5 / step) * step)

    @torch.no_grad()
    def sample(
        self,
        low: Tensor,
        generator: torch.Generator | None = None,
        *,
        num_steps: int = 27,
        eta: float = 0.0,
        noise: Tensor | None = None,
        tile_px: int | None = None,
    ) -> Tensor:
        """Larger pictures from low-resolution ones of any side, by DDIM, in the configured ratio.

        tile_px: side of the tiles that a step works through one after another where memory asks for it.
        """
        px = min(low.shape[-2:]) * self.config.high_px // self.config.low_px
        resized_low = resize(to_grid(low), px)
        noise = draw_noise(resized_low, generator) if noise is None else noise

        def network(x: Tensor, t: Tensor) -> tuple[Tensor, None]:
            if tile_px is None:
                return self(x, t, resized_low), None
            step, multiple = partial(self._noise_at, t), self.unet.min_multiple
            return tiled(step, x, resized_low, px=tile_px, multiple=multiple), None

        denoiser = eps_denoiser(network, self.schedule, clamp=True)
        return ddim(denoiser, noise, respaced(self.schedule, num_steps), generator, eta=eta)

    def _noise_at(self, t: Tensor, xt: Tensor, resized_low: Tensor) -> Tensor:
        return self(xt, t, resized_low)


def random_crop(images: Tensor, px: int, generator: torch.Generator) -> Tensor:
    """A (B, C, px, px) crop of each (B, C, P, P) picture at an offset of its own."""
    spare = torch.tensor(images.shape[-2:]) - px
    draws = torch.rand(len(images), 2, generator=generator, device=generator.device).cpu()
    offsets = (draws * (spare + 1)).long().clamp(max=spare).tolist()
    return torch.stack([image[:, y : y + px, x : x + px] for image, (y, x) in zip(images, offsets, strict=True)])
