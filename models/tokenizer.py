"""Captions to token ids: open_clip's byte-pair encoding, cut down to the ids that training captions use."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor


@lru_cache(maxsize=1)
def byte_pairs() -> SimpleTokenizer:
    """open_clip's encoder; it takes a fraction of a second to load."""
    return SimpleTokenizer()


class Tokenizer:
    """Captions to int32 ids (B, context): start, words, end, padding of 0.

    vocabulary: the byte-pair ids in use, rising; they become 1, 2, ..., followed by unknown, start and end, so that
    end stays the largest id (open_clip pools at the largest). None keeps open_clip's own 49,408 ids.
    """

    def __init__(self, vocabulary: Sequence[int] | None, context: int) -> None:
        if context < 3:
            raise ValueError(f"clip.text.context must be >= 3, got {context}")
        self.context = context
        self._ids: dict[int, int] | None = None
        if vocabulary is None:
            self.vocab_size = byte_pairs().vocab_size
            self._start, self._end = byte_pairs().all_special_ids
        else:
            self._ids = {old: new for new, old in enumerate(sorted(set(vocabulary)), start=1)}
            self._unknown = len(self._ids) + 1
            self._start, self._end = self._unknown + 1, self._unknown + 2
            self.vocab_size = self._end + 1

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The ids (B, context) int32 of captions; a longer one is cut and still ends with the end token."""
        known = {caption: self._encode(caption) for caption in set(captions)}
        tokens = torch.zeros(len(captions), self.context, dtype=torch.int32)
        for row, caption in enumerate(captions):
            ids = known[caption]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
        return tokens

    def count(self, caption: str) -> int:
        """How many tokens a caption has with start and end, before it is cut."""
        return len(byte_pairs().encode(caption)) + 2

    def _encode(self, caption: str) -> list[int]:
        words = byte_pairs().encode(caption)[: self.context - 2]
        if self._ids is not None:
            words = [self._ids.get(word, self._unknown) for word in words]
        return [self._start, *words, self._end]


def seen_ids(captions: Iterable[str]) -> list[int]:
    """The byte-pair ids that occur in captions, rising: the vocabulary of a `Tokenizer`."""
    return sorted({token for caption in set(captions) for token in byte_pairs().encode(caption)})
