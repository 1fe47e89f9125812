"""What is done with a dump: search, inspect, verify, export, import."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import STORE, Json, StoreDir, app
from flows.terminal import histogram, out, size, table
from unclip.data.funnel import lost_rows
from unclip.data.index_figures import index_words
from unclip.data.versions import versions_line

Dump = Annotated[Path, typer.Argument(help="A folder that `unclip embed` made", show_default=False)]
Target = typer.Option("--out", help="A folder that is new or empty", show_default=False)
Seed = Annotated[int, typer.Option(help="Seed of the rows that are drawn")]


@app.command(rich_help_panel="Data")
def search(
    dump: Annotated[str, typer.Argument(help="A folder that `unclip embed` made, or a pipeline", show_default=False)],
    text: Annotated[str | None, typer.Argument(help="What to look for", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to look for instead", show_default=False)] = None,
    num: Annotated[int, typer.Option("-k", help="How many")] = 10,
    sheet: Annotated[Path | None, typer.Option(help="A PNG of what was found", show_default=False)] = None,
    clip: Annotated[str | None, typer.Option(help="Where a dump holds none: the CLIP, as `embed` takes it")] = None,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """The images nearest to a text or picture. Example: unclip search dump "a red circle" --sheet found.png"""
    from flows.cli_pictures import writable

    if sheet is not None:
        writable(sheet)
    from tasks.search import save_sheet
    from tasks.search import search as search_table

    searched, found = search_table(dump, store, text, image, num, clip)
    if sheet is not None:
        save_sheet(searched, found, text or f"pictures like {image}", sheet)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    has_more = any(hit["more"] for hit in found)
    names = ["cosine", "picture", "caption", *(["further"] if has_more else [])]
    rows = [[f"{hit['cosine']:.3f}", hit["url"] or hit["key"], hit["caption"], _further(hit["more"])] for hit in found]
    out.print(table("", names, [row[: len(names)] for row in rows], ["cosine"]))
    if sheet is not None:
        print(sheet)


@app.command(rich_help_panel="Data")
def inspect(dump: Dump, seed: Seed = 0, as_json: Json = False) -> None:
    """A dump in figures, and whether every file is what it was. Example: unclip inspect dump"""
    from unclip.data.dump_figures import inspect_dump

    found = inspect_dump(dump, seed)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        out.print(table(str(dump), ["what", "value"], _told(found)))
        _print_spreads(found)
        _print_pairs(found)
    if found["problems"]:
        raise typer.Exit(1)


@app.command(rich_help_panel="Data")
def export(
    dump: Dump,
    target: Annotated[Path, Target],
    layout: Annotated[str, typer.Option(help="clip-retrieval, or dense: arrays by image index")],
    source: Annotated[Path | None, typer.Option(help="Where a dense export's tars lie now", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """A dump as other programs read it. Example: unclip export dump --out laid-out --layout clip-retrieval"""
    from unclip.data.exports import export_dump

    made = export_dump(dump, target, layout, source)
    width = f", index width {made['index_width']}" if "index_width" in made else ""
    print(
        json.dumps(made, indent=1) if as_json else f"{made['rows']:,} rows in {made['files']} files in {target}{width}"
    )


@app.command("import", rich_help_panel="Data")
def import_(
    folder: Annotated[Path, typer.Argument(help="A dump of clip-retrieval's", show_default=False)],
    target: Annotated[Path, Target],
    clip: Annotated[
        str | None, typer.Option(help="The CLIP that made it, named as for embed: proved, and kept", show_default=False)
    ] = None,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """A clip-retrieval dump, to be searched and inspected. Example: unclip import laid-out --out dump --clip shapes"""
    from tasks.dump import import_with_clip

    made = import_with_clip(folder, target, clip, store)
    lost = f"; {lost_rows(made['refused'])}" if made["refused"] else ""
    print(json.dumps(made, indent=1) if as_json else f"{made['rows']:,} rows in {target}{lost}")


def verify_dump(dump: Path, sample: int, seed: int, source: Path | None, as_json: bool) -> None:
    """Print what is wrong with a dump, a line each; exit 1 if anything is. `unclip verify DUMP` comes here."""
    from dataclasses import asdict

    from unclip.data.dump_pictures import DumpPictures
    from unclip.data.verification import verify_dump as check

    def open_own(precision: str) -> Any:
        from tasks.dump import open_encoder  # torch: only where a row is embedded again

        return open_encoder(dump / "clip", precision)

    found = check(dump, open_own, DumpPictures(dump, source), sample, seed)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        for line in [*found.lines(), *([found.versions] if found.versions else [])]:
            print(line)
        count = f"{len(found.problems):,} problems in " if found.problems else ""
        wrong = "" if found.problems else ": all as they must be"
        print(f"{count}{found.rows:,} rows in {_parts(found.parts)}, {found.embedded_again} embedded again{wrong}")
    if found.problems:
        raise typer.Exit(1)


def _context(context: int, num_filled: int | None) -> str:
    if num_filled is None:  # of an imported dump
        return f"{context} tokens" if context else "unknown"
    return f"{context} tokens, filled by {num_filled:,} captions"


def _told(found: dict[str, Any]) -> list[list[str]]:
    """The lines of a dump's figures that are one value each."""
    similar = found["similarity"]
    clip = found["clip"]
    refused = ", ".join(f"{reason} {count:,}" for reason, count in found["refused"].items())
    rows = [
        ["rows", f"{found['rows']:,} in {_parts(found['parts'])}"],
        ["refused", refused or "none"],
        ["origin", found["origin"]],
        ["dimension", str(clip["dimension"])],
        ["CLIP", f"{clip['model']}, precision {clip['compute_type']}, weights {clip['weights_digest'][:12]}"],
        ["preprocessing", clip["preprocessing_digest"][:12]],
        ["tokenizer", clip["tokenizer"][:30]],
        ["further", "\n".join(_fields(found["further"])) or "none"],
        ["context", _context(clip["context"], found["context_filled"])],
        ["versions", versions_line(found["versions"]) or "the same in all parts"],
        ["similarity", f"{histogram(similar['counts'])}  -1 to 1, pairs of {similar['rows_compared']:,} rows drawn"],
        ["duplicates", _duplicates(found)],
        ["index", "\n".join(index_words(found["index"])) if found["index"] else "none"],
        ["disk", "\n".join(f"{size(count):>9}  {kind}" for kind, count in found["bytes"].items())],
        ["problems", "\n".join(found["problems"]) or "none"],
    ]
    return rows


