"""The change of meaning between two checkpoints: metrics, the probes that moved, and the gate for an update."""

import json
import re

import numpy as np
import pytest

from fixtures.arrays import Array, Floats
from fixtures.build.needs import ModelSize
from fixtures.gate.command_line import parse
from fixtures.gate.context import make_context
from fixtures.gate.session import Gate
from fixtures.scoring.closeness import METRICS, Layout, broken, similarities
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.update import (
    CLASSES,
    DEFAULTS,
    EMBEDDINGS,
    RELEVANCE,
    SHOWN,
    SPANS,
    TERMS,
    Move,
    class_update,
    embeddings_update,
    neighbour_order_flips,
    relevance_update,
    span_update,
    terms_update,
)
from suites.meta.house import EMBEDDER, FEW, LOOSE
from suites.meta.studies import updates

RANDOM = np.random.default_rng(4)
NONE = Layout(np.full(12, 5), [None] * 12, [None] * 12)
LISTS = Layout(np.full(12, 5), ["a"] * 6 + ["b"] * 6, [0, 1, 2, 3, 0, 0] * 2)
EMBEDDED: Array = RANDOM.standard_normal((12, 8))
LOGITS: Array = RANDOM.standard_normal(12)
LABELLED: Array = RANDOM.standard_normal((12, 3))
WEIGHED: Array = np.maximum(RANDOM.standard_normal((12, 40)), 0)


def test_every_task_has_limits_for_its_updates():
    for task in TASKS.values():
        assert set(task.update.metrics) <= METRICS.keys()
        assert set(task.update.metrics) <= DEFAULTS.keys()


@pytest.mark.parametrize(
    ("kind", "scores"),
    [(EMBEDDINGS, EMBEDDED), (TERMS, WEIGHED), (RELEVANCE, LOGITS), (CLASSES, LABELLED)],
)
def test_nothing_moves_where_nothing_changed(kind, scores):
    update = kind.measure(scores, scores.copy(), LISTS)
    assert set(update.metrics) == set(kind.metrics)
    assert not [name for name, value in update.metrics.items() if METRICS[name].breaks(value, perfect(name))]


def perfect(name):
    return 1e-12 if METRICS[name].bound == "max" else 1 - 1e-12


def test_rotation_and_another_width_change_no_meaning_of_embeddings():
    turned: Array = EMBEDDED @ np.linalg.qr(RANDOM.standard_normal((8, 8)))[0]
    wider: Array = np.hstack([turned, np.zeros((12, 4))])
    update = embeddings_update(EMBEDDED, wider, NONE)
    assert update.metrics["max_similarity_change"] < 1e-9
    assert update.metrics["neighbour_order_flips"] == 0


def test_one_text_that_moved_is_the_one_that_is_listed():
    moved = EMBEDDED.copy()
    moved[3] = moved[7]
    update = embeddings_update(EMBEDDED, moved, NONE)
    assert update.moves[0].rows.count(3) == 1
    similarity = similarities(EMBEDDED)
    assert update.moves[0].before == f"cosine {similarity[update.moves[0].rows]:.3f}"
    assert update.metrics["max_similarity_change"] == pytest.approx(np.abs(similarity - similarities(moved)).max())


def test_text_that_lost_half_of_its_terms_is_listed_first():
    pruned = WEIGHED.copy()
    pruned[3] = np.where(pruned[3] >= np.median(pruned[3][pruned[3] > 0]), pruned[3], 0)
    update = terms_update(WEIGHED, pruned, NONE)
    before, after = int((WEIGHED[3] > 0).sum()), int((pruned[3] > 0).sum())
    assert update.moves[0] == Move((3,), f"{before} active terms", f"{after} active terms")
    assert update.metrics["active_terms_overlap"] == pytest.approx((11 + after / before) / 12)
    assert update.metrics["max_similarity_change"] > 0.1


def test_order_flips_count_decided_comparisons_only():
    """Of three texts on a line, the middle one is nearer to the first, and afterwards to the last."""
    before = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    after = np.array([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])
    # Decided: of the first, 0.9 against 0.1 (turns round); of the second, 0.9 against 0.2 (turns round);
    # of the third, 0.1 against 0.2 is closer than half the deviation of (0.9, 0.1, 0.2), which is 0.18.
    assert neighbour_order_flips(before, after) == 1.0
    assert neighbour_order_flips(before, before) == 0.0


def test_monotonous_change_keeps_order_and_moves_thresholds():
    update = relevance_update(LOGITS, LOGITS * 2 + 3, LISTS)
    assert update.metrics["kendall_tau"] == 1
    assert update.metrics["top1_agreement"] == 1
    assert update.metrics["max_threshold_shift"] == pytest.approx(np.abs(LOGITS + 3).max())


def test_threshold_shift_is_that_of_the_sorted_logits():
    """Swapping two passages' logits moves no threshold at all, though order turns round."""
    swapped = LOGITS.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    update = relevance_update(LOGITS, swapped, LISTS)
    assert update.metrics["max_threshold_shift"] == 0
    assert update.metrics["kendall_tau"] < 1
    assert {update.moves[0].rows, update.moves[1].rows} == {(0,), (1,)}


