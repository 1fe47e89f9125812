"""The shards of a dump over a Dask or Ray cluster: the bytes of one process, whoever makes them.

A cluster needs what a pipeline's runner does: this code and its environment, and the folders of the source, the dump
and the store at the same paths on every worker.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flows.config import Runner
from flows.interrupt import on_interrupt
from flows.terminal import err
from unclip.data.dump_engine import Engine, Job, Progress, embed_jobs
from unclip.data.embed import Encoder
from unclip.prefect_server import apply_environment, start_server

INTERRUPTED = "interrupted: the parts that are written stay; run again"


@dataclass(frozen=True)
class Share:
    """A shard and what embeds it, as they may go to another process."""

    opener: "partial[Encoder]"
    engine: Engine
    job: Job

    def do(self) -> None:
        """Write its part into the dump."""
        encoder = opened(self.opener.func, *self.opener.args)
        embed_jobs([self.job], encoder, self.engine, lambda done, of: None)


@lru_cache(maxsize=1)
def opened(open_encoder: Callable[..., Encoder], *arguments: Any) -> Encoder:
    """The encoder of this process, for all the shards that come to it."""
    return open_encoder(*arguments)


@dataclass(frozen=True, kw_only=True)
class ClusterEngine(Engine):
    """What embeds on a cluster. store: whose Prefect server shows it."""

    runner: Runner
    store: Path

    def embed(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Write the part of every job; progress(done, of) counts shards. Main thread only."""
        if not jobs:
            return
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        server = start_server(self.store)
        try:
            apply_environment(self.store, server.wait())
            with on_interrupt([partial(err.print, INTERRUPTED)]):
                self._spread(jobs, progress)
        finally:
            server.close()

    def _spread(self, jobs: Sequence[Job], progress: Progress) -> None:
        from flows.spread import Workers  # Prefect, which reads its settings once

        (opener,) = self.openers
        assert isinstance(opener, partial)
        engine = Engine(self.facts, self.openers, self.batch_size)
        with Workers(self.runner) as workers:
            for done in workers.spread([Share(opener, engine, job) for job in jobs], "embed"):
                progress(done, len(jobs))


def on_cluster(engine: Engine, runner: Runner, store: Path) -> ClusterEngine:
    """The engine, with its work done by a cluster."""
    return ClusterEngine(engine.facts, engine.openers, engine.batch_size, runner=runner, store=store)
