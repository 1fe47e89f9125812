"""The data team's dump: any folder or shards as an embedding table with an index, searchable, added to, checked.

A dump is `parts/NNNNNN.parquet` with `.rows.parquet`, `.rejects.parquet` and `.json` beside each, `index.faiss`,
`keys.parquet`, `clip/` (weights, clip.json, the tokenizer.json of a CLIP that has one) and `manifest.json`, which is
written last.
"""

import fcntl
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from unclip.data.config import IndexConfig
from unclip.data.digests import file_digest, known_digest
from unclip.data.dump_engine import Engine, Job
from unclip.data.dump_origin import DumpSource, origin, refuse_nothing, refuse_other_clip, refuse_other_source
from unclip.data.dump_records import are_whole, read_record, record_or_none, sizes_of, write_record
from unclip.data.dump_shards import SourceShard, dump_shards
from unclip.data.embed import Encoder, EncoderFacts, Made, info_of, versions_now
from unclip.data.fetched import PICTURES, RECORD, FetchedConfig
from unclip.data.index import grow_index
from unclip.data.part_files import check_part, write_part_of, write_rejects
from unclip.data.rows import refusals, write_rows
from unclip.data.table import AGREEING, read_info
from unclip.data.urls import pair_recipes
from unclip.data.versions import versions_line, versions_of
from unclip.recipe import code_digest, digest_of

MADE_FROM = "made_from.json"  # of a pretrained CLIP: the name and the digest of its file
CLIP_FILES = ("weights.safetensors", "clip.json", "tokenizer.json")  # the last not of every CLIP
ASIDE = ".part-"  # folders of parts that are being written
DEFAULT_INDEX = IndexConfig()
MAKING_PARTS = ("unclip.data.part_files",)  # and all that they import
NEW, BROKEN, OLDER = "new", "files missing or cut short", "a record of an older version"  # why a part is made
CHANGED = {  # what of a recipe may differ, in words
    "code": "code of unclip",
    "tar": "tars",
    "name": "names of tars",
    "pairs": "rows",
    "fates": "fates of addresses",
}


