"""What builds a CLIP but its weights: open_clip's model configuration, text tower, tokenizer, preprocessing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import open_clip

from models.config import ClipConfig
from models.file_tokenizer import TokenizerSpec
from models.tokenizer import Tokenizer

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
DEFAULT_VOCABULARY = 49_408  # of open_clip's text towers


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """All that builds a CLIP but its weights, JSON-able: open_clip's model configuration, vocabulary, preprocessing.

    vocabulary: the byte-pair ids in use (see `Tokenizer`), None for all of them; tokenizer: in place of byte pairs;
    tower: transformers' configuration of a text tower of its own, where open_clip's names one.
    """

    name: str
    model_cfg: dict[str, Any]
    vocabulary: tuple[int, ...] | None
    context: int
    embed_dim: int
    image_px: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"  # or "longest", "squash": open_clip's words
    fill: int = 0  # gray level beside the picture ("longest")
    tokenizer: TokenizerSpec | None = None
    tower: dict[str, Any] | None = None

    @property
    def tower_vocabulary(self) -> int:
        """How many token ids the text tower knows."""
        if self.tower is not None:
            return int(self.tower["vocab_size"])
        return int(self.model_cfg["text_cfg"].get("vocab_size", DEFAULT_VOCABULARY))

    @property
    def tower_name(self) -> str:
        """The repository of the hub that a text tower of transformers is of; "" for open_clip's own towers."""
        return str(self.model_cfg["text_cfg"].get("hf_model_name") or "")

    @classmethod
    def from_config(cls, config: ClipConfig, vocabulary: Sequence[int]) -> Self:
        """The CLIP that a pipeline trains from scratch."""
        vision, text = config.vision, config.text
        model_cfg = {
            "embed_dim": config.embed_dim,
            "vision_cfg": {
                "image_size": vision.image_px,
                "patch_size": vision.patch_px,
                "width": vision.width,
                "layers": vision.layers,
                "head_width": vision.head_width,
            },
            "text_cfg": {
                "context_length": text.context,
                "vocab_size": Tokenizer(vocabulary, text.context).vocab_size,
                "width": text.width,
                "heads": text.heads,
                "layers": text.layers,
            },
        }
        return cls(
            name="scratch",
            model_cfg=model_cfg,
            vocabulary=tuple(vocabulary),
            context=text.context,
            embed_dim=config.embed_dim,
            image_px=vision.image_px,
        )

    @classmethod
    def from_name(cls, name: str) -> Self:
        """One of open_clip's named models; its weights are the caller's to load.

        Raises: ValueError for an unknown name, and as `of_model`.
        """
        model_cfg = open_clip.get_model_config(name)
        if model_cfg is None:
            raise ValueError(f"clip.pretrained: open_clip has no model {name!r}; see open_clip.list_models()")
        return cls.of_model(name, model_cfg, {})

    @classmethod
    def of_model(cls, name: str, model_cfg: dict[str, Any], preprocess: dict[str, Any]) -> Self:
        """A model configuration of open_clip's, with what a preprocessing configuration of its says.

        Of a text tower of transformers the configuration is the caller's to fill in.
        Raises: ValueError for what is not supported: some settings of tokenizers, pictures that are not square.
        """
        text, vision = model_cfg["text_cfg"], model_cfg["vision_cfg"]
        try:
            tokenizer = TokenizerSpec.of_text_cfg(text)
        except ValueError as error:
            raise ValueError(f"clip.pretrained: {name!r} has {error}: not supported") from None
        size = preprocess.get("size") or vision.get("image_size", 224)
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise ValueError(f"clip.pretrained: {name!r} reads pictures of {size} pixels; only squares are supported")
        known = ("mean", "std", "interpolation", "resize_mode")
        said = {key: preprocess[key] for key in known if preprocess.get(key)}
        said |= {key: tuple(said[key]) for key in ("mean", "std") if key in said}
        return cls(
            name=name,
            model_cfg=model_cfg,
            vocabulary=None,
            context=text.get("context_length", 77),
            embed_dim=model_cfg["embed_dim"],
            image_px=sides.pop(),
            fill=preprocess.get("fill_color") or 0,
            tokenizer=tokenizer,
            **said,
        )

    def to_json(self) -> dict[str, Any]:
        """The specification as JSON knows it; `ClipSpec.from_json` reads it back."""
        record = asdict(self)
        for later in ("tokenizer", "tower"):  # without, as it was written before there were any
            if record[later] is None:
                del record[later]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        vocabulary, own = record["vocabulary"], record.get("tokenizer")
        lists = {"vocabulary": None if vocabulary is None else tuple(vocabulary)}
        lists |= {name: tuple(record[name]) for name in ("mean", "std")}
        return cls(**(record | lists | {"tokenizer": own and TokenizerSpec(**own)}))
