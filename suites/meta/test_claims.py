"""The claims of others, answered from made-up results by numbers that can be worked out by hand."""

import math

import msgspec
import pytest

from fixtures.claims import rule
from fixtures.claims.measures import single_and_batched, speedups, token_rates
from fixtures.claims.rule import NOTHING_MEASURED, TIMED_ON_GPU
from fixtures.claims.table import CLAIMS
from fixtures.latency.records import Measurement, Quantity, Undecided, Workload
from fixtures.report import files, terminal
from fixtures.report.conclusions import conclude
from fixtures.report.results import MachineRecord, Results, Status, VariantResult
from fixtures.report.table import answers
from suites.meta.claim_cases import (
    CASES,
    CLAIM,
    FAILS,
    HOLDS,
    OF_TASK_DEFAULT,
    SHAPES,
    UNMEASURED,
    batched,
    beside_torch,
    cell,
    erring,
    model,
    undecided_at,
    variant,
)

MACHINE = MachineRecord(arch="x86_64", tier="avx2", cpu="", cores=1)


def answer_to(name, result):
    answer = rule.answer(CLAIM[name], result)
    return answer.answer, answer.evidence


@pytest.mark.parametrize(
    ("name", "result", "status", "part"), CASES, ids=[f"{name}-{status}" for name, _, status, _ in CASES]
)
def test_claim_is_answered_by_its_numbers(name, result, status, part):
    assert CLAIM[name].is_about(result)
    actual, evidence = answer_to(name, result)
    assert actual == status, evidence
    assert part in evidence


def test_every_claim_has_a_case_of_each_status():
    """All but the claims that a run can only refute, or cannot answer at all."""
    statuses = {name: {status for case, _, status, _ in CASES if case == name} for name in CLAIM}
    assert {name: cases for name, cases in statuses.items() if len(cases) < 3} == {
        **{name: {UNMEASURED} for name in CLAIM if name in OF_TASK_DEFAULT or name.startswith("published-quality")},
        "arm64-over-avx512": {FAILS},
        "only-with-optimum": {FAILS, UNMEASURED},
    }


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_nothing_is_answered_where_nothing_was_measured(claim):
    answer = rule.answer(claim, model(VariantResult("plain"), VariantResult("O4", status=Status.UNSUPPORTED)))
    assert (answer.answer, answer.evidence) == (UNMEASURED, NOTHING_MEASURED)
    assert "run suites/accuracy and suites/latency in the same run" in answer.evidence


# ------------------------------------------------------------------------------------------ the rule


def with_undecided(*ratios):
    """Return quantized, timed at the first of five shapes with these ratios and undecided at the rest."""
    latency = [cell(shape, ratio) for shape, ratio in zip(SHAPES, ratios, strict=False)]
    result = VariantResult("quantized", latency=latency)
    result.undecided = [undecided_at(shape) for shape in SHAPES[len(ratios) :]]
    return model(result)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((1.3, 1.3, 1.3), HOLDS),  # whatever the two undecided shapes are
        ((1.3, 1.3), UNMEASURED),
        ((1.0, 1.0), UNMEASURED),  # three more could still make a majority
        ((1.0, 1.0, 1.0), FAILS),
        ((1.3, 1.3, 1.0, 1.0), UNMEASURED),
        ((), UNMEASURED),
    ],
)
def test_undecided_shapes_answer_only_where_they_cannot_matter(ratios, expected):
    status, evidence = answer_to("quantized-over-plain", with_undecided(*ratios))
    assert status == expected
    assert "(noisy)" in evidence
    assert ("of 5 in 1.1 to 1.5" in evidence) == bool(ratios)


def test_undecided_pytorch_leaves_its_shape_undecided():
    result = beside_torch("plain", 1.4)
    result.torch_latency = [cell for cell in result.torch_latency if cell.length != 512]
    result.undecided = [undecided_at((1, 512), "the hypervisor took 9 %")]
    status, evidence = answer_to("plain-over-pytorch", result)
    assert status == HOLDS
    assert "4 of 5" in evidence
    assert "undecided: plain over PyTorch 1x512 (the hypervisor took 9 %)" in evidence


