"""How every trained stage is built: `run` starts a worker process, in which `work` trains and finishes the job.

A trained stage's module has, beside `build`, a function `job(ctx) -> unclip.training.job.Job`. Torch is imported by
the worker only.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks.context import Context
from unclip.launch import Command, Event
from unclip.launch import run as launch
from unclip.slots import slot
from unclip.store import WORK

ROOT = Path(__file__).parents[1]
__all__ = ["WORK", "run", "work"]  # WORK also holds the context, the log and caches


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

    with slot(ctx.device) as held:
        launch(command, on_event=tell, hold=held)
    metrics: dict[str, Any] = json.loads((work / "result.json").read_text())
    return metrics


def work(ctx: Context) -> dict[str, Any]:
    """Trains the stage in this process; the metrics, which also lie in `result.json` of the work folder."""
    import torch

    from unclip.training.run import Place, train
    from unclip.training.seeds import step_seed

    torch.set_num_threads(ctx.threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(step_seed(ctx.seed, 0, "weights"))
    job = import_module(f"tasks.{ctx.stage}").job(ctx)
    folder = ctx.out / WORK
    place = Place(stage=ctx.stage, out=ctx.out, work=folder, seed=ctx.seed, device=ctx.device)
    metrics = train(job, place, ctx.progress)
    (folder / "result.json").write_text(json.dumps(metrics, allow_nan=False))
    return metrics
