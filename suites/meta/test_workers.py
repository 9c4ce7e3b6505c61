"""Worker processes: what a step does to its own process is its own failure, and the other steps are built."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest
from filelock import FileLock

from fixtures.build import workers
from fixtures.build.needs import NEEDS, ModelSize, Need, bytes_needed
from fixtures.build.step import STEP_NAMES, Step, key_of, step_function
from fixtures.build.store import StepFailed, Store, StoreError
from fixtures.build.worker import Built
from fixtures.build.workers import Limits, build_all
from fixtures.export.onnx_export import export_onnx
from fixtures.models.encoders import attention_bytes
from fixtures.scoring import scores

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
    if "full" in parameters:
        while len(list(output.parents[1].glob("*/output/process"))) < parameters["full"]:
            time.sleep(0.01)
        raise OSError(errno.ENOSPC, "No space left on device")
    if "kept" in parameters:
        KEPT.append(bytes([1]) * parameters["kept"])
    time.sleep(parameters.get("seconds", 0))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def build(store, *steps, count=2):
    """Build steps; return the failures by label, and the labels of the steps that were built."""
    built: list[Built] = []
    failed = build_all(
        store, dict.fromkeys(steps, ModelSize()), Limits(count, 2**33), lambda step, _: built.append(step)
    )
    labels = {key_of(needed.document): needed.label for step in steps for needed in step.lineage()}
    return {labels[name]: error for name, error in failed.items()}, [entry.label for entry in built]


def test_steps_that_fail_and_those_behind_them_are_given_up_once(store):
    """What shows the steps that run would show them for as long as others are built."""
    failing = Step(obey, "tiny failing", (), {"error": "as planned"})
    behind = Step(obey, "tiny behind", (failing,), {"number": 1})
    slow = Step(obey, "tiny slow", (), {"seconds": 60})
    sound = Step(obey, "tiny sound", (), {"number": 2})
    given_up: list[tuple[str, str]] = []
    build_all(
        store,
        dict.fromkeys([behind, slow, sound], ModelSize()),
        Limits(2, 2**33, 3),
        lambda built, _: None,
        given_up=lambda label, key: given_up.append((label, key)),
    )
    assert sorted(given_up) == sorted((step.label, key_of(step.document)) for step in (failing, behind, slow))


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


def test_full_store_ends_all_builds_and_keeps_nothing_of_them(store):
    """What is half built would keep the disk full."""
    slow = Step(obey, "tiny slow", (), {"seconds": 60})
    with pytest.raises(StoreError, match=r"cannot take artifact .*: No space left on device"):
        build(store, slow, Step(obey, "tiny full", (), {"full": 2}), Step(obey, "tiny later", ()))
    assert not list(store.root.glob("partial/*"))
    assert not list(store.root.glob("artifacts/*"))


@linux
def test_libraries_are_loaded_once_where_a_step_needs_them(store):
    """Steps that run side by side run in processes of their own, forked from one that has the libraries."""
    steps = [Step(obey, f"tiny {number}", (), {"number": number, "seconds": 1}, ("torch",)) for number in (0, 1)]
    run = multiprocessing.get_context("spawn").Process(
        target=build_all, args=(store, dict.fromkeys(steps, ModelSize()), Limits(2, 2**33), print)
    )
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
    monkeypatch.setattr(workers, "BYTES_KEPT", 700_000_000)
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


def timed(tmp_path, monkeypatch, memory_bytes, *needs):
    """Build steps of which each needs so much memory, and return when each began and ended."""
    monkeypatch.setitem(NEEDS, "test_workers:note_times", Need(1, 1))
    monkeypatch.setattr("fixtures.build.needs.LIBRARIES_BYTES", 0)
    steps = {
        Step(note_times, f"tiny {number}", (), {"number": number}): ModelSize(need) for number, need in enumerate(needs)
    }
    store = Store(tmp_path / "store")
    assert build_all(store, steps, Limits(4, memory_bytes), print) == {}
    return [tuple(map(float, (store.run(step).folder / "times").read_text().split())) for step in steps]


def overlap(left, right):
    return left[0] < right[1] and right[0] < left[1]


@step_function("test_workers:note_times")
def note_times(inputs, output, parameters):
    start = time.monotonic()
    time.sleep(0.5)
    (output / "times").write_text(f"{start} {time.monotonic()}")


def test_steps_run_together_as_far_as_memory_allows(tmp_path, monkeypatch):
    first, second, third = timed(tmp_path, monkeypatch, 10, 7, 6, 3)
    assert overlap(first, third)
    assert not overlap(first, second)


def test_step_that_needs_most_begins_first(tmp_path, monkeypatch):
    """At the end nothing would be left to run beside it."""
    small, large = timed(tmp_path, monkeypatch, 10, 4, 9)
    assert large[1] <= small[0]


def test_chain_begins_before_a_single_step(tmp_path):
    """What it waits for is done while the single step runs."""
    single, first = (Step(note_times, f"tiny {number}", (), {"number": number}) for number in range(2))
    last = Step(note_times, "tiny 2", (first,), {"number": 2})
    order = []
    build_all(
        Store(tmp_path),
        dict.fromkeys((single, last), ModelSize()),
        Limits(1, 2**33),
        lambda step, _: order.append(step.label),
    )
    assert order == ["tiny 1", "tiny 0", "tiny 2"]


def test_step_that_needs_more_than_there_is_runs_alone(tmp_path, monkeypatch):
    first, second = timed(tmp_path, monkeypatch, 10, 20, 1)
    assert not overlap(first, second)


def test_input_needs_the_memory_of_what_reads_it(store):
    """Two variants share an export; the larger of the two checkpoints' sizes counts."""
    source = Step(obey, "tiny source", (), {"number": 0})
    small, large = (Step(obey, f"tiny {number}", (source,), {"number": number}) for number in (1, 2))
    long_texts, large_weights = ModelSize(5, 70), ModelSize(9, 0)
    sizes = {step.label: size for step, size in workers.with_inputs({small: long_texts, large: large_weights}).items()}
    assert sizes == {"tiny source": ModelSize(9, 70), "tiny 1": long_texts, "tiny 2": large_weights}


