"""Sizes and settings of every network; free of torch, so that a plan can read them at once."""

from dataclasses import dataclass


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
    attention_px: tuple[int, ...] = ()  # feature-map sides (after patching) at which blocks attend; () is convolutions only
    patch: int = 1  # space-to-depth factor before the first convolution; 1 in the paper
    dropout_prob: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Image embedding and caption to pixels (§2.1)."""

    image_px: int = 32
    unet: UNetConfig = UNetConfig(attention_px=(16, 8))
    caption: CaptionEncoderConfig = CaptionEncoderConfig()
    num_image_tokens: int = 4  # §2.1
    image_drop_prob: float = 0.1  # §2.1
    caption_drop_prob: float = 0.5  # §2.1
    num_steps: int = 1000
    schedule: str = "cosine"


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """A low-resolution image to one of higher resolution; convolutions only, unconditional (§2.1)."""

    low_px: int = 32
    high_px: int = 48
    crop_fraction: float = 0.25  # of the area (App. C, table 3); 1.0 trains on whole pictures
    unet: UNetConfig = UNetConfig(channels=32)
    degradation: str = "blur"  # "blur" (§2.1, 64 to 256), "bsr_light", "bsr_full" (256 to 1024)
    blur_prob: float = 0.5  # ours: the paper does not say
    num_steps: int = 1000
    schedule: str = "cosine"
