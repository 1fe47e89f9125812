"""What MLflow is told of runs, behind their back: a tracker never delays a run, and its failure never stops one.

The store is the truth and MLflow a view of it. Whatever could not be told (an outage, a kill) is told by the next
command, or by `rebuild`, from the run's record in `STORE/runs` and the manifests. Until then the run's name waits in
`STORE/mlflow/pending`, under a lock that its process holds while it lives.
"""

import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from unclip.artifact import Artifact
from unclip.mlflow_view import MlflowView
from unclip.runs import RunRecord, load_run, pending_note
from unclip.store import Store

_EVERY_S = 2.0  # figures of one stage are sent no more often


def _say(message: str) -> None:
    print(message, file=sys.stderr)


class Tracker:
    """Tells MLflow of one run from a thread of its own; a watcher of stages (`flows.execute.Watcher`).

    store: where the run works; record: its record, read but not changed; say: where the one complaint goes if MLflow
    fails.
    """

    def __init__(self, store: Store, record: RunRecord, say: Callable[[str], None] = _say) -> None:
        self._store, self._record, self._say = store, record, say
        self._jobs: SimpleQueue[Callable[[_Story], None] | None] = SimpleQueue()
        self._sent: dict[str, float] = {}
        self._pending = _Pending(store.root, record.run_id)
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def started(self, stage: str, context: Any, total: int) -> None:
        """The stage begins to make something."""
        now = datetime.now(UTC).isoformat()
        self._jobs.put(lambda story: story.start(stage, now))

    def progressed(self, stage: str, done: float, total: float, figures: dict[str, float]) -> None:
        """Figures after `done` steps of a stage that makes one artifact; those that come too fast are left out."""
        now = time.time()
        if total > 1 and figures and now - self._sent.get(stage, 0.0) >= _EVERY_S:
            self._sent[stage] = now
            self._jobs.put(lambda story: story.add(stage, int(done), figures, int(now * 1000)))

    def finished(self, stage: str, artifacts: tuple[Artifact, ...], num_built: int, seconds: float) -> None:
        """All artifacts of the stage are there, `num_built` of them made now."""
        self._jobs.put(lambda story: story.finish(stage, artifacts, num_built > 0, seconds))

    def failed(self, stage: str, error: BaseException) -> None:
        """The stage ended in an error."""
        text = f"{type(error).__name__}: {error}"
        self._jobs.put(lambda story: story.fail(stage, text))

    def close(self, status: str, timeout_s: float = 60.0) -> bool:
        """Whether MLflow was told everything within the time; what it was not told waits for the next command.

        status: "finished", "failed" or "interrupted".
        """
        self._jobs.put(lambda story: story.close(status, datetime.now(UTC).isoformat()))
        self._jobs.put(None)
        self._thread.join(timeout_s)
        told = not self._thread.is_alive() and self._pending.is_told
        self._pending.release()
        return told

    def _work(self) -> None:
        try:
            view = MlflowView(self._store.root)
            settle(self._store, view)
            story = _Story(view, self._record)
            while (job := self._jobs.get()) is not None:
                job(story)
            self._pending.tell()
        except Exception as error:  # MLflow is a view: a run does not end because it cannot be shown
            said = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(f"MLflow: {said} - the run goes on; the next command, or `unclip track --rebuild`, tells it all")


