"""Captions that people type: what CLIP cannot read is refused, where the pipeline counts and cuts."""

from collections.abc import Sequence

from models.file_tokenizer import FileTokenizer
from models.tokenizer import Tokenizer, byte_pairs

_SHOWN = 40


def require_readable(captions: Sequence[str], tokenizer: Tokenizer | FileTokenizer) -> None:
    """Raises: ValueError for a caption that is empty, or longer than CLIP reads: it would be cut without a word."""
    for caption in captions:
        if not caption.strip():
            raise ValueError("a caption is empty")
        if (num_tokens := tokenizer.count(caption)) > tokenizer.context:
            shown = caption if len(caption) <= _SHOWN else f"{caption[:_SHOWN]}…"
            raise ValueError(f"caption '{shown}' has {num_tokens} tokens, this CLIP reads {tokenizer.context}")


def unseen_words(caption: str, vocabulary: Sequence[int] | None) -> list[str]:
    """The words that CLIP's training captions did not have; vocabulary: their byte-pair ids, None if it knows all."""
    if vocabulary is None:
        return []
    known = set(vocabulary)
    return [word for word in caption.split() if not known.issuperset(byte_pairs().encode(word))]
