"""Pictures as the web has them, to pictures as shards hold them: upright, opaque, 8-bit sRGB, of bounded size.

A JPEG, PNG or WebP that is so already keeps its bytes; any other picture is stored as PNG. Colour profiles other than
sRGB are converted to sRGB; a broken one is ignored. Of an animation, the first frame counts.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageOps

from unclip.data.config import DownloadConfig
from unclip.data.images import flatten
from unclip.data.jpeg_data import require_all_data

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # formats whose bytes may stay
FORMATS = (*EXTENSIONS, "GIF", "BMP", "TIFF")
ORIENTATION = 0x0112  # EXIF tag
MODES_WITHOUT_SCALE = ("I", "F")  # 32-bit and float samples: nothing says where white lies


class Refused(ValueError):
    """Why a picture is not taken: `status` for counting, the message for reading."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Picture:
    """An encoded picture that has been decoded in full once."""

    data: bytes
    extension: str
    width: int
    height: int


def take_picture(data: bytes, config: DownloadConfig) -> Picture:
    """The picture to be stored for the bytes that came from the web.

    Raises: Refused with status too_large, not_an_image, too_many_pixels, truncated or unsupported.
    """
    if len(data) > config.max_bytes:
        raise Refused("too_large", f"{len(data)} bytes, more than {config.max_bytes}")
    image = _decode(data, config.max_pixels)
    try:
        return _stored(image, data, config)
    except Exception as error:  # of broken EXIF or colours, as of pixels
        raise Refused("not_an_image", _say(error, data)) from error


def _stored(image: Image.Image, data: bytes, config: DownloadConfig) -> Picture:
    """A decoded picture as the shard will hold it."""
    if _is_plain(image) and max(image.size) <= config.max_side_px:
        return Picture(data, EXTENSIONS[str(image.format)], *image.size)
    changed = flatten(to_srgb(ImageOps.exif_transpose(image)), config.background)
    if max(changed.size) > config.max_side_px:
        scale = config.max_side_px / max(changed.size)
        size = (max(1, round(changed.width * scale)), max(1, round(changed.height * scale)))
        changed = changed.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    Image.fromarray(np.asarray(changed)).save(out, format="PNG", compress_level=6)  # without metadata
    return Picture(out.getvalue(), "png", *changed.size)


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """The picture with every pixel decoded. Raises: Refused."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise Refused("too_many_pixels", f"{image.width}x{image.height} pixels, more than {max_pixels}")
        if image.mode in MODES_WITHOUT_SCALE:
            raise Refused("unsupported", f"samples of mode {image.mode} have no known scale")
        image.load()
        require_all_data(image, data)
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", str(error)) from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        status = "truncated" if "truncated" in str(error).lower() else "not_an_image"
        raise Refused(status, _say(error, data)) from error
    return image


def _say(error: Exception, data: bytes) -> str:
    """One line about bytes that could not be decoded."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a {', '.join(FORMATS)}: begins with {data[:16]!r}"
    return str(error) or type(error).__name__


def _is_plain(image: Image.Image) -> bool:
    """Whether any reader sees in the file's bytes what we would store: upright opaque 8-bit sRGB, one frame."""
    return (
        image.format in EXTENSIONS
        and image.mode == "RGB"
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        and image.getexif().get(ORIENTATION, 1) == 1
        and _transform(image.info.get("icc_profile") or b"", "RGB") is None
    )


def to_srgb(image: Image.Image) -> Image.Image:
    """The picture with its embedded colour profile applied: RGB in sRGB, transparency kept. Without one, as it is."""
    base = "RGB" if image.mode in ("RGB", "RGBA", "P", "PA") else image.mode
    transform = _transform(image.info.get("icc_profile") or b"", base)
    if transform is None or base not in ("RGB", "CMYK", "L"):
        return image
    has_alpha = image.mode in ("RGBA", "PA") or "transparency" in image.info
    layer = image.convert("RGBA") if has_alpha else image.convert(base)
    colours = ImageCms.applyTransform(layer.convert(base) if has_alpha else layer, transform)
    assert colours is not None
    if has_alpha:
        colours.putalpha(layer.getchannel("A"))
    return colours


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from an embedded profile to sRGB, or None when there is none, it is broken or changes nothing visible."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode != "RGB":
        return transform
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    moved = ImageCms.applyTransform(Image.fromarray(levels), transform)
    change = np.abs(np.asarray(moved).astype(np.int16) - levels)
    return None if change.max() <= 3 else transform  # sRGB under another name, but for rounding
