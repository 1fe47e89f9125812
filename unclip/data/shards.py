"""WebDataset shards: written to the same bytes for the same samples, read at random without unpickling anything."""

import io
import json
import os
import re
import struct
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unclip.data.images import Pixels, crop_square, open_rgb
from unclip.data.rows import Row, image_digest

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
MAX_ROWS = 99_999  # five digits of a key
BLOCK = 512  # bytes of a tar block
PLAIN_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")  # name, size, checksum, kind, magic, prefix
OCTAL = re.compile(rb"[0-7]+")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One captioned picture as it stands in a shard."""

    key: str  # sample_key(shard, row)
    image: bytes  # encoded
    extension: str  # of IMAGE_EXTENSIONS
    caption: str
    sample_id: bytes  # 16 bytes; rows.sample_id
    meta: Mapping[str, Any] = field(default_factory=dict)  # "split", "group", "objects", ...


@dataclass(frozen=True)
class Member:
    """Where the bytes of one file lie in a tar."""

    name: str
    offset: int
    size: int


def sample_key(shard: int, row: int) -> str:
    """The key of row `row` (its place in the source, refused rows counted) of shard `shard`."""
    assert 0 <= row <= MAX_ROWS and 0 <= shard < 1_000_000
    return f"{shard:06d}{row:05d}"


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples, sorted by key, as an uncompressed tar; the number written. Equal samples give equal bytes."""
    return write_in_order(path, sorted(samples, key=lambda sample: sample.key))


def write_in_order(path: Path, samples: Iterable[Sample]) -> int:
    """The same for samples that come sorted by key, one in memory at a time. Raises: ValueError when they don't."""
    number, last = 0, ""  # samples written, and the key of the last
    with path.open("wb") as tar:
        for sample in samples:
            if sample.key <= last:
                equal = "two samples have the same key" if sample.key == last else "samples must come sorted by key"
                raise ValueError(f"{path}: {equal}")
            number, last = number + 1, sample.key
            for name, data in sorted(sample_files(sample).items()):
                tar.write(tar_header(name, len(data)) + data + bytes(-len(data) % BLOCK))
        tar.write(bytes(2 * BLOCK))
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
    return number


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a file without owner or time; tarfile takes ten times as long."""
    start = struct.pack("100s8s8s8s12s12s", name.encode(), b"0000644", b"0" * 7, b"0" * 7, b"%011o" % size, b"0" * 11)
    rest = struct.pack("c100s8s247x", tarfile.REGTYPE, b"", b"ustar\x0000")
    checksum = sum(start) + 8 * ord(" ") + sum(rest)
    return start + b"%06o\0 " % checksum + rest


def sample_files(sample: Sample) -> dict[str, bytes]:
    """The members of one sample: picture, caption and JSON."""
    if sample.extension not in IMAGE_EXTENSIONS:
        raise ValueError(f"extension must be one of {', '.join(IMAGE_EXTENSIONS)}, got {sample.extension!r}")
    meta = {"sample_id": sample.sample_id.hex(), **sample.meta}
    return {
        f"{sample.key}.{sample.extension}": sample.image,
        f"{sample.key}.txt": sample.caption.encode(),
        f"{sample.key}.json": json.dumps(meta, sort_keys=True, ensure_ascii=False).encode(),
    }


def index_tar(path: Path) -> list[Member]:
    """Every file in a tar, with its place.

    Raises: ValueError when the file is no tar, is damaged inside or cut short.
    """
    members = plain_members(path)
    if members is not None:
        return members
    try:
        with tarfile.open(path, "r:") as tar:
            infos = tar.getmembers()
    except (tarfile.TarError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole tar: {error}") from error
    if sparse := next((info.name for info in infos if info.issparse()), None):
        raise ValueError(f"{path} holds {sparse!r} with its zeros left out: write it without --sparse")
    last = infos[-1] if infos else None
    end = last.offset_data + (-(-last.size // BLOCK) * BLOCK if last.isfile() else 0) if last else 0
    with path.open("rb") as file:
        file.seek(end)
        marker = file.read(2 * BLOCK)
    if marker != bytes(2 * BLOCK):  # tarfile stops silently at a damaged header
        raise ValueError(f"{path} is not a whole tar: damaged or cut short at byte {end}")
    return [Member(info.name, info.offset_data, info.size) for info in infos if info.isfile()]


def plain_members(path: Path) -> list[Member] | None:
    """The files of a whole tar of nothing but USTAR files, three times as fast as tarfile; None for any other."""
    members, offset = [], 0
    with path.open("rb") as file:
        while member := plain_member(os.pread(file.fileno(), BLOCK, offset), offset):
            members.append(member)
            offset = member.offset + -(-member.size // BLOCK) * BLOCK
        is_whole = os.pread(file.fileno(), 2 * BLOCK, offset) == bytes(2 * BLOCK)
    return members if is_whole else None


def plain_member(header: bytes, offset: int) -> Member | None:
    """The file whose USTAR header stands at `offset`; None where it is cut short, damaged, prefixed or no file's."""
    if len(header) < BLOCK:
        return None
    name, size, checksum, kind, magic, prefix = PLAIN_HEADER.unpack(header)
    digits = size[:11] + checksum[:6]
    if magic != b"ustar\0" or kind != tarfile.REGTYPE or prefix[0] or not OCTAL.fullmatch(digits) or not name.isascii():
        return None
    if int(checksum[:6], 8) != sum(header) - sum(checksum) + 8 * ord(" "):
        return None
    return Member(name.rstrip(b"\0").decode(), offset + BLOCK, int(size[:11], 8))


