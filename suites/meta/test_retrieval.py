"""What variants lose of what people graded: rankings, grades, intervals, and whole runs over a small corpus."""

import json
import re
import shutil
from typing import Any

import bm25s
import numpy as np
import onnx
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from fixtures.build import progress
from fixtures.build.step import Step
from fixtures.export.variants import PRECISIONS
from fixtures.gate import retrieved
from fixtures.models.tables import OwnProbes
from fixtures.retrieval.quality import CEILINGS, FEWEST_QUERIES, GRADES, LOSSES, Loss, grade, loss_of
from fixtures.retrieval.ranking import NOTHING, Ranking, overlap, rank_correlation
from fixtures.retrieval.retrieve import CANDIDATES_FILE, RUN_FILE, find_candidates, plan_reference_run, take_candidates
from fixtures.retrieval.terms import has_unspaced, terms_of
from fixtures.scoring import scores
from fixtures.scoring.fast_tokenizer import FastTokenizer
from fixtures.scoring.head import POOLING_MASK
from fixtures.scoring.own_files import QRELS_FILE, read_passages, read_qrels, read_queries
from fixtures.scoring.own_probes import find_own_probes, read_judged_queries
from fixtures.scoring.probes import is_query
from suites.meta.conftest import models_read
from suites.meta.house import LOOSE, ROOT, House
from suites.meta.test_own_probes import RERANKER, beir, write_lines

EMBEDDER = 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n' + LOOSE
TRAINED = (ROOT / "baselines" / "minilm-l6" / "model.toml").read_text()
PROBES = '[probes]\npath = "beir"\nlimit = 40\n'


# ------------------------------------------------------------------------------ rankings


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_streamed_ranking_is_that_of_all_at_once(passages, depth, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 5, (3, passages)).astype(np.float32)  # with ties
    ranking, start = Ranking(3, depth), 0
    while start < passages:
        end = min(passages, start + int(random.integers(1, 10)))
        ranking.add(start, scores[:, start:end])
        start = end
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    assert (ranking.rows[:, : expected.shape[1]] == expected).all()
    assert (ranking.rows[:, expected.shape[1] :] == NOTHING).all()


def test_what_is_no_number_goes_last():
    ranking = Ranking(1, 3)
    ranking.add(0, np.array([[np.nan, 1, 2]], np.float32))
    assert ranking.rows.tolist()[0][:2] == [2, 1]


def test_overlap_and_correlation_have_known_values():
    reference = np.array([[1, 2, 3, 4]])
    assert overlap(reference, np.array([[2, 1, 9, 8]]), 2) == 1
    assert overlap(reference, np.array([[9, 1, 8, 7]]), 2) == 0.5
    assert rank_correlation(reference, reference) == pytest.approx(1)
    assert rank_correlation(reference, reference[:, ::-1]) == pytest.approx(-1)
    # Places 1, 0, 2, and 4 for what is missing: 1 - 6 * (1 + 1) / (4 * 15).
    assert rank_correlation(reference, np.array([[2, 1, 3, 9]])) == pytest.approx(0.8)
    assert rank_correlation(reference, np.array([[9, 8, 7, NOTHING]])) == 0


# ------------------------------------------------------------------------------ grades


def test_grades_have_known_values():
    """nDCG@10 has linear gains: (1 / log2(2) + 2 / log2(4)) / (2 / log2(2) + 1 / log2(3))."""
    values = grade(
        np.array([[5, 6, 7], [6, 7, 5]]), ["a", "b"], {"a": {"x": 1, "y": 2}, "b": {"z": 1}}, {"x": 5, "y": 7}
    )
    assert values["ndcg_at_10"][0] == pytest.approx(2 / (2 + 1 / np.log2(3)))
    assert values["mrr_at_10"].tolist() == [1, 0]
    assert values["recall_at_100"].tolist() == [1, 0], "a passage that is not in the corpus is never found"