def fill_dump(
    source: DumpSource,
    out: Path,
    engine: Engine,
    clip: Path,
    progress: Callable[..., None],
    fetch: Callable[[], object] = lambda: None,
    index: IndexConfig = DEFAULT_INDEX,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Embed every shard of a source into the dump `out`; shards that it holds already cost nothing.

    clip: the folder of the encoder's weights, copied into the dump. fetch: brings a URL list's pictures, once the dump
    is known to be that list's. index: another than that of the manifest is built over the parts that are there. tell:
    is told before the work how many parts that the dump had are made anew, and why. Returns the manifest.

    Raises: ValueError for a bad source, one of which no row can be embedded, a dump made with another CLIP or of
        another source, one being written, or an index of many rows that finds too little.
    """
    shards = dump_shards(source) if not isinstance(source, FetchedConfig) else []
    if isinstance(source, FetchedConfig):
        pair_recipes(source.urls)  # a bad list is refused before anything is made
    refuse_no_dump(out)
    (out / "parts").mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        refuse_other_clip(out, engine.facts, AGREEING)
        refuse_other_source(out, source)
        if isinstance(source, FetchedConfig):
            fetch()
            shards = dump_shards(source)
        return _fill(Plan(source, shards, out, how_of(engine, source), index), engine, clip, progress, tell)


def _fill(
    plan: "Plan", engine: Engine, clip: Path, progress: Callable[..., None], tell: Callable[[str], None]
) -> dict[str, Any]:
    out, parts = plan.out, plan.out / "parts"
    clear_aside(parts)
    missing = plan.missing()
    anew = Counter(why for why in missing.values() if why != NEW)
    if anew:
        whys = "; ".join(f"{count} for {why}" for why, count in sorted(anew.items()))
        tell(f"{anew.total()} of {len(plan.shards)} parts are made anew: {whys}")
    surplus = plan.surplus()
    if missing or surplus or not is_finished(out, plan.index, clip):
        (out / "manifest.json").unlink(missing_ok=True)
        engine.embed(plan.jobs(list(missing)), progress)
        clear_aside(parts)
        if changed := [plan.named(shard) for shard in missing if plan.why_made(shard) is not None]:
            raise ValueError(f"SOURCE changed while it was being read: run again for {', '.join(changed)}")
        for record in surplus:
            drop_part(record)
        refuse_nothing(out, plan.source)
        copy_clip(clip, out / "clip", engine.facts)
        finish(out, plan.index)
    progress(1, 1)
    manifest = read_record(out / "manifest.json")
    line = versions_line(manifest["versions"], versions_now(engine.facts))
    done = {"embedded_shards": len(missing), "dropped_shards": len(surplus), "shards": len(plan.shards)}
    return manifest | done | {"made_anew": dict(anew), "other_versions": line}


def clear_aside(parts: Path) -> None:
    """Remove what a run or a worker that was killed left of parts."""
    for left in parts.glob(f"{ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in parts.glob(".*.json.*"):  # a record, before it had its name
        left.unlink(missing_ok=True)


@dataclass(frozen=True)
class Plan:
    """Which parts a dump should have, and how each is made."""

    source: DumpSource
    shards: list[SourceShard]
    out: Path
    how: dict[str, Any]  # that parts are made, whatever the shard
    index: IndexConfig

    def missing(self) -> dict[int, str]:
        """The shards whose parts the dump lacks, or has otherwise, and why each is made."""
        found = ((shard, self.why_made(shard)) for shard in range(len(self.shards)))
        return {shard: why for shard, why in found if why is not None}

    def why_made(self, shard: int) -> str | None:
        """Why a shard's part is to be made; None where the dump holds it."""
        return why_made(self.out, shard, self.recipe(shard))

    def named(self, shard: int) -> str:
        """A shard as the user knows it."""
        return str(self.shards[shard].recipe.get("name", f"shard {shard}"))

    def surplus(self) -> list[Path]:
        """The records of parts after the source's last shard: there, or gone with a file left that a kill spared."""
        names = {path.name.partition(".")[0] for path in (self.out / "parts").glob("[0-9]*.*")}
        numbers = sorted(int(name) for name in names if name.isdecimal())
        return [self.record(number) for number in numbers if number >= len(self.shards)]

    def recipe(self, shard: int) -> dict[str, Any]:
        """What decides the bytes of a part."""
        return self.shards[shard].recipe | self.how

    def jobs(self, shards: list[int]) -> list[Job]:
        """How the parts of some shards are made."""
        return [
            Job(
                open_listing=self.shards[shard].open_listing,
                write=partial(write_files, self.record(shard), self.said(shard), self.shards[shard]),
            )
            for shard in shards
        ]

    def record(self, shard: int) -> Path:
        """The file that says that a part is whole."""
        return self.out / "parts" / f"{shard:06d}.json"

    def said(self, shard: int) -> dict[str, Any]:
        """What a part's record says of where it came from."""
        return {"recipe": self.recipe(shard), "origin": origin(self.source)}


def how_of(engine: Engine, source: DumpSource) -> dict[str, Any]:
    """What decides the bytes of every part besides its shard: the CLIP, the batches, the code, further columns."""
    names = ("weights_digest", "network_digest", "compute_type")
    modules = (*MAKING_PARTS, *(["unclip.data.fetched"] if isinstance(source, FetchedConfig) else []))
    code = digest_of([code_digest(modules), engine.facts.code_digest])
    more = getattr(source.urls if isinstance(source, FetchedConfig) else source, "more_columns", ())
    how = {name: getattr(engine.facts, name) for name in names} | {"batch_size": engine.batch_size, "code": code}
    return how | ({"more_columns": list(more)} if more else {})


def write_files(record: Path, said: dict[str, Any], shard: SourceShard, made: Made, encoder: Encoder) -> None:
    """Write a part with what stands beside it, check it aside, and move it in; its record is last.

    Of a shard that changed since it was listed nothing is written.
    """
    if not shard.is_what_was_read(made.rows):
        return
    part, digest = record.with_suffix(".parquet"), said["recipe"].get("tar") or said["recipe"]["rows"]
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=ASIDE) as name:
        aside = Path(name) / part.name
        write_part_of(aside, made, info_of(encoder, digest, len(made.places)))
        write_rejects(rejects_path(aside), made, with_refused=False)
        write_rows(rows_path(aside), made.rows)
        check_part(aside, made, encoder)
        digests = {path.name: file_digest(path) for path in files_of(aside)}
        sizes = sizes_of(files_of(aside))
        drop_part(record)
        for path in reversed(files_of(aside)):
            os.replace(path, part.with_name(path.name))
    refused = refusals(row.status for row in made.rows)
    source = {"rows": len(made.rows), "kept": len(made.rows) - sum(refused.values()), "refused": refused}
    counts = {"source": source, "rows": len(made.places), "refused": made.refused, "files": digests}
    write_record(record, said | counts | {"sizes": sizes})


