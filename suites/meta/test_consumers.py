"""What differs between a consumer and the suite: each cause by itself, then planted in folders that programs read."""

import json

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from fixtures.arrays import sigmoid, unit_rows
from fixtures.consumers.consume import ERROR_LINE, scores_of
from fixtures.consumers.differences import Behind, Cause, Difference, Tokens, score_differences, token_differences
from fixtures.consumers.table import CONSUMERS, PROGRAMS
from fixtures.gate.case import Case
from fixtures.gate.consumed import judge_consumer
from fixtures.gate.subject import Subject
from fixtures.models.settings import Settings
from fixtures.report.results import ConsumerResult
from fixtures.scoring.closeness import Closeness
from fixtures.scoring.tasks import TASKS, Scoring
from suites.meta.calls import stand_in
from suites.meta.house import LOOSE, House

CLS, SEP, PAD = 101, 102, 0
CONSUMER_SUITE = "suites/consumers"
CHECK = "consumer_scores_as_it_was_judged"


def ids(*numbers):
    return np.array(numbers, np.int64)


def tokens(judged, consumed, without_prompt=(), normalized=None, limit=8, whole=None):
    special = frozenset({CLS, SEP, PAD})
    return Tokens(
        judged, consumed, without_prompt, special, PAD, lambda: normalized or {}, lambda: whole or judged, (), limit
    )


SOUND = ids(CLS, 5, 6, 7, SEP)
CUT = ids(CLS, 1, 2, 3, 4, 5, 6, SEP)
TOKEN_CASES = {
    "the same": (SOUND, SOUND, {}, None, ""),
    "no prompt": (ids(CLS, 9, 9, 5, 6, SEP), ids(CLS, 5, 6, SEP), {"without_prompt": [ids(CLS, 5, 6, SEP)]},
                  Cause.PROMPT, "is not put before the text"),
    "padding as text": (SOUND, ids(CLS, 5, 6, 7, SEP, PAD, PAD), {}, Cause.PADDING, "so that it has 7 tokens"),
    "cut earlier": (CUT, ids(CLS, 1, 2, 3, SEP), {}, Cause.LIMIT, "cut at 5 tokens, and 8 were judged"),
    "not cut": (CUT, ids(CLS, 1, 2, 3, 4, 5, 6, 7, 8, 9, SEP), {}, Cause.LIMIT, "cut at 11 tokens, and 8"),
    "lost its end": (CUT, ids(CLS, 1, 2, 3, 4, 5, 6, 7), {"whole": [ids(CLS, *range(1, 12), SEP)]}, Cause.ENDING,
                     "loses the special token"),
    "cut at its beginning": (CUT, ids(5, 6, 7, 8, 9, 10, 11, SEP), {"whole": [ids(CLS, *range(1, 12), SEP)]},
                             Cause.TOKENS, "here [5, 6, 7"),
    "no special tokens": (SOUND, ids(5, 6, 7), {}, Cause.SPECIAL_TOKENS, "judged [101, 5, 6, 7]"),
    "another normaliser": (SOUND, ids(CLS, 5, 60, 7, SEP), {"normalized": {"capitals": [ids(CLS, 5, 60, 7, SEP)]}},
                           Cause.NORMALISER, "capitals"),
    "others": (SOUND, ids(CLS, 50, 60, 70, SEP), {}, Cause.TOKENS, "judged [101, 5, 6, 7, 102], here [101, 50"),
}  # fmt: skip


@pytest.mark.parametrize(("judged", "consumed", "further", "cause", "text"), TOKEN_CASES.values(), ids=TOKEN_CASES)
def test_what_differs_in_tokens_is_named(judged, consumed, further, cause, text):
    differences = token_differences(tokens([judged], [consumed], **further))
    assert [difference.cause for difference in differences] == ([cause] if cause else [])
    assert all(text in difference.text and difference.probes == {0} for difference in differences)


def test_each_cause_is_told_once_with_its_probes():
    judged, short = [SOUND, CUT, CUT, SOUND], ids(CLS, 1, 2, 3, SEP)
    differences = token_differences(tokens(judged, [SOUND, short, short, ids(CLS, 8, SEP)]))
    assert [(difference.cause, difference.probes) for difference in differences] == [
        (Cause.LIMIT, frozenset({1, 2})),
        (Cause.TOKENS, frozenset({3})),
    ]


