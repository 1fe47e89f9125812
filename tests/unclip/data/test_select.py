"""Facts about selecting rows by embeddings."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import dropped_rows, part
from unclip.data.candidates import Candidates
from unclip.data.config import SelectConfig
from unclip.data.evaluation_set import read_evaluation_set
from unclip.data.select import kept_tables, select_rows
from unclip.data.shards import sample_key


def candidates(tmp_path, image, splits, ratings=None, **columns):
    path = part(tmp_path / "p.parquet", image, **columns)
    keys = [sample_key(0, i) for i in range(len(splits))]
    table = {"key": keys, "shard": pa.array([0] * len(keys), pa.int32()), "split": splits}
    table |= {"num_pixels": list(range(len(keys))), "sharpness": [1 / (1 + i) ** 3 for i in range(len(keys))]}
    pq.write_table(pa.table(table), tmp_path / "kept.parquet")
    rated = [tmp_path / "aesthetic.parquet"] if ratings else []
    for place in rated:
        pq.write_table(pa.table({"key": keys[: len(ratings)], "aesthetic": pa.array(ratings, pa.float32())}), place)
    return Candidates([path], tmp_path / "kept.parquet", aesthetic=rated)


def spread(size, seed=0):
    return np.random.default_rng(seed).normal(size=(size, 32)).astype(np.float32)


def dropped(selection):
    return {int(row["key"][-2:]): row["reason"] for row in dropped_rows(selection)}


def test_everything_off_keeps_every_embedded_row(tmp_path):
    rows = candidates(tmp_path, spread(6), ["train"] * 7 + ["test"])
    selection = select_rows(SelectConfig(), rows)
    assert dropped(selection) == {6: "not_embedded", 7: "not_embedded"} and len(selection.funnel) == 1
    assert pa.concat_tables(kept_tables(rows, selection))["row"].to_pylist() == list(range(6))


def test_a_training_row_near_a_held_out_one_is_dropped_and_names_it(tmp_path):
    image = spread(6)
    image[1] = image[4] + 0.01
    rows = candidates(tmp_path, image, ["train"] * 4 + ["test", "validation"])
    selection = select_rows(SelectConfig(max_leak_cosine=0.95), rows)
    assert dropped(selection) == {1: "leak"}
    assert [row["near"] for row in dropped_rows(selection)] == [sample_key(0, 4)]


def test_of_near_duplicates_in_training_the_first_stays(tmp_path):
    image = spread(6)
    image[2], image[5] = image[0] * 1.5, image[3]
    rows = candidates(tmp_path, image, ["train"] * 5 + ["test"])
    assert dropped(select_rows(SelectConfig(max_duplicate_cosine=0.96), rows)) == {2: "near_duplicate"}


@pytest.mark.parametrize(
    ("keep", "place"), [("first", 0), ("largest", 4), ("sharpest", 1), ("best_clip_score", 2), ("best_aesthetic", 3)]
)
def test_the_policy_names_the_near_duplicate_that_is_kept(tmp_path, keep, place):
    image = np.repeat(spread(1), 5, axis=0)
    text = image + spread(5, seed=1) * np.array([[1], [1], [0.1], [1], [1]])
    rows = candidates(tmp_path, image, ["train"] * 5, ratings=[3, 4, 5, 6, 4], text=text)
    selection = select_rows(SelectConfig(max_duplicate_cosine=0.96, keep=keep), rows)
    assert dropped(selection) == dict.fromkeys({0, 1, 2, 3, 4} - {place}, "near_duplicate")
    assert set([row["near"] for row in dropped_rows(selection)]) == {sample_key(0, place)}


def test_pictures_rated_low_are_dropped_and_a_rating_that_is_not_there_is_low(tmp_path):
    rows = candidates(tmp_path, spread(4), ["train"] * 4, ratings=[5, 4, 6, float("nan")])
    assert dropped(select_rows(SelectConfig(min_aesthetic=4.5), rows)) == dict.fromkeys([1, 3], "low_aesthetic")


def other_evaluation_set(tmp_path, image, captions):
    (tmp_path / "other" / "parts").mkdir(parents=True)
    path = part(tmp_path / "other" / "parts" / "000000.parquet", image, captions=captions)
    pq.write_table(pa.table({"key": [sample_key(0, 0)], "url": ["cat.png"]}), path.with_suffix(".rows.parquet"))
    return read_evaluation_set(tmp_path / "other", path)


def test_training_is_kept_apart_from_another_evaluation_set_by_image_and_caption(tmp_path):
    image = spread(5)
    other = other_evaluation_set(tmp_path, image[[1]] * 2, ["Caption 0 3"])
    config = SelectConfig(max_leak_cosine=0.95, drop_shared_captions=True, evaluation="other")
    selection = select_rows(config, candidates(tmp_path, image, ["train"] * 4 + ["test"]), evaluation=other)
    assert dropped(selection) == {1: "evaluation_leak", 3: "evaluation_caption"}
    assert [row["detail"] for row in dropped_rows(selection)] == [
        f"1.0000 to {sample_key(0, 0)} (cat.png)",
        f"of {sample_key(0, 0)} (cat.png)",
    ]


def test_an_evaluation_set_of_another_clip_is_refused(tmp_path):
    one, other = part(tmp_path / "one.parquet", spread(2)), part(tmp_path / "other.parquet", spread(2)[:, :16])
    with pytest.raises(ValueError, match=r"select.evaluation: .* has dimension 16, this pipeline's table has 32"):
        read_evaluation_set(moved(other, tmp_path / "a"), one)
    with pytest.raises(ValueError, match="must be a dump"):
        read_evaluation_set(tmp_path / "nothing", one)


def moved(path, folder):
    folder.mkdir()
    return path.rename(folder / path.name).parent


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"keep": "sharpest"}, "keep must be first without max_duplicate_cosine, got 'sharpest'"),
        ({"keep": "best", "max_duplicate_cosine": 0.9}, "keep must be one of first, largest, sharpest, best_clip"),
        ({"evaluation": "dump"}, "evaluation has no effect without max_leak_cosine or drop_shared_captions"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SelectConfig(**setting)


def test_a_held_out_caption_leaves_training(tmp_path):
    captions = ["a cat", "A Cat ", "a dog", "a cat"]
    rows = candidates(tmp_path, spread(4), ["test", "train", "train", "train"], captions=captions)
    assert dropped(select_rows(SelectConfig(drop_shared_captions=True), rows)) == dict.fromkeys(
        [1, 3], "shared_caption"
    )


def test_clip_score_by_threshold_and_by_share(tmp_path):
    image = spread(6)
    text = image.copy()
    text[1], text[4], text[5] = -image[1], -image[4], image[5] + image[0]
    rows = candidates(tmp_path, image, ["train"] * 4 + ["test", "train"], text=text)
    assert set(dropped(select_rows(SelectConfig(min_clip_score=0.0), rows))) == {1, 4}
    assert set(dropped(select_rows(SelectConfig(keep_fraction=0.6), rows))) == {1, 5}


def test_nothing_left_to_train_on_is_refused(tmp_path):
    rows = candidates(tmp_path, spread(3), ["test", "test", "validation"])
    with pytest.raises(ValueError, match="keeps no training row"):
        select_rows(SelectConfig(), rows)
