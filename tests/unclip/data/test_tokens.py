"""Facts about tokens in a table."""

import numpy as np
import pytest

from unclip.data.tokens import OwnTokens, num_filled, num_tokens, token_sizes

PAIRS = "clip byte pairs " + "0" * 64
ENDS_AS_PADDED = OwnTokens(vocab_size=32_000, pad_id=1, most=3)  # as SigLIP's: 1 is the end and padding
SIGLIP = ENDS_AS_PADDED.said("f" * 64)


def test_what_a_table_says_is_read_back():
    assert OwnTokens.of(SIGLIP) == ENDS_AS_PADDED
    assert OwnTokens.of(PAIRS) is None and OwnTokens.of("unknown") is None


@pytest.mark.parametrize(
    ("tokenizer", "rows", "counts", "filled"),
    [
        (PAIRS, [[8, 5, 9, 0], [8, 5, 6, 9]], [3, 4], 1),
        (SIGLIP, [[5, 0, 1, 1], [5, 6, 7, 1], [1, 1, 1, 1]], [2, 3, 0], 1),
    ],
)
def test_tokens_are_counted_by_what_pads_them(tokenizer, rows, counts, filled):
    tokens = np.array(rows, np.int32)
    assert num_tokens(tokens, tokenizer).tolist() == counts and num_filled(tokens, tokenizer) == filled


def test_networks_are_told_of_padding_only_where_it_is_not_known():
    tokens = np.array([[8, 5, 9, 0]], np.int32)
    assert token_sizes(tokens, PAIRS) == {"vocab_size": 10, "context": 4}
    assert token_sizes(tokens, SIGLIP) == {"vocab_size": 32_000, "context": 4, "pad_id": 1}
