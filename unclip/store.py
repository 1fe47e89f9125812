"""One cache of artifacts: complete or absent, found by recipe, safe against kills and against two builders at once."""

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unclip.artifact import Artifact
from unclip.ledger import Ledger
from unclip.provenance import provenance
from unclip.recipe import Recipe, digest_of

__all__ = ["Artifact", "Build", "Store"]

CHUNK_BYTES = 1 << 20
WORK = "work"  # folder of a partial folder for what only going on needs; gone when the rest is published


@dataclass(frozen=True, kw_only=True)
class Build:
    """How to make one artifact: its kind, recipe and parents, and the function that fills a folder."""

    kind: str
    recipe: Recipe
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resumes: bool = False  # goes on from what a killed build left; else it starts in an empty folder
    fill: Callable[[Path], dict[str, Any]]


class Store:
    """A folder of artifacts. `root/artifacts/KIND/KEY` is complete once it exists; `root/partial/KEY` is on its way."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.ledger = Ledger(self.root)

    def path_of(self, kind: str, key: str) -> Path:
        """Where the artifact of that kind and key is, or would be."""
        return self.root / "artifacts" / kind / key

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact if it is there, else nothing."""
        path = self.path_of(kind, key)
        if not is_whole(path):
            return None
        manifest = json.loads((path / "manifest.json").read_text())
        return Artifact(kind, key, path, manifest["digest"])

    def build(self, build: Build) -> tuple[Artifact, bool]:
        """The artifact of a recipe, made if it is not there; and whether it was made now.

        A killed build leaves its partial folder, which the next one is given again if it can go on from there. A build
        that was filled, with its manifest written, is only published.
        """
        key = build.recipe.key
        if found := self.find(build.kind, key):
            return found, False
        with self.lock(key):
            if found := self.find(build.kind, key):
                return found, False
            partial = self.root / "partial" / key
            if is_whole(partial):
                return self._publish(build.kind, partial), True
            if not build.resumes and partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True, exist_ok=True)
            try:
                _seal(build, partial, datetime.now(UTC), build.fill(partial))
            except Exception:  # raised again: what cannot be gone on from is of no use, and others need the room
                if not build.resumes:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            return self._publish(build.kind, partial), True

    def artifacts(self) -> Iterator[Artifact]:
        """Every complete artifact, by kind and key."""
        for manifest in sorted(self.root.glob("artifacts/*/*/manifest.json")):
            folder = manifest.parent
            if found := self.find(folder.parent.name, folder.name):
                yield found

    def _publish(self, kind: str, partial: Path) -> Artifact:
        """Rename a sealed folder to where it is found. Killed anywhere in here, the next build does it again."""
        manifest = json.loads((partial / "manifest.json").read_text())
        if (partial / WORK).exists():
            shutil.rmtree(partial / WORK)
        final = self.path_of(kind, manifest["key"])
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # incomplete: `find` did not accept it
            shutil.rmtree(final)
        self.ledger.add(manifest)
        os.rename(partial, final)
        _flush(final.parent)
        return Artifact(kind, manifest["key"], final, manifest["digest"])

    @contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Whether the key is ours: one builder a key; the kernel frees the lock of a builder that died."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / key, "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def open_store(root: Path) -> Store:
    """The store at a path.

    Raises: ValueError when nothing was ever made there.
    """
    if not any((root / name).is_dir() for name in ("artifacts", "partial", "runs")):
        raise ValueError(f"{root} is no store, nothing was made there yet: --store names another")
    return Store(root)


def is_whole(folder: Path) -> bool:
    """Whether the folder has a manifest and every file that it names, none of them cut short."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):  # none, or damaged
        return False
    return all(_size(folder / name) == entry["bytes"] for name, entry in manifest["files"].items())


def _seal(build: Build, partial: Path, started: datetime, metrics: dict[str, Any]) -> None:
    """Flush every file to the disk, then write the manifest: from here on the folder is whole."""
    paths = {name: path for name, path in files_in(partial) if not name.startswith(f"{WORK}/")}
    paths.pop("manifest.json", None)
    for path in paths.values():
        _flush(path)
    files = {name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for name, path in paths.items()}
    ended = datetime.now(UTC)
    manifest = {
        "kind": build.kind,
        "key": build.recipe.key,
        "digest": content_digest(files),
        "files": files,
        "recipe": build.recipe.as_dict(),
        "parents": {name: list(keys) for name, keys in build.parents.items()},
        **provenance(),
        "started": started.isoformat(),
        "ended": ended.isoformat(),
        "seconds": round((ended - started).total_seconds(), 3),
        "metrics": metrics,
    }
    aside = partial / WORK / "manifest.json"  # whatever a kill leaves there is no content
    write_atomically(aside, json.dumps(manifest, indent=1))
    os.replace(aside, partial / "manifest.json")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """Relative names and paths of all files below a folder, by name."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return [(p.relative_to(folder).as_posix(), p) for p in paths]


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """SHA-256 over the names and digests of an artifact's files."""
    return digest_of({name: entry["sha256"] for name, entry in files.items()})


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits; reads it in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """A text file that is either the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    aside.write_text(text)
    _flush(aside)
    os.replace(aside, path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
