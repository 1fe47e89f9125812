"""img2dataset under guard: runs in its own environment, by path (`python -I fetcher.py JSON`).

What img2dataset lacks is put under it, in every process it spawns, and in every worker of Ray or Spark: addresses are
judged where the connection is made (so neither a redirect nor a name that changes its address gets round it), a request
ends after so many seconds in all, a body after so many bytes, and each request leaves two lines, that it begins and how
it ended, so that a stall or a hopeless list is seen. Standard library alone, but for img2dataset; importing it is safe.
"""

import contextlib
import email.message
import hashlib
import http.client
import importlib
import io
import ipaddress
import json
import os
import re
import runpy
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LIMITS = "UNCLIP_FETCH_LIMITS"  # variable: schemes, allow_private, timeout_s, max_bytes; files: marks, blocked
PRIVATE = "private address"  # how the messages below begin
SCHEME = "scheme not allowed"
BLOCKED = "blocked domain"
BLOCKED_URL = "blocked URL"
TOO_LARGE = "too large"
TIMEOUT = "timed out"
TRUNCATED = "truncated"
PROTOCOL = "not HTTP"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 addresses as a gateway of an IPv6 network has them
NOT_PUBLIC = [  # and what `is_global` lets through: IPv4 in old spellings, and a network's own gateways
    ipaddress.ip_network(text) for text in ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "192.0.0.0/24")
]
ADDRESSES = str(Path(__file__).with_name("web_address.py"))  # of the standard library alone, as this file
Files = dict[str, str]  # of blocked "domains", one a line, and "urls", as `web_address.among` reads them
BEGUN = ""  # the mark of a request that begins
MARK_BYTES = 400  # of a line: written at once, so that lines of several processes do not mix


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
    """Follows redirects to allowed schemes only, and to no URL or host that is blocked, or private by its spelling."""

    def __init__(self, schemes: list[str], allow_private: bool, blocked: Files) -> None:
        self.schemes, self.allow_private, urls = schemes, allow_private, blocked.get("urls")
        self.domains = frozenset(Path(blocked["domains"]).read_text().split()) if "domains" in blocked else frozenset()
        self.is_listed = runpy.run_path(ADDRESSES)["among"](urls) if urls else lambda url: False

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        """The request that the answer asks for. Raises: Refused for one that is not allowed."""
        parts = urlsplit(newurl)
        if parts.scheme not in self.schemes:
            raise Refused(f"{SCHEME}: redirected to {newurl[:80]}")
        host = unquote(parts.hostname or "")  # as urllib will
        if not self.allow_private and is_private_host(host):  # a proxy would ask for us
            raise Refused(f"{PRIVATE}: redirected to {newurl[:80]}")
        if self.domains and is_below(host, self.domains):
            raise Refused(f"{BLOCKED}: redirected to {newurl[:80]}")
        if self.is_listed(newurl):
            raise Refused(f"{BLOCKED_URL}: redirected to {newurl[:80]}")
        fp.close()  # urllib would read this body, which may have no end
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Fetcher:
    """`urlopen` within limits, and the two functions of `socket` that it needs to hold them."""

    def __init__(
        self, schemes: list[str], allow_private: bool, timeout_s: float, max_bytes: int, marks: str, blocked: Files
    ) -> None:
        self.allow_private, self.timeout_s, self.max_bytes, self.marks = allow_private, timeout_s, max_bytes, marks
        self.opener = urllib.request.build_opener(Redirects(schemes, allow_private, blocked))
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

    def create_connection(self, address: Any, *rest: Any, **named: Any) -> socket.socket:
        """A connection that the running request's time-out can end, whatever wraps it later.

        Of a request, every attempt has only the time that is left, however many addresses and redirects there are.
        """
        if not hasattr(self.request, "deadline"):
            return self.connect(address, *rest, **named)
        error: OSError = OSError(f"no address for {address[0]}")
        for family, kind, protocol, _, place in self.getaddrinfo(address[0], address[1], 0, socket.SOCK_STREAM):
            left = self.request.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(left)
                connection.connect(place)
            except OSError as failed:
                connection.close()
                error = failed
                continue
            self.request.connections.append(connection.dup())
            connection.settimeout(max(self.request.deadline - time.monotonic(), 0.001))
            return connection
        raise error

    def urlopen(self, request: Any, timeout: float | None = None) -> Response:
        """The whole answer to a request, within the limits."""
        connections: list[socket.socket] = []
        self.request.connections, start = connections, time.monotonic()
        self.request.deadline = start + self.timeout_s
        mark(self.marks, BEGUN)
        timer = threading.Timer(self.timeout_s, end_connections, [connections])
        timer.start()
        said = ""
        try:
            response = self._answer(request)
            if time.monotonic() - start >= self.timeout_s:  # ended by the timer: the body may be cut short
                raise TimeoutError
            return response
        except Exception as error:  # servers break urllib in every way: each becomes a reason of the row
            reason = reason_of(error)
            if time.monotonic() - start >= self.timeout_s:
                reason = TimeoutError(f"{TIMEOUT} after {self.timeout_s:g} s")
            said = str(reason) or type(reason).__name__
            raise reason from error
        finally:
            timer.cancel()
            for connection in connections:
                connection.close()
            mark(self.marks, f"{url_digest(getattr(request, 'full_url', request))} {said}")

    def _answer(self, request: Any) -> Response:
        with self.opener.open(request, timeout=self.timeout_s) as answer:
            return Response(answer.headers, self.read_body(answer))

    def read_body(self, answer: Any) -> bytes:
        """The body of an answer. Raises: Refused when it is over the limit or shorter than announced."""
        length = answer.headers.get("Content-Length") or ""
        announced = int(length) if re.fullmatch("[0-9]{1,18}", length) else -1
        if announced > self.max_bytes:
            raise Refused(f"{TOO_LARGE}: {announced} bytes, more than {self.max_bytes}")
        body: bytes = answer.read(self.max_bytes + 1)
        if len(body) > self.max_bytes:
            raise Refused(f"{TOO_LARGE}: more than {self.max_bytes} bytes")
        if len(body) < announced:
            raise Refused(f"{TRUNCATED}: {len(body)} of {announced} bytes")
        return body