def test_interval_beside_pytorch_is_the_reports():
    """Two ratios to plain that are known to 3 and 4 % are known to 5 % together."""
    result = model(variant("O2", 1.3), torch=1.0)
    for cells, half in ((result.variants[0].latency, 0.03), (result.torch_latency, 0.04)):
        cells[:] = [msgspec.structs.replace(cell, interval=around(cell.ratio_to_plain, half)) for cell in cells]
    numbers = speedups(["O2"], ["PyTorch"])(result).numbers
    conclude(Results(MACHINE, {}, [result]), passed=True)
    assert numbers[0].interval == pytest.approx(around(1.3, 0.05))
    assert [(number.value, number.interval) for number in numbers] == [
        (cell.ratio_to_torch, cell.torch_interval) for cell in result.variants[0].latency
    ]


def around(ratio, half):
    return ratio * math.exp(-half), ratio * math.exp(half)


def test_interval_of_two_shapes_has_the_drift_between_them_in_it():
    """Plain's ratio was seen as 1, 1 and e^0.3: mean e^0.1, deviation 0.1732, and t of two degrees is 4.303."""
    result = batched(64.0)
    for cells in (result.variants[0].latency, result.variants[1].latency, result.torch_latency):
        cells[:] = [cell(shape, 1.0, plain_ms=8.0 * shape[0], half=0.0) for shape in ((1, 128), (8, 128))]
    result.torch_latency[1] = cell((8, 128), 1.0, plain_ms=64 * math.exp(0.3), half=0.0)
    number = token_rates(lambda _: [((1, 128), (8, 128))], "")(result).numbers[0]
    half = 4.303 * 0.1732 / math.sqrt(3)
    assert number.value == pytest.approx(math.exp(0.1))
    assert number.interval == pytest.approx(around(math.exp(0.1), half), rel=1e-3)


def test_variant_at_two_shapes_is_plain_times_its_own_ratios():
    """Plain does as many texts per second either way; a variant twice as fast one by one does twice as many."""
    result = batched(64.0)
    result.variants[1].latency[0] = cell((1, 128), 2.0, plain_ms=8.08)
    plain, faster = token_rates(single_and_batched, "")(result).numbers
    assert (plain.value, faster.value) == pytest.approx((1, 2))


def test_one_shape_is_enough_for_what_happens_at_times():
    shapes = dict.fromkeys(SHAPES, 1.4) | {(8, 16): 1.1}
    quantized = VariantResult("quantized", latency=[cell(shape, ratio) for shape, ratio in shapes.items()])
    status, evidence = answer_to("quantized-is-unsteady", model(quantized, variant("O2", 1.1)))
    assert status == HOLDS
    assert "1 of 5 in 0.952 to 1.05, 4 above" in evidence


def padded(batch_ms, items_per_s):
    """Return `batched`, whose plain does 100 mixed texts per second one by one, and `items_per_s` in each batching."""
    result = batched(batch_ms)
    result.variants[0].workloads = [
        Workload(batch, by_length, value, padding=0.3)
        for (batch, by_length), value in ({(1, False): 100} | items_per_s).items()
    ]
    return result


@pytest.mark.parametrize(
    ("items_per_s", "expected", "part"),
    [
        # Of one length, plain and O2 are on a border.
        ({(8, False): 70, (32, False): 50}, UNMEASURED, "2 of 4 above 1"),
        ({(8, False): 70, (32, False): 50, (32, True): 40}, HOLDS, "over mixed lengths: batches of 32 2 (1.74 to 2.3)"),
        ({(8, False): 95, (32, False): 105}, UNMEASURED, "on a border"),
    ],
)
def test_batches_that_pad_count_with_those_that_do_not(items_per_s, expected, part):
    status, evidence = answer_to("batch-1-is-fastest", padded(64.0, items_per_s))
    assert status == expected
    assert part in evidence


def test_undecided_batches_that_pad_may_be_either():
    result = padded(83.2, {(8, False): 70})  # with those of one length, three of three
    assert answer_to("batch-1-is-fastest", result)[0] == HOLDS
    entries = result.variants[0].undecided = [
        Undecided(Measurement(Quantity.WORKLOAD, batch, sorted=True), "noisy") for batch in (8, 32)
    ]
    assert answer_to("batch-1-is-fastest", result)[0] == HOLDS, "three of five"
    entries.append(Undecided(Measurement(Quantity.WORKLOAD, 32), "noisy"))
    status, evidence = answer_to("batch-1-is-fastest", result)
    assert status == UNMEASURED, "three of six"
    assert "undecided: plain over mixed lengths: batches of 8, by length (noisy)" in evidence


