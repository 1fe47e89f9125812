"""Folders and existing shards brought under our contract: a sorted shard, and a table of every row's fate."""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.dense import SPLITS
from unclip.data.images import canonical_image
from unclip.data.more_columns import read_more
from unclip.data.rows import Row, refusals, sample_id, write_rows
from unclip.data.shards import (
    IMAGE_EXTENSIONS,
    MAX_ROWS,
    Member,
    Sample,
    row_of,
    sample_key,
    tar_groups,
    write_shard,
)
from unclip.data.source_plan import FolderRow, folder_chunks, inside, tar_paths

FOREIGN_EXTENSIONS = (*IMAGE_EXTENSIONS, "bmp", "gif", "tif", "tiff", "ppm")


@dataclass(frozen=True, kw_only=True)
class Admission:
    """One row of a source: its record, and the sample unless it was refused."""

    row: Row
    sample: Sample | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row of a source as it was found, unchecked. data: the encoded picture, or the reason why there is none."""

    source_id: str
    caption: str
    data: bytes | str
    detail: str = ""  # why there is none, in words, where the source knows
    meta: Mapping[str, Any] | None = None
    identity: bytes | None = None  # the sample id, where the source has one already


def admit(found: Found, key: str) -> Admission:
    """The sample under `key` if there is a caption and a picture that decodes to its end, else the reason."""
    said: dict[str, Any] = {"sample_id": identity_of(found), "caption": found.caption, "url": found.source_id}
    try:
        data, extension, image = fit_picture(found)
    except Unfit as refusal:
        return Admission(row=Row(**said, status=refusal.reason, detail=str(refusal)))
    sample = Sample(
        key=key,
        image=data,
        extension=extension,
        caption=found.caption,
        sample_id=said["sample_id"],
        meta=found.meta or {},
    )
    return Admission(row=row_of(sample, image.width, image.height, found.source_id), sample=sample)


class Unfit(Exception):
    """Why a row of a source is no sample: a short reason, and more in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def identity_of(found: Found) -> bytes:
    """The sample id of a row: its own, or that of its source and caption."""
    return found.identity or sample_id(found.source_id, found.caption)


def fit_picture(found: Found) -> tuple[bytes, str, Image.Image]:
    """The encoded picture as a shard holds it, its extension, and the picture, decoded to its end.

    Raises: Unfit without caption, picture, or one that decodes.
    """
    if isinstance(found.data, str):
        raise Unfit(found.data, found.detail or found.source_id)
    if not found.caption.strip():
        raise Unfit("no_caption", found.source_id)
    try:
        return canonical_image(found.data)
    except ValueError as error:
        raise Unfit("undecodable", f"{found.source_id}: {error}") from error


def write_admissions(out: Path, admissions: Iterable[Admission]) -> dict[str, Any]:
    """Write `shard.tar` and `rows.parquet` into `out`; rows, those kept, and the refused by reason."""
    admissions = list(admissions)
    write_shard(out / "shard.tar", [a.sample for a in admissions if a.sample is not None])
    write_rows(out / "rows.parquet", [a.row for a in admissions])
    refused = refusals(a.row.status for a in admissions)
    return {"rows": len(admissions), "kept": len(admissions) - sum(refused.values()), "refused": refused}


def folder_shard(config: FolderConfig, shard: int) -> Iterator[Admission]:
    """The rows of one shard of a captioned folder, in the order of its CSV. Raises: as `folder_chunks`."""
    folder = Path(config.folder)
    for number, row in enumerate(folder_chunks(config)[shard]):
        yield admit(folder_sample(folder, row), sample_key(shard, number))


def folder_sample(folder: Path, row: FolderRow) -> Found:
    """What a row of a folder's CSV says; one whose file and caption stand in an earlier row is refused."""
    data = "duplicate" if row.repeats else file_in(folder, row.file)
    detail = other_spelling(folder, row.file) if data == "missing_file" else ""
    return Found(source_id=row.file, caption=row.caption, data=data, detail=detail, meta=read_more(row.more))


def other_spelling(folder: Path, file: str) -> str:
    """Which file is there whose name looks the same: of another form of Unicode, as macOS writes names."""
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, file)
        if spelled != file and isinstance(file_in(folder, spelled), bytes):
            return f"{file}: a file of that name is there in Unicode form {form}; the list has another form"
    return ""


def file_in(folder: Path, file: str) -> bytes | str:
    """The bytes of a file named relative to a folder, or the reason why there are none."""
    path = inside(folder, file)
    if path is None:
        return "outside_folder" if file else "no_file"
    try:
        return path.read_bytes() if path.is_file() else "missing_file"
    except OSError:  # a name that no file can have, or one that may not be read
        return "unreadable_file"


def foreign_shard(config: ShardsConfig, shard: int) -> Iterator[Admission]:
    """The samples of an existing WebDataset tar, sorted by their keys.

    Raises: as `foreign_groups`.
    """
    path = tar_paths(config)[shard]
    groups = foreign_groups(path)
    with path.open("rb") as file:
        for number, (name, files) in enumerate(groups):
            found = foreign_sample(f"{path.name}/{name}", {ext: read_member(file, m) for ext, m in files.items()})
            yield admit(found, sample_key(shard, number))


def foreign_groups(path: Path) -> list[tuple[str, dict[str, Member]]]:
    """The samples of somebody's tar by their names: the files of each by extension.

    Raises: ValueError when the tar is broken, or has more samples than keys can number.
    """
    groups = tar_groups(path)
    if len(groups) > MAX_ROWS + 1:
        raise ValueError(f"{path} has {len(groups):,} samples, allowed: {MAX_ROWS + 1:,} a tar; split it")
    return groups


def read_member(file: Any, member: Member) -> bytes:
    """The bytes of one member of an open tar."""
    file.seek(member.offset)
    data: bytes = file.read(member.size)
    return data


def foreign_sample(source_id: str, files: Mapping[str, bytes]) -> Found:
    """What the files of one sample say: caption from .txt, else from the JSON; our own metadata is kept.

    A .txt that is not UTF-8 is refused: with marks for what cannot be read it would be another caption.
    """
    meta, source_id = read_meta(files.get("json", b"{}")), writable(source_id)
    told = meta.get("caption")
    text = told if isinstance(told, str) else ""
    data: bytes | str = next((files[ext] for ext in FOREIGN_EXTENSIONS if ext in files), "no_image")
    try:
        text = files["txt"].decode() if "txt" in files else text
    except UnicodeDecodeError:
        text, data = files["txt"].decode("utf-8", "replace"), "caption_not_utf8"
    url = meta.get("url") if isinstance(meta.get("url"), str) else None
    identity = meta.pop("sample_id", None)
    if meta.get("split", SPLITS[0]) not in SPLITS:
        meta["source_split"] = meta.pop("split")
    return Found(
        source_id=url or source_id,
        caption=text.strip(),
        data=data,
        meta=meta | {"source_key": meta.get("source_key", source_id)},
        identity=bytes.fromhex(identity) if is_identity(identity) else None,
    )


def read_meta(data: bytes) -> dict[str, Any]:
    """A sample's JSON object; empty when it is none. Halves of characters, which nothing can write, become `?`."""
    try:
        meta = json.loads(data)
        if b"\\ud" in data.lower():
            meta = json.loads(writable(json.dumps(meta, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def writable(text: str) -> str:
    """The text with `?` for what has no UTF-8."""
    return text.encode(errors="replace").decode()


def is_identity(value: Any) -> bool:
    """Whether a value is 16 bytes in hexadecimal."""
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
