"""A list of image URLs and captions, frozen: normalised, identified, and every row refused that cannot be fetched.

The list is read once from end to end (`survey`): what is remembered of it is where each shard begins, which of its rows
repeat an earlier one, and its digest. A shard is then read again alone.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.config import UrlsConfig
from unclip.data.digests import remembered
from unclip.data.identities import Identities, bits_between
from unclip.data.more_columns import more_json
from unclip.data.opt_outs import OptOuts, opt_outs, opt_outs_digest
from unclip.data.rows import MORE, sample_id
from unclip.data.source_plan import ALL
from unclip.data.url_records import Place, Record, read_records
from unclip.data.web_address import normalise_url
from unclip.recipe import code_digest, digest_of

DUPLICATE = "duplicate"
MAX_CAPTION_CHARS = 1 << 17  # rather the rest of a list than a caption
REFUSALS = ("malformed", DUPLICATE, "blocked_domain", "blocked_url")  # before anything is fetched
PAIRS_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("sample_id", pa.binary(16), nullable=False),
        pa.field("refused", pa.string()),  # one of REFUSALS; null if it is to be fetched
        pa.field("detail", pa.string(), nullable=False),
    ]
)


class Pair(NamedTuple):
    """One row of `pairs.parquet`."""

    url: str
    caption: str
    sample_id: bytes
    refused: str | None = None
    detail: str = ""
    more: str | None = None


class ShardNote(NamedTuple):
    """What is remembered of one shard of a list; `repeats`: a bit a row, in base64, "" where no row repeats another."""

    at: int
    line: int
    rows: int
    digest: str
    repeats: str

    def is_repeat(self) -> list[bool]:
        """For each row, whether an earlier row of the list is the same pair."""
        if not self.repeats:
            return [False] * self.rows
        bits = np.frombuffer(base64.b64decode(self.repeats), np.uint8)
        return bits_between(bits, 0, self.rows).tolist()


def survey(config: UrlsConfig) -> tuple[ShardNote, ...]:
    """A note on every `shard_size` rows of the list (the last may be fewer).

    The whole list is streamed, once as long as neither it nor the opt-out lists change, whatever process asks.

    Raises: ValueError when the list is absent, malformed or empty, or lacks a column.
    """
    path = Path(config.path)
    next(_records(config), None)  # whatever is wrong with the file itself
    stat = path.stat()
    return _survey(config, opt_outs_digest(config), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _survey(config: UrlsConfig, blocked: tuple[str | None, str | None], *_: int) -> tuple[ShardNote, ...]:
    settings = asdict(config) | {"path": "", "blocked_domains": blocked[0], "blocked_urls": blocked[1]}
    kind = f"pairs {digest_of([settings, code_digest((__name__,))])}"
    notes = remembered(Path(config.path), kind, lambda _: json.dumps(list(_notes(config))))
    found = tuple(ShardNote(*note) for note in json.loads(notes))
    if not found:
        raise ValueError(f"{config.path} has no rows: a URL list needs one at least")
    return found


def _notes(config: UrlsConfig) -> Iterator[ShardNote]:
    """The notes of the list as it is now."""
    shards, blocked, num_rows = [], opt_outs(config), 0
    with Identities() as identities:
        for records in _chunks(_records(config), config.shard_size):
            digest = _empty_digest(config)
            for row, record in enumerate(records, start=num_rows):
                pair = freeze_pair(record, config.more_columns, blocked)
                digest.update(_line(pair))
                if pair.refused is None:
                    identities.add(pair.sample_id, row)
            shards.append((records[0].place, len(records), digest.hexdigest()))
            num_rows += len(records)
        bits = identities.repeats()
    first = 0
    for place, rows, content in shards:
        repeats = np.packbits(bits_between(bits, first, rows))
        text = base64.b64encode(repeats.tobytes()).decode() if repeats.any() else ""
        yield ShardNote(place.at, place.line, rows, _with_repeats(content, text), text)
        first += rows


def read_shard(config: UrlsConfig, shard: int) -> pa.Table:
    """Shard `shard` of the list as a table of PAIRS_SCHEMA, every row of it in its place; nothing before it is read.

    Raises: ValueError when it is no longer what the survey saw.
    """
    note = survey(config)[shard]
    blocked, digest, pairs = opt_outs(config), _empty_digest(config), []
    records = islice(_records(config, Place(note.at, note.line)), note.rows)
    for record, is_repeat in zip(records, note.is_repeat(), strict=False):
        pair = freeze_pair(record, config.more_columns, blocked)
        digest.update(_line(pair))
        pairs.append(_repeated(pair) if is_repeat else pair)
    if _with_repeats(digest.hexdigest(), note.repeats) != note.digest:
        raise ValueError(f"source: shard {shard} changed while it was being read: run again")
    return pairs_table(pairs, bool(config.more_columns))


def pairs_table(pairs: Iterable[Pair], has_more: bool = False) -> pa.Table:
    """Pairs as a table of PAIRS_SCHEMA, and MORE, null of malformed rows, where the list has further columns."""
    schema = PAIRS_SCHEMA.append(MORE) if has_more else PAIRS_SCHEMA
    columns = list(zip(*pairs, strict=True))[: len(schema)] or [()] * len(schema)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def write_pairs(config: UrlsConfig, shard: int, path: Path) -> dict[str, int]:
    """Writes shard `shard` of the list as `pairs.parquet`; counts its rows by what will become of them."""
    return write_table(read_shard(config, shard), shard, path)


def write_table(table: pa.Table, number: int, path: Path, was: dict[str, int] | None = None) -> dict[str, int]:
    """Writes pairs; counts the rows, and those refused by reason.

    The shard's number stands in the file, as it will in the keys: the same pairs in another place are another content.
    was: where the rows are asked again, why they were refused before.
    """
    about = {"shard": str(number)} | ({} if was is None else {"was": json.dumps(was)})
    pq.write_table(table.replace_schema_metadata(about), path, compression="zstd")
    refused = Counter(table.column("refused").to_pylist())
    return {"rows": table.num_rows, **{reason: refused[reason] for reason in REFUSALS}}


def shard_number(pairs: Path) -> int:
    """The number in a `pairs.parquet`: of the keys that its samples will have."""
    return int(pq.read_schema(pairs).metadata[b"shard"])


def refused_before(pairs: Path) -> dict[str, int]:
    """How many rows of a `pairs.parquet` were refused before for each reason; none, but of a retry."""
    was: dict[str, int] = json.loads(pq.read_schema(pairs).metadata.get(b"was", b"{}"))
    return was


def pair_recipes(config: UrlsConfig, wanted: slice = ALL) -> list[dict[str, Any]]:
    """For each wanted shard of the list, in order, the JSON-able values that decide its `pairs.parquet`."""
    notes = list(enumerate(survey(config)))[wanted]
    return [{"source": "urls", "shard": shard, "pairs": note.digest} for shard, note in notes]


def freeze_pair(record: Record, names: tuple[str, ...], blocked: OptOuts) -> Pair:
    """One row of the list as it will be fetched, or why not; whether it repeats another is not known here.

    names: of the further columns.
    """
    address, text = _clean(record.url), _clean(record.caption)
    more = more_json(names, record.more) if names else None
    try:
        if record.fault:
            raise ValueError(record.fault)
        address = normalise_url(address)
        if not text:
            raise ValueError("no caption")
        if len(text) > MAX_CAPTION_CHARS:
            raise ValueError(f"caption of {len(text)} characters, more than {MAX_CAPTION_CHARS}")
        if more and len(more) > MAX_CAPTION_CHARS:
            raise ValueError(f"{', '.join(names)} of {len(more)} characters, more than {MAX_CAPTION_CHARS}")
    except ValueError as error:
        return Pair(address, text, sample_id(address, text), "malformed", str(error))
    refused, detail = (blocked.reason(address) if blocked else None) or (None, "")
    return Pair(address, text, sample_id(address, text), refused, detail, more)


def _repeated(pair: Pair) -> Pair:
    return pair._replace(refused=DUPLICATE, detail="the same URL and caption stand earlier in the list")


def _clean(value: Any) -> str:
    """A cell as text that can be written as UTF-8, without the white space around it; "" of NaN, lists and objects."""
    text = "" if value is None or value != value or isinstance(value, list | dict) else str(value).strip()
    return text if text.isascii() else text.encode(errors="replace").decode()


def _line(pair: Pair) -> bytes:
    """What a shard's digest counts of a pair."""
    more = "" if pair.more is None else f"{len(pair.more)} {pair.more}\n"
    return f"{len(pair.url)} {pair.url} {len(pair.caption)} {pair.caption} {pair.refused}\n{more}".encode()


def _empty_digest(config: UrlsConfig) -> "hashlib._Hash":
    """The digest of a shard before its first pair."""
    return hashlib.sha256("".join(f"{len(name)} {name}\n" for name in config.more_columns).encode())


def _with_repeats(digest: str, repeats: str) -> str:
    """The digest of a shard's pairs, and of which of them are refused as repeats."""
    return hashlib.sha256(f"{digest} {repeats}".encode()).hexdigest()


def _records(config: UrlsConfig, place: Place | None = None) -> Iterator[Record]:
    return read_records(Path(config.path), config.url_column, config.caption_column, place, config.more_columns)


def _chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    while chunk := list(islice(records, size)):
        yield chunk
