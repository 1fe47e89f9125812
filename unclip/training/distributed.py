"""Processes that train one network together: each runs every step on its part of the batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from unclip.training.job import Indices

PATIENCE = timedelta(hours=2)  # with a rank that validates or saves while the others wait for it


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together. The first writes, validates and tells; alone, it is the first."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.index == 0

    def parts(self, rows: Indices) -> list[Indices]:
        """Every process's rows of a batch, whose size `count` divides."""
        return [*rows.reshape(self.count, -1)]

    def part(self, rows: Indices) -> Indices:
        """This process's rows of a batch."""
        return self.parts(rows)[self.index]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its mean over the processes, in place: one message for all of them."""
        if self.count == 1:
            return
        whole = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        dist.all_reduce(whole)
        whole /= self.count
        parts = whole.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_([*tensors], [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all of them ask at the same point."""
        if self.count == 1:
            return flag
        raised = torch.tensor(float(flag))
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised)

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined(ranks: Ranks, meeting: Path | None, device: str) -> Iterator[None]:
    """While inside, the processes can talk: through gloo, and NCCL between GPUs.

    meeting: a file of this launch alone that every process can see; None: where torchrun's environment says.
    """
    if ranks.count == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
    store = None if meeting is None else dist.FileStore(str(meeting), ranks.count)  # an address would escape spaces
    dist.init_process_group(backend, store=store, rank=ranks.index, world_size=ranks.count, timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: the others would fail, and be heard, before its cause is told
