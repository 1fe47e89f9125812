"""Questions about the store: what made this, what differs, is it whole, what can go."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.recipe import digest_of
from unclip.runs import RunRecord, lives, runs_of
from unclip.store import Store, content_digest, files_in, sha256_of

Manifest = dict[str, Any]


def resolve(store: Store, reference: str) -> Manifest:
    """The manifest that a key prefix (4 digits or more), a path in the store, or a PNG of ours names.

    Raises:
        ValueError: nothing or more than one thing fits.
    """
    path = Path(reference)
    if picture := picture_of(reference):
        reference = str(picture["stack"])
    elif path.exists():
        return _manifest_above(path.resolve())
    if len(reference) < 4 or not set(reference) <= set("0123456789abcdef"):
        raise ValueError(f"'{reference}' is no key prefix (4 or more hex digits), no path in the store and no PNG")
    found = {m["key"]: m for m in store.ledger.matching(reference)}
    if len(found) != 1:
        some = ", ".join(f"{m['kind']} {k[:12]}" for k, m in list(found.items())[:5])
        raise ValueError(f"'{reference}' names {len(found)} artifacts of {store.root}" + (f": {some}" if some else ""))
    return next(iter(found.values()))


def picture_of(reference: str) -> dict[str, Any]:
    """The stack, caption, seed and settings that a PNG says of itself; nothing where the reference is no PNG.

    Raises: ValueError when it says nothing.
    """
    path = Path(reference)
    if path.suffix != ".png" or not path.is_file():
        return {}
    with Image.open(path) as image:
        record = image.info.get("unclip")
    if record is None:
        raise ValueError(f"{path} carries no lineage: it was not made by `unclip generate`, or was saved again since")
    return dict(json.loads(record))


def ancestors(store: Store, manifest: Manifest, depth: int = 0) -> Iterator[tuple[int, str, Manifest]]:
    """Depth, input name and manifest of all that the artifact was made from: each once, per-shard inputs as one."""
    seen: set[str] = set()
    waiting = [(depth, manifest["kind"], manifest)]
    while waiting:
        depth, name, current = waiting.pop()
        if current["key"] in seen:
            continue
        seen.add(current["key"])
        yield depth, name, current
        for input_name, keys in reversed(current["parents"].items()):
            for key in keys[:1]:
                waiting += [(depth + 1, _counted(input_name, keys), m) for m in store.ledger.matching(key)]


def differences(left: Any, right: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, left and right value wherever two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in [*left, *(n for n in right if n not in left)]:
            yield from differences(left.get(name), right.get(name), f"{where}.{name}".lstrip("."))
    elif left != right:
        yield where, left, right


def verify(store: Store) -> Iterator[tuple[str, str, str]]:
    """Kind, key and what is wrong with it, for every artifact whose bytes or key are not what its manifest says."""
    for path in sorted(store.root.glob("artifacts/*/*")):
        try:
            manifest = json.loads((path / "manifest.json").read_text())
        except (OSError, ValueError):
            yield path.parent.name, path.name, "no readable manifest"
            continue
        present = {n: {"sha256": sha256_of(p)} for n, p in files_in(path) if n != "manifest.json"}
        wrong = [where for where, _, _ in differences(_digests(manifest["files"]), _digests(present))]
        if wrong or content_digest(present) != manifest["digest"]:
            yield path.parent.name, path.name, f"changed, missing or added: {', '.join(wrong)}"
        elif {digest_of(manifest["recipe"]), manifest["key"]} != {path.name}:
            yield path.parent.name, path.name, "its recipe has another key"


def collect(store: Store, keep_runs: int, dry_run: bool) -> Iterator[tuple[Path, int]]:
    """Folder and bytes of what no kept run refers to, removed unless it is a dry run.

    Kept are, of each stage of a pipeline, the artifacts of its newest `keep_runs` finished runs and of its newest run,
    with all that they were made from; what is being built; and while a run is under way all that came after its start
    and every partial folder, for it may go on from there.
    """
    under_way = [run for run in runs_of(store) if lives(store, run)]
    since = min((datetime.fromisoformat(run.started).timestamp() for run in under_way), default=math.inf)
    kept = _with_parents(store, _in_use(store, keep_runs) | {key for run in under_way for key in _keys(run)})
    partial = store.root / "partial"
    for path in sorted([*store.root.glob("artifacts/*/*"), *partial.glob("*")]):
        if under_way if path.parent == partial else path.name in kept:
            continue
        with store.lock(path.name, wait=False) as is_ours:
            if not is_ours or not path.exists() or path.stat().st_mtime >= since:
                continue
            num_bytes = sum(p.stat().st_size for _, p in files_in(path))
            if not dry_run:
                if path.parent != partial:
                    store.ledger.forget(path.name)
                shutil.rmtree(path)
        yield path, num_bytes


def _in_use(store: Store, keep_runs: int) -> set[str]:
    """Keys of the runs that count; one whose artifacts are not all there does not (`unclip.runs.last_artifacts`)."""
    kept, num_runs, num_finished = set[str](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for run in runs_of(store):
        for stage in run.stages:
            keys, place, is_finished = run.keys(stage), (run.pipeline, stage), run.status == "finished"
            counts = not num_runs[place] or (is_finished and num_finished[place] < keep_runs)
            if counts and keys and all(store.find(stage, key) for key in keys):
                kept |= set(keys)
                num_runs[place] += 1
                num_finished[place] += is_finished
    return kept


def _with_parents(store: Store, keys: set[str]) -> set[str]:
    """The keys and those of all that the artifacts were made from: not always what their run found, if bytes agree."""
    artifacts = {artifact.key: artifact for artifact in store.artifacts()}
    seen, waiting = set[str](), list(keys)
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            parents = artifacts[key].manifest()["parents"] if key in artifacts else {}
            waiting += [parent for found in parents.values() for parent in found]
    return seen


def _keys(run: RunRecord) -> list[str]:
    return [key for stage in run.stages for key in run.keys(stage)]


def _digests(files: Manifest) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in files.items()}


def _counted(name: str, keys: list[str]) -> str:
    return name if len(keys) == 1 else f"{name} (1 of {len(keys)})"


def _manifest_above(path: Path) -> Manifest:
    for folder in (path, *path.parents):
        if (folder / "manifest.json").is_file():
            manifest: Manifest = json.loads((folder / "manifest.json").read_text())
            return manifest
    raise ValueError(f"{path} is not inside an artifact: no manifest.json in or above it")
