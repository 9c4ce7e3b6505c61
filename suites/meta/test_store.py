"""The store under every kind of trouble: killed, raced, damaged, full. Builds here are functions of files."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from fixtures.build import manifest
from fixtures.build import store as stores
from fixtures.build.manifest import Damaged, key_of, write_manifest
from fixtures.build.step import Step, step_function
from fixtures.build.store import Location, StepFailed, Store, StoreError
from fixtures.models.checkpoints import Checkpoint

KEY = "0" * 32


def write(text):
    def make(work):
        (work / "output" / "model.onnx").write_text(text)

    return make


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def remains(store):
    """Return everything that a failed build must not leave."""
    return [*store.root.glob("partial/*"), *store.root.glob("artifacts/*")]


def test_artifact_is_built_once_and_found(store):
    built = store.build(KEY, {"recipe": 1}, write("one"))
    second = store.build(KEY, {"recipe": 1}, lambda _: pytest.fail("built twice"))
    assert second == built == store.find(KEY)
    assert (built.folder / "model.onnx").read_text() == "one"
    assert built.bytes == 3
    assert json.loads((built.folder / "manifest.json").read_text())["recipe"] == {"recipe": 1}
    assert not list(store.root.glob("partial/*"))


def test_digest_is_of_content_not_of_place(tmp_path):
    first = Store(tmp_path / "a").build(KEY, {}, write("one"))
    second = Store(tmp_path / "b").build("1" * 32, {"other": 1}, write("one"))
    third = Store(tmp_path / "c").build(KEY, {}, write("two"))
    assert first.digest == second.digest != third.digest


def test_failed_build_leaves_nothing(store):
    def make(work):
        write("half")(work)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        store.build(KEY, {}, make)
    assert not remains(store)
    assert store.build(KEY, {}, write("whole")).bytes == 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_full_disk_says_what_to_do(store, code):
    def make(work):
        write("half")(work)
        raise OSError(code, os.strerror(code))

    with pytest.raises(StoreError, match=r"cannot take artifact .*; free some space, or name another .*--store"):
        store.build(KEY, {}, make)
    assert not remains(store)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_really_full_disk(store):
    """The error comes from the kernel and not from a test."""

    def make(work):
        with Path("/dev/full").open("w") as device:
            device.write("x" * 100_000)

    with pytest.raises(StoreError, match="No space left on device"):
        store.build(KEY, {}, make)
    assert not remains(store)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.onnx").write_text("two"), "model.onnx has changed"),
        (lambda folder: (folder / "model.onnx").unlink(), "files are missing or unknown: model.onnx"),
        (lambda folder: (folder / "more").write_text(""), "files are missing or unknown: more"),
        (lambda folder: (folder / "manifest.json").unlink(), "its manifest cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"files"'), "its manifest cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "its manifest cannot be read"),
    ],
)
def test_damaged_artifact_is_noticed_and_built_again(store, damage, words):
    built = store.build(KEY, {}, write("one"))
    damage(built.folder)
    with pytest.raises(Damaged, match=words):
        manifest.verify(KEY, built.folder)
    with pytest.warns(UserWarning, match=f"{words}.*it is built again"):
        assert store.build(KEY, {}, write("one")) == built


def _build_slowly(root, folder):
    def make(work):
        write("one")(work)
        with (folder / "builds").open("a") as log:
            log.write("build\n")
        time.sleep(0.3)

    Store(root).build(KEY, {}, make)


def test_processes_that_race_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    racers = [context.Process(target=_build_slowly, args=(tmp_path / "store", tmp_path)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert (tmp_path / "builds").read_text() == "build\n"


def _build_and_die(root):
    def make(work):
        write("half")(work)
        os.kill(os.getpid(), signal.SIGKILL)

    Store(root).build(KEY, {}, make)


def test_killed_build_is_swept_when_the_store_opens(tmp_path):
    context = multiprocessing.get_context("spawn")
    victim = context.Process(target=_build_and_die, args=(tmp_path / "store",))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob("store/partial/*")), "the build was not caught in the act"
    store = Store(tmp_path / "store")
    assert not remains(store)
    assert store.build(KEY, {}, write("whole")).bytes == 5


def test_build_in_progress_is_not_swept(store):
    def make(work):
        process = multiprocessing.get_context("spawn").Process(target=Store, args=(store.root,))
        process.start()
        process.join()
        assert process.exitcode == 0
        write("one")(work)  # fails if the other process has removed the work folder

    store.build(KEY, {}, make)


# ------------------------------------------------------------------------------------------ steps


@step_function("test_store:copy_and_spoil_input")
def copy_and_spoil_input(inputs, output, parameters):
    """Worse than ORTOptimizer, which deletes its input's external data: overwrite it first."""
    for file in inputs[0].iterdir():
        shutil.copyfile(file, output / file.name)
        file.write_text("overwritten")
        file.unlink()


