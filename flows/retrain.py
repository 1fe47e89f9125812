"""The whole pipeline as one Prefect flow, and the same stages called directly, without Prefect and MLflow."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.execute import Execution
from flows.graph import MAX_BESIDE, Graph, Stage, open_graph
from flows.interrupt import on_interrupt
from flows.recorder import Recorder
from flows.spread import Workers
from flows.terminal import Bars, err
from unclip.launch import Stopped
from unclip.prefect_service import crash_running
from unclip.runs import begin_run, end_run
from unclip.tracking import Tracker


@task(cache_policy=NO_CACHE, persist_result=False)
def build_stage(execution: Execution, stage: Stage, num_beside: int) -> list[str]:
    """The keys of one stage's artifacts: found in the store, or made now."""
    return [artifact.key for artifact in execution.build(stage, num_beside)]


@flow(
    name="retrain",
    flow_run_name="{name}",
    persist_result=False,
    validate_parameters=False,
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_BESIDE),
)
def retrain(
    name: str, store: str, overrides: tuple[str, ...] = (), until: str | None = None, file: str = "pipelines.yaml"
) -> dict[str, list[str]]:
    """The keys of every stage's artifacts; what the store holds is found, the rest is made in order."""
    graph = open_graph(Path(file), name, Path(store), tuple(overrides))
    runner = graph.pipeline.runner
    with watched(graph) as execution, Workers(runner) as workers:
        for group in graph.groups(until):
            if group[0].per_shard and runner.kind != "here":
                spread = partial(workers.spread, stage=group[0].name, **_retries(group[0]))
                execution.build(group[0], spread=spread)
                continue
            tasks = [build_stage.with_options(name=stage.name, **_retries(stage)) for stage in group]
            futures = [made.submit(execution, s, len(group)) for made, s in zip(tasks, group, strict=True)]
            for future in futures:
                future.result()
        return {stage: [a.key for a in artifacts] for stage, artifacts in execution.made.items()}


@contextmanager
def watched(graph: Graph) -> Iterator[Execution]:
    """An execution whose stages are shown on the terminal, recorded in the store and told to MLflow.

    Ctrl-C within it closes them all and ends the process.
    """
    run = begin_run(graph.name, graph.pipeline.model_dump(mode="json"))
    tracker = Tracker(graph.store, run)
    with Bars() as bars:
        execution = Execution(graph, [bars, Recorder(graph.store, run), tracker])

        def say_what_stays() -> None:
            bars.progress.stop()
            err.print(left_behind(graph, execution))

        acts: list[Callable[[], object]] = [
            say_what_stays,
            partial(end_run, graph.store, run, "interrupted"),
            partial(crash_running, os.environ["PREFECT_API_URL"], "interrupted", flow_run.get_id()),
            partial(tracker.close, "interrupted", timeout_s=1.0),
        ]
        with on_interrupt(acts):
            try:
                yield execution
            except Stopped:  # the last acts say how it ended
                raise
            except BaseException:  # raised again: MLflow is to know the end, whatever it was
                tracker.close("failed")
                raise
    end_run(graph.store, run, "finished")
    tracker.close("finished")


def left_behind(graph: Graph, execution: Execution) -> str:
    """What an interrupted run says: what the next one will find."""
    done = ", ".join(execution.made) or "nothing yet"
    hows = {stage.name: "goes on where it was" if stage.resumes else "begins again" for stage in graph.stages()}
    more = "".join(f"; {stage} {hows[stage]}" for stage in execution.at_work)
    return f"interrupted. The next `unclip run {graph.name}` finds: {done}{more}"


def _retries(stage: Stage) -> dict[str, Any]:
    """Only where the network is touched, and not for what the user must mend."""
    if stage.name != "download":
        return {}
    return {"retries": 2, "retry_delay_seconds": 5, "retry_condition_fn": _is_passing}


async def _is_passing(_task: Any, _run: Any, state: Any) -> bool:
    try:
        await state.result()
    except ValueError:
        return False
    except Exception:  # whatever else went wrong may pass: a lost connection, a killed child
        return True
    return False
