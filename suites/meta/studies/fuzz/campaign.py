"""Many mutated files for one reader, in a process of their own: it may crash, hang or eat the memory.

What lies in the folder when it ends is the example that it ended with; after a fault, Hypothesis has made it small.
"""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from fixtures.build.worker import settle
from fixtures.models.content import visible

MEMORY_BYTES = 2 * 2**30
"""Memory that all examples of a target may take beside what the process has when it begins."""
SHOWN_LINES = 12
"""Lines of a traceback that a fault shows."""


@dataclass(frozen=True)
class Attempt:
    """A target made ready in a folder.

    Attributes:
        examples: what its files may have become.
        read: writes an example's files and has them read; an AssertionError is a fault like any other.
        refusals: the project's own errors for files that cannot be used.
        names: a refusal names one of these: a file, its folder or an option.
        limit_s: seconds after which an example hangs, on a machine that others use too: it ends the process.
    """

    examples: SearchStrategy[Any]
    read: Callable[[Any], None]
    refusals: tuple[type[Exception], ...]
    names: tuple[str, ...]
    limit_s: float = 30


@dataclass(frozen=True)
class Target:
    """A kind of file, and who reads it.

    Attributes:
        files: what is mutated. reader: who reads it, and what must hold.
        examples: how many there are in the profile `ci`; the other profiles have a multiple of them.
        prepare: writes the valid files into a folder. It gets the folder, and that of the seeds.
    """

    name: str
    files: str
    reader: str
    examples: int
    prepare: Callable[[Path, Path], Attempt]


@dataclass(frozen=True)
class Tally:
    """How the examples of a target ended.

    Attributes:
        accepted, refused: how many were read, and how many ended in one of the project's own errors.
        seconds: of the examples alone.
        fault: how the first example ended that did neither, in words; empty if none did.
    """

    target: str
    accepted: int
    refused: int
    seconds: float
    fault: str = ""

    @property
    def examples(self) -> int:
        return self.accepted + self.refused


def run_campaign(target: Target, folder: Path, seeds: Path, examples: int, *, derandomize: bool) -> Tally:
    """Try examples of a target until one is at fault.

    Args:
        folder: an empty one, in which a faulty example is left.
        seeds: see `targets.make_seeds`.
        derandomize: take the same examples every time.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(theirs, target, folder, seeds, examples, derandomize)
    )
    process.start()
    theirs.close()
    try:
        tally: Tally = ours.recv()
    except EOFError:
        process.join()
        log = _log_of(folder)
        last = log.read_text(errors="replace").strip() if log.exists() else ""
        tally = Tally(target.name, 0, 0, 0.0, f"the process ended with {process.exitcode}\n{last}")
    process.join()
    return tally


def _work(connection: Connection, target: Target, folder: Path, seeds: Path, examples: int, derandomize: bool) -> None:
    settle()
    with _log_of(folder).open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        attempt = target.prepare(folder, seeds)
        _limit_memory()
        counts: Counter[bool] = Counter()
        began, fault = time.monotonic(), ""
        try:
            _try_examples(attempt, examples, derandomize, counts, log)
        except BaseException as error:  # a panic of Rust is no Exception
            fault = _described(error)
    connection.send(Tally(target.name, counts[True], counts[False], time.monotonic() - began, fault))


def _log_of(folder: Path) -> Path:
    """Return the file with what the process printed, beside the folder."""
    return folder.with_name(f"{folder.name}.log")


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # no such limit on Windows
        return
    limit = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _try_examples(
    attempt: Attempt, examples: int, derandomize: bool, counts: Counter[bool], log: io.TextIOWrapper
) -> None:
    """Try examples and count them by whether they were read."""

    @settings(
        max_examples=examples, derandomize=derandomize, database=None, deadline=None, report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(attempt.examples)
    def is_read_or_refused(example: object) -> None:
        faulthandler.dump_traceback_later(attempt.limit_s, exit=True, file=log)
        try:
            attempt.read(example)
        except attempt.refusals as error:
            message = str(error)
            assert any(name in visible(message) for name in attempt.names), f"nothing is named by: {message}"
            counts[False] += 1
        else:
            counts[True] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()  # what Hypothesis does between two examples is no reader's time

    is_read_or_refused()


def _described(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(line[:300] for line in lines[-SHOWN_LINES:])
