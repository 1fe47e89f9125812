"""A picture as the square that a CLIP reads: the ways that open_clip's preprocessing configurations know.

P the CLIP's image side.
"""

from dataclasses import dataclass

from PIL import Image

from unclip.data.images import INTERPOLATIONS, crop_square, is_thin

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

    def __call__(self, image: Image.Image) -> Image.Image:
        """The square of an RGB picture."""
        if self.resize_mode == "shortest":
            return crop_square(image, self.px, self.interpolation)
        method = INTERPOLATIONS[self.interpolation]
        gap = 3.0 if is_thin(image) else None  # averaged first: the filter's table of a long line is 32 times the line
        if self.resize_mode == "squash":
            return image.resize((self.px, self.px), method, reducing_gap=gap)
        scale = self.px / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        square = Image.new("RGB", (self.px, self.px), (self.fill,) * 3)
        left, top = ((self.px - side) // 2 for side in size)
        square.paste(image.resize(size, method, reducing_gap=gap), (left, top))
        return square
