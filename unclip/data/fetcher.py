"""img2dataset under guard: runs in its own environment, by path (`python -I fetcher.py JSON`).

What img2dataset lacks is put under it, in every process it spawns: addresses are judged where the connection is made
(so neither a redirect nor a name that changes its address gets round it), a request ends after so many seconds in
all, a body after so many bytes, and every finished request leaves a mark, so that a stall is seen.
Standard library alone, but for img2dataset itself. Importing it here changes nothing.
"""

import contextlib
import email.message
import http.client
import io
import ipaddress
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LIMITS = "UNCLIP_FETCH_LIMITS"  # environment variable: schemes, allow_private, timeout_s, max_bytes, marks (a file)
PRIVATE = "private address"  # how the messages below begin
SCHEME = "scheme not allowed"
TOO_LARGE = "too large"
TIMEOUT = "timed out"
TRUNCATED = "truncated"


class Refused(OSError):
    """The request must not be made, or not be gone on with."""


class Response:
    """What img2dataset reads of an answer."""

    def __init__(self, headers: email.message.Message, body: bytes) -> None:
        self.headers, self._body = headers, io.BytesIO(body)
        self.read = self._body.read

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed schemes only."""

    def __init__(self, schemes: list[str]) -> None:
        self.schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        """The request that the answer asks for. Raises: Refused for a scheme that is not allowed."""
        if urlsplit(newurl).scheme not in self.schemes:
            raise Refused(f"{SCHEME}: redirected to {newurl[:80]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Fetcher:
    """`urlopen` within limits, and the two functions of `socket` that it needs to hold them."""

    def __init__(self, schemes: list[str], allow_private: bool, timeout_s: float, max_bytes: int, marks: str) -> None:
        self.allow_private, self.timeout_s, self.max_bytes, self.marks = allow_private, timeout_s, max_bytes, marks
        self.opener = urllib.request.build_opener(Redirects(schemes))
        self.proxies = {urlsplit(url).hostname for url in urllib.request.getproxies().values()}
        self.resolve, self.connect = socket.getaddrinfo, socket.create_connection
        self.request = threading.local()

    def install(self) -> None:
        """Puts the limits under everything in this process."""
        socket.getaddrinfo = self.getaddrinfo
        socket.create_connection = self.create_connection
        urllib.request.urlopen = self.urlopen  # type: ignore[assignment]

    def getaddrinfo(self, host: Any, *rest: Any, **named: Any) -> Any:
        """The addresses of a name. Raises: Refused when one is not the internet's (a proxy's may be)."""
        found = self.resolve(host, *rest, **named)
        if not self.allow_private and host not in self.proxies:
            for entry in found:
                if not is_public(str(entry[4][0])):
                    raise Refused(f"{PRIVATE}: {host} is {entry[4][0]}")
        return found

    def create_connection(self, *address: Any, **named: Any) -> socket.socket:
        """A connection that the running request's time-out can end, whatever wraps it later."""
        connection = self.connect(*address, **named)
        if hasattr(self.request, "connections"):
            self.request.connections.append(connection.dup())
        return connection

    def urlopen(self, request: Any, timeout: float | None = None) -> Response:
        """The whole answer to a request, within the limits."""
        connections: list[socket.socket] = []
        self.request.connections = connections
        timer = threading.Timer(self.timeout_s, end_connections, [connections])
        start = time.monotonic()
        timer.start()
        try:
            with self.opener.open(request, timeout=self.timeout_s) as answer:
                body = self.read_body(answer)
            if time.monotonic() - start >= self.timeout_s:  # ended by the timer: the body may be cut short
                raise TimeoutError
            return Response(answer.headers, body)
        except Exception as error:  # servers break urllib in every way: each becomes a reason of the row
            if time.monotonic() - start >= self.timeout_s:
                raise TimeoutError(f"{TIMEOUT} after {self.timeout_s:g} s") from error
            raise reason_of(error) from error
        finally:
            timer.cancel()
            for connection in connections:
                connection.close()
            mark(self.marks)

    def read_body(self, answer: Any) -> bytes:
        """The body of an answer. Raises: Refused when it is over the limit or shorter than announced."""
        announced = int(answer.headers.get("Content-Length") or -1)
        if announced > self.max_bytes:
            raise Refused(f"{TOO_LARGE}: {announced} bytes, more than {self.max_bytes}")
        body: bytes = answer.read(self.max_bytes + 1)
        if len(body) > self.max_bytes:
            raise Refused(f"{TOO_LARGE}: more than {self.max_bytes} bytes")
        if len(body) < announced:
            raise Refused(f"{TRUNCATED}: {len(body)} of {announced} bytes")
        return body


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's: not loopback, private, link-local, multicast or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def end_connections(connections: list[socket.socket]) -> None:
    """Ends connections under whoever reads them."""
    for connection in connections:
        with contextlib.suppress(OSError):  # ended already
            connection.shutdown(socket.SHUT_RDWR)


def reason_of(error: Exception) -> Exception:
    """The error under urllib's wrapping, with our wording where its own says too little."""
    if isinstance(error, http.client.IncompleteRead):
        return Refused(f"{TRUNCATED}: the connection ended after {len(error.partial)} bytes")
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return error.reason
    return error


def mark(path: str) -> None:
    """Adds one byte to a file that several processes write."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, b".")
    os.close(file)


def main() -> None:
    """Runs img2dataset's `download` with the arguments given as JSON."""
    from img2dataset import download  # type: ignore[import-not-found,unused-ignore]

    download(**json.loads(Path(sys.argv[1]).read_text()))


if __name__ in ("__main__", "__mp_main__"):  # the latter in the processes that img2dataset spawns
    Fetcher(**json.loads(os.environ[LIMITS])).install()
if __name__ == "__main__":
    main()
