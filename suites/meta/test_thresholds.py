"""Thresholds that people deploy: decisions that flip, the threshold that restores them, and the gate for both."""

import itertools
import re
import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from fixtures.models.settings import Threshold
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.thresholds import SCORES, SHOWN, Decisions, Flip, compare_decisions, restoring_threshold
from suites.meta.house import EMBEDDER, FEW, RERANKER, House

SHOW = Threshold("shown", "logit", 0.0)
DUPLICATE = Threshold("duplicate", "cosine", 0.7)


def floats(*values):
    return np.array(values, np.float32)


def test_every_task_names_scores_that_there_are():
    named = {name: task.threshold_scores for name, task in TASKS.items() if task.threshold_scores}
    assert named == {
        "embedding": ("cosine",),
        "rerank": ("logit", "probability"),
        "decoder-rerank": ("logit",),
    }
    assert set(SCORES) == {score for scores in named.values() for score in scores}


def test_flips_of_pairs_are_counted_by_hand():
    """Accepted are 3 and 1 of before, and 2 of after: 1 is rejected now, and -2 is accepted."""
    decisions = compare_decisions(SHOW, floats(3, 1, -2, -3), floats(2, -1, 0.5, -4))
    assert (decisions.count, decisions.to_rejected, decisions.to_accepted) == (4, 1, 1)
    assert (decisions.flipped, decisions.share) == (2, 0.5)
    assert decisions.flips == (Flip((2,), -2.0, 0.5), Flip((1,), 1.0, -1.0))
    # From -1 (excluded) to 0.5, where 0 lies, 2 are other ones. Above 0.5 up to 2, 1 is: the pair that scored 1.
    # Above -4 up to -1, 1 is as well: the pair that scored -2. The first range begins 0.5 away, the second ends 1 away.
    assert (decisions.restored_value, decisions.restored_flips) == (1.0, 1)


def test_shifted_scores_are_restored_by_the_shifted_threshold():
    before = np.linspace(-1, 1, 41, dtype=np.float32)
    decisions = compare_decisions(SHOW, before, before + np.float32(0.5))
    assert (decisions.to_rejected, decisions.to_accepted, decisions.restored_flips) == (0, 10, 0)
    assert decisions.restored_value == pytest.approx(0.475, abs=0.0126)
    assert len(decisions.flips) == SHOWN
    assert [flip.rows for flip in decisions.flips[:2]] == [(10,), (11,)], "furthest from the threshold first"


def test_flips_of_texts_are_those_of_every_two():
    """Directions at 0, 30 and 100 degrees; then the second at 60. Cosine 0.7 is that of 45.6 degrees."""

    def directions(*degrees):
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    decisions = compare_decisions(DUPLICATE, directions(0, 30, 100), 3 * directions(0, 60, 100))
    assert (decisions.count, decisions.to_rejected, decisions.to_accepted) == (3, 1, 1)
    assert [flip.rows for flip in decisions.flips] == [(1, 2), (0, 1)]
    assert decisions.flips[0].before == pytest.approx(np.cos(np.radians(70)), abs=1e-6)
    assert decisions.flips[0].after == pytest.approx(np.cos(np.radians(40)), abs=1e-6)
    # New cosines are -0.17, 0.5 and 0.77. Nothing accepted is one flip, all above -0.17 is one too, which is further.
    assert decisions.restored_flips == 1
    assert decisions.restored_value > np.cos(np.radians(40))


def test_embeddings_of_another_width_are_compared_by_their_cosines():
    before = np.eye(4, dtype=np.float32)
    decisions = compare_decisions(DUPLICATE, before, np.hstack([before, before]))
    assert (decisions.count, decisions.flipped, decisions.restored_value) == (6, 0, 0.7)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (floats(1, np.nan), "some of the scores are not finite"),
        (floats(1, np.inf), "some of the scores are not finite"),
        (floats(1), "there are 1 scores instead of 2"),
    ],
)
def test_what_cannot_be_compared_says_why(after, reason):
    assert compare_decisions(SHOW, floats(1, 2), after) == Decisions(SHOW, reason=reason)


