"""Planted faults are found, by the right check and with the probable cause; sound files raise no alarm.

Here every fault is planted in one variant of each model that it applies to, another one for the next
fault; `tox run -e detection` plants all in all variants.
"""

import dataclasses

import pytest

from fixtures.faults.table import FAULT, FAULTS
from suites.meta import detection


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    made = detection.Laboratory(tmp_path_factory.mktemp("laboratory"))
    made.prepare()
    return made


@pytest.fixture(scope="module")
def verdicts(laboratory):
    return laboratory.judge(laboratory.one_variant_each())


@pytest.mark.parametrize("name", FAULT)
def test_fault_is_caught(verdicts, name):
    """Where it moves scores further than they may drift: red, the right check, the probable cause."""
    own = [one for one in verdicts if one.fault.name == name]
    assert own, f"{name} was planted nowhere"
    wrong = [one for one in own if one.matters and not one.named]
    if wrong:
        pytest.fail("\n".join(map(str, wrong)), pytrace=False)


def test_sound_files_raise_no_alarm(laboratory):
    """The same files without a fault, under the same checks."""
    given = [(model, variant, folder) for model, own in laboratory.clean.items() for variant, folder in own.items()]
    done = laboratory.run(given)
    assert done.returncode == 0, done.text
    assert laboratory.house.gate()["failures"] == []


def test_most_faults_matter(verdicts):
    """A table of faults without an effect would prove nothing."""
    assert len({one.fault.name for one in verdicts if one.matters}) > 0.85 * len(FAULTS)


def test_fault_that_nothing_saw_or_named_is_no_catch(verdicts):
    """What judges the judging: silence, another check and another cause do not count."""
    found = next(one for one in verdicts if one.matters and one.named)
    assert not dataclasses.replace(found, failures={}).caught
    assert not dataclasses.replace(found, failures={"works_in_another_place": "it does not"}).caught
    other = dataclasses.replace(found, failures={found.caught[0]: "something is wrong"})
    assert other.caught
    assert not other.named
