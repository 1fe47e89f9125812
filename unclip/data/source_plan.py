"""How many shards a source has, and what each depends on: little enough for a plan to read at once.

A shard's recipe changes only with what is in that shard, so one more shard leaves the others as they are.
"""

import csv
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unclip.data.config import FolderConfig, RetryConfig, ShapesConfig, ShardsConfig, UrlsConfig
from unclip.data.csv_rows import csv_rows
from unclip.data.digests import known_digest
from unclip.data.more_columns import more_json
from unclip.recipe import digest_of

SourceConfig = ShapesConfig | FolderConfig | ShardsConfig | UrlsConfig | RetryConfig
ALL = slice(None)
HEAD_FILES = ("head.json", "head.safetensors")  # of `aesthetic.head`
EVALUATION_FILES = ("**/*.parquet",)  # of `select.evaluation`
QUOTES = "a comma in a caption needs quotes around it"
REST = "\0"  # no column's name: of the cells of a row beyond those of the header
BRACES = re.compile(r"\{([^{}]+)\}")


def shard_recipes(config: SourceConfig, wanted: slice = ALL) -> list[dict[str, Any]]:
    """For each shard wanted, in order, the JSON-able values that decide its content (besides the seed of drawn ones).

    Raises: ValueError for a list or tar that is missing, empty or malformed.
    """
    if isinstance(config, ShapesConfig):
        return shapes_recipes(config)[wanted]
    if isinstance(config, FolderConfig):
        return folder_recipes(config, wanted)
    if isinstance(config, ShardsConfig):
        return [tar_recipe(path, shard) for shard, path in list(enumerate(tar_paths(config)))[wanted]]
    if isinstance(config, RetryConfig):
        from unclip.data.retries import retry_recipe

        return [retry_recipe(config)]  # a shard of its own
    from unclip.data.urls import pair_recipes  # pyarrow: only where a list may be Parquet

    return pair_recipes(config, wanted)


def require_unchanged(config: SourceConfig, shard: int, planned: dict[str, Any]) -> None:
    """Raises: ValueError when a shard of the source is no longer what the plan saw."""
    if shard_recipes(config, slice(shard, shard + 1)) != [planned]:
        raise ValueError(f"source: shard {shard} changed while it was being read: run again")


def folder_digest(folder: Path, setting: str, patterns: tuple[str, ...]) -> str:
    """One digest of the files of a folder that the patterns name: their bytes count, not the folder's place.

    Raises:
        ValueError: there are none.
    """
    found = [sorted(folder.glob(pattern)) for pattern in patterns]
    if not all(found):
        raise ValueError(f"{setting} must be a folder with {' and '.join(patterns)}, got '{folder}'")
    paths = (path for some in found for path in some)
    return digest_of({path.relative_to(folder).as_posix(): known_digest(path) for path in paths})


def require_same_folder(folder: str, setting: str, patterns: tuple[str, ...], planned: str) -> None:
    """Raises: ValueError when the files of a folder that a setting names are no longer those that the plan saw."""
    if folder_digest(Path(folder), setting, patterns) != planned:
        raise ValueError(f"{setting}: {folder} changed while it was being read: run again")


def shapes_recipes(config: ShapesConfig) -> list[dict[str, Any]]:
    """Everything but the number of samples in all."""
    drawing = {name: value for name, value in asdict(config).items() if name != "num_samples"}
    rows = [len(range(config.num_samples)[first:][: config.shard_size]) for first in first_rows(config)]
    return [{"source": "shapes", "shard": shard, "rows": count, **drawing} for shard, count in enumerate(rows)]


def first_rows(config: ShapesConfig) -> range:
    """The number of the first sample of each shard."""
    return range(0, config.num_samples, config.shard_size)


def folder_recipes(config: FolderConfig, wanted: slice = ALL) -> list[dict[str, Any]]:
    """The digest of each wanted shard's files and captions."""
    chunks = list(enumerate(folder_chunks(config)))[wanted]
    return [folder_recipe(Path(config.folder), shard, rows) for shard, rows in chunks]


def folder_recipe(folder: Path, shard: int, rows: "Iterable[FolderRow]") -> dict[str, Any]:
    """What decides a shard of a folder."""
    return {"source": "folder", "shard": shard, "rows": rows_digest(folder, rows)}


