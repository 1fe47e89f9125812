"""Who embeds the shards of a dump: one process a device, decoders beside each, parts written behind their backs."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from unclip.data.decoding import Decoder, end_with_parent
from unclip.data.embed import Encoder, EncoderFacts, Made, embed_listings
from unclip.data.listings import Listing

PROGRESS_S = 0.5

Progress = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to embed; it may be sent to another process."""

    open_listing: Callable[[], Listing]
    write: Callable[[Made, Encoder], None]  # and check what was written


@dataclass(frozen=True)
class Engine:
    """What embeds. openers: of an encoder, one a device; called in the process that uses it.

    num_workers: decoding processes beside each device; 0 for threads.
    """

    facts: EncoderFacts
    openers: tuple[Callable[[], Encoder], ...]
    batch_size: int
    num_workers: int = 0

    def embed(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Write the part of every job; progress(done, of) counts shards, in fractions."""
        if len(self.openers) > 1 and len(jobs) > 1:
            embed_on_devices(self, jobs, progress)
        elif jobs:
            share = counted(lambda done: progress(done, len(jobs)))
            embed_jobs(jobs, self.openers[0](), self, share)


def counted(report: Callable[[float], None]) -> Callable[[int, int], None]:
    """Rows of a shard after those of another, as a number of shards."""
    num_whole = 0

    def rows(done: int, of: int) -> None:
        nonlocal num_whole
        num_whole += done == of
        report(num_whole + (done / of if done < of else 0))

    return rows


def embed_jobs(jobs: Iterable[Job], encoder: Encoder, engine: Engine, progress: Callable[[int, int], None]) -> None:
    """Embed shard after shard, writing and checking the one before meanwhile."""
    writing: Future[None] | None = None
    with Decoder(encoder.crop, engine.batch_size, engine.num_workers) as decoder, ThreadPoolExecutor(1) as writer:
        listings = ((job, job.open_listing()) for job in jobs)
        for job, made in embed_listings(listings, encoder, decoder, progress):
            if writing is not None:
                writing.result()
            writing = writer.submit(job.write, made, encoder)
        if writing is not None:
            writing.result()


def embed_on_devices(engine: Engine, jobs: Sequence[Job], progress: Progress) -> None:
    """Embed in one process a device, each taking the next shard when it has done one.

    They end with this process. Raises: what the first of them raised; RuntimeError when one was killed.
    """
    context = multiprocessing.get_context("forkserver")
    taken, done = context.Value("q", 0), context.Array("d", len(engine.openers))
    started = []
    try:
        for rank in range(len(engine.openers)):
            heard, told = context.Pipe(duplex=False)
            child = context.Process(target=embed_share, args=(engine, rank, jobs, taken, done, told))
            child.start()
            told.close()
            started.append((child, heard))
        running = dict(started)
        while running:
            ended = wait(list(running.values()), PROGRESS_S)  # of one that ended there is no more to hear
            progress(sum(done[:]), len(jobs))
            for child in [child for child in running if running[child] in ended]:
                raise_failure(child, running.pop(child))
    finally:
        for child, heard in started:
            child.terminate()
            child.join()
            heard.close()


def raise_failure(child: Any, heard: Connection) -> None:
    """Raises: what a process that ends raised, if it did."""
    error: BaseException | None = None
    with suppress(EOFError):  # it had nothing to say, or no time
        error = heard.recv()  # before it is joined: it cannot end until a long error was read
    child.join()
    if error is None and child.exitcode:
        error = RuntimeError(f"a process that embeds was killed ({child.exitcode}): run again, finished parts stay")
    if error is not None:
        raise error


def embed_share(engine: Engine, rank: int, jobs: Sequence[Job], taken: Any, done: Any, told: Connection) -> None:
    """In a process of its own: embed shards on one device until none is left."""
    end_with_parent()

    def report(value: float) -> None:
        done[rank] = value

    try:
        embed_jobs(next_jobs(jobs, taken), engine.openers[rank](), engine, counted(report))
    except Exception as error:  # raised again where it can be told to the user
        told.send(error)
        raise SystemExit(1) from None


def next_jobs(jobs: Sequence[Job], taken: Any) -> Iterator[Job]:
    """The jobs that no other process has taken."""
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(jobs):
            return
        yield jobs[number]
