"""A CSV of people's ratings, joined to the images of a dump."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.csv_rows import csv_rows
from unclip.data.evaluation_set import files_of, parts_in
from unclip.data.table import Floats, TableInfo, check_agree, matrix, unit

NAMES = ("key", "file", "sha256")  # columns that say which image: the first that the CSV has counts


@dataclass(frozen=True)
class Rated:
    """The rated images of a dump, each once, in the dump's order: mean ratings (N,) of unit embeddings (N, D)."""

    info: TableInfo
    images: Floats
    ratings: NDArray[np.float64]
    num_unknown: int  # rated things that the dump does not hold


def read_rated(path: Path, dump: Path) -> Rated:
    """The ratings of a CSV beside the embeddings of what they rate; several ratings of one image are averaged.

    Raises: ValueError for a bad CSV, with its line, or a dump that is none.
    """
    column, ratings = read_ratings(path)
    parts = parts_in(dump)
    info, images, means, known = check_agree(parts)[0], [], [], set[str]()
    for part in parts:
        names = list(names_of(part, column))
        rows = [row for row, name in enumerate(names) if name and name in ratings and name not in known]
        rows = list({names[row]: row for row in reversed(rows)}.values())[::-1]  # the first of a name
        known |= {names[row] for row in rows}
        means += [float(np.mean(ratings[names[row]])) for row in rows]
        images.append(matrix(pq.read_table(part, columns=["image_embedding"])["image_embedding"], info.dimension)[rows])
    return Rated(info, unit(np.concatenate(images)), np.array(means, np.float64), len(ratings) - len(known))


def read_ratings(path: Path) -> tuple[str, dict[str, list[float]]]:
    """Which column names the images, and the ratings of each name.

    Raises: ValueError when the file is no such CSV, with its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _ratings_in(path, csv.DictReader(file, strict=True))
    except OSError as error:
        raise ValueError(f"the ratings must be a CSV file that can be read, got {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from error


def _ratings_in(path: Path, reader: "csv.DictReader[str]") -> tuple[str, dict[str, list[float]]]:
    names = reader.fieldnames or []
    column = next((name for name in NAMES if name in names), None)
    if column is None or "rating" not in names:
        raise ValueError(f"{path} must have the column rating and one of {', '.join(NAMES)}; it has {', '.join(names)}")
    ratings: dict[str, list[float]] = {}
    for row in csv_rows(reader):
        try:
            rating = float(row["rating"] or "")
        except ValueError:
            rating = math.nan
        if not math.isfinite(rating):
            raise ValueError(f"{path}:{reader.line_num}: rating must be a number, got {row['rating']!r}")
        name = (row[column] or "").strip()
        if not name:
            raise ValueError(f"{path}:{reader.line_num}: {column} must name an image, got none")
        ratings.setdefault(name, []).append(rating)
    return column, ratings


def names_of(part: Path, column: str) -> Iterator[str]:
    """What the rows of a part are called in a column of NAMES, in order; "" for a row without that name."""
    if column == "sha256":
        yield from (
            digest.hex() for digest in pq.read_table(part, columns=["image_sha256"])["image_sha256"].to_pylist()
        )
        return
    keys = pq.read_table(part, columns=["key"])["key"].to_pylist()
    files = dict(files_of(part)) if column == "file" else {}
    yield from (files.get(key, "") if column == "file" else key for key in keys)
