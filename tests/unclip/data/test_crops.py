"""Facts about the square that a CLIP reads."""

import numpy as np
import pytest
from PIL import Image

from unclip.data import crops, images
from unclip.data.crops import RESIZE_MODES, Crop
from unclip.data.images import INTERPOLATIONS, crop_square, square_of

WAYS = ("bicubic", "bilinear")
rng = np.random.default_rng(0)


def noise(width, height, low=0, high=256):
    return Image.fromarray(rng.integers(low, high, (height, width, 3), dtype=np.uint8))


def levels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("sides", [(640, 480), (480, 640), (33, 100), (224, 225), (7, 112), (1600, 100)])
@pytest.mark.parametrize("way", WAYS)
def test_an_ordinary_picture_is_resized_whole_and_then_cropped(sides, way):
    image, scale = noise(*sides), 224 / min(sides)
    width, height = (max(224, round(side * scale)) for side in sides)
    left, top = (width - 224) // 2, (height - 224) // 2
    whole = image.resize((width, height), INTERPOLATIONS[way])
    assert crop_square(image, 224, way).tobytes() == whole.crop((left, top, left + 224, top + 224)).tobytes()


@pytest.mark.parametrize(
    "sides", [(640, 480), (997, 83), (83, 997), (33, 100), (13, 9), (2, 31), (700, 650), (650, 700)]
)
@pytest.mark.parametrize("way", WAYS)
def test_a_thin_picture_is_what_it_would_be_if_it_were_resized_whole(sides, way, monkeypatch):
    image = noise(*sides, low=96, high=160)  # far from 0 and 255: whole or not, a filter's first pass cuts nothing off
    whole = [levels(crop_square(image, px, way)) for px in (16, 224)]
    monkeypatch.setattr(images, "MAX_ASPECT", 0)
    assert all(
        np.abs(levels(crop_square(image, px, way)) - one).max() <= 1 for px, one in zip((16, 224), whole, strict=True)
    )


@pytest.mark.parametrize(
    "sides", [(640, 480), (480, 640), (33, 100), (12, 16), (300, 260), (2, 2), (3000, 2000), (389, 1110)]
)
@pytest.mark.parametrize("way", WAYS)
def test_what_torch_resizes_is_what_pillow_does_but_for_a_level_here_and_there(sides, way):
    image, method = noise(*sides), INTERPOLATIONS[way]
    size, box = square_of(image, 224)
    width_first = image.resize((size[0], image.height), method).resize(size, method).crop(box)
    away = np.abs(Crop(px=224, interpolation=way)(image).astype(int) - levels(width_first))
    assert away.max() <= 2 and (away > 0).mean() < 0.01


def test_a_picture_of_which_a_copy_would_be_large_is_resized_by_pillow(monkeypatch):
    image = noise(640, 480)
    monkeypatch.setattr(crops, "MAX_COPIED_PIXELS", 640 * 480 - 1)
    assert np.array_equal(Crop(px=224)(image), levels(crop_square(image, 224)))


def test_a_picture_of_the_right_size_stays_as_it_is():
    image = noise(16, 16)
    squares = [Crop(px=16, resize_mode=mode)(image) for mode in RESIZE_MODES]
    assert all(np.array_equal(square, levels(image)) and square.flags.writeable for square in squares)


@pytest.mark.parametrize("sides", [(40_000, 1), (1, 40_000)])
def test_a_line_that_is_averaged_first_is_resized_as_well(sides):
    bright = np.arange(40_000) >= 17_000
    image = Image.fromarray((np.stack([bright] * 3, 1) * 200).astype(np.uint8).reshape(sides[1], sides[0], 3))
    at_once = levels(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(levels(Crop(px=16, resize_mode="squash")(image)) - at_once).max() <= 4 and at_once.std() > 90
