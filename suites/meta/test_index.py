"""What an index loses: integers are sentence-transformers' own, shares are those by hand, and faults are named."""

import json
import re
import shutil
import textwrap
from pathlib import Path

import ir_measures
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from sentence_transformers.util import normalize_embeddings, truncate_embeddings
from sentence_transformers.util.quantization import quantize_embeddings

from fixtures.export import seeded
from fixtures.faults.fault import SEED, Site
from fixtures.faults.table import FAULT
from fixtures.gate import retrieved
from fixtures.gate.case import Case
from fixtures.gate.checks import INDEX as INDEX_CHECKS
from fixtures.gate.index_verdicts import incomparable_in_indexes
from fixtures.gate.subject import Subject
from fixtures.models.checkpoints import find_checkpoint
from fixtures.models.matryoshka import read_matryoshka_widths
from fixtures.models.sentence_transformers import NO_MODULES
from fixtures.models.settings import ModelError
from fixtures.models.widths import check_widths
from fixtures.retrieval.indexes import IndexRankings, compare_index_grades, key_in_index
from fixtures.retrieval.quality import GRADES
from fixtures.retrieval.ranking import NOTHING
from fixtures.retrieval.retrieve import RUN_FILE
from fixtures.runtimes.opening import open_session
from fixtures.runtimes.session import Runtime
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring import closeness
from fixtures.scoring.closeness import Layout
from fixtures.scoring.embedding_quantization import quantize, ranges_of, signs
from fixtures.scoring.index import NormOrder, compare_in_indexes, cut, index_names, norms_of
from fixtures.scoring.own_files import QRELS_FILE, read_passages, read_qrels, read_queries
from fixtures.scoring.scores import score
from suites.accuracy import test_index
from suites.meta.calls import stand_in
from suites.meta.conftest import models_read
from suites.meta.house import EMBEDDER, LOOSE, ROOT, House
from suites.meta.test_own_probes import beir

SUITE = "suites/accuracy/test_index.py"
ZOO = (ROOT / "baselines" / "zoo" / "bert-embedder" / "model.toml").read_text()
TRAINED = (ROOT / "baselines" / "minilm-l6" / "model.toml").read_text()
PROBES = '[probes]\npath = "beir"\nlimit = 40\n'
INDEX = "[index]\nwidths = [8, 32]\n"
RANDOM = np.random.default_rng(6)
CALIBRATION, EMBEDDINGS = (RANDOM.normal(size=(rows, 21)).astype(np.float32) for rows in (40, 60))
CALIBRATION[:, 3], EMBEDDINGS[:5, 4], EMBEDDINGS[7] = 0.5, 0, 0
LAYOUT = Layout(np.ones(60, np.int64), [None] * 60, [None] * 60)
FOUND_IN = ["float32@4", "float32@384", "int8", "binary"]
NAMES = ["float32@8", "float32@32", "int8", "binary"]


# ------------------------------------------------------------------------ beside sentence-transformers


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_integers_are_those_of_sentence_transformers(precision):
    """A dimension without a range, numbers outside of it, zeros, and bits that do not fill a byte are among them."""
    expected = quantize_embeddings(EMBEDDINGS, precision, calibration_embeddings=CALIBRATION)
    integers = quantize(EMBEDDINGS, precision, ranges_of(CALIBRATION))
    assert integers.dtype == expected.dtype
    np.testing.assert_array_equal(integers, expected)
    assert len(np.unique(integers)) > 100


@pytest.mark.parametrize("width", [1, 8, 21])
def test_cut_is_that_of_sentence_transformers(width):
    """But for the last bit of a norm, whose squares NumPy adds in another order."""
    expected = normalize_embeddings(truncate_embeddings(torch.from_numpy(EMBEDDINGS), width)).numpy()
    np.testing.assert_array_max_ulp(cut(EMBEDDINGS, width), expected, maxulp=2)
    np.testing.assert_array_equal(np.sign(cut(EMBEDDINGS, width)), np.sign(EMBEDDINGS[:, :width]))


