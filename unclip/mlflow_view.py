"""Pipeline runs as MLflow shows them: a run a pipeline run, a nested run a stage that really ran.

Writing the same thing twice changes nothing, so a run cut off anywhere can be written again from its record. Big files
are referenced by their place in the store, never copied. MLflow is imported when the view is opened (3 s).
"""

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from unclip.blanks import adopt_blank, keep_blank
from unclip.mlflow_tables import log_funnel
from unclip.prefect_server import OFFLINE

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "KILLED"}
_SHOWN = {".png": 4 << 20, ".json": 1 << 20, ".html": 16 << 20}  # most bytes of a file that is copied, by suffix
_NUM_SHOWN = 40  # files an artifact
_NUM_KEYS = 400  # prefixes of 16 hex digits in a tag; MLflow cuts tags at 8,000 characters


class MlflowView:
    """The MLflow database of a store, `STORE/mlflow/mlflow.db`, with what it shows in `STORE/mlflow/artifacts`."""

    def __init__(self, store_root: Path) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in OFFLINE.items()})
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is raised, and said once

        self.root = store_root.absolute()
        self.folder = self.root / "mlflow"
        self.folder.mkdir(parents=True, exist_ok=True)
        database = self.folder / "mlflow.db"
        if not adopt_blank(database, "mlflow"):
            keep_blank("mlflow", _migrate)
            adopt_blank(database, "mlflow")
        with closing(sqlite3.connect(database)) as connection:  # MLflow would try for two minutes
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self.client = MlflowClient(tracking_uri(self.root))

    def open_run(
        self, run_id: str, pipeline: str, started: str, settings: dict[str, Any]
    ) -> tuple[str, dict[str, str]]:
        """The MLflow ids of the pipeline run `run_id`, there already or made now, and of its stages told so far."""
        experiment = self._experiment(pipeline)
        told = self.client.search_runs([experiment], f"tags.`unclip.run` = '{run_id}'", max_results=1000)
        stages = {run.data.tags.get("unclip.stage", ""): str(run.info.run_id) for run in told}
        run = stages.pop("", None)
        if run is None:
            tags = {"unclip.run": run_id, "unclip.pipeline": pipeline, "mlflow.source.name": f"unclip run {pipeline}"}
            run = self._create(experiment, tags, f"{pipeline} {started[:19]}".replace("T", " "), started)
        self._log_params(run, settings)
        self.client.log_dict(run, settings, "settings.json")
        return run, stages

    def open_stage(self, parent: str, run_id: str, stage: str, started: str) -> str:
        """The MLflow id of a new nested run of the stage."""
        tags = {"unclip.run": run_id, "unclip.stage": stage, "mlflow.parentRunId": parent}
        return self._create(self.client.get_run(parent).info.experiment_id, tags, stage, started)

    def add_figures(self, run: str, step: int, figures: dict[str, float], at_ms: int) -> None:
        """A point of every figure's curve."""
        from mlflow.entities import Metric

        self.client.log_batch(run, metrics=[Metric(n, v, at_ms, step) for n, v in numbers(figures).items()])

    def close_stage(self, run: str, manifests: Sequence[dict[str, Any]]) -> None:
        """Finish a stage's run with all that it made: settings, inputs, metrics, curves, pictures, manifest."""
        last = max(manifests, key=lambda m: m["ended"])
        self._log_params(run, {**last["recipe"]["config"], "seed": last["recipe"]["seed"]})
        self._log_inputs(run, manifests)
        for manifest in manifests if len(manifests) <= _NUM_SHOWN else manifests[:1]:
            below = "" if len(manifests) == 1 else manifest["key"][:16]
            self._log_files(run, manifest, below)
        if len(manifests) == 1:
            self.add_figures(run, 0, last["metrics"], _milliseconds(last["ended"]))
            self._log_curve(run, last)
            self.show_funnel(run, last)
        self._tag(run, _description(manifests))
        self.client.set_terminated(run, "FINISHED", _milliseconds(last["ended"]))

    def show_funnel(self, run: str, manifest: dict[str, Any]) -> None:
        """What became of the rows, as a table and as figures."""
        folder = self.root / "artifacts" / manifest["kind"] / manifest["key"]
        if figures := log_funnel(self.client, run, folder):
            self.add_figures(run, 0, figures, _milliseconds(manifest["ended"]))

    def fail_stage(self, run: str, error: str, status: str) -> None:
        """Finish a stage's run with an error."""
        self._tag(run, {"error": error, "mlflow.note.content": error})
        self.client.set_terminated(run, STATUS[status])

    def link_found(self, parent: str, stage: str, keys: Sequence[str]) -> str | None:
        """Say on the pipeline's run which artifacts the stage had, and which run made them; that run's MLflow id."""
        maker = self._maker(stage, keys[0])
        what = keys[0] if len(keys) == 1 else f"{len(keys)} artifacts, {_root_digest(keys)}"
        self._tag(parent, {f"found.{stage}": f"{what} made by {f'run {maker}' if maker else 'a run not shown here'}"})
        return maker

    def close_run(self, parent: str, status: str, ended: str | None, stages: dict[str, dict[str, Any]]) -> None:
        """Finish the pipeline's run, and its nested runs that are still open, with a table of its stages.

        stages: by name in order, {"what": "made" or "found", "seconds", "keys", "run": MLflow id or None}.
        """
        experiment = self.client.get_run(parent).info.experiment_id
        nested = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([experiment], nested):
            self.fail_stage(run.info.run_id, f"the run was {status}", "interrupted")
        self._tag(parent, {"mlflow.note.content": _table(experiment, stages)})
        self.client.set_terminated(parent, STATUS[status], _milliseconds(ended) if ended else None)

    def _maker(self, stage: str, key: str) -> str | None:
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        wanted = f"tags.`unclip.stage` = '{stage}' and tags.`unclip.keys` LIKE '%{key[:16]}%'"
        runs = self.client.search_runs(experiments, wanted, max_results=1)
        return runs[0].info.run_id if runs else None

    def _experiment(self, pipeline: str) -> str:
        if found := self.client.get_experiment_by_name(pipeline):
            return str(found.experiment_id)
        place = (self.folder / "artifacts" / pipeline).as_uri()
        return str(self.client.create_experiment(pipeline, artifact_location=place))

    def _create(self, experiment: str, tags: dict[str, str], name: str, started: str) -> str:
        made = self.client.create_run(experiment, _milliseconds(started), {"mlflow.user": "unclip", **tags}, name)
        return str(made.info.run_id)

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, value[:7900]) for name, value in tags.items()])

    def _log_params(self, run: str, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value[:5900]) for name, value in flat(settings).items()]
        for start in range(0, len(params), 100):  # MLflow's limit a call
            self.client.log_batch(run, params=params[start : start + 100])

    def _log_inputs(self, run: str, manifests: Sequence[dict[str, Any]]) -> None:
        """One dataset an input, however many shards it has; MLflow holds 36 characters of a digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        rows = []
        for name, (digest, keys) in _inputs(manifests).items():
            source = json.dumps({"uri": self._place(keys)})
            profile = json.dumps({"num_artifacts": len(keys), "sha256": digest})
            dataset = Dataset(name, digest[:32], "local", source, profile=profile)
            rows.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
            self._tag(run, {f"input.{name}.digest": digest})
        if rows:
            self.client.log_inputs(run, rows)

    def _place(self, keys: Sequence[str]) -> str:
        """Where the artifact lies, or the folder of them all."""
        found = next(self.root.glob(f"artifacts/*/{keys[0]}"), self.root) if keys else self.root
        return (found if len(keys) == 1 else found.parent).as_uri()

    def _log_files(self, run: str, manifest: dict[str, Any], below: str) -> None:
        folder = self.root / "artifacts" / manifest["kind"] / manifest["key"]
        small = (n for n, entry in manifest["files"].items() if entry["bytes"] <= _SHOWN.get(Path(n).suffix, -1))
        for name in ["manifest.json", *islice(small, _NUM_SHOWN)]:
            if (folder / name).is_file():
                place = Path(below, name).parent.as_posix()
                self.client.log_artifact(run, str(folder / name), None if place == "." else place)

    def _log_curve(self, run: str, manifest: dict[str, Any]) -> None:
        """The points of `curve.jsonl` that were not sent while they were made."""
        from mlflow.entities import Metric

        path = self.root / "artifacts" / manifest["kind"] / manifest["key"] / "curve.jsonl"
        if not path.is_file():
            return
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        begin, end = _milliseconds(manifest["started"]), _milliseconds(manifest["ended"])
        last = max((row["step"] for row in rows), default=1) or 1
        names = {name for row in rows for name in numbers(row)} - {"step"}
        known = {name: {m.step for m in self.client.get_metric_history(run, name)} for name in names}
        points = (
            Metric(name, value, int(begin + (end - begin) * row["step"] / last), row["step"])
            for row in rows
            for name, value in numbers(row).items()
            if name != "step" and row["step"] not in known[name]
        )
        for some in iter(lambda: list(islice(points, 1000)), []):  # MLflow's limit a call
            self.client.log_batch(run, metrics=some)


def _migrate(database: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{database}")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM experiments")  # the default one knows its folder; MLflow makes it again


def tracking_uri(store_root: Path) -> str:
    """The absolute address of the store's MLflow database."""
    return f"sqlite:///{store_root.absolute() / 'mlflow' / 'mlflow.db'}"


