"""Which of the first parts an index's lists are learned from, and all parts as codes in them: kept, part by part.

Lists are learned once, and again only where there are rows for MORE_LISTS times as many, where the size asks for
another kind, or where later parts are farther from them than MAX_DRIFT allows. Which parts they are learned from
depends on the parts in their order alone: it is found as a table that grew part by part found it, from the first
parts on. So the same parts give the same bytes whatever way they came. Where parts go on differing from all before
them, lists are learned at most EIGHTHS times while their number doubles: drift is measured at so many numbers of
parts between n and 2n.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from unclip.data.config import IndexConfig, require
from unclip.data.digests import file_digest
from unclip.data.index_codes import Spread, drift, encode_part, read_spread, spread_of, write_spread
from unclip.data.index_lists import (
    FROM_ROWS,
    Kind,
    empty_index,
    kind_of,
    learn_lists,
    load_empty,
    load_lists,
    name_of,
    num_lists_of,
    save_lists,
)
from unclip.data.raw_rows import raw_rows
from unclip.data.table import read_info
from unclip.recipe import digest_of

MAX_DRIFT = 1.2  # of the distance to the centroids, later parts over rows like those learned from: alike, 1.0
MORE_LISTS = 2  # times those there are: of "ivf", when rows are four times as many
EIGHTHS = 8
CODE_ROWS = 16_384  # that codes are learned on
CODE_VALUES = 256  # of a byte: no fewer rows can teach them
SPREAD_ROWS = 4096  # from which drift is measured

Inputs = dict[str, tuple[str, ...]]  # digests by what they are of
Keep = Callable[[str, Inputs, dict[str, Any], Callable[[Path], None]], Path]
"""The folder of a kind made from these inputs with these settings: found, or filled by the function and kept."""


class Coded(NamedTuple):
    """Parts as codes in the same lists."""

    learned: Path  # folder of the lists
    codes: list[Path]  # a folder a part
    spreads: list[Spread]  # of the same parts

    def drift(self, first: int) -> float | None:
        """How much farther the newest parts, but none of the first, are from the lists learned from the first.

        They are the last ones that together hold an eighth of the rows: few rows decide nothing, and what is new is not
        hidden by much that is old.
        """
        total, rows, start = sum(count for count, _ in self.spreads), 0, len(self.spreads)
        while start > first and rows * EIGHTHS < total:
            start -= 1
            rows += self.spreads[start][0]
        return drift(read_spread(self.learned), self.spreads[start:])


@dataclass(frozen=True)
class Growth:
    """The parts of a table in their order, with the rows and the digest of each, and where what is made is kept."""

    config: IndexConfig
    parts: Sequence[Path]
    counts: Sequence[int]
    digests: Sequence[str]
    seed: int
    keep: Keep
    coded: dict[int, Coded] = field(default_factory=dict)  # by the number of parts that the lists are learned from

    def kind(self, first: int) -> Kind:
        """The index's kind if it is learned from the first parts. Raises: ValueError where codes cannot be learned."""
        rows, dimension = sum(self.counts[:first]), read_info(self.parts[0]).dimension
        kind = kind_of(self.config, sum(self.counts), rows)
        if (size := kind.code_bytes) is not None:
            require(dimension % size == 0, "code_bytes", f"a divisor of {dimension} dimensions", size)
            require(rows >= CODE_VALUES, "kind", f"another for {rows} rows: codes need {CODE_VALUES}", kind.name)
        return kind

    @cached_property
    def learned_from(self) -> tuple[int, str]:
        """How many of the first parts the lists are learned from, and why; further parts are encoded to measure drift.

        Each drift is kept: of lists that were given up nothing else is needed again.
        """
        first, why = first_of_size(self.config, self.counts)
        for number in checked_after(first, len(self.parts)):
            parts: Inputs = {"parts": (digest_of(list(self.digests[:number])),)}
            settings = {"first": first, **self.settings(first)}
            folder = self.keep("index_drift", parts, settings, partial(self.write_drift, first, number))
            drifted = json.loads((folder / "drift.json").read_text())
            if drifted is not None and drifted > MAX_DRIFT:
                far = f"{drifted:.2f} times as far from the lists of the first {first}"
                why = f"parts up to {number} are {far}, above {MAX_DRIFT}"
                first = number
        return first, why

    def write_drift(self, first: int, number: int, folder: Path) -> None:
        """Write how far the parts up to `number` are from the lists of the first ones."""
        (folder / "drift.json").write_text(json.dumps(self.encoded(first, number).drift(first)) + "\n")

    def encoded(self, first: int, number: int) -> Coded:
        """What is learned from the first parts, and the codes of the first `number`: found, or made."""
        if first not in self.coded:
            parts: Inputs = {"embed": tuple(self.digests[:first])}
            learned = self.keep("index_lists", parts, self.settings(first), partial(self.learn, first))
            self.coded[first] = Coded(learned, [], [])
        coded = self.coded[first]
        if len(coded.codes) < number:
            self.encode(coded, number)
        return Coded(coded.learned, coded.codes[:number], coded.spreads[:number])

    def encode(self, coded: Coded, number: int) -> None:
        """Add the codes of further parts, up to so many."""
        files = [path for path in coded.learned.iterdir() if path.name != "manifest.json"]
        made: Inputs = {"lists": (digest_of({path.name: file_digest(path) for path in files}),)}
        lists, index = load_lists(coded.learned), load_empty(coded.learned)
        done = slice(len(coded.codes), number)
        for part, digest in zip(self.parts[done], self.digests[done], strict=True):
            fill = partial(encode_part, index, lists, part)
            coded.codes.append(self.keep("index_codes", made | {"embed": (digest,)}, {}, fill))
            coded.spreads.append(read_spread(coded.codes[-1]))

    def settings(self, first: int) -> dict[str, Any]:
        """What decides the lists beside the parts that they are learned from."""
        return {"factory": self.kind(first).factory, "train_rows": self.config.train_rows, "seed": self.seed}

    def learn(self, first: int, folder: Path) -> None:
        """Write the lists and the empty index learned from a seeded sample of the first parts.

        Rows that were learned from are nearer to their centroids than others like them: drift is measured from rows
        that were drawn beside them, a tenth where there are no more, or from all where there are hardly any.
        """
        kind, counts = self.kind(first), np.array(self.counts[:first])
        most = self.config.train_rows or max(kind.num_lists * 39, CODE_ROWS)
        rng = np.random.default_rng(self.seed)
        drawn = rng.choice(counts.sum(), min(most + SPREAD_ROWS, counts.sum()), replace=False)
        size = max(len(drawn) - min(SPREAD_ROWS, len(drawn) // 10), min(CODE_VALUES, len(drawn)))
        ids = np.concatenate([np.sort(drawn[:size]), np.sort(drawn[size:])])
        starts = np.concatenate([[0], np.cumsum(counts)])
        shard = np.searchsorted(starts, ids, side="right") - 1
        with raw_rows(self.parts[:first], shard, ids - starts[shard], folder) as rows:
            lists = learn_lists(rows, kind.num_lists, self.seed, size)
            save_lists(lists, folder)
            beside = slice(size if size < len(rows) else 0, None)
            write_spread(spread_of(lists.place(rows.unit(beside))[1]), folder)
            sample = np.sort(rng.permutation(len(rows))[:CODE_ROWS])
            faiss.write_index(empty_index(kind, lists, rows, sample), str(folder / "empty.faiss"))


def first_of_size(config: IndexConfig, counts: Sequence[int]) -> tuple[int, str]:
    """How many of the first parts lists are learned from as far as the rows of each decide it, and why.

    They are the fewest of the index's kind, until more would have MORE_LISTS times the lists, or all that were set.
    """
    name = name_of(config, sum(counts))
    least = FROM_ROWS[name] if config.kind == "auto" else CODE_VALUES if name == "ivf_pq" else 1
    first, lists, rows = 0, 0, 0
    for number, count in enumerate(counts, start=1):
        rows += count
        wanted = num_lists_of(config, name, rows)
        if rows >= least and (wanted >= MORE_LISTS * lists or wanted == config.num_lists != lists):
            first, lists = number, wanted
    return first, f"their rows teach {lists} lists, those of all parts less than {MORE_LISTS} times as many"


def checked_after(first: int, num_parts: int) -> Iterator[int]:
    """The numbers of first parts, more than `first`, whose drift from lists learned before is measured."""
    for number in range(first + 1, num_parts + 1):
        if number % max(1, (1 << (number.bit_length() - 1)) // EIGHTHS) == 0:
            yield number
