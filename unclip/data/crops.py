"""A picture as the square that a CLIP reads: the ways that open_clip's preprocessing configurations know.

P the CLIP's image side.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unclip.data.images import INTERPOLATIONS, Pixels, is_thin, resize_part, square_of

MAX_COPIED_PIXELS = 16_000_000
RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """How a picture becomes P x P pixels.

    resize_mode: "shortest" side to P and the middle cut out, "longest" side to P and bars of `fill` beside it, or
    "squash": both sides to P.
    """

    px: int
    interpolation: str = "bicubic"  # of unclip.data.images.INTERPOLATIONS
    resize_mode: str = "shortest"
    fill: int = 0  # gray level of the bars

    def __post_init__(self) -> None:
        """Raises: ValueError for what open_clip's configurations have no word for."""
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode must be one of {', '.join(RESIZE_MODES)}, got {self.resize_mode!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")

    def __call__(self, image: Image.Image) -> Pixels:
        """The square (P, P, 3) of an RGB picture: the caller's to write to."""
        px = self.px
        if image.size == (px, px):
            return np.array(image)
        if self.resize_mode == "shortest":
            size, box = square_of(image, px)
            if is_thin(image):
                return np.array(resize_part(image, size, box, self.interpolation))
            return resized(image, size, self.interpolation)[box[1] : box[3], box[0] : box[2]]
        if self.resize_mode == "squash":
            return resized(image, (px, px), self.interpolation)
        scale = px / max(image.size)
        width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        square = np.full((px, px, 3), self.fill, np.uint8)
        left, top = (px - width) // 2, (px - height) // 2
        square[top : top + height, left : left + width] = resized(image, (width, height), self.interpolation)
        return square


def resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> Pixels:
    """An RGB picture (H, W, 3) at another (width, height), its filter as wide as it is made smaller.

    By torch: a third of Pillow's time, and where that resizes width before height, as torch does and as Pillow before
    13 did, at most two levels of 255 beside it in less than 1 % of the values. Pillow 13 resizes the height of tall
    pictures first: two levels in a tenth of the values of smooth ones, more in noise. Pillow itself takes pictures of
    which a copy would be large, and thin ones, whose lines it averages first.
    """
    if is_thin(image) or image.width * image.height > MAX_COPIED_PIXELS:
        gap = 3.0 if is_thin(image) else None  # without it the filter's table of a long line is 32 times the line
        return np.array(image.resize(size, INTERPOLATIONS[interpolation], reducing_gap=gap))
    import torch  # here: who only asks what a CLIP reads need not wait for it
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, H, W), in memory as it was
    small = interpolate(pixels, size=(size[1], size[0]), mode=interpolation, antialias=True)
    found: Pixels = small[0].permute(1, 2, 0).numpy()
    return found
