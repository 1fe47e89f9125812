"""Which combinations of attributes are kept for testing: every value, and every two colours, stay common in training.

A single is held out by (colour, shape). A pair is held out by its unordered colours and unordered shapes, so that "red
circle, blue square" and "blue circle, red square" are held out as one. Pairs are drawn from singles seen in training,
so that a held-out pair tests the meeting of its objects and nothing else.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

from unclip.data.shapes_words import Words, words_of

Kind = tuple[str, str]  # (colour, shape)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The singles and the ordered pairs that may be drawn, and the combinations of them that are test only."""

    singles: tuple[Kind, ...]
    pairs: tuple[tuple[Kind, Kind], ...]
    held_out: frozenset[str]

    def split(self, combination: str) -> str:
        """`test` or `train`."""
        return "test" if combination in self.held_out else "train"


def combination_of(kinds: tuple[Kind, ...]) -> str:
    """The name that a scene shares with its swapped versions: "blue+red circle+square"."""
    colors, shapes = zip(*kinds, strict=True)
    return f"{'+'.join(sorted(colors))} {'+'.join(sorted(shapes))}"


def hold_out(combinations: list[str], fraction: float) -> frozenset[str]:
    """A fraction of the combinations, chosen by digest such that nothing in them loses much more than its like.

    What is in one: each colour, each shape, the two colours together, the two shapes together. Were the last two not
    counted, a pair of similar colours could lose half its pictures, and nothing would learn to tell them apart.
    """
    parts = {name: {*name.split(), *name.replace("+", " ").split()} for name in combinations}
    total, taken = Counter(part for inside in parts.values() for part in inside), Counter[str]()
    left = sorted(combinations, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen: set[str] = set()
    for _ in range(round(fraction * len(left))):
        losses = [sorted(((taken[part] + 1) / total[part] for part in parts[name]), reverse=True) for name in left]
        name = left.pop(losses.index(min(losses)))
        taken.update(parts[name])
        chosen.add(name)
    return frozenset(chosen)


def _pairs(words: Words, seen: set[Kind]) -> tuple[tuple[Kind, Kind], ...]:
    kinds = [kind for kind in product(words.colors, words.shapes) if kind in seen]
    return tuple((a, b) for a, b in product(kinds, kinds) if a[0] != b[0] and a[1] != b[1])


@lru_cache(maxsize=8)
def partition(difficulty: str, held_out_prob: float) -> Partition:
    """What may be drawn at a difficulty and which of it is test only; the same for every seed."""
    words = words_of(difficulty)
    singles = tuple(product(words.colors, words.shapes))
    held_singles = hold_out([combination_of((kind,)) for kind in singles], held_out_prob)
    groups = [
        combination_of(tuple(zip(colors, shapes, strict=True)))
        for colors, shapes in product(combinations(words.colors, 2), combinations(words.shapes, 2))
    ]
    pairs = _pairs(words, {kind for kind in singles if combination_of((kind,)) not in held_singles})
    return Partition(singles=singles, pairs=pairs, held_out=held_singles | hold_out(groups, held_out_prob))
