"""A real HTTP server on loopback with good and bad pictures, for the tests of the download."""

import contextlib
import gzip
import io
import struct
import threading
import time
import zlib
from collections import Counter
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageCms

# What a request for each ends as in a download.
FATES = {
    "gone.jpg": "http_404",
    "page.html": "not_an_image",
    "cut.jpg": "truncated",
    "short.jpg": "truncated",
    "bomb.png": "too_many_pixels",
    "heavy.png": "too_large",
    "drip.jpg": "timeout",
    "optout.jpg": "robots",
    "to-file": "redirects",
}

RED, GREEN = (220, 30, 30), (30, 200, 30)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def solid(colour=RED, size=(40, 30), mode="RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def sideways_jpeg() -> bytes:
    """Stored 40x30 and turned by EXIF to 30x40, the red half on top."""
    image = solid(GREEN)
    image.paste(RED, (0, 0, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif, quality=95)


def grey16_png() -> bytes:
    return encoded(Image.fromarray(np.full((30, 40), 32_896, dtype=np.uint16)), "PNG")


def transparent_palette() -> bytes:
    """Green, but for one transparent pixel at the top left."""
    image = Image.new("P", (40, 30), 0)
    image.putpalette([*GREEN, 0, 0, 255])
    image.putpixel((0, 0), 1)
    return encoded(image, "PNG", transparency=1)


def png(*chunks: tuple[bytes, bytes], size=(40, 30)) -> bytes:
    """A PNG of these chunks after its header."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b""))
    bodies = (name + data for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies
    )


def bomb_png(side: int = 13_000) -> bytes:
    """A header that promises more pixels than anybody wants."""
    return png((b"IDAT", zlib.compress(bytes(1000))), size=(side, side))


def swapped_profile() -> bytes:
    """A colour profile whose red is sRGB's blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def noise_jpeg(size=(64, 64)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG")


@cache
def zeros(num_mb: int) -> bytes:
    """So many million zeros, deflated to a thousandth."""
    deflate = zlib.compressobj()
    return b"".join(deflate.compress(bytes(1_000_000)) for _ in range(num_mb)) + deflate.flush()


PICTURES = {
    "/plain.jpg": noise_jpeg(),
    "/plain.png": encoded(solid(), "PNG"),
    "/wide.png": encoded(solid(size=(400, 100)), "PNG"),
    "/sideways.jpg": sideways_jpeg(),
    "/grey16.png": grey16_png(),
    "/palette.png": transparent_palette(),
    "/cmyk.jpg": encoded(solid((0, 255, 255, 0), mode="CMYK"), "JPEG", quality=95),
    "/moving.gif": encoded(solid(), "GIF", save_all=True, append_images=[solid(GREEN)]),
    "/page.html": b"<html><body>no picture</body></html>",
    "/cut.jpg": noise_jpeg()[:-900],
    "/bomb.png": bomb_png(),
    "/heavy.png": noise_jpeg() + bytes(300_000),
}
BOMBS = {
    "/pixels.png": png((b"IDAT", zeros(150))),
    "/text.png": png((b"zTXt", b"a\0\0" + zeros(150)), (b"IDAT", zlib.compress(bytes(30 * 121)))),
    "/profile.png": png((b"iCCP", b"a\0\0" + zeros(150)), (b"IDAT", zlib.compress(bytes(30 * 121)))),
    "/archive.zip": b"PK\x03\x04" + zeros(150),
    "/header.png": bomb_png(),
}
GZIP_BOMB = gzip.compress(noise_jpeg() + bytes(150_000_000), compresslevel=1)


class Handler(BaseHTTPRequestHandler):
    """Serves PICTURES and a few ways to fail; counts what was asked for."""

    asked: ClassVar[Counter] = Counter()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path  # of a proxy's request, too
        first = self.asked[path] == 0
        self.asked[path] += 1
        if path == "/redirect":
            self.answer(302, b"", Location="/plain.jpg")
        elif path == "/to-file":
            self.answer(302, b"", Location="file:///etc/hostname")
        elif path == "/short.jpg":
            self.answer(200, noise_jpeg()[:500], length=9_000)
        elif path == "/busy.jpg" and first:
            self.answer(503, b"")
        elif path == "/busy.jpg":
            self.answer(200, PICTURES["/plain.jpg"])
        elif path == "/optout.jpg":
            self.answer(200, PICTURES["/plain.jpg"], **{"X-Robots-Tag": "noai"})
        elif path == "/drip.jpg":
            self.drip()
        elif hostile := getattr(self, path.removeprefix("/hostile-").replace("-", "_"), None):
            with contextlib.suppress(OSError):
                hostile()
        elif path.startswith("/status-"):
            self.answer(int(path.removeprefix("/status-")), b"")
        else:
            self.answer(200 if path in PICTURES | BOMBS else 404, (PICTURES | BOMBS).get(path, b""))

    def answer(self, code: int, body: bytes, length: int | str | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(length or len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        """One byte now and then, never so late that a time-out a read would notice."""
        self.send_response(200)
        self.end_headers()
        try:
            for byte in noise_jpeg():
                self.wfile.write(bytes([byte]))
                time.sleep(0.2)
        except OSError:
            pass

    def endless(self) -> None:
        """A body that never ends, as fast as it is taken."""
        self.send_response(200)
        self.end_headers()
        self.pour()

    def endless_chunks(self) -> None:
        """The same in chunks, the first of which says that it is a terabyte."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n")
        self.pour()

    def endless_redirect(self) -> None:
        """A redirect to a picture, with a body that never ends."""
        self.send_response(302)
        self.send_header("Location", "/plain.jpg")
        self.end_headers()
        self.pour()

    def endless_continue(self) -> None:
        """`100 Continue` for ever."""
        while True:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 500)

    def endless_header(self) -> None:
        """One header line that never ends."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.pour()

    def slow_headers(self) -> None:
        """A header line now and then."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(90):
            self.wfile.write(f"X-{number}: y\r\n".encode())
            time.sleep(0.2)

    def slow_redirect(self) -> None:
        """Time is nearly up when it redirects to a body that drips."""
        time.sleep(1.5)
        self.answer(302, b"", Location="/drip.jpg")

    def slow_circle(self) -> None:
        """A redirect to itself under another name, each after a while."""
        time.sleep(0.4)
        self.answer(302, b"", Location=f"/hostile-slow-circle?{time.monotonic()}")

    def late_404(self) -> None:
        """Not there, said after a while."""
        time.sleep(0.15)
        self.answer(404, b"")

    def loop(self) -> None:
        """A redirect to itself."""
        self.answer(302, b"", Location="/hostile-loop")

    def to_private(self) -> None:
        """A redirect to the address where clouds keep their secrets."""
        self.answer(302, b"", Location="http://169.254.169.254/latest/")

    def to_host(self) -> None:
        """A redirect to a picture of this server by the name that the query gives it."""
        host = urlsplit(self.path).query
        self.answer(302, b"", Location=f"http://{host}:{self.server.server_port}/plain.jpg")

    def lying_more(self) -> None:
        """Announces a terabyte."""
        self.answer(200, noise_jpeg(), length=10**12)

    def lying_less(self) -> None:
        """Announces half of the picture."""
        self.answer(200, noise_jpeg(), length=len(noise_jpeg()) // 2)

    def lying_words(self) -> None:
        """A length that is no number."""
        self.answer(200, noise_jpeg(), length="many")

    def gzip_bomb(self) -> None:
        """A picture that a reader of Content-Encoding would swell to 150 MB."""
        self.answer(200, GZIP_BOMB, **{"Content-Encoding": "gzip"})

    def garbage(self) -> None:
        """No HTTP at all."""
        self.wfile.write(b"private address: believe me\r\n\r\n")

    def named_opt_out(self) -> None:
        """Nobody called `ourbot` may use it."""
        self.answer(200, PICTURES["/plain.jpg"], **{"X-Robots-Tag": "OurBot: noai, noindex"})

    def pour(self) -> None:
        """Bytes until nobody takes them."""
        while True:
            self.wfile.write(bytes(65_536))

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


def serve() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextlib.contextmanager
def serving():
    """The address of a server that runs as long as the block."""
    server = serve()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
