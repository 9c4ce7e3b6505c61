"""Options are checked against each other and against the baselines before anything is built."""

import os
from pathlib import Path
from typing import Any

import pytest

from fixtures.gate.command_line import Options, UsageError, parse
from suites.meta.house import EMBEDDER


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        (tmp_path / "baselines" / name).mkdir(parents=True)
        (tmp_path / "baselines" / name / "model.toml").write_text(EMBEDDER)
    return tmp_path / "baselines"


def parsed(baselines: Path, *, ci: bool = False, **options: Any) -> Options:
    given = {"baselines": str(baselines), "report": str(baselines.parent / "report")} | options
    return parse(given.get, ci=ci)


def test_what_is_not_named_is_all_there_is(baselines):
    options = parsed(baselines)
    assert [folder.name for folder in options.folders] == ["first", "second"]
    assert "plain" in options.variants
    assert not options.models_are_named
    assert not options.variants_are_named
    assert not options.approve
    assert options.grid == "quick"
    assert options.report.is_dir()


def test_models_of_candidates_are_selected(baselines):
    options = parsed(baselines, candidate=["second=seeded:bert@8"])
    assert [folder.name for folder in options.folders] == ["second"]
    assert options.candidates == {"second": "seeded:bert@8"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approve": True, "ci": True}, "--approve: refused under CI=true"),
        ({"approve": True, "numprocesses": 2}, "-n: an approval is one process's"),
        ({"candidate": ["first"]}, "--candidate: 'first' is not of the form MODEL=PATH"),
        ({"candidate": ["first=a", "first=b"]}, "--candidate: first is given twice"),
        ({"candidate": ["first=a"], "model": ["second"]}, "--model: leaves out first, which --candidate"),
        ({"artifact": ["first=a"]}, "--artifact: 'first' is not of the form MODEL:VARIANT, such as first:plain"),
        ({"artifact": ["first:plain=/"], "variant": ["O2"]}, "--variant: leaves out plain, which --artifact names"),
        ({"emulate_ort": "1.27.0"}, "--emulate-ort: says nothing without --emulate sse|avx2"),
        ({"emulate": "arm64", "emulate_ort": "newest"}, "--emulate-ort: 'newest' is no version such as 1.27.0"),
        ({"emulate": "arm64", "tier": "avx2"}, "--emulate: --tier cannot be combined with it"),
        ({"store": ""}, "--store: is empty: name a folder, or leave the option out"),
    ],
)
def test_options_that_contradict_are_refused(baselines, options, message):
    with pytest.raises(UsageError) as error:
        parsed(baselines, **options)
    assert str(error.value).startswith(message)


def test_approval_is_refused_where_it_cannot_be_written(baselines, monkeypatch):
    """Before a run that would end in nothing, and only where it is asked for."""
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder).name != "second")
    parsed(baselines)
    parsed(baselines, approve=True, model=["first"])
    with pytest.raises(UsageError, match=r"--approve: .*second cannot be written"):
        parsed(baselines, approve=True)
