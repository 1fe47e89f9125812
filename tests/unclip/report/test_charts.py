import math
import re

import pytest

from unclip.report.charts import BOTTOM, HEIGHT, MAX_POINTS, TOP, Axes, Series, drawable, line_chart, smoothed, ticks


def line(points: list[tuple[float, float]]) -> Series:
    return Series(name="loss", points=tuple(points))


def drawn(page: str) -> list[list[float]]:
    path = re.search(r'<path class="s0" d="M([^"]+)"', page)
    assert path is not None
    return [[float(number) for number in point.split()] for point in path.group(1).split("L")]


def test_lowest_and_highest_values_touch_the_ends_of_the_axis() -> None:
    ups = [y for _, y in drawn(line_chart("a", [line([(0, 1), (1, 5), (2, 3)])], "steps"))]
    assert (max(ups), min(ups)) == (HEIGHT - BOTTOM, TOP)


def test_a_logarithmic_axis_gives_each_tenfold_the_same_room() -> None:
    ups = [y for _, y in drawn(line_chart("a", [line([(0, 1), (1, 10), (2, 100)])], "steps", log_y=True))]
    assert ups[0] - ups[1] == pytest.approx(ups[1] - ups[2], abs=0.2)


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    assert drawable([(0, math.nan), (1, 0.0), (2, 3.0), (3, math.inf)], log_y=True) == ((2, 3.0),)


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    points = drawable([(float(x), 1.0) for x in range(10_000)], log_y=False)
    assert len(points) <= MAX_POINTS + 1
    assert points[-1][0] == 9_999


def test_one_point_makes_no_chart() -> None:
    assert line_chart("a", [line([(0, 1)])], "steps") == ""


def test_a_constant_is_a_level_line() -> None:
    assert len({y for _, y in drawn(line_chart("a", [line([(0, 2), (9, 2)])], "steps"))}) == 1


def test_titles_are_escaped() -> None:
    assert "<b>" not in line_chart("<b>", [line([(0, 1), (1, 2)])], "steps")


def test_a_running_mean_keeps_a_constant_and_forgets_a_step() -> None:
    mean = smoothed([(float(x), 0.0 if x < 50 else 1.0) for x in range(100)])
    assert mean[49][1] == 0.0
    assert mean[-1][1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("y", [(0.001, 900.0), (1.01, 1.02), (3.0, 7.0)])
def test_ticks_lie_on_the_axis(y: tuple[float, float], log_y: bool) -> None:
    found = ticks(Axes(x=(0, 1), y=y, log_y=log_y))
    assert 2 <= len(found) <= 9
    assert all(y[0] - 1e-9 <= tick <= y[1] + 1e-9 for tick in found)
