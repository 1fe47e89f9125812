"""What the store's record of a run says of its end."""

from flows.recorder import Recorder
from unclip.launch import Stopped
from unclip.runs import begin_run, runs_of, save_run
from unclip.store import Store


def record_after(error, root):
    """The record as it is read back after the decoder ended in an error."""
    store, run = Store(root), begin_run("toy", {})
    save_run(store, run)
    Recorder(store, run).failed("decoder", error)
    return next(runs_of(store))


def test_a_failed_run_names_its_stage(tmp_path):
    run = record_after(ValueError("loss is nan"), tmp_path)
    assert (run.status, run.failed_stage) == ("failed", "decoder") and run.ended


def test_a_stage_that_was_stopped_has_not_failed(tmp_path):
    run = record_after(Stopped("stopped on request"), tmp_path)
    assert (run.status, run.failed_stage) == ("running", None)
