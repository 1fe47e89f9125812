"""Captions to token ids by a Hugging Face tokenizer.json: as open_clip's HFTokenizer does, without transformers.

B batch, L context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self

import torch
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

CLEANINGS = ("canonicalize", "lower", "whitespace")  # open_clip's words


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """All that makes ids of captions but the tokenizer.json itself, JSON-able.

    The first three are open_clip's configuration; the others are known with the file.
    """

    source: str  # the repository of the hub that has it
    clean: str = "whitespace"  # what is done to a caption first
    strip_sep_token: bool = False  # separators become 0
    digest: str = ""  # SHA-256 of tokenizer.json
    pad_id: int = 0
    sep_id: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    most_tokens: int = 0  # that a caption can have, padding not counted

    @classmethod
    def of_text_cfg(cls, text_cfg: Mapping[str, Any]) -> Self | None:
        """What open_clip's configuration of a text tower says; None for CLIP's byte pairs.

        Raises: ValueError for settings that are not supported.
        """
        source, kwargs = text_cfg.get("hf_tokenizer_name"), text_cfg.get("tokenizer_kwargs") or {}
        if mode := text_cfg.get("tokenizer_mode"):
            raise ValueError(f"a tokenizer of its own in mode {mode!r}")
        is_known = set(kwargs) <= {"clean", "strip_sep_token"} and kwargs.get("clean", "lower") in CLEANINGS
        if kwargs and not (source and is_known):
            raise ValueError(f"a tokenizer with settings of its own, {kwargs}")
        return cls(source=source, **kwargs) if source else None


class FileTokenizer:
    """Captions to int32 ids (B, context) by a tokenizer.json, whose padding and end token may be any.

    text: the file's; it may be missing where only the network around it is wanted.
    """

    def __init__(self, spec: TokenizerSpec, text: str, context: int, vocab_size: int) -> None:
        self.spec, self.text, self.context, self.vocab_size = spec, text, context, vocab_size
        self._clean = get_clean_fn(spec.clean)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The ids (B, context) int32 of captions; a longer one is cut.

        Raises: ValueError for an id that the text tower does not know.
        """
        encoded = self._library.encode_batch([self._clean(caption) for caption in captions])
        tokens = torch.tensor([one.ids for one in encoded], dtype=torch.int32).reshape(-1, self.context)
        if self.spec.strip_sep_token:
            tokens[tokens == self.spec.sep_id] = 0
        if tokens.numel() and (largest := int(tokens.max())) >= self.vocab_size:
            caption = captions[int(tokens.amax(1).argmax())]
            raise ValueError(f"caption {caption[:40]!r} has token {largest}, the text tower knows {self.vocab_size}")
        return tokens

    def count(self, caption: str) -> int:
        """How many tokens a caption has, before it is cut."""
        encoded = self._library.encode(self._clean(caption))
        added = self._library.num_special_tokens_to_add(False)
        return sum(encoded.attention_mask) + sum(sum(rest.attention_mask) - added for rest in encoded.overflowing)

    @cached_property
    def _library(self) -> "Library":
        assert self.text, "a network alone, without its tokenizer.json"
        library, spec = library_of(self.text), self.spec
        library.enable_truncation(self.context, direction=spec.truncation_side)
        pad_token = library.id_to_token(spec.pad_id)
        library.enable_padding(direction=spec.padding_side, pad_id=spec.pad_id, pad_token=pad_token,
                               length=self.context)  # fmt: skip
        return library


def library_of(text: str) -> "Library":
    """A tokenizer.json as the library has it, neither cutting nor padding.

    Raises: ValueError where the library is not installed, or cannot read it.
    """
    library_version("tokenizers")
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_str(text)
    except Exception as error:  # the library raises no other
        raise ValueError(f"tokenizer.json cannot be read: {' '.join(str(error).split())[:200]}") from error
    library.no_truncation()
    library.no_padding()
    return library


def library_version(name: str) -> str:
    """The version of a library that only some CLIPs need. Raises: ValueError where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        raise ValueError(f"it needs the library {name}: pip install 'unclip[{name}]'") from None
