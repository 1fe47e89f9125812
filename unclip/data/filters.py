"""The policy over the score columns of pixels and captions: which rows are kept, and why not the others.

It reads scores only, so thresholds change without decoding anything again. A shard is judged at a time. Duplicates are
looked for among all rows, through files for a while: in memory are the rows that have some, and of the others a few
bytes each. Of rows that are alike the first counts where the policy names no other: there the order of the shards
decides, and nowhere else.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unclip.data.config import UNKNOWN, FilterConfig
from unclip.data.dedup import TEST, assign_splits, keeper, number_of, place_of, same_group, same_picture
from unclip.data.dense import SPLITS
from unclip.data.funnel import Step
from unclip.data.groups import Groups, Indices, equal_rows
from unclip.data.rows import OK
from unclip.data.scores import SCORES_SCHEMA
from unclip.data.scratch import Column, Texts, blocks
from unclip.data.selection import Record, Selection, added

Doubles = NDArray[np.float64]
KEPT_SCHEMA = pa.schema(
    {"key": pa.string(), "shard": pa.int32(), "split": pa.string(), "num_pixels": pa.int64(), "sharpness": pa.float32()}
)


@dataclass(frozen=True)
class Facts:
    """What is known of every row for good, N of them, where all rows count for one."""

    digest: NDArray[np.uint64]  # (N, 2), the first 16 bytes of the pixels' digest
    hash: NDArray[np.uint64]
    caption: NDArray[np.uint64]  # of its digest
    group: NDArray[np.uint64]  # likewise; 0 of a row without one
    place: NDArray[np.uint64]  # of unclip.data.dedup.place_of
    named: NDArray[np.int8]  # the source's split as a place in SPLITS; -1 for none
    num_pixels: NDArray[np.int64]
    sharpness: NDArray[np.float32]

    @classmethod
    def of(cls, table: pa.Table) -> "Facts":
        """The facts of a shard's scores."""
        digests, groups = table["pixel_digest"].to_pylist(), table["group"].to_pylist()
        hashes = table["perceptual_hash"].to_numpy().copy()
        for row in np.flatnonzero(table["status"].to_numpy() != OK).tolist():  # it shows what no other row does
            digests[row] = hashlib.sha256(table["key"][row].as_py().encode()).digest()
            hashes[row] = int.from_bytes(digests[row][-8:], "big")
        places = [place_of(d if g is None else g.encode()) for d, g in zip(digests, groups, strict=True)]
        named = [SPLITS.index(name) if name in SPLITS else -1 for name in table["split"].to_pylist()]
        width, height = table["width"].to_numpy(), table["height"].to_numpy()
        return cls(
            digest=np.frombuffer(b"".join(d[:16] for d in digests), np.uint64).reshape(-1, 2),
            hash=hashes,
            caption=np.array([number_of(caption) for caption in table["caption"].to_pylist()], np.uint64),
            group=np.array([0 if g is None else number_of(g) for g in groups], np.uint64),
            place=np.array(places, np.uint64),
            named=np.array(named, np.int8),
            num_pixels=width.astype(np.int64) * height,
            sharpness=table["sharpness"].to_numpy(),
        )

    def rank(self, keep: str, rows: Indices) -> Doubles:
        """Of some rows, how much each deserves to be the one of its duplicates that is kept; equal for "first".

        The sharpest has the most edges in all: a thumbnail has more a pixel than the picture that it was made of.
        """
        wide = self.num_pixels[rows].astype(np.float64)
        return wide if keep == "largest" else wide * self.sharpness[rows] if keep == "sharpest" else np.zeros(len(rows))


class FactColumns:
    """The facts of all rows on their way to disk."""

    def __init__(self, work: Path | None) -> None:
        empty = vars(Facts.of(SCORES_SCHEMA.empty_table()))
        widths = {name: None if array.ndim == 1 else array.shape[1] for name, array in empty.items()}
        self._columns = {name: Column(array.dtype, work, width=widths[name]) for name, array in empty.items()}

    def append(self, facts: Facts) -> None:
        """Add the facts of a shard."""
        for name, column in self._columns.items():
            column.append(getattr(facts, name))

    def facts(self) -> Facts:
        """All of them, mapped."""
        return Facts(**{name: column.array() for name, column in self._columns.items()})


def apply_policy(config: FilterConfig, scores: pa.Table, selection: Selection) -> None:
    """Drop what the policy refuses of a row by itself, cheapest reason first; duplicates come after."""
    names = ("width", "height", "std", "words", "chars")
    width, height, std, words, chars = (scores[name].to_numpy() for name in names)
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
    for name, most in given_limits(config):
        column = pc.fill_null(scores[name], float("nan"))
        drop_above(name, most, np.asarray(column.to_numpy(), np.float64), selection)


def given_limits(config: FilterConfig) -> Iterator[tuple[str, float]]:
    """The scores of the source's own that the policy asks for, with their limits."""
    for name, most in (("unsafe", config.max_unsafe), ("watermark", config.max_watermark)):
        if most is not None:
            yield name, most


