"""Approvals that are killed at every moment, race, or fail halfway: a baseline is the old one or the new one."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fixtures.baselines import files, transaction
from fixtures.baselines.errors import ApprovalError, BaselineError, UnfinishedApproval
from fixtures.baselines.files import read_baseline, write_baseline, write_new_baseline
from suites.meta.house import FEW, ROOT, House
from suites.meta.test_baselines import SCORES, content, stored_files

FORK = multiprocessing.get_context("fork")
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""What a process tells its audit hooks before it does it; those on files of a baselines folder are the moments at which
an approval may be killed."""


def tomls(value: float) -> dict[str, bytes]:
    return {"model.toml": f"# {value}\n".encode()}


def approve(folder: Path, value: float) -> None:
    """Approve scores that are higher by a value, and a model.toml that names it."""
    write_baseline(folder, stored_files(moved(value)), tomls(value))


def moved(value: float) -> dict[str, np.ndarray]:
    return {name: scores + np.float32(value) for name, scores in SCORES.items()}


def is_baseline(folder: Path, value: float) -> bool:
    """Return whether a folder holds what was approved with a value, in all its files and nothing else."""
    expected = folder.parent / f"expected-{value}" / folder.name
    if not expected.exists():
        expected.mkdir(parents=True)
        approve(expected, value)
    return bool(content(folder) == content(expected))


