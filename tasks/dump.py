"""The data team's dump outside a pipeline: which CLIP, which source."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tasks.clip_encoder import ClipEncoder, encoder_of, facts_of
from tasks.clip_files import load_clip, save_clip
from tasks.files import write_json
from tasks.pretrained import find_pretrained, is_pretrained
from unclip.artifact import Artifact
from unclip.data.config import EmbedConfig, FolderConfig, ShardsConfig, UrlsConfig
from unclip.data.digests import known_digest
from unclip.data.dump import CLIP_FILES, MADE_FROM
from unclip.data.dump_engine import Engine
from unclip.data.dump_records import are_whole, record_or_none, sizes_of
from unclip.data.imports import import_dump
from unclip.runs import last_artifacts
from unclip.store import Store

FEW_CORES = 4  # up to here threads decode: on two cores processes were no faster within the noise
LISTS = (".csv", ".parquet", ".jsonl")


def clip_folder(name: str, store: Store, aside: Path, dump: Path | None = None) -> Path:
    """The folder of a CLIP: one with `clip.json`, a pipeline's newest, or a pretrained one saved `aside`.

    A dump that was made with the same pretrained one has it already.

    Raises:
        ValueError: it is none of them.
    """
    if (Path(name) / "clip.json").is_file():
        return Path(name)
    if is_pretrained(name):
        try:
            return pretrained_folder(name, aside, dump)
        except ValueError as error:  # a pipeline's setting has another name than the option
            raise ValueError(f"--clip: {str(error).removeprefix('clip.pretrained: ')}") from error
    with suppress(ValueError):
        return last_artifacts(store, name, "clip")[0].path
    raise ValueError(
        "--clip must be MODEL:WEIGHTS of open_clip, hf-hub:ORG/NAME, local-dir:FOLDER, a folder with clip.json, or a "
        f"pipeline whose CLIP {store.root} holds; got '{name}'"
    )


def pretrained_folder(name: str, aside: Path, dump: Path | None) -> Path:
    """The folder of a pretrained CLIP: the dump's, or `aside`. Raises: ValueError as `find_pretrained` and `load`."""
    found = find_pretrained(name)
    made_from = {"clip": name, "spec": found.spec.to_json(), "weights": known_digest(Path(found.weights))}
    if dump is not None and is_made_from(dump / "clip", made_from):
        return dump / "clip"
    aside.mkdir(parents=True, exist_ok=True)
    save_clip(aside, found.load())
    sizes = sizes_of(path for name in CLIP_FILES if (path := aside / name).is_file())
    write_json(aside / MADE_FROM, made_from | {"sizes": sizes})
    return aside


def is_made_from(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether a folder holds the CLIP that was saved from these weights, whole."""
    said = folder / MADE_FROM
    files = CLIP_FILES if made_from["spec"].get("tokenizer") else CLIP_FILES[:-1]
    if not all((folder / name).is_file() for name in (*files, MADE_FROM)):
        return False
    found = record_or_none(said, "sizes")
    if found is None:
        return False
    is_same = {name: found.get(name) for name in made_from} == json.loads(json.dumps(made_from))
    return is_same and are_whole(folder, found)


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


def open_beside(folder: Path, precision: str, device: str, num_beside: int) -> ClipEncoder:
    """The encoder in one of so many processes, with its share of the cores."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_beside))
    return open_encoder(folder, precision, device)


def engine_of(folder: Path, config: EmbedConfig, devices: Sequence[str], num_beside: int | None = None) -> Engine:
    """What embeds with the CLIP in a folder: one process a device. Raises: ValueError for a device not there.

    num_beside: the processes that share the cores, where they are not those of the devices.
    """
    for device in devices:
        require_device(device)
    beside = num_beside or len(devices)
    openers = tuple(partial(open_beside, folder, config.precision, device, beside) for device in devices)
    num_workers = -(-config.workers // len(devices))
    return Engine(facts_of(folder, config.precision), openers, config.batch_size, num_workers)


def require_device(name: str) -> None:
    """Raises: ValueError when there is no such device here."""
    if name not in (*known_devices(), *(["cuda"] if torch.cuda.is_available() else [])):
        raise ValueError(f"--device must name devices of this machine: {', '.join(known_devices())}; got '{name}'")


def known_devices() -> list[str]:
    """The devices of this machine, the ones to prefer first."""
    return [*(f"cuda:{number}" for number in range(torch.cuda.device_count())), "cpu"]


def default_workers() -> int:
    """How many processes decode where nobody says: none on a few cores, where threads do as well."""
    cores = len(os.sched_getaffinity(0))
    return 0 if cores <= FEW_CORES else cores


def dump_source(source: str) -> FolderConfig | ShardsConfig | UrlsConfig:
    """The source that a command line names: a folder with captions.csv, tars, or a URL list.

    Raises: ValueError for none of them.
    """
    path = Path(source)
    if path.suffix.lower() in LISTS:
        if not path.is_file():
            raise ValueError(f"SOURCE {source}: there is no such file")
        return UrlsConfig(path=source)
    if source.endswith(".tar"):
        return ShardsConfig(pattern=source)
    if not path.is_dir():
        raise ValueError(
            f"SOURCE must be a folder of images, a URL list or tars such as 'data/{{000..099}}.tar', got '{source}'"
        )
    return FolderConfig(folder=source, captions=str(path / "captions.csv"))