VECTORS = unit_rows(np.random.default_rng(7).normal(size=(20, 16)))
OTHER_POOLING = unit_rows(np.random.default_rng(8).normal(size=(20, 16)))
LOGITS = np.linspace(-5, 5, 20)
EMBEDDING, RERANK = Scoring("embedding", "mean", True), Scoring("rerank")
SCORE_CASES = {
    "rounding": (EMBEDDING, VECTORS, VECTORS + 1e-6, None, ""),
    "another precision": (EMBEDDING, VECTORS, VECTORS + 1e-2, Cause.PRECISION, "differ by 0.01"),
    "nothing that is known": (EMBEDDING, VECTORS, -VECTORS, Cause.SCORES, "nothing that is known here explains it"),
    "no norm": (EMBEDDING, VECTORS, VECTORS * 3, Cause.NORM, "between 3 and 3"),
    "another pooling": (EMBEDDING, VECTORS, OTHER_POOLING, Cause.POOLING, "those of cls pooling, and mean was judged"),
    "another pooling without norm": (EMBEDDING, VECTORS, 2 * OTHER_POOLING, Cause.SCORES, "nothing that is known"),
    "no numbers": (EMBEDDING, VECTORS, VECTORS * np.nan, Cause.OUTPUT, "no finite numbers"),
    "another output": (EMBEDDING, VECTORS, np.ones((20, 4)), Cause.OUTPUT, "(4,) numbers of a probe, and (16,)"),
    "bits of float16": (EMBEDDING, VECTORS, VECTORS * 1e4, Cause.OUTPUT, "read as whole numbers"),
    "a sigmoid": (RERANK, LOGITS, sigmoid(LOGITS), Cause.ACTIVATION, "a sigmoid"),
    "logits": (RERANK, LOGITS, LOGITS, None, ""),
}


@pytest.mark.parametrize(("scoring", "judged", "consumed", "cause", "text"), SCORE_CASES.values(), ids=SCORE_CASES)
def test_what_differs_in_scores_is_named(scoring, judged, consumed, cause, text):
    wider = np.ones((20, 32))
    alternatives = {"wide": wider, "max pooling": OTHER_POOLING[::-1], "cls pooling": 3 * OTHER_POOLING}
    behind = Behind(judged, consumed, scoring, 1e-5, 0.05, lambda: alternatives, float16=True)
    differences = score_differences(behind)
    assert [difference.cause for difference in differences] == ([cause] if cause else [])
    assert all(text in difference.text for difference in differences)


def test_table_of_consumers_is_complete():
    for name, consumer in CONSUMERS.items():
        assert consumer.name == name
        assert (PROGRAMS / consumer.program).is_file()
        assert set(consumer.tasks) <= set(TASKS)
    assert {program.name for program in PROGRAMS.glob("*.*")} == {row.program for row in CONSUMERS.values()}


def test_one_of_two_logits_is_made_a_score_as_its_caller_would():
    places = {"positive": 0, "negative": 1}
    raw = np.array([[3, 1], [0, 2]], np.float32)
    scores = scores_of(raw, CONSUMERS["onnxruntime"], Scoring("rerank", special_ids=places))
    assert scores.tolist() == [2, -2]


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: Could not find tokenizer.json in /models/x",
        "onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph: [ONNXRuntimeError] : 10 : INVALID_GRAPH",
        'Error: Could not locate file: "onnx/model.onnx"',
    ],
)
def test_line_of_an_error_is_found(line):
    assert ERROR_LINE.match(line)
    assert not ERROR_LINE.match(f"    {line}")


# ------------------------------------------------------------------------------------- in folders that programs read

PROMPTED = (
    'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "cls"\nnormalize = true\n'
    f'[prompts]\nquery = "Find this: "\npassage = "Text: "\n{LOOSE}'
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, pytestconfig):
    """A house with an embedder that has prompts, and the folder that --export-to wrote of it."""
    folder = tmp_path_factory.mktemp("exported")
    house = House(folder, folder / "store")
    house.add("embedder", PROMPTED)
    run = house.run("--variant", "plain", "--variant", "quantized", "--export-to", str(folder / "sound"))
    assert run.returncode == 0, run.text
    assert f"--export-to: plain, quantized in {folder / 'sound'}" in run.stdout
    return house, folder / "sound"


