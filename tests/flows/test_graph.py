"""What decides the result of a stage."""

from pathlib import Path

import pytest

from flows.graph import STAGES, TRAINED, open_graph
from flows.plan import Plan, total_seconds
from unclip.artifact import Artifact

FILE = Path(__file__).parents[1] / "shrunken.yaml"
CLIP = next(stage for stage in STAGES if stage.name == "clip")


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def key_of_clip(weights, store, model="ViT-S-32-alt"):
    """The key of the CLIP with these weights, over inputs that do not change."""
    section = f"clip={{pretrained: '{model}:{weights}', min_zero_shot: 0}}"
    made = {kind: (Artifact(kind, "0" * 64, store, "0" * 64),) for kind in ("source", "filter")}
    (step,) = open_graph(FILE, "shrunken", store, (section,)).steps(CLIP, made)
    return step.recipe.key


def test_other_bytes_of_weights_are_another_clip(weights, tmp_path):
    before = key_of_clip(weights, tmp_path)
    weights.write_bytes(b"other weights")
    assert key_of_clip(weights, tmp_path) != before


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "tokenizer.json"])
def test_a_folders_clip_is_another_with_other_files_and_the_same_elsewhere(name, tmp_path):
    (tmp_path / "f").mkdir()
    for file in ("open_clip_model.safetensors", "open_clip_config.json", "tokenizer.json"):
        (tmp_path / "f" / file).write_text(file)
    before = key_of_clip(tmp_path / "f", tmp_path, "local-dir")
    assert key_of_clip((tmp_path / "f").rename(tmp_path / "g"), tmp_path, "local-dir") == before
    (tmp_path / "g" / name).write_text("other")
    assert key_of_clip(tmp_path / "g", tmp_path, "local-dir") != before


def test_weights_moved_are_the_same_clip(weights, tmp_path):
    before = key_of_clip(weights, tmp_path)
    assert key_of_clip(weights.rename(tmp_path / "moved.safetensors"), tmp_path) == before


def test_a_download_goes_on_from_what_a_killed_one_left():
    assert {stage.name for stage in STAGES if stage.resumes} == {"download", "clip", *TRAINED}


def test_a_stage_reads_only_stages_before_it():
    names = [stage.name for stage in STAGES]
    for place, stage in enumerate(STAGES):
        assert set(stage.inputs) - {"shards"} <= set(names[:place])


def test_until_a_stage_is_that_stage_and_what_it_needs(tmp_path):
    graph = open_graph(FILE, "shrunken", tmp_path)
    assert [s.name for s in graph.stages("select")] == ["source", "score", "filter", "clip", "embed", "select"]
    assert [s.name for s in graph.stages("upsampler_top")] == ["source", "score", "filter", "upsampler_top"]
    assert graph.stages("report") == graph.stages()


def test_stages_made_side_by_side_do_not_read_each_other(tmp_path):
    groups = open_graph(FILE, "shrunken", tmp_path).groups()
    assert [len(group) for group in groups if len(group) > 1] == [3, 2]
    for group in groups:
        assert not {stage.name for stage in group} & {name for stage in group for name in stage.inputs}


def test_stages_side_by_side_take_as_long_as_the_fuller_of_two_lanes(tmp_path):
    graph = open_graph(FILE, "shrunken", tmp_path)
    seconds = {"clip": 50.0, "upsampler_mid": 20.0, "upsampler_top": 40.0, "decoder": 100.0}
    plans = [Plan(stage, 0, 1, "", s, 0, "") for stage, s in seconds.items()]
    assert total_seconds(plans, graph) == 60.0 + 100.0
