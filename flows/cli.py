"""`unclip VERB`: progress on stderr, results on stdout; exit 0 done, 1 failed, 2 the user's mistake."""

import errno
import inspect
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal import err, out, size, table

app = typer.Typer(
    name="unclip",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    help="Captioned images to pictures: the whole unCLIP (DALL·E 2) pipeline, every artifact on record. "
    "Example: [bold]unclip run shapes[/bold]",
    epilog="Exit codes: 0 done, 1 failed or something was found wrong, 2 settings or data to mend, 130 interrupted.",
)

Name = Annotated[str, typer.Argument(help="A pipeline of the file, such as shapes", show_default=False)]
StoreDir = Annotated[Path, typer.Option("--store", envvar="UNCLIP_STORE", help="The folder that holds all artifacts")]
File = Annotated[Path, typer.Option("--file", envvar="UNCLIP_FILE", help="Where the pipelines are described")]
Sets = Annotated[list[str], typer.Option("--set", help="stage.field=value, may be given again", show_default=False)]
Until = Annotated[str | None, typer.Option(help="Stop at this stage: make it and what it needs", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read")]

STORE = Path("store")
FILE = Path("pipelines.yaml")
ROOT, OURS = Path(__file__).resolve().parent.parent, ("flows", "tasks", "models", "unclip")
INTERRUPTED = 130  # the exit code of Ctrl-C
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
DISK_FULL = ("No space left on device", "disk is full")  # as libraries and workers say it, SQLite the second


@app.callback()
def options(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")] = False) -> None:
    """Settings of every verb."""
    if verbose:
        os.environ["UNCLIP_VERBOSE"] = "1"


@app.command(rich_help_panel="Pipelines")
def run(
    name: Name,
    overrides: Sets = [],  # noqa: B006
    until: Until = None,
    store: StoreDir = STORE,
    file: File = FILE,
) -> None:
    """Run a pipeline: find what the store holds, make the rest. Example: unclip run shapes --until clip"""
    from flows.graph import open_graph
    from flows.plan import is_complete, plan
    from flows.running import found_run, print_run, run_flow

    graph = open_graph(file, name, store, tuple(overrides))
    is_done = is_complete(plan(graph, until))
    record = found_run(graph, until) if is_done else run_flow(graph, tuple(overrides), until, file)
    print_run(graph, record, until)


@app.command("plan", rich_help_panel="Pipelines")
def show_plan(
    name: Name,
    overrides: Sets = [],  # noqa: B006
    until: Until = None,
    store: StoreDir = STORE,
    file: File = FILE,
    as_json: Json = False,
    costs: Annotated[bool | None, typer.Option(help="Sizes, FLOPs, GPU hours; if left out, of large networks")] = None,
) -> None:
    """What a run would make and why, and what it would find. Example: unclip plan shapes --set pca.num_buckets=512"""
    from dataclasses import asdict

    from flows.config import load_pipeline
    from flows.graph import Graph
    from flows.plan import expectation, plan
    from unclip.store import Store

    if as_json and costs:
        raise ValueError("--costs has no place in --json: leave one of them out")
    pipeline = load_pipeline(file, name, tuple(overrides))
    if not as_json and (pipeline.is_large if costs is None else costs):
        from flows.costs import print_costs

        print_costs(name, pipeline)  # first: sizes can be looked at before there is any data
    graph = Graph(name, pipeline, Store(store))
    plans = plan(graph, until)
    if as_json:
        print(json.dumps([asdict(p) for p in plans], indent=1))
        return
    rows = [
        [p.stage, _found(p), _seconds(p.seconds), size(p.num_bytes) if p.num_missing else "", p.why or p.artifact[:12]]
        for p in plans
    ]
    out.print(
        table(f"plan of {name} in {store}", ["stage", "will be", "seconds", "disk", "why"], rows, ["seconds", "disk"])
    )
    out.print(expectation(plans, graph))


@app.command(rich_help_panel="Pipelines")
def config(name: Name, overrides: Sets = [], file: File = FILE, as_json: Json = False) -> None:  # noqa: B006
    """Print a pipeline with everything that it inherits or leaves to defaults. Example: unclip config shapes"""
    import yaml

    from flows.config import load_pipeline

    values = load_pipeline(file, name, tuple(overrides)).model_dump(mode="json")
    print(json.dumps(values, indent=1) if as_json else yaml.safe_dump({name: values}, sort_keys=False).rstrip())


@app.command(rich_help_panel="Pipelines")
def metrics(name: Name, store: StoreDir = STORE, file: File = FILE, as_json: Json = False) -> None:
    """The last evaluation of a pipeline. Example: unclip metrics shapes --json"""
    from flows.figures import print_metrics
    from flows.naming import asked_of
    from unclip.runs import last_artifacts
    from unclip.store import open_store

    with asked_of(made := open_store(store), name, file):
        (evaluation,) = last_artifacts(made, name, "evaluate")
    values = json.loads((evaluation.path / "metrics.json").read_text())
    if as_json:
        print(json.dumps(values["conditionings"], indent=1))
    else:
        print_metrics(name, values)


@app.command(rich_help_panel="Pipelines")
def report(name: Name, store: StoreDir = STORE, file: File = FILE) -> None:
    """Where the report of the last run is: one HTML page. Example: unclip report shapes"""
    from flows.naming import asked_of
    from unclip.runs import last_artifacts
    from unclip.store import open_store

    with asked_of(made := open_store(store), name, file):
        (page,) = last_artifacts(made, name, "report")
    print(page.path / "index.html")


@app.command(rich_help_panel="Pipelines")
def serve(name: Name, overrides: Sets = [], store: StoreDir = STORE, file: File = FILE) -> None:  # noqa: B006
    """Run a pipeline on its schedule until stopped. Example: unclip serve shapes"""
    from flows.running import serve_flow

    serve_flow(file, name, store, tuple(overrides))


@app.command(rich_help_panel="Pipelines")
def ui(store: StoreDir = STORE, stop: Annotated[bool, typer.Option("--stop", help="End the pages")] = False) -> None:
    """Serve the Prefect and MLflow pages of a store until Ctrl-C. Example: unclip ui --store store"""
    from flows.serve import show_pages, stop_pages

    if stop:
        out.print(stop_pages(store))
    else:
        show_pages(store)


def main() -> None:
    """The command line; an error is one line, with -v a traceback."""
    load_verbs()
    try:
        app(standalone_mode=True)
    except ValueError as error:
        _fail(error, 2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            err.print("interrupted")
        raise
    except Exception as error:  # the last stop: whatever is left becomes one line
        _fail(error, 1)


def load_verbs() -> None:
    """Register the verbs of the other modules."""
    for name in ("cli_data", "cli_download", "cli_dumps", "cli_filters", "cli_pictures", "cli_store"):
        import_module(f"flows.{name}")


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("UNCLIP_VERBOSE"):
        traceback.print_exception(error)
    err.print(explained(error), markup=False, soft_wrap=True, style="red" if err.is_terminal else None)
    sys.exit(code)


def explained(error: BaseException) -> str:
    """An error as the user reads it."""
    if any(phrase in str(error) for phrase in DISK_FULL):
        where = (isinstance(error, OSError) and error.filename) or "the store"
        return f"the disk is full: {where} could not be written; nothing is lost: make room and run again"
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename:
        return f"{error.filename}: {os.strerror(error.errno).lower()}: name another place, or allow it there"
    if not str(error).strip():
        return f"{type(error).__name__}: {unsaid(error)} (-v shows where)"
    if isinstance(error, ValueError) or type(error).__module__.startswith("unclip"):
        return str(error)
    return f"{type(error).__name__}: {error} (-v shows where)"


def unsaid(error: BaseException) -> str:
    """What an error without a message means by its kind, and the last line of ours that it went through."""
    meaning = (inspect.getdoc(type(error)) or "no message").partition("\n")[0].rstrip(".")
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [(path.relative_to(ROOT), line) for path, line in frames if path.is_relative_to(ROOT)]
    places = [(path, line) for path, line in ours if path.parts[0] in OURS]
    return f"{meaning}, at {places[-1][0]}:{places[-1][1]}" if places else meaning


def _found(plan: Any) -> str:
    total = plan.num_found + plan.num_missing
    if not plan.num_missing:
        return "found" if total == 1 else f"found {total}"
    return "made" if total == 1 else f"made {plan.num_missing} of {total}"


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.0f}" if seconds else ""
