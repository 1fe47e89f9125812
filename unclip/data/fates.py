"""Why a URL gave no picture: error texts sorted into a few statuses, what each means, and what can be done about it."""

import re
from typing import NamedTuple

from unclip.data import fetcher

PATTERNS = (  # first match wins
    (rf"^{fetcher.PRIVATE}", "private_address"),
    (rf"^{fetcher.SCHEME}", "scheme"),
    (rf"^{fetcher.TOO_LARGE}", "too_large"),
    (rf"^{fetcher.TRUNCATED}|IncompleteRead", "truncated"),
    (rf"^{fetcher.PROTOCOL}", "protocol"),
    (r"deadline_s|stall_s", "unfinished"),
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
    "unfinished",
    "dns",
    "http_408",
    "http_425",
    "http_429",
)  # and http_5xx


class Advice(NamedTuple):
    """What a status means, and what to do about it."""

    meaning: str
    advice: str


RETRY_LATER = "passes with time: unclip retry, later"
LOST = "lost: nothing to do but to drop the rows from the list"
ADVICE = {
    "malformed": Advice("no URL, or no caption", "mend the rows in the list; each says what is wrong"),
    "duplicate": Advice("the same URL and caption stand earlier", "nothing: the first one counts"),
    "blocked_domain": Advice("the domain is opted out", "nothing: never asked, as source.urls.blocked_domains says"),
    "blocked_url": Advice("the URL is opted out", "nothing: never asked, as source.urls.blocked_urls says"),
    "scheme": Advice("neither http nor https", "add it to download.schemes, or mend the rows"),
    "private_address": Advice("not an address of the internet", "download.allow_private, if the host is yours"),
    "too_large": Advice("the file is over download.max_bytes", "raise download.max_bytes, or leave it"),
    "truncated": Advice("the body ended too early", "the host is overloaded or the file is cut: unclip retry"),
    "protocol": Advice("the answer is not HTTP", LOST),
    "unfinished": Advice("the shard's time was up first", "raise download.deadline_s, or num_threads; unclip retry"),
    "timeout": Advice("no whole answer in download.timeout_s", "raise timeout_s, or lower num_threads; unclip retry"),
    "robots": Advice("X-Robots-Tag opts out", "nothing: download.disallowed_directives asks for it"),
    "dns": Advice("the name has no address", "most are gone; if many, a resolver that keeps up; unclip retry"),
    "tls": Advice("no trusted encryption", "the certificate is expired or not the host's: " + LOST),
    "redirects": Advice("redirected in a circle or elsewhere", LOST),
    "connection": Advice("refused, reset or unreachable", "is this machine's network up? else unclip retry, later"),
    "http_401": Advice("a password is asked", LOST),
    "http_403": Advice("the host forbids it", "it may block programs or this address: retry slowly, from elsewhere"),
    "http_404": Advice("the picture is gone", LOST),
    "http_408": Advice("the host waited too long", RETRY_LATER),
    "http_410": Advice("the picture is gone for good", LOST),
    "http_425": Advice("asked too early", RETRY_LATER),
    "http_429": Advice("the host limits you", "lower num_threads and num_processes; unclip retry, later"),
    "http_451": Advice("forbidden by law", LOST),
    "http_5xx": Advice("the host is in trouble", RETRY_LATER),
    "http_4xx": Advice("the host refuses the request", LOST),
    "http": Advice("the host answers with no known code", LOST),
    "failed": Advice("anything else", "see the rows' details in rows.parquet"),
    "not_an_image": Advice("the bytes are no picture", "a page in its place, most often: " + LOST),
    "too_many_pixels": Advice("over download.max_pixels", "raise max_pixels if you have the memory, or leave it"),
    "unsupported": Advice("a picture without a known scale", "convert it by hand, or leave it"),
}


def status_of(error: str) -> str:
    """The short reason for an error text: `http_404`, `timeout`, ...; `failed` for what fits nowhere."""
    if code := re.match(r"HTTP Error (\d{3})", error):
        return f"http_{code[1]}" if "redirect" not in error.lower() else "redirects"
    return next((status for pattern, status in PATTERNS if re.search(pattern, error)), "failed")


def may_pass(status: str) -> bool:
    """Whether a later try of the same URL may succeed."""
    return status in PASSING or status.startswith("http_5")


def advice_on(status: str) -> Advice:
    """What a status means, and what to do about it."""
    for known in (status, f"{status[:6]}xx", status.partition("_")[0]):
        if known in ADVICE:
            return ADVICE[known]
    return ADVICE["failed"]
