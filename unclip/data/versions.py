"""Which libraries made which parts of a dump: another decoder or network library makes slightly other vectors."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unclip.data.table import TableInfo

Versions = dict[str, dict[str, str]]  # by library and version the numbers of the parts, as `0-3, 7`


def versions_of(infos: "Sequence[TableInfo]") -> Versions:
    """The versions that parts, in order, say they were made with."""
    found: dict[str, dict[str, list[int]]] = {}
    for number, info in enumerate(infos):
        for library, version in said_versions(info).items():
            found.setdefault(library, {}).setdefault(version, []).append(number)
    return {library: {v: ranges(numbers) for v, numbers in some.items()} for library, some in found.items()}


def said_versions(info: "TableInfo") -> dict[str, str]:
    """The versions that one part says; none where it says nothing to be understood."""
    try:
        said = json.loads(info.versions)
    except ValueError:
        return {}
    return {str(library): str(version) for library, version in said.items()} if isinstance(said, dict) else {}


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in short: `0-3, 7`."""
    starts = [n for n, before in zip(numbers, [None, *numbers], strict=False) if before is None or n != before + 1]
    ends = [n for n, after in zip(numbers, [*numbers[1:], None], strict=True) if after is None or after != n + 1]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def versions_line(found: Versions, now: Mapping[str, str] | None = None) -> str:
    """The libraries that made parts in several versions, or in another than now; empty if there is none."""
    told = []
    for library, parts in sorted(found.items()):
        here = (now or {}).get(library)
        is_other = here is not None and here not in parts
        if len(parts) > 1 or is_other:
            in_order = sorted(parts.items(), key=lambda item: int(item[1].partition("-")[0].partition(",")[0]))
            said = [f"{version} in part{'' if numbers.isdecimal() else 's'} {numbers}" for version, numbers in in_order]
            told.append(f"{library} {', '.join([*said, f'{here} now'] if is_other else said)}")
    return f"made with different versions: {'; '.join(told)}" if told else ""
