"""Where tasks of Dask are carried out: on threads of this process, or on the workers of a scheduler.

A cluster must be able to do what is asked of it before it is asked: a scheduler that does not answer, workers with other versions
of what decides about results, and workers that do not see the store are each named, in bounded time. A worker that is lost
while at work costs its tasks, which others do again; when none is left for :data:`NO_WORKER_S`, that is an error.

distributed is imported for a cluster alone, and Dask by whoever makes tasks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

if TYPE_CHECKING:
    from dask.delayed import Delayed
    from distributed import Client, Future

ANSWER_S = 10.0  # for the scheduler to answer
CHECK_S = 60.0  # for a worker to say what it has and sees
NO_WORKER_S = 30.0  # without any worker
RETRIES = 2  # of a task that raises: a store may be away for a moment
# What results, or the reading of what others have pickled, depends on.
PACKAGES = (
    "linewatch",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "dask",
    "distributed",
    "cloudpickle",
    "msgpack",
)


class ClusterError(Exception):
    """The cluster cannot do it; the text says why and what to do."""


class Computer(Protocol):
    """Who carries out tasks."""

    def run(self, tasks: Sequence[Delayed], what: str) -> list[Any]:
        """The results of ``tasks``, in their order; what a task raises is raised. On a terminal ``what`` and how far it is
        are shown. Raises ClusterError."""
        ...


class Threads:
    """Threads of this process, as many as it has processors."""

    def run(self, tasks: Sequence[Delayed], what: str) -> list[Any]:
        """See :class:`Computer`; Dask's own bar does not say ``what``."""
        import dask
        import dask.threaded
        from dask.diagnostics import ProgressBar

        shown = ProgressBar(out=sys.stderr) if sys.stderr.isatty() else contextlib.nullcontext()
        with shown:
            found: tuple[Any, ...] = dask.compute(
                *tasks,
                scheduler=dask.threaded.get,
                num_workers=len(os.sched_getaffinity(0)),
                optimize_graph=False,
            )
        return list(found)


class Cluster:
    """The workers of the scheduler at ``address``, by ``client``."""

    def __init__(self, client: Client, address: str) -> None:
        self._client, self._address = client, address

    def check(self, sees: Callable[[], str | None]) -> None:
        """Whether each worker has our versions, and ``sees`` what it must: that says what it lacks, or None. Raises
        ClusterError."""
        workers = self._workers()
        if not workers and not self._answers_still():
            raise ClusterError(self._lost())
        if not workers:
            raise ClusterError(
                f"the scheduler at {self._address} has no worker: start some with `dask worker {self._address}`"
            )
        wanted = versions()
        asked = {
            worker: self._client.submit(
                _found, sees, workers=[worker], allow_other_workers=False, pure=False, retries=0
            )
            for worker in workers
        }
        answers = self._answers(asked)
        faults = []
        for worker, (has, text) in answers.items():
            other = [
                f"{name} {has.get(name) or 'is missing'} (here {here})"
                for name, here in wanted.items()
                if has.get(name) != here
            ]
            if other:
                faults.append(f"worker {worker} has other versions: {', '.join(other)}")
            elif text is not None:
                faults.append(f"worker {worker} {text}")
        if faults:
            raise ClusterError("; ".join(faults))

    def run(self, tasks: Sequence[Delayed], what: str) -> list[Any]:
        """See :class:`Computer`."""
        from distributed.scheduler import KilledWorker

        futures = self._client.compute(list(tasks), retries=RETRIES, optimize_graph=False)
        try:
            self._wait(futures, what)
            found: list[Any] = self._client.gather(futures)
        except KilledWorker as error:
            raise ClusterError(
                f"workers of {self._address} are lost whenever they do this ({error}): is their memory too small?"
            ) from error
        except (CancelledError, OSError) as error:
            raise ClusterError(self._lost()) from error
        finally:
            if self._client.status == "running":
                self._client.cancel(futures)
        return found

    def _wait(self, futures: Sequence[Future], what: str) -> None:
        had_one_s = time.monotonic()
        with tqdm(total=len(futures), desc=what, unit="model", disable=None, leave=False) as bar:
            while not all(f.done() for f in futures) and not any(f.status == "error" for f in futures):
                if self._client.status != "running":
                    raise ClusterError(self._lost())
                if self._workers():
                    had_one_s = time.monotonic()
                elif time.monotonic() - had_one_s > NO_WORKER_S:
                    raise ClusterError(
                        f"no worker of {self._address} is left, and none has come for {NO_WORKER_S:g} s: start one and try again"
                    )
                bar.update(sum(f.done() for f in futures) - bar.n)
                time.sleep(0.1)

    def _answers(self, asked: dict[str, Future]) -> dict[str, tuple[dict[str, str], str | None]]:
        found = {}
        ends_s = time.monotonic() + CHECK_S
        for worker, future in asked.items():
            while not future.done():
                if self._client.status != "running":
                    raise ClusterError(self._lost())
                if time.monotonic() > ends_s:
                    raise ClusterError(f"worker {worker} does not answer within {CHECK_S:g} s")
                time.sleep(0.02)
            try:
                found[worker] = future.result()
            except CancelledError as error:
                raise ClusterError(self._lost()) from error
            except Exception as error:
                raise ClusterError(
                    f"worker {worker} of {self._address} cannot run this: {type(error).__name__}: {error}; it and the scheduler "
                    "need linewatch[cloud] of the same version"
                ) from error
        return found

    def _answers_still(self) -> bool:
        """Whether the scheduler does: of one that has just gone, no worker is all that can be seen."""
        if self._client.status != "running":
            return False
        try:
            self._client.run_on_scheduler(int)
        except (OSError, CancelledError, TimeoutError, RuntimeError):
            return False
        return True

    def _workers(self) -> list[str]:
        return sorted(self._client.scheduler_info(n_workers=-1).get("workers", ()))

    def _lost(self) -> str:
        return (
            f"the scheduler at {self._address} is gone; nothing of this was written: start it and try again"
        )


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """The workers of the scheduler at ``address`` (``tcp://host:port``). Raises ClusterError."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError(f"a cluster needs the package distributed: {error}") from error
    if not re.fullmatch(r"(tcp|tls)://[^/]+:\d+", address):
        raise ClusterError(f"{address!r} is no address of a Dask scheduler: write tcp://HOST:PORT")
    for name in (
        "distributed",
        "distributed.client",
        "tornado",
    ):  # what they have to say of a lost connection, we say in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=ANSWER_S, set_as_default=False, name="linewatch")
    except (OSError, ValueError, TimeoutError, ImportError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} within {ANSWER_S:g} s ({error}): start one with `dask scheduler`, or "
            "leave out --scheduler"
        ) from error
    try:
        yield Cluster(client, address)
    finally:
        client.close(timeout=5)


def versions() -> dict[str, str]:
    """What results depend on, as it is installed here."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _found(sees: Callable[[], str | None]) -> tuple[dict[str, str], str | None]:
    return versions(), sees()
