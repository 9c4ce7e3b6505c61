"""What the machine did while something was timed. Counters are made up, but for those of other processes."""

import subprocess
import sys
import time

import loky
import psutil
import pytest

from fixtures.latency import disturbance
from fixtures.latency.disturbance import Counters, DisturbedError, InterferenceMonitor, measure_retrying


def test_quota_takes_of_what_it_leaves(quiet_machine, monkeypatch):
    """Two of 64 cores that wait for a tenth of the time lose a tenth of the container's time, not of the host's."""
    monkeypatch.setattr(disturbance, "own_cores", lambda: range(64))
    monkeypatch.setattr(loky, "cpu_count", lambda: 2)
    monitor = InterferenceMonitor(2, start_s=time.monotonic() - 100)
    assert sum(monitor.taken_shares().values()) == 0
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 20.0)
    assert monitor.taken_shares()["the quota"] == pytest.approx(0.1, rel=0.01)
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 64.0 * 2)
    assert monitor.taken_shares()["the hypervisor"] == pytest.approx(0.02, rel=0.01)
    assert monitor.disturbance() == "the hypervisor took 2% and the quota took 10% of the processors' time"


@pytest.mark.parametrize(
    ("cores", "threads", "busy", "share"),
    [(2, 2, 0.5, 0.25), (2, 1, 0.5, 0), (2, 1, 1.5, 0.5), (64, 8, 50, 0), (64, 8, 60, 0.5), (4, 4, 4, 1)],
)
def test_other_processes_take_only_cores_that_our_threads_need(quiet_machine, monkeypatch, cores, threads, busy, share):
    monkeypatch.setattr(disturbance, "own_cores", lambda: range(cores))
    monitor = InterferenceMonitor(threads, start_s=time.monotonic() - 100)
    monkeypatch.setattr(disturbance, "_other_processes_s", lambda: busy * 100.0)
    assert monitor.cores_of_other_processes() == pytest.approx(busy, rel=0.01)
    assert monitor.taken_shares()["other processes"] == pytest.approx(share, rel=0.02)
    assert monitor.disturbance() == (f"other processes took {share:.0%} of the processors' time" if share else "")


on_linux = pytest.mark.skipif(not psutil.LINUX, reason="other processes are counted on Linux only")


@on_linux
def test_processes_of_our_own_are_no_other_processes(monkeypatch):
    """What a child spends is ours while it works, when it has ended, and when it has been waited for."""
    monkeypatch.setattr(disturbance, "_core_times", list)
    code = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True); input()"
    start_s = disturbance._other_processes_s()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert disturbance._other_processes_s() < start_s - 0.9, "it lives"
        child.stdin.close()
        child.stdout.read()
        assert disturbance._other_processes_s() < start_s - 0.9, "it has ended"
    assert disturbance._other_processes_s() < start_s - 0.9, "it has been waited for"


@on_linux
def test_other_processes_are_noticed():
    """A process whose parent has ended is nobody's child. It works until it is stopped."""
    code = (
        "import subprocess, sys; none = subprocess.DEVNULL\n"
        "print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=none, stderr=none).pid)"
    )
    work = "import time\nwhile time.process_time() < 10: pass"
    started = subprocess.run([sys.executable, "-c", code, work], check=True, capture_output=True, text=True)
    orphan = psutil.Process(int(started.stdout))
    try:
        if orphan in psutil.Process().children(recursive=True):
            pytest.skip("this process has become its parent")
        monitor, start_s = InterferenceMonitor(2), disturbance._spent_s(orphan)
        while (spent_s := disturbance._spent_s(orphan) - start_s) < 1 and orphan.is_running():
            time.sleep(0.1)
        assert spent_s >= 1
        assert Counters.read().since(monitor.counters).other_processes_s > spent_s / 2
        assert monitor.cores_of_other_processes() > 0
    finally:
        orphan.kill()


def test_few_ticks_and_our_own_threads_in_a_quota_are_no_disturbance(quiet_machine, monkeypatch):
    monkeypatch.setattr(disturbance, "own_cores", lambda: range(2))
    monkeypatch.setattr(loky, "cpu_count", lambda: 2)
    monitor = InterferenceMonitor(2, start_s=time.monotonic() - 0.1)
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.02)
    monkeypatch.setattr(disturbance, "_other_processes_s", lambda: 0.02)
    assert monitor.disturbance() == ""
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.04)
    assert monitor.disturbance(count_quota=False).startswith("the hypervisor took ")
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 0.6)
    assert monitor.disturbance().startswith("the quota took ")
    assert monitor.disturbance(count_quota=False) == ""


def test_measurement_that_was_disturbed_twice_is_an_error(quiet_machine, monkeypatch):
    results = iter(range(10))
    assert measure_retrying(lambda: next(results), 2)[0] == 0
    reasons = iter(["hot", "", "hot", "stolen"])
    monkeypatch.setattr(InterferenceMonitor, "disturbance", lambda _, count_quota: next(reasons))
    assert measure_retrying(lambda: next(results), 2)[0] == 2, "the first measurement was disturbed"
    with pytest.raises(DisturbedError, match="stolen"):
        measure_retrying(lambda: next(results), 2)


def test_quota_is_a_number_of_cores(monkeypatch, tmp_path):
    files = {"/sys/fs/cgroup/cpu.max": tmp_path / "cpu.max"}
    monkeypatch.setattr(disturbance, "Path", lambda name: files.get(name, tmp_path / "none"))
    assert disturbance.quota_cores() is None
    for text, cores in (("max 100000", None), ("150000 100000", 1.5)):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert disturbance.quota_cores() == cores


def test_processor_that_throttles_itself_is_a_disturbance(quiet_machine, monkeypatch, tmp_path):
    files = [tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count" for core in (0, 1)]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("7\n")
    throttles = disturbance._throttles
    monkeypatch.setattr(disturbance, "_throttles", lambda: throttles(tmp_path))
    assert Counters.read().throttles == 14
    monitor = InterferenceMonitor(2)
    assert monitor.disturbance() == ""
    files[1].write_text("9\n")
    assert monitor.disturbance() == "the processor was too hot and throttled itself 2 times"