@given(st.integers(0, 2**31))
def test_grades_are_those_of_trec_eval(seed):
    random = np.random.default_rng(seed)
    rows = np.array([random.permutation(150)[:100] for _ in range(5)])
    queries = [f"q{number}" for number in range(5)]
    qrels = {
        query: {f"d{row}": int(random.integers(0, 3)) for row in random.permutation(150)[:20]} for query in queries
    }
    values = grade(rows, queries, qrels, {f"d{row}": row for row in range(150)})
    run = {
        query: {f"d{row}": float(1000 - place) for place, row in enumerate(ranked)}
        for query, ranked in zip(queries, rows, strict=True)
    }
    ten = {query: dict(list(scores.items())[:10]) for query, scores in run.items()}
    whole = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10", "recall_100"}).evaluate(run)
    short = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(ten)
    for place, query in enumerate(queries):
        assert values["ndcg_at_10"][place] == pytest.approx(whole[query]["ndcg_cut_10"])
        assert values["recall_at_100"][place] == pytest.approx(whole[query]["recall_100"])
        assert values["mrr_at_10"][place] == pytest.approx(short[query]["recip_rank"])


def test_interval_covers_the_loss_as_often_as_it_says():
    random, covered = np.random.default_rng(0), 0
    for _ in range(100):
        loss = loss_of("ndcg_at_10", random.normal(0.6, 0.2, 200), random.normal(0.58, 0.2, 200))
        covered += loss.low <= 0.02 <= loss.high
    assert 88 <= covered <= 100


def test_loss_that_breaks_its_ceiling_is_one_that_is_told_apart():
    few, many = np.array([0.5, 0.9, 0.2]), np.linspace(0, 1, 300)
    assert loss_of("ndcg_at_10", many, many - 0.05 + 0.01 * np.sin(np.arange(300)), 0.01).breaks
    assert not loss_of("ndcg_at_10", many, many - 0.005, 0.01).breaks
    noisy = loss_of("ndcg_at_10", few, few - np.array([0.4, -0.3, 0.1]), 0.01)
    assert noisy.loss > 0.01
    assert not noisy.breaks
    assert "not told apart from none" in str(noisy)
    assert not loss_of("ndcg_at_10", many, many - 0.05).breaks, "it has no ceiling"


def test_few_queries_tell_nothing_apart():
    values = np.linspace(0.2, 0.9, FEWEST_QUERIES)
    assert loss_of("ndcg_at_10", values, values - 0.1 - 0.01 * values).told_apart
    assert not loss_of("ndcg_at_10", values[1:], values[1:] - 0.1 - 0.01 * values[1:]).told_apart
    assert not loss_of("ndcg_at_10", values[:1], values[:1] - 0.1).told_apart


def test_reranker_whose_scores_are_all_alike_looks_bad(tmp_path):
    """Candidates stand in an order that gives no grade away."""
    (tmp_path / "beir").mkdir()
    files = beir(tmp_path / "beir", queries=60)
    files[QRELS_FILE].rename(tmp_path / "beir" / QRELS_FILE)
    own: dict[str, Any] = {"instead": True, "limit": 256, "seed": 0}
    find_candidates([tmp_path / "beir"], tmp_path, {"count": 20, "own": own})
    pool = load_file(tmp_path / CANDIDATES_FILE)["rows"]
    files = {file.name: file for file in (tmp_path / "beir").iterdir() if file.is_file()}
    queries = list(read_judged_queries(files, "pairs", OwnProbes("", **own)))
    assert len(pool) == len(queries) < 60, "those that calibrate are not graded"
    ranking = Ranking(len(pool), 20)
    ranking.add_rows(pool, np.zeros(pool.shape, np.float32))
    row_of = {f"d{number}": number for number in range(120)}
    assert grade(ranking.rows, queries, read_qrels(files[QRELS_FILE]), row_of)["ndcg_at_10"].mean() < 0.5
    assert all(int(query.removeprefix("q")) in rows for query, rows in zip(queries, pool, strict=True))


