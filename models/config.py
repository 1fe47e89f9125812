"""Sizes and settings of every network; free of torch, so that a plan can read them at once."""

from dataclasses import dataclass


def _require_schedule(schedule: str, num_steps: int) -> None:
    _require(schedule in ("cosine", "linear"), f"schedule must be cosine or linear, got {schedule!r}")
    _require(num_steps >= 1, f"num_steps must be >= 1, got {num_steps}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The image tower of a CLIP trained from scratch: an open_clip vision transformer."""

    image_px: int = 32
    patch_px: int = 4
    width: int = 128
    layers: int = 4
    head_width: int = 32


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text tower of a CLIP trained from scratch: an open_clip causal transformer."""

    context: int = 32
    width: int = 128
    heads: int = 4
    layers: int = 2


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """A CLIP trained from scratch: joint dimension and the two towers."""

    embed_dim: int = 128
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()


@dataclass(frozen=True, kw_only=True)
class CaptionEncoderConfig:
    """A text transformer trained with its stage (§2.1, App. C table 3 "text encoder")."""

    width: int = 128
    depth: int = 2
    heads: int = 4


@dataclass(frozen=True, kw_only=True)
class DiffusionPriorConfig:
    """Decoder-only transformer that predicts the unnoised image embedding (§2.2)."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    caption: CaptionEncoderConfig = CaptionEncoderConfig()
    dropout_prob: float = 0.0
    condition_drop_prob: float = 0.1  # §2.2
    num_steps: int = 1000  # App. C, table 3
    schedule: str = "cosine"  # App. C, table 3
    scale: float | None = None  # None: 0.5375 * sqrt(D), which is 17.2 at D = 1024 (App. C)


@dataclass(frozen=True, kw_only=True)
class ArPriorConfig:
    """Causal transformer over quantised principal components (§2.2)."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    caption: CaptionEncoderConfig = CaptionEncoderConfig()
    dropout_prob: float = 0.0
    condition_drop_prob: float = 0.1  # §2.2
    num_dot_buckets: int = 64  # ours: the paper does not say


@dataclass(frozen=True, kw_only=True)
class LinearPriorConfig:
    """Ridge regression from text embedding to image embedding: the baseline every prior must beat."""

    ridge: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class PcaConfig:
    """Principal components of image embeddings and their quantisation (§2.2)."""

    num_components: int | None = None  # None: the fewest that keep `keep_fraction` of the variance
    keep_fraction: float = 0.99  # §2.2
    num_buckets: int = 1024  # §2.2


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """ADM U-Net: residual blocks per resolution, attention where asked (App. C, table 3)."""

    channels: int = 64
    multiples: tuple[int, ...] = (1, 2)
    depth: int = 2  # residual blocks per resolution
    head_channels: int = 32
    attention_px: tuple[int, ...] = ()  # sides of the maps (after patching) at which blocks attend; () is none
    patch: int = 1  # space-to-depth factor before the first convolution; 1 in the paper
    dropout_prob: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channels", "depth", "head_channels", "patch"):
            _require(getattr(self, name) >= 1, f"unet.{name} must be >= 1, got {getattr(self, name)}")
        _require(self.channels % 2 == 0, f"unet.channels must be even, got {self.channels}")
        _require(min(self.multiples, default=0) >= 1, f"unet.multiples must be >= 1, got {self.multiples}")
        _require(0 <= self.dropout_prob < 1, f"unet.dropout_prob must be in [0, 1), got {self.dropout_prob}")

    def map_sides(self, px: int) -> tuple[int, ...]:
        """The side of the feature maps at each level, for pictures of a side of `px`.

        Raises: ValueError where the patch and the levels do not divide `px` or `attention_px` names no level.
        """
        multiple = self.patch * 2 ** (len(self.multiples) - 1)
        _require(px % multiple == 0, f"px must be a multiple of {multiple} (unet.patch and levels), got {px}")
        sides = tuple(px // self.patch // 2**level for level in range(len(self.multiples)))
        unused = sorted(set(self.attention_px) - set(sides))
        _require(not unused, f"unet.attention_px must be among the map sides {sides}, got {unused}")
        for side, count in zip(sides, self.multiples, strict=True):
            channels = self.channels * count
            fits = side not in self.attention_px or channels % self.head_channels == 0
            _require(fits, f"unet.head_channels must divide {channels} channels, got {self.head_channels}")
        return sides


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Image embedding and caption to pixels (§2.1)."""

    image_px: int = 32
    unet: UNetConfig = UNetConfig(attention_px=(16,))
    caption: CaptionEncoderConfig = CaptionEncoderConfig()
    num_image_tokens: int = 4  # §2.1
    image_drop_prob: float = 0.1  # §2.1
    caption_drop_prob: float = 0.5  # §2.1
    num_steps: int = 1000
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        self.unet.map_sides(self.image_px)
        _require(self.num_image_tokens >= 1, f"num_image_tokens must be >= 1, got {self.num_image_tokens}")
        for name in ("image_drop_prob", "caption_drop_prob"):
            _require(0 <= getattr(self, name) <= 1, f"{name} must be from 0 to 1, got {getattr(self, name)}")
        _require_schedule(self.schedule, self.num_steps)


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """A low-resolution image to one of higher resolution; convolutions only, unconditional (§2.1)."""

    low_px: int = 32
    high_px: int = 48
    crop_fraction: float = 0.25  # of the area (App. C, table 3); 1.0 trains on whole pictures
    unet: UNetConfig = UNetConfig(channels=32)
    degradation: str = "blur"  # "blur" (§2.1, 64 to 256), "bsr_light", "bsr_full" (256 to 1024)
    blur_prob: float = 0.5  # ours: the paper does not say; "blur" only
    num_steps: int = 1000
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        self.unet.map_sides(self.high_px)
        _require(not self.unet.attention_px, f"unet.attention_px must be empty, got {self.unet.attention_px}")
        _require(self.low_px < self.high_px, f"high_px must be > low_px {self.low_px}, got {self.high_px}")
        _require(0 < self.crop_fraction <= 1, f"crop_fraction must be in (0, 1], got {self.crop_fraction}")
        kinds = ("blur", "bsr_light", "bsr_full")
        _require(self.degradation in kinds, f"degradation must be one of {', '.join(kinds)}, got {self.degradation!r}")
        _require(0 <= self.blur_prob <= 1, f"blur_prob must be from 0 to 1, got {self.blur_prob}")
        _require_schedule(self.schedule, self.num_steps)
