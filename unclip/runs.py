"""The record of every run: which artifacts its stages gave, kept as one small JSON file a run."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unclip.artifact import Artifact
from unclip.store import Store, write_atomically


@dataclass
class RunRecord:
    """One run of a pipeline: the keys of every stage's artifacts, how many were made, and how it ended."""

    run_id: str
    pipeline: str
    started: str
    settings: dict[str, Any]
    status: str = "running"
    ended: str | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed_stage: str | None = None

    def keys(self, stage: str) -> list[str]:
        """The keys of the stage's artifacts, in shard order; none if the run did not get there."""
        return list(self.stages.get(stage, {}).get("keys", []))


def begin_run(pipeline: str, settings: dict[str, Any]) -> RunRecord:
    """A record of a run that starts now; not written before something is worth keeping."""
    now = datetime.now(UTC)
    return RunRecord(f"{now:%Y%m%dT%H%M%S%f}-{pipeline}", pipeline, now.isoformat(), settings)


def save_run(store: Store, run: RunRecord) -> None:
    """Write the record, whole or not at all."""
    write_atomically(store.root / "runs" / f"{run.run_id}.json", json.dumps(asdict(run), indent=1))


def end_run(store: Store, run: RunRecord, status: str, failed_stage: str | None = None) -> None:
    """Close the record as `finished`, `failed` or `interrupted`."""
    run.status, run.failed_stage, run.ended = status, failed_stage, datetime.now(UTC).isoformat()
    save_run(store, run)


def load_run(path: Path) -> RunRecord:
    """The record in a file; the first ones say "failed at STAGE"."""
    values = json.loads(path.read_text())
    status, _, stage = values["status"].partition(" at ")
    return RunRecord(**{"failed_stage": stage or None, **values, "status": status})


def pending_note(store_root: Path, run_id: str) -> Path:
    """The file that is there, and locked by the run's process while that lives, until MLflow knows all of the run."""
    return store_root.absolute() / "mlflow" / "pending" / run_id


def lives(store: Store, run: RunRecord) -> bool:
    """Whether the run is under way: its record is open, and a process holds its note."""
    if run.status != "running":
        return False
    try:
        with open(pending_note(store.root, run.run_id)) as note:
            fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def runs_of(store: Store, pipeline: str | None = None) -> Iterator[RunRecord]:
    """The records of a pipeline's runs, or of all, newest first."""
    for path in sorted((store.root / "runs").glob("*.json"), reverse=True):
        run = load_run(path)
        if pipeline in (None, run.pipeline):
            yield run


def last_artifacts(store: Store, pipeline: str, stage: str) -> tuple[Artifact, ...]:
    """The artifacts of a stage as of the newest run that has them and whose artifacts are still there.

    Raises:
        ValueError: no run of the pipeline has that stage.
    """
    for run in runs_of(store, pipeline):
        found = [store.find(stage, key) for key in run.keys(stage)]
        artifacts = tuple(a for a in found if a is not None)
        if artifacts and len(artifacts) == len(found):
            return artifacts
    newest = next(runs_of(store, pipeline), None)
    if newest is None:
        raise ValueError(f"{store.root} holds no run of pipeline '{pipeline}'{but_of(store)}")
    if newest.settings.get(stage, stage) is None:
        raise ValueError(f"pipeline '{pipeline}' has no stage {stage}: it has no section of that name")
    raise ValueError(
        f"{store.root} holds no {stage} of pipeline '{pipeline}': make it with `unclip run {pipeline}` "
        f"(--store names another store)"
    )


def but_of(store: Store) -> str:
    """Of which pipelines a store holds runs, to end a sentence about one that it holds none of."""
    others = sorted({run.pipeline for run in runs_of(store)})
    return f", but of {', '.join(others)}" if others else " or another"
