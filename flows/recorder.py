"""Who is told of a run beside the terminal and MLflow: its record in the store."""

from threading import Lock

from tasks.context import Context
from unclip.artifact import Artifact
from unclip.runs import RunRecord, end_run, save_run
from unclip.store import Store


class Recorder:
    """Keeps the run's record in the store, written after every stage."""

    def __init__(self, store: Store, run: RunRecord) -> None:
        self.store = store
        self.run = run
        self.lock = Lock()  # stages may be made side by side

    def started(self, stage: str, context: Context, total: int) -> None:
        """Write the record: from here on the run has something to show."""
        with self.lock:
            save_run(self.store, self.run)

    def progressed(self, stage: str, done: float, total: float, figures: dict[str, float]) -> None:
        """Progress is not kept."""

    def finished(self, stage: str, artifacts: tuple[Artifact, ...], num_built: int, seconds: float) -> None:
        """Note the stage's artifacts."""
        keys = [a.key for a in artifacts]
        with self.lock:
            self.run.stages[stage] = {"keys": keys, "built": num_built, "seconds": round(seconds, 2)}
            save_run(self.store, self.run)

    def failed(self, stage: str, error: BaseException) -> None:
        """Close the record."""
        with self.lock:
            end_run(self.store, self.run, "failed", stage)