def _duplicates(found: dict[str, Any]) -> str:
    near = f"{found['duplicate_pairs']:,} pairs of the rows drawn at cosine 0.9999"
    exact = found["exact_duplicates"]
    return near if exact is None else f"{exact['rows_more']:,} rows repeat {exact['pictures']:,} pictures\n{near}"


def _print_spreads(found: dict[str, Any]) -> None:
    names = [name for name in found if isinstance(found[name], dict) and "p50" in found[name]]
    figures = ["min", "p1", "p50", "p99", "max", "mean"]
    rows = [[name.replace("_", " "), *(f"{found[name][figure]:.4g}" for figure in figures)] for name in names]
    out.print(table("over every row", ["", *figures], rows, figures))


def _print_pairs(found: dict[str, Any]) -> None:
    rows = [
        [f"{pair['cosine']:.4f}", *(f"{key}\n{_short(caption)}" for key, caption in zip(*_both(pair), strict=True))]
        for pair in found["nearest_pairs"]
    ]
    if rows:
        out.print(table("nearest pairs of the rows drawn", ["cosine", "one", "other"], rows, ["cosine"]))


def _both(pair: dict[str, Any]) -> tuple[list[str], list[str]]:
    return pair["keys"], pair["captions"]


def _further(more: dict[str, Any]) -> str:
    """What a source says of a row besides, as far as it fits."""
    return _short(", ".join(f"{name} {value}" for name, value in more.items() if value is not None), limit=80)


def _fields(found: dict[str, Any], limit: int = 20) -> list[str]:
    """A line a further column; of very many the first."""
    lines = [f"{name}: {field['kind']}, of {field['rows']:,} rows" for name, field in found.items()]
    return lines[:limit] + ([f"and {len(lines) - limit} more"] if len(lines) > limit else [])


def _short(text: str, limit: int = 32) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _parts(count: int) -> str:
    return "1 part" if count == 1 else f"{count:,} parts"
