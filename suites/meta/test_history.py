"""Lasting changes of speed over stored runs: simulated series with and without one, and pytest-benchmark's files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fixtures.gate.command_line import ROOT
from fixtures.latency.change import THRESHOLD
from fixtures.report import files, history
from suites.meta.page_results import page_results

NOISE = {
    "normal": lambda random, runs: random.normal(0, 0.02, runs),
    "heavy tails": lambda random, runs: 0.015 * random.standard_t(3, runs),
}
SERIES = 100
LUCK = np.exp(np.random.default_rng(1).normal(0, 0.005, 20))
WHERE = {"processor": "x86_64 family 25", "tier": "avx2", "threads": 2, "handed_in": False}
NAME = history.Series(
    "suites/latency/test_latency.py::test_latency[m-O2-1x16]", "plain at 1x16", "x86_64 family 25, tier avx2, 2 threads"
)


def series(ratios, name=NAME):
    versions = {"onnxruntime": "1.27.0"}
    return {
        name: [history.Point(f"2026-01-{day + 1:02}", f"c{day}", ratio, versions) for day, ratio in enumerate(ratios)]
    }


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("runs", [20, 60])
def test_noise_has_no_changes(noise, runs):
    """Over a hundred series together."""
    random = np.random.default_rng(runs)
    noise_only = {
        name: points
        for number in range(SERIES)
        for name, points in series(np.exp(NOISE[noise](random, runs)), history.Series(str(number), "", "")).items()
    }
    assert len(history.speed_changes(noise_only)) <= SERIES * 0.01


@pytest.mark.parametrize(("noise", "share"), [("normal", 0.9), ("heavy tails", 0.75)])
def test_slowdown_by_5_percent_is_found_where_it_began(noise, share):
    random = np.random.default_rng(0)
    noticed = 0
    for _ in range(SERIES):
        ratios = NOISE[noise](random, 40)
        ratios[25:] -= np.log(1.05)
        changes = history.speed_changes(series(np.exp(ratios)))
        noticed += any(
            abs(int(change.after.when[-2:]) - 26) <= 3 and 1.02 < change.slowdown < 1.09 for change in changes
        )
    assert noticed >= share * SERIES


def test_short_series_say_nothing():
    assert history.speed_changes(series([1.0, 1.0, 0.5, 0.5])) == []


def test_single_run_that_stands_out_is_no_change():
    ratios = 1.2 * LUCK
    ratios[10] = 0.8
    assert history.speed_changes(series(ratios)) == []


def stored(folder, runs, *, ratio="ratio_to_plain", where=(), test=NAME.test, **extra):
    """Write runs as pytest-benchmark does: a folder per machine, a file per run."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (value, version) in enumerate(runs):
        run = {
            "machine_info": {"exportgate": WHERE | dict(where) | {"versions": {"onnxruntime": version}}},
            "commit_info": {"id": f"{number:040x}"},
            "datetime": f"2026-01-{number + 1:02}T10:00:00+00:00",
            "benchmarks": [{"fullname": test, "extra_info": {ratio: value, "batch": 1, "length": 16, **extra}}],
        }
        (folder / f"{number:04}_run.json").write_text(json.dumps(run))


SLOWDOWN = [(2.0 * LUCK[run], "1.23.0") if run < 12 else (1.8 * LUCK[run], "1.27.0") for run in range(20)]


def test_change_says_when_it_began_and_which_version_changed(tmp_path):
    stored(tmp_path / "Linux-CPython", SLOWDOWN)
    (change,) = history.speed_changes(history.read(tmp_path))
    assert change.after.when.startswith("2026-01-13")
    assert change.runs == (12, 8)
    assert change.changed_versions == "onnxruntime 1.23.0 -> 1.27.0"
    assert change.slowdown == pytest.approx(2.0 / 1.8, abs=0.01)


@pytest.mark.parametrize("untold", [{"where": {"handed_in": True}}, {"ratio": "none"}])
def test_candidates_and_runs_without_a_ratio_are_left_out(tmp_path, untold):
    stored(tmp_path, SLOWDOWN, **untold)
    assert history.read(tmp_path) == {}