def test_dot_products_of_signs_rank_as_hamming_distances_do():
    packed = quantize(EMBEDDINGS, "ubinary", ranges_of(EMBEDDINGS)).astype(np.uint8)
    bits = np.unpackbits(packed, axis=1)[:, :21]
    distances = (bits[:, None] != bits).sum(axis=2)
    rows = signs(EMBEDDINGS).astype(int)
    np.testing.assert_array_equal(rows @ rows.T, 21 - 2 * distances)


# ------------------------------------------------------------------------------------------- by hand


def test_integers_by_hand():
    column = np.array([[-3], [0], [127.5], [255], [300]], np.float32)
    ranges = np.array([[0], [255]], np.float32)
    assert quantize(column, "int8", ranges)[:, 0].tolist() == [-128, -128, -1, 127, 127]
    assert quantize(column, "uint8", ranges)[:, 0].tolist() == [0, 0, 127, 255, 255]
    assert quantize(column, "ubinary", ranges)[:, 0].tolist() == [0, 0, 128, 128, 128]
    assert quantize(column, "binary", ranges)[:, 0].tolist() == [-128, -128, 0, 0, 0]


def test_overlap_in_bits_by_hand(monkeypatch):
    """One neighbour each. Bits are 11, 11, 11, 01, so that all distances of a vector are equal but to the fourth.

    The nearest are 2, 2, 0, 1; in bits, the first of those that tie: 1, 0, 0, 0.
    """
    monkeypatch.setattr(closeness, "TOP_K", 1)
    vectors = np.array([[1, 0.1], [0.1, 1], [1, 0.2], [-1, 0.1]], np.float32)
    turned = vectors[:, ::-1].copy()
    (whole, _, same), (_, _, reversed_bits) = (
        compare_in_indexes(vectors, scores, [2], Layout(np.ones(4, np.int64), [None] * 4, [None] * 4))
        for scores in (vectors, turned)
    )
    assert (whole.topk_overlap, whole.topk_overlap_reference, whole.max_abs_error) == (1, 1, 0)
    assert (same.topk_overlap, same.topk_overlap_reference, same.topk_overlap_in_index) == (0.25, 0.25, 1)
    # Turned, the fourth is 10, and the other distances are as before: the same neighbours in bits.
    assert (reversed_bits.topk_overlap, reversed_bits.topk_overlap_in_index, reversed_bits.overlap_loss) == (0.25, 1, 0)


def test_dot_product_of_integers_finds_no_vector_as_its_own_neighbour(monkeypatch):
    """Its product with itself is by far the largest, as no cosine is."""
    monkeypatch.setattr(closeness, "TOP_K", 1)
    vectors = np.array([[255, 255], [226, 255], [28, 0], [0, 28]], np.float32)
    (int8, _) = compare_in_indexes(vectors, vectors, [], Layout(np.ones(4, np.int64), [None] * 4, [None] * 4))
    rows = quantize(vectors, "int8", ranges_of(vectors)).astype(float)
    assert rows.tolist() == [[127, 127], [98, 127], [-100, -128], [-128, -100]]
    # The nearest by cosine are 1, 0, 0, 1, and by these products 1, 0, 3, 2.
    assert int8.topk_overlap_reference == 2 / 4


