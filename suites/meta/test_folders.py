"""The comparison with sentence-transformers sees a folder, or a score, that is not what it should be."""

import json
from dataclasses import replace

import numpy as np
import pytest

from suites.sentence_transformers import compare, folders, truth
from suites.sentence_transformers.kinds import BASES, FIVE, KIND, KINDS, MIDDLE, OLD, UNKNOWN_MODULES, weights_behind

NAMES = (
    *("normalize", "labse", "sentence-t5", "mt5", "umt5"),
    *("cross-encoder", "cross-encoder-identity", "cross-encoder-2-labels", "cross-encoder-3-labels"),
)
"""Kinds whose folders are made here."""


@pytest.fixture(scope="module")
def context(shared_store):
    return compare.open_context(str(shared_store))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders as 2.x wrote them, and as the installed package writes them."""
    root = tmp_path_factory.mktemp("folders")
    for name in NAMES:
        kind = KIND[name]
        base = root / "base" / kind.base
        if not base.is_dir():
            folders.make_base(BASES[kind.base], base)
        folders.write_by_hand(kind, OLD, base, root / OLD / name)
        truth.save(kind, base, root / FIVE / name)
    return root


@pytest.fixture(scope="module")
def scored(root):
    """Return a function: kind -> what the installed package makes of its folder of 2.x, and the scores of each call."""
    for name in NAMES:
        truth.store(KIND[name], OLD, root)
    stored = {made.kind: (made, scores) for made, scores in truth.read(root)}
    return stored.__getitem__


@pytest.mark.parametrize("name", NAMES)
def test_reference_is_the_librarys(context, root, scored, name):
    made, scores = scored(name)
    comparison = compare.compare(context, made, scores, root)
    assert comparison.is_equal, str(comparison)


@pytest.mark.parametrize("name", NAMES)
def test_another_score_is_a_difference(context, root, scored, name):
    made, scores = scored(name)
    scores = {call: values.copy() for call, values in scores.items()}
    scores[truth.DEFAULT if KIND[name].is_cross_encoder else truth.BARE].flat[7] += 2 * compare.TOLERANCE
    comparison = compare.compare(context, made, scores, root)
    assert not comparison.is_equal
    assert comparison.error == pytest.approx(2 * compare.TOLERANCE, rel=0.3)


def test_other_shapes_and_numbers_that_are_none_are_differences():
    ones = np.ones((2, 3), np.float32)
    assert compare.largest_difference(ones, ones) == 0
    assert compare.largest_difference(ones, ones[:, :2]) == np.inf
    assert compare.largest_difference(ones, np.where(ones > 0, np.nan, ones)) == np.inf


def test_folder_that_changed_since_it_was_scored_is_not_compared(context, root, scored, tmp_path):
    made, scores = scored("normalize")
    (tmp_path / OLD).mkdir()
    folders.write_by_hand(
        replace(KIND["normalize"], pooling=("cls",)), OLD, root / "base" / "bert", tmp_path / made.folder
    )
    with pytest.raises(ValueError, match="sentence-transformers5"):
        compare.compare(context, made, scores, tmp_path)


def test_library_reads_hand_written_folders_as_its_own(root, scored):
    """A folder of 2.x gives what the same kind saved by the installed package gives."""
    for name in NAMES:
        ours, _, _ = truth.score(KIND[name], root / FIVE / name)
        for call, values in scored(name)[1].items():
            np.testing.assert_allclose(values, ours[call], atol=compare.TOLERANCE)


def test_every_part_of_a_kind_changes_what_the_library_makes_of_it(root):
    """A part that changed nothing would prove nothing."""
    base = root / "base" / "bert"
    mean = KIND["pooling-mean"]
    plain, _, _ = truth.score(mean, _saved(mean, base, root / "plain"))
    for name in ("pooling-cls", "dense-tanh", "layer-norm", "normalize"):
        scores, _, _ = truth.score(KIND[name], _saved(KIND[name], base, root / "parts" / name))
        assert compare.largest_difference(plain[truth.BARE], scores[truth.BARE]) > 100 * compare.TOLERANCE, name


def _saved(kind, base, folder):
    truth.save(kind, base, folder)
    return folder


def test_document_names_what_differs_and_what_is_read_although_unknown(scored):
    made, _ = scored("normalize")
    other = truth.Truth("labse", MIDDLE, *("6.2.0", "5.24.0", "", "", 64, {}))
    comparisons = [compare.Comparison(made, 3e-7), compare.Comparison(other, 0.5)]
    text = compare.document(comparisons, {"models.LSTM": "LSTM: not known", "models.CNN": ""})
    lines = {line.split(" | ")[0].strip("| `"): line for line in text.splitlines() if line.startswith("|")}
    assert "3e-07" in lines["normalize"]
    assert "**no**" not in lines["normalize"]
    assert "0.5" in lines["labse"]
    assert "**no**" in lines["labse"]
    assert "**no**" not in lines["models.LSTM"]
    assert "**no**" in lines["models.CNN"]


@pytest.mark.parametrize("module", UNKNOWN_MODULES)
def test_unknown_module_is_refused_by_name(context, root, module):
    assert module.rpartition(".")[2] in compare.refusal_of(context, module, root)


def test_kinds_have_names_of_their_own():
    assert len(KIND) == len(KINDS)
    assert json.dumps(sorted(KIND))
    assert all(len(weights_behind(kind)) == len(kind.dense) + kind.layer_norm for kind in KINDS)
