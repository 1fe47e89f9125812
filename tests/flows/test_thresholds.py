"""A changed threshold recomputes no score: facts about recipes, with the stages built directly."""

from pathlib import Path

import pytest

from flows.execute import Execution
from flows.graph import open_graph

FILE = Path(__file__).parents[1] / "shrunken.yaml"
SMALL = ("source.shapes.num_samples=40", "source.shapes.shard_size=20")


def made(store, *settings):
    """How many artifacts of each stage a run until `filter` makes."""
    graph = open_graph(FILE, "shrunken", store, (*SMALL, *settings))
    counts, execution = {}, Execution(graph, [])
    for stage in graph.stages("filter"):
        counts[stage.name] = sum(step.found is None for step in graph.steps(stage, execution.made))
        execution.build(stage)
    return counts


def test_a_changed_threshold_finds_every_score(tmp_path):
    assert made(tmp_path) == {"source": 2, "score": 2, "filter": 1}
    settings = ("filter.min_words=2", "filter.languages=[en, unknown]", "filter.min_language_prob=0.9")
    for setting in settings[:1], settings, ("filter.max_hamming=4", "filter.keep=sharpest"):
        assert made(tmp_path, *setting) == {"source": 0, "score": 0, "filter": 1}
    assert made(tmp_path) == {"source": 0, "score": 0, "filter": 0}


def test_another_field_of_the_source_is_another_score(tmp_path):
    made(tmp_path)
    assert made(tmp_path, "score.unsafe_field=nsfw")["score"] == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("select.min_aesthetic=5", "--set select.min_aesthetic needs the section aesthetic"),
        ("aesthetic={head: /nowhere}", "aesthetic.head must be a folder with head.json and head.safetensors"),
        ("select={evaluation: /nowhere, max_leak_cosine: 0.9}", "select.evaluation must be a folder with"),
    ],
)
def test_what_a_policy_needs_is_missed_before_anything_runs(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        open_graph(FILE, "shrunken", tmp_path, (setting,))


def test_select_reads_ratings_only_where_the_pipeline_has_a_head(tmp_path):
    (tmp_path / "head.json").write_text("{}")
    (tmp_path / "head.safetensors").write_bytes(b"")
    with_head = open_graph(FILE, "shrunken", tmp_path, (f"aesthetic.head={tmp_path}",))
    for graph, expected in ((open_graph(FILE, "shrunken", tmp_path), False), (with_head, True)):
        stages = {stage.name: stage for stage in graph.stages()}
        assert ("aesthetic" in stages) == ("aesthetic" in graph.inputs_of(stages["select"])) == expected


def test_the_bytes_of_a_head_count_and_not_its_place(tmp_path):
    digests = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "head.json").write_text("{}")
        (tmp_path / name / "head.safetensors").write_bytes(content)
        graph = open_graph(FILE, "shrunken", tmp_path, (f"aesthetic.head={tmp_path / name}",))
        digests.append(graph.folders["aesthetic"]["head"])
    assert digests[0] == digests[1] != digests[2]
