"""The sections of a pipeline: one frozen dataclass a stage, made of the settings of its parts; free of torch."""

from dataclasses import dataclass

from models.config import (
    ArPriorConfig,
    ClipConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    UpsamplerConfig,
)
from unclip.data.config import FolderConfig, ShapesConfig, ShardsConfig, UrlsConfig
from unclip.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class SourceStage:
    """Where pictures and captions come from: exactly one of the four."""

    shapes: ShapesConfig | None = None
    folder: FolderConfig | None = None
    shards: ShardsConfig | None = None
    urls: UrlsConfig | None = None

    def __post_init__(self) -> None:
        if len(self.named) != 1:
            raise ValueError(f"source needs exactly one of shapes, folder, shards, urls; got {len(self.named)}")

    @property
    def named(self) -> list[ShapesConfig | FolderConfig | ShardsConfig | UrlsConfig]:
        """The sources that are set."""
        return [s for s in (self.shapes, self.folder, self.shards, self.urls) if s is not None]

    @property
    def only(self) -> ShapesConfig | FolderConfig | ShardsConfig | UrlsConfig:
        """The source."""
        return self.named[0]


@dataclass(frozen=True, kw_only=True)
class ClipStage:
    """A frozen CLIP: trained here from scratch (`network`, `train`), or named (`pretrained`, as `MODEL:WEIGHTS`)."""

    network: ClipConfig | None = None
    train: TrainConfig | None = None
    pretrained: str | None = None
    gray_prob: float = 0.0  # of training pictures that are shown without their colours
    min_zero_shot: float = 0.95  # accuracy of each attribute on held-out pictures, where the data knows attributes

    def __post_init__(self) -> None:
        trained = self.network is not None and self.train is not None
        if trained == (self.pretrained is not None) or (self.network is None) != (self.train is None):
            raise ValueError("clip needs either 'network' and 'train' (trained here) or 'pretrained' (MODEL:WEIGHTS)")
        if self.train is not None and self.train.accumulate > 1:
            raise ValueError("clip.train.accumulate must be 1: pairs are contrasted within their part of a batch")
        if not 0 <= self.gray_prob <= 1:
            raise ValueError(f"clip.gray_prob must be between 0 and 1, got {self.gray_prob}")
        if self.gray_prob and not trained:
            raise ValueError("clip.gray_prob has no effect where CLIP is not trained here: leave it out")
        if not 0 <= self.min_zero_shot <= 1:
            raise ValueError(f"clip.min_zero_shot must be between 0 and 1, got {self.min_zero_shot}")


@dataclass(frozen=True, kw_only=True)
class PriorDiffusionStage:
    """The diffusion prior (§2.2) and how it trains."""

    network: DiffusionPriorConfig = DiffusionPriorConfig()
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class PriorArStage:
    """The autoregressive prior (§2.2) and how it trains."""

    network: ArPriorConfig = ArPriorConfig()
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class DecoderStage:
    """The decoder (§2.1) and how it trains."""

    network: DecoderConfig = DecoderConfig()
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class UpsamplerStage:
    """One upsampler (§2.1) and how it trains."""

    network: UpsamplerConfig = UpsamplerConfig()
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class ScoreStage:
    """The score columns of a shard; thresholds are the filter's. Scores of the source's own: a field of their JSON."""

    unsafe_field: str = "punsafe"  # as LAION calls them
    watermark_field: str = "pwatermark"


@dataclass(frozen=True, kw_only=True)
class ReportStage:
    """The static HTML page."""

    title: str = "unCLIP"
