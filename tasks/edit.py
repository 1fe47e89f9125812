"""What a stack does to pictures (§3, §4): uint8 (H, W, 3) in, labelled columns of pictures out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models import edits
from models.ar_prior import ArPrior
from models.clip import resize, to_unit
from models.diffusion import draw_noise
from models.edits import Latent
from models.pca import Pca
from models.stack import Rendering, Stack
from tasks.captions import require_readable
from tasks.loading import load_sampling, load_stack
from tasks.sampling import Pixels, device_of, generator, rendering_of, to_pixels
from unclip.artifact import Artifact

Columns = dict[str, Pixels]  # (1, P, P, 3) each, in order
TEXT_SHARE = 0.2  # of a picture's height, for text written on it


@dataclass(frozen=True, kw_only=True)
class Editor:
    """A stack, and in how many DDIM steps it walks between picture and latent, each way."""

    stack: Stack
    rendering: Rendering
    num_steps: int
    seed: int

    def vary(self, pixels: Pixels, num: int, eta: float) -> Columns:
        """Variations of a picture (§3.1): eta 0 decodes it again, eta 1 keeps what its embedding says alone."""
        latent, columns = self._read(pixels)
        for number in range(num):
            noise = self._generator(number)
            made = edits.decode(self.stack.decoder, latent, self.num_steps, eta=eta, generator=noise)
            columns[f"variation {number + 1}"] = self._enlarged(made)
        return columns

    def interpolate(self, first: Pixels, second: Pixels, num: int, *, fixed_noise: bool) -> Columns:
        """Pictures between two (§3.2); fixed_noise: one random xT all along, so that content alone moves."""
        (start, columns), (end, more) = self._read(first, "first"), self._read(second, "second")
        columns |= more
        if fixed_noise:
            noise = draw_noise(start.xt, self._generator(0))
            start, end = Latent(zi=start.zi, xt=noise), Latent(zi=end.zi, xt=noise)
        for t in np.linspace(0, 1, num).tolist():
            made = edits.interpolate(self.stack.decoder, start, end, t, self.num_steps)
            columns[f"{t:.3g}"] = self._enlarged(made)
        return columns

    def edit(self, pixels: Pixels, start: str | None, to: str, fractions: Sequence[float]) -> Columns:
        """A picture moved along the difference of two captions, or towards the second alone, by fractions (§3.3)."""
        captions = [to] if start is None else [to, start]
        require_readable(captions, self.stack.clip.tokenizer)
        latent, columns = self._read(pixels)
        zt, *others = self.stack.read(captions)[1].split(1)
        zt0 = others[0] if others else None
        for t in fractions:
            made = edits.text_diff(self.stack.decoder, latent, zt0, zt, t, self.num_steps)
            columns[f"{t:.3g}"] = self._enlarged(made)
        return columns

    def reconstruct(self, pixels: Pixels, counts: Sequence[int]) -> Columns:
        """A picture from the first principal components of its embedding (§4, figure 7).

        Raises: ValueError for a count that there are not so many components for.
        """
        pca = self._pca()
        for count in counts:
            if not 1 <= count <= pca.num_components:
                raise ValueError(f"components must be from 1 to {pca.num_components}, got {count}")
        latent, columns = self._read(pixels)
        made = edits.pca_reconstructions(self.stack.decoder, pca, latent, counts, self.num_steps)
        names = [f"{count} of {pca.num_components}" for count in counts]
        return columns | {name: self._enlarged(picture) for name, picture in zip(names, made, strict=True)}

    def component_counts(self) -> list[int]:
        """Numbers of components to show, doubling up to all of them."""
        most = self._pca().num_components
        return [*(2**power for power in range((most - 1).bit_length())), most]

    def label(self, pixels: Pixels, labels: Sequence[str]) -> list[float]:
        """The probability of each caption for a picture, zero-shot (§4, figure 6)."""
        require_readable(labels, self.stack.clip.tokenizer)
        zi = self.stack.look(self._image(pixels))
        _, zt = self.stack.read(labels)
        scale = self.stack.clip.network.logit_scale.exp()
        return [float(share) for share in (scale * zi @ zt.T).softmax(-1)[0]]

    def _read(self, pixels: Pixels, name: str = "picture") -> tuple[Latent, Columns]:
        """The latent of a picture, and two columns: the picture, and what its latent decodes to."""
        image, decoder = self._image(pixels), self.stack.decoder
        small, whole = (
            resize(to_unit(image), px) * 2 - 1 for px in (decoder.config.image_px, self.stack.top.config.high_px)
        )
        latent = edits.invert(decoder, small, self.stack.look(image), self.num_steps)
        again = self._enlarged(edits.decode(decoder, latent, self.num_steps))
        return latent, {name: to_pixels(whole), f"{name} again": again}

    def _enlarged(self, low: Tensor) -> Pixels:
        return to_pixels(self.stack.upsample(low.float().clamp(-1, 1), self._generator(0, draw=1), self.rendering))

    def _image(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(pixels)[None].to(device_of(self.stack))  # (1, H, W, 3)

    def _pca(self) -> Pca:
        prior = self.stack.priors["prior_ar"]
        assert isinstance(prior, ArPrior)
        return prior.pca

    def _generator(self, number: int, draw: int = 0) -> torch.Generator:
        return generator(device_of(self.stack), self.seed, number, draw)


def with_text(pixels: Pixels, text: str) -> Pixels:
    """A picture with text pasted on it, black on white, across its middle."""
    image = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(8, round(TEXT_SHARE * image.height)))
    middle = (image.width / 2, image.height / 2)
    draw.rectangle(draw.textbbox(middle, text, font, anchor="mm"), "white")
    draw.text(middle, text, "black", font, anchor="mm")
    return np.array(image)


def editor(stack: Artifact, seed: int, num_steps: int) -> Editor:
    """The editor of an assembled stack, which upsamples as the stack was assembled to.

    Raises: ValueError where the decoder knows no image embeddings.
    """
    rendering, networks = rendering_of(load_sampling(stack)), load_stack(stack)
    if networks.decoder.config.embedding != "image":
        raise ValueError(f"stack {stack.key[:12]} draws from text embeddings, and a picture has none: use --pipeline")
    return Editor(stack=networks, rendering=rendering, num_steps=num_steps, seed=seed)
