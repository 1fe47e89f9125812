"""A real HTTP server on loopback with good and bad pictures, for the tests of the download."""

import io
import struct
import threading
import time
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
from PIL import Image, ImageCms

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


def bomb_png(side: int = 13_000) -> bytes:
    """A header that promises more pixels than anybody wants."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000)))]
    chunks.append((b"IEND", b""))
    bodies = (name + data for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies
    )


def swapped_profile() -> bytes:
    """A colour profile whose red is sRGB's blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def noise_jpeg(size=(64, 64)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG")


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


class Handler(BaseHTTPRequestHandler):
    """Serves PICTURES and a few ways to fail; counts what was asked for."""

    asked: ClassVar[Counter] = Counter()

    def do_GET(self) -> None:
        path, first = self.path, self.asked[self.path] == 0
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
        else:
            self.answer(200 if path in PICTURES else 404, PICTURES.get(path, b""))

    def answer(self, code: int, body: bytes, length: int | None = None, **headers: str) -> None:
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

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


def serve() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