@step_function("test_store:read_input")
def read_input(inputs, output, parameters):
    (output / "size").write_text(str((inputs[0] / "model.safetensors").stat().st_size))


@step_function("test_store:fail")
def fail(inputs, output, parameters):
    print("words before the end")
    raise ValueError("no such operator")


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_text("weights")
    return Checkpoint(tmp_path / "checkpoint", None, "sha256:1", 7)


@pytest.fixture
def step():
    """Return a function that makes a step of a function of this file."""
    return lambda function, *inputs: Step(function, function.__name__, inputs)


def test_step_gets_a_private_copy(store, checkpoint, step):
    first = step(copy_and_spoil_input, checkpoint)
    second = Step(first.run, "second", (first,), {"number": 2})
    built, after = store.run(first), store.run(second)
    assert (checkpoint.folder / "model.safetensors").read_text() == "weights"
    manifest.verify(built.key, built.folder)
    assert (after.folder / "model.safetensors").read_text() == "weights"


def test_step_whose_input_is_gone_builds_it_again(store, checkpoint, step):
    first = step(copy_and_spoil_input, checkpoint)
    second = Step(first.run, "second", (first,), {"number": 2})
    shutil.rmtree(store.run(first).folder)
    assert (store.run(second).folder / "model.safetensors").exists()


def test_failed_step_names_itself_and_its_log(store, checkpoint, step):
    with pytest.raises(StepFailed) as error:
        store.run(step(fail, checkpoint))
    assert str(error.value).startswith("fail: ValueError: no such operator (its output: ")
    assert not remains(store)


def test_step_on_a_full_disk_is_a_store_error(store, checkpoint, step, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.run(step(copy_and_spoil_input, checkpoint))
    assert not remains(store)


def test_measurement_is_made_again_when_its_input_comes_out_otherwise(store, checkpoint, step):
    """A step by content reads the stored files themselves, and its key follows their content."""
    first = step(copy_and_spoil_input, checkpoint)
    measure = Step(read_input, "measure", (first,), by_content=True)
    assert not store.has(measure)
    built = store.run(measure)
    assert (built.folder / "size").read_text() == "7"
    assert store.has(measure)
    assert store.run(measure) == built
    artifact = store.find(store.key(first)).folder
    (artifact / "model.safetensors").write_text("other")
    (artifact / "manifest.json").unlink()
    assert not store.has(measure)
    write_manifest(artifact, store.key(first), first.document)
    assert not store.has(measure)
    assert (store.run(measure).folder / "size").read_text() == "5"


# ----------------------------------------------------------------------------------------- options


def test_store_is_located_by_option_then_environment_then_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPORTGATE_STORE", str(tmp_path / "environment"))
    assert stores.location_of(str(tmp_path / "option")) == Location(tmp_path / "option")
    assert stores.location_of(None) == Location(tmp_path / "environment")
    assert stores.location_of(f"file://{tmp_path}/with%20space") == Location(tmp_path / "with space")
    monkeypatch.delenv("EXPORTGATE_STORE")
    assert stores.location_of(None).root.name == "exportgate"
    assert stores.location_of("s3://bucket/place") == Location(stores.location_of(None).root, "s3://bucket/place")


def test_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file cannot be written: .*; name another folder with --store"):
        Store(tmp_path / "file")


def test_key_is_of_the_document_and_not_of_its_order():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of({})) == 32
