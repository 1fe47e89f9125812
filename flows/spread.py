"""The shards of a stage side by side: Prefect tasks over threads, Dask or Ray, as the pipeline's `runner` says."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.config import Runner

MAX_TASKS = 100  # of a stage: Prefect on SQLite records 20 to 60 a second


class Work(Protocol):
    """What makes a shard, or some; it may be sent to another process."""

    def do(self) -> None:
        """Make it, and put it where it belongs."""


@task(cache_policy=NO_CACHE, persist_result=False)
def make_shards(works: Sequence[Work]) -> int:
    """How many works were done: all of them."""
    for work in works:
        work.do()
    return len(works)


class Workers:
    """Who makes the shards of a run. A cluster of the run's own starts when first needed, and ends with the block."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.address = runner.address
        self.closing = ExitStack()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    def spread(self, works: Sequence[Work], stage: str, **options: Any) -> Iterator[int]:
        """Do all the work of a stage side by side, in one flow of batches; after each batch, how much of it is done.

        options: of the Prefect task that makes a batch. Raises: what a batch raised; what others made stays.
        """
        size = math.ceil(len(works) / MAX_TASKS)
        batches = [works[start : start + size] for start in range(0, len(works), size)]
        make = make_shards.with_options(name=stage, **options)

        @flow(name=f"{stage} of {len(works)} shards", persist_result=False, task_runner=self.task_runner())
        def shards() -> Iterator[int]:
            done = 0
            for future in as_completed([make.submit(batch) for batch in batches]):
                done += future.result()
                yield done

        yield from shards()

    def task_runner(self) -> TaskRunner[Any]:
        """Prefect's task runner for the settings."""
        kind, num_workers = self.runner.kind, self.runner.num_workers
        if kind == "dask":
            return self._dask()
        if kind == "ray":
            return self._ray()
        assert num_workers is not None
        return ThreadPoolTaskRunner(max_workers=num_workers)

    def _dask(self) -> TaskRunner[Any]:
        import dask
        from distributed import LocalCluster
        from prefect_dask import DaskTaskRunner

        if self.address is None:
            num_workers = self.runner.num_workers
            try:
                cluster = LocalCluster(n_workers=num_workers, threads_per_worker=1, dashboard_address=None)
            except (TimeoutError, RuntimeError) as error:
                limit = dask.config.get("distributed.comm.timeouts.connect")
                raise RuntimeError(
                    f"{num_workers} dask workers did not start: {str(error) or 'they took too long'}. Ask for fewer, "
                    f"let this machine do less, or set DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT, now {limit}"
                ) from error
            self.address = self.closing.enter_context(cluster).scheduler_address
        return DaskTaskRunner(address=self.address)

    def _ray(self) -> TaskRunner[Any]:
        import ray
        from prefect_ray import RayTaskRunner

        if not ray.is_initialized():
            own: dict[str, Any] = {"num_cpus": self.runner.num_workers, "include_dashboard": False}
            ray.init(self.address, logging_level=logging.ERROR, **({} if self.address else own))
            self.closing.callback(ray.shutdown)
        return RayTaskRunner()
