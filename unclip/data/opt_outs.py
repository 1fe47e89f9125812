"""Domains and URLs that must not be fetched: lists in text files, one entry a line."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.digests import known_digest
from unclip.data.web_address import ascii_host, normalise_url, url_number


class OptOuts:
    """What is not to be fetched, and why."""

    def __init__(self, domains: Iterable[str] = (), urls: Iterable[str] = ()) -> None:
        self.domains, self.urls = frozenset(domains), frozenset(urls)

    def __bool__(self) -> bool:
        return bool(self.domains or self.urls)

    def reason(self, url: str) -> tuple[str, str] | None:
        """Status and detail of a normalised URL that stands in a list, by itself, its domain or one above it."""
        if url in self.urls:
            return "blocked_url", "the URL stands in source.urls.blocked_urls"
        labels = (urlsplit(url).hostname or "").rstrip(".").split(".")
        for first in range(len(labels)):
            if (domain := ".".join(labels[first:])) in self.domains:
                return "blocked_domain", f"{domain} stands in source.urls.blocked_domains"
        return None


def opt_outs(config: UrlsConfig) -> OptOuts:
    """The lists that a source names; read again only when they have changed.

    Raises: ValueError naming the file and line of what is no domain or URL.
    """
    return _read(config.blocked_domains, config.blocked_urls, opt_outs_digest(config))


def opt_outs_digest(config: UrlsConfig) -> tuple[str | None, str | None]:
    """The digests of both lists' bytes. Raises: ValueError when one cannot be read."""
    domains, urls = (path and known_digest(Path(path)) for path in (config.blocked_domains, config.blocked_urls))
    return domains, urls


def blocking(how: DownloadConfig, config: UrlsConfig) -> DownloadConfig:
    """How a list is fetched, with the domains and URLs that it must not be fetched from.

    Raises: ValueError when others are set.
    """
    lists = {name: getattr(config, name) for name in ("blocked_domains", "blocked_urls")}
    for name, path in lists.items():
        if (given := getattr(how, name)) not in (None, path):
            raise ValueError(f"download.{name} must be left to source.urls.{name}, got {given!r}")
    return replace(how, **lists)


def blocked_domains(path: str) -> list[str]:
    """The domains of a list, sorted. Raises: ValueError naming the line of what is none."""
    return sorted(_entries(path, _domain))


def blocked_urls(path: str) -> bytes:
    """What stands for each URL of a list, in order. Raises: ValueError naming the line of what is none."""
    return _numbers(path, known_digest(Path(path)))


@lru_cache(maxsize=1)
def _numbers(path: str, _digest: str) -> bytes:
    return array("Q", sorted(url_number(url) for url in _entries(path, normalise_url))).tobytes()


@lru_cache(maxsize=1)
def _read(domains: str | None, urls: str | None, _digest: tuple[str | None, str | None]) -> OptOuts:
    return OptOuts(_entries(domains, _domain), _entries(urls, normalise_url))


def _domain(text: str) -> str:
    return ascii_host(text.removeprefix("*.").strip("."))


def _entries(path: str | None, read: Callable[[str], str]) -> set[str]:
    """The entries of a list; empty lines and those that begin with # are none."""
    found: set[str] = set()
    if path is None:
        return found
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if text and not text.startswith("#"):
                try:
                    found.add(read(text))
                except ValueError as error:
                    raise ValueError(f"{path}:{number} {text[:60]!r}: {error}") from error
    return found
