"""Options are checked against each other and against the baselines before anything is built."""

import os
from pathlib import Path
from typing import Any

import pytest

from fixtures.gate.command_line import Options, Requirement, parse
from fixtures.gate.context import Context, make_context
from fixtures.gate.session import Gate
from fixtures.gate.single_values import UsageError
from fixtures.gate.subject import Subject
from fixtures.plugin.outcomes import unbaselined, undecided, unsupported
from suites.meta.calls import stand_in
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
        ({"require": ["speed"]}, "--require: 'speed' is none of checkpoints, baselines, speeds, variants, hardware"),
        ({"require": [""]}, "--require: '' is none of checkpoints"),
        ({"store": ""}, "--store: is empty: name a folder, or leave the option out"),
    ],
)
def test_options_that_contradict_are_refused(baselines, options, message):
    with pytest.raises(UsageError) as error:
        parsed(baselines, **options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "required", "option"),
    [
        ({}, set(), ""),
        (
            {"require": ["speeds, variants", "baselines"]},
            {"variants", "baselines", "speeds"},
            "--require=baselines,speeds,variants",
        ),
        ({"require_all": True}, set(Requirement), "--require-all"),
        ({"require_all": True, "require": ["speeds"]}, set(Requirement), "--require-all"),
        ({"require": [",".join(Requirement)]}, set(Requirement), "--require-all"),
    ],
)
def test_what_is_required_is_a_choice(baselines, options, required, option):
    parsed_options = parsed(baselines, **options)
    assert (parsed_options.required, parsed_options.requirements) == (required, option)


ENDINGS = {
    "checkpoint": (Requirement.CHECKPOINTS, lambda at: unsupported(at.context, "r", Requirement.CHECKPOINTS)),
    "GPU": (Requirement.HARDWARE, lambda at: unsupported(at.context, "r", Requirement.HARDWARE)),
    "tool": (Requirement.VARIANTS, lambda at: unsupported(at.context, "r")),
    "scores": (Requirement.BASELINES, lambda at: unbaselined(at, "r")),
    "speed": (Requirement.SPEEDS, lambda at: unbaselined(at, "r", Requirement.SPEEDS)),
    "quiet machine": (Requirement.SPEEDS, lambda at: undecided(at.context, "r")),
}
"""What a test lacks -> what has to be required for it to fail, and how it ends."""


@pytest.mark.parametrize("lacking", ENDINGS)
def test_what_is_lacking_fails_only_where_it_is_required(lacking):
    requirement, end = ENDINGS[lacking]

    def subject(*required: Requirement) -> Subject:
        context = stand_in(Context, options=stand_in(Options, required=frozenset(required)))
        return stand_in(Subject, context=context, is_candidate=False)

    with pytest.raises(pytest.fail.Exception, match=rf"^--require {requirement}: \w+: r$"):
        end(subject(requirement))
    with pytest.raises(pytest.fail.Exception, match=r"^--require-all: \w+: r$"):
        end(subject(*Requirement))
    with pytest.raises(pytest.skip.Exception):
        end(subject(*(other for other in Requirement if other != requirement)))


def test_approval_is_refused_where_it_cannot_be_written(baselines, monkeypatch):
    """Before a run that would end in nothing, and only where it is asked for."""
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder).name != "second")
    parsed(baselines)
    parsed(baselines, approve=True, model=["first"])
    with pytest.raises(UsageError, match=r"--approve: .*second cannot be written"):
        parsed(baselines, approve=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "path:nowhere",
            "first: the checkpoint folder {folder}/nowhere does not exist: restore it, or name",
        ),
        ("package:no_such_package/model", "first: the package 'no_such_package' is not installed: pip install"),
        ("package:json/nothing", "/nothing does not exist: restore it"),
        ("path:..", "{baselines} holds no weights: neither *.safetensors nor pytorch_model*.bin; name the folder that"),
    ],
)
def test_checkpoint_that_is_not_there_is_an_error_of_its_line(baselines, source, message):
    """Whether the model was named or not, and whether others are there; leaving it out helps."""
    folder = baselines / "first"
    (folder / "model.toml").write_text(EMBEDDER.replace("seeded:bert@7", source))
    for model in (None, ["first"]):
        with pytest.raises(UsageError) as error:
            Gate(make_context(parsed(baselines, model=model))).load()
        assert str(error.value).startswith(f"{folder / 'model.toml'}:2: source: "), error.value
        assert message.format(folder=folder, baselines=baselines) in str(error.value)
    assert [subject.name for subject in Gate(make_context(parsed(baselines, model=["second"]))).load()] == ["second"]


def test_checkpoint_that_no_hub_yields_is_unsupported_until_it_is_named(baselines, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = "hub:example/none@" + "0" * 40
    (baselines / "first" / "model.toml").write_text(EMBEDDER.replace("seeded:bert@7", source))
    first, second = Gate(make_context(parsed(baselines))).load()
    assert "is neither cached nor reachable" in first.unavailable
    assert not second.unavailable
    with pytest.raises(UsageError, match=r"--model: first: example/none at 0{40} is neither cached nor reachable"):
        Gate(make_context(parsed(baselines, model=["first"]))).load()
