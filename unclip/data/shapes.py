"""Pictures of one or two objects drawn by us, with captions: sample i is a function of the seed and i."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unclip.data.config import ShapesConfig
from unclip.data.shapes_figures import coverage, pixel_grid
from unclip.data.shapes_split import Kind, combination_of, partition
from unclip.data.shapes_text import Chance, describe
from unclip.data.shapes_words import BACKGROUNDS, COLORS, RELATIONS, SIZES, Span, Words, words_of

TEXTURE_DEPTH = 20.0  # how much lighter and darker a texture gets, of 255


@dataclass(frozen=True, kw_only=True)
class ShapeObject:
    """One object; x, y: its middle from the left and the top, extent: its width, in fractions of the side."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    extent: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows. relation: of the first object to the second; None with one object."""

    objects: tuple[ShapeObject, ...]
    relation: str | None
    background: str
    texture: str
    combination: str  # shared with the swapped version, and wholly in one split
    split: str  # "train" or "test"

    def meta(self) -> dict[str, Any]:
        """The scene as JSON values."""
        return {**vars(self), "objects": [dict(vars(thing)) for thing in self.objects]}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample: pixels uint8 (H, W, 3), its caption, and the scene as JSON values."""

    pixels: NDArray[np.uint8]
    caption: str
    meta: dict[str, Any]


def objects_of(meta: Mapping[str, Any]) -> tuple[ShapeObject, ...]:
    """The objects in a sample's metadata."""
    return tuple(ShapeObject(**thing) for thing in meta["objects"])


def scene_of(meta: Mapping[str, Any]) -> Scene:
    """The scene in a sample's metadata: the inverse of `Scene.meta`; other keys are passed over."""
    fields = {name: meta[name] for name in ("relation", "background", "texture", "combination", "split")}
    return Scene(objects=objects_of(meta), **fields)


def _between(chance: Chance, span: Span) -> float:
    return span[0] + (span[1] - span[0]) * chance()


def _lay_out(
    extents: tuple[float, ...], relation: str | None, words: Words, chance: Chance
) -> list[tuple[float, float]]:
    """Middles (x, y): objects in a row along the relation's axis, with the room left over shared out between them."""
    weights = [1 + words.gap_spread * (2 * chance() - 1) for _ in range(len(extents) + 1)]
    room = (1 - sum(extents)) / sum(weights)
    order = range(len(extents)) if relation in ("left of", "above", None) else reversed(range(len(extents)))
    edge, middles = 0.0, [(0.0, 0.0)] * len(extents)
    for place, index in enumerate(order):
        edge += weights[place] * room
        along, aside = edge + extents[index] / 2, 0.5 + words.jitter * (2 * chance() - 1)
        middles[index] = (aside, along) if relation in ("above", "below") else (along, aside)
        edge += extents[index]
    return middles


def draw_scene(config: ShapesConfig, chance: Chance) -> Scene:
    """A scene from a stream of random numbers: kinds first, then places by construction."""
    words, parts = words_of(config.difficulty), partition(config.difficulty, config.held_out_prob)
    paired = chance() < config.pair_prob
    kinds: tuple[Kind, ...]
    kinds = (
        parts.pairs[int(chance() * len(parts.pairs))]
        if paired
        else (parts.singles[int(chance() * len(parts.singles))],)
    )
    sizes = [SIZES[int(chance() * len(SIZES))] for _ in kinds]
    extents = tuple(_between(chance, (words.pair_px if paired else words.single_px)[size]) for size in sizes)
    relation = RELATIONS[int(chance() * len(RELATIONS))] if paired else None
    places = _lay_out(extents, relation, words, chance)
    objects = tuple(
        ShapeObject(shape=shape, color=color, size=size, x=round(x, 4), y=round(y, 4), extent=round(extent, 4))
        for (color, shape), size, (x, y), extent in zip(kinds, sizes, places, extents, strict=True)
    )
    return Scene(
        objects=objects,
        relation=relation,
        background=words.backgrounds[int(chance() * len(words.backgrounds))],
        texture=words.textures[int(chance() * len(words.textures))],
        combination=combination_of(kinds),
        split=parts.split(combination_of(kinds)),
    )


def _texture(name: str, side_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A pattern in -1..1, (side_px, side_px)."""
    x, y = pixel_grid(side_px)
    waves, phase, tilt = rng.uniform(4, 8), rng.uniform(0, 6.28), rng.uniform(0, 3.14)
    if name == "striped":
        return np.sin((x * np.cos(tilt) + y * np.sin(tilt)) * np.float32(6.28 * waves) + np.float32(phase)).astype(
            np.float32
        )
    if name == "checkered":
        pattern = ((np.floor(x * waves + phase) + np.floor(y * waves + phase)) % 2) * 2 - 1
        return np.asarray(pattern, np.float32)
    cells = rng.uniform(-1, 1, (16, 16)).astype(np.float32)
    steps = np.arange(side_px) * 16 // side_px
    return cells[steps][:, steps]


def paint(scene: Scene, side_px: int, words: Words, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture of a scene, uint8 (side_px, side_px, 3); rng gives shifts of colour, turns and texture."""
    shifts = rng.uniform(-words.color_jitter, words.color_jitter, (len(scene.objects) + 1, 3))
    turns = rng.uniform(-words.max_turn_deg, words.max_turn_deg, len(scene.objects))
    canvas = np.empty(
        (3, side_px, side_px), np.float32
    )  # a plane a channel: numpy is slow where the last axis is short
    canvas[:] = np.add(BACKGROUNDS[scene.background], shifts[-1])[:, None, None]
    if scene.texture != "plain":
        canvas += np.float32(TEXTURE_DEPTH) * _texture(scene.texture, side_px, rng)
    for thing, shift, turn_deg in zip(scene.objects, shifts, turns, strict=False):
        alpha = coverage(thing.shape, (thing.x, thing.y), thing.extent, side_px, turn_deg)
        canvas += alpha * (np.add(COLORS[thing.color], shift, dtype=np.float32)[:, None, None] - canvas)
    pixels = np.clip(canvas + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def draw_picture(config: ShapesConfig, seed: int, index: int) -> Picture:
    """Sample number `index`: a function of the configuration (but its counts), the seed and the index only."""
    rng = np.random.default_rng((seed, index))
    chance: Chance = iter(rng.random(40).tolist()).__next__
    scene = draw_scene(config, chance)
    ground = scene.background if scene.texture == "plain" else f"{scene.texture} {scene.background}"
    caption = describe(scene.objects, scene.relation, ground, chance, complete=scene.split == "test")
    pixels = paint(scene, config.image_px, words_of(config.difficulty), rng)
    return Picture(pixels=pixels, caption=caption, meta=scene.meta())


def render_shard(config: ShapesConfig, seed: int, shard: int) -> Iterator[Picture]:
    """The samples of one shard in order; a shard that is full stays the same when `num_samples` grows."""
    first = shard * config.shard_size
    if not 0 <= first < config.num_samples:
        raise ValueError(f"shard must be in 0..{config.num_shards - 1}, got {shard}")
    for index in range(first, min(first + config.shard_size, config.num_samples)):
        yield draw_picture(config, seed, index)