class _Story:
    """One pipeline run as it is told to MLflow, stage by stage."""

    def __init__(self, view: MlflowView, record: RunRecord) -> None:
        self.view, self.record = view, record
        self.run, self.open = view.open_run(record.run_id, record.pipeline, record.started, record.settings)
        self.stages: dict[str, dict[str, Any]] = {}

    def start(self, stage: str, started: str) -> None:
        if stage not in self.open:
            self.open[stage] = self.view.open_stage(self.run, self.record.run_id, stage, started)

    def add(self, stage: str, step: int, figures: dict[str, float], at_ms: int) -> None:
        self.view.add_figures(self.open[stage], step, figures, at_ms)

    def finish(self, stage: str, artifacts: Sequence[Artifact], ran: bool, seconds: float) -> None:
        manifests = [artifact.manifest() for artifact in artifacts]
        until = self.record.ended or "9999"
        made = [m for m in manifests if ran and self.record.started <= m["ended"] <= until]
        found = [m["key"] for m in manifests if m not in made]
        maker = self.view.link_found(self.run, stage, found) if found else None
        if made:
            self.start(stage, min(m["started"] for m in made))
            maker = self.open[stage]
            self.view.close_stage(maker, made)
        if stage in ("filter", "select"):  # also on the pipeline's run, the longer funnel last
            self.view.show_funnel(self.run, manifests[0])
        if stage == "evaluate":
            self._show_evaluation(manifests[0])
        what = "found" if not made else "made" if not found else f"{len(made)} of {len(manifests)} made"
        self.stages[stage] = {"what": what, "seconds": seconds, "keys": [m["key"] for m in manifests], "run": maker}

    def _show_evaluation(self, manifest: dict[str, Any]) -> None:
        """The last word also on the pipeline's run, so that runs can be compared in one table."""
        at_ms = int(datetime.fromisoformat(manifest["ended"]).timestamp() * 1000)
        self.view.add_figures(self.run, 0, manifest["metrics"], at_ms)

    def fail(self, stage: str, error: str) -> None:
        self.start(stage, datetime.now(UTC).isoformat())
        self.view.fail_stage(self.open[stage], error, "failed")

    def close(self, status: str, ended: str | None) -> None:
        self.view.close_run(self.run, status, ended, self.stages)


class _Pending:
    """The note that a run is not wholly told yet; locked as long as the process that runs it lives."""

    def __init__(self, store_root: Path, run_id: str) -> None:
        self.path, self.is_told = pending_note(store_root, run_id), False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise

    def tell(self) -> None:
        self.path.unlink(missing_ok=True)
        self.is_told = True

    def release(self) -> None:
        lock, self._lock = self._lock, None  # first forgotten: a second call may come while the first closes
        if lock is not None:
            os.close(lock)


def settle(store: Store, view: MlflowView | None = None) -> int:
    """How many runs that were cut off, or that MLflow missed, are told now and closed."""
    waiting = sorted(path.name for path in (store.root / "mlflow" / "pending").glob("*"))
    return _tell_again(store, waiting, view)


def rebuild(store_root: Path) -> int:
    """How many runs were written to MLflow from the store's records and manifests: all but those under way.

    A database that cannot be read is set aside first.
    """
    store = Store(store_root)
    _set_aside_broken(store.root / "mlflow" / "mlflow.db")
    return _tell_again(store, sorted(path.stem for path in (store.root / "runs").glob("*.json")))


def _tell_again(store: Store, run_ids: Sequence[str], view: MlflowView | None = None) -> int:
    count = 0
    for run_id in run_ids:
        view = view or MlflowView(store.root)
        try:
            pending = _Pending(store.root, run_id)
        except BlockingIOError:
            continue  # its process lives
        try:
            _retell(store, view, run_id)
            pending.tell()
            count += 1
        except Exception as error:  # it waits on, and keeps no other from being told
            _say(f"MLflow: run {run_id} cannot be told: {type(error).__name__}: {error}")
        finally:
            pending.release()
    return count


def _retell(store: Store, view: MlflowView, run_id: str) -> None:
    path = store.root / "runs" / f"{run_id}.json"
    if not path.is_file():
        return _close_unrecorded(view, run_id)
    record = load_run(path)
    story = _Story(view, record)
    for stage, told in record.stages.items():
        found = [store.find(stage, key) for key in record.keys(stage)]
        artifacts = [artifact for artifact in found if artifact is not None]
        if artifacts:
            story.finish(stage, artifacts, True, float(told.get("seconds", 0.0)))
    status = "interrupted" if record.status == "running" else record.status
    story.close(status, record.ended)


def _close_unrecorded(view: MlflowView, run_id: str) -> None:
    """Close a run that was cut off before its first stage was done."""
    experiments = [e.experiment_id for e in view.client.search_experiments()]
    for run in view.client.search_runs(experiments, f"tags.`unclip.run` = '{run_id}'"):
        if run.info.status == "RUNNING" and "unclip.stage" not in run.data.tags:
            view.close_run(run.info.run_id, "interrupted", None, {})


def _set_aside_broken(database: Path) -> None:
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError:
        database.replace(database.with_suffix(f".broken-{int(time.time())}"))
