"""A dump in the layouts that other programs read: clip-retrieval's, and DALLE2-pytorch's dense arrays.

Both hold unit vectors in float16, as `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy` with all N equally long:
their readers pair files by sorted names. One part is in memory at a time.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.dump import part_paths, rows_path
from unclip.data.dump_further import Field, further_columns, further_fields
from unclip.data.dump_pictures import ROW_DIGITS, DumpPictures, folder_of, part_record, source_kind
from unclip.data.rows import read_rows
from unclip.data.shards import tar_groups
from unclip.data.table import AGREEING, TableInfo, check_agree, matrix, unit

KINDS = {"image": "img_emb", "text": "text_emb"}  # folder and beginning of the names of the arrays
KEPT = ("key", "image_norm", "text_norm", "clip_score")  # of our columns, those that metadata carries along
Halves = NDArray[np.float16]


def export_dump(dump: Path, out: Path, layout: str, source: Path | None = None) -> dict[str, Any]:
    """Write a dump to the new folder `out`, whole or not at all; rows, files and what was exported.

    source: where a dense export's tars lie now, if they were moved.

    Raises: ValueError for another layout, a folder that is not empty, or tars whose names or keys hold no numbers.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    parts = part_paths(dump)
    infos = check_agree(parts)
    with new_folder(out) as aside:
        said = LAYOUTS[layout](dump, parts, infos, aside, source)
        rows = sum(info.num_rows for info in infos)
        clip = {name: getattr(infos[0], name) for name in AGREEING}
        record = {"layout": layout, "rows": rows, **said, "vectors": "float16 of norm one", "clip": clip}
        (aside / "export.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return record


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when all went well. Raises: ValueError when `out` is there and not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out must be a new or empty folder, got {out}")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}-"))
    try:
        yield aside
        os.chmod(aside, 0o755)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def unit_halves(table: pa.Table, kind: str, info: TableInfo) -> Halves:
    """The vectors (N, D) of one column at norm one, as float16."""
    halves: Halves = unit(matrix(table[f"{kind}_embedding"], info.dimension)).astype(np.float16)
    return halves


def write_clip_retrieval(
    dump: Path, parts: Sequence[Path], infos: Sequence[TableInfo], out: Path, source: Path | None
) -> dict[str, Any]:
    """`img_emb`, `text_emb` and `metadata`: row i of each is one image. Parts without rows get no files.

    embedding-reader leaves empty arrays out, but not their metadata: from there on captions would be another picture's.
    """
    if source is not None:
        raise ValueError("--source has no effect on this layout: it reads no pictures")
    fields = further_fields(parts)
    full = [(part, info) for part, info in zip(parts, infos, strict=True) if info.num_rows]
    width = len(str(len(full)))  # as clip-retrieval pads, by the number of files
    for folder in (*KINDS.values(), "metadata"):
        (out / folder).mkdir()
    for number, (part, info) in enumerate(full):
        table = pq.read_table(part)
        for kind, folder in KINDS.items():
            np.save(out / folder / f"{folder}_{number:0{width}}.npy", unit_halves(table, kind, info))
        pq.write_table(metadata_of(part, table, fields), out / "metadata" / f"metadata_{number:0{width}}.parquet")
    return {"files": len(full)}


def metadata_of(part: Path, table: pa.Table, fields: dict[str, Field]) -> pa.Table:
    """image_path, caption, url, width, height, image_sha256 in hexadecimal, some of our columns, a row an image.

    Then the source's further columns, with `source_` before the name of one that is taken.
    """
    record, keys = part_record(part), table["key"].to_pylist()
    said = {row.key: row for row in read_rows(rows_path(part))}
    rows = [said.get(key) for key in keys]
    names = [row.url or key if row else key for row, key in zip(rows, keys, strict=True)]
    folder = folder_of(record) if source_kind(record) == "folder" else None
    paths = pa.array([str(folder / name) if folder else name for name in names], pa.string())
    addresses = pa.array([name if "://" in name else None for name in names], pa.string())
    kept = {name: table[name] for name in KEPT if name in table.column_names}
    if "image_sha256" in table.column_names:
        digests = [digest.hex() for digest in table["image_sha256"].to_pylist()]
        kept["image_sha256"] = pa.array(digests, pa.string())
    sides = {side: pa.array([getattr(row, side, None) for row in rows], pa.int32()) for side in ("width", "height")}
    columns = {"image_path": paths, "caption": table["caption"], "url": addresses, **sides, **kept}
    for name, column in further_columns(rows, fields).items():
        while name in columns:
            name = f"source_{name}"
        columns[name] = column
    return pa.table(columns)


