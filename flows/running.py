"""Start a run, a schedule or the pages of a store: the servers first, then Prefect, which reads where they are."""

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from flows.config import load_pipeline
from flows.graph import Graph
from flows.losses import funnel_line
from flows.terminal import err, out, table
from unclip.artifact import Artifact
from unclip.data.index_figures import index_line
from unclip.prefect_server import apply_environment, start_server
from unclip.runs import RunRecord, begin_run, end_run, runs_of


def run_flow(graph: Graph, overrides: tuple[str, ...], until: str | None, file: Path) -> RunRecord:
    """The record of a run through Prefect on the store's own server, or the one `PREFECT_API_URL` names."""
    server = start_server(graph.store.root)
    err.print(f"{graph.name}: starting the Prefect server of {graph.store.root}")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # our one line says it, -v says more
    try:
        apply_environment(graph.store.root, server.address())
        with suppress(ImportError):  # no run fails for MLflow; it takes seconds: those in which the server starts
            import_module("mlflow.store.tracking.sqlalchemy_store")
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.retrain import retrain

        if server.wait() != server.address():
            raise RuntimeError("another command started this store's Prefect server at the same instant: run again")
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            retrain(graph.name, str(graph.store.root), overrides, until, str(file.resolve()))
    finally:
        server.close()
    return next(runs_of(graph.store, graph.name))


def found_run(graph: Graph, until: str | None) -> RunRecord:
    """The record of a run that finds everything; kept where the newest one says otherwise, for it is in use now."""
    run = begin_run(graph.name, graph.pipeline.model_dump(mode="json"))
    made: dict[str, tuple[Artifact, ...]] = {}
    for stage in graph.stages(until):
        made[stage.name] = tuple(step.found for step in graph.steps(stage, made) if step.found is not None)
        run.stages[stage.name] = {"keys": [a.key for a in made[stage.name]], "built": 0, "seconds": 0.0}
    newest = next(runs_of(graph.store, graph.name), run)
    if newest is run or any(newest.keys(stage) != run.keys(stage) for stage in run.stages):
        end_run(graph.store, run, "finished")
    return run


def print_run(graph: Graph, run: RunRecord, until: str | None = None) -> None:
    """The stage table of a run, and where the report is."""
    rows = []
    for stage in graph.stages(until):
        keys = run.keys(stage.name)
        entry = run.stages.get(stage.name, {})
        built = entry.get("built", 0)
        what = "found" if not built else "made" if len(keys) == 1 else f"made {built} of {len(keys)}"
        rows.append([stage.name, what, f"{entry.get('seconds', 0):.1f}", ", ".join(k[:12] for k in keys[:2])])
    out.print(table(f"{graph.name} in {graph.store.root}", ["stage", "", "seconds", "artifact"], rows, ["seconds"]))
    if line := funnel_line(graph.name, graph.store, run):
        out.print(line, soft_wrap=True)
    for index in (graph.store.find("index", key) for key in run.keys("index")):
        if index is not None:
            out.print(index_line(index.manifest()["metrics"]), soft_wrap=True)
    if until is None:
        page = graph.store.path_of("report", run.keys("report")[0])
        out.print(f"report: {page / 'index.html'}", soft_wrap=True)


def serve_flow(file: Path, name: str, store: Path, overrides: tuple[str, ...]) -> None:
    """Run the pipeline whenever its schedule says, until stopped.

    Raises:
        ValueError: the pipeline has no schedule.
    """
    pipeline = load_pipeline(file, name, overrides)
    if pipeline.schedule is None:
        raise ValueError(f"{name}.schedule is needed to serve it: {{every_s: 86400}} or {{cron: '0 3 * * *'}}")
    from flows.serve import serve

    when = pipeline.schedule.cron or pipeline.schedule.every_s
    assert when is not None
    parameters = {
        "name": name,
        "store": str(store.resolve()),
        "overrides": list(overrides),
        "file": str(file.resolve()),
    }
    apply_environment(store, start_server(store).wait())
    from flows.retrain import retrain

    out.print(f"{name} runs {f'every {when:g} s' if isinstance(when, float) else when} into {store}, until Ctrl-C")
    serve(retrain, name, when, store, parameters)