@pytest.mark.parametrize("difference", [{"processor": "aarch64"}, {"tier": "sse"}, {"threads": 4}])
def test_processors_tiers_and_threads_are_kept_apart(tmp_path, difference):
    stored(tmp_path / "one", SLOWDOWN[:12])
    stored(tmp_path / "other", SLOWDOWN[12:], where=difference)
    assert history.speed_changes(history.read(tmp_path)) == []


@pytest.mark.parametrize("difference", [{"anchor": "numpy"}, {"length": 128}])
def test_anchors_and_shapes_are_kept_apart(tmp_path, difference):
    stored(tmp_path / "one", SLOWDOWN[:12])
    stored(tmp_path / "other", SLOWDOWN[12:], **difference)
    assert history.speed_changes(history.read(tmp_path)) == []


def run(folder):
    command = [sys.executable, "-m", "fixtures.report.history", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_command_prints_the_change(tmp_path):
    stored(tmp_path, SLOWDOWN)
    process = run(tmp_path)
    assert process.returncode == 0
    assert f"1 series of 20 to 20 runs\nchanges of speed beyond {THRESHOLD:.1%}: 1\n" in process.stdout
    assert "since 2026-01-13T10:00: test_latency[m-O2-1x16] is 1.1" in process.stdout
    assert "times slower beside plain at 1x16\n" in process.stdout


@pytest.mark.parametrize("content", ['{"machine_info":', '{"machine_info": {"exportgate": {"tier": "avx2"}}}'])
def test_file_that_cannot_be_read_is_left_out_and_named(tmp_path, content):
    stored(tmp_path, SLOWDOWN)
    broken = tmp_path / "0099_run.json"
    broken.write_text(content)
    process = run(tmp_path)
    assert process.returncode == 0
    assert f"changes of speed beyond {THRESHOLD:.1%}: 1\n" in process.stdout
    assert f"left out: {broken}: is no file of pytest-benchmark" in process.stderr


@pytest.mark.parametrize(("content", "message"), [(None, "no stored runs"), ("{}", "is no file of pytest-benchmark")])
def test_command_says_what_it_cannot_read(tmp_path, content, message):
    if content:
        (tmp_path / "0001.json").write_text(content)
    process = run(tmp_path)
    assert process.returncode == 2
    assert message in process.stderr
    assert str(tmp_path) in process.stderr


def test_history_is_added_to_a_report(tmp_path):
    """With its step in words and in the plot, and with the accuracy of the same runs; gate.json stays as it is."""
    report, runs = tmp_path / "report", tmp_path / "runs"
    files.write(page_results(), report)
    before = (report / "gate.json").read_bytes()
    assert 'id="history"' not in (report / "index.html").read_text()
    for name in ("O2", "quantized"):
        stored(runs / name, SLOWDOWN, ratio="ratio", test=f"test_speed[an-embedder-{name}]", error=1e-6)
    command = [sys.executable, "-m", "fixtures.report.history", str(runs), "--report", str(report)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith(f"written: {report / 'index.html'}\n")
    section = (report / "index.html").read_text().partition('id="history"')[2].partition("</section>")[0]
    assert section.count("since 2026-01-13T10:00: test_speed[an-embedder-") == 2
    titles = [f"{title}, over stored runs" for title in ("Speed beside plain at 1x16", "Largest error")]
    assert [title in section for title in titles] == [True, True]
    assert section.count('class="plot"') == 2
    assert section.count('stroke-dasharray="4,4"') == 1
    assert "reranker" not in section
    assert (report / "gate.json").read_bytes() == before


def test_history_of_a_report_that_is_none_says_so(tmp_path):
    stored(tmp_path / "runs", SLOWDOWN)
    command = [sys.executable, "-m", "fixtures.report.history", str(tmp_path / "runs"), "--report", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert str(tmp_path / "gate.json") in process.stderr
