"""What to deploy: hand-made latencies, sizes and errors, and the choice that follows from them."""

import msgspec
import pytest

from fixtures.latency.records import Callers, Cell, Measurement, Quantity, Undecided
from fixtures.plugin.reporting import _unanswered
from fixtures.report.conclusions import conclude
from fixtures.report.recommendation import choose, pareto_front, recommend
from fixtures.report.results import Failure, MachineRecord, ModelResult, Results, Status, VariantResult

GOALS = ["lowest p50 at batch 1", "highest throughput", "smallest file", "smallest error"]


def cell(ratio, batch=1, half=0.02, p50_ms=40.0):
    p50_ms = p50_ms * batch / ratio
    interval = (ratio * (1 - half), ratio * (1 + half))
    return Cell(batch, 128, p50_ms, p50_ms, 1e3 * batch / p50_ms, ratio, interval, None, 40, 2)


def variant(name, ratio, megabytes, error, *, half=0.02, batches=(1,), **fields):
    cells = [cell(ratio, batch, half) for batch in batches]
    return VariantResult(name, bytes=int(megabytes * 1e6), closeness={"max_abs_error": error}, latency=cells, **fields)


def undecided(batch, length, reason="noisy"):
    return Undecided(Measurement(Quantity.LATENCY, batch, length), reason)


def model(*variants):
    return ModelResult("m", "sha256:ab", "embedding", variants=list(variants))


PLAIN, O1, O2 = variant("plain", 1, 90, 1e-7), variant("O1", 1.01, 90, 2e-7), variant("O2", 1.3, 90.1, 3e-7)
INT8, INT8_WORSE = variant("quantized", 2.5, 23, 0.04), variant("O2-quantized", 2.52, 23.1, 0.06)


def chosen(*variants):
    return {choice.goal: choice for choice in choose(model(*variants))}


def test_each_goal_has_its_variant():
    choices = chosen(PLAIN, O2, INT8)
    assert list(choices) == GOALS
    assert [choice.variant for choice in choices.values()] == ["quantized", "quantized", "quantized", "O2"]
    assert choices["smallest file"].value == "23 MB"
    assert choices["smallest file"].cost == "max_abs_error 0.04"


def test_of_what_cannot_be_told_apart_the_closest_is_chosen_and_the_others_are_named():
    choice = chosen(PLAIN, INT8_WORSE, INT8)["lowest p50 at batch 1"]
    assert (choice.variant, choice.alike) == ("quantized", ["O2-quantized"])
    assert recommend(model(PLAIN, INT8_WORSE, INT8)).endswith("; O2-quantized cannot be told apart in latency")


def test_models_with_a_grid_of_their_own_are_decided_by_its_nearest_length():
    timed = [variant(name, ratio, 90, 1e-7, batches=(1, 8)) for name, ratio in (("plain", 1.0), ("O2", 1.3))]
    for result in timed:
        result.latency = [msgspec.structs.replace(at, length=length) for at in result.latency for length in (16, 64)]
        result.callers = [Callers(2, 1, 1e6, 0.1, 0.1)]
    choices = chosen(*timed)
    assert choices["lowest p50 at batch 1"].value.endswith("ms at 1x64")
    assert choices["highest throughput"].value.endswith("texts/s of 64 tokens"), "callers were timed at 128 tokens"
    assert choices["highest throughput"].callers == 1
    assert "times faster than plain at 1x64" in recommend(model(*timed))


@pytest.mark.parametrize(("ratio", "is_tie"), [(2.52, True), (2.62, True), (2.63, False)])
def test_what_intervals_tell_apart_is_not_alike_unless_another_session_would_make_it_so(ratio, is_tie):
    narrow = variant("O2-quantized", ratio, 23.1, 0.06, half=0.003), variant("quantized", 2.5, 23, 0.04, half=0.003)
    choice = chosen(PLAIN, *narrow)["lowest p50 at batch 1"]
    assert (choice.variant, choice.alike) == (("quantized", ["O2-quantized"]) if is_tie else ("O2-quantized", []))


def test_what_is_undecided_may_be_the_fastest():
    unknown = variant("O3", 1, 90, 9e-5, batches=(), undecided=[undecided(1, 128, "the hypervisor took 9 %")])
    choices = chosen(PLAIN, O2, unknown)
    assert (choices["lowest p50 at batch 1"].variant, choices["lowest p50 at batch 1"].alike) == ("O2", ["O3"])
    assert choices["highest throughput"].alike == ["O3"]
    assert pareto_front(model(PLAIN, O2, unknown)) == ["O2", "O3"]


