"""Captions of the `shapes` pictures: several wordings, some silent about attributes, each true of its picture."""

from collections.abc import Callable
from typing import Protocol

from unclip.data.shapes_words import OPPOSITE

Chance = Callable[[], float]  # the next number, uniform in 0..1


class Named(Protocol):
    """An object that can be described."""

    @property
    def shape(self) -> str: ...
    @property
    def color(self) -> str: ...
    @property
    def size(self) -> str: ...


SIZE_PROB = 0.5  # that an object's size is named
BACKGROUND_PROB = 0.5
NO_COLOR_PROB = 0.3  # captions that leave colours out make CLIP tell shapes apart whatever their colour (docs/log.md)
NO_RELATION_PROB = 0.15
OPENINGS = ("", "", "", "a picture of ", "an image of ")
PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


def with_article(words: str) -> str:
    """A noun phrase with its article: "an orange circle"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name_object(thing: Named, chance: Chance, *, color: bool) -> str:
    """One object in words: its shape, its colour if wanted, its size sometimes."""
    size = thing.size if chance() < SIZE_PROB else ""
    return with_article(" ".join(filter(None, (size, thing.color if color else "", thing.shape))))


def _pick(choices: tuple[str, ...], chance: Chance) -> str:
    return choices[int(chance() * len(choices))]


def _subject(objects: tuple[Named, ...], relation: str | None, chance: Chance, *, complete: bool) -> str:
    color = complete or chance() >= NO_COLOR_PROB
    first, *rest = [name_object(thing, chance, color=color) for thing in objects]
    if not rest or relation is None:
        return first
    if chance() < 0.5:  # the same fact, told from the other object
        first, rest, relation = rest[0], [first], OPPOSITE[relation]
    if not complete and chance() < NO_RELATION_PROB:
        return f"{first} and {rest[0]}"
    return f"{first} {_pick(PHRASES[relation], chance)} {rest[0]}"


def describe(
    objects: tuple[Named, ...], relation: str | None, background: str, chance: Chance, *, complete: bool
) -> str:
    """A caption of one or two objects, the first in `relation` to the second.

    complete: every object's colour and shape and the relation are named, as evaluation needs.
    """
    subject = _subject(objects, relation, chance, complete=complete)
    if chance() >= BACKGROUND_PROB:
        return _pick(OPENINGS, chance) + subject
    ground = f"on {with_article(background)} background"
    if chance() < 0.25:
        return f"{ground}, {subject}"
    return f"{_pick(OPENINGS, chance)}{subject} {ground}"
