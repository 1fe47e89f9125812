"""The recogniser reads held-out pictures back, sharp or blurred, and is not fooled by specks."""

import numpy as np
import pytest
from PIL import Image

from unclip.data.config import ShapesConfig
from unclip.data.shapes import Picture, render_shard
from unclip.metrics.recogniser import Reading, recognise


def held_out(difficulty: str, num_samples: int) -> list[Picture]:
    config = ShapesConfig(difficulty=difficulty, num_samples=num_samples, shard_size=num_samples)
    return [picture for picture in render_shard(config, 11, 0) if picture.meta["split"] == "test"]


def is_right(picture: Picture, reading: Reading) -> bool:
    truth = sorted((thing["color"], thing["shape"]) for thing in picture.meta["objects"])
    return sorted((thing.color, thing.shape) for thing in reading.objects) == truth


def rescale(pixels: np.ndarray, side_px: int) -> np.ndarray:
    small = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("difficulty", ["easy", "full"])
def test_99_of_100_held_out_pictures_are_read_right(difficulty):
    pictures = held_out(difficulty, 2_500)
    for num_objects in (1, 2):
        some = [picture for picture in pictures if len(picture.meta["objects"]) == num_objects]
        assert len(some) > 80
        assert np.mean([is_right(picture, recognise(picture.pixels, difficulty)) for picture in some]) >= 0.99


@pytest.mark.parametrize(
    ("difficulty", "side_px", "least"), [("easy", 32, 0.99), ("full", 32, 0.97), ("easy", 16, 0.97)]
)
def test_pictures_enlarged_from_fewer_pixels_are_read_right(difficulty, side_px, least):
    pictures = held_out(difficulty, 700)
    readings = [recognise(rescale(picture.pixels, side_px), difficulty) for picture in pictures]
    assert np.mean([is_right(*pair) for pair in zip(pictures, readings, strict=True)]) >= least


@pytest.mark.parametrize("difficulty", ["easy", "full"])
def test_positions_and_backgrounds_are_read(difficulty):
    for picture in held_out(difficulty, 300):
        reading = recognise(picture.pixels, difficulty)
        assert reading.background == picture.meta["background"]
        for thing in picture.meta["objects"]:
            assert min(np.hypot(seen.x - thing["x"], seen.y - thing["y"]) for seen in reading.objects) < 0.08


def test_noise_specks_and_washed_out_colours_do_not_fool_it():
    rng, right = np.random.default_rng(0), []
    for picture in held_out("easy", 600):
        canvas = 0.75 * picture.pixels.astype(float) + 32 + rng.normal(0, 15, (64, 64, 3))
        for row, column in rng.integers(0, 61, (4, 2)):
            canvas[row : row + 2, column : column + 4] = rng.integers(0, 256, 3)
        right.append(is_right(picture, recognise(canvas.clip(0, 255).astype(np.uint8))))
    assert np.mean(right) >= 0.95


def test_an_empty_picture_has_no_objects():
    assert recognise(np.full((64, 64, 3), 128, np.uint8)).objects == ()


def test_the_side_of_the_picture_does_not_matter():
    for side_px in (48, 100, 256):
        config = ShapesConfig(num_samples=20, shard_size=20, image_px=side_px)
        assert all(is_right(picture, recognise(picture.pixels)) for picture in render_shard(config, 0, 0))


def test_a_picture_too_small_is_refused():
    with pytest.raises(ValueError, match="sides >= 48, got uint8"):
        recognise(np.zeros((32, 32, 3), np.uint8))


def test_no_shape_is_favoured_where_noise_on_few_pixels_leaves_little_to_tell():
    """Circles and squares of two objects at 16 px, as a decoder without upsamplers would leave them."""
    rng, shares = np.random.default_rng(1), dict.fromkeys(("circle", "square"), 0.0)
    for shape in shares:
        pictures = [p for p in held_out("easy", 2_500) if len(p.meta["objects"]) == 2]
        right = []
        for picture in pictures[:150]:
            small = np.asarray(Image.fromarray(picture.pixels).resize((16, 16), Image.Resampling.BOX), float)
            noisy = (small + rng.normal(0, 30, small.shape)).clip(0, 255).astype(np.uint8)
            large = np.asarray(Image.fromarray(noisy).resize((64, 64), Image.Resampling.BICUBIC))
            seen = {thing.color: thing.shape for thing in recognise(large).objects}
            things = [t for t in picture.meta["objects"] if t["shape"] == shape and t["color"] in seen]
            right += [seen[thing["color"]] == shape for thing in things]
        shares[shape] = float(np.mean(right))
    assert abs(shares["circle"] - shares["square"]) < 0.1, shares