def drop_languages(config: FilterConfig, scores: pa.Table, selection: Selection) -> None:
    """Drop the rows whose caption is in no language of the policy."""
    if config.languages is None:
        return
    likeliest, probs = scores["language"].to_pylist(), scores["language_prob"].to_numpy()
    unsure = (probs < config.min_language_prob) | (probs == 0)
    told = [UNKNOWN if u else language for language, u in zip(likeliest, unsure.tolist(), strict=True)]
    spoken = np.array([language in config.languages for language in told], bool)
    selection.drop("language", ~spoken, lambda i: f"{told[i]}, likeliest {likeliest[i] or 'none'} {probs[i]:.2f}")


def drop_above(name: str, most: float, score: Doubles, selection: Selection) -> None:
    """Drop the rows whose score is above `most`, and those without one: nobody has looked at them."""
    selection.drop(name, ~(score <= most), lambda i: "no score" if np.isnan(score[i]) else f"{score[i]:.3f}")


def judge(
    config: FilterConfig, tables: Iterable[pa.Table], before: Iterable[Step], work: Path | None
) -> tuple[Selection, Facts]:
    """The rows of all shards after what the policy says of each by itself, and what is known of them for good.

    tables: the scores of each shard; before: the funnel that led to them; work: a folder for a while.

    Raises: ValueError when the policy asks for a score that no row has.
    """
    keys, shards, facts, record = Texts(work), Column(np.int32, work), FactColumns(work), Record(work)
    kept, funnels, known = [np.ones(0, bool)], [], {name: 0 for name, _ in given_limits(config)}
    for number, table in enumerate(tables):
        shard, still_in = np.full(len(table), number, np.int32), np.ones(len(table), bool)
        part = Selection("filter", table["key"].combine_chunks(), shard, still_in, record, first_row=len(keys))
        apply_policy(config, table, part)
        keys.append(part.keys)
        shards.append(shard)
        facts.append(Facts.of(table))
        kept.append(still_in)
        funnels.append(part.funnel)
        known = {name: count + len(table) - table[name].null_count for name, count in known.items()}
    for name in (name for name, count in known.items() if not count):
        raise ValueError(
            f"filter.max_{name} needs the score '{name}', which no row of the source has: leave it out, or say with "
            f"score.{name}_field which field of a sample's JSON holds it; a list's more_columns become such fields"
        )
    steps = [*before, *added(funnels)]
    return Selection("filter", keys.array(), shards.array(), np.concatenate(kept), record, steps), facts.facts()


def filter_rows(
    config: FilterConfig, tables: Iterable[pa.Table], before: Iterable[Step] = (), work: Path | None = None
) -> tuple[Selection, Iterator[pa.Table]]:
    """What the whole policy keeps, as tables of KEPT_SCHEMA: with what a later choice among duplicates goes by.

    In the order of the scores. work: a folder for a while. Raises: ValueError when nothing is left; as `judge`.
    """
    selection, facts = judge(config, tables, before, work)
    pictures = same_picture(facts.digest, facts.hash, config.max_hamming, work)
    if config.drop_duplicates:
        drop_duplicates(pictures, facts, config, selection)
    if config.max_per_caption is not None:
        cap_captions(config.max_per_caption, facts.caption, selection)
    if not selection.kept.any():
        steps = ", ".join(f"{reason} {count}" for reason, count in selection.refused().items())
        raise ValueError(f"the filter keeps no row; dropped: {steps or 'nothing, there are no rows'}")
    splits = assign_splits(config, same_group(pictures, facts.group, work), facts.place, facts.named)
    return selection, kept_tables(selection, facts, splits)


def kept_tables(selection: Selection, facts: Facts, splits: NDArray[np.int8]) -> Iterator[pa.Table]:
    """The rows that are still in, in tables of KEPT_SCHEMA."""
    for block in blocks(len(splits)):
        rows = block.start + np.flatnonzero(selection.kept[block])
        columns = {
            "key": selection.keys.take(pa.array(rows)),
            "shard": pa.array(selection.shard[rows]),
            "split": pa.array(SPLITS).take(pa.array(splits[rows])),
            "num_pixels": pa.array(facts.num_pixels[rows]),
            "sharpness": pa.array(facts.sharpness[rows]),
        }
        yield pa.table(columns).cast(KEPT_SCHEMA)


def drop_duplicates(pictures: Groups, facts: Facts, config: FilterConfig, selection: Selection) -> None:
    """Of the rows still in that show one picture, drop all but one: those with its pixels, then those like it."""
    alike = pictures.among(selection.kept)
    best = keeper(alike, facts.rank(config.keep, alike.rows), facts.named[alike.rows] == TEST)
    equal = (facts.digest[alike.rows] == facts.digest[best]).all(axis=1)
    selection.drop_others("duplicate", alike, np.where(equal, best, alike.rows))
    if config.max_hamming is not None:
        selection.drop_others("similar", alike, best)


def cap_captions(most: int, captions: NDArray[np.uint64], selection: Selection) -> None:
    """Of the rows still in with the same caption, drop all but the first `most`."""
    bad = np.zeros(len(captions), bool)
    for pairs in equal_rows(captions, selection.kept, selection.record.work):
        order = np.argsort(pairs[:, 0], kind="stable")  # rows ascend in a bucket: so they do in a group
        begins = np.flatnonzero(np.diff(pairs[order, 0], prepend=-1))
        place = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
        bad[pairs[order[place >= most - 1], 1]] = True  # the first of all is in no pair of its own
    selection.drop("frequent_caption", bad, lambda i: f"on more than {most}")
