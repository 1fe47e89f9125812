"""MLflow shows what the store holds, and a run does not depend on it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unclip.artifact import Artifact
from unclip.mlflow_view import flat, numbers, tracking_uri
from unclip.recipe import Recipe
from unclip.runs import RunRecord, begin_run, end_run, save_run
from unclip.store import Build, Store
from unclip.tracking import Tracker, rebuild

STEPS = 5


def fill(out: Path) -> dict[str, object]:
    """A stage with a curve, a picture, a big file and nested metrics."""
    rows = [{"step": step, "loss": 1 / step} for step in range(1, STEPS + 1)]
    (out / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "samples.png").write_bytes(b"\x89PNG" + bytes(100))
    (out / "ema.safetensors").write_bytes(bytes(1000))
    return {"prior": {"accuracy": 0.5}}


def build(store: Store, stage: str, read: tuple[Artifact, ...] = (), seed: int = 0) -> Artifact:
    digests = tuple(a.digest for a in read)
    inputs = {"shards": digests} if read else {}
    recipe = Recipe(stage=stage, config={"net": {"width": 8}}, inputs=inputs, code="c0de", seed=seed)
    parents = {"shards": tuple(a.key for a in read)} if read else {}
    return store.build(Build(kind=stage, recipe=recipe, parents=parents, fill=fill))[0]


def run_pipeline(store: Store) -> None:
    """Two shards and a trained stage that reads them, told to a tracker as the flow tells it."""
    record = begin_run("toy", {"train": {"width": 8}})
    tracker = Tracker(store, record)
    count = len(list(store.artifacts()))
    shards = tuple(build(store, "source", seed=number) for number in range(2))
    told(store, tracker, record, "source", shards, 0 if count else 2)
    decoder = build(store, "decoder", shards)
    told(store, tracker, record, "decoder", (decoder,), 0 if count else 1)
    end_run(store, record, "finished")
    assert tracker.close("finished")


def told(
    store: Store, tracker: Tracker, record: RunRecord, stage: str, artifacts: tuple[Artifact, ...], built: int
) -> None:
    if built:
        tracker.started(stage, None, len(artifacts))
        tracker.progressed(stage, 2, STEPS if len(artifacts) == 1 else 1, {"loss": 0.5})
    record.stages[stage] = {"keys": [a.key for a in artifacts], "seconds": 1.0}
    save_run(store, record)
    tracker.finished(stage, artifacts, built, 1.0)


def runs(store: Store) -> dict[str, list]:
    """MLflow's runs by stage, the pipeline's own under "toy", oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(store.root))
    experiments = [e.experiment_id for e in client.search_experiments()]
    by_stage: dict[str, list] = {}
    for run in client.search_runs(experiments, order_by=["attributes.start_time ASC"]):
        by_stage.setdefault(run.data.tags.get("unclip.stage", "toy"), []).append(run)
    return by_stage


