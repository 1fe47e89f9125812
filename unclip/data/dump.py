"""The data team's dump: any folder or shards as an embedding table with an index, searchable, added to, checked.

A dump is `parts/NNNNNN.parquet` with `.rows.parquet`, `.rejects.parquet` and `.json` beside each, `index.faiss`,
`keys.parquet`, `clip/` (weights and clip.json) and `manifest.json`, which is written last.
"""

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from unclip.data.config import FolderConfig, IndexConfig, ShardsConfig
from unclip.data.digests import file_digest
from unclip.data.embed import Encoder, embed_shard
from unclip.data.index import build_index, write_index
from unclip.data.rows import refusals
from unclip.data.source_plan import shard_recipes
from unclip.data.sources import folder_shard, foreign_shard, write_admissions
from unclip.data.table import AGREEING, UNKNOWN, TableInfo, check_agree

DumpSource = FolderConfig | ShardsConfig


def embed_dump(
    source: DumpSource, out: Path, encoder: Encoder, clip: Path, batch_size: int, progress: Callable[..., None]
) -> dict[str, Any]:
    """Embed every shard of a source into the dump `out`; shards that it holds already cost nothing.

    clip: the folder of the encoder's weights, copied into the dump. Returns the manifest.

    Raises: ValueError for a bad source, a dump made with another CLIP or of another source, or one being written.
    """
    recipes = shard_recipes(source)
    (out / "parts").mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        return _embed_shards(source, recipes, out, encoder, clip, batch_size, progress)


def _embed_shards(
    source: DumpSource,
    recipes: list[dict[str, Any]],
    out: Path,
    encoder: Encoder,
    clip: Path,
    batch_size: int,
    progress: Callable[..., None],
) -> dict[str, Any]:
    refuse_other_clip(out, encoder)
    refuse_other_source(out, source)
    (out / "manifest.json").unlink(missing_ok=True)
    embedded = 0
    for shard, recipe in enumerate(recipes):
        recipe["weights_digest"], recipe["compute_type"] = encoder.weights_digest, encoder.compute_type
        if not part_is_there(out, shard, recipe):
            embed_part(source, shard, recipe, out, encoder, batch_size)
            embedded += 1
        progress(shard + 1, len(recipes))
    for record in sorted((out / "parts").glob("*.json"))[len(recipes) :]:
        drop_part(record)
    copy_clip(clip, out / "clip")
    return finish(out, embedded)


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the dump for writing. Raises: ValueError when another process does."""
    with open(out / "parts" / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another embed is writing to {out}: wait until it has ended") from error
        yield


def finish(out: Path, embedded: int) -> dict[str, Any]:
    """Build the index over all parts and write the manifest: what is where, with digests."""
    parts = part_paths(out)
    built = build_index(IndexConfig(), parts, seed=0)
    write_index(built, parts, out)
    files = [path for part in parts for path in files_of(part)] + sorted(p for p in out.glob("*.*") if p.is_file())
    names = [path.relative_to(out).as_posix() for path in files]
    manifest = {
        "rows": sum(info.num_rows for info in check_agree(parts)),
        "refused": refused(parts),
        "clip": {name: getattr(check_agree(parts[:1])[0], name) for name in AGREEING},
        "index": built.figures,
        "files": {name: file_digest(out / name) for name in names if name != "manifest.json"},
    }
    write_atomically(out / "manifest.json", manifest)
    return manifest | {"embedded_shards": embedded, "shards": len(parts)}


def embed_part(
    source: DumpSource, shard: int, recipe: dict[str, Any], out: Path, encoder: Encoder, batch_size: int
) -> None:
    """Bring one shard under our contract aside, embed it, and move the part in; its record is written last."""
    record = out / "parts" / f"{shard:06d}.json"
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as name:
        aside = Path(name)
        rows = folder_shard(source, shard) if isinstance(source, FolderConfig) else foreign_shard(source, shard)
        counts = write_admissions(aside, rows)
        embed_shard(aside / "shard.tar", encoder, aside, batch_size, lambda *a, **k: None)
        drop_part(record)
        part = record.with_suffix(".parquet")
        os.replace(aside / "rows.parquet", rows_path(part))
        os.replace(aside / "rejects.parquet", rejects_path(part))
        os.replace(aside / "part.parquet", part)
    write_atomically(record, {"recipe": recipe, "origin": origin(source), "source": counts})


def part_is_there(out: Path, shard: int, recipe: dict[str, Any]) -> bool:
    """Whether the dump holds the part that this recipe makes."""
    record = out / "parts" / f"{shard:06d}.json"
    there = all(path.is_file() for path in (record, *files_of(record.with_suffix(".parquet"))))
    return there and bool(json.loads(record.read_text())["recipe"] == recipe)


def drop_part(record: Path) -> None:
    """Remove a part with what is beside it, its record first."""
    for path in (record, *files_of(record.with_suffix(".parquet"))):
        path.unlink(missing_ok=True)


def files_of(part: Path) -> tuple[Path, ...]:
    """A part and what is beside it, but for its record."""
    return part, rows_path(part), rejects_path(part)


def rows_path(part: Path) -> Path:
    """Where the fate of every row of a part's source is, with its file or address."""
    return part.with_suffix(".rows.parquet")


