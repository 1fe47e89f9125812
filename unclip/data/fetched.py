"""A URL list fetched into a dump: `pictures/NNNNNN/` holds a shard, and the fate of every row of the list."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.digests import known_digest
from unclip.data.download import download
from unclip.data.listings import Listing, read_members
from unclip.data.rows import read_rows
from unclip.data.shards import image_member, sample_key, tar_groups
from unclip.data.sources import Found
from unclip.data.urls import pair_recipes, write_pairs
from unclip.store import WORK

PICTURES = "pictures"  # the folder of a dump that holds them
RECORD = "fetched.json"


@dataclass(frozen=True, kw_only=True)
class FetchedConfig:
    """A URL list, and the folder where its pictures were fetched to, a folder a shard."""

    urls: UrlsConfig
    folder: Path


def fetch_list(config: UrlsConfig, how: DownloadConfig, folder: Path, progress: Callable[..., None]) -> FetchedConfig:
    """Fetch what is not there of a URL list, shard by shard; a killed run goes on from what it fetched.

    Raises: ValueError for a bad list, or when too few rows of a shard can be had.
    """
    recipes = pair_recipes(config)
    for shard, recipe in enumerate(recipes):
        place = shard_folder(folder, shard)
        if not is_fetched(place, recipe):
            aside = place.with_name(f".{place.name}")
            aside.mkdir(parents=True, exist_ok=True)
            write_pairs(config, shard, aside / "pairs.parquet")
            counts = download(aside / "pairs.parquet", shard, how, aside, lambda *a, **k: None)
            shutil.rmtree(aside / WORK, ignore_errors=True)
            kept = {name: counts[name] for name in ("rows", "kept", "refused")}
            (aside / RECORD).write_text(json.dumps({"recipe": recipe, **kept}, indent=1, sort_keys=True) + "\n")
            shutil.rmtree(place, ignore_errors=True)
            os.replace(aside, place)
        progress(shard + 1, len(recipes))
    return FetchedConfig(urls=config, folder=folder)


def shard_folder(folder: Path, shard: int) -> Path:
    """Where a shard of a list was fetched to."""
    return folder / f"{shard:06d}"


def is_fetched(place: Path, recipe: dict[str, Any]) -> bool:
    """Whether a folder holds what was fetched of these very pairs."""
    record = place / RECORD
    return record.is_file() and bool(json.loads(record.read_text())["recipe"] == recipe)


def fetched_recipes(config: FetchedConfig) -> list[dict[str, Any]]:
    """What decides each part: the pairs, and the pictures that came."""
    recipes = pair_recipes(config.urls)
    tars = [shard_folder(config.folder, shard) / "shard.tar" for shard in range(len(recipes))]
    return [recipe | {"tar": known_digest(tar)} for recipe, tar in zip(recipes, tars, strict=True)]


class FetchedListing(Listing):
    """Rows of a URL list: (fate, members of the shard by extension)."""

    def find(self, i: int) -> Found:
        """The picture that came, or why none did."""
        row, files = self.entries[i]
        picture = image_member(files)
        data: bytes | str = row.status
        if picture is not None:
            data = read_members(self.path, {"picture": picture})["picture"]
        return Found(source_id=row.url or "", caption=row.caption, data=data, identity=row.sample_id)


def fetched_listing(folder: Path, shard: int) -> FetchedListing:
    """Every row of a shard of the list, in its order. Raises: ValueError when the shard is broken."""
    place = shard_folder(folder, shard)
    files = dict(tar_groups(place / "shard.tar"))
    entries = [(row, files.get(row.key or "", {})) for row in read_rows(place / "rows.parquet")]
    keys = [sample_key(shard, number) for number in range(len(entries))]
    return FetchedListing(path=place / "shard.tar", keys=keys, entries=entries)