def test_terms_by_hand():
    assert terms_of("東京タワーはABC社。") == ["東京", "京タ", "タワ", "ワー", "ーは", "abc", "社"]
    assert terms_of("ราคาตั๋ว 20 บาท a") == ["รา", "าค", "คา", "าต", "ตั", "ั๋", "๋ว", "20", "บา", "าท"]
    assert terms_of("The Größe, 3 of_them") == ["the", "größe", "of_them"]
    assert terms_of(" ! ") == []
    assert not has_unspaced(["한국어 문장", "हिन्दी", "Größe"])


@pytest.mark.parametrize("text", ["The Straße of 12 un_named things, l'été!", "привет, мир", "한국어 문장 입니다"])
def test_terms_of_words_with_spaces_are_those_of_bm25s(text):
    (expected,) = bm25s.tokenize([text], stopwords=None, return_ids=False, show_progress=False)
    assert terms_of(text) == expected


UNSPACED = {
    "Japanese": (
        ["東京の天気は明日から雨になります", "新しい図書館は駅の近くにあります", "猫は窓の上で眠っています"],
        ["図書館はどこにありますか", "明日の天気"],
        [1, 0],
    ),
    "Chinese": (
        ["这家餐馆的面条非常好吃", "地铁站在图书馆的旁边", "他每天早上去公园跑步"],
        ["图书馆在哪里", "早上跑步的人"],
        [1, 2],
    ),
    "Thai": (
        ["ร้านอาหารนี้ขายก๋วยเตี๋ยวอร่อยมาก", "ห้องสมุดอยู่ใกล้สถานีรถไฟ", "เขาวิ่งที่สวนสาธารณะทุกเช้า"],
        ["สถานีรถไฟอยู่ที่ไหน", "ไปสวนสาธารณะตอนไหน"],
        [1, 2],
    ),
}
"""Passages and queries without spaces, and which passage answers each query."""


@pytest.mark.parametrize("language", UNSPACED)
def test_candidates_are_found_where_words_have_no_spaces(tmp_path, language):
    """Among many other passages of the same script: letters of the answers, in another order."""
    passages, queries, answers = UNSPACED[language]
    random = np.random.default_rng(0)
    fillers = ["".join(random.permutation(list("".join(passages)))[:20]) for _ in range(60)]
    folder = tmp_path / "beir"
    write_lines(
        folder / "corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, text in enumerate([*passages, *fillers])]
    )
    write_lines(folder / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(queries)])
    (tmp_path / "model.toml").write_text(RERANKER + '[probes]\npath = "beir"\ncandidates = 2\n')
    model = models_read(tmp_path)
    own = find_own_probes(model)
    assert own
    run = plan_reference_run(model, own, Step(take_candidates, "tokens", (own,)), own)
    (step,) = (source for source in run.inputs if isinstance(source, Step) and source.run is find_candidates)
    assert "terms" in step.parameters
    parameters = {**step.parameters, "count": 1}
    find_candidates([folder], tmp_path, parameters)
    pool = load_file(tmp_path / CANDIDATES_FILE)["rows"]
    asked = read_judged_queries(own.files, "pairs", OwnProbes("beir"))
    assert pool[:, 0].tolist() == [answers[queries.index(query)] for query in asked.values()]


def test_every_class_of_variants_has_a_ceiling():
    assert CEILINGS.keys() == set(PRECISIONS)
    assert all(ceiling.keys() <= set(LOSSES) for ceiling in CEILINGS.values())


def test_no_loss_has_no_interval():
    loss = loss_of("mrr_at_10", np.ones(5), np.ones(5), 0.0)
    assert (loss.loss, loss.low, loss.high, loss.breaks) == (0, 0, 0, False)
    assert str(loss) == "mrr_at_10 1.0000: no loss"


# ------------------------------------------------------------------------------ whole runs


@pytest.fixture
def house(tmp_path, shared_store):
    return House(tmp_path, shared_store)


def quality_by_variant(house):
    return {variant["variant"]: variant["quality"] for model in house.gate()["models"] for variant in model["variants"]}