def shown(store: Store) -> dict[str, object]:
    """What a person sees, without MLflow's ids and the time of points."""
    return {
        stage: [(r.info.status, r.data.params, r.data.metrics, r.data.tags["unclip.run"]) for r in found]
        for stage, found in runs(store).items()
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store in which the pipeline ran twice."""
    made = Store(tmp_path_factory.mktemp("store"))
    run_pipeline(made)
    run_pipeline(made)
    return made


def test_only_a_stage_that_ran_has_a_run(store):
    by_stage = runs(store)
    assert {stage: len(found) for stage, found in by_stage.items()} == {"toy": 2, "source": 1, "decoder": 1}
    parent = by_stage["toy"][0].info.run_id
    assert by_stage["decoder"][0].data.tags["mlflow.parentRunId"] == parent


def test_a_found_stage_names_the_run_that_made_it(store):
    by_stage = runs(store)
    tags = by_stage["toy"][1].data.tags
    assert tags["found.decoder"].endswith(f"made by run {by_stage['decoder'][0].info.run_id}")
    assert tags["found.source"].startswith("2 artifacts")
    assert by_stage["decoder"][0].info.run_id in tags["mlflow.note.content"]


def test_many_shards_are_one_dataset_with_the_digest_of_all(store):
    (decoder,) = runs(store)["decoder"]
    (shards,) = decoder.inputs.dataset_inputs
    assert shards.dataset.name == "shards"
    assert shards.dataset.digest == decoder.data.tags["input.shards.digest"][:32]
    assert json.loads(shards.dataset.source)["uri"] == (store.root / "artifacts" / "source").as_uri()


def test_settings_metrics_and_curve_are_shown_once(store):
    from mlflow import MlflowClient

    (decoder,) = runs(store)["decoder"]
    curve = MlflowClient(tracking_uri(store.root)).get_metric_history(decoder.info.run_id, "loss")
    assert sorted(point.step for point in curve) == list(range(1, STEPS + 1))
    assert decoder.data.params == {"net.width": "8", "seed": "0"}
    assert decoder.data.metrics["prior.accuracy"] == 0.5


def test_pictures_are_copied_and_weights_are_not(store):
    from mlflow import MlflowClient

    (decoder,) = runs(store)["decoder"]
    files = MlflowClient(tracking_uri(store.root)).list_artifacts(decoder.info.run_id)
    assert [file.path for file in files] == ["manifest.json", "samples.png"]


def test_a_broken_database_is_written_again_from_the_store(store, tmp_path):
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    (copy.root / "mlflow" / "mlflow.db").write_text("not a database " * 100)
    assert rebuild(copy.root) == 2
    assert shown(copy) == shown(store)
    assert rebuild(copy.root) == 2
    assert shown(copy) == shown(store)


def test_a_failed_run_is_written_again_and_a_damaged_record_left_out(store, tmp_path):
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    end_run(copy, begin_run("toy", {}), "failed", "decoder")
    end_run(copy, begin_run("toy", {}), "failed at decoder")  # as the first records said it
    (copy.root / "runs" / "00-damaged.json").write_text("{")
    assert rebuild(copy.root) == 4
    assert [r.info.status for r in runs(copy)["toy"]] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    run_pipeline(copy)  # is told, though the damaged one waits on
    assert [path.name for path in (copy.root / "mlflow" / "pending").iterdir()] == ["00-damaged"]


def test_a_failing_mlflow_stops_nothing_and_is_said_once(tmp_path):
    store, said = Store(tmp_path), []
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").mkdir()  # no file can be opened there
    record = begin_run("toy", {})
    tracker = Tracker(store, record, said.append)
    told(store, tracker, record, "source", (build(store, "source"),), 1)
    end_run(store, record, "finished")
    assert not tracker.close("finished")
    assert len(said) == 1
    (tmp_path / "mlflow" / "mlflow.db").rmdir()
    run_pipeline(store)
    assert [r.info.status for r in runs(store)["toy"]] == ["FINISHED", "FINISHED"]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from unclip.runs import begin_run
from unclip.store import Store
from unclip.tracking import Tracker
store = Store(Path(sys.argv[1]))
tracker = Tracker(store, begin_run("toy", {}))
tracker.started("decoder", None, 1)
while not tracker._jobs.empty():
    time.sleep(0.05)
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_command_closes_a_killed_run(tmp_path):
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    store = Store(tmp_path)
    assert {r.info.status for found in runs(store).values() for r in found} == {"RUNNING"}
    run_pipeline(store)
    assert [r.info.status for r in runs(store)["toy"]] == ["KILLED", "FINISHED"]
    assert [r.info.status for r in runs(store)["decoder"]] == ["KILLED", "FINISHED"]


def test_nested_settings_become_dotted_names():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {"a.b": "1", "a.c": "[1, 2]", "d": "x"}


def test_only_numbers_are_metrics():
    assert numbers({"a": {"b": 1, "c": "x"}, "d": True, "e": 2.5}) == {"a.b": 1.0, "e": 2.5}