def test_long_texts_need_memory_where_they_are_scored():
    """bge-m3 has 16 heads, and its plain graph held 10.3 GB of attention over a text of 8,192 tokens."""
    attention = attention_bytes({"num_attention_heads": 16}, 8192)
    assert attention == 4 * 16 * 8192**2
    scoring, export = Step(scores.score_onnx, "scores", ()), Step(export_onnx, "export", ())
    short, long = ModelSize(2 * 10**9), ModelSize(2 * 10**9, attention)
    assert bytes_needed(scoring, long) - bytes_needed(scoring, short) == pytest.approx(10.3e9, rel=0.01)
    assert bytes_needed(export, long) == bytes_needed(export, short)


def test_shortage_is_told_of_what_is_not_built(store):
    step = Step(obey, "tiny step", (), {"number": 0})
    (shortage,) = workers.shortages(store, {step: ModelSize(2 * 10**9)}, 10**10)
    assert str(shortage) == (
        "tiny step needs about 10.6 GB of memory, and 10.0 GB are available: its process may be ended, and its variant "
        "fail"
    )
    assert workers.shortages(store, {step: ModelSize(10**9)}, 10**10) == []
    store.run(step)
    assert workers.shortages(store, {step: ModelSize(2 * 10**9)}, 10**10) == []


def test_every_step_function_of_the_tables_has_a_measured_need():
    """Emulators, OpenVINO, ready-made files and consumers' programs are not measured at full size, and count as what is
    not known."""
    names = {name if isinstance(name, str) else name[0] for name in NEEDS}
    assert names <= set(STEP_NAMES.values())
    unmeasured = {name for name in STEP_NAMES.values() if name.startswith("fixtures.")} - names
    assert unmeasured == {
        *("fixtures.emulation:fetch", "fixtures.tasks:score_emulated", "fixtures.foreign:adopt"),
        *("fixtures.export:export_openvino", "fixtures.export:quantize_openvino"),
        *("fixtures.translate:translate", "fixtures.integers:investigate", "fixtures.consumers.consume:consume"),
    }


def test_processes_share_the_steps_and_build_none_twice(tmp_path):
    """Each begins with what no other builds, as processes of pytest-xdist do."""
    steps = [Step(note_times, f"tiny {number}", (), {"number": number}) for number in range(6)]
    arguments = (Store(tmp_path), dict.fromkeys(steps, ModelSize()), Limits(1, 2**33), print)
    runs = [multiprocessing.get_context("spawn").Process(target=build_all, args=arguments) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    store = Store(tmp_path)
    times = [tuple(map(float, (store.run(step).folder / "times").read_text().split())) for step in steps]
    pairs = [(left, right) for left in times for right in times if left < right]
    assert any(overlap(left, right) for left, right in pairs)


def test_step_that_another_process_builds_is_found_and_not_built_again(tmp_path):
    store, step = Store(tmp_path), Step(note_times, "tiny", (), {"number": 0})
    lock = FileLock(store.root / "locks" / f"{store.key(step)}.lock")
    built = []
    with lock:
        assert store.is_being_built(step)
        run = threading.Thread(
            target=lambda: build_all(store, {step: ModelSize()}, Limits(1, 2**33), lambda *entry: built.append(entry))
        )
        run.start()
        time.sleep(0.3)
        assert not built
        (tmp_path / "elsewhere").mkdir()
        made = Store(tmp_path / "elsewhere").run(step)
        made.folder.rename(store.root / "artifacts" / made.key)
    run.join()
    assert built == []
    assert not store.is_being_built(step)
