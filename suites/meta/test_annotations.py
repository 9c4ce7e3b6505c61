"""Failures beside the files of a pull request, and as properties in junit.xml."""

from xml.etree import ElementTree

import pytest

from fixtures.plugin import ci
from suites.meta.house import EMBEDDER, LOOSE

TOO_FAR = "[ceilings.plain]\nmax_abs_error = 0\n"
OWN_TEST = "def test_{}():\n    assert False, '::warning::50 % {}'\n"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    return tmp_path


def test_commands_are_escaped_as_githubs_toolkit_does(workspace):
    """Nothing of a message can begin a line, and so a command of its own."""
    text = "50 %25\r\n::set-env name=a::b"
    command = ci._command(workspace / "a, b:c" / "model.toml", 3, "m%: x, y", text)
    assert command == (
        "::error file=a%2C b%3Ac/model.toml,line=3,title=m%25%3A x%2C y::50 %2525%0D%0A::set-env name=a::b"
    )


def test_file_outside_of_the_workspace_is_not_named(workspace, monkeypatch):
    assert ci._command(workspace.parent / "model.toml", 3, "m", "t") == "::error title=m::t"
    assert ci._command(None, 0, "m", "t") == "::error title=m::t"
    monkeypatch.delenv("GITHUB_WORKSPACE")
    assert ci._command(workspace / "model.toml", 3, "m", "t") == "::error title=m::t"


def test_line_is_that_of_the_digest(tmp_path):
    (tmp_path / "model.toml").write_text('task = "embedding"\nsource = "path:x"\ndigest = "sha256:0"\n[ceilings]\n')
    assert ci._pinned_line(tmp_path) == (tmp_path / "model.toml", 3)
    (tmp_path / "model.toml").unlink()
    assert ci._pinned_line(tmp_path) == (tmp_path / "model.toml", 1)


@pytest.fixture
def red(house):
    """A house with a model whose plain variant breaks its ceiling."""
    house.add("tiny", EMBEDDER + LOOSE + TOO_FAR)
    return house


def test_each_failure_is_one_annotation_on_github_alone(red, tmp_path):
    """Those of checks, and that of a test that is about no model, of which the file lies outside of the workspace."""
    own = tmp_path / "test_own.py"
    own.write_text(OWN_TEST.format("own", "off"))
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(red.baselines)}
    options = "--variant=plain", "--variant=O1", str(own)
    run = red.run(*options, variables=variables)
    assert run.returncode == 1, run.text
    errors = [line for line in run.stdout.splitlines() if line.startswith("::")]
    assert len(errors) == 2, run.stdout
    ceiling = (
        "::error file=tiny/model.toml,line=2,title=tiny plain%3A scores_stay_within_ceiling::tiny plain: max_abs_error"
    )
    assert errors[0].startswith(ceiling)
    assert "%0A  reproduce: tox run -e gate -- " in errors[0]
    assert errors[1].startswith("::error title=")
    assert "test_own::def test_own():%0A" in errors[1]
    assert "50 %25 off" in errors[1]
    assert not [line for line in red.run(*options).stdout.splitlines() if line.startswith("::")]


def properties(element):
    return {entry.get("name", ""): entry.get("value", "") for entry in element.findall("properties/property")}


def test_junit_says_what_each_check_was_about(red):
    red.run("--variant=plain", "--variant=O4")
    (suite,) = ElementTree.parse(red.report / "junit.xml").iter("testsuite")
    of_suite = properties(suite)
    assert of_suite["version.onnxruntime"] == red.gate()["versions"]["onnxruntime"]
    assert of_suite["tier"] == red.gate()["machine"]["tier"]
    cases = {case.get("name", ""): properties(case) for case in suite.iter("testcase")}
    within = cases["test_scores_stay_within_ceiling[tiny-plain]"]
    assert (within["model"], within["variant"], within["verdict"]) == ("tiny", "plain", "fail")
    assert within["check"] == "scores_stay_within_ceiling"
    assert float(within["ceiling.max_abs_error"]) == 0
    (variant, _) = red.gate()["models"][0]["variants"]
    assert float(within["closeness.max_abs_error"]) == pytest.approx(variant["closeness"]["max_abs_error"])
    assert within["reproduce"].startswith("tox run -e gate -- ")
    assert cases["test_scores_stay_within_ceiling[tiny-O4]"]["verdict"] == "unsupported"
    reference = cases["test_reference_is_the_approved_one[tiny]"]
    assert (reference["model"], reference["verdict"], "variant" in reference) == ("tiny", "unbaselined", False)


def test_processes_of_xdist_leave_the_same(red):
    run = red.run("--variant=plain", "-n", "1", variables={"GITHUB_ACTIONS": "true"})
    assert run.returncode == 1, run.text
    assert sum(line.startswith("::error ") for line in run.stdout.splitlines()) == 1
    names = {entry.get("name") for entry in ElementTree.parse(red.report / "junit.xml").iter("property")}
    assert {"version.onnxruntime", "closeness.max_abs_error", "reproduce"} <= names
