"""The accuracies of guessing: what pictures drawn without their captions would reach on average.

A guess knows how many objects there are. Each attribute is drawn by its frequency in training, independently of the
others (training has none of the held-out combinations: guessing whole training scenes would score nothing).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from unclip.data.shapes import Scene
from unclip.data.shapes_words import OPPOSITE
from unclip.metrics.binding import Accuracies, Verdict, average

Frequencies = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Guesser:
    """How often each value of each attribute occurs in training."""

    colors: Frequencies
    shapes: Frequencies
    backgrounds: Frequencies
    relations: Frequencies  # either way round: "A left of B" counts for "right of" too


def _frequencies(values: Iterable[str]) -> Frequencies:
    counts = Counter(values)
    return {value: count / counts.total() for value, count in counts.items()}


def learn_frequencies(training: Sequence[Scene]) -> Guesser:
    """The frequencies of attributes in training scenes."""
    if not training:
        raise ValueError("training must have >= 1 scene, got 0")
    things = [thing for scene in training for thing in scene.objects]
    relations = [scene.relation for scene in training if scene.relation is not None]
    return Guesser(
        colors=_frequencies(thing.color for thing in things),
        shapes=_frequencies(thing.shape for thing in things),
        backgrounds=_frequencies(scene.background for scene in training),
        relations=_frequencies([*relations, *(OPPOSITE[relation] for relation in relations)]),
    )


def guess_set(wanted: Sequence[str], likely: Frequencies) -> float:
    """The chance of guessing one value, or two different ones in any order, the second among those left."""
    total = 0.0
    for order in set(permutations(wanted)):
        chance, left = 1.0, 1.0
        for value in order:
            share = likely.get(value, 0.0)
            chance *= share / left
            left -= share
        total += chance
    return total


def expect(scene: Scene, guesser: Guesser) -> Verdict:
    """The chances that a guess is right; two objects are guessed to differ in colour and in shape, as they do."""
    color = guess_set([thing.color for thing in scene.objects], guesser.colors)
    shape = guess_set([thing.shape for thing in scene.objects], guesser.shapes)
    bound = color * shape / len(scene.objects)  # two right colours meet two right shapes in one of two ways
    verdict = {"color": color, "shape": shape, "bound": bound}
    verdict["background"] = guesser.backgrounds.get(scene.background, 0.0)
    if scene.relation is not None:
        verdict["relation"] = bound * guesser.relations.get(scene.relation, 0.0)
    return verdict


def chance_accuracies(scenes: Sequence[Scene], training: Sequence[Scene]) -> Accuracies:
    """The accuracies that guessing by the frequencies of training scenes is expected to reach on scenes."""
    guesser = learn_frequencies(training)
    return average([expect(scene, guesser) for scene in scenes])
