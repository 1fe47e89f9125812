"""Pictures by row number, from real shards."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unclip.data.pictures
from unclip.data.pictures import Pictures, to_unit_range
from unclip.data.shards import Sample, ShardReader, sample_key, write_shard

ROWS = 20


def noise(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{shard}.tar" for shard in range(2)]
    for shard, path in enumerate(paths):
        keys = [sample_key(shard, row) for row in range(ROWS)]
        write_shard(
            path,
            [
                Sample(key=key, image=noise(ROWS * shard + i), extension="png", caption="a", sample_id=bytes(16))
                for i, key in enumerate(keys)
            ],
        )
    return paths


def all_of(shards: list[Path], cache: Path) -> Pictures:
    """Every second row, from both shards."""
    keys = [sample_key(shard, row) for shard in range(2) for row in range(0, ROWS, 2)]
    return Pictures(shards, keys, np.repeat(np.array([0, 1], np.int32), ROWS // 2), 12, cache)


def test_a_picture_is_that_of_its_key_each_time(shards: list[Path], tmp_path: Path) -> None:
    pictures, reader = all_of(shards, tmp_path / "c"), ShardReader(shards[1])
    for _ in range(2):
        assert (pictures[np.array([13, 2])][0] == reader.decode(6, 12).transpose(2, 0, 1)).all()


def test_threads_read_the_same(shards: list[Path], tmp_path: Path) -> None:
    expected, shared = all_of(shards, tmp_path / "a")[np.arange(ROWS)], all_of(shards, tmp_path / "b")
    orders = [np.random.default_rng(i).permutation(ROWS) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for order, got in zip(orders, pool.map(shared.__getitem__, orders), strict=True):
            assert (got == expected[order]).all()


def test_without_a_cache_the_pictures_are_the_same(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = all_of(shards, tmp_path / "a")[np.arange(ROWS)]
    monkeypatch.setattr(unclip.data.pictures, "MAX_CACHE_BYTES", 0)
    assert (all_of(shards, tmp_path / "b")[np.arange(ROWS)] == kept).all()
    assert not (tmp_path / "b").exists()


def test_a_missing_key_is_named(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no sample 00000100000"):
        Pictures(shards, [sample_key(1, 0)], np.zeros(1, np.int32), 12, tmp_path / "c")


def test_pixels_fill_the_unit_range() -> None:
    assert to_unit_range(np.array([[[[0, 255]]]], np.uint8)).flatten().tolist() == [-1.0, 1.0]
