"""What an evaluation samples and which figures it should reach; free of torch. How it samples is the stack's own."""

from collections.abc import Mapping
from dataclasses import dataclass

COUNTS = ("num_captions", "num_reference", "num_shown", "batch_size")
TARGETS = (
    "color_accuracy",
    "shape_accuracy",
    "single_accuracy",
    "single_color_accuracy",
    "single_shape_accuracy",
    "pair_accuracy",
    "relation_accuracy",
    "clip_score",
    "precision",
    "recall",
)
MIN_ROWS = 4  # three neighbours besides the row itself, for precision and recall


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Pictures for held-out captions under every conditioning, and the figures they get."""

    num_captions: int = 150  # held-out rows that every conditioning makes a picture for
    num_reference: int = 800  # other real held-out rows: what Fréchet distance, precision and recall compare with
    num_shown: int = 12  # captions in the grid and in the report
    num_draws: int = 4  # embeddings drawn a caption, for the diversity of a prior
    batch_size: int = 50
    precision: str = "bf16"  # autocast: "bf16", or "fp32"
    targets: Mapping[str, float] | None = None  # least value of a figure under the stack's own prior

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"evaluate.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("num_captions", "num_reference"):
            if getattr(self, name) < MIN_ROWS:
                raise ValueError(f"evaluate.{name} must be >= {MIN_ROWS}, got {getattr(self, name)}")
        if self.num_draws < 2:
            raise ValueError(f"evaluate.num_draws must be >= 2, got {self.num_draws}")
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"evaluate.precision must be 'bf16' or 'fp32', got {self.precision!r}")
        for name in self.targets or ():
            if name not in TARGETS:
                raise ValueError(f"evaluate.targets must name {', '.join(TARGETS)}; got {name!r}")