def killed_at(moment: int, place: Path, act: Callable[..., object], *arguments: object) -> bool:
    """Do something in a process that is killed at a moment; return whether it came to its end before that."""

    def run() -> None:
        remaining = [moment]

        def hook(event: str, values: tuple[object, ...]) -> None:
            if event in EVENTS and str(values[0]).startswith(str(place)):
                if not remaining[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                remaining[0] -= 1

        sys.addaudithook(hook)
        act(*arguments)
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def told(act: Callable[..., object], *arguments: object) -> str:
    """Do something, and return the warnings of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act(*arguments)
    return "\n".join(str(warning.message) for warning in caught)


def test_approval_that_is_killed_at_any_moment_leaves_the_old_or_the_new_baseline(tmp_path):
    endings = set()
    for moment in range(200):
        folder = tmp_path / str(moment) / "model"
        folder.mkdir(parents=True)
        approve(folder, 0)
        done = killed_at(moment, folder.parent, approve, folder, 1)
        message = told(read_baseline, folder, "avx2")
        values = [value for value in (0, 1) if is_baseline(folder, value)]
        assert len(values) == 1, f"half a baseline after moment {moment}: {sorted(content(folder))}"
        if done:
            assert (values, message) == ([1], "")
            break
        endings.add((values[0], message.partition(" was ended before its time and ")[2].partition(":")[0]))
        assert told(read_baseline, folder, "avx2") == "", "it is told once"
        approve(folder, 2)
        assert is_baseline(folder, 2)
        assert sorted(path.name for path in (folder.parent / ".approval").iterdir()) == [".gitignore", "lock"]
    else:
        pytest.fail("the approval never ended")
    assert endings >= {(0, "had replaced nothing"), (1, "had replaced some files; now all are")}


def test_next_approval_takes_up_one_that_was_killed_without_a_run_in_between(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    for moment in range(0, 60, 3):
        killed_at(moment, tmp_path, approve, folder, 1)
        told(approve, folder, 2)
        assert is_baseline(folder, 2), moment


def test_recovery_that_is_killed_is_taken_up_too(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    moment = next(moment for moment in range(100) if half_replaced(folder, moment))
    for second in range(100):
        if killed_at(second, tmp_path, read_baseline, folder, "avx2"):
            break
    told(read_baseline, folder, "avx2")
    assert is_baseline(folder, 1), moment


def half_replaced(folder: Path, moment: int) -> bool:
    """Kill an approval at a moment; return whether model.toml is replaced then, and the rest is not."""
    killed_at(moment, folder.parent, approve, folder, 1)
    if (folder / "model.toml").read_bytes() == tomls(1)["model.toml"]:
        return True
    told(read_baseline, folder, "avx2")
    return False


def test_first_approval_that_is_killed_leaves_a_whole_folder_or_none(tmp_path):
    for moment in range(100):
        folder = tmp_path / str(moment) / "model"
        folder.parent.mkdir()
        done = killed_at(moment, folder.parent, write_new_baseline, folder, stored_files(moved(1)), tomls(1))
        if folder.exists():
            told(read_baseline, folder, "avx2")
            assert is_baseline(folder, 1)
        else:
            told(write_new_baseline, folder, stored_files(moved(1)), tomls(1))
            assert is_baseline(folder, 1)
        approve(folder, 2)
        assert sorted(path.name for path in (folder.parent / ".approval").iterdir()) == [".gitignore", "lock"]
        if done:
            return
    pytest.fail("the approval never ended")


def test_restored_files_are_not_replaced_again(tmp_path):
    """Whoever restores what was approved before, after an approval was killed, gets just that."""
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    before = content(folder)
    next(moment for moment in range(100) if half_replaced(folder, moment))
    for name, blob in before.items():
        (folder / name).write_bytes(blob)
    assert "had replaced nothing: what was approved before holds" in told(read_baseline, folder, "avx2")
    assert content(folder) == before


@pytest.mark.parametrize("spoil", ["avx2.json", "stage", "journal"])
def test_approval_that_cannot_be_finished_is_an_error(tmp_path, spoil):
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    next(moment for moment in range(100) if half_replaced(folder, moment))
    stage = tmp_path / ".approval" / "model"
    damaged = {"avx2.json": folder / "avx2.json", "stage": stage / "avx2.json", "journal": stage / "journal.json"}[
        spoil
    ]
    damaged.write_text("changed")
    message = (
        rf"{folder}: an approval was ended while it replaced files.*restore the folder.*delete {stage} and approve"
    )
    with pytest.raises(BaselineError, match=message):
        read_baseline(folder, "avx2")


def test_error_between_two_replacements_is_told_and_finished_by_the_next_run(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    real_replace = Path.replace

    def replace(path, target):
        if target.name == "avx2.json":
            raise OSError(errno.EIO, "Input/output error")
        return real_replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(UnfinishedApproval, match=r"Input/output error.*: some files .* the next run finishes that"):
            approve(folder, 1)
    assert "now all are" in told(read_baseline, folder, "avx2")
    assert is_baseline(folder, 1)


def test_leftovers_of_older_versions_are_removed(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (".avx2.json.123", ".avx2.0123456789ab.safetensors.123", ".model.toml.9"):
        (folder / name).touch()
    (tmp_path / ".model.abcdefgh" / "model").mkdir(parents=True)
    (folder / ".keep").touch()
    approve(folder, 1)
    (folder / ".keep").unlink()
    assert is_baseline(folder, 1)
    assert not (tmp_path / ".model.abcdefgh").exists()


def test_leftovers_are_ignored_by_git(tmp_path):
    """In the repository of a team too, whose .gitignore is its own."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    folder = tmp_path / "baselines" / "model"
    folder.mkdir(parents=True)
    approve(folder, 0)
    killed_at(12, folder.parent, approve, folder, 1)
    assert (folder.parent / ".approval" / "model").is_dir()
    listed = subprocess.run(["git", "-C", str(tmp_path), "status", "-s", "-uall"], capture_output=True, text=True)
    assert ".approval" not in listed.stdout
    names = [".avx2.json.123", ".avx2.0123456789ab.safetensors.123", ".model.toml.9", ".approval/model/avx2.json"]
    paths = [f"baselines/minilm-l6/{name}" for name in names]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == paths


@pytest.mark.parametrize("name", ["../other/model.toml", "../../kept", "model.toml", "..", "", "a\0b"])
@pytest.mark.parametrize("list_name", ["files", "removed"])
def test_journal_of_other_files_is_refused(tmp_path, name, list_name):
    """It lies in a folder that a stranger's repository may hold, and would replace or remove anything."""
    folder = tmp_path / "baselines" / "model"
    for file in (folder / "model.toml", folder.parent / "other" / "model.toml", tmp_path / "kept"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"kept")
    digest = hashlib.sha256(b"kept").hexdigest()
    replacements: dict[str, dict[str, str | None]] = {
        "reference.json": {"before": digest, "after": hashlib.sha256(b"new").hexdigest()}
    }
    if list_name == "files":
        replacements[name if name != "model.toml" else "evil.py"] = {"before": None, "after": digest}
    (folder / "reference.json").write_bytes(b"new")
    stage = folder.parent / ".approval" / "model"
    stage.mkdir(parents=True)
    removed = [name] if list_name == "removed" else []
    (stage / "journal.json").write_text(json.dumps({"files": replacements, "removed": removed}))
    with pytest.raises(BaselineError, match=r"its journal names .*, which no approval writes or removes; restore"):
        read_baseline(folder, "avx2")
    for file in (folder / "model.toml", folder.parent / "other" / "model.toml", tmp_path / "kept"):
        assert file.read_bytes() == b"kept"


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"files": {"\xed\xa0\x80": 1}, "removed": []}'])
def test_journal_that_is_no_json_is_refused(tmp_path, content):
    stage = tmp_path / ".approval" / "model"
    stage.mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (stage / "journal.json").write_bytes(content)
    with pytest.raises(BaselineError, match=r"it cannot be finished: .*; restore the folder"):
        read_baseline(tmp_path / "model", "avx2")


# ------------------------------------------------------------------------------------- several at once


