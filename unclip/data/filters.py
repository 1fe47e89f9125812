"""The policy over the score columns of pixels and captions: which rows are kept, and why not the others.

It reads scores only, so thresholds change without decoding anything again. Of rows that are alike the first counts
where the policy names no other; so the order of the shards decides there, and nowhere else.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unclip.data.config import UNKNOWN, FilterConfig
from unclip.data.dedup import Indices, assign_splits, keeper, same_picture
from unclip.data.rows import OK
from unclip.data.selection import Mask, Selection


@dataclass
class Scores:
    """Columns of numbers by name; floats where a score may be missing."""

    table: pa.Table

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        column: NDArray[np.float64] = self.table[name].to_numpy()
        return column

    def source_score(self, name: str, setting: str) -> NDArray[np.float64]:
        """A score that only some sources have; NaN for a row without.

        Raises: ValueError when no row has it.
        """
        column = self.table[name]
        if len(column) == column.null_count:
            raise ValueError(
                f"filter.{setting} needs the score '{name}', which no row of the source has: leave it out, or say "
                f"with score.{name}_field which field of a sample's JSON holds it"
            )
        return np.asarray(pc.fill_null(column, float("nan")).to_numpy(), np.float64)


def apply_policy(config: FilterConfig, scores: pa.Table, selection: Selection) -> None:
    """Drop what the policy refuses of a row by itself, cheapest reason first; duplicates come after.

    Raises: ValueError when it asks for a score that the source does not have.
    """
    column = Scores(scores)
    width, height, std = column["width"], column["height"], column["std"]
    words, chars = column["words"], column["chars"]
    short = np.minimum(width, height)
    aspect = np.maximum(width, height) / np.maximum(short, 1)
    selection.drop("undecodable", scores["status"].to_numpy() != OK, lambda i: "")
    selection.drop("small", short < config.min_side_px, lambda i: f"{width[i]}x{height[i]}")
    if config.max_aspect is not None:
        selection.drop("aspect", aspect > config.max_aspect, lambda i: f"{aspect[i]:.2f}")
    selection.drop("flat", std < config.min_std, lambda i: f"{std[i]:.2f}")
    selection.drop("few_words", words < config.min_words, lambda i: str(words[i]))
    selection.drop("short_caption", chars < config.min_chars, lambda i: str(chars[i]))
    drop_languages(config, scores, selection)
    for name, setting, most in (
        ("unsafe", "max_unsafe", config.max_unsafe),
        ("watermark", "max_watermark", config.max_watermark),
    ):
        if most is not None:
            drop_above(name, most, column.source_score(name, setting), selection)


def drop_languages(config: FilterConfig, scores: pa.Table, selection: Selection) -> None:
    """Drop the rows whose caption is in no language of the policy."""
    if config.languages is None:
        return
    likeliest, probs = scores["language"].to_pylist(), scores["language_prob"].to_numpy()
    unsure = (probs < config.min_language_prob) | (probs == 0)
    told = [UNKNOWN if u else language for language, u in zip(likeliest, unsure.tolist(), strict=True)]
    spoken = np.array([language in config.languages for language in told], bool)
    selection.drop("language", ~spoken, lambda i: f"{told[i]}, likeliest {likeliest[i] or 'none'} {probs[i]:.2f}")


def drop_above(name: str, most: float, score: NDArray[np.float64], selection: Selection) -> None:
    """Drop the rows whose score is above `most`, and those without one: nobody has looked at them."""
    selection.drop(name, ~(score <= most), lambda i: "no score" if np.isnan(score[i]) else f"{score[i]:.3f}")


def cap_captions(config: FilterConfig, captions: list[str], selection: Selection) -> None:
    """Of the rows still in with the same caption, drop all but the first `max_per_caption`."""
    if config.max_per_caption is None:
        return
    seen: dict[str, int] = {}
    bad = np.zeros(len(captions), bool)
    for i in np.flatnonzero(selection.kept):
        seen[captions[i]] = seen.get(captions[i], 0) + 1
        bad[i] = seen[captions[i]] > config.max_per_caption
    selection.drop("frequent_caption", bad, lambda i: captions[i])


def filter_rows(config: FilterConfig, scores: pa.Table, selection: Selection) -> pa.Table:
    """The rows kept by the whole policy: key, shard, split, and what a later choice among duplicates goes by.

    In the order of the scores. Raises: ValueError when none is left; as `apply_policy`.
    """
    apply_policy(config, scores, selection)
    captions, digests = scores["caption"].to_pylist(), scores["pixel_digest"].to_pylist()
    named = scores["split"].to_pylist()
    pictures = same_picture(digests, scores["perceptual_hash"].to_numpy(), config.max_hamming)
    if config.drop_duplicates:
        named_test = np.array([name == "test" for name in named], bool)
        drop_duplicates(pictures, picture_rank(config.keep, scores), named_test, selection)
    cap_captions(config, captions, selection)
    if not selection.kept.any():
        steps = ", ".join(f"{reason} {count}" for reason, count in selection.refused().items())
        raise ValueError(f"the filter keeps no row; dropped: {steps or 'nothing, there are no rows'}")
    splits = assign_splits(config, pictures, digests, scores["group"].to_pylist(), named)
    rows = np.flatnonzero(selection.kept)
    return pa.table(
        {
            "key": pa.array([selection.keys[i] for i in rows], pa.string()),
            "shard": pa.array(selection.shard[rows], pa.int32()),
            "split": pa.array([splits[i] for i in rows], pa.string()),
            "num_pixels": pa.array(picture_rank("largest", scores)[rows].astype(np.int64)),
            "sharpness": scores["sharpness"].combine_chunks().take(pa.array(rows)),
        }
    )


def picture_rank(keep: str, scores: pa.Table) -> NDArray[np.float64]:
    """Of each row, how much it deserves to be the one of its duplicates that is kept; equal for "first".

    The sharpest has the most edges in all: a thumbnail has more a pixel than the picture that it was made of.
    """
    if keep == "first":
        return np.zeros(len(scores))
    num_pixels = scores["width"].to_numpy().astype(np.float64) * scores["height"].to_numpy()
    return num_pixels if keep == "largest" else num_pixels * scores["sharpness"].to_numpy()


def drop_duplicates(pictures: Indices, rank: NDArray[np.float64], named_test: Mask, selection: Selection) -> None:
    """Of the rows still in that show one picture, drop all but one."""
    rows = np.flatnonzero(selection.kept)
    best = np.arange(len(pictures))
    best[rows] = rows[keeper(pictures[rows], rank[rows], named_test[rows])]
    others = best != np.arange(len(pictures))
    selection.drop("duplicate", others, lambda i: f"of {selection.keys[best[i]]}", lambda i: selection.keys[best[i]])
