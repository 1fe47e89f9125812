"""Retries of a pipeline's download: which stand, what a new one holds, and what became of every row in the end."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from unclip.artifact import Artifact
from unclip.data.config import DownloadConfig, RetryConfig
from unclip.recipe import Recipe, digest_of, recipe_config

if TYPE_CHECKING:
    from flows.graph import Graph
    from unclip.data.retries import Retry

LENIENT = {"min_success_fraction": 0.0}  # rows that failed once mostly fail again


@dataclass(frozen=True, kw_only=True)
class RetryShard:
    """A retry that stands, as one more shard of the source."""

    retry: "Retry"
    origins: tuple[int, ...]  # of them, those whose refusals stand
    recipe: dict[str, Any]  # of its source
    download: DownloadConfig

    def config_of(self, stage: str, config: Any) -> Any:
        """The settings of a stage for this shard, given those for the others."""
        if stage == "source":
            return RetryConfig(path=str(self.retry.path), origins=self.origins)
        return self.download if stage == "download" else config


def retry_folder(graph: "Graph") -> Path:
    """Where the retries of a pipeline lie in its store."""
    return graph.store.root / "retries" / graph.name


def standing_retries(graph: "Graph") -> list[RetryShard]:
    """The retries of a pipeline of which any refusal stands; `graph.sources` are those of the list itself."""
    download = graph.pipeline.download
    if download is None or not retry_folder(graph).is_dir():
        return []
    from unclip.data.retries import read_retries, retry_recipe

    tokens = {n: token(found_download(graph, recipe, download)) for n, recipe in enumerate(graph.sources)}
    found = []
    for retry in read_retries(retry_folder(graph)):
        origins = retry.standing(tokens)
        if not origins:
            continue
        recipe = retry_recipe(RetryConfig(path=str(retry.path), origins=origins))
        settings = replaced(download, retry.settings)
        tokens[retry.shard] = token(found_download(graph, recipe, settings))
        found.append(RetryShard(retry=retry, origins=origins, recipe=recipe, download=settings))
    return found


def found_download(graph: "Graph", source: dict[str, Any], download: DownloadConfig) -> Artifact | None:
    """What was fetched of a shard, given what decides its pairs, and how they are fetched; None if it is not there."""
    stage, fetching = graph.stages()[:2]
    code, seed = graph.code_of(stage), graph.pipeline.seed
    pairs = graph.store.find(stage.name, Recipe(stage=stage.name, config=source, inputs={}, code=code, seed=seed).key)
    if pairs is None:
        return None
    config, code = dict(recipe_config(download)), graph.code_of(fetching)
    recipe = Recipe(stage=fetching.name, config=config, inputs={stage.name: (pairs.digest,)}, code=code, seed=seed)
    return graph.store.find(fetching.name, recipe.key)


def token(fetched: Artifact | None) -> str | None:
    """What a shard's refusals are known by: what decides them, and what came; None where nothing did."""
    return None if fetched is None else digest_of([fetched.key, fetched.digest])


def replaced(download: DownloadConfig, settings: dict[str, Any]) -> DownloadConfig:
    """The download's settings with some replaced. Raises: ValueError naming the field."""
    values = {name: getattr(download, name) for name in download.__dataclass_fields__}
    for name in settings:
        if name not in values:
            raise ValueError(f"--with {name}: download has no such setting; it has {', '.join(values)}")
    try:
        return TypeAdapter(DownloadConfig).validate_python(values | settings)
    except ValidationError as error:
        wrong = error.errors()[0]
        told = f"{wrong['msg'][0].lower()}{wrong['msg'][1:]}, got {wrong['input']!r}"
        raise ValueError(f"--with {'.'.join(map(str, wrong['loc']))}: {told}") from None