def test_what_the_index_loses_is_told_apart_from_what_the_variant_loses():
    rows = compare_in_indexes(EMBEDDINGS, EMBEDDINGS, [4, 21], LAYOUT)
    assert [(row.index, row.bytes_per_vector) for row in rows] == [
        ("float32@4", 16), ("float32@21", 84), ("int8", 21), ("binary", 3),
    ]  # fmt: skip
    assert {row.overlap_loss for row in rows} == {0}
    assert {row.topk_overlap_in_index for row in rows} == {1}
    narrow, whole, int8, binary = (row.topk_overlap for row in rows)
    assert whole == 1 > int8 > binary > narrow > 0.1
    noisy = EMBEDDINGS + 0.3 * RANDOM.normal(size=EMBEDDINGS.shape).astype(np.float32)
    for same, row in zip(rows, compare_in_indexes(EMBEDDINGS, noisy, [4, 21], LAYOUT), strict=True):
        assert row.topk_overlap_reference == same.topk_overlap
        assert row.topk_overlap_in_index < 1
    assert row.min_cosine is None


def test_norms_say_what_comes_last():
    unit = cut(np.delete(EMBEDDINGS, 7, axis=0), 21)
    assert norms_of(unit, normalize=True).order is NormOrder.NORM_LAST
    assert norms_of(cut(unit, 8), normalize=True).order is NormOrder.NORM_LAST
    last = norms_of(unit[:, :8], normalize=True)
    assert last.order is NormOrder.CUT_LAST
    assert 0 < last.smallest < last.largest < 1
    assert norms_of(unit[:, :8], normalize=False).order is NormOrder.NO_NORM
    assert norms_of(EMBEDDINGS, normalize=True).order is NormOrder.NO_NORM


# ------------------------------------------------------------------------------------------ model.toml


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[index]\nwidths = [16, 64]\n", 7, r"index.widths\[1\]: is 64, and this checkpoint makes 32 numbers of an"),
        ("dimensions = 16\n[index]\nwidths = [32]\n", 8, r"index.widths\[0\]: is 32, and dimensions = 16 leaves 16"),
        ("[index]\nwidths = [0]\n", 7, r"index.widths\[0\]: write a whole number, 1 or more, and not 0$"),
        ("[index]\nwidths = 64\n", 7, r"index.widths: write a list, each entry a whole number, 1 or more, and not 64$"),
        ("[index]\nmax_overlap_loss = 5\n", 7, r"index.max_overlap_loss: write a share, 0 to 1, and not 5$"),
        ("[index]\nwidth = [8]\n", 7, r"index.width: there is no such key: the keys are .*; did you mean widths.$"),
        ("index = 3\n", 6, r"index: write a table of keys, and not 3$"),
    ],
)  # fmt: skip
def test_wrong_index_is_told_with_file_and_line(house, text, line, message):
    file = house.add("tiny", EMBEDDER + text) / "model.toml"
    text = house.usage_error()
    assert text.startswith(f"{file}:{line}: ")
    assert re.search(message, text)


