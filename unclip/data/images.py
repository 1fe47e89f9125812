"""Encoded pictures to pixels, and back: upright, 8-bit, opaque RGB."""

import io
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from unclip.data.jpeg_data import require_all_data

Pixels = NDArray[np.uint8]
MAX_PIXELS = 64_000_000
MAX_ASPECT = 16  # longer side over shorter: a thinner picture is not enlarged whole, a line would take gigabytes
SUPPORT = 2  # pixels, of the result or of the source, that the widest filter reads to either side
KEPT_FORMATS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")  # of others, EPS runs a program
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@cache
def known_formats() -> tuple[str, ...]:
    """The formats that are read, as far as this Pillow has them."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_rgb(
    data: bytes, background: tuple[int, int, int] = (255, 255, 255), max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture as upright RGB, fully decoded: oriented, 16 bits scaled to 8, transparency laid over `background`.

    Raises: ValueError when the bytes are no image, are cut short, or hold more than `max_pixels`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=known_formats())
        if image.width * image.height > max_pixels:
            raise ValueError(f"image has {image.width}x{image.height} pixels, more than {max_pixels}")
        image.load()
        require_all_data(image, data)
        ImageOps.exif_transpose(image, in_place=True)
        return flatten(image, background)
    except UnidentifiedImageError as error:
        raise ValueError("not a readable image: of no known format") from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        raise ValueError(f"not a readable image: {error}") from error


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """8-bit RGB of a picture of any mode."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_square(image: Image.Image, px: int, interpolation: str = "bicubic") -> Image.Image:
    """The centre square of a picture at `px`: the shorter side is resized to `px`, then the longer one is cropped.

    Memory is that of the picture and of MAX_ASPECT squares, whatever its sides.
    """
    if image.size == (px, px):
        return image
    size, box = square_of(image, px)
    if is_thin(image):
        return resize_part(image, size, box, interpolation)
    return image.resize(size, INTERPOLATIONS[interpolation]).crop(box)


def square_of(image: Image.Image, px: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The sides of a picture whose shorter one is resized to `px`, and the box of the square in its middle."""
    scale = px / min(image.size)
    size = (max(px, round(image.width * scale)), max(px, round(image.height * scale)))
    left, top = (size[0] - px) // 2, (size[1] - px) // 2
    return size, (left, top, left + px, top + px)


def is_thin(image: Image.Image) -> bool:
    """Whether one side is more than MAX_ASPECT times the other."""
    return max(image.size) > MAX_ASPECT * min(image.size)


def resize_part(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """What `box` cuts out of a picture resized to `size`, made of no more of the picture than the filter reads.

    Equal to that of the whole but for rounding: a level of 255 here and there.
    """
    spans, offsets = [], []
    for axis, side in enumerate(image.size):
        step = side / size[axis]
        first, last = box[axis] * step, min(box[axis + 2] * step, side)
        margin = SUPPORT * max(step, 1) + 1
        spans.append((max(0, math.floor(first - margin)), min(side, math.ceil(last + margin))))
        offsets.append((first - spans[axis][0], last - spans[axis][0]))
    (left, right), (top, bottom) = spans
    part = image.crop((left, top, right, bottom))
    inner = (offsets[0][0], offsets[1][0], offsets[0][1], offsets[1][1])
    return part.resize((box[2] - box[0], box[3] - box[1]), INTERPOLATIONS[interpolation], box=inner)


def canonical(data: bytes) -> tuple[bytes, str, tuple[int, int]]:
    """An encoded picture as a shard holds it, its extension, and its upright (width, height); decoded to its end.

    PNG, JPEG and WebP keep their bytes; anything else becomes PNG. Raises: as `open_rgb`.
    """
    kept, kind, image = canonical_image(data)
    return kept, kind, image.size


def canonical_image(data: bytes) -> tuple[bytes, str, Image.Image]:
    """As `canonical`, with the picture itself, which was decoded once."""
    image = open_rgb(data)
    with Image.open(io.BytesIO(data)) as opened:
        kind = KEPT_FORMATS.get(opened.format or "")
    if kind is None:
        return png_bytes(np.asarray(image)), "png", image
    return data, kind, image


def png_bytes(pixels: Pixels) -> bytes:
    """Lossless PNG of (H, W, 3) pixels; the same pixels give the same bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=3)  # half the time of level 6, 13% more bytes
    return out.getvalue()
