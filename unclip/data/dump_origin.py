"""What a dump is of: one source and one CLIP, whatever is added to it; and that there is something in it."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.dump_records import read_record, record_or_none
from unclip.data.embed import EncoderFacts
from unclip.data.fetched import FetchedConfig
from unclip.data.funnel import lost_rows
from unclip.data.table import AGREEING, UNKNOWN, TableInfo, read_info

DumpSource = FolderConfig | ShardsConfig | FetchedConfig
IN_RECIPES = ("weights_digest", "network_digest", "compute_type")
SAME_VECTORS = tuple(name for name in AGREEING if name != "model")  # by whatever name the CLIP goes


def refuse_other_clip(dump: Path, encoder: EncoderFacts, agreeing: tuple[str, ...] = SAME_VECTORS) -> None:
    """Raises: ValueError when the dump has parts that were made otherwise than this encoder would.

    The first whole part speaks for all: none is written beside it that differs. agreeing: what must be equal.
    """
    first = next(whole_parts(dump), None)
    if first is None:  # all are made again: by the same CLIP, as far as their records know it
        recipes = (recipe_in(record) for record in sorted((dump / "parts").glob("*.json")))
        recipe: dict[str, Any] = next(filter(None, recipes), {})
        said = {name: recipe[name] for name in IN_RECIPES if name in recipe}
    else:
        record, info = first
        network = recipe_in(record).get("network_digest", UNKNOWN)
        said = {name: getattr(info, name) for name in agreeing} | {"network_digest": network}
    for name, value in said.items():
        given = getattr(encoder, "name" if name == "model" else name)
        is_unknown = name != "weights_digest" and value == UNKNOWN  # of an imported dump
        if value != given and not is_unknown:
            raise ValueError(f"{dump} was made with {name} {value}, the CLIP given has {given}")


def recipe_in(record: Path) -> dict[str, Any]:
    """What a part's record says that it was made from; nothing where it is damaged."""
    said = record_or_none(record, "recipe")
    return dict(said["recipe"]) if said and isinstance(said["recipe"], dict) else {}


def whole_parts(dump: Path) -> Iterator[tuple[Path, TableInfo]]:
    """The records of the parts that can be read, with what these say of themselves; others are made again."""
    for record in sorted((dump / "parts").glob("*.json")):
        with suppress(ValueError):
            yield record, read_info(record.with_suffix(".parquet"))


def refuse_other_source(dump: Path, source: DumpSource) -> None:
    """Raises: ValueError when the dump has rows of another source; the same one may have grown or changed."""
    for record in sorted((dump / "parts").glob("*.json")):
        said = record_or_none(record, "origin", "rows")  # a damaged part is made again, as is one without rows
        if said is not None and said["rows"] and said["origin"] != origin(source):
            raise ValueError(f"{dump} holds the {said['origin']}, not the {origin(source)}: give another --out")


def refuse_nothing(dump: Path, source: DumpSource) -> None:
    """Raises: ValueError with the reasons when no part has a row. Of a source that has none either, nothing stays."""
    refused: Counter[str] = Counter()
    for path in sorted((dump / "parts").glob("*.json")):
        record = read_record(path, "rows", "refused")
        if record["rows"]:
            return
        refused.update(record["refused"])
    if refused:
        raise ValueError(f"the {origin(source)} leave nothing to embed: {lost_rows(refused)}: see {dump / 'parts'}")
    if [path.name for path in dump.iterdir()] == ["parts"]:
        shutil.rmtree(dump / "parts")
    raise ValueError(f"the {origin(source)} have no rows: there is nothing to embed")


def origin(source: DumpSource) -> str:
    """What stays of a source when it grows: its kind and its folder."""
    if isinstance(source, FolderConfig):
        return f"pictures of {Path(source.folder).resolve()}"
    if isinstance(source, FetchedConfig):
        return f"addresses of {Path(source.urls.path).resolve()}"
    return f"tars of {Path(re.split(r'[{*?[]', source.pattern)[0] + 'x').parent.resolve()}"