def test_only_an_embedder_has_an_index(house):
    house.add("tiny", 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\n[index]\n')
    assert "model.toml:4: index: only an embedding model has an index" in house.usage_error()


def test_dense_layers_decide_the_width(house):
    house.add("tiny", 'task = "embedding"\nsource = "seeded:bert_dense@8"\nmax_length = 64\n[index]\nwidths = [25]\n')
    assert "is 25, and this checkpoint makes 24 numbers" in house.usage_error()


def test_width_of_a_folder_is_that_of_its_configuration(tmp_path, house):
    (tmp_path / "config.json").write_text('{"hidden_size": 12}')
    model = models_read(house.add("tiny", EMBEDDER.replace('"mean"', '"mean+max"') + "[index]\nwidths = [24, 25]\n"))
    with pytest.raises(
        ModelError, match=r"model.toml:7: index.widths\[1\]: is 25, and .* makes 24 numbers .* 24 or less"
    ):
        check_widths(model, tmp_path, NO_MODULES)


# ------------------------------------------------------------------------------- what a checkpoint says


def card(*widths: list[int]) -> str:
    """Return what a model card says of losses, in the form of sentence-transformers 5.7, `base/model_card.py`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import BoW

    model = SentenceTransformer(modules=[BoW([f"word{number}" for number in range(64)])], device="cpu")
    lines = ["---", "tags:", "- loss:MatryoshkaLoss", "---"]
    for dimensions in widths:
        config = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dimensions).get_config_dict()
        block = f"```json\n{json.dumps(config, indent=4, default=str)}\n```"
        lines += ["* Loss: [<code>MatryoshkaLoss</code>] with these parameters:", textwrap.indent(block, "  ")]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("config", "cards", "widths"),
    [
        ("{}", [], ()),
        ("{}", [[64, 16, 32]], (16, 32, 64)),
        ("{}", [[64, 16], [64, 32]], (16, 32, 64)),
        ('{"matryoshka_dimensions": [32, 8]}', [[64]], (8, 32)),
        ('{"matryoshka_dimensions": "many"}', [], ()),
        ('{"matryoshka_dimensions": [8.5, true]}', [], ()),
    ],
)
def test_widths_are_read_where_a_machine_wrote_them(tmp_path, config, cards, widths):
    (tmp_path / "config.json").write_text(config)
    if cards:
        (tmp_path / "README.md").write_text(card(*cards))
    assert read_matryoshka_widths(tmp_path) == widths


# ------------------------------------------------------------------------------------------------ runs


def test_checks_of_an_index_are_those_of_the_suite():
    """A limit in model.toml is held to the table."""
    assert {name for name in vars(test_index) if name.startswith("test_")} == {f"test_{name}" for name in INDEX_CHECKS}


def rows_of(house, variant="plain"):
    (row,) = (row for row in house.gate()["models"][0]["variants"] if row["variant"] == variant)
    return {index["index"]: index for index in row["index"]}


def test_index_is_measured_judged_and_shown(house):
    house.add("bert-embedder", ZOO + INDEX + "max_overlap_loss = 0.05\n")
    run = house.run("--variant", "plain", suite=SUITE)
    assert run.returncode == 0, run.text
    assert "1 passed, 2 not applicable" in run.text
    rows = rows_of(house)
    assert list(rows) == NAMES
    assert [row["bytes_per_vector"] for row in rows.values()] == [32, 128, 32, 4]
    assert rows["float32@32"]["topk_overlap_reference"] == 1
    assert rows["float32@32"]["min_cosine"] > 0.99999
    assert rows["float32@32"]["max_abs_error"] < 1e-4
    assert all(0.3 < rows[name]["topk_overlap_reference"] < 1 for name in ("float32@8", "int8", "binary"))
    assert house.gate()["models"][0]["max_overlap_loss"] == 0.05
    assert "## Neighbours in an index of bert-embedder" in (house.report / "gate.md").read_text()
    assert "<summary>Neighbours in an index</summary>" in (house.report / "index.html").read_text()


def test_widths_that_the_checkpoint_names_are_the_default(house, tmp_path):
    """But for those that its embeddings do not have."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    seeded.make([], folder, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    config = json.loads((folder / "config.json").read_text()) | {"matryoshka_dimensions": [64, 16, 8]}
    (folder / "config.json").write_text(json.dumps(config))
    text = EMBEDDER.replace("seeded:bert@7", f"path:{folder}")
    digest = find_checkpoint(models_read(house.add("tiny", text)), pinned=False).digest
    house.add("tiny", f'digest = "{digest}"\n{text}[index]\n')
    run = house.run("--variant", "plain", suite=SUITE)
    assert run.returncode == 0, run.text
    assert list(rows_of(house)) == ["float32@8", "float32@16", "int8", "binary"]


def test_embeddings_that_cannot_be_compared_are_told():
    """They fail: an index of them would be measured otherwise, and no row would pass for all is well."""
    broken = EMBEDDINGS.copy()
    broken[3, 2] = np.nan
    for scores, words in (
        (broken, "scores: 1 of 60 probes are not finite"),
        (EMBEDDINGS[:, :8], "8 wide instead of 21"),
    ):
        case = stand_in(Case, subject=stand_in(Subject, reference=EMBEDDINGS), scores=scores)
        assert words in incomparable_in_indexes(case)


def test_without_an_index_nothing_is_measured(house):
    house.add("bert-embedder", ZOO)
    run = house.run("--variant", "plain", suite=SUITE)
    assert "3 not applicable" in run.text
    assert rows_of(house) == {}
    assert "index" not in (house.report / "gate.md").read_text().replace("index.html", "")


@pytest.fixture(scope="module")
def searched(tmp_path_factory, shared_store):
    """A model with graded passages and an index, after a run over them."""
    house = House(tmp_path_factory.mktemp("searched"), shared_store)
    text = TRAINED + PROBES + "[index]\nwidths = [4, 384]\nmax_ndcg_loss = 0.05\n"
    beir(house.add("embedder", text) / "beir", queries=40)
    return house, house.run("--variant", "plain", "--variant", "quantized", suite=SUITE)


def grades_by_hand(queries, passages, names, qrels):
    """Return name of a grade -> (queries,), of a ranking by the dot products of float64 vectors."""
    order = np.argsort(-(queries.astype(float) @ passages.astype(float).T), axis=1, kind="stable")[:, :100]
    ids = list(qrels)
    run = {
        query: {names[row]: float(-place) for place, row in enumerate(ranked)}
        for query, ranked in zip(ids, order.tolist(), strict=True)
    }
    results = list(ir_measures.iter_calc([ir_measures.parse_measure(name) for name in GRADES.values()], qrels, run))
    values = {(str(result.measure), result.query_id): result.value for result in results}
    return {name: np.array([values[called, query] for query in ids]) for name, called in GRADES.items()}


@pytest.mark.parametrize("judged", ["reference", "quantized"])
def test_grades_in_an_index_are_those_by_hand(searched, judged):
    """Of sentence-transformers' own integers and cuts of all embeddings at once, whose nDCG ir-measures computes."""
    house, _ = searched
    gate = house.start(variant=["quantized"])
    (case,) = gate.cases_of(gate.subjects[0])
    subject = case.subject
    reads_reference = judged == "reference"
    step = retrieved.plan_reference(subject) if reads_reference else retrieved.plan(case)
    runtime: Runtime = open_session(case.file, 1, case.provider)
    if reads_reference:
        runtime = TorchRuntime(subject.weights_folder, "AutoModel", 1)
    files = subject.plan.own.files
    qrels, asked = read_qrels(files[QRELS_FILE]), read_queries(files)
    names, texts = zip(*read_passages(files), strict=True)
    queries, passages = (
        score(runtime, case.encode([(text, None) for text in part]), subject.scoring)
        for part in (asked.values(), texts)
    )
    qrels = {query: qrels[query] for query in asked}
    run = load_file(case.context.artifact(step).folder / RUN_FILE)
    spread = set()
    for index in FOUND_IN:
        if index.startswith("float32"):
            width = int(index.partition("@")[2])
            made = [
                normalize_embeddings(truncate_embeddings(torch.from_numpy(part), width)).numpy()
                for part in (queries, passages)
            ]
        elif index == "int8":
            made = [
                quantize_embeddings(part, "int8", calibration_embeddings=subject.reference)
                for part in (queries, passages)
            ]
        else:
            bits = [quantize_embeddings(part, "ubinary") for part in (queries, passages)]
            made = [np.unpackbits(part, axis=1).astype(float) * 2 - 1 for part in bits]
        for grade, expected in grades_by_hand(made[0], made[1], names, qrels).items():
            np.testing.assert_allclose(run[f"{grade} in {index}"], expected, atol=1e-6)
            spread.add(float(expected.mean()))
    assert len(spread) > 6, "indexes lose differently"


def test_losses_in_an_index_are_measured_and_shown(searched):
    house, run = searched
    assert run.returncode == 0, run.text
    (model,) = house.gate()["models"]
    plain, quantized = ({row["index"]: row for row in variant["quality"]["indexes"]} for variant in model["variants"])
    assert list(plain) == FOUND_IN
    by_grade = {loss["grade"]: loss for loss in plain["float32@4"]["to_index"]}
    whole = {loss["grade"]: loss for loss in model["variants"][0]["quality"]["losses"]}
    assert by_grade.keys() == whole.keys() == set(GRADES)
    for grade, loss in by_grade.items():
        assert loss["reference"] == whole[grade]["reference"]
        assert loss["low"] <= loss["loss"] <= loss["high"]
    assert by_grade["ndcg_at_10"]["loss"] > 0.05
    assert {loss["loss"] for loss in plain["float32@384"]["to_index"] + plain["float32@384"]["to_variant"]} == {0}
    for row in quantized.values():
        for alone, beyond in zip(row["to_index"], row["to_variant"], strict=True):
            assert beyond["reference"] == alone["value"]
            assert beyond["loss"] == pytest.approx(alone["value"] - beyond["value"])
    page = (house.report / "gate.md").read_text()
    assert "## Passages found in an index" in page
    assert re.search(r"\| PyTorch \| float32@4 \| 16 \| 0\.\d+ \| \+0\.\d+ \(", page)
    assert "| plain | float32@4 | 16 | " in page


def test_artifact_that_finds_less_in_an_index_is_named(house, tmp_path):
    """The artifact sees no words, only how many they are."""
    text = TRAINED + PROBES + "[index]\nwidths = [4, 384]\nmax_ndcg_loss = 0.05\n"
    beir(house.add("embedder", text) / "beir", queries=40)
    assert house.run("--variant", "plain", suite=SUITE).returncode == 0
    faulty = tmp_path / "faulty"
    shutil.copytree(house.artifact("plain"), faulty)
    model = onnx.load(faulty / "model.onnx")
    (table,) = (tensor for tensor in model.graph.initializer if "word_embeddings" in tensor.name)
    table.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(table)), table.name))
    onnx.save(model, faulty / "model.onnx")
    run = house.run("--artifact", f"embedder:plain={faulty}", suite=SUITE)
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "index_finds_graded_passages"
    assert re.search(
        r"in index (\S+) its embeddings reach ndcg_at_10 0\.\d+, and the reference's own 0\.\d+: the loss of 0\.\d+ "
        r"breaks max_ndcg_loss 0\.05\n(.*\n)*  \1 +ndcg_at_10 .*; broken\n",
        failure["message"],
    )


