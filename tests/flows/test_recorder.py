"""What the store's record of a run says of its end."""

from pathlib import Path

import pytest

from flows.execute import Execution
from flows.graph import STAGES, open_graph
from flows.recorder import Recorder
from unclip.launch import Stopped
from unclip.runs import begin_run, runs_of, save_run
from unclip.store import Store

FILE = Path(__file__).parents[1] / "shrunken.yaml"


def record_after(error, root):
    """The record as it is read back after the decoder ended in an error."""
    store, run = Store(root), begin_run("toy", {})
    save_run(store, run)
    Recorder(store, run).failed("decoder", error)
    return next(runs_of(store))


def test_a_failed_run_names_its_stage(tmp_path):
    run = record_after(ValueError("loss is nan"), tmp_path)
    assert (run.status, run.failed_stage) == ("failed", "decoder") and run.ended


class Ended:
    """A watcher that counts failures."""

    def __init__(self):
        self.failures = []

    def failed(self, stage, error):
        self.failures.append((stage, error))


@pytest.mark.parametrize(("error", "count"), [(ValueError("loss is nan"), 1), (Stopped("stopped on request"), 0)])
def test_a_stage_that_was_stopped_has_not_failed(error, count, tmp_path, monkeypatch):
    watcher = Ended()
    execution = Execution(open_graph(FILE, "shrunken", tmp_path), [watcher])

    def fail(*_):
        raise error

    monkeypatch.setattr(execution, "_make", fail)
    with pytest.raises(type(error)):
        execution.build(STAGES[0])
    assert len(watcher.failures) == count