def test_exported_folder_is_what_programs_expect(exported):
    _, folder = exported
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "1_Pooling/config.json", "modules.json"} < names
    assert {"tokenizer.json", "tokenizer_config.json", "config.json", "fingerprint.json", "MODEL_CARD.md"} < names
    assert not names & {"manifest.json", "mapping.json"}
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 64
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 64
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["query"] == "Find this: "
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]
    assert len(json.loads((folder / "modules.json").read_text())) == 3
    card = (folder / "MODEL_CARD.md").read_text()
    assert "| onnx/model_quantized.onnx | quantized |" in card
    assert "Find this: " in card


def consume(house, folder, *options):
    """Judge plain of an exported folder in the consumers that are here, and return check -> how it ended."""
    run = house.run(
        "--artifact", f"embedder:plain={folder / 'onnx' / 'model.onnx'}", "--variant", "plain", *options,
        suite=CONSUMER_SUITE,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.text
    (variant,) = house.gate()["models"][0]["variants"]
    return {
        name.partition("[")[2].rstrip("]"): (check["status"], check["text"])
        for name, check in variant["checks"].items()
    }, {result["consumer"]: result for result in variant["consumers"]}


def test_exported_folder_scores_the_same_in_programs(exported):
    house, folder = exported
    checks, results = consume(house, folder)
    assert checks["onnxruntime"][0] == checks["sentence-transformers"][0] == "pass"
    assert results["onnxruntime"]["differs"]["max_abs_error"] < 1e-6
    assert results["sentence-transformers"]["differs"]["max_abs_error"] < 1e-6
    assert results["sentence-transformers"]["versions"]["sentence-transformers"]


def copy_of(folder, tmp_path):
    copied = tmp_path / "planted"
    for file in folder.rglob("*"):
        if file.is_file():
            (copied / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (copied / file.relative_to(folder)).write_bytes(file.read_bytes())
    return copied


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def keep_capitals(folder):
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer["normalizer"].update(lowercase=False))


def cut_at_16(folder):
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer["truncation"].update(max_length=16))


def pool_by_the_mean(folder):
    edit(
        folder / "1_Pooling" / "config.json",
        lambda pooling: pooling.update(pooling_mode_cls_token=False, pooling_mode_mean_tokens=True),
    )


def forget_prompts(folder):
    edit(folder / "config_sentence_transformers.json", lambda config: config.update(prompts={}))


def leave_out_the_norm(folder):
    edit(folder / "modules.json", list.pop)


def yield_another_output_first(folder):
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    (hidden,) = model.graph.output
    model.graph.node.append(helper.make_node("Neg", [hidden.name], ["negated"]))
    first = helper.make_tensor_value_info("negated", onnx.TensorProto.FLOAT, ["batch", "length", None])
    del model.graph.output[:]
    model.graph.output.extend([first, hidden])
    onnx.save(model, file)


PLANTED = {
    "a tokenizer that only one side repairs": (keep_capitals, "onnxruntime", "normaliser", "lowercase"),
    "a limit of its own": (cut_at_16, "onnxruntime", "token limit", "cut at 16 tokens, and 64 were judged"),
    "a pooling that a program reads": (pool_by_the_mean, "sentence-transformers", "pooling", "mean pooling"),
    "a prompt that a program forgets": (forget_prompts, "sentence-transformers", "prompt", "not put before"),
    "no norm": (leave_out_the_norm, "sentence-transformers", "norm", "norms lie between"),
}


@pytest.mark.parametrize(("plant", "consumer", "cause", "text"), PLANTED.values(), ids=PLANTED)
def test_planted_fault_of_a_folder_is_named(exported, tmp_path, plant, consumer, cause, text):
    house, folder = exported
    planted = copy_of(folder, tmp_path)
    plant(planted)
    checks, results = consume(house, planted)
    assert checks[consumer][0] == results[consumer]["status"] == "fail"
    assert results[consumer]["causes"] == [cause]
    assert cause in results[consumer]["reason"]
    assert text in results[consumer]["differences"][0]
    if consumer == "sentence-transformers":  # what reads other files is not concerned
        assert checks["onnxruntime"][0] == "pass"


