"""A dump of another evaluation set, which training rows are kept apart from: by image and by caption."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unclip.data.table import AGREEING, Floats, check_agree, matrix, unit


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of an evaluation set: all in memory, for it is small beside what is trained on."""

    keys: list[str]
    files: list[str]  # or addresses
    captions: list[str]
    images: Floats  # (N, D), unit norm

    def name(self, row: int) -> str:
        """A row as a person finds it."""
        return f"{self.keys[row]} ({self.files[row]})" if self.files[row] else self.keys[row]


def read_evaluation_set(dump: Path, part: Path) -> EvaluationSet:
    """The evaluation set in a dump, or in a folder of parts, that the CLIP of `part` made.

    Raises: ValueError when there is none, or it is another CLIP's, with the field and both values.
    """
    paths = parts_in(dump)
    theirs, ours = check_agree(paths)[0], check_agree([part])[0]
    for name in AGREEING:
        if name not in ("model", "compute_type") and getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f"select.evaluation: {dump} has {name} {getattr(theirs, name)}, this pipeline's table has "
                f"{getattr(ours, name)}: embed it again with this pipeline's CLIP"
            )
    tables = [pq.read_table(path, columns=["key", "caption", "image_embedding"]) for path in paths]
    keys = [key for table in tables for key in table["key"].to_pylist()]
    files = {key: file for path in paths for key, file in files_of(path)}
    return EvaluationSet(
        keys=keys,
        files=[files.get(key, "") for key in keys],
        captions=[caption for table in tables for caption in table["caption"].to_pylist()],
        images=unit(np.concatenate([matrix(table["image_embedding"], ours.dimension) for table in tables])),
    )


def parts_in(dump: Path) -> list[Path]:
    """The parts of a dump, or of a folder of them, in order.

    Raises: ValueError when there are none.
    """
    folder = dump / "parts" if (dump / "parts").is_dir() else dump
    paths = sorted(path for path in folder.glob("*.parquet") if "." not in path.stem)
    if not paths:
        raise ValueError(f"{dump} must be a dump that `unclip embed` made or a folder of its parts, has no *.parquet")
    return paths


def files_of(part: Path) -> list[tuple[str, str]]:
    """Key and file (or address) of the rows of a part, where the dump says it."""
    path = part.with_suffix(".rows.parquet")
    rows = pq.read_table(path, columns=["key", "url"]).to_pylist() if path.is_file() else []
    return [(row["key"], row["url"]) for row in rows if row["key"] and row["url"]]
