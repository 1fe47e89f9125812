"""The verbs about a URL list's download: downloads, retry."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import FILE, STORE, File, Json, Name, Sets, StoreDir, app
from flows.terminal import out

Status = typer.Option("--status", help="Which refusals, by commas; if left out, all that may pass", show_default=False)
With = typer.Option("--with", help="A setting of download for these rows, such as timeout_s=60", show_default=False)


@app.command("downloads", rich_help_panel="Data")
def show_downloads(
    name: Name,
    overrides: Sets = [],  # noqa: B006
    store: StoreDir = STORE,
    file: File = FILE,
    as_json: Json = False,
) -> None:
    """What became of a URL list's rows, and what to do about it. Example: unclip downloads emoji"""
    from flows.downloads import downloads, fates_table, summary
    from flows.graph import open_graph

    found = downloads(open_graph(file, name, store, tuple(overrides)))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
        return
    if found.refused:
        out.print(fates_table(found.refused, found.is_whole))
    out.print(summary(name, found, given(overrides, store, file)), soft_wrap=True)


def given(overrides: list[str], store: Path, file: Path) -> str:
    """The options that another command needs to mean the same pipeline in the same store."""
    words = [word for override in overrides for word in ("--set", override)]
    words += ["--store", str(store)] if store != STORE else []
    words += ["--file", str(file)] if file != FILE else []
    return "".join(f" {shlex.quote(word)}" for word in words)


@app.command(rich_help_panel="Data")
def retry(
    name: Name,
    status: Annotated[list[str], Status] = [],  # noqa: B006
    replacements: Annotated[list[str], With] = [],  # noqa: B006
    overrides: Sets = [],  # noqa: B006
    store: StoreDir = STORE,
    file: File = FILE,
    as_json: Json = False,
) -> None:
    """Put refused rows into further shards, which the next run fetches. Example: unclip retry emoji --status timeout"""
    import yaml

    from flows.graph import open_graph
    from flows.retries import add_retries

    settings = {}
    for replacement in replacements:
        field, equals, value = replacement.partition("=")
        if not equals:
            raise ValueError(f"--with must be field=value, got {replacement!r}")
        settings[field.removeprefix("download.")] = yaml.safe_load(value)
    graph = open_graph(file, name, store, tuple(overrides))
    statuses = [one.strip() for given in status for one in given.split(",")]
    shards, counts = add_retries(graph, statuses, settings)
    if as_json:
        print(json.dumps({"shards": shards, "rows": counts}, indent=1))
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
    more = "one further shard" if len(shards) == 1 else f"{len(shards)} further shards"
    out.print(f"{counts.total():,} rows in {more}: {reasons}. `unclip run {name}` fetches them")
