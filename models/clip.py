"""CLIP: captions and images in one space. The towers are open_clip's; here they are built, fed and scored.

B batch, H, W sides in pixels, P the model's image side, L context, D embedding dimension.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.clip_spec import ClipSpec
from models.file_tokenizer import FileTokenizer, library_version
from models.tokenizer import Tokenizer

MAX_LOGIT_SCALE = 4.6052  # log 100: Radford et al. 2021, §2.5
STAND_IN = {"width": 8, "heads": 1, "layers": 1, "hf_model_name": None}
CUT = 8  # texts are cut to multiples of so many tokens


class Clip(nn.Module):
    """An open_clip model with its tokenizer and preprocessing: captions and pictures in, raw embeddings out."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, spec: ClipSpec, tokenizer_json: str = "") -> None:
        super().__init__()
        self.spec = spec
        self.tokenizer = tokenizer_of(spec, tokenizer_json)
        self.network = build_network(spec)
        self.register_buffer("pixel_mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id; of byte pairs that is the end token."""
        return self.tokenizer.vocab_size

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Token ids (B, L) int32 of captions."""
        return self.tokenizer(captions)

    def preprocess(self, images: Tensor) -> Tensor:
        """Images of one size, as `encode_image` takes them, to (B, 3, P, P) normalised for the network."""
        side = self.spec.image_px
        if images.dtype == torch.uint8 and images.shape[1:3] == (side, side):
            return normalized(images.to(self.pixel_mean.device), self.pixel_mean, self.pixel_std)
        small = resize(to_unit(images.to(self.pixel_mean.device)), side, self.spec.interpolation)
        return (small - self.pixel_mean) / self.pixel_std

    def encode_image(self, images: Tensor) -> Tensor:
        """Raw embeddings (B, D) float32 of images: uint8 (B, H, W, 3), or float in [-1, 1] (B, 3, H, W)."""
        return self.network.encode_image(self.preprocess(images), normalize=False).float()

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Raw embeddings (B, D) float32 of token ids (B, L)."""
        return self.network.encode_text(tokens, normalize=False).float()

    def encode_short_text(self, tokens: Tensor) -> Tensor:
        """As `encode_text`, without computing the padding that follows every caption of the batch.

        No caption sees what comes after it in a tower that reads from left to right, nor padding in one of
        transformers; any other reads all.
        """
        padding = self.spec.tokenizer.pad_id if self.spec.tokenizer else None
        is_masked = masks_padding(self.network, padding or 0)
        if not (is_masked or reads_forward(self.network, padding)):
            return self.encode_text(tokens)
        used = (tokens != (padding or 0)).any(0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        cut = tokens[:, : -(-length // CUT) * CUT]
        return self.encode_text(cut) if is_masked else encode_cut_text(self.network, cut).float()

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit image and text embeddings, (B, D) each."""
        return F.normalize(self.encode_image(images), dim=-1), F.normalize(self.encode_text(tokens), dim=-1)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """What `forward` takes for one pair, on the meta device."""
        px, length = self.spec.image_px, self.spec.context
        with torch.device("meta"):
            return torch.zeros(1, px, px, 3, dtype=torch.uint8), torch.zeros(1, length, dtype=torch.long)

    def loss(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric contrastive loss of a batch of pairs, and the share of images that find their caption.

        In training, ranks of torch.distributed contrast their pairs with everybody's: the mean of their losses is the
        loss of the whole batch. The share is among a rank's own pairs.
        """
        with written_out_attention(self.pixel_mean.device):
            zi, zt = self(images, tokens)
        scale = self.network.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        truth = torch.arange(len(zi), device=zi.device)
        hits = ((zi @ zt.T).argmax(1) == truth).float().mean()
        return self._contrast()(zi, zt, scale), {"batch_r1": hits.detach(), "logit_scale": scale.detach()}

    def _contrast(self) -> ClipLoss:
        if not (self.training and dist.is_initialized()):
            return ClipLoss()
        return ClipLoss(local_loss=True, gather_with_grad=True, rank=dist.get_rank(), world_size=dist.get_world_size())


def written_out_attention(device: torch.device) -> AbstractContextManager[None]:
    """Attention as two products where that trains faster: on a CPU, 1.6 times so in bf16 (17 positions of 128)."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def tokenizer_of(spec: ClipSpec, tokenizer_json: str) -> Tokenizer | FileTokenizer:
    """What makes token ids for a CLIP."""
    if spec.tokenizer is None:
        return Tokenizer(spec.vocabulary, spec.context)
    return FileTokenizer(spec.tokenizer, tokenizer_json, spec.context, spec.tower_vocabulary)


def build_network(spec: ClipSpec) -> nn.Module:
    """open_clip's network of a specification, with random weights.

    Raises: ValueError for a text tower of transformers whose configuration is not known, or where that is missing.
    """
    cfg = {name: value for name, value in spec.model_cfg.items() if name != "custom_text"}
    if "timm_model_name" in cfg["vision_cfg"]:  # else its own weights would be fetched, to be replaced
        cfg["vision_cfg"] = {**cfg["vision_cfg"], "timm_model_pretrained": False}
    if spec.tower_name:  # open_clip would ask the hub for it: a small one holds its place
        cfg["text_cfg"] = {**spec.model_cfg["text_cfg"], **STAND_IN}
    if "multimodal_cfg" in cfg:
        network: nn.Module = CoCa(**cfg)
    else:
        network = (CustomTextCLIP if spec.model_cfg.get("custom_text") or spec.tower_name else CLIP)(**cfg)
    if spec.tower_name:
        network.text = transformers_tower(spec)
    return network


def transformers_tower(spec: ClipSpec) -> HFTextEncoder:
    """open_clip's text tower around one of transformers, by the configuration in a specification.

    Raises: ValueError where there is none, or the library is missing.
    """
    if spec.tower is None:
        raise ValueError(f"clip: nothing is known of {spec.tower_name}, the text tower of {spec.name!r}, but its name")
    library_version("transformers")
    from transformers import AutoConfig

    text, config = CLIPTextCfg(**spec.model_cfg["text_cfg"]), AutoConfig.for_model(**spec.tower)
    asked = {"pooler_type": text.hf_pooler_type, "proj_type": text.hf_proj_type, "output_tokens": text.output_tokens}
    tower = HFTextEncoder("", spec.embed_dim, config, pretrained=False, **asked)
    if getattr(config, "is_encoder_decoder", False):
        tower.transformer = tower.transformer.encoder
    elif text.hf_pooler_type != "cls_pooler":
        tower.transformer.pooler = None  # that open_clip leaves out
    if next(tower.parameters()).is_meta:  # transformers looks at a mask's values, and there are none
        tower.transformer.register_forward_pre_hook(unmasked, with_kwargs=True)
    return tower


def unmasked(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a text tower of transformers is given, without its mask."""
    return args, {**kwargs, "attention_mask": None}


def text_tower(network: nn.Module) -> CLIP | TextTransformer | None:
    """Where the parts of open_clip's own text tower are; None of any other."""
    tower = network if isinstance(network, CLIP) else getattr(network, "text", None)
    return tower if isinstance(tower, CLIP | TextTransformer) else None


def text_pooling(tower: CLIP | TextTransformer) -> tuple[str, int]:
    """Which token's output is the caption's, and the id of the end token."""
    if isinstance(tower, CLIP):
        return tower.text_pool_type, tower.text_eos_id
    return tower.pool_type, tower.eos_id


def masks_padding(network: nn.Module, padding: int) -> bool:
    """Whether a text tower looks away from tokens of this id: transformers' do from what their configuration names."""
    tower = getattr(network, "text", None)
    return isinstance(tower, HFTextEncoder) and tower.config.pad_token_id == padding


def reads_forward(network: nn.Module, padding: int | None = None) -> bool:
    """Whether a caption's embedding depends on no token after its end.

    padding: the id after a caption where it isn't CLIP's; pooled at the largest id, a caption may be pooled at it.
    """
    tower = text_tower(network)
    if tower is None or tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
        return False
    pool_type, end = text_pooling(tower)
    return pool_type in ("argmax", "eos") if padding is None else pool_type == "eos" and end != padding


def encode_cut_text(network: nn.Module, tokens: Tensor) -> Tensor:
    """Raw text embeddings (B, D) of tokens (B, l), l at most the context, by a tower that reads forward."""
    tower, length = text_tower(network), tokens.shape[1]
    assert tower is not None
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]  # (B, l, W)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pool_type, end = text_pooling(tower)
    x = text_global_pool(x, tokens, pool_type, eos_token_id=end)  # (B, W)
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (B, 3, H, W) of uint8 (B, H, W, 3), less the mean, by the deviation (1, 3, 1, 1), of values in [0, 1].

    Two passes over lines of pixels in place, a quarter of the time on a CPU.
    """
    batch, height, width, _ = images.shape
    lines = images.reshape(batch * height, width * 3).float()
    lines.sub_((mean.flatten() * 255).repeat(width)).mul_((1 / (std.flatten() * 255)).repeat(width))
    return lines.view(batch, height, width, 3).permute(0, 3, 1, 2)


def to_unit(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] of uint8 (B, H, W, 3) or float (B, 3, H, W) in [-1, 1]."""
    if images.dtype == torch.uint8:
        return images.permute(0, 3, 1, 2).float() / 255
    return (images.float() + 1) / 2


def resize(images: Tensor, side_px: int, interpolation: str = "bicubic") -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with the short side at side_px (antialiased) and the middle square cut out."""
    height, width = images.shape[-2:]
    if (height, width) == (side_px, side_px):
        return images
    scale = side_px / min(height, width)
    size = (max(side_px, round(height * scale)), max(side_px, round(width * scale)))
    images = F.interpolate(images, size=size, mode=interpolation, antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - side_px) // 2, (size[1] - side_px) // 2
    return images[..., top : top + side_px, left : left + side_px]


def zero_shot(images: Tensor, choices: Tensor) -> Tensor:
    """The choice (B,) each image is nearest to among its own captions: unit images (B, D), unit choices (B, C, D)."""
    return torch.einsum("bd,bcd->bc", images, choices).argmax(1)