def test_embedder_finds_as_pytorch_does(house):
    folder = house.add("embedder", TRAINED + PROBES)
    beir(folder / "beir")
    run = house.run("--variant", "plain", "--variant", "quantized", suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 0, run.text
    plain = quality_by_variant(house)["plain"]
    assert (plain["queries"], plain["passages"], plain["overlap_at_10"]) == (30, 120, 1)
    assert {loss["grade"]: loss["loss"] for loss in plain["losses"]} == dict.fromkeys(GRADES, 0)
    assert plain["losses"][0]["reference"] > 0.5
    page = (house.report / "gate.md").read_text()
    assert "Retrieval: 30 queries, 120 passages" in page
    assert "nDCG@10" in page


def test_ranking_is_that_of_the_vectors(house):
    """What a step streams is what a product of all vectors says."""
    folder = house.add("embedder", EMBEDDER.replace("[ceilings", 'variants = ["plain"]\n[ceilings') + PROBES)
    files = beir(folder / "beir")
    assert house.run(suite="suites/accuracy/test_retrieval.py").returncode == 0
    gate = house.start()
    (case,) = gate.cases_of(gate.subjects[0])
    texts = [*read_queries(files).values(), *(text for _, text in read_passages(files))]
    vectors = scores.score(case.runtime, case.encode([(text, None) for text in texts]), case.subject.scoring)
    expected = vectors[:30] @ vectors[30:].T
    run = load_file(case.context.artifact(retrieved.plan(case)).folder / RUN_FILE)
    assert np.abs(np.take_along_axis(expected, run["rows"][:, :100], 1) - run["scores"]).max() < 1e-5
    assert np.abs(np.sort(expected, axis=1)[:, ::-1][:, :100] - run["scores"]).max() < 1e-5


def test_reranker_orders_candidates(house):
    folder = house.add(
        "reranker", RERANKER.replace(LOOSE, "") + "[probes]\npath = 'beir'\nlimit = 40\ncandidates = 7\n"
    )
    beir(folder / "beir")
    run = house.run("--variant", "plain", suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 0, run.text
    plain = quality_by_variant(house)["plain"]
    assert [loss["grade"] for loss in plain["losses"]] == ["ndcg_at_10", "mrr_at_10"]
    assert plain["overlap_at_10"] == 1


def test_folder_without_qrels_is_judged_by_agreement(house):
    folder = house.add("embedder", EMBEDDER + PROBES)
    beir(folder / "beir", grades=False)
    run = house.run("--variant", "plain", "--variant", "quantized", suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 0, run.text
    quantized = quality_by_variant(house)["quantized"]
    assert quantized["losses"] == []
    assert 0 < quantized["overlap_at_10"] < 1
    assert "first 10 kept" in (house.report / "gate.md").read_text()


def test_artifact_that_finds_less_fails_with_its_loss(house, tmp_path):
    """The artifact sees no words, only how many they are; with a ceiling of its own that may be."""
    house.add("embedder", TRAINED)
    assert house.run("--variant", "plain", "--export-to", str(tmp_path / "files")).returncode == 0
    file = tmp_path / "files" / "onnx" / "model.onnx"
    model = onnx.load(file)
    (table,) = (tensor for tensor in model.graph.initializer if "word_embeddings" in tensor.name)
    words = numpy_helper.to_array(table)
    table.CopyFrom(numpy_helper.from_array(np.zeros_like(words), table.name))
    onnx.save(model, file)
    beir(house.baselines / "embedder" / "beir")
    house.add("embedder", TRAINED + PROBES)
    options = "--variant", "plain", "--artifact", f"embedder:plain={file}"
    run = house.run(*options, suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 1, run.text
    assert "ndcg_at_10 loses" in run.text
    assert "its ceiling is 0.001" in run.text
    assert "over 30 queries and 120 passages" in run.text
    assert re.search(r"before -> after:\n.*\d\.\d\d -> 0\.00: q\d+: 'where is", run.text)
    house.add("embedder", TRAINED + "[ceilings.plain]\nndcg_at_10_loss = 1\n" + PROBES)
    assert house.run(*options, suite="suites/accuracy/test_retrieval.py").returncode == 0


@pytest.fixture
def searched(house, tmp_path):
    """A house whose trained embedder is approved with what it finds, and a function that makes a candidate of it."""
    folder = house.add("embedder", TRAINED + PROBES)
    beir(folder / "beir")
    run = house.run("--variant", "plain", "--approve")
    assert run.returncode == 0, run.text
    assert "approved embedder: grades of what the reference finds, in retrieval.json" in run.text
    (subject,) = house.start().subjects

    def make(change):
        shutil.copytree(subject.plan.checkpoint.folder, tmp_path / "candidate", dirs_exist_ok=True)
        weights = load_file(tmp_path / "candidate" / "model.safetensors")
        name = next(name for name in weights if "word_embeddings" in name)
        weights[name] = change(weights[name])
        save_file(weights, tmp_path / "candidate" / "model.safetensors", {"format": "pt"})
        return "--variant", "plain", f"--candidate=embedder={tmp_path / 'candidate'}"

    return folder, make


def test_candidate_that_finds_less_than_was_approved_fails(house, searched):
    folder, make = searched
    approved = load_file(next(folder.glob("retrieval.*.safetensors")))["ndcg_at_10"]
    run = house.run(*make(np.zeros_like), suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "update_finds_passages_as_well"
    assert re.search(
        r"the candidate finds less: ndcg_at_10 loses 0\.\d+, more than \[update\] allows", failure["message"]
    )
    assert re.search(r"before -> after:\n.*\d\.\d\d -> 0\.00: q\d+: 'where is", failure["message"])
    assert "write ndcg_at_10_loss into [update]" in failure["message"]
    losses = house.gate()["models"][0]["update_losses"]
    assert losses[0]["reference"] == pytest.approx(approved.mean())
    assert "What the candidate finds: 30 queries of embedder" in (house.report / "gate.md").read_text()
    house.add("embedder", TRAINED + PROBES + "[update]\nndcg_at_10_loss = 1\n")
    assert house.run(*make(np.zeros_like), suite="suites/accuracy/test_retrieval.py").returncode == 0


def test_candidate_that_finds_as_much_passes_and_its_approval_keeps_its_own_grades(house, searched):
    folder, make = searched
    options = make(lambda weights: weights * np.float32(1.0001))
    run = house.run(*options, suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 0, run.text
    assert house.gate()["models"][0]["update_losses"][0]["loss"] == pytest.approx(0, abs=0.01)
    run = house.run(*options, "--approve", "-k", "not retrieval")
    assert run.returncode == 1, run.text
    assert "left out: passages_are_found_as_well of suites/accuracy on plain" in run.text
    run = house.run(*options, "--approve")
    assert run.returncode == 0, run.text
    stored, reference = (json.loads((folder / name).read_text()) for name in ("retrieval.json", "reference.json"))
    assert stored["provenance"] == reference["provenance"]
    assert len(list(folder.glob("retrieval.*.safetensors"))) == 1


def test_grades_of_other_passages_are_not_compared(house, searched):
    folder, make = searched
    options = *make(lambda weights: weights * np.float32(1.0001)), "--require", "baselines"
    with (folder / "beir" / "corpus.jsonl").open("a") as corpus:
        corpus.write(json.dumps({"_id": "new", "text": "a passage more"}) + "\n")
    run = house.run(*options, suite="suites/accuracy/test_retrieval.py")
    assert run.returncode == 1, run.text
    assert "queries, passages, qrels or candidates changed since the approval" in run.text


def test_other_candidates_of_a_reranker_are_not_compared(house):
    digests = set()
    for text in ("candidates = 7\n", "candidates = 7\n", "candidates = 8\n"):
        folder = house.add("reranker", RERANKER.replace(LOOSE, "") + f"[probes]\npath = 'beir'\nlimit = 40\n{text}")
        beir(folder / "beir")
        (subject,) = house.start().subjects
        digests.add(retrieved.digest_of(subject))
    assert len(digests) == 2


def test_prompt_is_left_out_of_pooling_as_in_the_probes(house):
    """Passages are pooled as the tokenise step pools them, which asks Transformers."""
    toml = EMBEDDER.replace("[ceilings", "include_prompt = false\n[ceilings")
    house.add("embedder", toml + '[prompts]\nquery = "ask: "\npassage = "a passage of it: "\n')
    (subject,) = house.start().subjects
    rows = [row for row, probe in enumerate(subject.probes) if probe.length is None and not is_query(probe)][:12]
    prompt = subject.model.settings.prompts.passage
    tokenizer = FastTokenizer(subject.tokenizer, subject.encoded)
    encoded = tokenizer.encode([(prompt + subject.probes[row].text, None) for row in rows], 64, None)
    expected = subject.encoded.subset(np.array(rows)).fields[POOLING_MASK]
    assert (tokenizer.without_prompt(encoded, prompt).fields[POOLING_MASK] == expected).all()
    assert 0 < expected.sum() < len(expected)


def test_classifier_has_no_grades(house):
    text = 'task = "text-classification"\nsource = "seeded:distilbert@4"\nmax_length = 64\nlabels = 3\n'
    house.add("classifier", text + "[ceilings.plain]\nndcg_at_10_loss = 0.1\n")
    assert "the metrics of task text-classification are" in house.usage_error()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (EMBEDDER, "ceilings.plain.ndcg_at_10_loss: [probes] names no folder with qrels"),
        (EMBEDDER + PROBES, "ceilings.plain.ndcg_at_10_loss: [probes] names no folder with qrels"),
        (RERANKER.replace(LOOSE, "") + PROBES, "ceilings.plain.recall_at_100_loss: a reranker does not decide"),
        (EMBEDDER, "update.ndcg_at_10_loss: [probes] names no folder with qrels"),
        (RERANKER.replace(LOOSE, "") + PROBES, "update.recall_at_100_loss: a reranker does not decide"),
    ],
)
def test_ceiling_that_nothing_is_measured_for_is_refused(house, text, problem):
    table, _, metric = problem.split(":")[0].rpartition(".")
    folder = house.add("model", text + f"[{table}]\n{metric} = 0.1\n")
    beir(folder / "beir", grades="recall" in metric)
    assert problem in house.usage_error()


def test_graded_passages_that_are_not_there_are_counted(house):
    folder = house.add("embedder", EMBEDDER + PROBES)
    with beir(folder / "beir")[QRELS_FILE].open("a") as qrels:
        qrels.write("q1\tnowhere\t1\n")
    assert house.run("--variant", "plain", suite="suites/accuracy/test_retrieval.py").returncode == 0
    assert quality_by_variant(house)["plain"]["missing"] == 1
    assert "(1 more are graded and not there)" in (house.report / "gate.md").read_text()


def test_changed_corpus_is_ranked_again(house):
    folder = house.add("embedder", EMBEDDER + PROBES)
    beir(folder / "beir")
    assert house.run("--variant", "plain", suite="suites/accuracy/test_retrieval.py").returncode == 0
    first = quality_by_variant(house)["plain"]
    with (folder / "beir" / "corpus.jsonl").open("a") as corpus:
        corpus.write(json.dumps({"_id": "new", "text": "a passage more"}) + "\n")
    assert house.run("--variant", "plain", suite="suites/accuracy/test_retrieval.py").returncode == 0
    assert quality_by_variant(house)["plain"]["passages"] == first["passages"] + 1


# ------------------------------------------------------------------------------ progress


def test_progress_is_told_at_most_every_few_seconds(monkeypatch):
    told: list[progress.Progress] = []
    clock = [0.0]
    monkeypatch.setattr("fixtures.build.progress.time.monotonic", lambda: clock[0])
    progress.tell_progress_to(told.append)
    for done in range(0, 100, 10):
        clock[0] += 1
        progress.report(done, 100, "passages")
    assert [str(made) for made in told] == ["40 of 100 passages", "90 of 100 passages"]
    progress._TELLER.tell = None


def test_loss_reads_as_a_sentence():
    loss = Loss("ndcg_at_10", 0.731, 0.712, 0.019, 0.011, 0.027, 400, 0.01)
    assert str(loss) == "ndcg_at_10 0.7120 instead of 0.7310: loss 0.0190 (0.0110 to 0.0270)"