@pytest.mark.parametrize(
    ("flips", "most", "broken"),
    [(0, 0.0, False), (1, 0.0, True), (29, 0.29, False), (30, 0.29, True), (100, 1.0, False), (100, None, False)],
)
def test_share_of_flips_is_held_to_max_flips(flips, most, broken):
    """0.29 * 100 is less than 29 in floating point: a share is compared with a share."""
    threshold = Threshold("shown", "logit", 0.0, most)
    after = np.where(np.arange(100) < flips, -1, 1).astype(np.float32)
    decisions = compare_decisions(threshold, np.ones(100, np.float32), after)
    assert (decisions.flipped, decisions.breaks_limit) == (flips, broken)


# ------------------------------------------------------------------------ the restoring threshold

NUMBERS = st.integers(-20, 20).map(lambda number: number / 4) | st.floats(-5, 5)
DECIDED = st.lists(st.tuples(st.booleans(), NUMBERS), max_size=12)


def differing(accepted, scores, threshold):
    return sum((score >= threshold) != wanted for wanted, score in zip(accepted, scores, strict=True))


def ranges(scores):
    """Yield (above, up to, a threshold between) of each range of thresholds that decide alike."""
    borders = [-np.inf, *sorted(set(scores)), np.inf]
    for low, high in itertools.pairwise(borders):
        yield low, high, high if high < np.inf else np.nextafter(low, np.inf)


@given(DECIDED, NUMBERS)
def test_restoring_threshold_is_the_best_and_the_nearest_of_all(decided, deployed):
    accepted, scores = [wanted for wanted, _ in decided], [score for _, score in decided]
    value, flips = restoring_threshold(np.array(accepted, bool), np.array(scores, float), deployed)
    assert differing(accepted, scores, value) == flips
    midpoints = [(a + b) / 2 for a in scores for b in scores]
    tried = [*scores, *midpoints, deployed, min(scores, default=0) - 1, max(scores, default=0) + 1]
    assert flips == min(differing(accepted, scores, threshold) for threshold in tried)
    assert flips <= differing(accepted, scores, deployed)
    if differing(accepted, scores, deployed) == flips:
        assert value == deployed
        return
    alike = {
        (low, high): max(low - deployed, deployed - high)
        for low, high, between in ranges(scores)
        if differing(accepted, scores, between) == flips
    }
    (distance,) = [distance for (low, high), distance in alike.items() if low < value <= high]
    assert distance == min(alike.values())


@given(DECIDED, NUMBERS)
def test_flips_are_restored_as_far_as_they_can_be(decided, deployed):
    """Whatever the scores, `compare_decisions` says at most as many flips at its threshold as at the deployed one."""
    before = floats(*(1 if wanted else -1 for wanted, _ in decided))
    after = floats(*(score for _, score in decided))
    decisions = compare_decisions(Threshold("shown", "logit", deployed), before, after)
    assert decisions.restored_flips <= decisions.flipped
    accepted = before.astype(float) >= deployed
    assert decisions.flipped == differing(accepted, after.tolist(), deployed)
    assert decisions.restored_flips == differing(accepted, after.tolist(), decisions.restored_value)


@pytest.mark.parametrize(
    ("scores", "deployed", "value"),
    [
        ([0.0, 1.0], 3.0, 0.5),  # of few digits, in the middle
        ([0.123456, 0.123457], 3.0, 0.1234565),
        ([1.0, np.nextafter(1.0, 2.0)], 3.0, np.nextafter(1.0, 2.0)),  # no number lies between
    ],
)
def test_restoring_threshold_is_a_short_number_between_two_scores(scores, deployed, value):
    """The higher of two scores alone has to be accepted."""
    assert restoring_threshold(np.array([False, True]), np.array(scores), deployed) == (value, 0)


def test_restoring_threshold_may_lie_above_all_scores():
    """However large they are: one more than 1e17 is 1e17."""
    assert restoring_threshold(np.array([False, False]), np.array([1.0, 2.0]), 0.0) == (2.2, 0)
    assert restoring_threshold(np.array([False]), np.array([1e17]), 0.0) == (np.nextafter(1e17, np.inf), 0)


# -------------------------------------------------------------------------------------- model.toml


def row(**keys):
    stated = {"name": '"shown"', "score": '"logit"', "value": "0.5"} | keys
    return "[[thresholds]]\n" + "".join(f"{key} = {value}\n" for key, value in stated.items() if value)


