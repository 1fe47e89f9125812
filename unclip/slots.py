"""One job at a time on an accelerator: a lock file a device, freed by the kernel when its holders are gone."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unclip.launch import check_stopped

WAIT_S = 0.2


def slots_folder() -> Path:
    """This user's folder of lock files, the same for every store on the machine: the devices are the machine's."""
    return Path(tempfile.gettempdir()) / f"unclip-slots-{os.getuid()}"


@contextmanager
def slot(device: str, folder: Path | None = None) -> Iterator[tuple[int, ...]]:
    """File descriptors that hold `device` ("cuda:0") as long as any process has them open; none for "cpu"."""
    if device == "cpu":
        yield ()
        return
    place = folder or slots_folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = device if ":" in device else f"{device}:0"
    with (place / f"{name}.lock").open("a") as file:
        while not _lock(file.fileno()):
            check_stopped()
            time.sleep(WAIT_S)
        yield (file.fileno(),)


def _lock(fd: int) -> bool:
    """Whether the lock was free, and is now ours."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
