"""What a finished pipeline left, as the page reads it: artifacts by stage, their manifests and their small files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unclip.artifact import Artifact

Point = tuple[float, float]


@dataclass(frozen=True)
class PipelineRecord:
    """Artifacts by stage name, per-shard stages with several."""

    artifacts: Mapping[str, tuple[Artifact, ...]]

    @cached_property
    def manifests(self) -> dict[str, tuple[dict[str, Any], ...]]:
        """The manifests of every stage, in the stages' order; stages without artifacts are left out."""
        return {name: tuple(a.manifest() for a in some) for name, some in self.artifacts.items() if some}

    def metrics(self, stage: str) -> dict[str, Any]:
        """The metrics in the manifest of a stage's only artifact; nothing where the stage did not run."""
        found = self.manifests.get(stage, ())
        metrics: dict[str, Any] = (found[0]["metrics"] or {}) if found else {}
        return metrics

    def file(self, stage: str, name: str) -> Path | None:
        """A file of a stage's only artifact, where both are there."""
        some = self.artifacts.get(stage, ())
        path = some[0].path / name if some else None
        return path if path is not None and path.is_file() else None

    def read_json(self, stage: str, name: str) -> Any:
        """A JSON file of a stage's only artifact; None where it is not there."""
        path = self.file(stage, name)
        return None if path is None else json.loads(path.read_text())

    def read_lines(self, stage: str, name: str) -> list[dict[str, Any]]:
        """A file of one JSON object a line; nothing where it is not there."""
        path = self.file(stage, name)
        return [] if path is None else [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def curve_of(lines: list[dict[str, Any]], figure: str) -> tuple[Point, ...]:
    """The (step, value) points of one figure in a curve, where a line has it."""
    return tuple((float(line["step"]), float(line[figure])) for line in lines if line.get(figure) is not None)
