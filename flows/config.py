"""A pipeline as one validated value: the sections of its stages, its schedule and its seed."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from flows.yaml_source import Values, Where, load_values, suggestion
from models.config import NO_PRIOR, LinearPriorConfig, PcaConfig, UpsamplerConfig
from tasks.assemble_config import AssembleConfig
from tasks.config import (
    ClipStage,
    DecoderStage,
    PriorArStage,
    PriorDiffusionStage,
    ReportStage,
    ScoreStage,
    SourceStage,
    UpsamplerStage,
)
from tasks.evaluate_config import EvaluateConfig
from unclip.data.config import AestheticConfig, DownloadConfig, EmbedConfig, FilterConfig, IndexConfig, SelectConfig
from unclip.data.opt_outs import blocking


class Schedule(BaseModel):
    """When `unclip serve` starts the pipeline: a cron line or a number of seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str | None = None
    every_s: float | None = None

    def model_post_init(self, _: Any) -> None:
        """Refuse a schedule that says both or nothing."""
        if (self.cron is None) == (self.every_s is None):
            raise ValueError("schedule needs either 'cron' or 'every_s'")
        if self.every_s is not None and self.every_s <= 0:
            raise ValueError(f"schedule.every_s must be > 0, got {self.every_s}")


class Runner(BaseModel):
    """Where the shards of a stage are made: one after the other here, or side by side by Prefect's task runners.

    Shards are the same bytes wherever they are made. A cluster at an `address` needs this code, its environment and
    the store's folder at the same path on every worker, and a Prefect server that they reach (PREFECT_API_URL).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["here", "threads", "dask", "ray"] = "here"
    num_workers: int | None = None  # side by side; of a local cluster, its processes
    address: str | None = None  # of a running cluster: tcp://HOST:8786 (Dask), ray://HOST:10001, auto (Ray)

    def model_post_init(self, _: Any) -> None:
        """Refuse what has no effect."""
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise ValueError(f"runner.address has no effect on kind '{self.kind}': it is for dask and ray")
        if self.num_workers is not None and (self.kind == "here" or self.address is not None):
            raise ValueError("runner.num_workers has no effect: it is for threads, or a cluster of the run's own")
        if self.num_workers is None and self.kind != "here" and self.address is None:
            raise ValueError(f"runner.num_workers is needed for kind '{self.kind}' without an address")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"runner.num_workers must be >= 1, got {self.num_workers}")
        if self.kind in ("dask", "ray") and find_spec(f"prefect_{self.kind}") is None:
            raise ValueError(f"runner.kind {self.kind} needs prefect-{self.kind}: pip install 'unclip[{self.kind}]'")


TRAINED = ("prior_diffusion", "prior_ar", "decoder", "upsampler_mid", "upsampler_top")
BESIDE = ("prior_linear", "assemble", "evaluate")  # stages that are there with the trained ones, settings or not
Model = TypeVar("Model", bound=BaseModel)
LARGE_WIDTH = 1024  # of a prior, or of the decoder's lowest level: a billion parameters at table 3's depths


class Pipeline(BaseModel):
    """Every setting of a pipeline. A section a stage; a stage without one is not there.

    `download` is for a URL list, `aesthetic` by choice. All of TRAINED make a stack, with BESIDE; without any of them
    the pipeline is about data alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = ""
    seed: int = 0
    device: str = "cpu"
    schedule: Schedule | None = None
    runner: Runner = Runner()
    source: SourceStage
    download: DownloadConfig | None = None
    score: ScoreStage = ScoreStage()
    filter: FilterConfig = FilterConfig()
    clip: ClipStage
    embed: EmbedConfig = EmbedConfig()
    aesthetic: AestheticConfig | None = None
    select: SelectConfig = SelectConfig()
    index: IndexConfig = IndexConfig()
    pca: PcaConfig = PcaConfig()
    prior_linear: LinearPriorConfig | None = None
    prior_diffusion: PriorDiffusionStage | None = None
    prior_ar: PriorArStage | None = None
    decoder: DecoderStage | None = None
    upsampler_mid: UpsamplerStage | None = None
    upsampler_top: UpsamplerStage | None = None
    assemble: AssembleConfig | None = None
    evaluate: EvaluateConfig | None = None
    report: ReportStage = ReportStage()

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        is_stack = isinstance(values, dict) and all(values.get(name) is not None for name in TRAINED)
        return {name: {} for name in BESIDE} | values if is_stack else values

    @property
    def is_large(self) -> bool:
        """Whether nobody would just try it: a network of a width that a CPU does not train."""
        if self.prior_diffusion is None or self.prior_ar is None or self.decoder is None:
            return False
        decoder = self.decoder.network.unet
        widths = (self.prior_diffusion.network.width, self.prior_ar.network.width)
        return max(*widths, decoder.channels * max(decoder.multiples)) >= LARGE_WIDTH

    def problems(self) -> Iterator[tuple[str, str]]:
        """What each section allows alone but not together: field and message."""
        yield from self._stack_problems()
        if self.source.urls and self.download is None:
            yield "download", "is needed: the source is a URL list"
        if not self.source.urls and self.download is not None:
            yield "download", "has no effect: the source is not a URL list"
        if self.select.needs_aesthetic and self.aesthetic is None:
            yield "select", "needs the section aesthetic: {head: FOLDER} for min_aesthetic or keep: best_aesthetic"
        dim = self.clip.network.embed_dim if self.clip.network else None
        if dim and (self.pca.num_components or 0) > dim:
            yield "pca.num_components", f"must be at most clip.network.embed_dim {dim}, got {self.pca.num_components}"
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            yield "device", f"must be cpu, cuda or cuda:N, got '{self.device}'"
        elif self.device != "cpu" and not Path("/dev/nvidiactl").exists():
            yield "device", f"{self.device} is not on this machine: cpu is"
        yield from self._ranks()
        if self.runner.kind == "dask" and self.embed.workers:
            yield (
                "embed.workers",
                f"must be 0 with runner.kind dask, whose workers start no others: got {self.embed.workers}",
            )
        if self.seed < 0:
            yield "seed", f"must be >= 0, got {self.seed}"

    def _stack_problems(self) -> Iterator[tuple[str, str]]:
        """The sections of a stack that are missing, or do not fit each other."""
        there = [name for name in (*TRAINED, *BESIDE) if getattr(self, name) is not None]
        is_stack = any(name in there for name in TRAINED)
        for name in (*TRAINED, *BESIDE):
            if is_stack and name not in there:
                yield name, f"is required with {there[0]}: leave all of {', '.join(TRAINED)} out to train nothing"
            elif not is_stack and name in there:
                yield name, f"has no effect without {', '.join(TRAINED)}"
        mid, top, prior = self.upsampler_mid, self.upsampler_top, self.prior_diffusion
        decoder, assemble = self.decoder, self.assemble
        if decoder is None or mid is None or top is None or prior is None or assemble is None:
            return
        px = decoder.network.image_px
        if mid.network.low_px != px:
            yield "upsampler_mid.network.low_px", f"must be the decoder's image_px {px}, got {mid.network.low_px}"
        if top.network.low_px != mid.network.high_px:
            high_px = mid.network.high_px
            yield "upsampler_top.network.low_px", f"must be upsampler_mid's high_px {high_px}, got {top.network.low_px}"
        steps_of = {"prior": prior.network.num_steps, "decoder": decoder.network.num_steps}
        for name, most in (steps_of | {"mid": mid.network.num_steps, "top": top.network.num_steps}).items():
            if (steps := getattr(assemble, f"{name}_steps")) > most:
                yield f"assemble.{name}_steps", f"must be at most the {most} steps that were trained, got {steps}"
        if decoder.network.embedding == "text" and assemble.prior != NO_PRIOR:
            yield "assemble.prior", f"must be {NO_PRIOR} for a decoder of text embeddings, got {assemble.prior}"
        yield from self._tile_problems(assemble.tile_px, mid.network, top.network)
        seen = self.clip.network.vision.image_px if self.clip.network else 0
        largest, side = max(px, seen, top.network.high_px), self.download.max_side_px if self.download else math.inf
        if side < largest:
            yield "download.max_side_px", f"must be at least {largest}, the pictures that train, got {side}"

    @staticmethod
    def _tile_problems(tile: int | None, mid: UpsamplerConfig, top: UpsamplerConfig) -> Iterator[tuple[str, str]]:
        multiple = math.lcm(mid.unet.min_multiple, top.unet.min_multiple)
        if tile is not None and (tile < 2 * multiple or tile % multiple):
            yield "assemble.tile_px", f"must be a multiple of {multiple} and at least {2 * multiple}, got {tile}"
        elif tile is not None and tile >= top.high_px:
            yield "assemble.tile_px", f"has no effect: pictures are of {top.high_px} pixels, got {tile}"

    def _ranks(self) -> Iterator[tuple[str, str]]:
        """Stages that want more GPUs than there are."""
        gpus = len(glob("/dev/nvidia[0-9]*"))
        for name in type(self).model_fields:
            ranks = getattr(getattr(getattr(self, name), "train", None), "ranks", 1)
            if ranks > 1 and self.device.startswith("cuda:"):
                yield f"{name}.train.ranks", f"must be 1 on {self.device}, got {ranks}; device cuda takes several"
            elif ranks > 1 and self.device == "cuda" and ranks > gpus:
                yield f"{name}.train.ranks", f"must be at most the {gpus} GPUs of this machine, got {ranks}"