def rejects_path(part: Path) -> Path:
    """Where the rows are that could not be embedded."""
    return part.with_suffix(".rejects.parquet")


def refused(parts: list[Path]) -> dict[str, int]:
    """How many rows of the source are not in the dump, by reason."""
    columns = [(rows_path(part), "status") for part in parts] + [(rejects_path(part), "reason") for part in parts]
    tables = (pq.read_table(path, columns=[name])[name].to_pylist() for path, name in columns if path.is_file())
    return refusals(reason for table in tables for reason in table)


def part_paths(dump: Path) -> list[Path]:
    """The parts of a dump in order.

    Raises: ValueError when there are none.
    """
    paths = [path.with_suffix(".parquet") for path in sorted((dump / "parts").glob("*.json"))]
    if not paths:
        raise ValueError(f"{dump} is no dump: it has no parts/*.parquet")
    return paths


def refuse_other_clip(dump: Path, encoder: Encoder) -> None:
    """Raises: ValueError when the dump has parts that were made otherwise than this encoder would."""
    if not any((dump / "parts").glob("*.json")):
        return
    info: TableInfo = check_agree(part_paths(dump))[0]
    for name in AGREEING:
        if name == "model" or (name != "weights_digest" and getattr(info, name) == UNKNOWN):  # of an imported dump
            continue
        if getattr(info, name) != getattr(encoder, name):
            raise ValueError(
                f"{dump} was made with {name} {getattr(info, name)}, the CLIP given has {getattr(encoder, name)}"
            )


def refuse_other_source(dump: Path, source: DumpSource) -> None:
    """Raises: ValueError when the dump has parts of another source; the same one may have grown or changed."""
    for record in sorted((dump / "parts").glob("*.json")):
        made = json.loads(record.read_text())["origin"]
        if made != origin(source):
            raise ValueError(f"{dump} holds the {made}, not the {origin(source)}: give another --out")


def origin(source: DumpSource) -> str:
    """What stays of a source when it grows: its kind and its folder."""
    if isinstance(source, FolderConfig):
        return f"pictures of {Path(source.folder).resolve()}"
    return f"tars of {Path(re.split(r'[{*?[]', source.pattern)[0] + 'x').parent.resolve()}"


def copy_clip(clip: Path, folder: Path) -> None:
    """Copy `weights.safetensors` and `clip.json`, each complete or absent."""
    folder.mkdir(exist_ok=True)
    for name in ("weights.safetensors", "clip.json"):
        if clip.resolve() != folder.resolve():
            shutil.copyfile(clip / name, folder / f".{name}")
            os.replace(folder / f".{name}", folder / name)


def write_atomically(path: Path, record: Any) -> None:
    """Write JSON that is whole or not there."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    os.replace(aside, path)