def test_errors_below_what_two_runs_differ_by_are_alike_and_the_fastest_is_chosen():
    choice = chosen(PLAIN, O1, O2, INT8)["smallest error"]
    assert (choice.variant, choice.alike) == ("O2", ["plain", "O1"])


@pytest.mark.parametrize("status", [Status.FAIL, Status.UNSUPPORTED])
def test_what_failed_is_not_chosen(status):
    broken = variant("O3", 9, 1, 1e-9, status=status)
    assert all(choice.variant != "O3" for choice in choose(model(PLAIN, broken)))
    assert pareto_front(model(PLAIN, broken)) == ["plain"]


def test_throughput_finds_batch_callers_and_what_does_as_well():
    served = variant("quantized", 2.5, 23, 0.04, batches=(1, 8))
    served.callers = [Callers(1, 2, 50, 16, 17), Callers(2, 1, 90, 21, 22), Callers(4, 1, 50, 60, 70)]
    choice = chosen(PLAIN, served)["highest throughput"]
    assert (choice.batch, choice.threads, choice.callers) == (1, 1, 2)
    assert choice.value == "90 texts/s of 128 tokens"
    assert choice.settings == []
    served.callers[1] = Callers(2, 1, 68, 21, 22)
    assert chosen(PLAIN, served)["highest throughput"].settings == ["batch 1", "batch 8"]


def test_what_may_do_as_well_in_another_way_is_named():
    """Two callers of the one do 70 texts per second, a batch of the other 62: timed apart, they may be alike."""
    single, served = variant("quantized", 2.5, 23, 0.04), variant("O2-quantized", 2.3, 23, 0.06, half=0.001)
    unknown = variant("O3-quantized", 1, 23, 0.07, batches=(), undecided=[undecided(1, 128)])
    served.callers = [Callers(2, 1, 70, 21, 22)]
    choice = chosen(PLAIN, single, served, unknown)["highest throughput"]
    assert (choice.variant, choice.alike) == ("quantized", ["O2-quantized", "O3-quantized"])
    served.callers = [Callers(2, 1, 90, 21, 22)]
    choice = chosen(PLAIN, single, served, unknown)["highest throughput"]
    assert (choice.variant, choice.alike) == ("O2-quantized", ["O3-quantized"])
    served.callers = []
    assert chosen(PLAIN, single, served)["highest throughput"].alike == [], "beside each other, they are told apart"
    served.undecided = [Undecided(Measurement(Quantity.CALLERS, callers=2, threads=1), "noisy")]
    assert chosen(PLAIN, single, served)["highest throughput"].alike == ["O2-quantized"]
    served.undecided = [undecided(8, 16), Undecided(Measurement(Quantity.WORKLOAD, 8, sorted=True), "noisy")]
    assert chosen(PLAIN, single, served)["highest throughput"].alike == [], "another length, or several"


def test_another_variant_may_serve_callers_best():
    """Where one session's callers do clearly more than the fastest batch of any variant."""
    single, served = variant("quantized", 2.5, 23, 0.04), variant("O2-quantized", 2.4, 23, 0.06, half=0.001)
    served.callers = [Callers(2, 1, 60, 21, 22)]
    assert chosen(PLAIN, single, served)["highest throughput"].variant == "quantized"
    served.callers = [Callers(2, 1, 90, 21, 22)]
    choice = chosen(PLAIN, single, served)["highest throughput"]
    assert (choice.variant, choice.callers, choice.alike) == ("O2-quantized", 2, [])


def test_fewest_threads_that_are_as_fast_are_chosen():
    threaded = variant("quantized", 2.5, 23, 0.04)
    threaded.callers = [Callers(1, 1, 60, 16.5, 17), Callers(1, 2, 62, 16, 17), Callers(1, 4, 40, 25, 27)]
    choice = chosen(PLAIN, threaded)["lowest p50 at batch 1"]
    assert (choice.threads, choice.settings, choice.value) == (1, ["2 threads"], "16.5 ms at 1x128")


