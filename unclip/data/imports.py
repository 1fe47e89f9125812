"""A clip-retrieval dump as a dump of ours: what it holds, and "unknown" for what it does not.

Such a dump has normalised vectors, captions, names of pictures and whatever else its metadata say, paired by their
places in files. It lacks tokens, norms and the digest of the weights. An imported dump can be searched, inspected,
verified and exported; `read_part` refuses it, so nothing is trained on it. With a CLIP given, captions embedded by it
must be the text embeddings found: then its weights are on record, and text can be searched for.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.digests import file_digest
from unclip.data.dump import copy_clip, files_of, finish, part_paths, rejects_path, rows_path
from unclip.data.dump_origin import refuse_other_clip
from unclip.data.dump_records import read_record, write_record
from unclip.data.embed import UNEMBEDDABLE, Encoder
from unclip.data.embedded_again import MIN_IMPORTED_COSINE
from unclip.data.exports import KEPT, new_folder
from unclip.data.import_metadata import Said, said_in
from unclip.data.part_files import REJECTS_SCHEMA
from unclip.data.rows import Row, sample_id, write_rows
from unclip.data.shards import sample_key
from unclip.data.table import (
    IMPORTED,
    IMPORTED_STORAGE,
    UNKNOWN,
    TableInfo,
    part_schema,
    read_info,
    storable,
    unit,
    vectors,
    vectors_of,
    versions_json,
    write_columns,
)

PART_ROWS = 20_000  # of ours; clip-retrieval's files have up to a million
NUM_COMPARED = 32  # captions of a file
Array = NDArray[Any]


@dataclass(frozen=True)
class Partition:
    """One numbered set of files, row i of each of which is one image."""

    image: Path
    text: Path
    metadata: Path

    @property
    def digest(self) -> str:
        """Digests of the three files."""
        return " ".join(file_digest(path) for path in (self.image, self.text, self.metadata))


@dataclass(frozen=True)
class FoundRows:
    """Some rows of a partition."""

    image: Array  # (N, D)
    text: Array  # (N, D)
    said: Said


def import_dump(
    folder: Path, out: Path, encoder: Encoder | None = None, clip: Path | None = None, model: str = UNKNOWN
) -> dict[str, Any]:
    """Write the clip-retrieval dump in `folder` to the new folder `out`; its manifest.

    encoder, clip: the CLIP that made it, and the folder of its weights. model: its name, where no CLIP is given.

    Raises: ValueError when files are missing, not paired or no arrays, or the CLIP is not the dump's.
    """
    partitions = partitions_of(folder)
    dimension = dimension_of(partitions)
    left_out = KEPT if (folder / "export.json").is_file() else ()  # of ours, found out again
    with new_folder(out) as aside:
        (aside / "parts").mkdir()
        number = 0
        for partition in partitions:
            digest = partition.digest  # reads its files: once, not for every block of them
            for found in blocks_of(partition, left_out):
                if encoder is not None:
                    refuse_other_captions(partition.text, found.said.captions, found.text, encoder)
                info = info_of_import(encoder, model, dimension, digest)
                write_import(aside / "parts" / f"{number:06d}.parquet", number, found, info, folder)
                number += 1
        if not number:
            raise ValueError(f"{folder} has no rows: there is nothing to import")
        if clip is not None:
            assert encoder is not None
            copy_clip(clip, aside / "clip", encoder)
        finish(aside)
        return read_record(aside / "manifest.json")


def partitions_of(folder: Path) -> list[Partition]:
    """The files of a clip-retrieval dump by the number in their names, however it is padded.

    Raises: ValueError when a folder is missing, empty, or lacks a file that another has.
    """
    kinds = {"img_emb": "npy", "text_emb": "npy", "metadata": "parquet"}
    found: dict[str, dict[int, Path]] = {}
    for kind, ending in kinds.items():
        paths = sorted((folder / kind).glob(f"*.{ending}"))
        numbered = {int(number[1]): path for path in paths if (number := re.search(r"(\d+)$", path.stem))}
        if not paths:
            raise ValueError(f"{folder} is no clip-retrieval dump with images and texts: it has no {kind}/*.{ending}")
        if len(numbered) < len(paths):
            raise ValueError(
                f"{folder / kind}: names must end in numbers, each once; got {', '.join(map(str, paths[:5]))}"
            )
        found[kind] = numbered
    for kind, numbered in found.items():
        if missing := sorted(set(found["img_emb"]) ^ set(numbered)):
            raise ValueError(
                f"{folder}: img_emb and {kind} must have the same numbers; one of them lacks {missing[:5]}"
            )
    return [Partition(*(found[kind][number] for kind in kinds)) for number in sorted(found["img_emb"])]


def dimension_of(partitions: Sequence[Partition]) -> int:
    """The D that all arrays share. Raises: ValueError for other shapes, types or numbers of rows."""
    dimensions: dict[int, Path] = {}
    for partition in partitions:
        image, text = load_vectors(partition.image), load_vectors(partition.text)
        try:
            rows = pq.read_metadata(partition.metadata).num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{partition.metadata} is not a whole Parquet file: {error}") from error
        if not len(image) == len(text) == rows:
            raise ValueError(
                f"{partition.image} has {len(image)} rows, {partition.text} {len(text)}, {partition.metadata} {rows}: "
                "they are paired by their places and must be equally many"
            )
        dimensions |= {image.shape[1]: partition.image, text.shape[1]: partition.text}
    if len(dimensions) > 1:
        said = ", ".join(f"{path} {dimension}" for dimension, path in dimensions.items())
        raise ValueError(f"all vectors must be of one dimension, got {said}")
    return next(iter(dimensions))


def load_vectors(path: Path) -> Array:
    """The array (N, D) in a file, mapped. Raises: ValueError when it is none of floats."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no whole .npy file of numbers") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path} must hold rows of floats (N, D), has {array.dtype} {array.shape}")
    return array


