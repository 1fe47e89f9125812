"""A run killed anywhere goes on and gives what an undisturbed run gives; nothing of it outlives it."""

import json
import os
import signal
import time
from contextlib import suppress
from glob import iglob
from pathlib import Path

import pytest

from unclip.store import Store

SETTINGS = ("source.shapes.num_samples=240", "source.shapes.shard_size=20", "decoder.train.num_steps=40")
RUN = ("run", "shrunken", *(word for setting in SETTINGS for word in ("--set", setting)))


def at_work(store, stage):
    """Partial folders in which the stage's worker has a checkpoint."""
    for checkpoint in iglob(f"{store}/partial/*/work/checkpoint-*.safetensors"):  # Path.glob fails on folders that go
        with suppress(FileNotFoundError):  # published meanwhile
            if json.loads(Path(checkpoint).with_name("context.json").read_text())["stage"] == stage:
                yield checkpoint


MIDDLES = {
    "score": lambda store: 1 <= len(list(store.glob("artifacts/score/*"))) < 12,
    "embed": lambda store: 1 <= len(list(store.glob("artifacts/embed/*"))) < 12,
    "decoder": lambda store: any(at_work(store, "decoder")),
    "evaluate": lambda store: any(store.glob("artifacts/assemble/*")) and any(store.glob("partial/*")),
}


def await_middle(process, store, is_reached):
    """Return when the run is where it shall be hit."""
    while not is_reached(store):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def seconds_until_gone(unclip, limit_s=20.0):
    """How long until no process of the store lives."""
    began = time.monotonic()
    while list(unclip.processes()) and time.monotonic() - began < limit_s:
        time.sleep(0.05)
    return time.monotonic() - began


def digests(store):
    """Content digests of all artifacts by stage; the report has times in it."""
    found = {}
    for artifact in Store(store).artifacts():
        found.setdefault(artifact.kind, set()).add(artifact.digest)
    return {kind: values for kind, values in found.items() if kind != "report"}


@pytest.fixture(scope="module")
def undisturbed(shared):
    done = shared(*RUN)
    assert done.returncode == 0, done.stderr
    return digests(shared.store)


@pytest.fixture(scope="module")
def killed(shared, tmp_path_factory):
    """A store whose run was killed in the middle of four stages and then left alone; seconds until all was gone."""
    victim = type(shared)(tmp_path_factory.mktemp("killed") / "store")
    seconds = {}
    for stage, is_reached in MIDDLES.items():
        process = victim.start(*RUN)
        await_middle(process, victim.store, is_reached)
        process.kill()
        process.communicate()
        seconds[stage] = seconds_until_gone(victim)
    return victim, seconds, victim(*RUN)


def test_a_killed_run_leaves_no_process(killed):
    _, seconds, _ = killed
    assert max(seconds.values()) < 5, seconds


def test_a_killed_run_goes_on(killed):
    victim, _, last = killed
    assert last.returncode == 0, last.stderr
    assert "decoder          found" in last.stdout and "evaluate         made" in last.stdout
    assert not list(victim.store.glob("partial/*"))


def test_killed_four_times_equals_undisturbed(killed, undisturbed):
    assert digests(killed[0].store) == undisturbed


def test_ctrl_c_ends_everything_and_says_what_stays(unclip):
    process = unclip.start(*RUN, "--set", "clip.train.num_steps=100000")
    await_middle(process, unclip.store, lambda store: any(at_work(store, "clip")))
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - began < 5
    told = " ".join(said.split())
    assert "finds: source, score, filter" in told  # and perhaps the upsampler that trains beside CLIP
    assert "; clip goes on where it was" in told
    assert "Traceback" not in said
    assert seconds_until_gone(unclip) < 5
    assert any(at_work(unclip.store, "clip"))