@pytest.mark.parametrize(
    ("model", "stated", "line", "message"),
    [
        (RERANKER, row(score='"cosine"'), 6, "thresholds[0].score: 'cosine' is none of the scores of task rerank that"),
        (RERANKER, row() + row(), 9, "thresholds[1].name: 'shown' is given twice"),
        (RERANKER, row(value="nan"), 7, "thresholds[0].value: nan is no threshold: write a finite number"),
        (RERANKER, row(value='"0.5"'), 7, 'thresholds[0].value: write a number, and not "0.5"'),
        (RERANKER, row(max_flips="1.5"), 8, "thresholds[0].max_flips: write a share from 0 to 1, and not 1.5"),
        (RERANKER, row(max_flips="nan"), 8, "thresholds[0].max_flips: write a share from 0 to 1, and not NaN"),
        (RERANKER, row(name='""'), 5, "thresholds[0].name: write what the report calls it, such as"),
        (RERANKER, row(value=""), 4, "thresholds[0]: value is missing: write value = a number"),
        (RERANKER, row(most="1"), 8, "thresholds[0].most: there is no such key: the keys are name, score, value, max"),
        (
            RERANKER,
            row(score='"probability"'),
            6,
            'thresholds[0].score: its scores are logits, since nothing names a sigmoid: write "logit"',
        ),
        (
            RERANKER + 'activation = "sigmoid"\n',
            row(),
            7,
            'thresholds[0].score: its scores are probabilities, by a sigmoid: write "probability"',
        ),
        (
            RERANKER + 'activation = "sigmoid"\n',
            row(score='"probability"', value="1.5"),
            8,
            "thresholds[0].value: 1.5 is no probability: write a number from 0 to 1",
        ),
        (
            EMBEDDER,
            row(score='"cosine"', value="-2"),
            9,
            "thresholds[0].value: -2 is no cosine: write a number from -1 to 1",
        ),
        (
            'task = "fill-mask"\nsource = "seeded:bert@7"\nmax_length = 64\n',
            row(),
            6,
            "thresholds[0].score: thresholds of task fill-mask are not judged: leave [[thresholds]] out",
        ),
    ],
)
def test_wrong_threshold_names_file_line_and_key(house, model, stated, line, message):
    folder = house.add("tiny", model + stated)
    refusal = house.usage_error()
    assert f"{folder / 'model.toml'}:{line}: {message}" in refusal


def test_thresholds_on_what_the_model_yields_are_read(house):
    house.add("sure", RERANKER + 'activation = "sigmoid"\n' + row(score='"probability"', max_flips="0"))
    (subject,) = house.start().subjects
    assert subject.model.settings.thresholds == (Threshold("shown", "probability", 0.5, 0.0),)


# ------------------------------------------------------------------------------------ through the gate

SHIFT = 0.5
WIDE = "[ceilings.plain]\nmax_logit_error = 9\nmean_logit_error = 9\n"
PLAIN = ("--variant", "plain")


@pytest.fixture(scope="module")
def ranker(tmp_path_factory, shared_store):
    """A reranker without thresholds that was judged, its own logits, and its graph with logits moved by SHIFT."""
    folder = tmp_path_factory.mktemp("ranker")
    house = House(folder, shared_store)
    house.add("ranker", RERANKER + WIDE)
    run = house.run(*PLAIN)
    assert run.returncode == 0, run.text
    (model,) = house.gate()["models"]
    assert model["thresholds"] == []
    assert [variant["thresholds"] for variant in model["variants"]] == [[]]
    assert "Decisions at thresholds" not in (house.report / "gate.md").read_text()
    assert "decisions flip" not in run.text
    logits = np.sort(load_file(house.report / "scores.safetensors")["ranker/PyTorch"].astype(float))
    shutil.copytree(house.artifact("plain"), folder / "moved")
    (folder / "moved" / "manifest.json").unlink()
    graph = onnx.load(folder / "moved" / "model.onnx")
    for node in graph.graph.node:
        node.output[:] = ["unmoved" if name == "logits" else name for name in node.output]
    graph.graph.initializer.append(numpy_helper.from_array(np.array(SHIFT, np.float32), "shift"))
    graph.graph.node.append(helper.make_node("Add", ["unmoved", "shift"], ["logits"]))
    onnx.save(graph, folder / "moved" / "model.onnx")
    return house, logits, f"--artifact=ranker:plain={folder / 'moved'}"