def test_front_holds_what_nothing_beats():
    """O1 is as good as plain and no better; O2 beats both; int8 is faster and smaller but less close."""
    assert pareto_front(model(PLAIN, O1, O2, INT8, INT8_WORSE)) == ["O2", "quantized"]
    assert pareto_front(model(PLAIN, O1)) == ["plain", "O1"]


def test_circle_of_what_cannot_be_told_apart_stays_on_the_front():
    """O1 is faster than O2, O2 smaller than O3, O3 closer than O1, and each alike in the rest; plain is beaten."""
    circle = (
        variant("O1", 1.2, 90.8, 1.8e-6, half=0.01), variant("O2", 1.1, 90.0, 0.9e-6, half=0.01),
        variant("O3", 1.15, 91.3, 0, half=0.09),
    )  # fmt: skip
    assert pareto_front(model(*circle)) == ["O1", "O2", "O3"]
    assert pareto_front(model(variant("plain", 1.0, 100, 1e-4, half=0.01), *circle)) == ["O1", "O2", "O3"]


@pytest.mark.parametrize(
    ("name", "ratio", "torch", "status", "sentence"),
    [
        ("plain", 1.0, 2.0, Status.PASS,
         "deploy plain: 2.0 times slower than PyTorch at 1x128, 90 MB, max_abs_error 1e-07"),
        ("plain", 1.0, 0.98, Status.PASS, "deploy plain: as fast as PyTorch at 1x128, 90 MB, max_abs_error 1e-07"),
        ("plain", 1.0, None, Status.PASS, "deploy plain: 90 MB, max_abs_error 1e-07"),
        ("O2", 1.3, 0.5, Status.UNBASELINED, "deploy O2: 2.6 times faster than PyTorch and 1.3 times faster than plain "
         "at 1x128, 90 MB, max_abs_error 1e-07; unbaselined"),
    ],
)  # fmt: skip
def test_recommendation_says_what_it_is_faster_than(name, ratio, torch, status, sentence):
    result = variant(name, ratio, 90, 1e-7, status=status)
    result.latency = [msgspec.structs.replace(at, ratio_to_torch=torch and ratio / torch) for at in result.latency]
    assert recommend(model(result)) == sentence


def test_without_latencies_size_and_error_are_chosen_all_the_same():
    untimed = [
        variant(timed.variant, 1, timed.bytes / 1e6, timed.closeness["max_abs_error"], batches=())
        for timed in (O2, INT8)
    ]
    choices = chosen(*untimed)
    assert list(choices) == GOALS[2:]
    assert pareto_front(model(*untimed)) == []


def test_nothing_is_chosen_where_nothing_passes():
    assert choose(model(variant("plain", 1, 90, 1e-7, status=Status.FAIL))) == []


# ------------------------------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("variants", "passed", "failures", "verdict"),
    [
        ([PLAIN], True, [], Status.PASS),
        ([PLAIN, VariantResult("O4", Status.UNSUPPORTED)], True, [], Status.PASS),
        ([VariantResult("O4", Status.UNSUPPORTED)], True, [], Status.NOT_JUDGED),
        ([VariantResult("plain", drift={"max_abs_error": 0.0})], True, [], Status.NOT_JUDGED),
        ([], True, [], Status.NOT_JUDGED),
        ([], False, [], Status.FAIL),
        ([PLAIN], False, [], Status.FAIL),
        ([PLAIN], True, [Failure("m", "plain", "builds", "it does not")], Status.FAIL),
    ],
)
def test_only_a_run_that_compared_scores_passes(variants, passed, failures, verdict):
    machine = MachineRecord(arch="x86_64", tier="avx2", cpu="a processor", cores=2)
    results = Results(machine, {}, [model(*map(msgspec.structs.replace, variants))], failures)
    conclude(results, passed=passed)
    assert results.verdict == verdict


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, ""),
        ({Status.UNSUPPORTED: 9, Status.PASS: 1}, ""),
        ({Status.UNBASELINED: 1, Status.INAPPLICABLE: 2}, ""),
        ({Status.LIMIT: 1}, ""),
        ({Status.UNSUPPORTED: 9, Status.UNBASELINED: 1}, "had an answer (9 unsupported, 1 unbaselined)"),
    ],
)
def test_checks_of_scores_without_an_answer_are_no_success(counts, text):
    """A run of other suites has none, and is what was asked for."""
    assert _unanswered(counts).endswith(text)
    assert bool(_unanswered(counts)) == bool(text)
