"""Labels that a zero-shot classifier chooses are those of Transformers' pipeline, and how many stay is gated."""

import json
import re
import shutil

import numpy as np
import pytest

from fixtures.export import seeded
from fixtures.faults.fault import SEED, Site
from fixtures.faults.table import FAULT
from fixtures.models.heads import entailment_place
from fixtures.models.settings import Settings
from fixtures.models.tables import ZeroShot
from fixtures.scoring.closeness import Layout, compare_pair_classes
from fixtures.scoring.probes import PAIRS, PROBES, TEXTS, Probe
from fixtures.scoring.zero_shot import PREMISES, Entailment, built_in_probes, count_rows, with_hypotheses
from suites.meta.test_own_probes import write_lines

LABELS = ("sports", "politics", "the weather", "cooking")
STATED = ZeroShot(LABELS, "This text is about {}.")
NAMES = ("contradiction", "neutral", "ENTAILMENT")
TABLE = f'[zero_shot]\nlabels = {list(LABELS)}\ntemplate = "This text is about {{}}."\nentailment = "LABEL_2"\n'
NLI = 'task = "pair-classification"\nsource = "seeded:roberta@18"\nlabels = 3\nmax_length = 64\n'
LOOSE = "[ceilings.int8]\nmax_logit_error = 9\nargmax_agreement = 0\nmax_probability_change = 1\n"


def settings(stated):
    return Settings(task="pair-classification", source="path:x", max_length=64, zero_shot=stated)