def flat(settings: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of dotted names and text; lists stay whole."""
    if isinstance(settings, dict) and settings:
        return {n: v for name, inner in settings.items() for n, v in flat(inner, f"{prefix}.{name}".strip(".")).items()}
    return {prefix: settings if isinstance(settings, str) else json.dumps(settings)} if prefix else {}


def numbers(figures: Any, prefix: str = "") -> dict[str, float]:
    """The numbers in nested figures, by dotted name."""
    if isinstance(figures, dict):
        found = (numbers(inner, f"{prefix}.{name}".strip(".")) for name, inner in figures.items())
        return {name: value for some in found for name, value in some.items()}
    is_number = isinstance(figures, int | float) and not isinstance(figures, bool)
    return {prefix: float(figures)} if prefix and is_number else {}


def _description(manifests: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What a stage's run says of what it made."""
    first, keys = manifests[0], [m["key"] for m in manifests]
    commit = first["git"]["commit"]
    dirty = " with changes" if first["git"]["dirty"] else ""
    made = [f"- `artifacts/{m['kind']}/{m['key']}`, {m['seconds']:.1f} s" for m in manifests[:_NUM_SHOWN]]
    tags = {
        "unclip.keys": " ".join(key[:16] for key in keys[:_NUM_KEYS]),
        "unclip.digest": first["digest"] if len(manifests) == 1 else _root_digest(m["digest"] for m in manifests),
        "unclip.code": first["recipe"]["code"],
        "unclip.environment": first["environment"],
        "unclip.hardware": json.dumps(first["hardware"]),
        "mlflow.note.content": "\n".join([f"Made, in the store, by commit `{commit}`{dirty}:\n", *made]),
    }
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def _inputs(manifests: Sequence[dict[str, Any]]) -> dict[str, tuple[str, list[str]]]:
    """By input name, one digest over what all the artifacts read of it, and the keys of what they read."""
    read: dict[str, dict[str, str]] = {}
    for manifest in manifests:
        for name, digests in manifest["recipe"]["inputs"].items():
            keys = manifest["parents"].get(name, [])
            read.setdefault(name, {}).update(zip(keys, digests, strict=False))
    return {
        name: (next(iter(by_key.values())) if len(by_key) == 1 else _root_digest(by_key.values()), list(by_key))
        for name, by_key in read.items()
        if by_key
    }


def _root_digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _table(experiment: str, stages: dict[str, dict[str, Any]]) -> str:
    rows = ["| stage | | seconds | artifact |", "|---|---|---:|---|"]
    for stage, row in stages.items():
        link = f"[{stage}](#/experiments/{experiment}/runs/{row['run']})" if row["run"] else stage
        keys = row["keys"]
        what = f"`{keys[0][:12]}`" if len(keys) == 1 else f"{len(keys)} artifacts"
        rows.append(f"| {link} | {row['what']} | {row['seconds']:.1f} | {what} |")
    return "\n".join(rows)


def _milliseconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)