def test_flipped_labels_are_listed_first():
    new: Array = LABELLED + 0.5  # no probability moves
    best = new[5].argmax()
    new[5, (best + 1) % 3] = new[5, best] + 0.01
    update = class_update(LABELLED, new, NONE)
    assert update.metrics["argmax_agreement"] == pytest.approx(11 / 12)
    assert update.moves[0].rows == (5,)
    assert update.moves[0].before.startswith(f"label {best} ")
    assert update.moves[0].after.startswith(f"label {(best + 1) % 3} ")


SECOND: Floats = np.array([0, 1], np.float32)


def test_spans_and_token_labels_are_counted_by_probe():
    layout = Layout(np.array([4, 3]), [None] * 2, [None] * 2)
    before = np.zeros((7, 2), np.float32)
    before[[1, 5]] = 5
    after = before.copy()
    after[5] = 0
    after[6] = 5
    update = span_update(before, after, layout)
    assert update.metrics == {"span_agreement": 0.5}
    assert update.moves[0] == Move((1,), "tokens 1-1", "2-2")
    tokens = class_update(before - SECOND, after - SECOND, layout)
    assert tokens.moves[0].rows in ((0,), (1,))
    assert "labels" in tokens.moves[0].before


@pytest.mark.parametrize(
    ("kind", "approved", "new", "reason"),
    [
        (SPANS, np.zeros((7, 2)), np.zeros((8, 2)), "only checkpoints whose tokenizers agree"),
        (EMBEDDINGS, EMBEDDED, np.full_like(EMBEDDED, np.nan), "not finite"),
        (RELEVANCE, LOGITS, np.full_like(LOGITS, np.inf), "not finite"),
    ],
)
def test_what_cannot_be_measured_says_why(kind, approved, new, reason):
    update = kind.measure(approved, new, LISTS)
    assert not update.metrics
    assert reason in update.reason


# -------------------------------------------------------------------------------- through the gate


def test_candidate_that_is_the_approved_checkpoint_has_nothing_to_do(shop):
    folder, house, digest = shop
    run = house.run(f"--candidate=bert={folder / 'first'}", trace_imports=True)
    assert run.returncode == 0, run.text
    assert "nothing to do: the candidate is the approved checkpoint" in run.text
    assert digest in house.gate()["models"][0]["recommendation"]
    assert house.gate()["verdict"] == "not judged"
    assert not run.frameworks


def test_candidate_that_means_the_same_passes(shop):
    folder, house, _ = shop
    run = house.run(f"--candidate=bert={folder / 'near'}", *FEW, "--require-all")
    assert run.returncode == 0, run.text
    assert house.statuses() == {"plain": "pass", "quantized": "pass"}
    update = house.gate()["models"][0]["update"]
    assert 0 < update["max_similarity_change"] < DEFAULTS["max_similarity_change"]
    moved = house.gate()["models"][0]["moved_probes"]
    assert len(moved) == SHOWN
    for entry in moved:
        assert (len(entry["probes"]), entry["kind"]) == (2, "cosine"), "two texts whose similarity moved"
        assert entry["error"] == pytest.approx(abs(entry["before"]["value"] - entry["after"]["value"]))
    assert moved[0]["error"] == pytest.approx(update["max_similarity_change"])


def test_candidate_that_means_something_else_fails_and_says_what_moved(shop):
    folder, house, _ = shop
    run = house.run(f"--candidate=bert={folder / 'far'}", *FEW)
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "update_keeps_its_meaning"
    first, *lines = failure["message"].splitlines()
    moved = re.findall(r"(\w+) [\d.e-]+, and \[update\] allows", first)
    assert moved == [line.split()[0] for line in lines if line.endswith("  broken")]
    assert len(moved) > 1, first
    assert "--approve would record it whatever the limits, if nothing else fails: " in failure["message"]
    assert "moved most, before -> after:" in failure["message"]
    assert failure["message"].count("cosine ") >= SHOWN
    assert f"--candidate=bert={folder / 'far'}" in failure["message"]
    page = (house.report / "gate.md").read_text()
    assert "Change of meaning of bert" in page
    assert "Probes that moved most of bert" in page
    assert "Nearest neighbours that changed of bert" in page
    (model,) = house.gate()["models"]
    since = model["since_approval"]
    assert {change["what"] for change in since["changes"]} == {"checkpoint"}
    assert since["digest"] == model["approved"]


def test_update_limits_are_those_of_model_toml(shop, tmp_path):
    """The same candidate fails where nothing is allowed, and passes where everything is."""
    folder, house, _ = shop
    text = (house.baselines / "bert" / "model.toml").read_text()
    try:
        (house.baselines / "bert" / "model.toml").write_text(text + "[update]\nmax_similarity_change = 1e-9\n")
        run = house.run(f"--candidate=bert={folder / 'near'}", *FEW)
        assert run.returncode == 1, run.text
        assert "max_similarity_change" in house.gate()["failures"][0]["message"]
    finally:
        (house.baselines / "bert" / "model.toml").write_text(text)


