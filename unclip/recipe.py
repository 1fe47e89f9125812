"""What decides an artifact's bytes, as data: settings, inputs and code, digested to a key."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unclip.data.digests import file_digest, remembered

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "models", "unclip")

# These carry work about and cannot change what comes out of it. What they import counts all the same.
NEUTRAL_MODULES = frozenset(
    {
        "tasks.context",
        "tasks.worker",
        "unclip.artifact",
        "unclip.data.advice",
        "unclip.guard",
        "unclip.launch",
        "unclip.ledger",
        "unclip.provenance",
        "unclip.recipe",
        "unclip.slots",
        "unclip.store",
    }
)


COMPOSITION = "tasks.config"  # puts all stages' settings together: each stands in its recipe by value


def neutral(default: Any) -> Any:
    """A dataclass field that says how a result is computed, not which (workers, ranks): it is left out of recipes.

    What differs with it is rounding, and with ranks the noise that is drawn; the manifest's metrics tell their number.
    """
    return field(default=default, metadata={"neutral": True})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides an artifact: equal recipes make equal artifacts. `inputs` are content digests."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]
    code: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return {
            "stage": self.stage,
            "config": self.config,
            "inputs": {name: list(digests) for name, digests in self.inputs.items()},
            "code": self.code,
            "seed": self.seed,
        }

    @property
    def key(self) -> str:
        """SHA-256 of the recipe, 64 hex digits."""
        return digest_of(self.as_dict())


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_config(config: Any) -> Any:
    """A dataclass as JSON values, without its neutral fields."""
    if is_dataclass(config) and not isinstance(config, type):
        kept = [f for f in fields(config) if not f.metadata.get("neutral")]
        return {f.name: recipe_config(getattr(config, f.name)) for f in kept}
    if isinstance(config, list | tuple):
        return [recipe_config(item) for item in config]
    if isinstance(config, dict):
        return {name: recipe_config(item) for name, item in config.items()}
    return config


def code_digest(entries: tuple[str, ...]) -> str:
    """SHA-256 of the syntax trees of the entry modules and all they import from this repository.

    Comments, layout and docstrings don't count; neither do `NEUTRAL_MODULES` and `COMPOSITION`.
    """
    return digest_of({name: _tree_digest(name) for name in sorted(code_modules(entries) - NEUTRAL_MODULES)})


def code_modules(entries: tuple[str, ...]) -> set[str]:
    """The modules of this repository that the entry modules reach by imports, themselves included."""
    seen: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in seen or name == COMPOSITION:
            continue
        seen.add(name)
        waiting += _imports(name)
    return seen


def _source(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(name: str) -> tuple[str, ...]:
    return tuple(n for n in _facts(name)["imports"] if _source(n) is not None)


def _tree_digest(name: str) -> str:
    return str(_facts(name)["tree"])


@cache
def _facts(name: str) -> dict[str, Any]:
    """What a module imports of this repository, and the digest of its syntax tree; parsed when its file has changed."""
    path = _source(name)
    assert path is not None, name
    facts: dict[str, Any] = json.loads(remembered(path, _kind(), _parsed))
    return facts


@cache
def _kind() -> str:
    """Names what `_parsed` says: another Python or another version of this file says something else."""
    return f"code {sys.version_info.major}.{sys.version_info.minor} {file_digest(Path(__file__))}"


def _parsed(path: Path) -> str:
    tree = ast.parse(path.read_text())
    found: list[str] = []
    for node in list(_statements(tree)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
                del node.body[0]
    ours = [n for n in found if n.split(".")[0] in PACKAGES]
    return json.dumps({"imports": ours, "tree": hashlib.sha256(ast.dump(tree).encode()).hexdigest()})


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all statements in it; where imports and docstrings are, found without a look at expressions."""
    yield node
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        inside = getattr(node, name, ())
        for child in inside if isinstance(inside, list) else ():
            yield from _statements(child)
