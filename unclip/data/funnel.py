"""The funnel: what each stage dropped for each reason, from the rows of the source on. Free of heavy imports."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unclip.artifact import Artifact


def lost_rows(refused: Mapping[str, int]) -> str:
    """`3 rows refused: missing_file 2, undecodable 1`."""
    why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(refused.items(), key=lambda item: -item[1]))
    total = sum(refused.values())
    return f"{total:,} {'row' if total == 1 else 'rows'} refused: {why}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of a funnel: what a stage dropped for one reason of the rows that came to it."""

    stage: str
    reason: str
    rows_in: int
    dropped: int

    @property
    def rows_out(self) -> int:
        """The rows that go on."""
        return self.rows_in - self.dropped

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {**asdict(self), "rows_out": self.rows_out}


def source_steps(stage: str, fates: Mapping[str, int], kept: str) -> list[Step]:
    """The refusals of a source as steps, the most frequent first.

    fates: rows by status; kept: the status of the rows that go on.
    """
    left, steps = sum(fates.values()), []
    for reason, count in sorted(fates.items(), key=lambda item: (-item[1], item[0])):
        if reason != kept:
            steps.append(Step(stage=stage, reason=reason, rows_in=left, dropped=count))
            left -= count
    return steps


def asked_again(shard: Artifact) -> dict[str, int]:
    """The rows of a shard that an earlier shard refused, by why; none but of a retry of a download."""
    found: dict[str, int] = shard.manifest()["metrics"].get("asked_again", {}) if shard.kind == "download" else {}
    return found


def write_funnel(path: Path, steps: Iterable[Step]) -> None:
    """Write steps as JSON, a line each."""
    lines = ",\n ".join(json.dumps(step.as_dict()) for step in steps)
    path.write_text(f"[{lines}]\n")


def read_funnel(path: Path) -> list[Step]:
    """The steps in a `funnel.json`."""
    names = ("stage", "reason", "rows_in", "dropped")
    return [Step(**{name: line[name] for name in names}) for line in json.loads(path.read_text())]