@dataclass(frozen=True)
class Places:
    """Where the rows of a part stand in dense arrays."""

    shard: str  # digits that name the arrays
    index: dict[str, int]  # of each key of the part
    size: int  # rows of the arrays
    index_width: int  # digits of a source key that are the index


def write_dense(
    dump: Path, parts: Sequence[Path], infos: Sequence[TableInfo], out: Path, source: Path | None
) -> dict[str, Any]:
    """Arrays by image index: row i of `img_emb_N.npy` is the picture of tar N whose key ends in i, zeros if none.

    Of tars, N is the number that is a tar's name and i what its keys have after it; of a folder, N is the shard of our
    keys and i the row of the list within it.
    """
    pictures = DumpPictures(dump, source, movable=("shards",))  # of others no file is read
    found = [places_of(part, pictures) for part in parts]
    if len({int(places.shard) for places in found}) < len(found):
        raise ValueError("two tars have the same number: a dense layout has one array for each number")
    widths = sorted({places.index_width for places in found if places.size})  # a tar without samples has no keys
    if len(widths) > 1:
        raise ValueError(f"keys must have the same number of digits after their tar's in all tars, got {widths}")
    width = max(len(places.shard) for places in found)
    for folder in KINDS.values():
        (out / folder).mkdir()
    for part, info, places in zip(parts, infos, found, strict=True):
        table = pq.read_table(part)
        rows = [places.index[key] for key in table["key"].to_pylist()]
        for kind, folder in KINDS.items():
            dense = np.zeros((places.size, info.dimension), np.float16)
            dense[rows] = unit_halves(table, kind, info)
            np.save(out / folder / f"{folder}_{int(places.shard):0{width}}.npy", dense)
    return {"files": len(parts), "index_width": widths[0]}


def places_of(part: Path, pictures: DumpPictures) -> Places:
    """Where the rows of a part stand: by the keys of its tar, else by our own.

    Raises: ValueError when the tar is gone, its name is no number, or a key is not that number and an index.
    """
    keys = pq.read_table(part, columns=["key"])["key"].to_pylist()
    tar = pictures.tar_of(part)
    if tar is None:
        num_rows = pq.read_metadata(rows_path(part)).num_rows
        index = {key: int(key[-ROW_DIGITS:]) for key in keys}
        return Places(part.stem, index, num_rows, ROW_DIGITS)
    stem = tar.name.partition(".")[0]
    names = [name.rpartition("/")[2] for name, _ in tar_groups(tar)]
    for name in names:
        if not (stem.isdecimal() and name.isdecimal() and name.startswith(stem) and len(name) > len(stem)):
            raise ValueError(
                f"{tar}: a dense layout needs tars named by a number and keys of that number and an index, "
                f"such as 00012.tar and 000120345; got {stem!r} and {name!r}"
            )
    widths = {len(name) - len(stem) for name in names}
    if len(widths) > 1:
        raise ValueError(f"{tar}: keys must have the same number of digits after {stem}, got {sorted(widths)}")
    indices = [int(name[len(stem) :]) for name in names]
    index = {key: indices[int(key[-ROW_DIGITS:])] for key in keys}
    return Places(stem, index, max(indices, default=-1) + 1, next(iter(widths), ROW_DIGITS))


Writer = Callable[[Path, Sequence[Path], Sequence[TableInfo], Path, Path | None], dict[str, Any]]
LAYOUTS: dict[str, Writer] = {"clip-retrieval": write_clip_retrieval, "dense": write_dense}
