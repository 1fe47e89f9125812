"""The embedding table: one Parquet file a shard, one row an image, and its refusal to be read as what it is not.

N rows, D dimensions of the joint space, L tokens of context.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]
STORAGE = "float16 raw, little endian"
READ_AHEAD = 2  # parts: decoding a column keeps one core busy
DECODED_ROWS = 128  # at a time: the levels and values of a whole part leave the cache
IMPORTED_STORAGE = "float16 as found, little endian"
EMBEDDED, IMPORTED = "embedded", "imported"
UNKNOWN = "unknown"  # what an imported table does not say
NOT_IMPORTED = ("image_sha256", "image_norm", "text_norm", "tokens")  # columns that an import cannot have
AGREEING = ("model", "weights_digest", "preprocessing_digest", "tokenizer", "context", "dimension", "compute_type")


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """What a part says of itself, in the metadata of its schema. No times: equal work gives equal bytes.

    An imported part was embedded by another program: it lacks `NOT_IMPORTED`, and says "unknown" of what is not known.
    """

    model: str
    weights_digest: str
    preprocessing_digest: str
    tokenizer: str
    context: int  # L
    dimension: int  # D
    compute_type: str  # "fp32", "bf16"
    versions: str  # of the libraries that decoded and computed, as JSON
    shard_digest: str  # of the shard whose samples are embedded
    num_rows: int
    storage_type: str = STORAGE
    origin: str = EMBEDDED  # or IMPORTED; written only if so


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The rows of a part before they are written: embeddings as the encoder gave them, not normalised."""

    keys: list[str]
    sample_ids: list[bytes]  # 16 bytes each
    image_sha256: list[bytes]  # 32 bytes each, of the encoded bytes that were embedded
    image: Floats  # (N, D)
    text: Floats  # (N, D)
    tokens: Tokens  # (N, L)
    captions: list[str]


@dataclass(frozen=True)
class Part:
    """A part as it is used: embeddings of norm one."""

    info: TableInfo
    keys: list[str]
    image_sha256: list[bytes]
    image: Floats  # (N, D), unit norm
    text: Floats  # (N, D), unit norm
    tokens: Tokens  # (N, L)
    captions: list[str]
    clip_score: Floats  # (N,), cosine

    def __len__(self) -> int:
        return len(self.keys)


def vector_type(kind: pa.DataType, size: int) -> pa.DataType:
    """A fixed-size list without nulls."""
    return pa.list_(pa.field("element", kind, nullable=False), size)


def part_schema(info: TableInfo) -> pa.Schema:
    """The columns of a part with its metadata; none may be null."""
    vector = vector_type(pa.float16(), info.dimension)
    columns: list[tuple[str, pa.DataType]] = [
        ("key", pa.string()),
        ("sample_id", pa.binary(16)),
        ("image_sha256", pa.binary(32)),
        ("image_embedding", vector),
        ("image_norm", pa.float32()),
        ("text_embedding", vector),
        ("text_norm", pa.float32()),
        ("tokens", vector_type(pa.int32(), info.context)),
        ("caption", pa.string()),
        ("clip_score", pa.float32()),
    ]
    if info.origin == IMPORTED:
        columns = [(name, kind) for name, kind in columns if name not in NOT_IMPORTED]
    metadata = {field.name: str(getattr(info, field.name)) for field in fields(info)}
    if info.origin == EMBEDDED:
        del metadata["origin"]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns], metadata=metadata)


def vectors(rows: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A column of fixed-size lists from an array (N, D)."""
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1), type=kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def matrix(column: pa.ChunkedArray, width: int) -> NDArray[Any]:
    """An array (N, width) from a column of fixed-size lists; nothing is copied where the column is one chunk."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, width) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks) if chunks else np.empty((0, width), np.float32)


def unit(rows: NDArray[Any]) -> Floats:
    """The rows (N, D) at norm one, as float32."""
    wide = rows.astype(np.float32, copy=rows.dtype != np.float32)
    norms: Floats = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    wide /= norms[:, None]
    return wide


def storable(rows: Floats) -> NDArray[np.bool_]:
    """Of each embedding, whether it is finite in float16 and not zero."""
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float16)
    good: NDArray[np.bool_] = np.isfinite(narrow).all(axis=1) & (narrow != 0).any(axis=1)
    return good