def blocks_of(partition: Partition, left_out: Sequence[str]) -> Iterator[FoundRows]:
    """The rows of a partition, at most PART_ROWS at a time. Raises: ValueError as `said_in`."""
    image, text = load_vectors(partition.image), load_vectors(partition.text)
    start = 0
    for said in said_in(partition.metadata, PART_ROWS, left_out):
        stop = start + len(said)
        yield FoundRows(np.asarray(image[start:stop]), np.asarray(text[start:stop]), said)
        start = stop


def refuse_other_captions(name: Path, captions: Sequence[str], text: Array, encoder: Encoder) -> None:
    """Raises: ValueError when captions that the encoder embeds are not the text embeddings (N, D) beside them."""
    good = np.flatnonzero(storable(text.astype(np.float32)))
    if not len(good):
        return
    rows: list[int] = good[np.unique(np.linspace(0, len(good) - 1, NUM_COMPARED).astype(int))].tolist()
    if text.shape[1] != encoder.dimension:
        raise ValueError(f"{name} has dimension {text.shape[1]}, the CLIP given {encoder.dimension}")
    again = unit(encoder.encode_text(np.asarray(encoder.tokenize([captions[row] for row in rows]), np.int32)))
    cosines = np.einsum("nd,nd->n", again, unit(text[rows]))
    if cosines.min() < MIN_IMPORTED_COSINE:
        worst = int(cosines.argmin())
        raise ValueError(
            f"{name}: the CLIP given embeds {captions[rows[worst]][:60]!r} at cosine {cosines[worst]:.3f} to row "
            f"{rows[worst]}, allowed: >= {MIN_IMPORTED_COSINE}: it is another CLIP"
        )


def refuse_clip(dump: Path, encoder: Encoder) -> None:
    """Raises: ValueError when an encoder is not the CLIP that made a dump.

    Where that does not say which it was, captions of its first rows decide, as they do when it is imported.
    """
    parts = part_paths(dump)
    infos = [read_info(part) for part in parts]
    if infos[0].weights_digest != UNKNOWN:
        refuse_other_clip(dump, encoder)
        return
    part = next((part for part, info in zip(parts, infos, strict=True) if info.num_rows), parts[0])
    captions = pq.read_table(part, columns=["caption"])["caption"].to_pylist()
    refuse_other_captions(part, captions, vectors_of(part, "text_embedding"), encoder)


def info_of_import(encoder: Encoder | None, model: str, dimension: int, digest: str) -> TableInfo:
    """What an imported part says of itself: of the CLIP only what its captions prove."""
    return TableInfo(
        model=model if encoder is None else encoder.name,
        weights_digest=UNKNOWN if encoder is None else encoder.weights_digest,
        preprocessing_digest=UNKNOWN,
        tokenizer=UNKNOWN if encoder is None else encoder.tokenizer,
        context=0 if encoder is None else encoder.context,
        dimension=dimension,
        compute_type=UNKNOWN,
        versions=versions_json(numpy=np.__version__, pyarrow=pa.__version__),
        shard_digest=digest,
        num_rows=0,
        storage_type=IMPORTED_STORAGE,
        origin=IMPORTED,
    )


def write_import(part: Path, shard: int, found: FoundRows, info: TableInfo, folder: Path) -> None:
    """Write a part with every row's fate, its rejects and its record."""
    image, text = (array.astype(np.float32) for array in (found.image, found.text))
    said = found.said
    good = storable(image) & storable(text)
    rows = np.flatnonzero(good)
    keys = [sample_key(shard, row) for row in range(len(good))]
    identities = [sample_id(*pair) for pair in zip(said.names, said.captions, strict=True)]
    schema = part_schema(TableInfo(**vars(info) | {"num_rows": len(rows)}))
    columns = {
        "key": [keys[row] for row in rows],
        "sample_id": [identities[row] for row in rows],
        "image_embedding": vectors(image[rows].astype(np.float16), schema.field("image_embedding").type),
        "text_embedding": vectors(text[rows].astype(np.float16), schema.field("text_embedding").type),
        "caption": [said.captions[row] for row in rows],
        "clip_score": np.einsum("nd,nd->n", unit(image[rows]), unit(text[rows])),
    }
    write_columns(part, pa.Table.from_pydict(columns, schema=schema))
    fates = zip(keys, identities, said.names, said.captions, said.sides, said.more, strict=True)
    write_rows(
        rows_path(part),
        [Row(key=k, sample_id=i, url=n, caption=c, **sides, more=more) for k, i, n, c, sides, more in fates],
    )
    rejects = [{"key": keys[row], "reason": UNEMBEDDABLE, "detail": ""} for row in np.flatnonzero(~good)]
    pq.write_table(pa.Table.from_pylist(rejects, schema=REJECTS_SCHEMA), rejects_path(part), compression="zstd")
    record = {
        "recipe": {"source": "imported", "files": info.shard_digest},
        "origin": f"import of {folder.resolve()}",
        "source": {"rows": len(good), "kept": len(good), "refused": {}},
        "rows": len(rows),
        "refused": {UNEMBEDDABLE: len(rejects)} if rejects else {},
        "files": {path.name: file_digest(path) for path in files_of(part)},
    }
    write_record(part.with_suffix(".json"), record)
