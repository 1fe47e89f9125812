"""How every trained stage is built: `run` starts a worker process, in which `work` trains and finishes the job.

With `train.ranks` above one the worker starts the others (`join_us`), and all of them train one network.

A trained stage's module has, beside `build`, a function `job(ctx) -> unclip.training.job.Job`. Torch is imported by
the worker only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from tasks.context import Context
from unclip.guard import die_with_parent
from unclip.launch import EVENTS_FD, Command, Event
from unclip.launch import run as launch
from unclip.slots import devices, slots
from unclip.store import WORK

ROOT = Path(__file__).parents[1]
MEETING = "UNCLIP_MEETING"  # environment variable: the file in which the ranks find each other
GRACE_S = 2.0  # between a rank's failure and the end of all
__all__ = ["WORK", "join_us", "run", "work"]  # WORK also holds the context, the log and caches


def run(ctx: Context) -> dict[str, Any]:
    """Trains the stage in a process of its own; the metrics. The store removes the work folder on publication."""
    work = ctx.out / WORK
    work.mkdir(parents=True, exist_ok=True)
    (work / "context.json").write_text(ctx.to_json())
    command = Command(
        argv=(sys.executable, "-m", "tasks.worker", str(work / "context.json")),
        log=work / "log.txt",
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )

    def tell(event: Event) -> None:
        if event["event"] == "progress":
            ctx.progress(event["done"], event["total"], **event["figures"])

    with slots(devices(ctx.device, ctx.num_ranks)) as held:
        launch(command, on_event=tell, hold=held)
    metrics: dict[str, Any] = json.loads((work / "result.json").read_text())
    return metrics


def join_us(ctx: Context, path: Path) -> None:
    """Starts the other ranks of a stage on the context in `path`, in this process's group: they end when it does.

    It ends when one of them fails. Does nothing where torchrun, or we ourselves, have started this process as one of
    several.
    """
    if "RANK" in os.environ or ctx.num_ranks == 1:
        return
    meeting = tempfile.mkdtemp(prefix="meeting-", dir=ctx.out / WORK)  # not where ranks that were killed met
    ours = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(ctx.num_ranks), MEETING: str(Path(meeting) / "ranks")}
    os.environ |= ours
    events = os.environ.get(EVENTS_FD)
    for rank in range(1, ctx.num_ranks):
        other = subprocess.Popen(
            [sys.executable, "-m", "tasks.worker", str(path)],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            pass_fds=[int(events)] if events else [],
            preexec_fn=die_with_parent,
        )
        Thread(target=_end_with, args=(other,), daemon=True).start()


def _end_with(other: subprocess.Popen[bytes]) -> None:
    """Ends this process when a rank has failed: it may be waiting for that one. The guard ends the rest."""
    if other.wait():
        time.sleep(GRACE_S)  # for whoever sees it and can say more
        os._exit(1)


def work(ctx: Context) -> dict[str, Any]:
    """Trains the stage in this process; the metrics, which also lie in `result.json` of the work folder.

    RANK and WORLD_SIZE of the environment, as torchrun sets them, say which of how many processes this is, LOCAL_RANK
    which of this machine's.
    Raises: ValueError when they are not as many as `train.ranks`.
    """
    import torch

    from unclip.training.distributed import Ranks, joined
    from unclip.training.run import Place, train
    from unclip.training.seeds import step_seed

    ranks = Ranks(index=int(os.environ.get("RANK", 0)), count=int(os.environ.get("WORLD_SIZE", 1)))
    if ranks.count != ctx.num_ranks:
        raise ValueError(f"{ctx.stage}.train.ranks is {ctx.num_ranks}, but WORLD_SIZE in the environment {ranks.count}")
    device = own_device(ctx.device, os.environ)
    ctx = replace(ctx, device=device, rank=ranks.index)
    torch.set_num_threads(max(1, ctx.threads // ranks.count))
    torch.backends.cudnn.benchmark = True
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # what is shared out lies on the current one
    torch.manual_seed(step_seed(ctx.seed, 0, "weights"))
    folder = ctx.out / WORK
    place = Place(stage=ctx.stage, out=ctx.out, work=folder, seed=ctx.seed, device=ctx.device, ranks=ranks)
    with joined(ranks, meeting_of(os.environ), ctx.device):
        job = import_module(f"tasks.{ctx.stage}").job(ctx)
        metrics = train(job, place, ctx.progress)
    if ranks.is_first:
        (folder / "result.json").write_text(json.dumps(metrics, allow_nan=False))
    return metrics


def own_device(device: str, environment: Mapping[str, str]) -> str:
    """The device of this process: ranks take the GPUs of their own machine in order."""
    local = environment.get("LOCAL_RANK", environment.get("RANK", "0"))
    return devices(device, int(environment.get("WORLD_SIZE", 1)))[int(local)]


def meeting_of(environment: Mapping[str, str]) -> Path | None:
    """The file that `join_us` chose; None under torchrun, which has its own way."""
    return Path(environment[MEETING]) if MEETING in environment else None
