"""Line charts as inline SVG: no script, no font, colours from the page's style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 6, 8, 20
MAX_POINTS = 300


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name in the key, its points, its look ("s0" to "s2"; "raw" is faint, not in the key)."""

    name: str
    points: tuple[tuple[float, float], ...]
    look: str = "s0"


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The ranges of a chart; y is drawn by its logarithm where `log_y`."""

    x: tuple[float, float]
    y: tuple[float, float]
    log_y: bool

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (self._scaled(y) - self._scaled(self.y[0])) / (self._scaled(self.y[1]) - self._scaled(self.y[0]))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def _scaled(self, y: float) -> float:
        return math.log(y) if self.log_y else y


def line_chart(title: str, series: Sequence[Series], x_label: str, note: str = "", log_y: bool = False) -> str:
    """A titled chart of the series' finite points (positive ones where `log_y`); nothing where none has two."""
    drawn = [Series(name=s.name, points=drawable(s.points, log_y), look=s.look) for s in series]
    drawn = [s for s in drawn if len(s.points) >= 2]
    if not drawn:
        return ""
    axes = axes_of(drawn, log_y)
    lines = "".join(f'<path class="{s.look}" d="{path_of(s.points, axes)}"/>' for s in drawn)
    small = f" <small>{escape(note)}</small>" if note else ""
    shape = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    svg = f"<svg {shape}>{grid(axes, x_label)}{lines}</svg>"
    return f'<figure class="chart"><figcaption>{escape(title)}{small}</figcaption>{svg}{key_of(drawn)}</figure>'


def drawable(points: Sequence[tuple[float, float]], log_y: bool) -> tuple[tuple[float, float], ...]:
    """The finite points, thinned evenly to what a small chart can show."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]
    every = max(1, math.ceil(len(finite) / MAX_POINTS))
    return tuple(finite[i] for i in range(len(finite)) if i % every == 0 or i == len(finite) - 1)


def axes_of(series: Sequence[Series], log_y: bool) -> Axes:
    """Ranges that hold all points, a little wider where they are all the same."""
    xs, ys = zip(*(p for s in series for p in s.points), strict=True)
    low, high = min(ys), max(ys)
    if low == high:
        low, high = (low / 2, high * 2) if log_y else (low - 0.5, high + 0.5)
    right = max(xs) if max(xs) > min(xs) else min(xs) + 1
    return Axes(x=(min(xs), right), y=(low, high), log_y=log_y)


def path_of(points: Sequence[tuple[float, float]], axes: Axes) -> str:
    """The points as an SVG path."""
    placed = (axes.place(x, y) for x, y in points)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)


def grid(axes: Axes, x_label: str) -> str:
    """Lines and numbers of the y axis, and the ends of the x axis."""
    parts = []
    for y in ticks(axes):
        _, at = axes.place(axes.x[0], y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3:.1f}" text-anchor="end">{y:.3g}</text>')
    bottom = HEIGHT - 6
    parts.append(f'<text x="{LEFT}" y="{bottom}">{axes.x[0]:,.0f}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom}" text-anchor="end">{axes.x[1]:,.0f} {escape(x_label)}</text>')
    return "".join(parts)


def ticks(axes: Axes, num_wanted: int = 4) -> list[float]:
    """Round numbers within the y range; its two ends where no round number falls inside."""
    low, high = axes.y
    if axes.log_y:
        steps = [
            m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
        ]
        inside = [y for y in steps if low <= y <= high]
        inside = inside[:: max(1, len(inside) // num_wanted)]
    else:
        raw = (high - low) / num_wanted
        base = 10.0 ** math.floor(math.log10(raw))
        step = next(m * base for m in (1, 2, 5, 10) if m * base >= raw)
        inside = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return inside if len(inside) >= 2 else [low, high]


def key_of(series: Sequence[Series]) -> str:
    """Names beside their colours; nothing for a single line."""
    named = [s for s in series if s.look != "raw"]
    if len(named) < 2:
        return ""
    marks = "".join(f'<span><i style="background:var(--{s.look})"></i>{escape(s.name)}</span>' for s in named)
    return f'<div class="key">{marks}</div>'


def smoothed(points: Sequence[tuple[float, float]], keep: float = 0.8) -> tuple[tuple[float, float], ...]:
    """A running mean of the points that gives each new one a share of 1 - keep, unbiased at the start."""
    found, mean, weight = [], 0.0, 0.0
    for x, y in points:
        if not math.isfinite(y):
            continue
        mean, weight = keep * mean + (1 - keep) * y, keep * weight + (1 - keep)
        found.append((x, mean / weight))
    return tuple(found)
