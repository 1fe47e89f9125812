"""Facts about duplicates and splits."""

import numpy as np
import pytest
from PIL import Image

from unclip.data.config import FilterConfig
from unclip.data.dedup import (
    assign_splits,
    keeper,
    near_hashes,
    number_of,
    place_of,
    same_group,
    same_picture,
)
from unclip.data.dense import SPLITS
from unclip.data.groups import Groups
from unclip.data.perceptual import perceptual_hash, sharpness


def brute_force(hashes, max_hamming):
    size = range(len(hashes))
    return {(i, j) for i in size for j in size if i < j and int(hashes[i] ^ hashes[j]).bit_count() <= max_hamming}


@pytest.mark.parametrize("max_hamming", [0, 1, 2, 4])
def test_near_hashes_are_those_of_a_brute_force_search(max_hamming, monkeypatch):
    for name in ("unclip.data.groups.BLOCK_ROWS", "unclip.data.scratch.BLOCK_ROWS"):
        monkeypatch.setattr(name, 16)
    monkeypatch.setattr("unclip.data.dedup.COMPARED_HASHES", 3)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 20, dtype=np.uint64)
    hashes = np.concatenate([base, *(base ^ (np.uint64(1) << rng.integers(0, 64, 20, dtype=np.uint64)) for _ in "123")])
    found = {tuple(sorted(pair)) for pairs in near_hashes(hashes, max_hamming) for pair in pairs.tolist()}
    assert found == brute_force(hashes, max_hamming)


def smooth(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)


def test_the_hash_survives_resizing_and_tells_pictures_apart():
    first, other = smooth(1), smooth(2)
    small = first.resize((48, 48), Image.Resampling.BICUBIC)
    assert (perceptual_hash(first) ^ perceptual_hash(small)).bit_count() <= 4
    assert (perceptual_hash(first) ^ perceptual_hash(other)).bit_count() > 12


def test_near_pictures_join_through_a_third():
    hashes = np.array([0b0000, 0b0011, 0b1111, 1 << 40 | 0xFF00], np.uint64)
    digests = np.array([[1, 1], [2, 2], [3, 3], [4, 4]], np.uint64)
    assert same_picture(digests, hashes, 2).pairs.tolist() == [[0, 1], [0, 2]]
    assert same_picture(digests[[0, 1, 0, 3]], hashes, None).pairs.tolist() == [[0, 2]]


def test_of_duplicates_the_one_named_test_is_kept_whatever_its_rank():
    named = np.array([False, True, False, False])
    groups = Groups(np.array([0, 1, 2, 3]), np.array([0, 0, 2, 2]))
    assert keeper(groups, np.array([9.0, 1, 1, 1]), named).tolist() == [1, 1, 2, 2]


def test_of_duplicates_the_highest_rank_is_kept_and_of_equals_the_first():
    rank = np.array([1.0, 3, 3, np.nan, 0, np.nan])
    groups = Groups(np.array([10, 11, 12, 20, 21, 30]), np.array([7, 7, 7, 2, 2, 5]))
    assert keeper(groups, rank).tolist() == [11, 11, 11, 21, 21, 30]


def test_a_blurred_picture_is_less_sharp_and_a_flat_one_not_at_all():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    small = noise.resize((16, 16), Image.Resampling.BILINEAR).resize((64, 64), Image.Resampling.BILINEAR)
    assert sharpness(noise) > 10 * sharpness(small) > 0
    assert sharpness(Image.new("L", (64, 64), 9)) == 0 == sharpness(Image.new("L", (2, 64)))


def splits(config, size, named=None, groups=None):
    """The split of pictures that are all different, of sources that name splits or groups."""
    places = [place_of(f"picture {i}".encode() if groups is None else groups[i].encode()) for i in range(size)]
    said = [SPLITS.index(name) if name else -1 for name in named or [None] * size]
    numbers = np.array([number_of(group) for group in groups or []] or np.zeros(size), np.uint64)
    found = assign_splits(
        config, same_group(Groups.of(()), numbers), np.array(places, np.uint64), np.array(said, np.int8)
    )
    return [SPLITS[place] for place in found]


def test_more_rows_do_not_move_the_rows_before():
    config = FilterConfig(validation_fraction=0.2, test_fraction=0.3)
    few, more = splits(config, 1000), splits(config, 2000)
    assert more[:1000] == few
    assert abs(few.count("test") / 1000 - 0.3) < 0.05 and abs(few.count("validation") / 1000 - 0.2) < 0.05


def test_a_group_of_the_source_is_in_one_split():
    found = splits(FilterConfig(test_fraction=0.4), 300, groups=[f"g{i % 30}" for i in range(300)])
    assert all(len({found[i] for i in range(g, 300, 30)}) == 1 for g in range(30)) and len(set(found)) > 1


def test_named_test_stays_and_named_train_is_never_test():
    named = ["test", "train"] * 200
    found = splits(FilterConfig(validation_fraction=0.2, test_fraction=0.5), 400, named=named)
    assert set(found[::2]) == {"test"} and set(found[1::2]) == {"train", "validation"}


def test_one_row_named_test_makes_its_group_test():
    named, groups = [None, "train", "validation", "test", "train"], ["a", "a", "a", "a", "b"]
    assert splits(FilterConfig(), 5, named, groups)[:4] == ["test"] * 4
    assert splits(FilterConfig(), 5, [*named[:3], None, None], groups)[:4] == ["validation"] * 4
