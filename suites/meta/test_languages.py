"""Texts in languages that a model was not made for are measured, told apart, and gated on request alone."""

import json

import numpy as np
import pytest

from fixtures.models.languages import Languages, read_card_languages
from fixtures.models.settings import Threshold
from fixtures.scoring.closeness import Layout, compare_embeddings, compare_rows, compare_spans
from fixtures.scoring.probes import PAIRS, TEXTS
from fixtures.scoring.thresholds import compare_decisions
from suites.meta.house import EMBEDDER, LOOSE, House


def test_built_in_texts_say_their_language():
    """Texts of a language have it; numbers, code and what has no words have none."""
    languages = {probe.id: probe.language for probe in TEXTS}
    assert languages["notes-ja"] == "ja"
    assert languages["en-typos"] == "en"
    assert languages["de-compound"] == "de"
    assert languages["json"] == languages["emoji"] == languages["empty"] == languages["length-limit"] == ""
    assert len(set(languages.values())) > 25
    assert {probe.language for probe in PAIRS} == {"en", "es", "fr", "de", ""}


@pytest.mark.parametrize(
    ("card", "languages"),
    [
        ("---\nlanguage: en\n---\n# A model", ("en",)),
        ("---\nlicense: mit\nlanguage:\n- en\n- no\n- zh-Hant\n- zh\n---\n", ("en", "no", "zh")),
        ("\ufeff---\nlanguage: en\n---\n", ("en",)),
        ("---\nlanguage: [English, eng, code]\n---\n", ()),
        ("---\nlanguage: [multilingual, de]\n---\n", ()),
        ("---\nlanguage: {a: b}\n---\n", ()),
        ("---\nlanguage: [\n---\n", ()),
        ("# A model\nlanguage: en\n", ()),
        ("---\nlanguage: en\n", ()),
        ("", ()),
    ],
)
def test_card_names_languages_in_its_front_matter(tmp_path, card, languages):
    (tmp_path / "README.md").write_text(card)
    assert read_card_languages(tmp_path) == languages


def test_no_card_names_none(tmp_path):
    assert read_card_languages(tmp_path) == ()


def test_texts_of_no_language_are_judged():
    languages = ["en", "", "de", "en"]
    judged = Languages(("en",)).judged_rows(languages)
    assert judged is not None
    assert judged.tolist() == [0, 1, 3]
    assert Languages(("en", "de")).judged_rows(languages) is None
    assert Languages().judged_rows(languages) is None
    assert Languages(("fr",)).judged_rows(languages) is None, "no text speaks for it"
    assert Languages(("en",), "model.toml", others_are_gated=True).judged_rows(languages) is None


def test_closeness_of_some_is_of_them_alone():
    random = np.random.default_rng(0)
    reference = random.normal(size=(6, 8)).astype(np.float32)
    scores = reference.copy()
    scores[2] += 1
    layout, rows = Layout(np.ones(6, int), [None] * 6, [None] * 6), np.array([0, 1, 3, 4, 5])
    closeness = compare_rows(compare_embeddings, reference, scores, layout, rows, per_token=False)
    assert closeness.metrics["max_abs_error"] == 0
    closeness = compare_rows(compare_embeddings, reference, scores, layout, np.array([1, 2]), per_token=False)
    assert closeness.metrics["max_abs_error"] == pytest.approx(1)
    assert closeness.worst == 2, "an index among all probes"


def test_closeness_of_some_takes_their_tokens():
    layout = Layout(np.array([2, 3, 1]), [None] * 3, [None] * 3)
    reference = np.arange(12, dtype=np.float32).reshape(6, 2)
    scores = reference.copy()
    scores[5] += 4
    assert compare_rows(compare_spans, reference, scores, layout, np.array([0, 1]), per_token=True).errors.max() == 0
    assert compare_rows(compare_spans, reference, scores, layout, np.array([2]), per_token=True).worst == 2


def test_what_is_not_finite_fails_in_whatever_language():
    reference = np.ones((3, 2), np.float32)
    scores = reference.copy()
    scores[2] = np.nan
    layout = Layout(np.ones(3, int), [None] * 3, [None] * 3)
    assert not compare_rows(compare_embeddings, reference, scores, layout, np.array([0, 1]), per_token=False).compared


@pytest.fixture
def house(tmp_path, shared_store):
    """A house with a model made for English, and texts of its own, half of them in Klingon."""
    house = House(tmp_path, shared_store)
    folder = house.add("embedder", EMBEDDER + 'languages = ["en"]\n' + LOOSE + '[probes]\npath = "own.jsonl"\n')
    rows = [{"text": f"text {number}", "language": "tlh" if number % 2 else "en"} for number in range(40)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return house


def test_gate_judges_what_the_model_was_made_for(house):
    run = house.run("--variant", "plain", "--variant", "quantized", suite="suites/accuracy/test_scores.py")
    assert run.returncode == 0, run.text
    (model,) = house.gate()["models"]
    assert model["languages"] == {"codes": ["en"], "said_by": "model.toml", "others_are_gated": False}
    quantized = model["variants"][1]
    assert quantized["closeness"]["max_abs_error"] != quantized["other_languages"]["max_abs_error"]
    assert quantized["other_languages"]["max_abs_error"] > 0
    page = (house.report / "gate.md").read_text()
    assert "made for en (model.toml); other languages are measured and not gated" in page
    assert "Other languages, which are not gated" in page


def test_error_in_another_language_fails_on_request_alone(house):
    """The ceiling lies between the errors of both kinds of texts, and the model is made for the one that errs less."""
    alone = '[probes]\npath = "own.jsonl"\ninstead = true\n'
    check = "suites/accuracy/test_scores.py::test_scores_stay_within_ceiling"
    house.add("embedder", EMBEDDER + 'languages = ["en"]\n' + LOOSE + alone)
    assert house.run("--variant", "quantized", suite=check).returncode == 0
    ((variant,),) = (model["variants"] for model in house.gate()["models"])
    error_of = {name: variant[name]["max_abs_error"] for name in ("closeness", "other_languages")}
    made_for = "en" if error_of["closeness"] < error_of["other_languages"] else "tlh"
    between = LOOSE.replace("max_abs_error = 1", f"max_abs_error = {sum(error_of.values()) / 2}")
    for line, returncode in (("", 0), ("gate_other_languages = true\n", 1)):
        house.add("embedder", EMBEDDER + f'languages = ["{made_for}"]\n' + line + between + alone)
        run = house.run("--variant", "quantized", suite=check)
        assert run.returncode == returncode, run.text


def test_decisions_are_on_texts_that_are_judged():
    before = np.array([0.1, 0.9, 0.8, 0.2], np.float32)
    after = np.array([0.9, 0.9, 0.1, 0.2], np.float32)
    threshold = Threshold("shown", "logit", 0.5)
    assert compare_decisions(threshold, before, after).flipped == 2
    judged = compare_decisions(threshold, before, after, np.array([1, 2, 3]))
    assert (judged.count, judged.flipped, judged.flips[0].rows) == (3, 1, (2,))
    pairs = compare_decisions(
        Threshold("alike", "cosine", 0.5), np.eye(4, dtype=np.float32), np.ones((4, 4), np.float32), np.array([1, 3])
    )
    assert [flip.rows for flip in pairs.flips] == [(1, 3)]


def test_nothing_left_to_be_judged_is_a_wrong_setting(house):
    toml = EMBEDDER + 'languages = ["fr"]\n' + LOOSE + '[probes]\npath = "own.jsonl"\ninstead = true\n'
    house.add("embedder", toml)
    assert "languages: no text is in fr: write two letters" in house.usage_error()