def test_program_that_takes_another_output_is_told_apart(exported, tmp_path):
    house, folder = exported
    planted = copy_of(folder, tmp_path)
    yield_another_output_first(planted)
    checks, results = consume(house, planted)
    assert checks["onnxruntime"][0] == "fail"
    assert results["onnxruntime"]["causes"] == ["scores"]


def test_program_that_ends_is_told_with_its_last_words(exported, tmp_path):
    house, folder = exported
    planted = copy_of(folder, tmp_path)
    (planted / "tokenizer.json").write_text("{")
    checks, results = consume(house, planted)
    assert checks["onnxruntime"][0] == "fail"
    assert "onnxruntime" in results["onnxruntime"]["reason"]
    assert "EOF while parsing" in results["onnxruntime"]["reason"]
    assert "/partial/" not in results["onnxruntime"]["reason"].partition("(its output")[0]


def test_what_a_folder_lacks_is_told_where_a_program_ends(exported, tmp_path):
    house, folder = exported
    planted = copy_of(folder, tmp_path)
    (planted / "tokenizer.json").unlink()
    checks, results = consume(house, planted)
    assert checks["onnxruntime"][0] == "fail"
    assert "the folder has no tokenizer.json" in results["onnxruntime"]["reason"]


def test_consumer_that_is_not_here_stands_in_the_report(exported):
    house, folder = exported
    _, results = consume(house, folder)
    missing = [result for result in results.values() if result["status"] == "unsupported"]
    assert {result["consumer"] for result in missing} >= {"transformers.js", "transformers.js-wasm"}
    assert all("tox run -e consumers installs it" in result["reason"] for result in missing)
    assert "unsupported: transformers.js needs" in (house.report / "gate.md").read_text()


def judged_by(consumer, differences, measured, own):
    subject = stand_in(Subject, name="tiny", describe=lambda row: f"probe {row}")
    ceiling = {"max_abs_error": 0.1}
    case = stand_in(Case, subject=subject, label="plain", ceiling=ceiling, ceiling_source="here", ready_made=None)
    result = ConsumerResult(consumer.name, {}, consumer.reads, consumer.told, closeness={"max_abs_error": measured})
    return judge_consumer(case, consumer, result, differences, Closeness({"max_abs_error": own}, np.zeros(9)))


ENDING = Difference(Cause.ENDING, "2 of 9 probes: it loses its end", frozenset({3, 4}))


def test_known_deviation_is_reported_and_no_failure():
    knowing, strict = CONSUMERS["transformers.js"], CONSUMERS["onnxruntime"]
    assert "https://" in knowing.known[Cause.ENDING]
    assert judged_by(knowing, [ENDING], 0.05, 0.05)
    verdict = judged_by(strict, [ENDING], 0.05, 0.05)
    assert verdict.failure.startswith("tiny plain in onnxruntime does not score as it was judged: ending")
    assert "(probe 3)" in verdict.failure
    assert not judged_by(knowing, [ENDING, Difference(Cause.NORM, "norms lie between 2 and 3")], 0.05, 0.05)


def test_rounding_may_go_as_far_as_the_ceiling():
    rounding = [Difference(Cause.PRECISION, "differ by 0.06")]
    assert judged_by(CONSUMERS["onnxruntime"], rounding, 0.09, 0.04)
    verdict = judged_by(CONSUMERS["onnxruntime"], rounding, 0.11, 0.04)
    assert "max_abs_error 0.11 breaks its ceiling 0.1" in verdict.failure
    assert judged_by(CONSUMERS["onnxruntime"], rounding, 0.11, 0.105), "the variant itself breaks it"


@pytest.mark.parametrize("folder_as_it_is", [True, False], ids=["folder", "lone file"])
def test_external_data_is_read_by_programs(exported, tmp_path, folder_as_it_is):
    house, folder = exported
    planted = copy_of(folder, tmp_path)
    file = planted / "onnx" / "model.onnx"
    where = file if folder_as_it_is else tmp_path / "lone" / "model.onnx"
    where.parent.mkdir(exist_ok=True)
    model = onnx.load(file)
    onnx.save_model(model, where, save_as_external_data=True, location="weights.bin", size_threshold=0)
    run = house.run("--artifact", f"embedder:plain={where}", "--variant", "plain", suite=CONSUMER_SUITE)
    (variant,) = house.gate()["models"][0]["variants"]
    results = {result["consumer"]: result for result in variant["consumers"]}
    assert run.returncode == 0, run.text
    assert results["onnxruntime"]["differs"]["max_abs_error"] < 1e-6


