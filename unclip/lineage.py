"""Questions about the store: what made this, what differs, is it whole, what can go."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.runs import runs_of
from unclip.store import Store, content_digest, files_in, sha256_of

Manifest = dict[str, Any]


def resolve(store: Store, reference: str) -> Manifest:
    """The manifest that a key prefix (4 digits or more), a path in the store, or a PNG of ours names.

    Raises:
        ValueError: nothing or more than one thing fits.
    """
    path = Path(reference)
    if path.suffix == ".png" and path.is_file():
        reference = stack_of_png(path)
    elif path.exists():
        return _manifest_above(path.resolve())
    if len(reference) < 4 or not set(reference) <= set("0123456789abcdef"):
        raise ValueError(f"'{reference}' is no key prefix (4 or more hex digits), no path in the store and no PNG")
    found = {m["key"]: m for m in store.ledger.matching(reference)}
    if len(found) != 1:
        some = ", ".join(f"{m['kind']} {k[:12]}" for k, m in list(found.items())[:5])
        raise ValueError(f"'{reference}' names {len(found)} artifacts of {store.root}" + (f": {some}" if some else ""))
    return next(iter(found.values()))


def stack_of_png(path: Path) -> str:
    """The key of the stack that made a picture, from the picture's own metadata."""
    with Image.open(path) as image:
        record = image.info.get("unclip")
    if record is None:
        raise ValueError(f"{path} carries no lineage: it was not made by `unclip generate`, or was saved again since")
    return str(json.loads(record)["stack"])


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
    """Kind, key and what is wrong with it, for every artifact whose bytes are not what its manifest says."""
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


def collect(store: Store, keep_runs: int, dry_run: bool) -> Iterator[tuple[Path, int]]:
    """Folder and bytes of what no kept run refers to, removed unless it is a dry run. Keeps `keep_runs` a pipeline."""
    kept, count = set[str](), dict[str, int]()
    for run in runs_of(store):
        count[run.pipeline] = count.get(run.pipeline, 0) + 1
        if count[run.pipeline] <= keep_runs:
            kept |= {key for stage in run.stages.values() for key in stage["keys"]}
    for path in sorted([*store.root.glob("artifacts/*/*"), *store.root.glob("partial/*")]):
        if path.name in kept and path.parent.name != "partial":
            continue
        yield path, sum(p.stat().st_size for _, p in files_in(path))
        if not dry_run:
            store.ledger.forget(path.name)
            shutil.rmtree(path)


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
