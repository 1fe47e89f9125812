"""One job at a time on an accelerator: a lock file a device, freed by the kernel when its holders are gone."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from unclip.launch import check_stopped

WAIT_S = 0.2


def slots_folder() -> Path:
    """This user's folder of lock files, the same for every store on the machine: the devices are the machine's."""
    return Path(tempfile.gettempdir()) / f"unclip-slots-{os.getuid()}"


def devices(device: str, num_ranks: int) -> list[str]:
    """The device of each rank: the CPU for all, or as many GPUs, counted from the first.

    Raises: ValueError where one GPU is named for several ranks.
    """
    if device == "cpu" or num_ranks == 1:
        return [device] * num_ranks
    if ":" in device:
        raise ValueError(f"device must be 'cuda' where train.ranks is {num_ranks}, got {device!r}")
    return [f"{device}:{rank}" for rank in range(num_ranks)]


@contextmanager
def slots(names: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """What holds every one of these devices, taken in their order, which keeps two jobs from waiting for each other."""
    with ExitStack() as stack:
        yield tuple(fd for name in dict.fromkeys(names) for fd in stack.enter_context(slot(name)))


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
