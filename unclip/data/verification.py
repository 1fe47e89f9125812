"""Whether a dump is what it says: every part against the contract, and a sample of rows embedded again."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.dump import part_paths
from unclip.data.dump_figures import changed_files
from unclip.data.dump_pictures import ReadPicture
from unclip.data.dump_records import read_record
from unclip.data.embed import Encoder
from unclip.data.embedded_again import embedded_again
from unclip.data.index_codes import open_index
from unclip.data.index_recall import find
from unclip.data.part_check import KeyMap, PartCheck, SampledRow
from unclip.data.problems import Problem, name_in
from unclip.data.spreads import drawn_rows
from unclip.data.table import AGREEING, TableInfo, read_info, storable, unit
from unclip.data.versions import versions_line, versions_of

MAX_LINES = 5  # of one kind about one file; the rest are counted
NUM_NEAREST, TIE = 10, 1e-4  # rows that an index is asked for; cosines of repeated pictures differ by less
MIN_FOUND = 0.95  # of sampled rows that an approximate index must find by their own vectors


@dataclass
class Verdict:
    """What was looked at, and what is wrong."""

    rows: int
    parts: int
    embedded_again: int
    problems: list[Problem]
    versions: str  # of libraries, where parts were made with different ones: no problem, but to be known

    def lines(self) -> list[str]:
        """A line a problem; of many of one kind in one file the first few and a count."""
        seen: Counter[tuple[str, str]] = Counter()
        found = []
        for problem in self.problems:
            seen[problem.file, problem.field] += 1
            if seen[problem.file, problem.field] <= MAX_LINES:
                found.append(str(problem))
        more = [(place, count - MAX_LINES) for place, count in seen.items() if count > MAX_LINES]
        return found + [f"{file}: {field} of {count:,} more rows" for (file, field), count in more]


def verify_dump(
    dump: Path, open_encoder: Callable[[str], Encoder], read: ReadPicture, sample: int = 64, seed: int = 0
) -> Verdict:
    """Check every row of a dump against the contract, and embed `sample` rows drawn by `seed` again.

    open_encoder: the dump's own CLIP at the precision it names. One batch of rows is in memory at a time.

    Raises: ValueError when the folder is no dump, or `sample` is negative.
    """
    if sample < 0:
        raise ValueError(f"--sample must be >= 0, got {sample}")
    parts = part_paths(dump)
    problems = list(manifest_problems(dump, parts))
    infos: dict[Path, TableInfo] = {}
    for part in parts:
        try:
            infos[part] = read_info(part)
        except ValueError as error:
            problems.append(Problem(name_in(dump, part), "table", f"refused: {error}", "an embedding table"))
    problems += disagreements(dump, infos)
    chosen = drawn_rows([infos[part].num_rows if part in infos else 0 for part in parts], sample, seed)
    keys = KeyMap(dump) if len(infos) == len(parts) else None  # else what counts through the parts says nothing
    rows, last, num_rows = list[SampledRow](), "", 0
    for number, part in enumerate(parts):
        if part in infos:
            checked = PartCheck(dump, part, infos[part], chosen[number], number)
            problems += checked.problems(keys, num_rows, last)
            rows, last, num_rows = rows + checked.sampled, checked.last, num_rows + infos[part].num_rows
    if keys is not None:
        whole = [row for row in rows if storable(row.stored["image"][None])[0]]
        problems += [*keys.left(), *index_problems(dump, whole, num_rows)]
    again = 0
    if rows:
        again, otherwise = embedded_again(dump, rows, open_encoder, read)
        problems += otherwise
    versions = versions_line(versions_of(list(infos.values()))) if len(infos) == len(parts) else ""
    return Verdict(num_rows, len(parts), again, problems, versions)


def manifest_problems(dump: Path, parts: Sequence[Path]) -> Iterator[Problem]:
    """Files that are missing, changed or not of the manifest, and counts that it has wrong."""
    try:
        manifest = read_record(dump / "manifest.json", "files", "rows")
    except ValueError as error:
        yield Problem("manifest.json", "manifest", f"refused: {error}", "written when embed ends: run it again")
        return
    for name, found, said in changed_files(dump):
        yield Problem(name, "sha256", found[:12] or "of no file", f"{said[:12]}, as manifest.json says")
    for path in sorted((dump / "parts").glob("[0-9]*.parquet")):
        if name_in(dump, path) not in manifest["files"]:
            yield Problem(name_in(dump, path), "part", "not in manifest.json", "a part of the finished dump")
    with suppress(OSError, pa.ArrowInvalid):
        rows = sum(pq.read_metadata(part).num_rows for part in parts)
        if rows != manifest["rows"]:
            yield Problem("manifest.json", "rows", str(manifest["rows"]), f"{rows}, as the parts have")


def disagreements(dump: Path, infos: dict[Path, TableInfo]) -> Iterator[Problem]:
    """Parts that were made otherwise than the first."""
    first = next(iter(infos.items()), None)
    for path, info in infos.items():
        for name in AGREEING:
            if first and getattr(info, name) != getattr(first[1], name):
                allowed = f"{getattr(first[1], name)}, as {name_in(dump, first[0])} has"
                yield Problem(name_in(dump, path), name, str(getattr(info, name)), allowed)


def index_problems(dump: Path, rows: Sequence[SampledRow], size: int) -> Iterator[Problem]:
    """An index of another size than the parts, or one that does not find sampled rows by their own vectors."""
    try:
        index = open_index(dump)
        kind = json.loads((dump / "manifest.json").read_text())["index"]["kind"]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        yield Problem("index.faiss", "index", f"refused: {str(error).splitlines()[0]}", "an index of FAISS")
        return
    if index.ntotal != size:
        yield Problem("index.faiss", "rows", str(index.ntotal), f"{size}, as the parts have")
    elif rows:
        queries = unit(np.stack([row.stored["image"] for row in rows]))
        ids, cosines = find(index, part_paths(dump), queries, NUM_NEAREST)
        is_there = (ids == np.array([[row.place] for row in rows])).any(1) | (cosines[:, -1] > cosines[:, 0] - TIE)
        found = is_there & (np.abs(cosines[:, 0] - 1) < 0.02)  # 8 bits a component cost 0.003
        least = 1.0 if kind == "flat" else MIN_FOUND
        if found.mean() < least:
            value = f"{found.sum()} of {len(rows)} sampled rows found by their own vectors"
            yield Problem("index.faiss", "recall", value, f"{least:.0%}")