def write_part(path: Path, rows: Embedded, info: TableInfo) -> None:
    """Write a part, sorted by key.

    Raises: ValueError when rows are not sorted or counted as `info` says, or an embedding is zero or not finite.
    """
    if rows.keys != sorted(set(rows.keys)):
        raise ValueError(f"{path}: keys must be sorted and different from each other")
    image_norm, text_norm = np.linalg.norm(rows.image, axis=1), np.linalg.norm(rows.text, axis=1)
    for name, array in (("image", rows.image), ("text", rows.text)):
        bad = np.flatnonzero(~storable(array))
        if len(bad):
            raise ValueError(f"{path}: the {name} embedding of {rows.keys[bad[0]]} is zero or not finite in float16")
    schema = part_schema(info)
    score = np.einsum("nd,nd->n", rows.image, rows.text) / (image_norm * text_norm)
    columns = [
        pa.array(rows.keys, pa.string()),
        pa.array(rows.sample_ids, pa.binary(16)),
        pa.array(rows.image_sha256, pa.binary(32)),
        vectors(rows.image.astype(np.float16), schema.field("image_embedding").type),
        pa.array(image_norm.astype(np.float32)),
        vectors(rows.text.astype(np.float16), schema.field("text_embedding").type),
        pa.array(text_norm.astype(np.float32)),
        vectors(rows.tokens.astype(np.int32), schema.field("tokens").type),
        pa.array(rows.captions, pa.string()),
        pa.array(score.astype(np.float32)),
    ]
    table = pa.Table.from_arrays(columns, schema=schema)
    if len(table) != info.num_rows:
        raise ValueError(f"{path}: {len(table)} rows for a part of {info.num_rows}")
    write_columns(path, table)


def write_columns(path: Path, table: pa.Table) -> None:
    """Write a table as a part is written: all but the vectors compressed.

    DuckDB 2.0 does not read float16 split by byte (15% smaller); plain float16 hardly compresses and reads 1.7 times as
    fast if it is not.
    """
    leaves = {name: f"{name}.list.element" for name in ("image_embedding", "text_embedding", "tokens")}
    names = [leaves.get(name, name) for name in table.column_names]
    compression = {name: "none" if "embedding" in name else "zstd" for name in names}
    pq.write_table(table, path, compression=compression, use_dictionary=["caption"], store_schema=True)


def read_info(path: Path) -> TableInfo:
    """What a part says of itself, without reading its rows.

    Raises: ValueError when the file is no part, or says other things than its columns do.
    """
    with opened(path) as (_, info):
        return info


