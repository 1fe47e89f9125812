"""An index of the manifests for questions: SQLite, and rebuilt from them at any time."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

SCHEMA = """
create table if not exists artifact (
    key text primary key, kind text, digest text, started text, ended text, seconds real, bytes integer, manifest text
);
create table if not exists parent (child text, name text, position integer, parent text);
create index if not exists parent_child on parent (child);
create index if not exists parent_parent on parent (parent);
"""


class Ledger:
    """What the store holds, what made what, and how long it took."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, manifest: dict[str, Any]) -> None:
        """Record one artifact; a second time changes nothing."""
        with self._open() as db:
            _insert(db, manifest)

    def rebuild(self) -> int:
        """Forget everything and read every manifest again, but damaged ones; the number of artifacts."""
        manifests = [m for path in sorted(self.root.glob("artifacts/*/*/manifest.json")) if (m := _read(path))]
        with self._open() as db:
            db.execute("delete from artifact")
            db.execute("delete from parent")
            for manifest in manifests:
                _insert(db, manifest)
        return len(manifests)

    def matching(self, prefix: str) -> list[dict[str, Any]]:
        """Manifests of the artifacts whose key or digest starts with `prefix`."""
        query = "select manifest from artifact where key like ? or digest like ? order by ended"
        return self._manifests(query, (f"{prefix}%", f"{prefix}%"))

    def of_stage(self, stage: str) -> list[dict[str, Any]]:
        """Manifests of a kind, newest first."""
        return self._manifests("select manifest from artifact where kind = ? order by ended desc", (stage,))

    def children(self, key: str) -> list[dict[str, Any]]:
        """Manifests of what was made from the artifact."""
        query = "select distinct manifest from parent join artifact on key = child where parent = ? order by ended"
        return self._manifests(query, (key,))

    def forget(self, key: str) -> None:
        """Take one artifact off the index."""
        with self._open() as db:
            db.execute("delete from artifact where key = ?", (key,))
            db.execute("delete from parent where child = ?", (key,))

    def _manifests(self, query: str, values: tuple[str, ...]) -> list[dict[str, Any]]:
        if not (self.root / "ledger.db").exists():
            if not (self.root / "artifacts").exists():
                return []
            self.rebuild()
        with self._open() as db:
            return [json.loads(row[0]) for row in db.execute(query, values)]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.root.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.root / "ledger.db", timeout=30)) as db:
            db.executescript(SCHEMA)
            with db:
                yield db


def _read(path: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # removed meanwhile, or damaged
        return None
    return manifest


def _insert(db: sqlite3.Connection, manifest: dict[str, Any]) -> None:
    key = manifest["key"]
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    db.execute(
        "insert or replace into artifact values (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            manifest["kind"],
            manifest["digest"],
            manifest["started"],
            manifest["ended"],
            manifest["seconds"],
            size,
            json.dumps(manifest),
        ),
    )
    db.execute("delete from parent where child = ?", (key,))
    for name, parents in manifest["parents"].items():
        db.executemany(
            "insert into parent values (?, ?, ?, ?)", [(key, name, i, parent) for i, parent in enumerate(parents)]
        )
