"""Facts about foreign pictures made ours: profiles, damage, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.unclip.data import web_server as web
from unclip.data.config import DownloadConfig
from unclip.data.originals import Refused, take_picture

CONFIG = DownloadConfig(max_bytes=200_000, max_side_px=200)


def test_a_colour_profile_is_applied():
    picture = take_picture(web.encoded(web.solid(), "PNG", icc_profile=web.swapped_profile()), CONFIG)
    red, _, blue = np.asarray(Image.open(io.BytesIO(picture.data)))[0, 0].tolist()
    assert red < 60 and blue > 200


def test_an_srgb_profile_changes_no_byte():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = web.encoded(web.solid(), "PNG", icc_profile=profile)
    assert take_picture(data, CONFIG).data == data


@pytest.mark.parametrize("name", ["/cut.jpg", "/page.html", "/bomb.png", "/heavy.png"])
def test_what_is_refused_says_why(name):
    with pytest.raises(Refused) as error:
        take_picture(web.PICTURES[name], CONFIG)
    assert error.value.status == web.FATES[name[1:]] and str(error.value)


@settings(deadline=None)
@given(
    st.sampled_from(["/plain.jpg", "/plain.png", "/moving.gif", "/cmyk.jpg"]),
    st.integers(0, 2**32),
    st.binary(max_size=6),
)
def test_damaged_bytes_are_a_picture_or_a_reason(name, where, junk):
    data = web.PICTURES[name]
    at = where % len(data)
    try:
        picture = take_picture(data[:at] + junk + data[at + len(junk) :], CONFIG)
    except Refused as refused:
        assert refused.status and str(refused)
    else:
        assert Image.open(io.BytesIO(picture.data)).size == (picture.width, picture.height)


def test_a_picture_with_broken_exif_is_a_refused_row():
    data = web.encoded(web.solid(), "PNG", exif=b"Exif\0\0MM\xd7*\0\0\0\x08")
    with pytest.raises(Refused, match="not a TIFF file"):
        take_picture(data, CONFIG)
