"""Tokens of captions in a table, by what the table says of its tokenizer.

N rows, L tokens of context. CLIP's byte pairs end with the largest id and are padded with 0; a tokenizer of a CLIP's
own may pad with any id, also with the end token's.
"""

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

SAID = re.compile(r"tokenizer\.json [0-9a-f]{64}: (\d+) ids, padding (\d+), at most (\d+) tokens")


@dataclass(frozen=True, kw_only=True)
class OwnTokens:
    """Tokens that are not CLIP's byte pairs."""

    vocab_size: int
    pad_id: int
    most: int  # that a caption can have, padding not counted

    @classmethod
    def of(cls, tokenizer: str) -> Self | None:
        """What a table's `tokenizer` says; None for CLIP's byte pairs."""
        said = SAID.fullmatch(tokenizer)
        return said and cls(vocab_size=int(said[1]), pad_id=int(said[2]), most=int(said[3]))

    def said(self, digest: str) -> str:
        """What a table says of its tokenizer; digest: of all that makes ids of captions."""
        return f"tokenizer.json {digest}: {self.vocab_size} ids, padding {self.pad_id}, at most {self.most} tokens"


def token_sizes(tokens: NDArray[np.int32], tokenizer: str) -> dict[str, int]:
    """What a network that reads tokens (N, L) must know of them: context, vocab_size, and pad_id where it is needed.

    Byte pairs end with the largest id in every caption, so the vocabulary is one more than the largest id here.
    """
    own, context = OwnTokens.of(tokenizer), tokens.shape[1]
    if own is None:
        return {"vocab_size": int(tokens.max(initial=0)) + 1, "context": context}
    return {"vocab_size": own.vocab_size, "context": context, "pad_id": own.pad_id}


def num_tokens(tokens: NDArray[np.int32], tokenizer: str) -> NDArray[np.int64]:
    """How many tokens (N,) captions have, padding not counted, of their tokens (N, L)."""
    own = OwnTokens.of(tokenizer)
    counts: NDArray[np.int64] = (tokens != (own.pad_id if own else 0)).sum(axis=1)
    return counts


def num_filled(tokens: NDArray[np.int32], tokenizer: str) -> int:
    """How many captions are as long as the context, or were cut to it, of their tokens (N, L)."""
    own = OwnTokens.of(tokenizer)
    return int((num_tokens(tokens, tokenizer) >= own.most if own else tokens[:, -1] != 0).sum())
