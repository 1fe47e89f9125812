"""What a stage is handed: its settings, its inputs, where to write, and whom to tell."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from unclip.artifact import Artifact
from unclip.recipe import Recipe, code_digest
from unclip.store import WORK, Build, Store

Progress = Callable[..., None]


def silent(done: float, total: float, **figures: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """One stage's work: `inputs` by name, per-shard ones in shard order; files go into `out`.

    `out` is a partial folder: what a killed run of the same recipe left there may be gone on from. `progress(done,
    total, **figures)` is cheap and may be called every step.
    """

    stage: str
    config: Any
    inputs: dict[str, tuple[Artifact, ...]]
    out: Path
    seed: int
    device: str = "cpu"
    threads: int = 1  # of computation on the CPU
    shard: int | None = None
    rank: int = 0  # which of the processes that train the stage together this is
    planned: dict[str, Any] = field(default_factory=dict)  # what the recipe says of the settings and the source's data
    progress: Progress = field(default=silent, compare=False)
    store: Store | None = field(default=None, compare=False)  # where pieces are kept
    pieces: dict[str, list[Artifact]] = field(default_factory=dict, compare=False)  # kept ones that this was made from

    def one(self, name: str) -> Artifact:
        """The only artifact of the input `name`."""
        (artifact,) = self.inputs[name]
        return artifact

    @property
    def cache(self) -> Path:
        """This process's folder of what a killed run need not make again, removed on publication."""
        return self.out / WORK / (f"cache-{self.rank}" if self.rank else "cache")

    def piece(self, kind: str, inputs: dict[str, tuple[str, ...]], settings: Any, fill: Callable[[Path], None]) -> Path:
        """The folder of a piece of this artifact, found in the store by a recipe of its own or made and kept there.

        inputs: digests of what decides it, by name; those that are artifacts of an input become its parents.
        fill: writes it, given a folder; its module and what that imports are the recipe's code.
        Without a store it is made in `cache`.
        """
        if self.store is None:
            folder = self.cache / "pieces" / str(len(self.pieces.setdefault(kind, []))) / kind
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            fill(folder)
            self.pieces[kind].append(Artifact(kind, "", folder, ""))
            return folder
        module = getattr(fill, "func", fill).__module__
        recipe = Recipe(stage=kind, config=settings, inputs=inputs, code=code_digest((module,)), seed=self.seed)
        known = {name: [self._keys.get((name, digest)) for digest in digests] for name, digests in inputs.items()}
        parents = {name: made for name, keys in known.items() if (made := tuple(key for key in keys if key))}

        def filled(out: Path) -> dict[str, Any]:
            fill(out)
            return {}

        found, _ = self.store.build(Build(kind=kind, recipe=recipe, parents=parents, fill=filled))
        self.pieces.setdefault(kind, []).append(found)
        return found.path

    @cached_property
    def _keys(self) -> dict[tuple[str, str], str]:
        """The keys of all inputs by name and digest: each of many pieces asks for its own."""
        return {(name, a.digest): a.key for name, artifacts in self.inputs.items() for a in artifacts}

    @property
    def num_ranks(self) -> int:
        """The processes that train the stage; one where it trains nothing."""
        train = getattr(self.config, "train", None)
        return 1 if train is None else int(train.ranks)

    def to_json(self) -> str:
        """The context as text for another process; `progress` stays behind."""
        inputs = {
            name: [[a.kind, a.key, str(a.path), a.digest] for a in artifacts] for name, artifacts in self.inputs.items()
        }
        kind = type(self.config)
        record = {
            "stage": self.stage,
            "config": asdict(self.config),
            "config_type": f"{kind.__module__}:{kind.__qualname__}",
            "inputs": inputs,
            "out": str(self.out),
            "seed": self.seed,
            "device": self.device,
            "threads": self.threads,
            "shard": self.shard,
            "planned": self.planned,
        }
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str, progress: Progress = silent) -> "Context":
        """The context that `to_json` wrote."""
        record = json.loads(text)
        module, _, name = record.pop("config_type").partition(":")
        config = TypeAdapter(getattr(import_module(module), name)).validate_python(record.pop("config"))
        inputs = {
            name: tuple(Artifact(kind, key, Path(path), digest) for kind, key, path, digest in artifacts)
            for name, artifacts in record.pop("inputs").items()
        }
        return cls(config=config, inputs=inputs, out=Path(record.pop("out")), progress=progress, **record)
