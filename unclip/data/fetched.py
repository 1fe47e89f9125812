"""A URL list fetched into a dump: `pictures/NNNNNN/` holds a shard, and the fate of every row of the list."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from unclip.data.asked_again import ask_again
from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.digests import known_digest
from unclip.data.download import download
from unclip.data.dump_records import are_whole, read_record, record_or_none, sizes_of, write_record
from unclip.data.listings import Listing, read_members
from unclip.data.more_columns import read_more
from unclip.data.opt_outs import blocking
from unclip.data.rows import MORE, read_rows
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


def fetch_list(
    config: UrlsConfig, how: DownloadConfig, folder: Path, progress: Callable[..., None], again: bool = False
) -> FetchedConfig:
    """Fetch what is not there of a URL list, shard by shard; a killed run goes on from what it fetched.

    A shard that was fetched with other settings is fetched again, and takes the old one's place when it is whole.
    again: of a shard that is there, with whatever settings, ask for the rows that may pass with time; the rest stays.

    Raises: ValueError for a bad list, a folder with another list's pictures, or when too few rows of a shard come.
    """
    refuse_other_list(config, folder)
    recipes, how = pair_recipes(config), blocking(how, config)
    for shard, pairs in enumerate(recipes):
        recipe = pairs | {"download": digest_of(recipe_config(how))}
        place = shard_folder(folder, shard)
        if not place.exists() and is_fetched(aside_of(place), pairs):  # killed while it was put there
            os.replace(aside_of(place), place)
        if again and is_fetched(place, pairs):
            fetch_again(place, shard, how)
        elif not is_fetched(place, recipe):
            fetch_shard(config, shard, how, recipe, place)
        else:
            clear_left(place)
            mend_pairs(config, shard, place)
        progress(shard + 1, len(recipes))
    remove_shards(folder, len(recipes))
    return FetchedConfig(urls=config, folder=folder)


def remove_shards(folder: Path, start: int) -> None:
    """Remove the shards from number `start` on, of a list that was longer: their parts go too.

    Killed anywhere in here, none of them is taken for a whole one later.
    """
    for path in [path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()]:
        number = path.name.removesuffix(".old").removeprefix(".")
        if number.isdecimal() and int(number) >= start:
            (path / RECORD).unlink(missing_ok=True)
            shutil.rmtree(path)


def fetch_shard(config: UrlsConfig, shard: int, how: DownloadConfig, recipe: dict[str, Any], place: Path) -> None:
    """Fetch a shard of a list, aside and then into its place."""
    aside = aside_of(place)
    if not is_fetched(aside, recipe, ASKED):  # left by a run that asked for others, or otherwise
        shutil.rmtree(aside, ignore_errors=True)
    write_record(aside / ASKED, {"recipe": recipe})
    write_pairs(config, shard, aside / "pairs.parquet")
    counts = download(aside / "pairs.parquet", shard, how, aside, lambda *a, **k: None)
    publish(aside, place, {"recipe": recipe, "list": str(Path(config.path).resolve())}, counts)


def fetch_again(place: Path, shard: int, how: DownloadConfig) -> None:
    """Ask again for the rows of a fetched shard that may pass; what it is known by stays."""
    counts = ask_again(place, aside_of(place), shard, how)
    if counts is None:
        clear_left(place)
    else:
        publish(aside_of(place), place, read_record(place / RECORD, "recipe", "list"), counts)


def publish(aside: Path, place: Path, said: dict[str, Any], counts: dict[str, Any]) -> None:
    """Put a whole shard into its place; killed anywhere in here, the old one or the new one is found."""
    shutil.rmtree(aside / WORK, ignore_errors=True)
    figures = {name: counts[name] for name in ("rows", "kept", "refused")}
    sizes = sizes_of((aside / "shard.tar", aside / "rows.parquet"))
    pairs_bytes = (aside / "pairs.parquet").stat().st_size
    write_record(aside / RECORD, said | figures | {"sizes": sizes, "pairs_bytes": pairs_bytes})
    (aside / ASKED).unlink(missing_ok=True)
    old = old_of(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    os.replace(aside, place)
    clear_left(place)


def mend_pairs(config: UrlsConfig, shard: int, place: Path) -> None:
    """Write a fetched shard's pairs again where they are gone or cut short: the list says them, no host is asked."""
    pairs = place / "pairs.parquet"
    size = read_record(place / RECORD).get("pairs_bytes")
    if not pairs.is_file() or size not in (None, pairs.stat().st_size):
        write_pairs(config, shard, pairs)


def clear_left(place: Path) -> None:
    """Remove what a killed run left beside a shard that is whole."""
    for left in (aside_of(place), old_of(place)):
        shutil.rmtree(left, ignore_errors=True)


def old_of(place: Path) -> Path:
    """Where the shard of before is while a new one takes its place."""
    return place.with_name(f".{place.name}.old")


def aside_of(place: Path) -> Path:
    """Where a shard is until it is whole."""
    return place.with_name(f".{place.name}")


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
    """Whether a folder holds what was fetched of these very pairs, and with these settings where the recipe says so.

    Files that are gone or were cut short since are not there.
    """
    said = record_or_none(place / name, "recipe")
    return said is not None and bool(recipe.items() <= said["recipe"].items()) and are_whole(place, said)


def fetched_recipes(config: FetchedConfig) -> list[dict[str, Any]]:
    """What decides each part: the pairs that were asked, the pictures that came, and why others did not."""
    found = []
    for record in sorted(config.folder.glob(f"[0-9]*/{RECORD}")):
        asked, place = read_record(record, "recipe")["recipe"], record.parent
        fates = {"tar": known_digest(place / "shard.tar"), "fates": known_digest(place / "rows.parquet")}
        found.append({name: asked[name] for name in ("source", "shard", "pairs")} | fates)
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
        said: dict[str, Any] = {"source_id": row.url or "", "caption": row.caption, "identity": row.sample_id}
        return Found(**said, data=data, detail=row.detail, meta=read_more(row.more))


def fetched_listing(folder: Path, shard: int) -> FetchedListing:
    """Every row of a shard of the list, in its order. Raises: ValueError when the shard is broken."""
    place = shard_folder(folder, shard)
    files, rows = dict(tar_groups(place / "shard.tar")), read_rows(place / "rows.parquet")
    entries = [
        (replace(row, more=more), files.get(row.key or "", {}))
        for row, more in zip(rows, more_of(place / "pairs.parquet", len(rows)), strict=True)
    ]
    keys = [sample_key(shard, number) for number in range(len(entries))]
    return FetchedListing(path=place / "shard.tar", keys=keys, entries=entries)


def more_of(pairs: Path, num_rows: int) -> list[str | None]:
    """What the list says of each pair in its further columns, refused ones too; nothing where it has none."""
    if MORE.name not in pq.read_schema(pairs).names:
        return [None] * num_rows
    found: list[str | None] = pq.read_table(pairs, columns=[MORE.name])[MORE.name].to_pylist()
    return found