def test_approved_candidate_is_the_baseline(shop):
    """model.toml, reference, tier and pins change together; afterwards the plain run passes, and the old
    checkpoint stands in the history."""
    folder, house, digest = shop
    contents = {file: file.read_bytes() for file in (house.baselines / "bert").iterdir()}
    run = house.run(f"--candidate=bert={folder / 'far'}", *FEW, "--approve")
    assert run.returncode == 0, run.text
    assert "outside [update], recorded because of --approve: " in run.text
    model = house.gate()["models"][0]
    assert (model["candidate"], model["approved"]) == (f"path:{folder / 'far'}", digest)
    text = (house.baselines / "bert" / "model.toml").read_text()
    assert "# a remark that stays" in text
    assert 'source = "path:../../far"' in text
    reference = json.loads((house.baselines / "bert" / "reference.json").read_text())
    assert [provenance["digest"] for provenance in reference["history"]] == [digest]
    assert reference["provenance"]["digest"] in text
    run = house.run(*FEW)
    assert run.returncode == 0, run.text
    assert house.statuses() == {"plain": "pass", "quantized": "pass"}
    for file in (house.baselines / "bert").iterdir():
        file.unlink()
    for file, content in contents.items():
        file.write_bytes(content)


def test_failed_candidate_is_not_approved(shop, tmp_path):
    folder, house, _ = shop
    before = {file.name: file.read_bytes() for file in (house.baselines / "bert").iterdir()}
    text = before["model.toml"].decode()
    (house.baselines / "bert" / "model.toml").write_text(text + "[ceilings.fp32]\nmax_abs_error = 0\n")
    try:
        run = house.run(f"--candidate=bert={folder / 'far'}", *FEW, "--approve")
    finally:
        (house.baselines / "bert" / "model.toml").write_text(text)
    assert run.returncode == 1, run.text
    assert "NOT APPROVED bert" in run.text
    assert {file.name: file.read_bytes() for file in (house.baselines / "bert").iterdir()} == before


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (["bert"], "--candidate: 'bert' is not of the form MODEL=PATH"),
        (["none=/tmp"], "--candidate: 'none' is none of bert, fresh"),
        (["bert=/no/where"], "--candidate: bert: the checkpoint folder /no/where does not exist"),
        (["bert=seeded:brt@9"], "--candidate: seeded:brt@9: seeded: 'brt' is none of"),
        (["bert=a", "bert=b"], "--candidate: bert is given twice"),
        (["fresh=seeded:bert@3"], "--candidate: fresh has no approved reference"),
    ],
)
def test_wrong_candidate_is_a_usage_error(shop, candidates, message):
    _, house, _ = shop
    folder = house.add("fresh", EMBEDDER + LOOSE)
    try:
        assert message in house.usage_error(candidate=candidates)
    finally:
        (folder / "model.toml").unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recall = 1", "update.recall: the metrics of an update of task embedding are max_similarity_change"),
        ("topk_overlap = nan", "update.topk_overlap: nan is not a limit"),
        ('topk_overlap = "half"', 'update.topk_overlap: write a number, and not "half"'),
    ],
)
def test_wrong_update_limit_names_file_and_key(house, line, message):
    house.add("tiny", EMBEDDER + f"[update]\n{line}\n")
    refusal = house.usage_error()
    assert message in refusal
    assert "model.toml:" in refusal


# ------------------------------------------------------------------- the defaults, on a real model


@pytest.fixture(scope="module")
def minilm(tmp_path_factory, shared_store):
    """The embedded all-MiniLM-L6-v2 in PyTorch, with weights to change."""
    report = str(tmp_path_factory.mktemp("minilm"))
    options = {"model": ["minilm-l6"], "store": str(shared_store), "report": report}
    gate = Gate(make_context(parse(options.get, ci=False)))
    (subject,) = gate.load()
    gate.context.build(dict.fromkeys([subject.plan.tokens, subject.plan.reference], ModelSize()), print)
    return updates.Model(subject, gate.machine.threads)


MILDEST = "encoder.layer.5.attention.self.query.weight"
"""The matrix whose noise moves the scores least, of all that were tried."""


def test_noise_of_half_a_deviation_on_one_matrix_is_red_and_benign_changes_are_not(minilm):
    limits = minilm.subject.update_limits
    noisy = minilm.measure(updates.Change("half a deviation", True, updates.noise([MILDEST], updates.HARMFUL, 3)))
    assert broken(noisy, limits) == ["max_similarity_change", "topk_overlap"], noisy
    noise = updates.noise(minilm.matrices, updates.BENIGN, 3)
    for change in (updates.rounded("bfloat16"), noise):
        metrics = minilm.measure(updates.Change("no change", False, change))
        assert metrics["max_similarity_change"] > 0
        assert not broken(metrics, limits), metrics
