"""A dump in figures, and what is wrong with it. Its parts are read one after the other, a few columns at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.digests import file_digest
from unclip.data.dump import part_paths, refused
from unclip.data.dump_further import further_fields
from unclip.data.dump_records import read_record, record_or_none
from unclip.data.spreads import Spread, drawn_rows, repeated
from unclip.data.table import AGREEING, EMBEDDED, NOT_IMPORTED, Floats, TableInfo, check_agree, matrix, unit
from unclip.data.tokens import num_filled, num_tokens
from unclip.data.versions import versions_of

DUPLICATE_COSINE = 0.9999
PAIRS_SAMPLE = 2_000  # rows compared with each other for similarities, nearest pairs and duplicates
FIGURED = ("image_norm", "text_norm", "clip_score", "tokens")
NUM_PAIRS = 5  # nearest pairs that are shown
KINDS = {  # files of a dump by how their names end; the first that fits
    ".rows.parquet": "rows of the source",
    ".rejects.parquet": "rejects",
    "keys.parquet": "index",
    ".faiss": "index",
    ".ivfdata": "index",
    ".parquet": "embeddings",
    ".safetensors": "CLIP",
    "tokenizer.json": "CLIP",
    ".tar": "pictures",
    "": "records",
}


def inspect_dump(dump: Path, seed: int = 0) -> dict[str, Any]:
    """A dump in figures: rows, further columns, norms, CLIP scores, captions, similarities, index, disk, problems.

    Similarities, nearest pairs and `duplicate_pairs` are of rows drawn by `seed`; all else is of every row. `problems`
    is empty when every file has its digest; `unclip verify` looks at the rows themselves.
    """
    parts = part_paths(dump)
    infos = check_agree(parts)
    keys, captions, sample = sampled_rows(parts, infos, seed)
    return {
        "rows": sum(info.num_rows for info in infos),
        "parts": len(parts),
        "refused": refused(parts),
        "origin": infos[0].origin,
        "clip": {name: getattr(infos[0], name) for name in AGREEING},
        "further": {name: {"kind": field.kind, "rows": field.rows} for name, field in further_fields(parts).items()},
        **column_figures(parts, infos[0]),
        "exact_duplicates": repeated(digests_of(parts)) if infos[0].origin == EMBEDDED else None,
        **likenesses(keys, captions, sample),
        "index": (record_or_none(dump / "manifest.json", "index") or {"index": None})["index"],
        "versions": versions_of(infos),
        "bytes": disk(dump),
        "problems": problems(dump),
    }


def column_figures(parts: Sequence[Path], info: TableInfo) -> dict[str, Any]:
    """The spread of norms, CLIP scores, tokens and captions over every row; captions that fill the context."""
    present = [name for name in FIGURED if info.origin == EMBEDDED or name not in NOT_IMPORTED]
    spreads: dict[str, Spread] = defaultdict(Spread)
    num_full = 0
    for part in parts:
        table = pq.read_table(part, columns=[*present, "caption"])
        for name in present:
            if name != "tokens":
                spreads[name].add(table[name].to_numpy())
        lengths = [len(caption) for caption in table["caption"].to_pylist()]
        spreads["caption_chars"].add(np.array(lengths, np.float32))
        if "tokens" in present:
            tokens = matrix(table["tokens"], info.context)
            spreads["caption_tokens"].add(num_tokens(tokens, info.tokenizer).astype(np.float32))
            num_full += num_filled(tokens, info.tokenizer)
    return {name: spread.figures() for name, spread in spreads.items()} | {
        "context_filled": num_full if "tokens" in present else None
    }


def digests_of(parts: Sequence[Path]) -> Iterator[NDArray[np.uint64]]:
    """The first eight bytes of every picture's digest, part by part; two share them in 1 of 37 dumps of a billion."""
    for part in parts:
        column = pq.read_table(part, columns=["image_sha256"])["image_sha256"].to_pylist()
        yield np.frombuffer(b"".join(digest[:8] for digest in column), np.uint64)


def sampled_rows(parts: Sequence[Path], infos: Sequence[TableInfo], seed: int) -> tuple[list[str], list[str], Floats]:
    """Keys, captions and unit image embeddings (N, D) of rows drawn from all parts; parts without one stay unread."""
    keys, captions = list[str](), list[str]()
    blocks = [np.empty((0, infos[0].dimension), np.float16)]
    chosen = drawn_rows([info.num_rows for info in infos], PAIRS_SAMPLE, seed)
    for part, info, rows in zip(parts, infos, chosen, strict=True):
        if rows:
            table = pq.read_table(part, columns=["key", "caption", "image_embedding"]).take(rows)
            keys += table["key"].to_pylist()
            captions += table["caption"].to_pylist()
            blocks.append(matrix(table["image_embedding"], info.dimension))
    return keys, captions, unit(np.concatenate(blocks))


def likenesses(keys: Sequence[str], captions: Sequence[str], vectors: Floats) -> dict[str, Any]:
    """Histogram of the cosines of all pairs of rows, the nearest pairs, and how many are near enough for duplicates."""
    similar = vectors @ vectors.T
    one, other = np.triu_indices(len(vectors), 1)
    counts, edges = np.histogram(similar[one, other], bins=20, range=(-1, 1))
    near = np.argsort(-similar[one, other], kind="stable")[:NUM_PAIRS]
    pairs = [
        {
            "cosine": round(float(similar[i, j]), 6),
            "keys": [keys[i], keys[j]],
            "captions": [captions[i], captions[j]],
        }
        for i, j in zip(one[near].tolist(), other[near].tolist(), strict=True)
    ]
    return {
        "similarity": {"edges": edges.round(2).tolist(), "counts": counts.tolist(), "rows_compared": len(vectors)},
        "nearest_pairs": pairs,
        "duplicate_pairs": int((similar[one, other] >= DUPLICATE_COSINE).sum()),
    }


def disk(dump: Path) -> dict[str, int]:
    """Bytes by kind of file, most first, and in all."""
    found: dict[str, int] = {}
    for path in dump.rglob("*"):
        if path.is_file():
            kind = next(kind for ending, kind in KINDS.items() if path.name.endswith(ending))
            kind = "index, in pieces" if "index_pieces" in path.parts else kind
            found[kind] = found.get(kind, 0) + path.stat().st_size
    return dict(sorted(found.items(), key=lambda item: -item[1])) | {"all": sum(found.values())}


def problems(dump: Path) -> list[str]:
    """Files of the manifest that are missing or changed; a missing manifest is one too."""
    if not (dump / "manifest.json").is_file():
        return ["manifest.json is missing: the dump was not finished; run embed again"]
    return [f"{name} has changed" if found else f"{name} is missing" for name, found, _ in changed_files(dump)]


def changed_files(dump: Path) -> Iterator[tuple[str, str, str]]:
    """Name, digest ("" of none) and the manifest's digest of every file that is not what the manifest says."""
    for name, said in read_record(dump / "manifest.json", "files")["files"].items():
        found = file_digest(dump / name) if (dump / name).is_file() else ""
        if found != said:
            yield name, found, said
