"""Classifiers of pairs: order and token types are judged as a reranker's are."""

import shutil

import numpy as np
import pytest

from fixtures.faults.fault import Site
from fixtures.faults.table import FAULT

NLI = 'task = "pair-classification"\nsource = "seeded:bert@21"\nlabels = 3\nmax_length = 64\nvariants = ["plain"]\n'
SWAPPING = "swapping_query_and_passage_changes_what_it_changes_in_pytorch"


@pytest.mark.parametrize(
    ("fault", "suite", "check"),
    [
        ("token-types-ignored", "suites/conformance/test_properties.py", SWAPPING),
        ("pair-order-swapped", "suites/conformance/test_tokenizer.py", "shipped_tokenizer_is_the_checkpoints"),
    ],
)
def test_faults_of_pairs_fail_by_name(house, tmp_path, fault, suite, check):
    """Premise and hypothesis that change places, and token types of zeros; the sound artifact passes the same check."""
    house.add("nli", NLI)
    (subject,) = house.start().load()
    sound = house.run("-k", check, suite=suite)
    assert sound.returncode == 0, sound.text
    folder = tmp_path / "faulty"
    shutil.copytree(house.artifact("plain"), folder, copy_function=shutil.copyfile)
    settings = subject.model.settings
    FAULT[fault].plant(Site(folder, {}, "plain", settings, np.random.default_rng(0)))
    faulty = house.run(f"--artifact=nli:plain={folder}", "-k", check, suite=suite)
    assert faulty.returncode == 1, faulty.text
    assert {row["check"] for row in house.gate()["failures"]} == {check}