@contextmanager
def opened(path: Path) -> Iterator[tuple[pq.ParquetFile, TableInfo]]:
    """A part open for reading, and what it says of itself. Raises: as `read_info`."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {error}") from error
    with file:
        yield file, checked_info(path, file.schema_arrow, file.metadata.num_rows)


def checked_info(path: Path, schema: pa.Schema, num_rows: int) -> TableInfo:
    """What the metadata of a part say, if they fit its columns and rows. Raises: as `read_info`."""
    said = {"origin": EMBEDDED} | {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    missing = [field.name for field in fields(TableInfo) if field.name not in said]
    if missing:
        raise ValueError(f"{path} is no embedding table: its metadata lacks {', '.join(missing)}")
    numbers = [field.name for field in fields(TableInfo) if field.type is int]
    if wrong := [name for name in numbers if not said[name].isdecimal()]:
        raise ValueError(f"{path}: {wrong[0]} must be a number, its metadata says {said[wrong[0]]!r}")
    values: dict[str, Any] = {f.name: int(said[f.name]) if f.type is int else said[f.name] for f in fields(TableInfo)}
    info = TableInfo(**values)
    if not schema.remove_metadata().equals(part_schema(info).remove_metadata()):
        raise ValueError(f"{path}: its columns are not those of an embedding table of dimension {info.dimension}")
    storage = STORAGE if info.origin == EMBEDDED else IMPORTED_STORAGE
    if info.num_rows != num_rows or info.storage_type != storage:
        raise ValueError(f"{path} says {info.num_rows} rows of {info.storage_type}, has {num_rows} of {storage}")
    return info


def read_part(path: Path) -> Part:
    """A part with its embeddings at norm one. Raises: as `read_info`; ValueError for an imported part."""
    with opened(path) as (file, info):
        if info.origin == IMPORTED:
            lacking = ", ".join(NOT_IMPORTED)
            raise ValueError(
                f"{path} was imported: it has no {lacking}; for what needs them, embed the pictures themselves"
            )
        table = file.read()
    return Part(
        info=info,
        keys=table["key"].to_pylist(),
        image_sha256=table["image_sha256"].to_pylist(),
        image=unit(matrix(table["image_embedding"], info.dimension)),
        text=unit(matrix(table["text_embedding"], info.dimension)),
        tokens=np.asarray(matrix(table["tokens"], info.context), np.int32),
        captions=table["caption"].to_pylist(),
        clip_score=table["clip_score"].to_numpy(),
    )


def vectors_of(path: Path, column: str) -> NDArray[np.float16]:
    """One column of vectors (N, D) of a part, as stored. Raises: as `read_info`."""
    with opened(path) as (file, info):
        rows, start = np.empty((info.num_rows, info.dimension), np.float16), 0
        for batch in file.iter_batches(DECODED_ROWS, columns=[column], use_threads=False):
            rows[start : start + len(batch)] = matrix(pa.chunked_array([batch[column]]), info.dimension)
            start += len(batch)
    return rows


def vectors_in(paths: Sequence[Path], column: str, ahead: int = READ_AHEAD) -> Iterator[NDArray[np.float16]]:
    """`vectors_of` each part in order, `ahead` more of them being read meanwhile, each by a thread of its own."""
    with ThreadPoolExecutor(ahead) as pool:
        waiting = deque(pool.submit(vectors_of, path, column) for path in paths[:ahead])
        for number in range(len(paths)):
            if number + ahead < len(paths):
                waiting.append(pool.submit(vectors_of, paths[number + ahead], column))
            yield waiting.popleft().result()
    pa.default_memory_pool().release_unused()  # of threads that are gone: many times a part


def check_agree(paths: Sequence[Path]) -> list[TableInfo]:
    """What each part says, all made alike: same CLIP, preprocessing, tokenizer, dimension and precision.

    Raises: as `check_alike`.
    """
    infos = [read_info(path) for path in paths]
    for path, info in zip(paths[1:], infos[1:], strict=True):
        check_alike(path, info, paths[0], infos[0])
    return infos


def check_alike(path: Path, info: TableInfo, first: Path, expected: TableInfo) -> None:
    """Raises: ValueError that names the field, both values and both files where a part is not made as the first is."""
    for name in AGREEING:
        here, there = getattr(info, name), getattr(expected, name)
        if here != there:
            raise ValueError(f"{path} has {name} {here}, but {first} has {there}: parts of different tables")


def read_parts(paths: Iterable[Path]) -> list[Part]:
    """The parts of one table. Raises: as `check_agree`."""
    paths = list(paths)
    check_agree(paths)
    return [read_part(path) for path in paths]


def versions_json(**versions: str) -> str:
    """Library versions as one string, sorted by name."""
    return json.dumps(versions, sort_keys=True)
