"""Reads the objects of a `shapes` picture back from its pixels: colour by segmentation, shape by template.

All colour is compared without brightness (each channel less their mean): shadows, textures and blur of a background
vanish there, and a soft edge between background and object lies on the line between the two.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unclip.data.shapes_figures import coverage
from unclip.data.shapes_words import BACKGROUNDS, COLORS, Words, words_of

Floats = NDArray[np.float32]

WORK_PX = 64  # every picture is read at this side
MIN_SIDE_PX = 48
BORDER_PX = 3  # the frame that the background is estimated from
MIN_AREA = 0.22  # of the square around a difficulty's smallest object; smaller blobs are specks
MIN_SHARE = 0.06  # of the largest blob; smaller ones are specks
MIN_STRENGTH = 0.65  # of a colour that an object must have; paler blobs are stains of the background
RIM_PX = 4  # a soft edge between two colours can look like a third; this wide around a larger blob it is no object
GRID = 24  # side of a template
REACH = 1.0  # half the width of a template's window, in square roots of the object's area
BLURS = (0.0, 1.2, 2.4)  # of templates, in template pixels
TURNS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of templates, in largest turns of the difficulty


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An object as recognised. x, y: its centre of mass; area: in fractions of the picture; fit: correlation, <= 1."""

    shape: str
    color: str
    x: float
    y: float
    area: float
    fit: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was recognised in a picture, the largest object first."""

    objects: tuple[Seen, ...]
    background: str


def without_brightness(rgb: NDArray[np.floating]) -> Floats:
    """Colours (..., 3) less the mean of their channels."""
    return np.asarray(rgb - rgb.mean(axis=-1, keepdims=True), np.float32)


def _normal(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-6), np.float32)


def _middle(alpha: Floats) -> tuple[float, float]:
    """The centre of mass (row, column)."""
    rows, columns = np.arange(alpha.shape[0]), np.arange(alpha.shape[1])
    return float(alpha.sum(1) @ rows / alpha.sum()), float(alpha.sum(0) @ columns / alpha.sum())


def _window(alpha: Floats) -> Floats:
    """A soft mask (H, W) around its centre of mass, scaled to one area: (GRID * GRID,)."""
    middle = _middle(alpha)
    line = np.linspace(-REACH, REACH, GRID) * np.sqrt(float(alpha.sum()))
    points = np.meshgrid(line + middle[0], line + middle[1], indexing="ij")
    return np.asarray(ndimage.map_coordinates(alpha, points, order=1, mode="constant"), np.float32).ravel()


@lru_cache(maxsize=4)
def _templates(shapes: tuple[str, ...], max_turn_deg: float) -> tuple[tuple[str, ...], Floats]:
    """Names and normalised windows (N, GRID * GRID) of every shape, blurred, and turned as the difficulty turns them.

    No further: a blurred square that may be turned passes for a circle.
    """
    names, windows = [], []
    for shape in shapes:
        for turn_deg in sorted({max_turn_deg * turn for turn in TURNS}):
            drawn = _window(coverage(shape, (0.5, 0.5), 0.6, 2 * WORK_PX, turn_deg)).reshape(GRID, GRID)
            windows += [np.asarray(ndimage.gaussian_filter(drawn, blur)).ravel() for blur in BLURS]
            names += [shape] * len(BLURS)
    return tuple(names), _normal(np.stack(windows))


def read_shape(alpha: Floats, words: Words) -> tuple[str, float]:
    """The shape whose template a soft mask (H, W) correlates with best, and that correlation."""
    names, templates = _templates(words.shapes, words.max_turn_deg)
    fits = templates @ _normal(_window(alpha))
    best = int(fits.argmax())
    return names[best], float(fits[best])


def _frame(picture: Floats) -> NDArray[np.bool_]:
    frame = np.ones(picture.shape[:2], bool)
    frame[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    return frame


def _label(tint: Floats, palette: Floats) -> NDArray[np.intp]:
    """The nearest colour's number for each pixel (H, W); the palette's length where the background is nearer."""
    centres = np.concatenate([palette, np.zeros((1, 3), np.float32)])
    distance = (centres * centres).sum(1) - 2 * tint @ centres.T
    return np.asarray(distance.argmin(-1))


def _blobs(labels: NDArray[np.intp], num_colors: int, least_px: float) -> list[tuple[int, NDArray[np.bool_]]]:
    """Colour and mask of each connected region that has an inside and is no speck; the largest first."""
    found: list[tuple[int, NDArray[np.bool_], int]] = []
    for color in np.unique(labels[labels < num_colors]):
        regions, count = ndimage.label(labels == color, np.ones((3, 3)))
        areas = np.bincount(regions.ravel(), minlength=count + 1)
        for region in range(1, count + 1):
            mask = regions == region
            if areas[region] >= least_px and ndimage.binary_erosion(mask).any():
                found.append((int(color), mask, int(areas[region])))
    found.sort(key=lambda blob: -blob[2])
    return _without_rims([(color, mask) for color, mask, area in found if area >= MIN_SHARE * found[0][2]])


def _without_rims(blobs: list[tuple[int, NDArray[np.bool_]]]) -> list[tuple[int, NDArray[np.bool_]]]:
    """The blobs that don't lie for the most part along the edge of a larger one."""
    kept: list[tuple[int, NDArray[np.bool_]]] = []
    for color, mask in blobs:
        around = [ndimage.binary_dilation(larger, iterations=RIM_PX) for _, larger in kept]
        if not any((mask & edge).sum() > 0.7 * mask.sum() for edge in around):
            kept.append((color, mask))
    return kept


