"""The data team's verb without a pipeline: embed. What is done with a dump then is in `flows.cli_dumps`."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import STORE, Json, StoreDir, app
from flows.terminal import err
from unclip.data.funnel import lost_rows

if TYPE_CHECKING:
    from flows.embed_settings import Asked
    from unclip.data.dump_engine import Engine

SET_HELP = (
    "embed.FIELD, index.FIELD, runner.FIELD=value; of a folder folder.FIELD, of a URL list urls.FIELD, download.FIELD; "
    "may be given again"
)
CLIP_HELP = "MODEL:WEIGHTS, hf-hub:ORG/NAME, local-dir:FOLDER, a folder with clip.json, or a pipeline"
Clip = typer.Option("--clip", help=CLIP_HELP)


@app.command(rich_help_panel="Data")
def embed(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images with captions, 'data/{000..099}.tar', or a URL list", show_default=False
        ),
    ],
    target: Annotated[Path, typer.Option("--out", help="The dump: made, or gone on with", show_default=False)],
    clip: Annotated[str, Clip],
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0,cuda:1, ...; if left out, the first GPU or else cpu")
    ] = None,
    overrides: Annotated[list[str], typer.Option("--set", help=SET_HELP, show_default=False)] = [],  # noqa: B006
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask again for rows of a list that may pass with time")
    ] = False,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """Embed images and captions to Parquet and FAISS. Example: unclip embed photos --out dump --clip shapes"""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: its idle threads leave the cores to decoding
    from flows.embed_settings import asked_for
    from unclip.data.dump import fill_dump
    from unclip.data.fetched import FetchedConfig, fetch_list

    asked = asked_for(source, target, overrides, retry)
    out = target.absolute()  # as workers elsewhere need it
    with _engine(clip, asked, device, store.absolute(), out) as (engine, folder), _bars() as bar:

        def fetch() -> None:
            assert isinstance(asked.source, FetchedConfig)
            fetch_list(asked.source.urls, asked.download, asked.source.folder, bar("fetch"), again=retry)

        tell = partial(err.print, markup=False, soft_wrap=True)
        manifest = fill_dump(asked.source, out, engine, folder, bar("embed"), fetch, asked.index, tell)
    _print_made(manifest, target, as_json)


@contextmanager
def _engine(
    clip: str, asked: "Asked", device: str | None, store: Path, target: Path
) -> Iterator[tuple["Engine", Path]]:
    """What embeds, here or on a cluster, and the folder of its CLIP."""
    from tempfile import TemporaryDirectory

    from flows.embedding import on_cluster
    from tasks.dump import clip_folder, engine_of, known_devices
    from unclip.store import Store

    devices = device.split(",") if device else known_devices()[:1]
    if asked.is_spread:
        if len(devices) > 1:
            raise ValueError(f"--device must be one with runner.kind={asked.runner.kind}, got '{device}'")
        store.mkdir(parents=True, exist_ok=True)  # workers read the CLIP there
    with TemporaryDirectory(dir=store if asked.is_spread else None) as aside:
        folder = clip_folder(clip, Store(store), Path(aside), target).absolute()
        engine = engine_of(folder, asked.embed, devices, asked.runner.num_workers)
        yield on_cluster(engine, asked.runner, store) if asked.is_spread else engine, folder


def _print_made(manifest: dict[str, Any], target: Path, as_json: bool) -> None:
    """What was made, what was lost, and the index."""
    from unclip.data.index_figures import index_line

    if as_json:
        print(json.dumps(manifest, indent=1))
        return
    lost = f"; {lost_rows(manifest['refused'])}: see {target}/parts" if manifest["refused"] else ""
    done = f"{manifest['embedded_shards']} of {manifest['shards']} parts embedded now"
    if manifest["dropped_shards"]:
        done += f", {manifest['dropped_shards']} dropped that SOURCE no longer has"
    print(f"{manifest['rows']} rows in {target}, {done}{lost}")
    print(index_line(manifest["index"]))
    if manifest["other_versions"]:
        print(f"{manifest['other_versions']}: embed into a new --out for one table of one kind")


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[..., None]]]:
    """Bars on the terminal, each shown once it is told of; the cursor comes back whatever happens."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as bars:

        def bar(what: str) -> Callable[..., None]:
            task = bars.add_task(what, total=1.0, visible=False)

            def report(done: float, total: float, **_: float) -> None:
                bars.update(task, completed=done, total=total, visible=True)

            return report

        yield bar
