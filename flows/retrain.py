"""The whole pipeline as one Prefect flow, and the same stages called directly, without Prefect and MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.execute import Execution
from flows.graph import Graph, Stage, open_graph
from flows.terminal import Bars
from flows.recorder import Recorder
from unclip.runs import begin_run, end_run
from unclip.tracking import Tracker


@task(cache_policy=NO_CACHE, persist_result=False)
def build_stage(execution: Execution, stage: Stage) -> list[str]:
    """The keys of one stage's artifacts: found in the store, or made now."""
    return [artifact.key for artifact in execution.build(stage)]


@flow(name="retrain", flow_run_name="{name}", persist_result=False, validate_parameters=False)
def retrain(
    name: str, store: str, overrides: tuple[str, ...] = (), until: str | None = None, file: str = "pipelines.yaml"
) -> dict[str, list[str]]:
    """The keys of every stage's artifacts; what the store holds is found, the rest is made in order."""
    graph = open_graph(Path(file), name, Path(store), tuple(overrides))
    with watched(graph) as execution:
        for stage in graph.stages(until):
            build_stage.with_options(name=stage.name, **_retries(stage))(execution, stage)
        return {stage: [a.key for a in artifacts] for stage, artifacts in execution.made.items()}


@contextmanager
def watched(graph: Graph) -> Iterator[Execution]:
    """An execution whose stages are shown on the terminal, recorded in the store and told to MLflow."""
    run = begin_run(graph.name, graph.pipeline.model_dump(mode="json"))
    tracker = Tracker(graph.store, run)
    with Bars() as bars:
        try:
            yield Execution(graph, [bars, Recorder(graph.store, run), tracker])
        except BaseException:
            tracker.close("failed")
            raise
    end_run(graph.store, run, "finished")
    tracker.close("finished")


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
