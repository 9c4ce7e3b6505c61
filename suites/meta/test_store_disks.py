"""Whole runs over a store whose disk is full or cannot be written: no model is blamed, and what was judged is told."""

import os
from pathlib import Path

import pytest

from suites.meta.house import EMBEDDER, LOOSE, House

PLAYED_DISK = Path(__file__).parent / "played_disk"
PLAIN = ("--variant", "plain")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A house whose store has all that a run of plain needs."""
    folder = tmp_path_factory.mktemp("built")
    house = House(folder, folder / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    run = house.run(*PLAIN)
    assert run.returncode == 0, run.text
    return house


@pytest.fixture
def play(monkeypatch):
    """Return a function that plays a disk in the runs of this test: its error, and the folder that lies on it."""

    def play(error, folder):
        monkeypatch.setenv("PYTHONPATH", f"{PLAYED_DISK}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("PLAYED_DISK", f"{error}:{folder}")

    return play


def ended_with_the_store(house, run):
    """Return the line that says why a run ended, which failed no check."""
    assert run.returncode == 3, run.text
    assert house.gate()["failures"] == []
    assert "FAIL: no check failed, but the run did not end as it should" in run.stdout
    assert "Traceback" not in run.text
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("exit status 3: "))
    return line


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_full_store_ends_a_run_and_blames_no_model(tmp_path, play, processes):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    play("ENOSPC", house.store / "partial")
    line = ended_with_the_store(house, house.run(*PLAIN, *processes))
    assert f"the store {house.store} cannot take artifact" in line
    assert "No space left on device" in line
    assert f" free in {house.store}" in line
    assert "free some space, or name another folder with --store, and for temporary files with the variable" in line
    assert not list(house.store.glob("partial/*"))


def test_read_only_store_serves_what_it_has(built, play):
    play("EROFS", built.store)
    run = built.run(*PLAIN)
    assert run.returncode == 0, run.text
    assert " built " not in run.stdout


def test_read_only_store_that_lacks_an_artifact_ends_a_run(built, play):
    play("EROFS", built.store)
    line = ended_with_the_store(built, built.run("--variant", "O1"))
    assert f"the store {built.store} failed: [Errno 30] Read-only file system" in line
    assert "name another folder with --store" in line


def test_damaged_artifact_of_a_read_only_store_ends_a_run_between_its_tests(built, play):
    """Its size is right, so that only the test that reads it notices."""
    assert built.run(*PLAIN).returncode == 0
    file = built.artifact("plain") / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    play("EROFS", built.store)
    try:
        line = ended_with_the_store(built, built.run(*PLAIN))
    finally:
        file.write_bytes(content)
    assert "Read-only file system" in line


def test_full_disk_of_temporary_files_ends_a_run_between_its_tests(built):
    options = (*PLAIN, "suites/conformance/test_places.py")
    assert built.run(*options).returncode == 0, "what these checks need is built"
    line = ended_with_the_store(built, built.run(*options, "-p", "suites.meta.full_temporary"))
    assert "No space left on device" in line
    assert "for temporary files with the variable TMPDIR" in line
    assert built.statuses() == {"plain": "unbaselined"}, "what was judged before is told"


def test_failure_before_the_store_fails_stays_a_failure(built):
    built.add("tiny", EMBEDDER + LOOSE + "[ceilings.fp32]\nmax_abs_error = 1e-12\n")
    try:
        run = built.run(*PLAIN, "suites/conformance/test_places.py", "-p", "suites.meta.full_temporary")
    finally:
        built.add("tiny", EMBEDDER + LOOSE)
    assert run.returncode == 1, run.text
    assert "exit status 1: " in run.stdout
    assert "No space left on device" in run.stdout


def test_header_has_the_size_of_the_store(built):
    artifacts = len(list(built.store.glob("artifacts/*")))
    assert f"store: {built.store} ({artifacts} artifacts, " in built.run(*PLAIN, "--collect-only").stdout
