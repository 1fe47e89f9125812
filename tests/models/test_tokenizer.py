"""Facts about the cut-down tokenizer."""

import pytest
import torch

from models.tokenizer import Tokenizer, byte_pairs, seen_ids

CAPTIONS = ["a red circle", "a large blue square on a gray background!"]


@pytest.fixture
def tokenizer():
    return Tokenizer(seen_ids(CAPTIONS), 16)


def test_ids_keep_open_clips_order(tokenizer):
    ours, theirs = tokenizer(CAPTIONS), byte_pairs()(CAPTIONS, context_length=16)
    pairs = sorted({(b, a) for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True)})
    assert [b for _, b in pairs] == sorted(b for _, b in pairs)
    assert len({b for _, b in pairs}) == len(pairs)


def test_the_end_token_is_the_largest_and_follows_the_words(tokenizer):
    tokens = tokenizer(CAPTIONS)
    assert torch.equal(tokens.argmax(1), (tokens != 0).sum(1) - 1)
    assert tokens.max() == tokenizer.vocab_size - 1


def test_a_word_never_seen_is_unknown_and_not_padding(tokenizer):
    tokens = tokenizer(["a zebra circle"])[0]
    assert tokenizer.vocab_size - 3 in tokens.tolist() and (tokens[:4] != 0).all()


def test_a_long_caption_is_cut_and_still_ends(tokenizer):
    tokens = tokenizer(["red " * 50])[0]
    assert tokens[-1] == tokenizer.vocab_size - 1 and (tokens != 0).all()


def test_the_whole_vocabulary_is_open_clips():
    tokens = Tokenizer(None, 77)(CAPTIONS)
    assert torch.equal(tokens.long(), byte_pairs()(CAPTIONS, context_length=77))


def test_too_short_a_context_is_refused():
    with pytest.raises(ValueError, match="context must be >= 3, got 2"):
        Tokenizer([], 2)
