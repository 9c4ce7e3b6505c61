"""A run that the machine interrupts: what was judged is told, and the exit status does not blame the model."""

import os
import signal
import time

import pytest

from suites.meta.house import EMBEDDER, LOOSE, House


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_run_with_its_report(tmp_path, number):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    process = house.begin("--variant", "plain", interruptible=number == signal.SIGINT)
    deadline = time.monotonic() + 60
    while not list(house.store.glob("artifacts/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2, text
    assert house.gate()["verdict"] == "fail"
    assert "FAIL: no check failed, but the run did not end as it should" in text
    assert house.run("--variant", "plain").returncode == 0, "the next run goes on from there"
    assert not list(house.store.glob("partial/*"))


def test_interrupt_between_the_start_of_a_worker_and_its_first_step_ends_the_run(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    process = house.begin("--variant", "plain", "-p", "suites.meta.interrupted_worker")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2, text


def test_full_disk_is_told_with_what_was_judged_and_blames_no_model(house):
    house.add("tiny", EMBEDDER + LOOSE)
    run = house.run("--variant", "plain", "-p", "suites.meta.full_disk")
    assert run.returncode == 3, run.text
    assert "PASS: no failed checks" in run.stdout
    assert f"the report is not written: {house.report / 'gate.json'}: No space left on device" in run.stdout
    assert "Traceback" not in run.text


def test_failure_with_a_full_disk_is_a_failure(house):
    house.add("tiny", EMBEDDER + "[ceilings.fp32]\nmax_abs_error = 1e-12\n")
    run = house.run("--variant", "plain", "-p", "suites.meta.full_disk")
    assert run.returncode == 1, run.text
    assert "FAIL: 1 failed check" in run.stdout


def test_report_folder_that_vanishes_is_told(house):
    """junit.xml is pytest's own."""
    house.add("tiny", EMBEDDER + LOOSE)
    run = house.run("--variant", "plain", "--junitxml", "/proc/nowhere/junit.xml")
    assert run.returncode == 3, run.text
    assert "the report is not written: /proc/nowhere" in run.stdout
    assert house.gate()["verdict"] == "pass"


def test_path_that_is_no_utf8_is_shown_and_reported(tmp_path, shared_store):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/sch\xf6n")
    house = House(type(tmp_path)(folder), shared_store)
    house.add("tiny", EMBEDDER + "[ceilings.fp32]\nmax_abs_error = 1e-12\n")
    run = house.run("--variant", "plain")
    assert run.returncode == 1, run.text
    assert house.gate()["failures"][0]["check"] == "scores_stay_within_ceiling"
