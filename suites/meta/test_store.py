"""The store under every kind of trouble: killed, raced, damaged, full. Builds here are functions of files."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.build import manifest
from fixtures.build import store as stores
from fixtures.build.manifest import Damaged, write_manifest
from fixtures.build.needs import ModelSize
from fixtures.build.step import Step, key_of, step_function
from fixtures.build.store import Event, Location, StepFailed, Store, StoreError
from fixtures.build.worker import Built
from fixtures.build.workers import Limits, build_all
from fixtures.models.checkpoints import Checkpoint

KEY = "0" * 32


def restate(folder, *, name='"model.onnx"', bytes="3", digest=None, key=None, recipe="{}"):
    """Write the manifest of `write("one")`, with JSON in place of what it has."""
    stated = json.loads((folder / "manifest.json").read_text())
    entry = f'{{"sha256": "{stated["files"]["model.onnx"]["sha256"]}", "bytes": {bytes}}}'
    digest, key = digest or json.dumps(stated["digest"]), key or json.dumps(stated["key"])
    text = f'{{"key": {key}, "digest": {digest}, "files": {{{name}: {entry}}}, "recipe": {recipe}}}'
    (folder / "manifest.json").write_text(text)


def nested(depth):
    return '{"in": ' * depth + "1" + "}" * depth


def put(path, make):
    """Make something in the place of a file or a folder, which is moved beside the artifact."""
    away = path.with_name("away") if path.name == KEY else path.parents[2] / "away"
    path.rename(away)
    make(path)


def aside(folder):
    """Return where `put` moves a file of an artifact."""
    return folder.parents[1] / "away"


def deepen(folder, depth):
    """Make folders in one another, deeper than a recursion may go."""
    place = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=place)  # a Path cannot be relative to a folder that is open
        place, above = os.open("d", os.O_RDONLY, dir_fd=place), place
        os.close(above)
    os.close(place)


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
        (lambda folder: (folder / "manifest.json").write_text("[]"), "its manifest cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text(""), "its manifest cannot be read"),
        (lambda folder: restate(folder, recipe=nested(100_000)), r"its manifest cannot be read \(maximum recursion"),
        (lambda folder: restate(folder, recipe=f'{{"number": {"9" * 5000}}}'), "its manifest cannot be read"),
        (lambda folder: restate(folder, bytes="9" * 30), "its manifest cannot be read"),
        (lambda folder: restate(folder, bytes="-1"), "its manifest cannot be read"),
        (lambda folder: restate(folder, bytes="1"), "model.onnx has changed since it was stored: 3 bytes, not 1"),
        (lambda folder: restate(folder, name='"/etc/hostname"'), "missing or unknown: /etc/hostname, model.onnx"),
        (lambda folder: restate(folder, name='"../model.onnx"'), r"missing or unknown: \.\./model.onnx, model.onnx"),
        (lambda folder: restate(folder, name='"\\u202emodel"'), r"missing or unknown: model.onnx, \\u202emodel"),
        (lambda folder: restate(folder, digest='"sha256:0"'), "its manifest has another digest than its files"),
        (lambda folder: restate(folder, key='"1"'), "it is artifact 1"),
        (lambda folder: os.truncate(folder / "manifest.json", 2**26), "its manifest cannot be read .67108864 bytes"),
        (lambda folder: (folder / "more").mkdir() or (folder / "more" / "link").symlink_to("."), "link is a symbolic"),
        (lambda folder: put(folder / "model.onnx", lambda file: file.symlink_to(aside(folder))), "is a symbolic link"),
        (lambda folder: put(folder / "model.onnx", os.mkfifo), "model.onnx is no regular file"),
        (lambda folder: os.mkfifo(folder / "more"), "more is no regular file"),
        (lambda folder: put(folder / "manifest.json", os.mkfifo), "manifest.json is no regular file"),
        (lambda folder: put(folder / "manifest.json", lambda file: file.symlink_to("/dev/zero")), "no regular file"),
        (lambda folder: put(folder, lambda place: place.write_text("")), "its manifest cannot be read"),
        (lambda folder: put(folder, lambda place: place.symlink_to(place.with_name("away"))), "it is no folder"),
    ],
)
def test_damaged_artifact_is_noticed_and_built_again(store, damage, words):
    built = store.build(KEY, {}, write("one"))
    damage(built.folder)
    with pytest.raises(Damaged, match=words):
        manifest.verify(KEY, built.folder)
    assert store.build(KEY, {}, write("one")) == built
    (notice,) = store.notices
    assert (notice.event, notice.key) == (Event.DAMAGED, KEY)
    assert re.search(f"artifact {KEY} was damaged: .*{words}.*; it is built again", str(notice))
    assert not list(store.root.glob("partial/*/manifest.json"))


def test_artifact_that_a_power_cut_emptied_is_built_by_the_next_run(store, checkpoint, step):
    """Its size tells before anything is hashed, so that a worker process builds it, and whoever measures it waits."""
    first = step(copy_and_spoil_input, checkpoint)
    measure = Step(read_input, "measure", (first,), by_content=True)
    store.run(measure)
    for name in ("manifest.json", "model.safetensors"):
        os.truncate(store.root / "artifacts" / store.key(first) / name, 0)
        assert not store.has(first)
        steps_built: dict[Built, object] = {}
        assert build_all(store, {measure: ModelSize()}, Limits(1, 2**33), steps_built.__setitem__) == {}
        assert next(iter(steps_built)).label == "copy_and_spoil_input"
        assert [notice.event for built in steps_built for notice in built.notices] == [Event.DAMAGED]
        assert store.has(measure)


@pytest.mark.skipif(sys.platform == "win32", reason="no path is that long there")
def test_folders_within_folders_beyond_any_recursion_are_damage(store):
    """Python 3.11 can neither list nor remove them."""
    built = store.build(KEY, {}, write("one"))
    deepen(built.folder, 1500)
    try:
        assert store.build(KEY, {}, write("one")) == built
        assert [notice.event for notice in store.notices] == [Event.DAMAGED]
        assert Store(store.root).find(KEY) == built
    finally:
        subprocess.run(["rm", "-rf", store.root], check=True)


def test_manifest_is_forced_to_the_disk_before_the_artifact_appears(store, monkeypatch):
    forced: list[str] = []

    def note(descriptor):
        forced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        assert not list(store.root.glob("artifacts/*"))

    monkeypatch.setattr(os, "fsync", note)
    store.build(KEY, {}, write("one"))
    assert forced == ["manifest.json"]


def test_change_through_a_hard_link_is_damage_and_the_other_file_stays(store, tmp_path):
    """A copy of a store may consist of hard links; each file is hashed before it is used."""
    built = store.build(KEY, {}, write("one"))
    other = tmp_path / "elsewhere"
    other.hardlink_to(built.folder / "model.onnx")
    assert store.find(KEY) == built
    other.write_text("two")
    assert store.build(KEY, {}, write("one")) == built
    assert [notice.event for notice in store.notices] == [Event.DAMAGED]
    assert (built.folder / "model.onnx").read_text() == "one"
    assert other.read_text() == "two"


def test_step_that_leaves_a_link_is_refused(store):
    def make(work):
        write("one")(work)
        (work / "output" / "link").symlink_to("model.onnx")

    with pytest.raises(Damaged, match="link is a symbolic link"):
        store.build(KEY, {}, make)
    assert not remains(store)


def test_damaged_artifact_that_cannot_be_removed_is_an_error_of_the_store(store, monkeypatch):
    built = store.build(KEY, {}, write("one"))
    (built.folder / "model.onnx").write_text("two")

    def refuse(self, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        StoreError, match=r"cannot take artifact 0+: Read-only file system \(.* free in .*\); free some"
    ):
        store.find(KEY)


ERRORS = {
    "system": (OSError(errno.ENOSPC, "No space left on device"), StoreError),
    "library": (RuntimeError("Error serializing: I/O error: No space left on device (os error 28)"), StoreError),
    "folder": (PermissionError(errno.EACCES, "Permission denied", "/somewhere/else"), StepFailed),
    "other": (RuntimeError("no such head"), StepFailed),
}
"""Name -> what a step raises, and what that is."""


@pytest.mark.parametrize("name", ERRORS)
def test_full_disk_is_told_apart_from_a_step_that_fails(store, name):
    """Libraries in C++ and Rust raise errors of their own."""
    with pytest.raises(ERRORS[name][1]):
        store.run(Step(raise_error, "raise", (), {"error": name}))


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


@step_function("test_store:raise_error")
def raise_error(inputs, output, parameters):
    raise ERRORS[parameters["error"]][0]


@step_function("test_store:fail")
def fail(inputs, output, parameters):
    print("words before the end")
    raise ValueError("no such operator")


@step_function("suites.meta.test_store:read_first", reads_only=True)
def read_first(inputs, output, parameters):
    (output / "names").write_text(" ".join(sorted(file.name for file in inputs[0].iterdir())))


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


def test_step_by_content_is_made_again_of_another_checkpoint(store, checkpoint, step):
    """What is no step among its inputs counts by its digest, as for every other step."""
    first = step(copy_and_spoil_input, checkpoint)
    other = Checkpoint(checkpoint.folder, None, "sha256:2", 7)
    keys = {store.run(Step(read_first, "read", (first, source), by_content=True)).key for source in (checkpoint, other)}
    assert len(keys) == 2


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
