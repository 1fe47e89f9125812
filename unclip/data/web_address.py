"""Web addresses: one spelling for one address, and whether one is of a list.

Standard library alone: `fetcher` runs this file where nothing of ours is installed.
"""

import hashlib
import ipaddress
import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
SAFE = "%/:=&?~#+!$,;'@()*[]-._"  # stays as it is in a path or a query
LABEL, SAFE_CLASS = r"[a-z0-9_-]{1,63}", r"[A-Za-z0-9%/:=&~+!$,;'@()*\[\]._-]"
NORMAL = re.compile(rf"https?://(?:{LABEL}\.)*{LABEL}\.?/{SAFE_CLASS}*(?:\?{SAFE_CLASS}+)?")  # most URLs of a long list


def normalise_url(url: str) -> str:
    """One spelling of a URL: scheme and host in lower case, default port and fragment dropped, the rest in ASCII.

    Raises: ValueError saying what makes it no URL.
    """
    if NORMAL.fullmatch(url):
        return url
    return _normalised(url)


def bare_url(url: str) -> str:
    """A normalised URL whose host has one spelling more: no percent signs, which urllib reads, and no final dot.

    Raises: as `normalise_url`.
    """
    parts = urlsplit(url)
    host = re.sub(r"\.(?=(:\d*)?$)", "", unquote(parts.netloc))
    return normalise_url(urlunsplit(parts._replace(netloc=host)))


def url_number(url: str) -> int:
    """What stands for a URL among many: 64 bits of a digest of its `bare_url`. Raises: as `normalise_url`."""
    return int.from_bytes(hashlib.sha256(bare_url(url).encode()).digest()[:8], "big")


def among(path: str) -> Callable[[str], bool]:
    """Whether a URL is one of those whose numbers a file holds, ascending, in this machine's order of bytes."""
    numbers = memoryview(Path(path).read_bytes()).cast("Q")

    def is_there(url: str) -> bool:
        try:
            number = url_number(url)
        except ValueError:  # nothing that can be asked
            return False
        place = bisect_left(numbers, number)
        return place < len(numbers) and numbers[place] == number

    return is_there


def _normalised(url: str) -> str:
    """The same, for any URL."""
    if re.search(r"[\x00-\x1f\x7f]", url):
        raise ValueError("URL with a control character")
    parts = urlsplit(url)
    if not parts.scheme:
        raise ValueError("URL without a scheme" if url else "no URL")
    if parts.scheme not in DEFAULT_PORTS:
        return url  # for the allow-list of schemes to judge
    if not parts.hostname:
        raise ValueError("URL without a host")
    if "@" in parts.netloc:
        raise ValueError("URL with a user name")
    host = ascii_host(parts.hostname)
    port = "" if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return urlunsplit(
        (parts.scheme, host + port, quote(parts.path, safe=SAFE) or "/", quote(parts.query, safe=SAFE), "")
    )


def ascii_host(host: str) -> str:
    """The host as it stands in a request: IDNA, or a bracketed IPv6 address. Raises: ValueError for what is none."""
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host.partition('%')[0]).compressed}]"
    try:
        ascii_host = host.encode("idna").decode().lower()
    except UnicodeError as error:
        raise ValueError(f"URL with the impossible host {host!r}") from error
    if not re.fullmatch(r"[a-z0-9_.-]+", ascii_host):
        raise ValueError(f"URL with the impossible host {host!r}")
    return ascii_host
