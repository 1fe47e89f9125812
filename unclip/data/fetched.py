"""A URL list fetched into a dump: `pictures/NNNNNN/` holds a shard, and the fate of every row of the list."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.digests import known_digest
from unclip.data.download import download
from unclip.data.dump_records import record_or_none, write_record
from unclip.data.listings import Listing, read_members
from unclip.data.opt_outs import blocking
from unclip.data.rows import read_rows
from unclip.data.shards import image_member, sample_key, tar_groups
from unclip.data.sources import Found
from unclip.data.urls import pair_recipes, write_pairs
from unclip.recipe import digest_of, recipe_config
from unclip.store import WORK

PICTURES = "pictures"  # the folder of a dump that holds them
RECORD = "fetched.json"
ASKED = "asked.json"  # of a shard that is being fetched


@dataclass(frozen=True, kw_only=True)
class FetchedConfig:
    """A URL list, and the folder where its pictures were fetched to, a folder a shard."""

    urls: UrlsConfig
    folder: Path


def fetch_list(config: UrlsConfig, how: DownloadConfig, folder: Path, progress: Callable[..., None]) -> FetchedConfig:
    """Fetch what is not there of a URL list, shard by shard; a killed run goes on from what it fetched.

    A shard that was fetched with other settings is fetched again, and takes the old one's place when it is whole.

    Raises: ValueError for a bad list, a folder with another list's pictures, or when too few rows of a shard come.
    """
    refuse_other_list(config, folder)
    recipes, how = pair_recipes(config), blocking(how, config)
    for shard, pairs in enumerate(recipes):
        recipe = pairs | {"download": digest_of(recipe_config(how))}
        place = shard_folder(folder, shard)
        if not is_fetched(place, recipe):
            aside = place.with_name(f".{place.name}")
            if not is_fetched(aside, recipe, ASKED):  # left by a run that asked for others, or otherwise
                shutil.rmtree(aside, ignore_errors=True)
            write_record(aside / ASKED, {"recipe": recipe})
            write_pairs(config, shard, aside / "pairs.parquet")
            counts = download(aside / "pairs.parquet", shard, how, aside, lambda *a, **k: None)
            shutil.rmtree(aside / WORK, ignore_errors=True)
            kept = {name: counts[name] for name in ("rows", "kept", "refused")}
            write_record(aside / RECORD, {"recipe": recipe, "list": str(Path(config.path).resolve()), **kept})
            (aside / ASKED).unlink()
            shutil.rmtree(place, ignore_errors=True)
            os.replace(aside, place)
        progress(shard + 1, len(recipes))
    return FetchedConfig(urls=config, folder=folder)


def refuse_other_list(config: UrlsConfig, folder: Path) -> None:
    """Raises: ValueError when a folder holds another list's pictures, of which no part may have been made yet."""
    given = str(Path(config.path).resolve())
    for path in sorted(folder.glob(f"*/{RECORD}")):
        said = record_or_none(path, "list")
        if said is not None and said["list"] != given:
            raise ValueError(f"{folder} holds pictures of {said['list']}, not of {given}: give another --out")


def shard_folder(folder: Path, shard: int) -> Path:
    """Where a shard of a list was fetched to."""
    return folder / f"{shard:06d}"


def is_fetched(place: Path, recipe: dict[str, Any], name: str = RECORD) -> bool:
    """Whether a folder holds what was fetched of these very pairs with these settings."""
    said = record_or_none(place / name, "recipe")
    return said is not None and bool(said["recipe"] == recipe)


def fetched_recipes(config: FetchedConfig) -> list[dict[str, Any]]:
    """What decides each part: the pairs, the pictures that came, and why others did not."""
    found = []
    for shard, recipe in enumerate(pair_recipes(config.urls)):
        place = shard_folder(config.folder, shard)
        fates = {"tar": known_digest(place / "shard.tar"), "fates": known_digest(place / "rows.parquet")}
        found.append(recipe | fates)
    return found


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
