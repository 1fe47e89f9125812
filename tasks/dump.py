"""The data team's dump outside a pipeline: which CLIP, which source."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.clip import load_pretrained
from tasks.clip_encoder import ClipEncoder, encoder_of
from tasks.clip_files import load_clip, save_clip
from unclip.artifact import Artifact
from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.imports import import_dump
from unclip.runs import last_artifacts
from unclip.store import Store

LISTS = (".csv", ".parquet", ".jsonl")


def clip_folder(name: str, store: Store, aside: Path) -> Path:
    """The folder of a CLIP: one with `clip.json`, a pipeline's newest, or an open_clip `MODEL:WEIGHTS` saved `aside`.

    Raises:
        ValueError: it is none of them.
    """
    if (Path(name) / "clip.json").is_file():
        return Path(name)
    if ":" in name:
        aside.mkdir(parents=True, exist_ok=True)
        save_clip(aside, load_pretrained(name))
        return aside
    with suppress(ValueError):
        return last_artifacts(store, name, "clip")[0].path
    raise ValueError(
        f"--clip must be a folder with clip.json, MODEL:WEIGHTS of open_clip, or a pipeline whose CLIP {store.root} "
        f"holds; got '{name}'"
    )


def open_encoder(folder: Path, precision: str = "fp32", device: str = "cpu") -> ClipEncoder:
    """The encoder of the CLIP in a folder."""
    clip = load_clip(Artifact("clip", "", folder, ""), device)
    return encoder_of(folder, clip, precision, device)


def import_with_clip(folder: Path, out: Path, clip: str | None, store: Path) -> dict[str, Any]:
    """Import a clip-retrieval dump, with the CLIP that a name means if one is given; the manifest of what was made."""
    if clip is None:
        return import_dump(folder, out)
    with TemporaryDirectory() as aside:
        weights = clip_folder(clip, Store(store), Path(aside))
        return import_dump(folder, out, open_encoder(weights), weights)


def dump_source(source: str, captions: str | None) -> FolderConfig | ShardsConfig:
    """The source that a command line names: a folder with its captions, or tars.

    Raises:
        ValueError: neither, or a URL list, which has to be downloaded by a pipeline first.
    """
    path = Path(source)
    if path.suffix in LISTS:
        raise ValueError(f"SOURCE {source} is a URL list: run a pipeline with source.urls, then embed its shards")
    if source.endswith(".tar"):
        if captions is not None:
            raise ValueError("--captions has no effect on tars: they hold their captions")
        return ShardsConfig(pattern=source)
    if not path.is_dir():
        raise ValueError(f"SOURCE must be a folder of images or tars such as 'data/{{000..099}}.tar', got '{source}'")
    return FolderConfig(folder=source, captions=captions or str(path / "captions.csv"))
