"""Which stage reads which, what decides each one's result, and what of it the store already holds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from flows.config import TRAINED, Pipeline, load_pipeline
from flows.retries import standing_retries
from unclip.artifact import Artifact
from unclip.data.digests import known_digest
from unclip.data.source_plan import EVALUATION_FILES, HEAD_FILES, folder_digest, shard_recipes
from unclip.recipe import Recipe, code_digest, digest_of, recipe_config
from unclip.store import Store

MAX_BESIDE = 2  # stages of a group that are made at the same time


@dataclass(frozen=True)
class Stage:
    """One stage: the inputs it reads, whether it works shard by shard, whether it trains in a process of its own.

    Neighbours of one `group` don't read each other and are made side by side, each with its share of the cores.
    """

    name: str
    inputs: tuple[str, ...] = ()
    per_shard: bool = False
    trained: bool = False
    group: str = ""

    @property
    def code(self) -> tuple[str, ...]:
        """The modules whose code, with all it imports, decides the result."""
        return (f"tasks.{self.name}", "tasks.worker") if self.trained else (f"tasks.{self.name}",)

    @property
    def resumes(self) -> bool:
        """Whether it goes on from what a killed run left."""
        return self.trained or self.name == "download"


NETWORKS = ("clip", "pca", "prior_linear", *TRAINED)

STAGES = (
    Stage("source", per_shard=True),
    Stage("download", ("source",), per_shard=True),
    Stage("score", ("shards",), per_shard=True),
    Stage("filter", ("shards", "score")),
    Stage("clip", ("shards", "filter"), trained=True, group="pixels"),
    Stage("upsampler_mid", ("shards", "filter"), trained=True, group="pixels"),
    Stage("upsampler_top", ("shards", "filter"), trained=True, group="pixels"),
    Stage("embed", ("shards", "clip"), per_shard=True),
    Stage("aesthetic", ("embed",), per_shard=True),
    Stage("select", ("embed", "filter", "aesthetic")),
    Stage("index", ("embed",)),
    Stage("pca", ("embed", "select")),
    Stage("prior_linear", ("embed", "select")),
    Stage("prior_diffusion", ("embed", "select"), trained=True, group="priors"),
    Stage("prior_ar", ("embed", "select", "pca"), trained=True, group="priors"),
    Stage("decoder", ("shards", "embed", "select"), trained=True),
    Stage("assemble", ("clip", "pca", "prior_linear", *TRAINED)),
    Stage("evaluate", ("assemble", *NETWORKS, "shards", "embed", "select", "aesthetic")),
    Stage(
        "report",
        ("shards", "score", "filter", "embed", "select", "index", *NETWORKS, "assemble", "evaluate"),
    ),
)


@dataclass
class Step:
    """One artifact of a run: found in the store, or to be made, and then why."""

    stage: Stage
    shard: int | None
    config: Any
    recipe: Recipe | None = None  # None while an input is not made yet
    found: Artifact | None = None


@dataclass
class Graph:
    """The stages of one pipeline over one store; knows what is made and what is to make."""

    name: str
    pipeline: Pipeline
    store: Store
    accepted: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        record = self.store.root / "accepted.json"
        self.accepted = json.loads(record.read_text()) if record.exists() else {}
        self.sources = shard_recipes(self.pipeline.source.only)
        self.folders: dict[str, dict[str, str]] = {}  # what settings name, by its bytes; looked at before anything runs
        if aesthetic := self.pipeline.aesthetic:
            head = folder_digest(Path(aesthetic.head), "aesthetic.head", HEAD_FILES)
            self.folders["aesthetic"] = {"head": head}
        if evaluation := self.pipeline.select.evaluation:
            dump = folder_digest(Path(evaluation), "select.evaluation", EVALUATION_FILES)
            self.folders["select"] = {"evaluation": dump}
        self.num_listed = len(self.sources)  # shards; those of retries come after them
        self.retries = standing_retries(self)
        self.sources = [*self.sources, *(retry.recipe for retry in self.retries)]

    def stages(self, until: str | None = None) -> list[Stage]:
        """The pipeline's stages in order; with `until`, that one and what it needs.

        Raises:
            ValueError: no stage of that name.
        """
        present = [stage for stage in STAGES if self.has(stage.name)]
        names = [s.name for s in present]
        if until is None:
            return present
        if until not in names:
            raise ValueError(f"--until must be one of {', '.join(names)}; got '{until}'")
        needed = {until}
        for stage in reversed(present):
            if stage.name in needed:
                needed |= set(self.inputs_of(stage).values())
        return [stage for stage in present if stage.name in needed]

    def has(self, stage: str) -> bool:
        """Whether the pipeline has that stage, that is a section of it; one that makes `shards` there always is."""
        return stage == "shards" or getattr(self.pipeline, stage) is not None

    def groups(self, until: str | None = None) -> list[list[Stage]]:
        """The same stages, those that are made side by side together."""
        keyed = groupby(self.stages(until), key=lambda stage: stage.group or stage.name)
        return [list(members) for _, members in keyed]

    def inputs_of(self, stage: Stage) -> dict[str, str]:
        """The stage that makes each input, by the input's name."""
        shards = "source" if self.pipeline.download is None else "download"
        return {name: shards if name == "shards" else name for name in stage.inputs if self.has(name)}

    def config_of(self, stage: Stage) -> Any:
        """The stage's own settings."""
        return self.pipeline.source.only if stage.name == "source" else getattr(self.pipeline, stage.name)

    def code_of(self, stage: Stage) -> str:
        """The digest of the stage's code, or the one that it was accepted to equal."""
        digest, seen = code_digest(stage.code), set[str]()
        while digest in self.accepted and digest not in seen:
            seen.add(digest)
            digest = self.accepted[digest]
        return digest

    def steps(self, stage: Stage, made: Mapping[str, Sequence[Artifact | None]]) -> Iterator[Step]:
        """The artifacts of a stage, given those of the stages before it.

        A stage that is missing in `made`, or a shard that is None in it, is not made yet.
        """
        code = self.code_of(stage)
        shards: list[int | None] = list(range(len(self.sources))) if stage.per_shard else [None]
        for shard in shards:
            config = self._config_of_shard(stage, shard)
            digests = self._digests(stage, made, shard)
            if digests is None:
                yield Step(stage, shard, config)
                continue
            recipe = Recipe(
                stage=stage.name,
                config=self._recipe_config(stage, config, shard),
                inputs=digests,
                code=code,
                seed=self.pipeline.seed,
            )
            yield Step(stage, shard, config, recipe, self.store.find(stage.name, recipe.key))

    def inputs(self, step: Step, made: dict[str, tuple[Artifact, ...]]) -> dict[str, tuple[Artifact, ...]]:
        """The artifacts that a step reads, by input name."""
        sources = self.inputs_of(step.stage)
        return {name: self._of_shard(made[source], source, step.shard) for name, source in sources.items()}

    def _config_of_shard(self, stage: Stage, shard: int | None) -> Any:
        """The stage's settings for a shard: rows that are fetched again may have settings of their own."""
        config = self.config_of(stage)
        if shard is None or shard < self.num_listed:
            return config
        return self.retries[shard - self.num_listed].config_of(stage.name, config)

    def _recipe_config(self, stage: Stage, config: Any, shard: int | None) -> dict[str, Any]:
        if stage.name == "source":
            assert shard is not None
            return self.sources[shard]
        values = dict(recipe_config(config))
        if stage.name == "clip" and config.pretrained:
            values["pretrained"] = pretrained_recipe(config.pretrained)
        values |= self.folders.get(stage.name, {})
        return values

    def _digests(
        self, stage: Stage, made: Mapping[str, Sequence[Artifact | None]], shard: int | None
    ) -> dict[str, tuple[str, ...]] | None:
        """What a step reads, by input name; None while any of it is to be made."""
        digests = {}
        for name, source in self.inputs_of(stage).items():
            read = self._of_shard(made.get(source, (None,) * len(self.sources)), source, shard)
            whole = tuple(artifact.digest for artifact in read if artifact is not None)
            if len(whole) < len(read):
                return None
            digests[name] = whole
        return digests

    def _of_shard(self, artifacts: Sequence[Any], source: str, shard: int | None) -> tuple[Any, ...]:
        per_shard = next(s for s in STAGES if s.name == source).per_shard
        return (artifacts[shard],) if shard is not None and per_shard else tuple(artifacts)


def pretrained_recipe(name_and_weights: str) -> str:
    """`MODEL:WEIGHTS` with the digest of the weights where they are a file: its bytes count, not its place.

    Of `local-dir:FOLDER` the weights and all that is said beside them count.
    """
    name, _, weights = name_and_weights.partition(":")
    if weights and Path(weights).is_file():
        return f"{name}:{known_digest(Path(weights))}"
    if name == "local-dir" and Path(weights).is_dir():
        files = sorted(path for path in Path(weights).iterdir() if path.suffix in (".safetensors", ".json"))
        return f"{name}:{digest_of({path.name: known_digest(path) for path in files})}"
    return name_and_weights


def open_graph(file: Path, name: str, store: Path, overrides: tuple[str, ...] = ()) -> Graph:
    """The graph of a named pipeline over a store.

    Raises:
        ValueError: everything that is wrong with the pipeline, a line each.
    """
    return Graph(name, load_pipeline(file, name, overrides), Store(store))
