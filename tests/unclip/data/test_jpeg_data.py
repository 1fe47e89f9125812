"""JPEGs whose header promises other rows than their data hold."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unclip.data.config import DownloadConfig
from unclip.data.images import open_rgb
from unclip.data.originals import Refused, take_picture

SAVED = [
    {},
    {"progressive": True},
    {"subsampling": 0, "quality": 95},
    {"optimize": True},
    {"restart_marker_blocks": 4},
    {"restart_marker_rows": 1},
]


def picture(size=(200, 150), white_from=None, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(noise).resize(size).filter(ImageFilter.GaussianBlur(2)))
    pixels[white_from or size[1] :] = 255
    return Image.fromarray(pixels).convert(mode)


def jpeg(image, **how):
    out = io.BytesIO()
    image.save(out, "JPEG", **how)
    return out.getvalue()


def promising(data, width=200, height=150):
    """A JPEG with other sides in its header."""
    at = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize("how", SAVED, ids=str)
@pytest.mark.parametrize("white_from", [None, 100])
def test_a_jpeg_with_all_its_data_is_read(how, white_from):
    assert open_rgb(jpeg(picture(white_from=white_from), **how)).size == (200, 150)


@pytest.mark.parametrize("how", SAVED, ids=str)
@pytest.mark.parametrize("white_from", [None, 100])
@pytest.mark.parametrize("sides", [{"height": 300}, {"height": 190}, {"width": 400}], ids=str)
def test_a_jpeg_that_promises_more_than_it_holds_is_truncated(how, white_from, sides):
    with pytest.raises(ValueError, match="image file is truncated: its header promises"):
        open_rgb(promising(jpeg(picture(white_from=white_from), **how), **sides))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_whatever_its_colours(mode):
    whole = jpeg(picture(white_from=100, mode=mode))
    assert open_rgb(whole).size == (200, 150)
    with pytest.raises(ValueError, match="truncated"):
        open_rgb(promising(whole, height=300))


def test_however_narrow():
    with pytest.raises(ValueError, match="truncated"):
        open_rgb(promising(jpeg(picture((9, 150))), width=9, height=300))


def test_bytes_after_the_end_are_no_data():
    whole = jpeg(picture(white_from=100))
    assert open_rgb(whole + b"more" * 9).size == (200, 150)


def test_what_a_host_sends_is_looked_at_as_well():
    with pytest.raises(Refused) as refusal:
        take_picture(promising(jpeg(picture()), height=300), DownloadConfig())
    assert refusal.value.status == "truncated"
