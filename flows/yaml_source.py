"""A named pipeline out of a YAML file as plain values, each remembering the line that set it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]
VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass
class Values:
    """Plain values and, by path, the place each was set: `pipelines.yaml:5:7` or `--set embed.batch_size`."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Where, str] = field(default_factory=dict)

    def place(self, where: Where) -> str:
        """Where the value at that path, or else the nearest one above it, was set."""
        while where and where not in self.places:
            where = where[:-1]
        return self.places.get(where, "")


def load_values(path: Path, name: str, overrides: tuple[str, ...] = ()) -> Values:
    """The pipeline `name` with what it extends merged below it and `a.b=c` overrides above.

    Maps merge, lists replace, `${env:NAME}` in a string is the environment's.

    Raises:
        ValueError: no such file or pipeline, YAML that cannot be read, a cycle in `extends`, an override without `=`.
    """
    values = _extended(path, _pipelines(path), name, ())
    for text in overrides:
        override(values, text)
    values.tree = _interpolated(values.tree, (), values.places)
    return values


def suggestion(name: str, allowed: list[str]) -> str:
    """The nearest right name for a wrong one, or all of them."""
    near = get_close_matches(name, allowed, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"it has {', '.join(allowed) or 'no settings'}"


def pipeline_names(path: Path) -> list[str]:
    """The pipelines that a file describes, in its order. Raises: ValueError when it cannot be read."""
    return list(_pipelines(path))


def _pipelines(path: Path) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    try:
        document = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: pipelines are read from it; --file names another") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(document, yaml.MappingNode):
        raise ValueError(f"{path.name} must map names to pipelines")
    return {key.value: (key, node) for key, node in document.value}


def _extended(path: Path, all_nodes: Mapping[str, Any], name: str, below: tuple[str, ...]) -> Values:
    if name not in all_nodes:
        raise ValueError(f"{path.name} has no pipeline '{name}'; it has {', '.join(all_nodes)}")
    if name in below:
        raise ValueError(f"{path.name}: 'extends' goes round in a circle: {' -> '.join([*below, name])}")
    _, node = all_nodes[name]
    own = Values()
    own.tree = _plain(path, node, (), own.places)
    base_name = own.tree.pop("extends", None)
    if base_name is None:
        return own
    base = _extended(path, all_nodes, base_name, (*below, name))
    base.tree.pop("about", None)
    return Values(_merged(base.tree, own.tree), base.places | own.places)


def _plain(path: Path, node: yaml.Node, where: Where, places: dict[Where, str]) -> Any:
    places.setdefault(where, f"{path.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}")
    if isinstance(node, yaml.MappingNode):
        tree = {}
        for key, value in node.value:
            here = (*where, key.value)
            places[here] = f"{path.name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if key.value in tree:
                raise ValueError(f"{places[here]} '{key.value}' is set twice")
            tree[key.value] = _plain(path, value, here, places)
        return tree
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, item, (*where, i), places) for i, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)


def _interpolated(value: Any, where: Where, places: Mapping[Where, str]) -> Any:
    """The value with the environment's in place of `${env:NAME}`; last of all, so that an override needs none."""
    if isinstance(value, dict):
        return {name: _interpolated(below, (*where, name), places) for name, below in value.items()}
    if isinstance(value, list):
        return [_interpolated(below, (*where, i), places) for i, below in enumerate(value)]

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            place, field = places.get(where, ""), ".".join(map(str, where))
            other = f", or --set {field}=VALUE" if all(isinstance(name, str) for name in where) else ""
            raise ValueError(f"{place} {field}: the environment has no variable {match[1]}: set it{other}".strip())
        return os.environ[match[1]]

    return VARIABLE.sub(value_of, value) if isinstance(value, str) else value


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def override(values: Values, text: str) -> None:
    """Sets one value by `a.b=c`. Raises: ValueError for what is not that."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"--set must be stage.field=value, got '{text}'")
    where: Where = tuple(path.split("."))
    tree = values.tree
    for depth, name in enumerate(where[:-1]):
        below = tree.get(str(name))
        if not isinstance(below, dict):
            below = tree[str(name)] = {}
        tree = below
        values.places[where[: depth + 1]] = f"--set {path}"
    try:
        tree[str(where[-1])] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {path} must be a value as YAML has it, got '{value}'") from None
    values.places[where] = f"--set {path}"
