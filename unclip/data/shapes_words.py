"""The vocabulary of the `shapes` pictures: what may be drawn at each difficulty, and in which colours."""

from dataclasses import dataclass

RGB = tuple[int, int, int]

# With brightness taken out the nearest two of `easy` are 93 apart. Once orange and yellow were 65: they got mixed up.
COLORS: dict[str, RGB] = {
    "red": (220, 15, 20),
    "orange": (255, 130, 5),
    "yellow": (245, 245, 15),
    "green": (20, 160, 45),
    "cyan": (30, 215, 235),
    "blue": (25, 60, 230),
    "purple": (150, 30, 190),
    "pink": (250, 140, 200),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "black": (18, 18, 18),
    "beige": (222, 205, 175),
    "navy": (25, 30, 75),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(OPPOSITE)  # of the first object to the second
SIZES = ("small", "large")

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Words:
    """What one difficulty draws. Lengths are fractions of the picture's side."""

    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    backgrounds: tuple[str, ...]
    textures: tuple[str, ...]
    single_px: dict[str, Span]  # extent of an object alone, by size
    pair_px: dict[str, Span]  # extent of each of two
    jitter: float  # largest shift of an object from its place, across the axis of the relation
    gap_spread: float  # 0: the free room along that axis is shared evenly, 1: any share may be nothing
    max_turn_deg: float
    color_jitter: float  # largest shift of a colour's channel, of 255


EASY = Words(
    shapes=("circle", "square", "triangle", "cross"),
    colors=("red", "orange", "yellow", "green", "cyan", "blue", "purple"),
    backgrounds=("white", "gray", "black"),
    textures=("plain",),
    single_px={"small": (0.40, 0.47), "large": (0.57, 0.65)},
    pair_px={"small": (0.34, 0.37), "large": (0.43, 0.46)},
    jitter=0.03,
    gap_spread=0.2,
    max_turn_deg=0.0,
    color_jitter=4.0,
)
FULL = Words(
    shapes=("circle", "square", "triangle", "cross", "star", "ring"),
    colors=tuple(COLORS),
    backgrounds=tuple(BACKGROUNDS),
    textures=("plain", "striped", "checkered", "speckled"),
    single_px={"small": (0.28, 0.38), "large": (0.48, 0.62)},
    pair_px={"small": (0.24, 0.29), "large": (0.36, 0.42)},
    jitter=0.08,
    gap_spread=0.6,
    max_turn_deg=10.0,
    color_jitter=12.0,
)
DIFFICULTIES = {"easy": EASY, "full": FULL}


def words_of(difficulty: str) -> Words:
    """The vocabulary of a difficulty, `easy` or `full`."""
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    return DIFFICULTIES[difficulty]
