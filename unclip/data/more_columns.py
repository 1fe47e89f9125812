"""Further columns of a list, such as scores that it came with: one JSON object a row, which travels with the sample."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one a row
OURS = ("sample_id", "objects")  # names in a sample's JSON that say what they say of our own pictures


def require_more(more: tuple[str, ...], *taken: str) -> None:
    """Refuse names of further columns. Raises: ValueError."""
    other = (*taken, *OURS)
    if not all(more) or len(set(more)) < len(more) or set(more) & set(other):
        raise ValueError(f"more_columns must be different columns, none of {', '.join(other)}, got {list(more)}")


def more_json(names: Iterable[str], values: Iterable[Any]) -> str:
    """A row's values of the further columns, by name."""
    return ENCODER.encode({name: cell(value) for name, value in zip(names, values, strict=True)})


def as_json(values: Mapping[str, Any]) -> str:
    """The fields of a sample as `read_more` takes them; NaN and infinities, which JSON has not, are null."""
    text = ENCODER.encode(values)
    if "NaN" in text or "Infinity" in text:
        text = ENCODER.encode(json.loads(text, parse_constant=lambda _: None))
    return text


def cell(value: Any) -> str | float | bool | None:
    """Numbers, booleans and text; null for no text and what is not finite; lists and objects as JSON, dates as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    return (text if text.isascii() else text.encode(errors="replace").decode()) or None


def read_more(text: str | None) -> dict[str, Any]:
    """The fields that were written as JSON; none where nothing was."""
    more: dict[str, Any] = json.loads(text or "{}")
    return more