def test_approvals_at_once_leave_one_of_them(tmp_path):
    """Each is whole, and what a JSON file names is there at every moment that a reader looks."""
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)

    def approve_often(first: int) -> None:
        for value in range(first, first + 20):
            approve(folder, value)
            time.sleep(0.03)

    processes = [FORK.Process(target=approve_often, args=(first,)) for first in (100, 200, 300)]
    for process in processes:
        process.start()
    reads = 0
    while any(process.is_alive() for process in processes):
        baseline = read_baseline(folder, "avx2")
        assert baseline.reference is not None
        np.testing.assert_array_equal(baseline.reference, baseline.scores["plain"])
        reads += 1
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert reads > 5
    assert any(is_baseline(folder, value) for value in (119, 219, 319))


def test_who_waits_is_told(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    holds, go = FORK.Event(), FORK.Event()

    def hold() -> None:
        with transaction.exclusive(folder, writing=True):
            holds.set()
            go.wait(30)

    process = FORK.Process(target=hold)
    process.start()
    assert holds.wait(30)
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        go.set()

    write_baseline(folder, stored_files(moved(1)), tomls(1), tell=tell)
    process.join()
    assert lines == [f"{tmp_path}: waiting for another approval to end"]
    assert is_baseline(folder, 1)


def test_approval_that_another_has_overtaken_is_refused(tmp_path):
    """It was decided on what was stored before, so that it would drop what the other one approved."""
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 0)
    decided_on = read_baseline(folder, "avx2")
    approve(folder, 1)
    with pytest.raises(ApprovalError, match=r"avx2\.json: another run approved it since .*: approve again"):
        write_baseline(folder, {"avx2.json": stored_files(moved(2))["avx2.json"]}, decided_on=decided_on)
    assert is_baseline(folder, 1)
    write_baseline(folder, stored_files(moved(1)), decided_on=decided_on)
    write_baseline(folder, stored_files(moved(2)), tomls(2), decided_on=read_baseline(folder, "avx2"))
    assert is_baseline(folder, 2)


def test_baselines_that_cannot_be_written_are_read_without_a_lock(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    approve(folder, 1)

    def acquire(lock: object, timeout: float | None = None) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    assert read_baseline(folder, "avx2").reference is not None
    with pytest.raises(PermissionError):
        approve(folder, 2)


def test_reading_leaves_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    assert read_baseline(tmp_path / "model", "avx2") == files.NO_BASELINE
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ------------------------------------------------------------------------------------- sessions

PLUGIN = """
import os, signal, sys
remaining = [int(os.environ["KILLED_AT"])]

def hook(event, values):
    if event == "os.rename" and "/.approval/" in str(values[0]):
        if not remaining[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        remaining[0] -= 1

sys.addaudithook(hook)
"""
"""A plugin of pytest that kills its process before a certain renaming of an approval: the first decides it."""


@pytest.mark.parametrize(
    ("renamings", "is_new", "message"),
    [
        (0, False, "had replaced nothing: what was approved before holds"),
        (4, False, "had replaced nothing: what was approved before holds"),
        (5, True, "had replaced some files; now all are: avx"),
        (7, True, "had replaced some files; now all are: avx"),
    ],
)
def test_candidate_whose_approval_is_killed_is_told_at_the_next_run(
    shop, tmp_path, monkeypatch, renamings, is_new, message
):
    folder, original, digest = shop
    house = House(tmp_path, original.store)
    model = house.add("bert", "")
    for file in (original.baselines / "bert").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (tmp_path / "killing.py").write_text(PLUGIN)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.setenv("KILLED_AT", str(renamings))
        killed = house.run(*FEW, f"--candidate=bert={folder / 'near'}", "--approve", "-p", "killing")
    assert killed.returncode == -signal.SIGKILL, killed.text
    run = house.run(*FEW)
    assert run.returncode == 0, run.text
    assert message in " ".join(run.text.split())
    assert house.gate()["verdict"] == "pass"
    assert (house.gate()["models"][0]["digest"] != digest) == is_new
    reference = json.loads((model / "reference.json").read_text())
    assert (reference["provenance"]["digest"] != digest) == is_new
    assert "was ended before" not in house.run(*FEW).text


def test_sessions_that_approve_at_once_leave_one_whole_baseline(shop, tmp_path):
    _, original, _ = shop
    house = House(tmp_path, original.store)
    model = house.add("bert", "")
    (model / "model.toml").write_bytes((original.baselines / "bert" / "model.toml").read_bytes())
    both = [house.begin(*FEW, "--approve", "--report", str(tmp_path / name)) for name in "ab"]
    outputs = [process.communicate()[0] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, outputs
    assert all(code == 0 or "another run approved it since" in " ".join(text.split())
               for code, text in zip(codes, outputs, strict=True)), outputs  # fmt: skip
    run = house.run(*FEW)
    assert run.returncode == 0, run.text
