"""Planted faults are found, by the right check and with the probable cause; sound files raise no alarm.

Here every fault is planted in one variant of each model that it applies to, another variant for the next fault;
`tox run -e detection` plants all in all variants.
"""

import dataclasses

import pytest

from fixtures.faults.table import FAULT, FAULTS
from suites.meta.studies.detection.study import DetectionStudy


@pytest.fixture(scope="module")
def study(tmp_path_factory, shared_store):
    study = DetectionStudy(tmp_path_factory.mktemp("study"), store=shared_store, texts=100, named_checks=True)
    study.prepare(study.one_variant_each())
    return study


@pytest.fixture(scope="module")
def verdicts(study):
    return study.judge(study.one_variant_each())


@pytest.mark.parametrize("name", FAULT)
def test_fault_is_caught(verdicts, name):
    """Where it moves scores further than they may drift: red, the right check, the probable cause."""
    planted = [verdict for verdict in verdicts if verdict.fault.name == name]
    assert planted, f"{name} was planted nowhere"
    missed = [verdict for verdict in planted if verdict.matters and not verdict.named]
    if missed:
        pytest.fail("\n".join(map(str, missed)), pytrace=False)


def test_sound_files_raise_no_alarm(study):
    """The same files without a fault, under the same checks."""
    artifacts = [
        (model, variant, folder) for model, folders in study.sound.items() for variant, folder in folders.items()
    ]
    process = study.run_gate(artifacts)
    assert process.returncode == 0, process.text
    assert study.house.gate()["failures"] == []


def test_most_faults_matter(verdicts):
    """A table of faults without an effect would prove nothing."""
    assert len({verdict.fault.name for verdict in verdicts if verdict.matters}) > 0.85 * len(FAULTS)


def test_fault_that_nothing_saw_or_named_is_no_catch(verdicts):
    """What judges the judging: silence, another check and another cause do not count."""
    verdict = next(verdict for verdict in verdicts if verdict.matters and verdict.named)
    assert not dataclasses.replace(verdict, failures={}).caught
    assert not dataclasses.replace(verdict, failures={"works_in_another_place": "it does not"}).caught
    unnamed = dataclasses.replace(verdict, failures={verdict.caught[0]: "something is wrong"})
    assert unnamed.caught
    assert not unnamed.named
