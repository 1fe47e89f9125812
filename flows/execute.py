"""Build one stage: find or make each of its artifacts. What a Prefect task and a direct call both do."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from flows.graph import MAX_BESIDE, Graph, Stage, Step
from tasks.context import Context
from unclip.artifact import Artifact
from unclip.launch import Stopped
from unclip.store import Build

Made = dict[str, tuple[Artifact, ...]]


class Watcher(Protocol):
    """Who is told of a run: the terminal, MLflow, the run's record."""

    def started(self, stage: str, context: Context, total: int) -> None:
        """A stage has something to make; `total` artifacts of it."""

    def progressed(self, stage: str, done: float, total: float, figures: dict[str, float]) -> None:
        """So much of it is done."""

    def finished(self, stage: str, artifacts: tuple[Artifact, ...], num_built: int, seconds: float) -> None:
        """All artifacts of the stage are there; `num_built` of them were made now."""

    def failed(self, stage: str, error: BaseException) -> None:
        """The stage ended in an error."""


class Execution:
    """Stages built one after the other; holds what is made so far. Not a dataclass: Prefect would walk through it."""

    def __init__(self, graph: Graph, watchers: list[Watcher]) -> None:
        self.graph = graph
        self.watchers = watchers
        self.made: Made = {}
        self.at_work: dict[str, None] = {}  # the stages that are being made

    def build(self, stage: Stage, num_beside: int = 1) -> tuple[Artifact, ...]:
        """The stage's artifacts, found or made; everybody who watches is told.

        num_beside: stages of its group, this one among them; MAX_BESIDE at a time share the cores.
        """
        began = perf_counter()
        self.at_work[stage.name] = None
        try:
            artifacts, num_built = self._artifacts(stage, max(1, num_cores() // min(num_beside, MAX_BESIDE)))
        except Stopped:  # not a failure: who stopped it says how the run ended
            raise
        except BaseException as error:  # raised again: watchers close what they show of it, whatever it is
            for watcher in self.watchers:
                watcher.failed(stage.name, error)
            raise
        for watcher in self.watchers:
            watcher.finished(stage.name, artifacts, num_built, perf_counter() - began)
        self.made[stage.name] = artifacts
        del self.at_work[stage.name]
        return artifacts

    def _artifacts(self, stage: Stage, threads: int) -> tuple[tuple[Artifact, ...], int]:
        steps = list(self.graph.steps(stage, self.made))
        missing = [step for step in steps if step.found is None]
        artifacts = {step.shard: step.found for step in steps if step.found is not None}
        for number, step in enumerate(missing):
            context = self._context(step, threads, self._reporter(stage.name, number, len(missing)))
            if number == 0:
                for watcher in self.watchers:
                    watcher.started(stage.name, context, len(missing))
            artifacts[step.shard] = self._make(step, context)
        return tuple(artifacts[step.shard] for step in steps), len(missing)

    def _make(self, step: Step, context: Context) -> Artifact:
        assert step.recipe is not None
        parents = {name: tuple(a.key for a in artifacts) for name, artifacts in context.inputs.items()}

        def fill(out: Path) -> dict[str, Any]:
            metrics = run_stage(context, out)
            parents.update({kind: tuple(a.key for a in made) for kind, made in context.pieces.items()})
            return metrics

        build = Build(
            kind=step.stage.name,
            recipe=step.recipe,
            parents=parents,
            resumes=step.stage.resumes,
            fill=fill,
        )
        return self.graph.store.build(build)[0]

    def _context(self, step: Step, threads: int, progress: Callable[..., None]) -> Context:
        return Context(
            stage=step.stage.name,
            config=step.config,
            inputs=self.graph.inputs(step, self.made),
            out=Path(),
            seed=self.graph.pipeline.seed,
            device=self.graph.pipeline.device,
            threads=threads,
            shard=step.shard,
            planned=step.recipe.config if step.recipe else {},
            progress=progress,
            store=self.graph.store,
        )

    def _reporter(self, stage: str, number: int, total: int) -> Callable[..., None]:
        def report(done: float, of: float, **figures: float) -> None:
            share = (number + done / max(of, 1)) / total
            for watcher in self.watchers:
                watcher.progressed(stage, share if total > 1 else done, 1 if total > 1 else of, figures)

        return report


def num_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0))


def run_stage(context: Context, out: Path) -> dict[str, Any]:
    """The stage's metrics, its files written into `out`."""
    module = import_module(f"tasks.{context.stage}")
    metrics: dict[str, Any] = module.build(replace(context, out=out))
    return metrics