def add_retries(graph: "Graph", statuses: Iterable[str], settings: dict[str, Any]) -> tuple[list[int], Counter[str]]:
    """Writes shards of the rows that were refused for these reasons; their numbers, and the rows by reason.

    Of several reasons some may have no row. Raises: ValueError when the download is not whole, a reason is none or
    cannot be asked again, or no row was refused for any of them.
    """
    from unclip.data.advice import is_status
    from unclip.data.fates import may_pass
    from unclip.data.retries import refused_rows, write_retry
    from unclip.data.urls import REFUSALS

    artifacts = fetched(graph)
    refused = final_refusals(artifacts)
    asked = sorted(set(refused) - set(REFUSALS))
    given = list(statuses)
    wanted = {s for s in asked if any(_matches(s, one) for one in given) or (not given and may_pass(s))}
    odd = [one for one in given if not any(_matches(s, one) for s in asked) and (one in REFUSALS or not is_status(one))]
    if odd or not wanted:
        said = ", ".join(odd or given) or "may pass with time"
        raise ValueError(f"no row was asked for and refused as {said}; there are {', '.join(asked) or 'none'}")
    download = graph.pipeline.download
    assert download is not None
    least = download.max_side_px
    if replaced(download, LENIENT | settings).max_side_px < least:  # refused here, not when it is run
        raise ValueError(f"--with max_side_px must be at least the pipeline's {least}: its pictures train beside these")
    numbers = [*range(graph.num_listed), *(one.retry.shard for one in graph.retries)]
    tokens = {number: str(token(artifact)) for number, artifact in zip(numbers, artifacts, strict=True)}
    parts = {number: artifact.path / "rows.parquet" for number, artifact in zip(numbers, artifacts, strict=True)}
    pairs = dict(zip(numbers, pairs_of(graph), strict=True))
    rows, shards, counts = refused_rows(parts, pairs, wanted), list[int](), Counter[str]()
    while chunk := list(islice(rows, graph.pipeline.source.only.shard_size)):  # type: ignore[union-attr]
        shards.append(write_retry(retry_folder(graph), chunk, tokens, LENIENT | settings).shard)
        counts.update(row["status"] for _, row in chunk)
    return shards, counts


def _matches(status: str, given: str) -> bool:
    """Whether a status is the one given; `http_5xx` is all of its kind."""
    return status == given or (given.endswith("xx") and status.startswith(given.removesuffix("xx")))


def fetched(graph: "Graph") -> tuple[Artifact, ...]:
    """The download's artifacts, of every shard.

    Raises: ValueError when there is no URL list, or a shard is still to be fetched.
    """
    steps = download_steps(graph)
    artifacts = tuple(step.found for step in steps if step.found is not None)
    if len(artifacts) < len(steps):
        raise ValueError(
            f"{len(steps) - len(artifacts)} of {len(steps)} shards are still to be fetched: "
            f"`unclip run {graph.name} --until download` first"
        )
    return artifacts


def pairs_of(graph: "Graph") -> list[Path]:
    """What was to be fetched of every shard whose source is there."""
    found = (step.found for step in graph.steps(graph.stages()[0], {}))
    return [artifact.path / "pairs.parquet" for artifact in found if artifact is not None]


def download_steps(graph: "Graph") -> list[Any]:
    """The download's steps. Raises: ValueError when there is no URL list."""
    if graph.pipeline.download is None:
        raise ValueError(f"{graph.name} downloads nothing: its source is not a URL list")
    source, download = graph.stages()[:2]
    return list(graph.steps(download, {"source": [step.found for step in graph.steps(source, {})]}))


def final_refusals(artifacts: Iterable[Artifact]) -> Counter[str]:
    """The rows that these artifacts of the download refuse in the end, by reason.

    A row that was asked again counts for its last fate, so the shards where it was before must be among them.
    """
    counts: Counter[str] = Counter()
    for metrics in (artifact.manifest()["metrics"] for artifact in artifacts):
        counts.update(metrics["refused"])
        counts.subtract(metrics.get("asked_again", {}))
    return +counts
