"""What a recogniser sees in pictures of a source that knows its objects; nothing for other sources."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unclip.data.shapes import Scene, scene_of
from unclip.data.shapes_words import EASY
from unclip.metrics.binding import measure_binding
from unclip.metrics.chance import chance_accuracies
from unclip.metrics.recogniser import MIN_SIDE_PX, WORK_PX, recognise

Pixels = NDArray[np.uint8]
Metas = Sequence[Mapping[str, Any]]
COUNTS = ("num_singles", "num_pairs")


def accuracies(pixels: Pixels, metas: Metas) -> dict[str, float]:
    """Shares of pictures (N, P, P, 3) that show what they should; nothing where rows don't say what they show."""
    scenes = scenes_of(metas)
    if not scenes:
        return {}
    difficulty = difficulty_of(scenes)
    return shares(measure_binding(scenes, [recognise(large_enough(picture), difficulty) for picture in pixels]))


def chance(metas: Metas, training: Metas) -> dict[str, float]:
    """The same shares for guesses made by the frequencies in training; nothing where rows don't say what they show."""
    scenes, seen = scenes_of(metas), scenes_of(training)
    return shares(chance_accuracies(scenes, seen)) if scenes and seen else {}


def scenes_of(metas: Metas) -> list[Scene]:
    """What the pictures should show, or nothing where one of them doesn't say."""
    return [scene_of(meta) for meta in metas] if all("objects" in meta for meta in metas) else []


def difficulty_of(scenes: Sequence[Scene]) -> str:
    """`easy` where no scene has anything that easy ones have not."""
    easy = all(
        scene.background in EASY.backgrounds
        and scene.texture in EASY.textures
        and all(thing.shape in EASY.shapes and thing.color in EASY.colors for thing in scene.objects)
        for scene in scenes
    )
    return "easy" if easy else "full"


def large_enough(picture: Pixels) -> Pixels:
    """The picture, enlarged where it is too small to be read."""
    if min(picture.shape[:2]) >= MIN_SIDE_PX:
        return picture
    return np.asarray(Image.fromarray(picture).resize((WORK_PX, WORK_PX), Image.Resampling.BICUBIC))


def shares(measured: Mapping[str, float | int | None]) -> dict[str, float]:
    """The accuracies that some picture counted for."""
    return {name: float(v) for name, v in measured.items() if v is not None and name not in COUNTS}