def tar_recipe(path: Path, shard: int) -> dict[str, Any]:
    """What decides a shard that is a tar; its name, for samples without an id of their own are known by it."""
    return {"source": "shards", "shard": shard, "name": path.name, "tar": known_digest(path)}


class FolderRow(NamedTuple):
    """One row of a folder's CSV; `more`: the values of its further columns as JSON, "" where none are asked for.

    repeats: whether an earlier row has the same file and caption.
    """

    file: str
    caption: str
    more: str = ""
    repeats: bool = False


def rows_digest(folder: Path, rows: Iterable[FolderRow]) -> str:
    """The digest of a folder's rows with the contents of the files; a missing or unreadable one counts as that."""
    digest = hashlib.sha256()
    for file, caption, more, repeats in rows:
        path = inside(folder, file)
        try:
            content = known_digest(path) if path is not None and path.is_file() else "missing"
        except OSError:  # a name that no file can have
            content = "missing"
        except ValueError:  # one that may not be read
            content = "unreadable"
        content = "repeats" if repeats else content
        digest.update(f"{len(file)} {file} {len(caption)} {caption} {content}\n{more}".encode())
    return digest.hexdigest()


def folder_chunks(config: FolderConfig) -> list[list[FolderRow]]:
    """Every row of the CSV, shard by shard; what is missing in a row is "".

    Raises: ValueError when the folder or the list is missing, the list is empty or no CSV, or lacks a column.
    """
    if not Path(config.folder).is_dir():
        raise ValueError(f"folder must be an existing folder, got {config.folder!r}")
    try:
        with open(config.captions, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restkey=REST)
            names = reader.fieldnames or []
            for column in (config.file_column, config.caption_column, *config.more_columns):
                if column not in names:
                    raise ValueError(f"{config.captions} has no column {column!r}; it has {', '.join(names) or 'none'}")
                if names.count(column) > 1:
                    raise ValueError(f"{config.captions} has {names.count(column)} columns {column!r}")
            found = csv_rows(reader)
            rows = marked_repeats(_folder_row(config, row, f"{config.captions}:{reader.line_num}") for row in found)
    except OSError as error:
        raise ValueError(
            f"captions must be a CSV file that can be read, got {config.captions!r}: {error.strerror}"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{config.captions} is no CSV in UTF-8: {error}") from error
    if not rows:
        raise ValueError(f"{config.captions} has no rows")
    return [rows[start : start + config.shard_size] for start in range(0, len(rows), config.shard_size)]


def _folder_row(config: FolderConfig, row: Mapping[str, Any], where: str) -> FolderRow:
    if any(row.get(REST, ())):
        raise ValueError(f"{where} has more cells than the header: {QUOTES}")
    file, caption = ((row[name] or "").strip() for name in (config.file_column, config.caption_column))
    more = config.more_columns
    return FolderRow(file, caption, more_json(more, (row[name] for name in more)) if more else "")


def marked_repeats(rows: Iterable[FolderRow]) -> list[FolderRow]:
    """The rows, those marked whose file and caption stand in an earlier one; rows that lack either are no pairs."""
    seen: set[tuple[str, str]] = set()
    found = []
    for row in rows:
        pair = (row.file, row.caption)
        found.append(row._replace(repeats=all(pair) and pair in seen))
        seen.add(pair)
    return found


def inside(folder: Path, file: str) -> Path | None:
    """The path of a file named relative to the folder; None when the name is empty or leads out of it."""
    path = os.path.normpath(file)
    return None if not file or os.path.isabs(path) or path.split(os.sep)[0] == ".." else folder / path


def tar_paths(config: ShardsConfig) -> list[Path]:
    """The tars that the pattern names, sorted.

    Raises: ValueError when there is none, or one that is named in full is missing.
    """
    paths: set[str] = set()
    for name in expand_braces(config.pattern):
        found = glob.glob(name, recursive=True)
        if not found:
            raise ValueError(f"pattern {config.pattern!r} names no file: there is no {name}")
        paths.update(found)
    return [Path(path) for path in sorted(paths)]


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}b` as a00b, a01b, a02b and `{x,y}` as x, y; several braces multiply."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, dots, last = match[1].partition("..")
    if dots and not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError(f"pattern must have braces like {{00..09}} or {{a,b}}, got {match[0]!r} in {pattern!r}")
    choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)] if dots else match[1].split(",")
    return [
        name for choice in choices for name in expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])
    ]
