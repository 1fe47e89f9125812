"""The pictures behind the rows of a table, read again where they lie: a folder, tars, or a pipeline's shards."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from unclip.data.digests import known_digest
from unclip.data.dump import part_paths, rows_path
from unclip.data.dump_records import read_record
from unclip.data.fetched import PICTURES, shard_folder
from unclip.data.images import canonical
from unclip.data.shards import Member, ShardReader, image_member, tar_groups
from unclip.data.source_plan import inside
from unclip.data.sources import FOREIGN_EXTENSIONS, read_member

ReadPicture = Callable[[int, str], bytes]  # number of the part, key of the row: encoded bytes; ValueError: why not
OPEN_TARS = 4  # whose members are kept in memory
ROW_DIGITS = 5  # of a key: the row's place in its shard


class DumpPictures:
    """The pictures of a dump's source, as they were embedded; `source` is where it lies now, if it was moved.

    movable: the kinds of source for which that is asked.
    """

    def __init__(self, dump: Path, source: Path | None = None, movable: Sequence[str] = ("shards", "folder")) -> None:
        """Raises: ValueError when the folder is no dump, or `source` has no effect on it."""
        self._parts, self._source = part_paths(dump), source
        if source is not None and not any(source_kind(part_record(part)) in movable for part in self._parts):
            raise ValueError(f"--source has no effect here on {dump}: it was not made from {' or '.join(movable)}")
        self._tars: dict[str, Path] = {}  # by digest, of those looked at so far
        self._unseen: dict[Path, list[Path]] = {}  # tars of a folder that were not looked at yet
        self._members = lru_cache(OPEN_TARS)(tar_pictures)

    def __call__(self, part: int, key: str) -> bytes:
        """The encoded picture of a row. Raises: ValueError when it is no longer there or no longer that picture."""
        path = self._parts[part]
        row = row_of_key(path, key)
        data, name = self._find(path, row["url"] or "", key)
        if data is None:
            raise ValueError(f"{name} is missing")
        data = canonical(data)[0]
        if row["image_sha256"] not in (None, hashlib.sha256(data).digest()):  # an imported row has no digest
            raise ValueError(f"{name} is no longer the picture that was embedded")
        return data

    def tar_of(self, part: Path) -> Path | None:
        """The tar that a part was made from; None when it was made from files. Raises: ValueError when it is gone."""
        record = part_record(part)
        if source_kind(record) != "shards":
            return None
        return self._tar(self._source or folder_of(record), record["recipe"]["tar"])

    def _find(self, part: Path, url: str, key: str) -> tuple[bytes | None, str]:
        """The bytes of a row's picture as they are now, None if there are none, and what they are."""
        record = part_record(part)
        kind = source_kind(record)
        if kind == "shards":
            tar = self._tar(self._source or folder_of(record), record["recipe"]["tar"])
            members, place = self._members(tar), int(key[-ROW_DIGITS:])
            return member_bytes(tar, members[place] if place < len(members) else None), f"the picture of {key} in {tar}"
        if kind == "urls":
            tar = shard_folder(part.parent.parent / PICTURES, int(part.stem)) / "shard.tar"
            files = dict(tar_groups(tar)).get(key, {}) if tar.is_file() else {}
            return member_bytes(tar, image_member(files)), f"the picture of {key} in {tar}"
        path = Path(url) if kind == "imported" else inside(self._source or folder_of(record), url)
        return path.read_bytes() if path is not None and path.is_file() else None, str(path or url)

    def _tar(self, folder: Path, digest: str) -> Path:
        """The tar under a folder that has this digest; each is read once at most, and remembered between commands."""
        unseen = self._unseen.setdefault(folder, sorted(folder.rglob("*.tar"), reverse=True))
        while digest not in self._tars and unseen:
            path = unseen.pop()
            self._tars[known_digest(path)] = path
        if digest not in self._tars:
            raise ValueError(f"no tar under {folder} has the digest {digest[:12]}: it was changed or moved")
        return self._tars[digest]


def member_bytes(tar: Path, member: Member | None) -> bytes | None:
    """The bytes of a member of a tar, if there is one."""
    if member is None:
        return None
    with tar.open("rb") as file:
        return read_member(file, member)


class ShardPictures:
    """The pictures of a pipeline's shards, in the order of the table's parts."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._readers = lru_cache(OPEN_TARS)(lambda number: ShardReader(shards[number]))

    def __call__(self, part: int, key: str) -> bytes:
        """The encoded picture of a row. Raises: ValueError when the shard is broken or has no such sample."""
        reader = self._readers(part)
        if key not in reader.keys:
            raise ValueError(f"{reader.path} has no sample {key}")
        return reader.image_bytes(reader.keys.index(key))


def part_record(part: Path) -> dict[str, Any]:
    """What stands in the record beside a part. Raises: ValueError when it is damaged."""
    return read_record(part.with_suffix(".json"), "recipe")


def source_kind(record: dict[str, Any]) -> str:
    """What a part was made from, out of its record: "shards", "folder", "urls", "imported"."""
    return str(record["recipe"]["source"])


def folder_of(record: dict[str, Any]) -> Path:
    """The folder of a part's source, out of the record beside the part: `pictures of /data`."""
    return Path(record["origin"].partition(" of ")[2])


def row_of_key(part: Path, key: str) -> dict[str, Any]:
    """url and image_sha256 of a row of a part's source. Raises: ValueError when it has no such key."""
    path = rows_path(part)
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    found = pq.read_table(path, columns=["url", "image_sha256"], filters=[("key", "=", key)]).to_pylist()
    if len(found) != 1:
        raise ValueError(f"{path} has {len(found)} rows with key {key}, not one")
    return dict(found[0])


def tar_pictures(tar: Path) -> list[Member | None]:
    """The picture of each sample of a tar in the order of their keys; None where a sample has none.

    Raises: ValueError when the tar is broken.
    """
    return [next((files[kind] for kind in FOREIGN_EXTENSIONS if kind in files), None) for _, files in tar_groups(tar)]
