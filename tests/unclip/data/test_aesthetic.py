"""Facts about the aesthetic head and its ratings."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tests.unclip.data.data_fixtures import part
from unclip.data.aesthetic import best_ridge, fit_head, fit_ridge, load_head, require_same_clip, save_head
from unclip.data.ratings import read_rated
from unclip.data.shards import sample_key
from unclip.data.table import read_info, unit

SIZE = 300


def images(size=SIZE, seed=0):
    return np.random.default_rng(seed).normal(size=(size, 32)).astype(np.float32)


def taste(rows, noise=0.0):
    weight = np.random.default_rng(9).normal(size=32)
    return 5 + unit(rows).astype(float) @ weight + noise * np.random.default_rng(8).normal(size=len(rows))


@pytest.fixture
def info(tmp_path):
    return read_info(part(tmp_path / "one.parquet", images(2)))


def test_a_linear_taste_is_found_and_noise_is_told(info):
    exact, noisy = (fit_head(unit(images()), taste(images(), noise), info) for noise in (0.0, 3.0))
    assert exact.record.held_out["pearson"] > 0.999 and exact.record.held_out["rmse"] < 0.05
    assert exact.rate(unit(images(20, seed=5))) == pytest.approx(taste(images(20, seed=5)), abs=0.05)
    assert 0 < noisy.record.held_out["pearson"] < 0.7 and noisy.record.ridge > exact.record.ridge


def test_ratings_of_chance_do_not_correlate_where_they_were_held_out(info):
    found = [fit_head(unit(images()), np.random.default_rng(n).normal(size=SIZE), info) for n in range(8)]
    assert abs(np.mean([head.record.held_out["pearson"] for head in found])) < 0.2


def test_leaving_one_out_at_once_is_leaving_out_one_after_the_other():
    x, y = unit(images(40)).astype(float), taste(images(40), 0.5)

    def error(ridge):
        left = (fit_ridge(np.delete(x, i, 0), np.delete(y, i), ridge * 40 / 39) for i in range(40))
        return np.mean([(x[i] @ weight + bias - y[i]) ** 2 for i, (weight, bias) in enumerate(left)])

    ridges = [10.0**power for power in range(-4, 3)]
    assert best_ridge(x, y) == min(ridges, key=error)


def test_a_head_is_read_as_it_was_written(tmp_path, info):
    head = fit_head(unit(images()), taste(images(), 0.3), info)
    save_head(head, tmp_path / "head")
    found = load_head(tmp_path / "head")
    rows = unit(images(20, seed=5))
    assert found.record == head.record and np.array_equal(found.rate(rows), head.rate(rows))


def test_equal_work_gives_an_equal_head(tmp_path, info):
    for name in ("a", "b"):
        save_head(fit_head(unit(images()), taste(images(), 0.3), info), tmp_path / name)
    files = [[(tmp_path / name / f"head.{kind}").read_bytes() for kind in ("json", "safetensors")] for name in "ab"]
    assert files[0] == files[1]


def test_the_head_of_another_clip_is_refused(tmp_path, info):
    head = fit_head(unit(images()), taste(images()), info)
    require_same_clip(head, info, "head")
    other = read_info(part(tmp_path / "other.parquet", images(2)[:, :16]))
    with pytest.raises(ValueError, match="HEAD was fitted on embeddings of dimension 32, the table has 16"):
        require_same_clip(head, other, "HEAD")


def test_a_damaged_or_absent_head_is_one_error(tmp_path, info):
    with pytest.raises(ValueError, match="must be a folder that `unclip fit-aesthetic` made"):
        load_head(tmp_path / "nothing")
    save_head(fit_head(unit(images()), taste(images()), info), tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="holds a damaged head"):
        load_head(tmp_path)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="holds a damaged head"):
        load_head(tmp_path)


@pytest.mark.parametrize(("ratings", "message"), [([1.0] * 10, "of at least 20 images"), ([2.0] * 40, "must differ")])
def test_too_little_to_learn_from_is_refused(info, ratings, message):
    with pytest.raises(ValueError, match=message):
        fit_head(unit(images(len(ratings))), np.array(ratings), info)


def dump(tmp_path, size=30):
    (tmp_path / "dump" / "parts").mkdir(parents=True)
    for shard in (0, 1):
        path = part(tmp_path / "dump" / "parts" / f"{shard:06d}.parquet", images(size, seed=shard), shard)
        keys = [sample_key(shard, i) for i in range(size)]
        files = pa.table({"key": keys, "url": [f"{shard}/{i}.png" for i in range(size)]})
        pq.write_table(files, path.with_suffix(".rows.parquet"))
    return tmp_path / "dump"


def ratings_csv(tmp_path, column, rows):
    with (tmp_path / "ratings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([(column, "rating"), *rows])
    return tmp_path / "ratings.csv"


def test_ratings_find_their_images_by_file_or_key_and_several_are_averaged(tmp_path):
    folder = dump(tmp_path)
    rows = [("1/4.png", 3), ("0/2.png", 1), ("1/4.png", 5), ("9/9.png", 9)]
    rated = read_rated(ratings_csv(tmp_path, "file", rows), folder)
    assert rated.ratings.tolist() == [1.0, 4.0] and rated.num_unknown == 1
    wanted = unit(np.stack([images(30, seed=0)[2], images(30, seed=1)[4]]))
    assert rated.images == pytest.approx(wanted, abs=2e-3)
    rated = read_rated(ratings_csv(tmp_path, "key", [(sample_key(1, 4), 7)]), folder)
    assert rated.images == pytest.approx(wanted[1:], abs=2e-3) and rated.ratings.tolist() == [7.0]


@pytest.mark.parametrize(
    ("column", "rows", "message"),
    [
        ("picture", [("a", 1)], "must have the column rating and one of key, file, sha256; it has picture, rating"),
        ("file", [("a", 1), ("b", "good")], "ratings.csv:3: rating must be a number, got 'good'"),
        ("file", [("a", 1), (" ", 2)], "ratings.csv:3: file must name an image, got none"),
        ("file", [("a", "nan")], "ratings.csv:2: rating must be a number"),
    ],
)
def test_bad_ratings_are_refused_with_their_line(tmp_path, column, rows, message):
    with pytest.raises(ValueError, match=message):
        read_rated(ratings_csv(tmp_path, column, rows), dump(tmp_path))
