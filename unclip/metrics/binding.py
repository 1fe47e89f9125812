"""Whether pictures show what their captions say: attributes, their binding to objects, and the relation between two.

A scene is the truth, what a picture should show; a reading is what the recogniser saw in it. A `Verdict` holds for one
picture, as numbers in 0..1 so that those of a guess (`chance.py`) are averaged alike:
color, shape: the objects' colours (shapes) are right, whichever object has them; bound: so are they together; relation:
bound, and one object lies where it should from the other (only scenes of two have it). One object too few or too many
makes all of these wrong.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from unclip.data.shapes import Scene, ShapeObject
from unclip.metrics.recogniser import Reading, Seen

Verdict = Mapping[str, float]
Accuracies = dict[str, float | int | None]


def relation_between(first: Seen, second: Seen) -> str:
    """The relation of the first object to the second along the axis on which their middles are further apart."""
    right, down = first.x - second.x, first.y - second.y
    if abs(right) >= abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def _kinds(objects: Sequence[Seen | ShapeObject]) -> Counter[tuple[str, str]]:
    return Counter((thing.color, thing.shape) for thing in objects)


def _related(scene: Scene, seen: Sequence[Seen]) -> bool:
    """Whether the relation holds for two objects that match the scene's, in any order."""
    asked = scene.objects[0]
    first, second = seen if (seen[0].color, seen[0].shape) == (asked.color, asked.shape) else reversed(seen)
    return relation_between(first, second) == scene.relation


def judge(scene: Scene, reading: Reading) -> Verdict:
    """What of a scene its picture shows: 1.0 or 0.0 by name."""
    seen = reading.objects
    bound = _kinds(seen) == _kinds(scene.objects)
    verdict = {
        "color": Counter(thing.color for thing in seen) == Counter(thing.color for thing in scene.objects),
        "shape": Counter(thing.shape for thing in seen) == Counter(thing.shape for thing in scene.objects),
        "bound": bound,
        "background": reading.background == scene.background,
    }
    if scene.relation is not None:
        verdict["relation"] = bound and _related(scene, seen)
    return {name: float(right) for name, right in verdict.items()}


def _mean(verdicts: Sequence[Verdict], name: str) -> float | None:
    return sum(verdict[name] for verdict in verdicts) / len(verdicts) if verdicts else None


def average(verdicts: Sequence[Verdict]) -> Accuracies:
    """Accuracies over pictures, of single objects, of pairs and of all; None where no picture counts for one."""
    singles = [verdict for verdict in verdicts if "relation" not in verdict]
    pairs = [verdict for verdict in verdicts if "relation" in verdict]
    bound, related = _mean(pairs, "bound"), _mean(pairs, "relation")
    return {
        "num_singles": len(singles),
        "num_pairs": len(pairs),
        "color_accuracy": _mean(verdicts, "color"),
        "shape_accuracy": _mean(verdicts, "shape"),
        "background_accuracy": _mean(verdicts, "background"),
        "single_accuracy": _mean(singles, "bound"),
        "single_color_accuracy": _mean(singles, "color"),
        "single_shape_accuracy": _mean(singles, "shape"),
        "pair_accuracy": bound,
        "pair_color_accuracy": _mean(pairs, "color"),
        "pair_shape_accuracy": _mean(pairs, "shape"),
        "relation_accuracy": related,
        "relation_given_bound": related / bound if bound and related is not None else None,
    }


def measure_binding(scenes: Sequence[Scene], readings: Sequence[Reading]) -> Accuracies:
    """Accuracies of pictures, given as readings, against the scenes they should show."""
    if len(scenes) != len(readings):
        raise ValueError(f"readings must be as many as scenes, {len(scenes)}, got {len(readings)}")
    return average([judge(scene, reading) for scene, reading in zip(scenes, readings, strict=True)])