def test_folder_is_judged_again_as_it_was_exported(exported, tmp_path):
    """Modules and prompts that it has are kept, the ceilings of its model hold, and unknown names are told."""
    house, folder = exported
    (copied := tmp_path / "again").mkdir()
    for file in copy_of(folder, tmp_path).iterdir():
        file.rename(copied / file.name)
    (copied / "onnx" / "model_mine.onnx").write_bytes(b"")
    run = house.run("--checkpoint", str(copied), "--export-to", str(tmp_path / "out"))
    assert run.returncode == 0, run.text
    assert "model_mine.onnx: its name stands for no variant; --artifact MODEL:VARIANT=PATH judges it" in run.stdout
    ceilings = {row["variant"]: row["ceiling"] for row in house.gate()["models"][0]["variants"]}
    assert (ceilings["quantized"]["max_abs_error"], ceilings["plain"]["max_abs_error"]) == (1, 1e-4)
    for name in ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


SETTINGS = Settings(task="embedding", source="seeded:bert@7", max_length=64, pooling="max", normalize=True)
UNABLE = {
    "pooling": (SETTINGS, "fastembed", {}, "has no pooling max: pooled = true in [export]"),
    "modules": (SETTINGS, "onnxruntime", {"has_layers": True}, "no modules behind the pooling"),
    "pooled graph": (SETTINGS, "sentence-transformers", {"pools_itself": True}, "this graph yields none"),
    "task": (msgspec.structs.replace(SETTINGS, task="fill-mask"), "fastembed", {}, "does no fill-mask"),
    "terms": (msgspec.structs.replace(SETTINGS, task="sparse"), "sentence-transformers", {}, "does no sparse"),
    "two logits": (msgspec.structs.replace(SETTINGS, task="rerank", positive="yes"), "fastembed", {}, "first of two"),
    "none": (SETTINGS, "sentence-transformers", {"has_layers": True}, ""),
    "none, pooled": (SETTINGS, "fastembed", {"pools_itself": True, "has_layers": True}, ""),
}


@pytest.mark.parametrize(("settings", "consumer", "graph", "reason"), UNABLE.values(), ids=UNABLE)
def test_consumer_that_cannot_do_it_is_inapplicable(settings, consumer, graph, reason):
    told = CONSUMERS[consumer].inapplicable(settings, **{"pools_itself": False} | graph)
    assert reason in told
    assert bool(told) == bool(reason)


# ------------------------------------------------------------------------------------- --export-to


def test_what_did_not_pass_is_not_exported(exported, tmp_path):
    house, _ = exported
    house.add("strict", PROMPTED.replace("max_abs_error = 1\n", "max_abs_error = 1e-9\n"))
    run = house.run(
        "--model", "strict", "--variant", "plain", "--variant", "quantized", "--export-to", str(tmp_path / "x")
    )
    assert run.returncode == 1
    assert "--export-to: refused: quantized" in run.stdout
    assert {file.name for file in (tmp_path / "x" / "onnx").iterdir()} == {"model.onnx"}
    run = house.run("--model", "strict", "--variant", "quantized", "--export-to", str(tmp_path / "y"))
    assert run.returncode == 1
    assert "--export-to: nothing was written: no variant passed" in run.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_what_was_not_judged_is_not_exported(exported, tmp_path):
    house, _ = exported
    suite = "suites/conformance/test_loading.py"
    run = house.run("--model", "embedder", "--variant", "plain", "--export-to", str(tmp_path / "x"), suite=suite)
    assert run.returncode == 1
    assert "run suites/accuracy too" in run.stdout, run.text
    assert not list(tmp_path.iterdir())


def test_folder_that_exists_is_left_alone(exported, tmp_path):
    house, _ = exported
    assert "exists" in house.usage_error(export_to=str(tmp_path), model=["embedder"])
    assert "make it first" in house.usage_error(export_to=str(tmp_path / "a" / "b"), model=["embedder"])
    assert "is empty" in house.usage_error(export_to=" ", model=["embedder"])


def test_folder_holds_one_model(exported, tmp_path):
    house, _ = exported
    house.add("another", PROMPTED)
    assert "name one with --model" in house.usage_error(export_to=str(tmp_path / "x"))
