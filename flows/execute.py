"""Build one stage: find or make each of its artifacts. What a Prefect task and a direct call both do."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from flows.graph import MAX_BESIDE, Graph, Stage, Step
from tasks.context import Context, silent
from unclip.artifact import Artifact
from unclip.launch import Stopped
from unclip.recipe import Recipe
from unclip.store import Build, Store

Made = dict[str, tuple[Artifact, ...]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One artifact to make, as it may go to another process or machine: whoever does it needs the store alone."""

    store: Path
    recipe: Recipe
    parents: dict[str, tuple[str, ...]]
    resumes: bool
    context: Context

    def do(self, progress: Callable[..., None] = silent) -> None:
        """Publish the artifact in the store, unless somebody has done so meanwhile."""
        store, parents = Store(self.store), dict(self.parents)
        context = replace(self.context, progress=progress, store=store, pieces={})

        def fill(out: Path) -> dict[str, Any]:
            metrics = run_stage(context, out)
            # known once it is made; the manifest is written after this, with the same dictionary
            parents.update({kind: tuple(a.key for a in made) for kind, made in context.pieces.items()})
            return metrics

        kind, resumes = context.stage, self.resumes
        store.build(Build(kind=kind, recipe=self.recipe, parents=parents, resumes=resumes, fill=fill))


Spread = Callable[[Sequence[Work]], Iterator[int]]  # does all the work; tells now and then how much of it is done


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

    def build(self, stage: Stage, num_beside: int = 1, spread: Spread | None = None) -> tuple[Artifact, ...]:
        """The stage's artifacts, found or made; everybody who watches is told.

        num_beside: stages of its group, this one among them; MAX_BESIDE at a time share the cores.
        spread: who makes what is missing; without it, this process does, one after the other.
        """
        began = perf_counter()
        self.at_work[stage.name] = None
        try:
            steps = list(self.graph.steps(stage, self.made))
            missing = [step for step in steps if step.found is None]
            self._make(missing, max(1, num_cores() // min(num_beside, MAX_BESIDE)), spread)
            artifacts = tuple(step.found or self._published(step) for step in steps)
        except Stopped:  # not a failure: who stopped it says how the run ended
            raise
        except BaseException as error:  # raised again: watchers close what they show of it, whatever it is
            for watcher in self.watchers:
                watcher.failed(stage.name, error)
            raise
        for watcher in self.watchers:
            watcher.finished(stage.name, artifacts, len(missing), perf_counter() - began)
        self.made[stage.name] = artifacts
        del self.at_work[stage.name]
        return artifacts

    def _make(self, missing: Sequence[Step], threads: int, spread: Spread | None) -> None:
        if not missing:
            return
        works = [self._work(step, threads) for step in missing]
        stage = works[0].context.stage
        for watcher in self.watchers:
            watcher.started(stage, works[0].context, len(works))
        if spread is None:
            for number, work in enumerate(works):
                work.do(self._reporter(stage, number, len(works)))
        else:
            for done in spread(works):
                self._reporter(stage, done, len(works))(0, 1)

    def _work(self, step: Step, threads: int) -> Work:
        assert step.recipe is not None
        context = self._context(step, threads)
        return Work(
            store=self.graph.store.root,
            recipe=step.recipe,
            parents={name: tuple(a.key for a in artifacts) for name, artifacts in context.inputs.items()},
            resumes=step.stage.resumes,
            context=context,
        )

    def _published(self, step: Step) -> Artifact:
        assert step.recipe is not None
        found = self.graph.store.find(step.stage.name, step.recipe.key)
        if found is None:
            raise RuntimeError(
                f"{step.stage.name} of shard {step.shard} was made and is not in {self.graph.store.root}"
            )
        return found

    def _context(self, step: Step, threads: int) -> Context:
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
