"""Rows of a source decoded once, by threads or processes, into memory that the encoder reads: uint8 and nothing else.

B rows a batch, P the CLIP's image side. Decoding processes are forked from one that has imported torch.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Self, TypeVar

import numpy as np

from unclip.data.crops import Crop
from unclip.data.images import Pixels
from unclip.data.listings import Listing
from unclip.data.more_columns import as_json
from unclip.data.rows import Row, image_digest
from unclip.data.sources import Found, Unfit, fit_picture, identity_of

NUM_SLOTS = 3  # batches in memory: one at the encoder, two being decoded
PIECE = 16  # rows that one worker decodes at a time
MAX_THREADS = 8  # of this process; more fight for the interpreter
UNCROPPABLE = "uncroppable"

Which = TypeVar("Which")
_shared: Pixels  # (NUM_SLOTS, B, P, P, 3), in a decoding process
_crop: Crop


@dataclass(frozen=True)
class Decoded:
    """A batch: what became of each row, and the pixels of those that have a key, zeros at the others."""

    start: int  # place of the first row in its listing
    rows: list[Row]
    pixels: Pixels  # (B, P, P, 3), zeros after the last row; valid until the next batch is asked for


def decode_row(found: Found, key: str, crop: Crop) -> tuple[Row, Pixels | None]:
    """What became of a row, with the digest of the very bytes that were decoded; pixels (P, P, 3) unless refused."""
    identity = identity_of(found)
    said: dict[str, Any] = {"sample_id": identity, "caption": found.caption, "url": found.source_id}
    said["more"] = as_json(found.meta) if found.meta else None
    try:
        data, _, image = fit_picture(found)
    except Unfit as refusal:
        return Row(**said, status=refusal.reason, detail=str(refusal)), None
    try:
        pixels = crop(image)
    except Exception as error:  # of a picture that nobody thought of: it must not end the run, nor every later one
        detail = f"{found.source_id}: {image.width}x{image.height} pixels: {type(error).__name__} {error}"
        return Row(**said, status=UNCROPPABLE, detail=detail), None
    row = Row(**said, key=key, image_sha256=image_digest(data), width=image.width, height=image.height)
    return row, pixels


def decode_rows(listing: Listing, crop: Crop, out: Pixels) -> list[Row]:
    """What became of each row; its pixels, or zeros, in its place of `out` (at least N, P, P, 3)."""
    rows = []
    for i, key in enumerate(listing.keys):
        row, pixels = decode_row(listing.find(i), key, crop)
        out[i] = 0 if pixels is None else pixels
        rows.append(row)
    return rows


class Decoder:
    """Workers that decode batches a few ahead of who reads them.

    num_workers: processes; 0 for threads of this one, which do as well on a few cores. Processes end with this one,
    whatever ends it.
    """

    def __init__(self, crop: Crop, batch_size: int, num_workers: int) -> None:
        self.crop, self.batch_size = crop, batch_size
        shape = (NUM_SLOTS, batch_size, crop.px, crop.px, 3)
        self._in_processes = num_workers > 0
        self._pool: Executor
        if not self._in_processes:
            self._slots: Pixels = np.zeros(shape, np.uint8)
            self._pool = ThreadPoolExecutor(max_workers=min(MAX_THREADS, len(os.sched_getaffinity(0))))
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torch"])
        memory = context.RawArray(ctypes.c_uint8, int(np.prod(shape)))  # anonymous: nothing to clean up after a kill
        self._slots = as_pixels(memory, shape)
        self._pool = ProcessPoolExecutor(num_workers, context, begin_worker, (memory, shape, crop))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batches(self, listings: Iterable[tuple[Which, Listing]]) -> Iterator[tuple[Which, Listing, Decoded]]:
        """The batches of each listing in order; a listing without rows gives an empty one.

        Batches hold rows of one listing: which others are decoded beside it cannot change a part.
        """
        waiting: deque[tuple[Which, Listing, int, int, list[Future[list[Row]]]]] = deque()
        starts = ((w, rows, start) for w, rows in listings for start in range(0, max(1, len(rows)), self.batch_size))
        for number, (which, listing, start) in enumerate(starts):
            if len(waiting) == NUM_SLOTS:
                yield self._gathered(*waiting.popleft())
            slot = number % NUM_SLOTS  # free: its last batch was given away and another asked for
            waiting.append((which, listing, start, slot, self._begun(listing, start, slot)))
        while waiting:
            yield self._gathered(*waiting.popleft())

    def _begun(self, listing: Listing, start: int, slot: int) -> list[Future[list[Row]]]:
        stop = min(start + self.batch_size, len(listing))
        self._slots[slot, stop - start :] = 0
        pieces = [range(first, min(first + PIECE, stop)) for first in range(start, stop, PIECE)]
        if self._in_processes:
            return [self._pool.submit(decode_into, listing.rows(p), slot, p.start - start) for p in pieces]
        places = [self._slots[slot, p.start - start :] for p in pieces]
        return [
            self._pool.submit(decode_rows, listing.rows(p), self.crop, out)
            for p, out in zip(pieces, places, strict=True)
        ]

    def _gathered(
        self, which: Which, listing: Listing, start: int, slot: int, pieces: list[Future[list[Row]]]
    ) -> tuple[Which, Listing, Decoded]:
        rows = [row for piece in pieces for row in piece.result()]
        return which, listing, Decoded(start, rows, self._slots[slot])


def begin_worker(memory: Any, shape: tuple[int, ...], crop: Crop) -> None:
    """What a decoding process does first."""
    global _shared, _crop
    _shared, _crop = as_pixels(memory, shape), crop
    end_with_parent()


def as_pixels(memory: Any, shape: tuple[int, ...]) -> Pixels:
    """Shared memory as an array of pixels; nothing is copied."""
    return np.frombuffer(memory, np.uint8).reshape(shape)


def decode_into(listing: Listing, slot: int, place: int) -> list[Row]:
    """In a decoding process: the rows of a piece of a batch, its pixels in shared memory."""
    return decode_rows(listing, _crop, _shared[slot, place:])


def end_with_parent() -> None:
    """End this process when the one that started it is gone, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