def refuse_no_dump(out: Path) -> None:
    """Raises: ValueError for a file, or a folder that holds other things than a dump."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, {out} is a file")
    is_begun = (out / "parts").is_dir() or any(out.glob(f"{PICTURES}/*/{RECORD}"))
    if out.is_dir() and any(out.iterdir()) and not is_begun:
        raise ValueError(f"--out must be a dump, or a folder that is new or empty; {out} holds other files")


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the dump for writing. Raises: ValueError when another process does."""
    with open(out / "parts" / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another embed is writing to {out}: wait until it has ended") from error
        yield


def finish(out: Path, config: IndexConfig = DEFAULT_INDEX) -> None:
    """Build the index over all parts and write the manifest: what is where, with digests.

    What a part's record says of its files is not found out again.
    """
    parts = part_paths(out)
    index = grow_index(config, parts, out, seed=0)
    records = [read_record(part.with_suffix(".json"), "files", "rows", "refused") for part in parts]
    infos = [read_info(part) for part in parts]
    beside = [path for path in sorted(out.glob("*.*")) if path.name.startswith(("index.", "index-", "keys."))]
    clip = [path for name in (*CLIP_FILES, MADE_FROM) if (path := out / "clip" / name).is_file()]
    files = {f"parts/{name}": digest for record in records for name, digest in record["files"].items()}
    files |= {f"clip/{path.name}": known_digest(path) for path in clip}
    manifest = {
        "rows": sum(record["rows"] for record in records),
        "refused": dict(sum((Counter(record["refused"]) for record in records), Counter[str]())),
        "clip": {name: getattr(infos[0], name) for name in AGREEING},
        "index": index,
        "index_settings": asdict(config),
        "versions": versions_of(infos),
        "files": files | {path.name: file_digest(path) for path in beside},
        "sizes": sizes_of(beside) | {f"clip/{name}": size for name, size in sizes_of(clip).items()},
    }
    write_record(out / "manifest.json", manifest)


def is_finished(out: Path, index: IndexConfig, clip: Path) -> bool:
    """Whether the dump has its manifest and what this says is beside the parts: key map, the index as set, its CLIP.

    Of files that are there their sizes are looked at, here and for parts: what was cut short is made again.
    """
    manifest = record_or_none(out / "manifest.json", "files", "rows", "refused", "index", "versions")
    if manifest is None or manifest.get("index_settings") != asdict(index):
        return False
    beside = [name for name in manifest["files"] if "/" not in name]
    beside += [f"clip/{name}" for name in (*CLIP_FILES, MADE_FROM) if (clip / name).is_file()]
    return all((out / name).is_file() for name in beside) and are_whole(out, manifest)


def why_made(out: Path, shard: int, recipe: dict[str, Any]) -> str | None:
    """Why the part that this recipe makes is to be made; None where the dump holds it."""
    record = out / "parts" / f"{shard:06d}.json"
    are_there = [path.is_file() for path in (record, *files_of(record.with_suffix(".parquet")))]
    if not any(are_there):
        return NEW
    said = record_or_none(record, "recipe", "origin", "files")
    old = said and said["recipe"]
    if not isinstance(old, dict) or not all(are_there):
        return BROKEN
    if recipe == old:
        return None if said and are_whole(record.parent, said) else BROKEN
    changed = {name for name in recipe.keys() & old.keys() if recipe[name] != old[name]}
    if changed & {"rows", "pairs"} and recipe.get("more_columns") != old.get("more_columns"):
        changed.add("more_columns")
    names = CHANGED | ({"tar": "pictures"} if recipe["source"] == "urls" else {})
    return f"other {' and '.join(sorted(names.get(name, name) for name in changed))}" if changed else OLDER


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


def copy_clip(clip: Path, folder: Path, facts: EncoderFacts) -> None:
    """Copy the files of a CLIP, each complete or absent; large ones unless they are there."""
    folder.mkdir(exist_ok=True)
    weights = folder / "weights.safetensors"
    is_there = weights.is_file() and known_digest(weights) == facts.weights_digest
    if clip.resolve() == folder.resolve():
        return
    for name in (*CLIP_FILES, MADE_FROM):
        if (clip / name).is_file() and not (is_there and name == weights.name):
            shutil.copyfile(clip / name, folder / f".{name}")
            os.replace(folder / f".{name}", folder / name)
