"""The rows of one shard of a source, found one at a time: what is decoded by threads and processes.

A listing is small enough to be sent to another process, and `rows` makes a smaller one of it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from unclip.data.shards import Member, ShardReader, image_member, sample_key
from unclip.data.source_plan import FolderRow
from unclip.data.sources import Found, folder_sample, foreign_groups, foreign_sample, read_member


@dataclass(frozen=True, kw_only=True)
class Listing(ABC):
    """Where the rows of a shard are, in order of their keys."""

    path: Path  # tar or folder
    keys: Sequence[str]
    entries: Sequence[Any]  # one a row, of a kind that `find` knows

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, chosen: Sequence[int]) -> Self:
        """Some rows of it."""
        return replace(self, keys=[self.keys[i] for i in chosen], entries=[self.entries[i] for i in chosen])

    @abstractmethod
    def find(self, i: int) -> Found:
        """Row `i` as it lies in the source, unchecked."""


class FolderListing(Listing):
    """Rows of a captioned folder."""

    def find(self, i: int) -> Found:
        """The file and its caption."""
        return folder_sample(self.path, self.entries[i])


class TarListing(Listing):
    """Samples of anybody's tar: (name, files by extension)."""

    def find(self, i: int) -> Found:
        """The sample as its files say; `meta`: the fields of its JSON that say more than the rest of it."""
        name, files = self.entries[i]
        found = foreign_sample(f"{self.path.name}/{name}", read_members(self.path, files))
        said = {"caption": found.caption, "url": found.source_id, "source_key": found.source_id}
        meta = {field: value for field, value in (found.meta or {}).items() if (field, value) not in said.items()}
        return replace(found, meta=meta)


class ShardListing(Listing):
    """Samples of a shard under our contract: (name, files by extension)."""

    def find(self, i: int) -> Found:
        """The sample as it was written."""
        name, files = self.entries[i]
        picture = image_member(files)
        assert picture is not None
        data = read_members(self.path, {"picture": picture, "txt": files["txt"], "json": files["json"]})
        identity = bytes.fromhex(json.loads(data["json"])["sample_id"])
        return Found(source_id=name, caption=data["txt"].decode(), data=data["picture"], identity=identity)


def read_members(path: Path, files: Mapping[str, Member]) -> dict[str, bytes]:
    """The bytes of some members of a tar."""
    with path.open("rb") as file:
        return {extension: read_member(file, member) for extension, member in files.items()}


def folder_listing(folder: Path, rows: Sequence[FolderRow], shard: int) -> FolderListing:
    """The rows of one shard of a folder, in the order of its CSV."""
    return FolderListing(path=folder, keys=[sample_key(shard, row) for row in range(len(rows))], entries=rows)


def tar_listing(path: Path, shard: int) -> TarListing:
    """The samples of somebody's tar, sorted by their names.

    Raises: ValueError when the tar is broken, or has more samples than keys can number.
    """
    groups = foreign_groups(path)
    return TarListing(path=path, keys=[sample_key(shard, row) for row in range(len(groups))], entries=groups)


def shard_listing(path: Path) -> ShardListing:
    """The samples of a shard under our contract.

    Raises: ValueError when the tar is broken or a sample lacks its picture, caption or JSON.
    """
    groups = ShardReader(path).groups
    return ShardListing(path=path, keys=[key for key, _ in groups], entries=groups)
