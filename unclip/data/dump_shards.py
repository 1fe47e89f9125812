"""The shards of a dump's source, listed once: what decides each, how it is read, and that it is still the same then."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unclip.data.config import FolderConfig
from unclip.data.digests import known_digest
from unclip.data.dump_origin import DumpSource
from unclip.data.fetched import FetchedConfig, fetched_listing, fetched_recipes, shard_folder
from unclip.data.listings import Listing, folder_listing, tar_listing
from unclip.data.rows import Row
from unclip.data.source_plan import FolderRow, folder_chunks, folder_recipe, rows_digest, tar_paths, tar_recipe
from unclip.data.sources import file_in

AWAY = ("missing_file", "unreadable_file")


@dataclass(frozen=True)
class SourceShard:
    """One shard; it may be sent to another process."""

    recipe: dict[str, Any]  # what decides its rows
    read: str  # the recipe's name for the digest of what is read
    digest: Callable[[], str]  # the same of what is there now
    open_listing: Callable[[], Listing]
    folder: Path | None = None  # of its rows, where each is a file

    def is_what_was_read(self, rows: Iterable[Row]) -> bool:
        """Whether the rows came of what the recipe says: nothing changed, and no file was away just then.

        A file that could not be read is there again only if it was away: of one that comes later the digest differs.
        """
        if self.digest() != self.recipe[self.read]:
            return False
        folder = self.folder
        files = [row.url or "" for row in rows if row.status in AWAY]
        return folder is None or not any(isinstance(file_in(folder, file), bytes) for file in files)


def dump_shards(source: DumpSource) -> list[SourceShard]:
    """The shards of a source, of a URL list those that were fetched. Raises: ValueError for a bad source."""
    if isinstance(source, FolderConfig):
        return [folder_shard(Path(source.folder), shard, rows) for shard, rows in enumerate(folder_chunks(source))]
    if isinstance(source, FetchedConfig):
        return [fetched_shard(source.folder, recipe) for recipe in fetched_recipes(source)]
    return [tar_shard(path, shard) for shard, path in enumerate(tar_paths(source))]


def folder_shard(folder: Path, shard: int, rows: list[FolderRow]) -> SourceShard:
    """Rows of a folder's list."""
    digest, listing = partial(rows_digest, folder, rows), partial(folder_listing, folder, rows, shard)
    return SourceShard(folder_recipe(folder, shard, rows), "rows", digest, listing, folder)


def fetched_shard(folder: Path, recipe: dict[str, Any]) -> SourceShard:
    """What was fetched of a URL list's shard."""
    digest = partial(known_digest, shard_folder(folder, recipe["shard"]) / "shard.tar")
    return SourceShard(recipe, "tar", digest, partial(fetched_listing, folder, recipe["shard"]))


def tar_shard(path: Path, shard: int) -> SourceShard:
    """Somebody's tar."""
    return SourceShard(tar_recipe(path, shard), "tar", partial(known_digest, path), partial(tar_listing, path, shard))
