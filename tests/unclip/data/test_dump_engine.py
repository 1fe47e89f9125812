"""Facts about who embeds a dump: several processes, and what is left when they are killed."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.unclip.data.data_fixtures import TinyEncoder, sample, write_source
from unclip.data.config import ShardsConfig
from unclip.data.dump import fill_dump
from unclip.data.dump_engine import Engine
from unclip.data.dump_figures import inspect_dump


def quiet(*args, **figures):
    pass


@pytest.fixture
def source(tmp_path):
    for shard in range(4):
        write_source(tmp_path / f"s{shard}", [sample(i, shard=shard) for i in range(6)])
    (tmp_path / "clip").mkdir()
    for name in ("weights.safetensors", "clip.json"):
        (tmp_path / "clip" / name).write_text("{}")
    return ShardsConfig(pattern=str(tmp_path / "s*" / "shard.tar"))


def fill(source, folder, *openers, workers=0):
    engine = Engine(TinyEncoder(), openers or (TinyEncoder,), batch_size=4, num_workers=workers)
    return fill_dump(source, folder / "dump", engine, folder / "clip", quiet)


def files(dump):
    return {path.relative_to(dump): path.read_bytes() for path in dump.rglob("*") if path.is_file()}


def moved(dump):
    """The files of a dump, which is put out of the way."""
    return files(dump.rename(dump.with_name("first")))


def test_two_devices_write_the_bytes_of_one(source, tmp_path):
    fill(source, tmp_path)
    whole = moved(tmp_path / "dump")
    made = fill(source, tmp_path, TinyEncoder, TinyEncoder, workers=1)
    assert files(tmp_path / "dump") == whole and made["embedded_shards"] == 4


def test_nothing_new_writes_nothing(source, tmp_path):
    fill(source, tmp_path)
    before = (tmp_path / "dump" / "manifest.json").stat().st_mtime_ns
    assert fill(source, tmp_path)["embedded_shards"] == 0
    assert (tmp_path / "dump" / "manifest.json").stat().st_mtime_ns == before


class Killed(TinyEncoder):
    """Its process is killed once a part of the dump is whole."""

    def __init__(self, dump):
        super().__init__()
        self.dump = dump

    def encode_image(self, pixels):
        if list(self.dump.glob("parts/*.json")):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        return super().encode_image(pixels)


class Failing(TinyEncoder):
    """Has no memory for pictures."""

    def encode_image(self, pixels):
        raise ValueError("no memory")


def test_a_process_killed_in_the_middle_loses_nothing(source, tmp_path):
    fill(source, tmp_path)
    whole = moved(tmp_path / "dump")
    with pytest.raises(RuntimeError, match=r"was killed \(-9\): run again, finished parts stay"):
        fill(source, tmp_path, *[partial(Killed, tmp_path / "dump")] * 2)
    assert 1 <= 4 - fill(source, tmp_path, TinyEncoder, TinyEncoder)["embedded_shards"] <= 3
    assert files(tmp_path / "dump") == whole


def test_what_one_process_raises_is_raised_here(source, tmp_path):
    with pytest.raises(ValueError, match=r"^no memory$"):
        fill(source, tmp_path, Failing, Failing)


class Wordy(TinyEncoder):
    """Says more than a pipe holds."""

    def encode_image(self, pixels):
        raise ValueError("no memory " * 20_000)


def test_a_long_error_is_heard_to_its_end(source, tmp_path):
    with pytest.raises(ValueError, match=r"^(no memory ){20000}$"):
        fill(source, tmp_path, Wordy, Wordy)


SLOW = """
import sys, time
from pathlib import Path
from tests.unclip.data.test_dump_engine import TinyEncoder, ShardsConfig, fill
class Slow(TinyEncoder):
    def encode_image(self, pixels):
        time.sleep(0.3)
        return super().encode_image(pixels)
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    fill(ShardsConfig(pattern=str(folder / "s*" / "shard.tar")), folder, Slow, *[Slow] * int(sys.argv[2]), workers=1)
"""


def running(group):
    """The processes of a group that are not ended."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [fields for fields in stats if int(fields[2]) == group and fields[0] != "Z"]


def wait_until(is_so, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("more_devices", [0, 1])
def test_a_killed_run_leaves_no_process_and_the_next_one_goes_on(source, tmp_path, more_devices):
    fill(source, tmp_path)
    whole = moved(tmp_path / "dump")
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, str(tmp_path / "slow.py"), str(tmp_path), str(more_devices)]
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    wait_until(lambda: list((tmp_path / "dump").glob("parts/*.json")))
    process.kill()
    process.wait()
    wait_until(lambda: not running(process.pid), timeout_s=5.0)
    assert fill(source, tmp_path)["embedded_shards"] in (1, 2, 3)
    assert files(tmp_path / "dump") == whole and inspect_dump(tmp_path / "dump")["problems"] == []