def is_private_host(host: str) -> bool:
    """Whether a host is known as private by its spelling; names are judged by their address when connected to."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    address = host
    if re.fullmatch("[0-9a-fx.]+", host):
        with contextlib.suppress(OSError):  # a name
            address = socket.inet_ntoa(socket.inet_aton(host))  # 127.1, 2130706433, 0x7f.1
    try:
        return not is_public(address)
    except ValueError:
        return False


def is_below(host: str, domains: frozenset[str]) -> bool:
    """Whether a host is one of these domains, or lies below one."""
    with contextlib.suppress(UnicodeError):  # a host that cannot be asked
        host = host.encode("idna").decode()
    labels = host.rstrip(".").lower().split(".")
    return any(".".join(labels[first:]) in domains for first in range(len(labels)))


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's: not loopback, private, link-local, multicast or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        if ip.is_site_local:
            return False
        ip = ip.ipv4_mapped or ip.sixtofour or translated or ip
    if any(ip in network for network in NOT_PUBLIC):
        return False
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
    if isinstance(error, http.client.HTTPException) and not isinstance(error, ConnectionError):
        return Refused(f"{PROTOCOL}: {type(error).__name__} {error}"[:200])  # the words may be the host's
    return error


def mark(path: str, text: str) -> None:
    """Adds a line to a file that several processes write: BEGUN, or a URL's digest and its error if there was one."""
    line = " ".join(text.split()).encode(errors="replace")[: MARK_BYTES - 1]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, line + b"\n")
    os.close(file)


def url_digest(url: str) -> str:
    """What stands for a URL in a mark."""
    return hashlib.sha256(url.encode(errors="replace")).hexdigest()[:16]


class Guarded:
    """img2dataset's downloader, with the limits put under it in whatever process of Ray or Spark it comes to."""

    def __init__(self, downloader: Any, limits: dict[str, Any]) -> None:
        self.downloader, self.limits = downloader, limits

    def __call__(self, row: Any) -> Any:
        """As img2dataset calls its downloader."""
        if type(getattr(urllib.request.urlopen, "__self__", None)).__name__ != "Fetcher":
            Fetcher(**self.limits).install()
        return self.downloader(row)


def start_ray(num_processes: int) -> None:
    """The cluster that RAY_ADDRESS names, or one on this machine."""
    import ray  # type: ignore[import-not-found,unused-ignore]

    if os.environ.get("RAY_ADDRESS"):
        ray.init()
    else:
        ray.init(num_cpus=num_processes, include_dashboard=False)


def start_pyspark(num_processes: int) -> None:
    """The cluster that SPARK_MASTER_URL names, or one on this machine; img2dataset uses the session that is there."""
    from pyspark.sql import SparkSession  # type: ignore[import-not-found,unused-ignore]

    master = os.environ.get("SPARK_MASTER_URL") or f"local[{num_processes}]"
    SparkSession.builder.master(master).config("spark.ui.enabled", "false").getOrCreate()


def main() -> None:
    """Runs img2dataset's `download` with the arguments given as JSON."""
    tool: Any = importlib.import_module("img2dataset.main")  # the package has a function of this name
    arguments = json.loads(Path(sys.argv[1]).read_text())
    start = {"ray": start_ray, "pyspark": start_pyspark}.get(arguments["distributor"])
    if start is not None:
        downloader, limits = tool.Downloader, json.loads(os.environ[LIMITS])
        tool.Downloader = lambda **settings: Guarded(downloader(**settings), limits)
        start(arguments["processes_count"])
    tool.download(**arguments)


if __name__ in ("__main__", "__mp_main__"):  # the latter in the processes that img2dataset spawns
    Fetcher(**json.loads(os.environ[LIMITS])).install()
if __name__ == "__main__":
    main()