@pytest.fixture(scope="module")
def value(ranker):
    """A threshold in the widest gap of the logits in the middle half, which rounding does not reach."""
    _, logits, _ = ranker
    middle = logits[len(logits) // 4 : -len(logits) // 4]
    widest = np.diff(middle).argmax()
    assert np.diff(middle)[widest] > 1e-4
    return float(middle[widest : widest + 2].mean())


def entry(house):
    """Return what gate.json has of the only threshold of the only variant."""
    (variant,) = house.gate()["models"][0]["variants"]
    (threshold,) = variant["thresholds"]
    return threshold


def test_sound_export_decides_as_the_reference(ranker, value):
    house, logits, _ = ranker
    house.add("ranker", RERANKER + WIDE + row(value=repr(value), max_flips="0"))
    run = house.run(*PLAIN)
    assert run.returncode == 0, run.text
    assert entry(house) == {
        **{"name": "shown", "score": "logit", "value": value, "max_flips": 0.0, "decisions": len(logits), "flips": 0},
        **{"to_rejected": 0, "to_accepted": 0, "restored_value": value, "restored_flips": 0, "examples": []},
    }
    assert "decisions flip" not in run.text
    assert "Decisions at thresholds of ranker" in (house.report / "gate.md").read_text()


def test_shifted_logits_flip_decisions_and_fail(ranker, value):
    house, logits, moved = ranker
    flips = int(((logits < value) & (logits + SHIFT >= value)).sum())
    assert flips > 1
    house.add("ranker", RERANKER + WIDE + row(value=repr(value), max_flips=f"{(flips - 0.5) / len(logits)}"))
    run = house.run(*PLAIN, moved)
    assert run.returncode == 1, run.text
    threshold = entry(house)
    counts = (threshold["flips"], threshold["to_rejected"], threshold["to_accepted"], threshold["restored_flips"])
    assert counts == (flips, 0, flips, 0)
    below, above = logits[logits < value].max() + SHIFT, logits[logits >= value].min() + SHIFT
    assert below + 1e-5 < threshold["restored_value"] < above - 1e-5
    assert len(threshold["examples"]) == min(flips, SHOWN)
    worst = threshold["examples"][0]
    assert worst["after"] == pytest.approx(worst["before"] + SHIFT, abs=1e-5)
    assert [example["before"] for example in threshold["examples"]] == sorted(
        example["before"] for example in threshold["examples"]
    ), "furthest below the threshold first"
    (failure,) = house.gate()["failures"]
    assert (failure["variant"], failure["check"]) == ("plain", "decisions_stay")
    message = failure["message"]
    assert message.startswith(f"ranker plain: {flips} of {len(logits)} decisions flip at shown (logit >= ")
    assert f"accepted -> rejected: 0; rejected -> accepted: {flips}" in message
    assert worst["probes"][0] in message
    assert f"restored by: {threshold['restored_value']!r}, at which 0 flip" in message
    assert f"[[thresholds]] in {house.baselines / 'ranker' / 'model.toml'}" in message
    assert re.search(r"reproduce: tox run -e gate -- 'suites/accuracy/test_thresholds.py::test_decisions_stay", message)
    assert "ranker: decisions flip at shown" in run.text
    for page in ("gate.md", "index.html"):
        text = (house.report / page).read_text()
        assert repr(threshold["restored_value"]) in text
        assert "Decisions that flip" in text


def test_restoring_threshold_of_the_report_restores(ranker, value):
    """What the report names is deployed for the moved file: nothing flips beside the reference at its own threshold."""
    house, _, moved = ranker
    house.add("ranker", RERANKER + WIDE + row(value=repr(value)))
    run = house.run(*PLAIN, moved, "-k", "decisions_stay")
    assert run.returncode == 0, "without max_flips nothing fails\n" + run.text
    new = load_file(house.report / "scores.safetensors")["ranker/plain"].astype(float)
    old = load_file(house.report / "scores.safetensors")["ranker/PyTorch"].astype(float)
    assert (old >= value).tolist() != (new >= value).tolist()
    assert (old >= value).tolist() == (new >= entry(house)["restored_value"]).tolist()


LIMIT = (
    '[[limits]]\nvariant = "plain"\ncheck = "decisions_stay"\nreason = "it is deployed with a threshold of its own"\n'
    'link = "https://example.org"\n'
)


def test_flips_may_be_a_known_limit_that_has_to_hold(ranker, value):
    house, _, moved = ranker
    house.add("ranker", RERANKER + WIDE + row(value=repr(value), max_flips="0") + LIMIT)
    run = house.run(*PLAIN, moved)
    assert run.returncode == 0, run.text
    assert "it is deployed with a threshold of its own" in house.gate()["models"][0]["variants"][0]["limits"][0]
    run = house.run(*PLAIN)
    assert run.returncode == 1, run.text
    assert "states the limit 'decisions_stay' of plain, and it holds no longer" in run.text


def test_scores_that_are_not_finite_are_no_decisions(ranker, value):
    house, _, moved = ranker
    house.add("ranker", RERANKER + WIDE + row(value=repr(value), max_flips="1"))
    folder = house.baselines.parent / "infinite"
    shutil.copytree(moved.partition("=")[2].partition("=")[2], folder)
    graph = onnx.load(folder / "model.onnx")
    (shift,) = [tensor for tensor in graph.graph.initializer if tensor.name == "shift"]
    shift.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "shift"))
    onnx.save(graph, folder / "model.onnx")
    run = house.run(*PLAIN, f"--artifact=ranker:plain={folder}", "-k", "decisions_stay")
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert "decisions at shown (logit >= " in failure["message"]
    assert "cannot be compared: some of the scores are not finite" in failure["message"]
    assert house.gate()["models"][0]["variants"][0]["thresholds"] == []


