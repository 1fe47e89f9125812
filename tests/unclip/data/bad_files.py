"""Pictures, captions and tars as nobody should write them, made here; and what became of each row of a dump."""

import io
import struct
import tarfile

import numpy as np
import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unclip.data.dump_fixtures import embedded, verified
from tests.unclip.data.web_server import bomb_png, encoded, noise_jpeg, solid
from unclip.data.config import ShardsConfig
from unclip.data.dump import part_paths, rejects_path, rows_path


def lying_jpeg(width, height, size=(64, 64)):
    """A JPEG whose frame header says other sides than its data have."""
    data = bytearray(noise_jpeg(size))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def endless_png():
    """A PNG whose data inflate to far more than its header says."""
    import zlib

    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(20_000_000)))]
    parts = (
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def good_picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def as_palette():
    return encoded(solid().convert("P"), "PNG")


PICTURES = {
    "good": good_picture(0),
    "jpeg": noise_jpeg(),
    "gif": encoded(solid(), "GIF"),
    "one pixel": encoded(solid(size=(1, 1)), "PNG"),
    "a line": encoded(solid(size=(4000, 1)), "PNG"),
    "a thread": encoded(solid(size=(65_500, 1)), "JPEG"),
    "an upright thread": encoded(solid(size=(1, 65_500)), "JPEG"),
    "palette": as_palette(),
    "sixteen bits": encoded(Image.fromarray(np.full((30, 40), 32_896, dtype=np.uint16)), "PNG"),
    "floats": encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"),
    "empty": b"",
    "html": b"<html>",
    "cut": noise_jpeg()[:-900],
    "header alone": noise_jpeg()[:20],
    "bomb": bomb_png(),
    "endless": endless_png(),
    "too wide": lying_jpeg(65_500, 64),
    "too high": lying_jpeg(64, 40_000),
    "smaller": lying_jpeg(16, 16),
    "no width": lying_jpeg(0, 64),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zip": b"PK\x03\x04" + bytes(60),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
}
UNKNOWN = "not a readable image: of no known format"
PICTURE_FATES = {  # the size of each that decodes, and of every other why not
    "good": (32, 24),
    "jpeg": (64, 64),
    "gif": (40, 30),
    "one pixel": (1, 1),
    "a line": (4000, 1),
    "a thread": (65_500, 1),
    "an upright thread": (1, 65_500),
    "palette": (40, 30),
    "sixteen bits": (40, 30),
    "floats": (8, 8),
    "empty": UNKNOWN,
    "html": UNKNOWN,
    "cut": "image file is truncated",
    "header alone": UNKNOWN,
    "bomb": "image has 13000x13000 pixels, more than 64000000",
    "endless": (4, 4),
    "too wide": "truncated: its header promises 64 rows",
    "too high": "truncated: its header promises 40000 rows",
    "smaller": (16, 16),
    "no width": UNKNOWN,
    "svg": UNKNOWN,
    "zip": UNKNOWN,
    "eps": UNKNOWN,
}
CAPTIONS = {
    "empty": "",
    "blank": " \t\n ",
    "zero width": "\u200b\u200d",
    "nul": "a\x00b",
    "right to left": "\u202eالعربية \u05e2\u05d1\u05e8\u05d9\u05ea",
    "emoji": "👩‍👩‍👧‍👦" * 40,
    "combining": "Z" + "\u0301" * 500,
    "noncharacter": "\uffff\ufdd0\U0010ffff",
    "lines": "a\r\nb\x0bc\u2028d",
    "long": "word " * 200_000,  # a megabyte
    "quotes": "\"a\",'b';--\\",
}
RAW_CAPTIONS = {
    "latin-1": b"caf\xe9",
    "cut": "é".encode()[:1],
    "utf-16": "a b".encode("utf-16"),
    "surrogate": b"\xed\xa0\x80",
}
NOTHING = "nothing to embed"
GOOD = [("z.png", good_picture(1)), ("z.txt", b"word")]
pictures = st.sampled_from(sorted(PICTURES)).map(PICTURES.__getitem__) | st.binary(max_size=40)
captions = st.sampled_from(sorted(CAPTIONS)).map(CAPTIONS.__getitem__) | st.text(max_size=12)
slow = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def tar_of(path, members):
    """A tar of (name, bytes), in that order and as often as they come."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def fates(dump):
    """status or reject reason of every row of the source, and None of those embedded, in order."""
    found = []
    for part in part_paths(dump):
        rejected = dict(
            zip(*pq.read_table(rejects_path(part), columns=["key", "reason"]).to_pydict().values(), strict=True)
        )
        rows = pq.read_table(rows_path(part)).to_pylist()
        keys = set(pq.read_table(part, columns=["key"])["key"].to_pylist())
        for row in rows:
            assert (row["key"] in keys) + (row["key"] in rejected) + (row["status"] != "ok") == 1, row
            found.append(None if row["key"] in keys else rejected.get(row["key"], row["status"]))
    return found


def tar_fates(tmp_path, members):
    """The fates of the samples of a tar, to which a good last one is added."""
    tar_of(tmp_path / "a.tar", [*members, *GOOD])
    dump = embedded(ShardsConfig(pattern=str(tmp_path / "*.tar")), tmp_path / "dump")
    found = fates(dump)
    assert verified(dump) == [] and found[-1] is None
    return found[:-1]
