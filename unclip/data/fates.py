"""Why a URL gave no picture: error texts sorted into a few statuses, and which of them may pass."""

import re
from functools import lru_cache

from unclip.data import fetcher

UNFINISHED = "unfinished"  # not asked, or not to the end: nobody said anything of the row
PATTERNS = (  # first match wins
    (rf"^{fetcher.PRIVATE}", "private_address"),
    (rf"^{fetcher.SCHEME}", "scheme"),
    (rf"^{fetcher.BLOCKED}", "blocked_domain"),
    (rf"^{fetcher.BLOCKED_URL}", "blocked_url"),
    (rf"^{fetcher.TOO_LARGE}", "too_large"),
    (rf"^{fetcher.TRUNCATED}|IncompleteRead", "truncated"),
    (rf"^{fetcher.PROTOCOL}", "protocol"),
    (r"deadline_s|stall_s", UNFINISHED),
    (r"timed out", "timeout"),
    (r"X-Robots-Tag", "robots"),
    (r"Name or service not known|name resolution|No address associated|nodename nor servname|getaddrinfo", "dns"),
    (r"CERTIFICATE|certificate|SSL|TLS|_ssl", "tls"),
    (r"redirect", "redirects"),
    (r"refused|reset|closed|unreachable|disconnected|Broken pipe|No route", "connection"),
)
PASSING = (
    "timeout",
    "connection",
    "truncated",
    UNFINISHED,
    "dns",
    "http_408",
    "http_425",
    "http_429",
)  # and http_5xx


@lru_cache(maxsize=4096)  # a host says the same of many URLs
def status_of(error: str) -> str:
    """The short reason for an error text: `http_404`, `timeout`, ...; `failed` for what fits nowhere."""
    if code := re.match(r"HTTP Error (\d{3})", error):
        return f"http_{code[1]}" if "redirect" not in error.lower() else "redirects"
    return next((status for pattern, status in PATTERNS if re.search(pattern, error)), "failed")


def may_pass(status: str) -> bool:
    """Whether a later try of the same URL may succeed."""
    return status in PASSING or status.startswith("http_5")