def load_pipeline(path: Path, name: str, overrides: tuple[str, ...] = ()) -> Pipeline:
    """The pipeline of that name, whole and checked.

    Raises:
        ValueError: everything that is wrong, a line each, with file, line, column, field and what is allowed.
    """
    values = load_values(path, name, overrides)
    pipeline = validated(Pipeline, values, name)
    problems = [_line(values, tuple(field.split(".")), name, message) for field, message in pipeline.problems()]
    if problems:
        raise ValueError("\n".join(problems))
    urls, download = pipeline.source.urls, pipeline.download
    if urls is None or download is None:
        return pipeline
    return pipeline.model_copy(update={"download": blocking(download, urls)})


def validated(model: type[Model], values: Values, name: str) -> Model:
    """The values as a model. Raises: ValueError, a line for each that is wrong."""
    try:
        return model.model_validate(values.tree)
    except ValidationError as error:
        raise ValueError("\n".join(_explained(e, values, name, model) for e in error.errors())) from None


def _explained(error: Any, values: Values, name: str, model: type[BaseModel]) -> str:
    where: Where = tuple(error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return _line(values, where, name, suggestion(str(where[-1]), _allowed(where[:-1], model)), joint=":")
    if error["type"] in ("missing", "missing_argument"):
        return _line(values, where, name, "is required")
    if error["type"] == "value_error":
        return _line(values, where, name, str(error["ctx"]["error"]), joint=":")
    message = error["msg"][0].lower() + error["msg"][1:]
    return _line(values, where, name, f"{message}, got {error['input']!r}", joint=":")


def _line(values: Values, where: Where, name: str, message: str, joint: str = "") -> str:
    place, path = values.place(where), ".".join(map(str, where))
    named = [place] if place.startswith(f"--set {path}") else [place, ".".join([name, *map(str, where)])]
    return f"{' '.join(named)}{joint} {message}".strip()


def _allowed(where: Where, model: type[BaseModel]) -> list[str]:
    """The settings of the section at that path."""
    names = _settings(model)
    for step in where:
        kinds = (names.get(str(step)), *get_args(names.get(str(step))))
        kind = next((k for k in kinds if _has_fields(k)), None)
        if kind is None:
            return []
        names = _settings(kind)
    return list(names)


def _settings(kind: Any) -> dict[str, Any]:
    """The settings of a section by name, with their types."""
    if is_dataclass(kind):
        return {f.name: f.type for f in fields(kind)}
    return {name: field.annotation for name, field in kind.model_fields.items()}


def _has_fields(kind: Any) -> bool:
    return is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))