def test_error_that_is_not_finite_is_undecided_for_embedders_too():
    assert "O3 (its error is not finite)" in answer_to("error-of-O3", erring("embedding", O3=math.nan))[1]


@pytest.mark.parametrize("name", ["batch-1-is-fastest", "faster-than-pytorch", "published-plain-rerank"])
def test_times_on_a_gpu_answer_nothing_about_cpus(name):
    answer = rule.answer(CLAIM[name], beside_torch("plain", 1.06), on_gpu=True)
    assert (answer.answer, answer.evidence) == (UNMEASURED, TIMED_ON_GPU)
    assert rule.answer(CLAIM["published-O4-rerank"], beside_torch("O4", 1.43), on_gpu=True).answer == HOLDS


def test_two_shapes_that_one_variant_saw_leave_the_interval_open():
    result = batched(83.2)
    result.torch_latency, result.variants = [], result.variants[:1]
    status, evidence = answer_to("batch-1-is-fastest", result)
    assert status == UNMEASURED
    assert "1.3 (0 to inf)" in evidence


def test_unsupported_variants_say_why():
    result = model(
        VariantResult("O3", status=Status.UNSUPPORTED, reason="Optimum does not know it"), variant("O2", 1.15)
    )
    status, evidence = answer_to("O2-and-O3-over-plain", result)
    assert status == HOLDS
    assert "O3: Optimum does not know it" in evidence


def test_many_numbers_are_shown_by_their_lowest_and_highest():
    shapes = [(1, length) for length in range(16, 30)]
    cells = [cell(shape, 1.2 + 0.01 * number, half=0.0) for number, shape in enumerate(shapes)]
    _, evidence = answer_to("quantized-over-plain", model(VariantResult("quantized", latency=cells)))
    assert evidence == "14 of 14 in 1.1 to 1.5; quantized over plain from 1x16 1.2 up to 1x29 1.33"


def test_claims_have_names_quotes_and_statements():
    assert len(CLAIM) == len(CLAIMS)
    assert {claim.source for claim in CLAIMS} == {"field notes", "sentence-transformers' table"}
    assert all(claim.quote and claim.statement for claim in CLAIMS)


# ---------------------------------------------------------------------------------------- the report


@pytest.fixture
def answered():
    """Two claims about two models, answered model by model."""
    pairs = [[variant("O2", ratio), variant("O3", ratio, error)] for ratio, error in ((1.0, 1e-5), (1.15, 0.01))]
    slow, fast = (model(*pair) for pair in pairs)
    slow.name, fast.name = "slow | model", "fast"
    claims = [CLAIM["O2-and-O3-over-plain"], CLAIM["error-of-O3"]]
    return Results(MACHINE, {}, answers=[rule.answer(claim, result) for result in (slow, fast) for claim in claims])


def test_report_has_each_answer_claim_by_claim(answered, tmp_path):
    rows = answers(answered).rows
    assert [row[1:3] for row in rows] == [("slow | model", FAILS), ("fast", HOLDS)] * 2
    assert rows[0][0] == "field notes: O2 and O3 are 10 to 20 % faster than plain ONNX"
    assert "O3 over plain 1x16 1 (0.99 to 1.01)" in rows[0][3]
    files.write(answered, tmp_path)
    markdown, html = ((tmp_path / name).read_text("utf-8") for name in ("gate.md", "index.html"))
    for page in (markdown, html):
        assert page.count("Claims of others, measured again") == 1
        assert "O3 over plain 1x16 1 (0.99 to 1.01)" in page
    assert r"| slow \| model | does not hold | 0 of 10 in 1.1 to 1.2, 10 below;" in markdown


def test_terminal_has_one_line_per_answer_and_no_numbers(answered):
    lines = terminal.render(answered, 120, False).splitlines()
    assert lines[0] == "does not hold: slow | model: field notes: O2 and O3 are 10 to 20 % faster than plain ONNX"
    assert lines[3] == "holds: fast: field notes: O3 errs by about 0.01"
    assert len(lines) == 4 + 1