# ------------------------------------------------------------------------------ beside Transformers' pipeline


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], ("entailment", "not_entailment"), ("no", "maybe", "yes")])
def test_scores_are_those_of_transformers_pipeline(tmp_path, names, multi_label):
    """Entailment first, last, of two, or without a name, where the pipeline takes the last."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    recipe = {"architecture": "roberta", "seed": 18, "auto_class": "AutoModelForSequenceClassification"}
    seeded.make([], tmp_path, recipe | {"labels": len(names)})
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    file.write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    stated = ZeroShot(LABELS, STATED.template, multi_label, "yes" if "yes" in names else None)
    entailment = Entailment.of(settings(stated), names)
    assert entailment
    winners = set()
    for premise in PREMISES[::4]:
        pairs = with_hypotheses([premise], stated)
        with torch.no_grad():
            logits = [
                model(**tokenizer(pair.text, pair.pair, truncation=True, return_tensors="pt")).logits[0].numpy()
                for pair in pairs
            ]
        (scores,) = entailment.label_scores(np.array(logits), [pair.query for pair in pairs]).values()
        expected = classify(premise.text, list(LABELS), hypothesis_template=stated.template, multi_label=multi_label)
        by_label = dict(zip(expected["labels"], expected["scores"], strict=True))
        np.testing.assert_allclose(scores, [by_label[label] for label in LABELS], atol=1e-6)
        assert LABELS[scores.argmax()] == expected["labels"][0]
        winners.add(expected["labels"][0])
    assert len(winners) > 1 or multi_label


# ------------------------------------------------------------------------------------------- by hand


def test_scores_and_agreement_by_hand():
    """Two premises of two labels each, between other pairs; the second premise changes its mind."""
    queries = ["q", "premise a", "premise a", None, "premise b", "premise b"]
    before = np.array([[9, 0, 0], [1, 0, 2], [0, 0, 1], [0, 9, 0], [0, 0, 1], [2, 0, 2]], np.float32)
    after = before.copy()
    after[4, 2] = 3
    one, each = Entailment(2, 0, multi_label=False), Entailment(2, 0, multi_label=True)
    (first, second) = one.label_scores(before, queries).values()
    np.testing.assert_allclose(first, [1 / (1 + np.exp(-1)), 1 / (1 + np.e)])
    np.testing.assert_allclose(second, [1 / (1 + np.e), 1 / (1 + np.exp(-1))])
    np.testing.assert_allclose(each.label_scores(before, queries)["premise a"], [1 / (1 + np.exp(-1))] * 2)
    assert one.agreement(before, before, queries) == 1
    assert one.agreement(before, after, queries) == 0.5
    layout = Layout(np.ones(6, np.int64), queries, [None] * 6, None, one)
    assert compare_pair_classes(before, after, layout).metrics["zero_shot_agreement"] == 0.5
    kept = compare_pair_classes(before[:4], after[:4], layout.subset(np.arange(4)))
    assert kept.metrics["zero_shot_agreement"] == 1
    assert one.agreement(before[:1], after[:1], queries[:1]) == 1


def test_entailment_is_found_by_its_name():
    assert entailment_place(ZeroShot(LABELS), NAMES) == 2
    assert entailment_place(ZeroShot(LABELS), ("entails", "contradicts")) == 0
    assert entailment_place(ZeroShot(LABELS), ("LABEL_0", "LABEL_1")) is None
    assert entailment_place(ZeroShot(LABELS, entailment="LABEL_1"), ("LABEL_0", "LABEL_1")) == 1
    assert entailment_place(ZeroShot(LABELS, entailment="yes"), NAMES) is None


def test_premises_are_read_with_each_label():
    texts = (Probe("a", "the ball"), Probe("pair", "x", "y"), Probe("b", "rain", language="de"))
    probes = with_hypotheses(texts, STATED)
    assert [probe.id for probe in probes[3:6]] == ["a is cooking", "pair", "b is sports"]
    assert probes[0].pair == "This text is about sports."
    assert {probe.language for probe in probes[5:]} == {"de"}
    assert count_rows(probes) == 3
    assert with_hypotheses(texts, None) == texts
    assert built_in_probes("pairs", None) is PAIRS
    whole, few = built_in_probes("pairs", STATED), built_in_probes("few pairs", STATED)
    assert len(whole) == len(PAIRS) + len(PREMISES) * len(LABELS)
    assert len(PROBES["few pairs"]) < len(few) < len(whole)
    assert set(few) <= set(whole)
    assert 20 < len(PREMISES) < len(TEXTS) / 2


# ------------------------------------------------------------------------------------------ model.toml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NLI + "[zero_shot]\nlabels = ['a']\n", r"toml:6: zero_shot.labels: write two labels or more"),
        (NLI + "[zero_shot]\nlabels = ['a', 'b', 'a']\n", r"toml:6: zero_shot.labels\[2\]: 'a' is given twice"),
        (NLI + "[zero_shot]\nlabels = ['a', ' ']\n", r"toml:6: zero_shot.labels\[1\]: is empty"),
        (TABLE.replace("about {}", "good"), r"template: 'This text is good.' has no {} where the label stands"),
        (TABLE.replace("about {}", "{label}"), r"template: 'This text is {label}.' has no {} where the label stands"),
        (TABLE.replace("LABEL_2", "yes"), r"zero_shot.entailment: is 'yes', and the labels are LABEL_0, LABEL_1, LAB"),
        (TABLE.replace("entailment", "#"), r"zero_shot: no label of this checkpoint begins with entail, they are LAB"),
        (NLI + "[ceilings.int8]\nzero_shot_agreement = 0.5\n", r"zero_shot_agreement: there is no \[zero_shot\] with"),
        (NLI.replace("pair-class", "text-class") + TABLE, r"zero_shot: only a classifier of pairs reads a text with"),
    ],
)  # fmt: skip
def test_wrong_table_is_told_with_file_and_line(house, text, message):
    house.add("nli", text if "task" in text else NLI + text)
    assert re.search(message, house.usage_error())


def test_rows_without_a_premise_are_refused(house):
    folder = house.add("nli", NLI + TABLE + '[probes]\npath = "own.jsonl"\ninstead = true\n')
    write_lines(folder / "own.jsonl", [{"query": f"premise {n}", "passage": f"hypothesis {n}"} for n in range(20)])
    assert "no row is a text that [zero_shot] could label" in house.usage_error()


# ------------------------------------------------------------------------------------------------ runs


def test_labels_that_win_are_counted_and_gated(house):
    folder = house.add("nli", NLI + TABLE + '[probes]\npath = "own.jsonl"\n' + LOOSE + "zero_shot_agreement = 1\n")
    rows = [{"text": f"The {n}th match ended {n % 5} to {n % 3}.", "_id": n} for n in range(40)]
    write_lines(folder / "own.jsonl", [*rows, {"query": "A man sleeps.", "passage": "Somebody is awake."}])
    run = house.run("--variant", "plain", "--variant", "quantized")
    assert run.returncode == 1, run.text
    (model,) = house.gate()["models"]
    plain, quantized = model["variants"]
    assert (model["probes"]["rows"], model["probes"]["judged"] + model["probes"]["calibration"]) == (41, 41)
    assert model["probes"]["built_in"] == len(PAIRS) + len(PREMISES)
    assert plain["zero_shot"]["changed"] == 0
    premises = quantized["zero_shot"]["premises"]
    assert len(PREMISES) < premises <= len(PREMISES) + 40
    assert quantized["zero_shot"]["changed"] > 0
    assert quantized["closeness"]["zero_shot_agreement"] == pytest.approx(
        1 - quantized["zero_shot"]["changed"] / premises
    )
    (failure,) = house.gate()["failures"]
    assert failure["variant"] == "quantized"
    assert "zero_shot_agreement" in failure["message"]
    example = quantized["zero_shot"]["examples"][0]
    assert example["before"].partition(" (")[0] != example["after"].partition(" (")[0]
    assert {example["before"].partition(" (")[0], example["after"].partition(" (")[0]} < set(LABELS)
    assert f"another label wins for {quantized['zero_shot']['changed']} of {premises} premises" in failure["message"]
    assert "nli: another label wins than with PyTorch: premises of quantized" in run.text
    page = (house.report / "gate.md").read_text()
    assert "## Labels that win (zero-shot)" in page
    assert example["premise"][:20] in page


def test_classifier_without_the_table_is_judged_as_before(house):
    house.add("nli", NLI)
    (subject,) = house.start(variant=["plain"]).subjects
    assert subject.probes is PAIRS
    assert "zero_shot" not in subject.plan.tokens.parameters
    assert subject.layout.entailment is None


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("entailment-and-contradiction-exchanged", "scores_stay_within_ceiling"),
        ("pair-order-swapped", "scores_stay_within_ceiling"),
    ],
)
def test_faults_change_the_labels_that_win(house, tmp_path, fault, check):
    """Columns of the logits that change places, and premise and hypothesis that do."""
    house.add("nli", NLI + TABLE)
    (subject,) = house.start(variant=["plain"]).subjects
    assert house.run("--variant", "plain").returncode == 0
    assert house.gate()["models"][0]["variants"][0]["closeness"]["zero_shot_agreement"] == 1
    folder = tmp_path / "faulty"
    shutil.copytree(house.artifact("plain"), folder, copy_function=shutil.copyfile)
    FAULT[fault].plant(Site(folder, {}, "plain", subject.model.settings, np.random.default_rng(SEED)))
    run = house.run(f"--artifact=nli:plain={folder}")
    assert run.returncode == 1, run.text
    (variant,) = house.gate()["models"][0]["variants"]
    assert variant["closeness"]["zero_shot_agreement"] < 0.9
    messages = {failure["check"]: failure["message"] for failure in house.gate()["failures"]}
    assert re.search(r"another label wins for \d+ of \d+ premises", messages[check])
