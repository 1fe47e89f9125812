"""What is wrong with a dump, a line each: where, what it is, what is allowed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it has to be: where, what it is, what is allowed."""

    file: str  # relative to the dump
    field: str
    value: str
    allowed: str
    key: str = ""  # of the row

    def __str__(self) -> str:
        place = f"{self.file} {self.key}".rstrip()
        return f"{place}: {self.field} is {self.value}, allowed: {self.allowed}"


def shown(value: Any) -> str:
    """A value in a line."""
    if value is None:
        return "nothing"
    text = value.hex()[:12] if isinstance(value, bytes) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def name_in(dump: Path, path: Path) -> str:
    """A file's name as the manifest has it."""
    return path.relative_to(dump).as_posix()