def test_ranking_is_keyed_by_its_index_alone(house):
    """Without an index, or without grades, a ranking is the step that it was before there were indexes."""
    plans = []
    for text, grades in ((ZOO + PROBES, True), (ZOO + PROBES + INDEX, True), (ZOO + PROBES + INDEX, False)):
        shutil.rmtree(house.baselines, ignore_errors=True)
        beir(house.add("bert-embedder", text) / "beir", grades=grades)
        gate = house.start(variant=["plain"])
        (case,) = gate.cases_of(gate.subjects[0])
        plans.append([retrieved.plan(case), retrieved.plan_reference(case.subject)])
    keys = [[(set(step.parameters), len(step.inputs)) for step in steps] for steps in plans]
    assert keys[0] == keys[2]
    for without, indexed in zip(keys[0], keys[1], strict=True):
        assert indexed == (without[0] | {"index"}, without[1] + 1)


def test_limit_that_nothing_is_measured_for_is_refused(house):
    house.add("bert-embedder", ZOO + "[index]\nmax_ndcg_loss = 0.01\n")
    text = house.usage_error()
    assert "model.toml:" in text
    assert "index.max_ndcg_loss: [probes] names no folder with qrels" in text


def test_embeddings_that_are_not_finite_are_not_found():
    embeddings = RANDOM.normal(size=(6, 8)).astype(np.float32)
    embeddings[2, 1], embeddings[4] = np.nan, np.inf
    rankings = IndexRankings(embeddings[:2], [4], ranges_of(embeddings[:2]))
    rankings.add(0, embeddings[:3])
    rankings.add(3, embeddings[3:])
    for ranking in rankings.rankings.values():
        assert sorted(ranking.rows[0, :4].tolist()) == [0, 1, 3, 5]
        assert (ranking.rows[:, 4:] == NOTHING).all()


