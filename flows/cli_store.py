"""The verbs that ask the store: lineage, diff, verify, gc, accept, track."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import FILE, STORE, File, Json, Name, StoreDir, app
from flows.terminal import out, size, table

Reference = Annotated[str, typer.Argument(help="A key prefix, a path in the store, or a PNG", show_default=False)]


@app.command(rich_help_panel="Store")
def lineage(reference: Reference, store: StoreDir = STORE, as_json: Json = False) -> None:
    """What made this, down to the data. Example: unclip lineage picture.png"""
    from unclip.lineage import ancestors, picture_of, resolve
    from unclip.store import open_store

    opened, picture = open_store(store), picture_of(reference)
    found = list(ancestors(opened, resolve(opened, reference)))
    if as_json:
        above = [{"depth": 0, "name": "picture", "kind": "picture", **picture}] if picture else []
        print(json.dumps(above + [{"depth": depth, "name": name, **m} for depth, name, m in found], indent=1))
        return
    if picture:
        out.print(_said({name: value for name, value in picture.items() if name != "stack"}))
    rows = [
        ["  " * depth + name, m["key"][:12], (m["git"]["commit"] or "?")[:9], m["ended"][:16], f"{m['seconds']:.1f}"]
        for depth, name, m in found
    ]
    out.print(table(f"lineage of {reference}", ["artifact", "key", "commit", "made", "seconds"], rows, ["seconds"]))


@app.command(rich_help_panel="Store")
def diff(left: Reference, right: Reference, store: StoreDir = STORE, as_json: Json = False) -> None:
    """What differs between two artifacts' making: settings, inputs, code. Example: unclip diff 3fa2 9b01"""
    from unclip.lineage import differences
    from unclip.store import open_store

    opened = open_store(store)
    found = list(differences(_making(opened, left), _making(opened, right)))
    if as_json:
        print(json.dumps([{"where": where, "left": a, "right": b} for where, a, b in found], indent=1))
        return
    rows = [[where, _short(a), _short(b)] for where, a, b in found]
    out.print(table("", ["what", left[:24], right[:24]], rows) if rows else "made alike")


@app.command(rich_help_panel="Store")
def verify(
    dump: Annotated[Path | None, typer.Argument(help="A dump, instead of the store", show_default=False)] = None,
    sample: Annotated[int, typer.Option(min=0, help="Rows of a dump to embed again")] = 64,
    seed: Annotated[int, typer.Option(help="Which rows of a dump")] = 0,
    source: Annotated[Path | None, typer.Option(help="Where a dump's pictures lie now", show_default=False)] = None,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """Read every byte again and compare with the manifests; of a dump, every row, and embed some again.
    Example: unclip verify dump --sample 200"""
    if dump is not None:
        from flows.cli_dumps import verify_dump

        return verify_dump(dump, sample, seed, source, as_json)
    if (sample, seed, source, as_json) != (64, 0, None, False):
        raise ValueError("--sample, --seed, --source and --json have no effect without a DUMP")
    from unclip.lineage import verify as check
    from unclip.store import open_store

    opened = open_store(store)
    rows = [[kind, key[:12], wrong] for kind, key, wrong in check(opened)]
    if rows:
        out.print(table("damaged: delete these folders and run again", ["kind", "key", "what is wrong"], rows))
        raise typer.Exit(1)
    out.print(f"{opened.ledger.rebuild()} artifacts, every byte as recorded")


@app.command(rich_help_panel="Store")
def gc(
    store: StoreDir = STORE,
    keep_runs: Annotated[int, typer.Option(min=1, help="Newest finished runs of each stage to keep")] = 3,
    remove: Annotated[bool, typer.Option("--remove", help="Remove, instead of only listing")] = False,
) -> None:
    """What no recent run refers to; with --remove, gone. Example: unclip gc --keep-runs 2 --remove"""
    from unclip.lineage import collect
    from unclip.store import open_store

    found = list(collect(open_store(store), keep_runs, not remove))
    rows = [[path.parent.name, path.name[:12], size(num_bytes)] for path, num_bytes in found]
    out.print(table("removed" if remove else "would go", ["kind", "key", "size"], rows, ["size"]))
    out.print(size(sum(num_bytes for _, num_bytes in found)) + ("" if remove else ": --remove removes them"))


@app.command(rich_help_panel="Store")
def accept(
    stage: Annotated[str, typer.Argument(help="The stage whose code changed", show_default=False)],
    name: Name,
    store: StoreDir = STORE,
    file: File = FILE,
) -> None:
    """Say, on the record, that a stage's new code changes no result. Example: unclip accept decoder shapes"""
    from flows.accepting import accept_code
    from flows.graph import open_graph

    out.print(accept_code(open_graph(file, name, store), stage))


@app.command(rich_help_panel="Store")
def track(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Write MLflow's database again from the store")],
    store: StoreDir = STORE,
) -> None:
    """Tell MLflow again what the store knows. Example: unclip track --rebuild"""
    from unclip.store import open_store
    from unclip.tracking import rebuild as tell

    if not rebuild:
        raise ValueError("track does one thing: say --rebuild")
    out.print(f"{tell(open_store(store).root)} runs written")


def _making(store: Any, reference: str) -> dict[str, Any]:
    """What made an artifact, or a picture and its stack."""
    from unclip.lineage import picture_of, resolve

    manifest = resolve(store, reference)
    names = ("kind", "recipe", "git", "environment", "hardware", "metrics")
    return {"picture": picture_of(reference)} | {name: manifest[name] for name in names}


def _said(record: dict[str, Any]) -> str:
    """What a picture says of itself, in one line of names and values."""
    words = (
        f"{name} ({_said(v)})" if isinstance(v, dict) else f"{name} {v}"
        for name, v in record.items()
        if v not in (None, [], {})
    )
    return ", ".join(words)


def _short(value: Any, limit: int = 48) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
