"""Shards made by threads, a Dask cluster and a Ray cluster: the same bytes as by one process, whoever dies."""

import os
import re
import shutil
import signal
import time

import dask
import pytest

from flows.config import Runner
from tests.flows.test_kill import await_middle, digests

SETTINGS = ("source.shapes.shard_size=10", "clip.train.num_steps=2", "embed.batch_size=4096")
RUN = ("run", "shrunken", *(word for setting in SETTINGS for word in ("--set", setting)))
WORKER = {"dask": r"spawn_main", "ray": r"ray::(?!\w+Agent)"}  # the processes that do the work


def on(kind, *more):
    """The arguments of a run whose shards are made by two workers of a kind."""
    return (*RUN, "--set", f"runner.kind={kind}", "--set", "runner.num_workers=2", *more)


def num_embedded(store):
    return len(list(store.glob("artifacts/embed/*")))


def workers(unclip, kind):
    return [int(line.split()[0]) for line in unclip.processes() if re.search(WORKER[kind], line)]


@pytest.fixture(scope="module")
def embedded(shared):
    done = shared(*RUN, "--until", "embed")
    assert done.returncode == 0, done.stderr
    return digests(shared.store)


@pytest.fixture(scope="module", params=["dask", "ray"])
def killed(request, embedded, shared, tmp_path_factory):
    """A run whose main process was killed in the middle, then another one of whose workers was."""
    kind, victim = request.param, type(shared)(tmp_path_factory.mktemp("killed") / "store")
    shutil.copytree(shared.store, victim.store, ignore=shutil.ignore_patterns("embed", "prefect", "mlflow*"))
    process = victim.start(*on(kind, "--until", "embed"))
    await_middle(process, victim.store, lambda store: num_embedded(store) > 0)
    process.kill()
    process.communicate()
    time.sleep(5)  # Ray's workers look after their driver once a second
    left, before = workers(victim, kind), num_embedded(victim.store)
    process = victim.start(*on(kind, "--until", "embed"))
    await_middle(process, victim.store, lambda store: num_embedded(store) > before)
    os.kill(workers(victim, kind)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    return left, process.returncode, said, digests(victim.store)


def test_a_killed_run_leaves_no_worker(killed):
    assert killed[0] == []


def test_a_killed_worker_loses_nothing(killed, embedded):
    _, code, said, made = killed
    assert code == 0, said
    assert made == embedded


def test_two_threads_make_the_same_bytes_as_one(unclip, embedded, shared):
    shutil.copytree(shared.store, unclip.store, ignore=shutil.ignore_patterns("score", "embed", "prefect", "mlflow*"))
    done = unclip(*on("threads", "--until", "embed"))
    assert done.returncode == 0, done.stderr
    assert digests(unclip.store) == embedded


def test_a_broken_shard_is_one_line_and_the_others_stay(unclip, embedded, shared, tmp_path):
    for number, made in enumerate(sorted(shared.store.glob("artifacts/source/*"))[:3]):
        shutil.copy(made / "shard.tar", tmp_path / f"{number}.tar")
    (tmp_path / "1.tar").write_bytes(b"no tar")
    source = ("source.shapes=null", f"source.shards.pattern={tmp_path}/*.tar")
    done = unclip(*on("threads", *(word for setting in source for word in ("--set", setting))))
    assert done.returncode == 2 and f"{tmp_path}/1.tar" in done.stderr and "Traceback" not in done.stderr
    assert len(list(unclip.store.glob("artifacts/source/*"))) == 2


@pytest.fixture(scope="module")
def tars(embedded, shared, tmp_path_factory):
    """Half the pipeline's shards, as a data team has them, and a dump of them that one process made."""
    folder = tmp_path_factory.mktemp("tars")
    for number, made in enumerate(sorted(shared.store.glob("artifacts/source/*"))[:18]):
        shutil.copy(made / "shard.tar", folder / f"{number:05d}.tar")
    done = shared("embed", f"{folder}/*.tar", "--out", folder / "dump", "--clip", "shrunken")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_two_workers_make_the_dump_of_one_process(shared, tars, tmp_path, kind):
    options = ("--out", tmp_path / "dump", "--clip", "shrunken", "--set", f"runner={{kind: {kind}, num_workers: 2}}")
    process = shared.start("embed", f"{tars}/*.tar", *options)
    await_middle(process, tmp_path / "dump", lambda dump: len(list(dump.glob("parts/*.json"))) > 2)
    os.kill(workers(shared, kind)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0 and not list(tmp_path.glob("dump/parts/.part-*")), said
    for path in sorted((tars / "dump").rglob("*.*")):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "dump" / path.relative_to(tars / "dump")).read_bytes()


def test_workers_that_do_not_start_are_said_with_the_limit():
    from flows.spread import Workers  # Prefect

    said = r"^2 dask workers did not start: .*[Tt]imed out.*, now 1us$"
    limit = dask.config.set({"distributed.comm.timeouts.connect": "1us"})
    with limit, Workers(Runner(kind="dask", num_workers=2)) as workers, pytest.raises(RuntimeError, match=said):
        workers.task_runner()