@pytest.fixture
def deciding_shop(shop):
    """The shop, whose embedder has a threshold in a gap of its cosines, and may move as far as it likes otherwise."""
    folder, house, _ = shop
    contents = {file: file.read_bytes() for file in (house.baselines / "bert").iterdir()}
    (scores,) = (house.baselines / "bert").glob("reference.*.safetensors")
    reference = load_file(scores)["scores"].astype(float)
    cosines = np.sort((reference @ reference.T)[np.triu_indices(len(reference), 1)])
    widest = len(cosines) // 4 + np.diff(cosines[len(cosines) // 4 : -len(cosines) // 4]).argmax()
    value = float(cosines[widest : widest + 2].mean())
    stated = row(score='"cosine"', value=repr(value), max_flips="0.05", name='"duplicate"')
    loose = "[update]\nmax_similarity_change = 2\ntopk_overlap = 0\nneighbour_order_flips = 1\n"
    file = house.baselines / "bert" / "model.toml"
    file.write_text(file.read_text() + loose + stated)
    yield folder, house, len(cosines)
    for file in (house.baselines / "bert").iterdir():
        file.unlink()
    for file, content in contents.items():
        file.write_bytes(content)


def test_candidate_is_judged_beside_the_approved_reference(deciding_shop):
    """`far` means something else; `near` decides as the approved checkpoint does."""
    folder, house, decisions = deciding_shop
    run = house.run(f"--candidate=bert={folder / 'far'}", *FEW, "-k", "keep")
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert (failure["variant"], failure["check"]) == ("", "update_keeps_decisions")
    (threshold,) = house.gate()["models"][0]["thresholds"]
    assert threshold["decisions"] == decisions
    assert threshold["flips"] == threshold["to_rejected"] + threshold["to_accepted"]
    assert threshold["flips"] / decisions > 0.05
    assert 0 <= threshold["restored_flips"] < threshold["flips"]
    assert [len(example["probes"]) for example in threshold["examples"]] == [2] * SHOWN
    assert failure["message"].startswith(f"bert: the candidate: {threshold['flips']} of {decisions} decisions flip")
    assert f"--candidate=bert={folder / 'far'}" in failure["message"]
    assert "the candidate | duplicate" in (house.report / "gate.md").read_text()
    run = house.run(f"--candidate=bert={folder / 'near'}", *FEW, "-k", "keep")
    assert run.returncode == 0, run.text


def test_approved_candidate_may_decide_otherwise_and_that_is_told(deciding_shop):
    folder, house, decisions = deciding_shop
    run = house.run(f"--candidate=bert={folder / 'far'}", *FEW, "--approve")
    assert run.returncode == 0, run.text
    (threshold,) = house.gate()["models"][0]["thresholds"]
    told = f"outside max_flips, recorded because of --approve: {threshold['flips']} of {decisions} decisions flip at"
    assert told in run.text
    assert "[[thresholds]]" in (house.baselines / "bert" / "model.toml").read_text()
