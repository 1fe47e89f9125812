"""The data team's verbs, without a pipeline: embed, search, inspect."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import STORE, Json, StoreDir, app
from flows.terminal import err, histogram, lost_rows, out, size, table

Dump = Annotated[Path, typer.Argument(help="A folder that `unclip embed` made", show_default=False)]
Clip = typer.Option("--clip", help="MODEL:WEIGHTS of open_clip, a folder with clip.json, or a pipeline's CLIP")


@app.command(rich_help_panel="Data")
def embed(
    source: Annotated[
        str, typer.Argument(help="A folder of images with captions, or 'data/{000..099}.tar'", show_default=False)
    ],
    target: Annotated[Path, typer.Option("--out", help="The dump: made, or gone on with", show_default=False)],
    clip: Annotated[str, Clip],
    captions: Annotated[str | None, typer.Option(help="CSV: file,caption [default: SOURCE/captions.csv]")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    precision: Annotated[str, typer.Option(help="fp32, or bf16: autocast")] = "fp32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0,cuda:1, ... [default: the first GPU, or cpu]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode; 0: threads [default: one a core from five cores]")
    ] = None,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """Embed images and captions to Parquet and FAISS. Example: unclip embed photos --out dump --clip shapes"""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: its idle threads leave the cores to decoding
    from tempfile import TemporaryDirectory

    from tasks.dump import clip_folder, default_workers, dump_source, engine_of, known_devices
    from unclip.data.config import EmbedConfig
    from unclip.data.dump import fill_dump
    from unclip.store import Store

    num_workers = default_workers() if workers is None else workers
    config = EmbedConfig(batch_size=batch_size, precision=precision, workers=num_workers)
    wanted = dump_source(source, captions)
    with TemporaryDirectory() as aside:
        folder = clip_folder(clip, Store(store), Path(aside), target)
        engine = engine_of(folder, config, device.split(",") if device else known_devices()[:1])
        manifest = fill_dump(wanted, target, engine, folder, _bar())
    lost = f"; {lost_rows(manifest['refused'])}: see {target}/parts" if manifest["refused"] else ""
    print(json.dumps(manifest, indent=1) if as_json else f"{manifest['rows']} rows in {target}{lost}")


@app.command(rich_help_panel="Data")
def search(
    dump: Dump,
    text: Annotated[str | None, typer.Argument(help="What to look for", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to look for instead", show_default=False)] = None,
    num: Annotated[int, typer.Option("-k", help="How many")] = 10,
    clip: Annotated[Path | None, typer.Option(help="Another CLIP's folder [default: the dump's]")] = None,
    as_json: Json = False,
) -> None:
    """The images of a dump nearest to a text or picture. Example: unclip search dump "a red circle" """
    from tasks.dump import search as search_dump

    found = search_dump(dump, clip, text, image, num)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    rows = [[f"{hit['cosine']:.3f}", hit["url"] or hit["key"], hit["caption"]] for hit in found]
    out.print(table("", ["cosine", "picture", "caption"], rows, ["cosine"]))


@app.command(rich_help_panel="Data")
def inspect(dump: Dump, as_json: Json = False) -> None:
    """A dump in figures, and whether every file is what it was. Example: unclip inspect dump"""
    from unclip.data.dump_figures import inspect_dump

    found = inspect_dump(dump)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        similar = found["similarity"]
        found["similarity"] = f"{histogram(similar['counts'])}  -1 to 1, pairs of {similar['rows_compared']} rows"
        out.print(table(str(dump), ["what", "value"], [[name, _shown(name, value)] for name, value in found.items()]))
    if found["problems"]:
        raise typer.Exit(1)


def _bar() -> Any:
    from rich.progress import Progress

    bar = Progress(console=err, transient=True, disable=not err.is_terminal)
    bar.start()
    task = bar.add_task("embed", total=1.0)

    def report(done: float, total: float, **_: float) -> None:
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    return report


def _shown(name: str, value: Any) -> str:
    if isinstance(value, int) and "bytes" in name:
        return size(value)
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(key, item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
