"""The `shapes` pictures: reproducible, truly described, and with combinations that training never meets."""

import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from unclip.data.config import ShapesConfig
from unclip.data.shapes import Picture, ShapeObject, draw_picture, objects_of, render_shard, scene_of
from unclip.data.shapes_split import partition
from unclip.data.shapes_text import PHRASES, describe
from unclip.data.shapes_words import OPPOSITE, words_of

DIFFICULTIES = ("easy", "full")


@pytest.fixture(scope="module", params=DIFFICULTIES)
def pictures(request) -> list[Picture]:
    config = ShapesConfig(difficulty=request.param, num_samples=2_000, shard_size=2_000, image_px=24)
    return list(render_shard(config, seed=3, shard=0))


def kinds(picture: Picture) -> tuple[tuple[str, str], ...]:
    return tuple((thing.color, thing.shape) for thing in objects_of(picture.meta))


def test_a_full_shard_does_not_depend_on_how_many_there_are():
    few, many = (ShapesConfig(num_samples=count, shard_size=5) for count in (10, 1_000))
    for one, other in zip(render_shard(few, 1, 1), render_shard(many, 1, 1), strict=True):
        assert one.caption == other.caption and one.meta == other.meta
        assert np.array_equal(one.pixels, other.pixels)


def test_the_last_shard_holds_the_rest():
    config = ShapesConfig(num_samples=7, shard_size=5)
    assert [len(list(render_shard(config, 0, shard))) for shard in range(config.num_shards)] == [5, 2]


def test_a_shard_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match=r"shard must be in 0\.\.1, got 2"):
        next(render_shard(ShapesConfig(num_samples=7, shard_size=5), 0, 2))


def test_another_seed_gives_another_picture():
    one, other = (draw_picture(ShapesConfig(), seed, 0) for seed in (0, 1))
    assert not np.array_equal(one.pixels, other.pixels)


def test_held_out_combinations_are_never_trained_on(pictures):
    trained = {frozenset(kinds(p)) for p in pictures if p.meta["split"] == "train"}
    tested = {frozenset(kinds(p)) for p in pictures if p.meta["split"] == "test"}
    assert tested and not trained & tested


def test_a_held_out_single_is_in_no_pair(pictures):
    held = {kinds(p)[0] for p in pictures if p.meta["split"] == "test" and len(kinds(p)) == 1}
    assert not held & {kind for p in pictures if len(kinds(p)) == 2 for kind in kinds(p)}


def test_a_swapped_pair_shares_its_split(pictures):
    splits = {frozenset(kinds(p)): p.meta["split"] for p in pictures if len(kinds(p)) == 2}
    for (a, b), split in ((tuple(pair), split) for pair, split in splits.items()):
        swapped = frozenset({(b[0], a[1]), (a[0], b[1])})
        assert splits.get(swapped, split) == split


def test_singles_and_pairs_are_held_out_in_good_numbers(pictures):
    counts = Counter((len(kinds(p)), p.meta["split"]) for p in pictures)
    for num_objects in (1, 2):
        both = counts[num_objects, "test"] + counts[num_objects, "train"]
        assert 0.05 < counts[num_objects, "test"] / both < 0.3


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_every_value_stays_common_in_training(difficulty):
    words, parts = words_of(difficulty), partition(difficulty, 0.15)
    seen = Counter(word for kind in parts.singles if parts.split(" ".join(kind)) == "train" for word in kind)
    assert all(seen[color] >= 0.6 * len(words.shapes) for color in words.colors)
    assert all(seen[shape] >= 0.6 * len(words.colors) for shape in words.shapes)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_no_two_colours_and_no_two_shapes_lose_more_than_their_like(difficulty):
    words, parts = words_of(difficulty), partition(difficulty, 0.15)
    held = [name.split() for name in parts.held_out if "+" in name]
    for place, values in ((0, words.colors), (1, words.shapes)):
        lost = Counter(names[place] for names in held)
        counts = [lost["+".join(sorted(two))] for two in combinations(values, 2)]
        assert 0 < max(counts) <= min(counts) + 1


def test_nothing_is_held_out_at_zero():
    assert not partition("easy", 0.0).held_out


def test_captions_of_held_out_pictures_name_all_that_is_asked(pictures):
    for picture in (p for p in pictures if p.meta["split"] == "test"):
        assert all(f"{color} {shape}" in picture.caption for color, shape in kinds(picture))
        told = [
            relation for relation, words in PHRASES.items() if any(f" {word} " in picture.caption for word in words)
        ]
        assert len(told) == len(kinds(picture)) - 1


def test_captions_are_true(pictures):
    for picture in pictures:
        things, relation = objects_of(picture.meta), picture.meta["relation"]
        told = [name for name, words in PHRASES.items() if any(f" {word} " in picture.caption for word in words)]
        if told:
            first, _ = sorted(things, key=lambda thing: picture.caption.index(thing.shape))
            assert told == [relation if first == things[0] else OPPOSITE[relation]]
        for word in set(picture.caption.split()) & set(words_of("full").colors):
            assert word in {thing.color for thing in things}


def test_the_relation_holds_in_the_picture(pictures):
    for scene in (scene_of(p.meta) for p in pictures if p.meta["relation"]):
        first, second = scene.objects
        gap = second.x - first.x if scene.relation in ("left of", "right of") else second.y - first.y
        assert gap * (1 if scene.relation in ("left of", "above") else -1) > (first.extent + second.extent) / 2


def test_objects_lie_within_the_picture(pictures):
    for thing in (thing for p in pictures for thing in objects_of(p.meta)):
        for middle in (thing.x, thing.y):
            assert thing.extent / 2 <= middle <= 1 - thing.extent / 2


def test_swapped_descriptions_both_occur(pictures):
    first = [p.caption.index(kinds(p)[0][1]) < p.caption.index(kinds(p)[1][1]) for p in pictures if p.meta["relation"]]
    assert 0.3 < np.mean(first) < 0.7


def test_some_captions_leave_colours_out(pictures):
    silent = [not any(color in p.caption for color, _ in kinds(p)) for p in pictures if p.meta["split"] == "train"]
    assert 0.2 < np.mean(silent) < 0.4


def test_metadata_survives_json(pictures):
    scene = scene_of(json.loads(json.dumps(pictures[0].meta)))
    assert scene.meta() == pictures[0].meta


def test_a_complete_caption_reads_well():
    place = {"size": "small", "x": 0.5, "y": 0.5, "extent": 0.3}
    things = (ShapeObject(shape="square", color="red", **place), ShapeObject(shape="cross", color="orange", **place))
    caption = describe(things, "left of", "gray", lambda: 0.55, complete=True)
    assert caption == "a red square left of an orange cross"


@pytest.mark.parametrize(("field", "value"), [("difficulty", "hard"), ("pair_prob", 1.1), ("num_samples", 0)])
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got "):
        ShapesConfig(**{field: value})