def _measure(tint: Floats, mask: NDArray[np.bool_]) -> Floats:
    """How much of each pixel near a blob has the blob's own colour, 0..1 (H, W); tint: (H, W, 3), background at 0."""
    inside = ndimage.binary_erosion(mask)
    own = np.median(tint[inside if inside.any() else mask], axis=0)
    share = (tint @ own) / max(float(own @ own), 1e-6)
    near = ndimage.binary_dilation(mask, iterations=2)
    return np.asarray(np.clip(share, 0, 1) * near, np.float32)


def name_background(picture: Floats, words: Words) -> str:
    """The background nearest to the mean colour of a picture's frame; picture: (H, W, 3), 0..255."""
    grounds = np.array([BACKGROUNDS[name] for name in words.backgrounds], np.float32)
    distance = np.linalg.norm(grounds - picture[_frame(picture)].mean(axis=0), axis=1)
    return words.backgrounds[int(distance.argmin())]


def find_objects(picture: Floats, words: Words) -> tuple[Seen, ...]:
    """The objects of a picture (H, W, 3), 0..255, the largest first."""
    hues = without_brightness(picture)
    ground = np.median(hues[_frame(picture)], axis=0)
    palette = without_brightness(np.array([COLORS[name] for name in words.colors], np.float32)) - ground
    tint = hues - ground
    least_px = MIN_AREA * (words.pair_px["small"][0] * WORK_PX) ** 2
    seen = []
    for color, mask in _blobs(_label(tint, palette), len(words.colors), least_px):
        if float(np.median(tint[mask] @ palette[color])) < MIN_STRENGTH * float(palette[color] @ palette[color]):
            continue
        alpha = _measure(tint, mask)
        shape, fit = read_shape(alpha, words)
        y, x = ((float(middle) + 0.5) / side for middle, side in zip(_middle(alpha), alpha.shape, strict=True))
        seen.append(Seen(shape=shape, color=words.colors[color], x=x, y=y, area=float(alpha.mean()), fit=fit))
    return tuple(seen)


def recognise(pixels: NDArray[np.uint8], difficulty: str = "easy") -> Reading:
    """What a picture shows, in the words of a difficulty; pixels: uint8 (H, W, 3), sides of at least 48."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(f"pixels must be uint8 (H, W, 3), sides >= {MIN_SIDE_PX}, got {pixels.dtype} {pixels.shape}")
    words = words_of(difficulty)
    if pixels.shape[:2] != (WORK_PX, WORK_PX):
        pixels = np.asarray(Image.fromarray(pixels).resize((WORK_PX, WORK_PX), Image.Resampling.LANCZOS))
    picture = pixels.astype(np.float32)
    return Reading(objects=find_objects(picture, words), background=name_background(picture, words))
