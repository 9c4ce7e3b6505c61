"""The line that shows progress on a terminal, and what stands where there is none."""

import errno
import fcntl
import os
import pty
import re
import struct
import termios

import pytest

from fixtures.plugin.progress_line import Estimate, expected_of, in_words, title_of
from suites.meta.house import EMBEDDER, LOOSE, ROOT, _environment

OWN_TESTS = """
import time

def test_talks():
    print("said"); time.sleep(0.3)
    assert False, "as planned"

def test_is_quiet():
    time.sleep(0.3)
"""
COLUMNS = 120
DRAWN = re.compile(r"\x1b\[2K")


@pytest.fixture
def tiny(house):
    house.add("tiny", EMBEDDER + LOOSE)
    return house


def on_terminal(house, *options, **variables):
    """Return (exit status, what was written) of a run on a terminal of COLUMNS columns."""
    environment = _environment() | {"TERM": "xterm", "COLUMNS": str(COLUMNS), **variables}
    child, terminal = pty.fork()
    if not child:
        os.chdir(ROOT)
        command = house.command("--variant=plain", "--variant=O1", *options)
        os.execvpe(command[0], command, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    written = bytearray()
    while True:
        try:
            written += (block := os.read(terminal, 2**16))
        except OSError as error:  # Linux says so where the other end is closed
            if error.errno != errno.EIO:
                raise
            break
        if not block:
            break
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), written.decode().replace("\r\n", "\n")


def test_line_says_what_is_built_and_what_runs(tiny, tmp_path):
    """In an empty store; the summary stands behind it, and no letter before."""
    status, text = on_terminal(tiny, f"--store={tmp_path / 'store'}")
    assert status == 0, text
    before, _, summary = text.partition(" exportgate ===")
    assert re.search(r"building tiny: .+?0/\d+.+?0:00:\d\d.+?(about \d+ (s|min)|a few s) left", before), text
    assert re.search(r"index: index_keeps_neighbours\[tiny-plain\] .+?0/\d+.+?left", before), text
    assert not re.search(r"test_scores\.py [.s-]", text), "no letters beside the line"
    assert "] built" not in text
    assert not DRAWN.search(summary)
    assert "PASS" in summary
    assert summary.count("passed") == 1
    drawn = [re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line) for line in re.split(r"\r|\n", before)]
    assert max(len(line) for line in drawn if line.endswith("left")) <= COLUMNS


@pytest.mark.parametrize("options", [(), ("-q",), ("-n", "1")], ids=["alone", "quiet", "xdist"])
def test_failures_stay_and_captured_output_is_the_tests_own(tiny, tmp_path, options):
    own = tmp_path / "test_own.py"
    own.write_text(OWN_TESTS)
    status, text = on_terminal(tiny, str(own), *options)
    assert status == 1, text
    assert DRAWN.search(text)
    assert re.search(r"^.*FAILED \S*test_talks - AssertionError: as planned$", plain(text), re.MULTILINE), text
    assert "1 failed; is_quiet" in text
    captured = plain(text).partition("Captured stdout call")[2].split("\n")
    assert captured[1] == "said"
    assert captured[2].startswith(("===", "---")), text
    assert "FAIL: no check failed, but the run did not end as it should" in plain(text)
    assert re.search(r"1 failed, \d+ passed", plain(text))


def plain(text):
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


@pytest.mark.parametrize(
    ("options", "variables"),
    [(("-v",), {}), (("-s",), {}), (("--pdb",), {}), ((), {"CI": "true"}), ((), {"TERM": "dumb"})],
    ids=["verbose", "uncaptured", "debugger", "CI", "dumb"],
)
def test_no_line_where_it_would_be_in_the_way(tiny, options, variables):
    status, text = on_terminal(tiny, *options, **variables)
    assert status == 0, text
    assert not DRAWN.search(text)
    assert re.search(r"test_scores\.py::|test_scores\.py [.su-]", plain(text))


def test_piped_output_has_letters_and_plain_lines(tiny, tmp_path):
    run = tiny.run("--variant=plain", f"--store={tmp_path / 'store'}")
    assert run.returncode == 0, run.text
    assert "\x1b" not in run.text
    assert re.search(r"test_scores\.py [.s-]+", run.stdout)
    assert re.search(r"^\[ +\d+\.\d s\] built tiny", run.stdout, re.MULTILINE)


# --------------------------------------------------------------------------------------- estimates


def test_estimate_follows_the_pace():
    """Twice as slow as expected for long enough: what is left takes about twice as long, too."""
    estimate = Estimate({"a": 100.0, "b": 100.0})
    assert estimate.left_s(0.0) == 200
    estimate.finish("a")
    assert estimate.left_s(200.0) == pytest.approx(100 * 210 / 110)
    estimate.finish("never heard of")
    estimate.finish("b")
    assert estimate.left_s(300.0) == 0


def test_tests_take_what_they_took_or_what_their_model_costs_or_what_their_folder_does():
    tests = [f"suites/accuracy/test_scores.py::test_a[{name}-O2]" for name in ("m", "m-large", "n")]
    tests += ["suites/latency/test_latency.py::test_latency[m-large-O2-1x16]", "elsewhere.py::test_b"]
    measured = {"suites/accuracy/test_scores.py::test_a[m]": 7.0}
    expected = expected_of(tests, ["m", "m-large", "n"], {"m-large": 401.0}, measured)
    assert list(expected.values()) == pytest.approx([7.0, 1.0, 0.01, 400.0, 0.2])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "a few s left"), (12, "about 10 s left"), (100, "about 2 min left"), (2 * 3600, "about 2.0 h left")],
)
def test_time_is_told_as_roughly_as_it_is_known(seconds, words):
    assert in_words(seconds) == words


def test_title_of_a_test_is_short():
    assert title_of("suites/accuracy/test_scores.py::test_a[m-O2]") == "scores: a[m-O2]"
    assert title_of("suites/accuracy/test_scores.py::test_a[m::x/y]") == "scores: a[m::x/y]"
    assert title_of("test_own.py::TestThem::test_b") == "own.py::TestThem: b"
