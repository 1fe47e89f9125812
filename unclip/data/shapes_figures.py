"""Figures as signed distances, and their antialiased coverage of a pixel grid.

u, v: float32 (H, W), right and down from the figure's middle in units of half its extent. Negative is inside.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
ARM = 0.36  # half the width of a cross's arm
INNER = 0.45  # radius of a star's inner corners
TRIANGLE_BASE = 0.85  # so that the triangle is nearly equilateral
RING_HOLE = 0.5  # radius


def circle(u: Plane, v: Plane) -> Plane:
    """Distance to a disc of radius 1."""
    return np.sqrt(u * u + v * v) - 1


def square(u: Plane, v: Plane) -> Plane:
    """Distance to a square of side 2, as wide as a circle."""
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(1)


def triangle(u: Plane, v: Plane) -> Plane:
    """Distance to a triangle with its tip up."""
    rise = np.float32(1 + TRIANGLE_BASE)
    sides = (np.abs(u) * rise - (v + 1)) / np.sqrt(rise * rise + 1)
    return np.maximum(sides, v - np.float32(TRIANGLE_BASE))


def cross(u: Plane, v: Plane) -> Plane:
    """Distance to two bars, one upright and one lying."""
    across, down = np.abs(u), np.abs(v)
    arm = np.float32(ARM)
    return np.minimum(np.maximum(across - 1, down - arm), np.maximum(across - arm, down - 1))


def star(u: Plane, v: Plane) -> Plane:
    """Distance to a star of five points, one up: the line from a tip to the next inner corner, folded ten times."""
    radius, angle = np.sqrt(u * u + v * v), np.arctan2(u, -v)
    fold = np.float32(2 * np.pi / 5)
    angle = np.abs(angle - fold * np.round(angle / fold))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    corner_x, corner_y = INNER * np.cos(np.pi / 5), INNER * np.sin(np.pi / 5)
    length = np.hypot(corner_y, 1 - corner_x)
    return np.asarray(((x - 1) * corner_y + y * (1 - corner_x)) / length, np.float32)


def ring(u: Plane, v: Plane) -> Plane:
    """Distance to a disc with a hole."""
    middle, half = np.float32((1 + RING_HOLE) / 2), np.float32((1 - RING_HOLE) / 2)
    return np.abs(np.sqrt(u * u + v * v) - middle) - half


FIGURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "cross": cross,
    "star": star,
    "ring": ring,
}


@lru_cache(maxsize=8)
def pixel_grid(side_px: int) -> tuple[Plane, Plane]:
    """Pixel centres (x as a row (1, W), y as a column (H, 1)) in fractions of the side."""
    line = (np.arange(side_px, dtype=np.float32) + np.float32(0.5)) / np.float32(side_px)
    return line[None, :], line[:, None]


def coverage(shape: str, middle: tuple[float, float], extent: float, side_px: int, turn_deg: float = 0.0) -> Plane:
    """How much of each pixel a figure covers, 0..1, (side_px, side_px).

    middle: (x, y) and extent, in fractions of the side; turned clockwise by turn_deg.
    """
    columns, rows = pixel_grid(side_px)
    scale = np.float32(2 / extent)
    right, down = (columns - np.float32(middle[0])) * scale, (rows - np.float32(middle[1])) * scale
    cos, sin = np.float32(np.cos(np.deg2rad(turn_deg))), np.float32(np.sin(np.deg2rad(turn_deg)))
    distance = FIGURES[shape](cos * right + sin * down, cos * down - sin * right)
    return np.clip(np.float32(0.5) - distance * np.float32(side_px * extent / 2), 0, 1)
