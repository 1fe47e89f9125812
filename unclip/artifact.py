"""What a stage makes and the next one reads: a complete, immutable folder with a manifest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """A published folder: what it is, the key of the recipe that made it, where it lies, the digest of its bytes."""

    kind: str
    key: str
    path: Path
    digest: str

    def manifest(self) -> dict[str, Any]:
        """The record written with it: recipe, parents, code, environment, times, metrics."""
        record: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        return record