def test_loss_to_a_variant_fails_unless_it_is_a_known_limit(house):
    """Random weights lose much to int8."""
    text = ZOO + INDEX + "max_overlap_loss = 0\n" + LOOSE
    house.add("bert-embedder", text)
    run = house.run("--variant", "quantized", suite=SUITE)
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "index_keeps_neighbours"
    assert re.search(r"in index \S+ its embeddings find 0\.\d+ of the reference's neighbours", failure["message"])
    assert "the limit comes from: [index] in " in failure["message"]
    assert max(row["topk_overlap_reference"] - row["topk_overlap"] for row in rows_of(house, "quantized").values()) > 0
    limit = '[[limits]]\nvariant = "quantized"\ncheck = "index_keeps_neighbours"\nreason = "random"\nlink = "x"\n'
    house.add("bert-embedder", text + limit)
    run = house.run("--variant", "quantized", suite=SUITE)
    assert run.returncode == 0, run.text
    assert house.gate()["models"][0]["variants"][0]["limits"] == ["index_keeps_neighbours: random (x)"]


def test_artifact_that_is_normalised_after_the_cut_is_named(house, tmp_path):
    """And a sound one, which is cut after the norm as truncate_dim cuts, is told as that."""
    folder = house.add("bert-embedder", ZOO + "dimensions = 16\n" + "[index]\nwidths = [8]\nmax_overlap_loss = 0.05\n")
    run = house.run("--variant", "plain", suite=SUITE)
    assert run.returncode == 0, run.text
    (model,) = house.gate()["models"]
    (sound,) = model["variants"]
    assert sound["norms"]["order"] == model["reference_norms"]["order"] == "cut after the norm"
    assert "cut after the norm" in (house.report / "gate.md").read_text()
    faulty: Path = tmp_path / "faulty"
    shutil.copytree(house.artifact("plain"), faulty)
    site = Site(faulty, {}, "plain", models_read(folder).settings, np.random.default_rng(SEED))
    FAULT["normalised-after-the-cut"].plant(site)
    run = house.run("--artifact", f"bert-embedder:plain={faulty}", suite="suites/accuracy")
    assert run.returncode == 1, run.text
    messages = {failure["check"]: failure["message"] for failure in house.gate()["failures"]}
    assert messages.keys() == {"cut_and_norm_come_in_the_references_order", "scores_stay_within_ceiling"}
    words = (
        "16 numbers are normalised after the cut, and the reference's are cut after the norm and not normalised again"
    )
    assert words in messages["cut_and_norm_come_in_the_references_order"]
    assert "cut to 16 numbers and then normalised" in messages["scores_stay_within_ceiling"]
    rows = rows_of(house)
    assert rows["float32@8"]["min_cosine"] > 0.99999, "directions are right, and an index of unit vectors sees nothing"


def test_run_of_another_width_has_no_grades_to_compare():
    """Such an artifact is not searched in an index; its scores' check tells of the width."""
    grades = {grade: np.array([1.0, 0.5]) for grade in GRADES}
    names = [key_in_index(index, grade) for index in index_names([8, 32]) for grade in GRADES]
    reference = grades | dict.fromkeys(names, np.array([0.5, 0.5]))
    assert [row.index for row in compare_index_grades(reference, reference, [8, 32], 0.1)] == NAMES
    assert compare_index_grades(reference, grades, [8, 32], 0.1) == []
