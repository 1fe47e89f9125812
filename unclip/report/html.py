"""Small pieces of HTML: escaped text, tables, tiles, embedded pictures."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table: text, and a class that says how it looks ("num", "mono", "best", ...)."""

    text: str
    look: str = ""
    hint: str = ""


def element(tag: str, inner: str, look: str = "", hint: str = "") -> str:
    """An element around HTML that is already safe."""
    attributes = (f' class="{escape(look)}"' if look else "") + (f' title="{escape(hint)}"' if hint else "")
    return f"<{tag}{attributes}>{inner}</{tag}>"


def table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]], look: str = "") -> str:
    """A table that scrolls sideways by itself where the screen is narrow; texts are escaped. look: "narrow" or none."""
    top = "".join(element("th", escape(c.text), c.look, c.hint) for c in head)
    body = "".join(
        "<tr>" + "".join(element("td", escape(c.text), c.look, c.hint) for c in row) + "</tr>" for row in rows
    )
    rows_and_head = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return element("div", rows_and_head, f"scroll {look}".strip())


def tile(label: str, value: str, notes: Sequence[str]) -> str:
    """A headline figure with a line for each note."""
    lines = element("span", escape(label)) + element("strong", escape(value))
    return element("div", lines + "".join(element("small", escape(note)) for note in notes), "tile")


def section(identity: str, title: str, lead: str, body: str) -> str:
    """A titled part of the page; nothing where the body is empty."""
    if not body:
        return ""
    introduction = element("p", escape(lead), "lead") if lead else ""
    return f'<section id="{escape(identity)}"><h2>{escape(title)}</h2>{introduction}{body}</section>'


def picture(path: Path, alt: str) -> str:
    """An image file embedded in the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img loading="lazy" alt="{escape(alt)}" src="data:{MIME[path.suffix.lower()]};base64,{data}">'
