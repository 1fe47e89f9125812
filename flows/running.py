"""Start a run, a schedule or the pages of a store: the servers first, then Prefect, which reads where they are."""

import os
from pathlib import Path

from flows.config import load_pipeline
from flows.graph import Graph
from flows.terminal import err, out, table
from unclip.prefect_server import apply_environment, start_server
from unclip.runs import last_artifacts, runs_of


def run_flow(graph: Graph, overrides: tuple[str, ...], until: str | None, file: Path) -> None:
    """Run the pipeline through Prefect on the store's own server, or the one `PREFECT_API_URL` names."""
    server = start_server(graph.store.root)
    err.print(f"{graph.name}: starting the Prefect server of {graph.store.root}")
    url = server.wait()
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # our one line says it, -v says more
    apply_environment(graph.store.root, url)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.retrain import retrain

    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            retrain(graph.name, str(graph.store.root), overrides, until, str(file.resolve()))
    finally:
        server.close()


def print_run(graph: Graph, until: str | None = None) -> None:
    """The stage table of the newest run, a few metrics, and where the report is."""
    run = next(iter(runs_of(graph.store, graph.name)))
    rows = []
    for stage in graph.stages(until):
        keys = run.keys(stage.name)
        entry = run.stages.get(stage.name, {})
        built = entry.get("built", 0)
        what = "found" if not built else "made" if len(keys) == 1 else f"made {built} of {len(keys)}"
        rows.append([stage.name, what, f"{entry.get('seconds', 0):.1f}", ", ".join(k[:12] for k in keys[:2])])
    out.print(table(f"{graph.name} in {graph.store.root}", ["stage", "", "seconds", "artifact"], rows, ["seconds"]))
    if until is None:
        (page,) = last_artifacts(graph.store, graph.name, "report")
        out.print(f"report: {page.path / 'index.html'}", soft_wrap=True)


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