def tar_groups(path: Path) -> list[tuple[str, dict[str, Member]]]:
    """The samples of a tar: key and members by extension, sorted by key, which ends at the first dot of a file's name.

    Raises: ValueError as `index_tar`, and when two files have one key and extension: one of them would be lost.
    """
    groups: dict[str, dict[str, Member]] = {}
    for member in index_tar(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        files = groups.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if extension.lower() in files:
            raise ValueError(f"{path} holds {member.name!r} twice: keys must differ from each other")
        files[extension.lower()] = member
    return sorted(groups.items())


def image_member(files: Mapping[str, Member]) -> Member | None:
    """The picture among a sample's files, or None."""
    return next((files[extension] for extension in IMAGE_EXTENSIONS if extension in files), None)


class ShardReader:
    """Random access to a shard's samples, sorted by key. Threads may share it; it may be sent to processes."""

    def __init__(self, path: Path) -> None:
        """Raises: ValueError when the tar is broken or a sample lacks its picture, caption or JSON."""
        self.path = Path(path)
        self._groups = tar_groups(self.path)
        self.keys = [key for key, _ in self._groups]
        for key, files in self._groups:
            if image_member(files) is None or "txt" not in files or "json" not in files:
                raise ValueError(
                    f"{self.path}: sample {key} must have a picture, a .txt and a .json, has {sorted(files)}"
                )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def groups(self) -> list[tuple[str, dict[str, Member]]]:
        """Each sample's key and files by extension, sorted by key."""
        return self._groups

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    @cached_property
    def _file(self) -> io.FileIO:
        return io.FileIO(self.path)

    def _bytes(self, member: Member) -> bytes:
        return os.pread(self._file.fileno(), member.size, member.offset)

    def image_bytes(self, i: int) -> bytes:
        """The encoded picture of sample `i`."""
        member = image_member(self._groups[i][1])
        assert member is not None
        return self._bytes(member)

    def extension(self, i: int) -> str:
        """The kind of picture of sample `i`: one of IMAGE_EXTENSIONS."""
        return next(extension for extension in IMAGE_EXTENSIONS if extension in self._groups[i][1])

    def caption(self, i: int) -> str:
        """The caption of sample `i`."""
        return self._bytes(self._groups[i][1]["txt"]).decode()

    def meta(self, i: int) -> dict[str, Any]:
        """The JSON of sample `i`, as an object."""
        meta: dict[str, Any] = json.loads(self._bytes(self._groups[i][1]["json"]))
        return meta

    def image(self, i: int) -> Image.Image:
        """Picture `i` as RGB. Raises: as `open_rgb`."""
        return open_rgb(self.image_bytes(i))

    def decode(self, i: int, px: int | None = None) -> Pixels:
        """Picture `i` as uint8 (H, W, 3): as it is, or its centre square at `px`."""
        image = self.image(i)
        return np.asarray(image if px is None else crop_square(image, px))

    def sample(self, i: int) -> Sample:
        """Sample `i` as it was written."""
        meta = self.meta(i)
        identity = bytes.fromhex(meta.pop("sample_id"))
        image, extension = self.image_bytes(i), self.extension(i)
        return Sample(
            key=self.keys[i], image=image, extension=extension, caption=self.caption(i), sample_id=identity, meta=meta
        )


def row_of(sample: Sample, width: int, height: int, url: str | None = None) -> Row:
    """The row of `rows.parquet` that records a sample written to the shard."""
    return Row(
        key=sample.key,
        sample_id=sample.sample_id,
        url=url,
        caption=sample.caption,
        image_sha256=image_digest(sample.image),
        width=width,
        height=height,
    )
