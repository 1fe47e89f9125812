"""What each status of a row means, and what can be done about it. Words alone: no result depends on them."""

import re
from typing import NamedTuple


class Advice(NamedTuple):
    """What a status means, and what to do about it."""

    meaning: str
    advice: str


LATER = "ask again later"
DROP = "drop the rows from the list"
ADVICE = {
    "malformed": Advice("no URL, or no caption", "mend the list; each row's detail says what is wrong"),
    "duplicate": Advice("the same URL and caption stand earlier", "nothing to do: the first one counts"),
    "blocked_domain": Advice("its domain is opted out", "nothing to do: source.urls.blocked_domains"),
    "blocked_url": Advice("it is opted out", "nothing to do: source.urls.blocked_urls"),
    "scheme": Advice("neither http nor https", "mend the list, or add it to download.schemes"),
    "private_address": Advice("no address of the internet", "if the host is yours, ask again with allow_private"),
    "too_large": Advice("over download.max_bytes", "ask again with a larger max_bytes, or leave the rows"),
    "truncated": Advice("the body ended too early", "cut on the host, or the host is overloaded: " + LATER),
    "protocol": Advice("the answer is not HTTP", DROP),
    "unfinished": Advice(
        "deadline_s or stall_s was over first",
        "its detail says which: ask again with it larger, or more num_threads for deadline_s",
    ),
    "timeout": Advice("no whole answer in time", "ask again with a larger timeout_s, or fewer num_threads"),
    "robots": Advice("opted out by X-Robots-Tag", "nothing to do: download.disallowed_directives"),
    "dns": Advice("its name has no address", "few: hosts that are gone; many: mend the resolver, then ask again"),
    "tls": Advice("the host proves not who it is", DROP),
    "redirects": Advice("redirected in a circle, or nowhere", DROP),
    "connection": Advice("refused, reset or unreachable", "if this machine's network is well: " + LATER),
    "http_401": Advice("a password is asked", DROP),
    "http_403": Advice(
        "the host forbids it", "it may block programs or this address: ask again slowly, from elsewhere"
    ),
    "http_404": Advice("it is gone", DROP),
    "http_408": Advice("the host waited too long", LATER),
    "http_410": Advice("it is gone for good", DROP),
    "http_425": Advice("asked too early", LATER),
    "http_429": Advice("the host limits you", "lower num_threads and num_processes; " + LATER),
    "http_451": Advice("forbidden by law", DROP),
    "http_5xx": Advice("the host is in trouble", LATER),
    "http_4xx": Advice("the host refuses the request", DROP),
    "http": Advice("a code that HTTP does not know", DROP),
    "failed": Advice("anything else", "see the details in rows.parquet"),
    "not_an_image": Advice("no picture, often a page in its place", DROP),
    "too_many_pixels": Advice(
        "over download.max_pixels", "ask again with more if you have the memory, or leave the rows"
    ),
    "unsupported": Advice("a picture without a known scale", "convert it by hand, or leave the rows"),
}


def is_status(text: str) -> bool:
    """Whether there is such a status; `http_5xx` stands for all of its kind."""
    return text in ADVICE or re.fullmatch(r"http_[1-5]\d\d", text) is not None


def advice_on(status: str) -> Advice:
    """What a status means, and what to do about it."""
    for known in (status, f"{status[:6]}xx", status.partition("_")[0]):
        if known in ADVICE:
            return ADVICE[known]
    return ADVICE["failed"]
