"""Binding: attributes on the right object count, on the wrong one they don't; and what guessing gives."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unclip.data.config import ShapesConfig
from unclip.data.shapes import Scene, draw_scene, render_shard, scene_of
from unclip.data.shapes_words import OPPOSITE
from unclip.metrics.binding import judge, measure_binding
from unclip.metrics.chance import chance_accuracies, guess_set
from unclip.metrics.recogniser import Reading, Seen, recognise


def scenes(pair_prob: float, num_samples: int = 300, held_out_prob: float = 0.15) -> list[Scene]:
    config = ShapesConfig(pair_prob=pair_prob, held_out_prob=held_out_prob)
    rng = np.random.default_rng(5)
    return [draw_scene(config, rng.random) for _ in range(num_samples)]


def perfect(scene: Scene) -> Reading:
    seen = [Seen(shape=o.shape, color=o.color, x=o.x, y=o.y, area=0.1, fit=1.0) for o in scene.objects]
    return Reading(objects=tuple(reversed(seen)), background=scene.background)


def swap_colors(reading: Reading) -> Reading:
    first, second = reading.objects
    return replace(reading, objects=(replace(first, color=second.color), replace(second, color=first.color)))


def test_perfect_readings_score_one():
    found = measure_binding(truth := scenes(0.5), [perfect(scene) for scene in truth])
    assert found.pop("num_singles") + found.pop("num_pairs") == len(truth)
    assert set(found.values()) == {1.0}


def test_exchanged_colours_are_right_attributes_unbound():
    found = measure_binding(truth := scenes(1.0), [swap_colors(perfect(scene)) for scene in truth])
    assert found["color_accuracy"] == found["shape_accuracy"] == 1.0
    assert found["pair_accuracy"] == found["relation_accuracy"] == 0.0
    assert found["relation_given_bound"] is None


def test_a_mirrored_pair_is_bound_but_misplaced():
    truth = scenes(1.0)
    asked = [replace(scene, relation=OPPOSITE[scene.relation]) for scene in truth]
    found = measure_binding(asked, [perfect(scene) for scene in truth])
    assert (found["pair_accuracy"], found["relation_accuracy"]) == (1.0, 0.0)


def test_the_order_of_the_objects_does_not_matter():
    for scene in scenes(1.0):
        told_otherwise = replace(scene, objects=scene.objects[::-1], relation=OPPOSITE[scene.relation])
        assert judge(scene, perfect(scene)) == judge(told_otherwise, perfect(scene))


def test_one_object_too_many_is_wrong():
    scene = scenes(0.0)[0]
    reading = perfect(scene)
    assert judge(scene, replace(reading, objects=reading.objects * 2))["bound"] == 0.0


def test_without_pairs_there_is_no_pair_accuracy():
    found = measure_binding(truth := scenes(0.0), [perfect(scene) for scene in truth])
    assert found["pair_accuracy"] is None and found["single_accuracy"] == 1.0


def test_real_pictures_are_bound():
    config = ShapesConfig(num_samples=200, shard_size=200)
    pictures = list(render_shard(config, 2, 0))
    found = measure_binding([scene_of(p.meta) for p in pictures], [recognise(p.pixels) for p in pictures])
    assert found["single_accuracy"] >= 0.99 and found["relation_accuracy"] >= 0.99


def test_chance_is_what_guessing_reaches():
    truth = scenes(0.5, 4_000, held_out_prob=0.0)
    for num_objects, name in ((1, "single_accuracy"), (2, "pair_accuracy")):
        kinds = [frozenset((o.color, o.shape) for o in s.objects) for s in truth if len(s.objects) == num_objects]
        hits = sum(count * count for count in Counter(kinds).values()) - len(kinds)  # a guess is another scene
        reached = hits / len(kinds) / (len(kinds) - 1)
        assert chance_accuracies(truth, truth)[name] == pytest.approx(reached, rel=0.1)


def test_the_chances_of_all_sets_add_up_to_one():
    likely = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert sum(guess_set(pair, likely) for pair in ("ab", "ac", "bc")) == pytest.approx(1)


def test_as_many_readings_as_scenes_are_needed():
    with pytest.raises(ValueError, match="readings must be as many as scenes, 1, got 0"):
        measure_binding(scenes(0.0)[:1], [])
