"""Worker processes: what a step does to its own process is its own failure, and the other steps are built."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from fixtures.build import workers
from fixtures.build.manifest import key_of
from fixtures.build.step import Step, step_function
from fixtures.build.store import StepFailed, Store, StoreError
from fixtures.build.worker import Built
from fixtures.build.workers import build_all

KEPT: list[bytes] = []
"""What a step leaves in the memory of its process."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked from a server on Linux alone")


@step_function("test_workers:obey")
def obey(inputs, output, parameters):
    """Write the process's ids and libraries, then do as the parameters say."""
    (output / "process").write_text(f"{os.getpid()} {os.getppid()} {'torch' in sys.modules}")
    if "variable" in parameters:
        (output / "variable").write_text(os.environ[parameters["variable"]])
    if "signal" in parameters:
        os.kill(os.getpid(), parameters["signal"])
    if "status" in parameters:
        os._exit(parameters["status"])
    if "error" in parameters:
        raise ValueError(parameters["error"])
    if "kept" in parameters:
        KEPT.append(bytes([1]) * parameters["kept"])
    time.sleep(parameters.get("seconds", 0))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def build(store, *steps, count=2):
    """Build steps; return the failures by label, and the labels of the steps that were built."""
    built: list[Built] = []
    failed = build_all(store, steps, count, built.append)
    labels = {key_of(needed.document): needed.label for step in steps for needed in step.lineage()}
    return {labels[name]: error for name, error in failed.items()}, [entry.label for entry in built]


def process_of(store, step):
    """Return the id of the process that built a step, that of its parent, and whether it had PyTorch before."""
    pid, parent, has_torch = (store.run(step).folder / "process").read_text().split()
    return int(pid), int(parent), has_torch == "True"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"signal": signal.SIGKILL}, "its process was ended by SIGKILL (out of memory?)"),
        ({"signal": signal.SIGSEGV}, "its process was ended by SIGSEGV"),
        ({"status": 3}, "its process ended with exit status 3"),
    ],
)
def test_step_that_ends_its_process_fails_alone_and_says_how(store, end, words):
    deadly = Step(obey, "tiny deadly", (), {**end, "number": 0})
    behind = Step(obey, "tiny behind", (deadly,), {"number": 1})
    others = [Step(obey, f"tiny {number}", (), {"number": number}) for number in (2, 3, 4)]
    failed, built = build(store, behind, *others)
    assert failed.keys() == {"tiny deadly", "tiny behind"}
    assert str(failed["tiny behind"]).startswith(f"tiny deadly: {words} (its output: {store.root / 'logs'}")
    assert sorted(built) == ["tiny 2", "tiny 3", "tiny 4"]
    assert not list(store.root.glob("partial/*"))


def test_step_that_raises_fails_alone_and_so_do_those_behind_it(store):
    wrong = Step(obey, "tiny wrong", (), {"error": "no such head"})
    behind = Step(obey, "tiny behind", (wrong,), {"number": 1})
    last = Step(obey, "tiny last", (behind,), {"number": 2})
    failed, built = build(store, wrong, behind, last, Step(obey, "tiny sound", ()))
    assert failed.keys() == {"tiny wrong", "tiny behind", "tiny last"}
    assert {(error.label, error.reason) for error in failed.values()} == {("tiny wrong", "ValueError: no such head")}
    assert isinstance(failed["tiny last"], StepFailed)
    assert built == ["tiny sound"]


@linux
def test_libraries_are_loaded_once_where_a_step_needs_them(store):
    """Steps that run side by side run in processes of their own, forked from one that has the libraries."""
    steps = [Step(obey, f"tiny {number}", (), {"number": number, "seconds": 1}, ("torch",)) for number in (0, 1)]
    run = multiprocessing.get_context("spawn").Process(target=build_all, args=(store, steps, 2, print))
    run.start()  # in a process that has started no workers yet
    run.join()
    assert run.exitcode == 0
    (first, parent, has_torch), (second, other_parent, _) = (process_of(store, step) for step in steps)
    assert first != second
    assert parent == other_parent != run.pid
    assert has_torch


def test_process_has_the_environment_of_now(store, monkeypatch):
    """The server that it is forked from has that of its own start."""
    assert build(store, Step(obey, "tiny first", ()))[0] == {}
    monkeypatch.setenv("EXPORTGATE_TEST", "changed since")
    step = Step(obey, "tiny second", (), {"variable": "EXPORTGATE_TEST"})
    assert build(store, step)[0] == {}
    assert (store.run(step).folder / "variable").read_text() == "changed since"


@pytest.mark.parametrize(("kept", "same"), [(0, True), (800_000_000, False)])
def test_process_that_holds_much_memory_is_replaced(store, monkeypatch, kept, same):
    monkeypatch.setattr(workers, "BYTES_PER_WORKER", 700_000_000)
    steps = [Step(obey, f"tiny {number}", (), {"number": number, "kept": kept}) for number in (0, 1)]
    assert build(store, *steps, count=1)[0] == {}
    first, second = (process_of(store, step)[0] for step in steps)
    assert (first == second) is same


def test_process_that_cannot_be_started_is_an_error_of_the_store(store, monkeypatch):
    def refuse(*arguments):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(workers, "Worker", refuse)
    with pytest.raises(StoreError, match=r"a worker process cannot be started: .*Resource temporarily unavailable"):
        build(store, Step(obey, "tiny", ()))
