"""Sizes and settings of every network; free of torch, so that a plan can read them at once."""

from dataclasses import dataclass

NO_PRIOR = "text_embedding"  # in a prior's place: the text embedding itself is fed to the decoder (§5.1)
PRIOR_SAMPLERS = ("analytic", "ddpm", "ddim")  # of the diffusion prior


def _require_prediction(prediction: str) -> None:
    _require(prediction in ("eps", "v", "x0"), f"prediction must be 'eps', 'v' or 'x0', got {prediction!r}")


def _require_schedule(schedule: str, num_steps: int) -> None:
    _require(schedule in ("cosine", "linear"), f"schedule must be cosine or linear, got {schedule!r}")
    _require(num_steps >= 1, f"num_steps must be >= 1, got {num_steps}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _require_transformer(part: str, width: int, depth: int, heads: int) -> None:
    _require(min(width, depth, heads) >= 1, f"{part} must have width, depth and heads >= 1, got {width, depth, heads}")
    _require(width % (2 * heads) == 0, f"{part}.width must be a multiple of 2 * heads, got {width} and {heads} heads")


def _require_probability(name: str, value: float) -> None:
    _require(0 <= value < 1, f"{name} must be in [0, 1), got {value}")


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The image tower of a CLIP trained from scratch: an open_clip vision transformer."""

    image_px: int = 32
    patch_px: int = 8
    width: int = 128
    layers: int = 4
    head_width: int = 32

    def __post_init__(self) -> None:
        for name in ("image_px", "patch_px", "width", "layers", "head_width"):
            _require(getattr(self, name) >= 1, f"vision.{name} must be >= 1, got {getattr(self, name)}")
        for name, part in (("image_px", "patch_px"), ("width", "head_width")):
            whole, unit = getattr(self, name), getattr(self, part)
            _require(whole % unit == 0, f"vision.{name} must be a multiple of {part} {unit}, got {whole}")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text tower of a CLIP trained from scratch: an open_clip causal transformer."""

    context: int = 32
    width: int = 128
    heads: int = 4
    layers: int = 2

    def __post_init__(self) -> None:
        _require(self.context >= 3, f"text.context must be >= 3 (start, a word, end), got {self.context}")
        _require_transformer("text", self.width, self.layers, self.heads)


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """A CLIP trained from scratch: joint dimension and the two towers."""

    embed_dim: int = 128
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()

    def __post_init__(self) -> None:
        _require(self.embed_dim >= 1, f"embed_dim must be >= 1, got {self.embed_dim}")


@dataclass(frozen=True, kw_only=True)
class CaptionEncoderConfig:
    """A text transformer trained with its stage (§2.1, App. C table 3 "text encoder")."""

    width: int = 128
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        _require_transformer("caption", self.width, self.depth, self.heads)


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

    def __post_init__(self) -> None:
        _require_transformer("prior_diffusion.network", self.width, self.depth, self.heads)
        _require_probability("dropout_prob", self.dropout_prob)
        _require_probability("condition_drop_prob", self.condition_drop_prob)
        _require_schedule(self.schedule, self.num_steps)
        _require(self.scale is None or self.scale > 0, f"scale must be > 0, got {self.scale}")


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

    def __post_init__(self) -> None:
        _require_transformer("prior_ar.network", self.width, self.depth, self.heads)
        _require_probability("dropout_prob", self.dropout_prob)
        _require_probability("condition_drop_prob", self.condition_drop_prob)
        _require(self.num_dot_buckets >= 2, f"num_dot_buckets must be >= 2, got {self.num_dot_buckets}")


@dataclass(frozen=True, kw_only=True)
class LinearPriorConfig:
    """Ridge regression from text embedding to image embedding: the baseline every prior must beat."""

    ridge: float = 1e-3  # of the mean variance of the text embedding's dimensions

    def __post_init__(self) -> None:
        _require(self.ridge >= 0, f"prior_linear.ridge must be >= 0, got {self.ridge}")


@dataclass(frozen=True, kw_only=True)
class PcaConfig:
    """Principal components of image embeddings and their quantisation (§2.2)."""

    num_components: int | None = None  # None: the fewest that keep `keep_fraction` of the variance
    keep_fraction: float = 0.99  # §2.2
    num_buckets: int = 1024  # §2.2

    def __post_init__(self) -> None:
        count = self.num_components
        _require(count is None or count >= 1, f"pca.num_components must be >= 1, got {count}")
        _require(0 < self.keep_fraction <= 1, f"pca.keep_fraction must be in (0, 1], got {self.keep_fraction}")
        _require(self.num_buckets >= 2, f"pca.num_buckets must be >= 2, got {self.num_buckets}")


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

    @property
    def min_multiple(self) -> int:
        """What must divide a picture's sides: patch and levels halve them."""
        return self.patch * 2 ** (len(self.multiples) - 1)

    def map_sides(self, px: int) -> tuple[int, ...]:
        """The side of the feature maps at each level, for pictures of a side of `px`.

        Raises: ValueError where the patch and the levels do not divide `px` or `attention_px` names no level.
        """
        multiple = self.min_multiple
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
    embedding: str = "image"  # CLIP's that it learns to draw from, or "text": the baseline of §5.1
    num_image_tokens: int = 4  # §2.1
    image_drop_prob: float = 0.1  # §2.1
    caption_drop_prob: float = 0.5  # §2.1
    snr_gamma: float | None = None  # of `min_snr_weight`: little noise counts for less; None is the paper's, all alike
    high_noise_weight: float = 1.0  # bound of `high_noise_weight`: much noise counts for more; 1 is the paper's
    num_steps: int = 1000
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        self.unet.map_sides(self.image_px)
        _require(self.embedding in ("image", "text"), f"embedding must be 'image' or 'text', got {self.embedding!r}")
        _require(self.num_image_tokens >= 1, f"num_image_tokens must be >= 1, got {self.num_image_tokens}")
        for name in ("image_drop_prob", "caption_drop_prob"):
            _require(0 <= getattr(self, name) <= 1, f"{name} must be from 0 to 1, got {getattr(self, name)}")
        _require(self.snr_gamma is None or self.snr_gamma > 0, f"snr_gamma must be > 0, got {self.snr_gamma}")
        _require(self.high_noise_weight >= 1, f"high_noise_weight must be >= 1, got {self.high_noise_weight}")
        _require_schedule(self.schedule, self.num_steps)


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """A low-resolution image to one of higher resolution; convolutions only, unconditional (§2.1)."""

    low_px: int = 32
    high_px: int = 48
    crop_fraction: float = 0.25  # of the area (App. C, table 3); 1.0 trains on whole pictures
    unet: UNetConfig = UNetConfig(channels=32)
    prediction: str = "eps"  # what the network gives: noise, or "v" or "x0", which small networks learn far sooner
    degradation: str = "blur"  # "blur" (§2.1, 64 to 256), "bsr_light", "bsr_full" (256 to 1024)
    blur_prob: float = 0.5  # ours: the paper does not say; "blur" only
    num_steps: int = 1000
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        self.unet.map_sides(self.high_px)
        _require(not self.unet.attention_px, f"unet.attention_px must be empty, got {self.unet.attention_px}")
        _require(self.low_px < self.high_px, f"high_px must be > low_px {self.low_px}, got {self.high_px}")
        _require(0 < self.crop_fraction <= 1, f"crop_fraction must be in (0, 1], got {self.crop_fraction}")
        _require_prediction(self.prediction)
        kinds = ("blur", "bsr_light", "bsr_full")
        _require(self.degradation in kinds, f"degradation must be one of {', '.join(kinds)}, got {self.degradation!r}")
        _require(0 <= self.blur_prob <= 1, f"blur_prob must be from 0 to 1, got {self.blur_prob}")
        idle = self.degradation != "blur" and self.blur_prob != type(self).blur_prob
        _require(not idle, f"blur_prob has no effect with degradation {self.degradation!r}, got {self.blur_prob}")
        _require_schedule(self.schedule, self.num_steps)
