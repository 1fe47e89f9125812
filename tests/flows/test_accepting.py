"""Code that was accepted to equal other code."""

import json
from pathlib import Path

import pytest

from flows.accepting import accept_code
from flows.graph import STAGES, open_graph
from unclip.recipe import Recipe, code_digest
from unclip.runs import begin_run, end_run
from unclip.store import Build, Store

FILE = Path(__file__).parents[1] / "shrunken.yaml"
FILTER = next(stage for stage in STAGES if stage.name == "filter")
NOW, OTHER, OLDEST = code_digest(FILTER.code), "b" * 64, "a" * 64


def opened(root, accepted=None):
    """The graph over the store, with what it is said to have accepted."""
    if accepted is not None:
        (root / "accepted.json").write_text(json.dumps(accepted))
    return open_graph(FILE, "shrunken", root)


def made_by(code, root):
    """A finished run whose filter was made by the code."""
    store, run = Store(root), begin_run("shrunken", {})
    recipe = Recipe(stage="filter", config={}, inputs={}, code=code, seed=0)
    artifact, _ = store.build(Build(kind="filter", recipe=recipe, fill=lambda out: {}))
    run.stages["filter"] = {"keys": [artifact.key]}
    end_run(store, run, "finished")


@pytest.mark.timeout(5)
def test_a_circle_of_accepted_code_ends(tmp_path):
    assert opened(tmp_path, {NOW: OTHER, OTHER: NOW}).code_of(FILTER) in (NOW, OTHER)


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    ("last", "accepted", "after"),
    [
        (OTHER, {}, {NOW: OTHER}),
        (OTHER, {OTHER: NOW}, {NOW: OTHER}),
        (OTHER, {OTHER: OLDEST}, {NOW: OTHER}),
        (NOW, {NOW: OTHER}, {}),
    ],
)
def test_accepted_code_counts_as_what_made_the_last_artifact(tmp_path, last, accepted, after):
    made_by(last, tmp_path)
    accept_code(opened(tmp_path, accepted), "filter")
    assert json.loads((tmp_path / "accepted.json").read_text()) == after
    assert opened(tmp_path).code_of(FILTER) == last
