"""Reports of several machines as one: what all of them can share, who is told apart, and what is refused."""

import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from fixtures.diagnosis.integers import DeviationCause
from fixtures.gate.command_line import ROOT
from fixtures.latency.records import Cell, Measurement, Quantity, Undecided
from fixtures.models.content import CONTROLS
from fixtures.report import files, fleet
from fixtures.report.results import Check, Failure, MachineRecord, ModelResult, Results, Status, VariantResult

CEILING = {"max_abs_error": 0.08}


def variant(name, graph, error, ratio=None, **fields):
    """Return a variant, timed or not."""
    cells = [Cell(1, 128, 30 / ratio, 40 / ratio, 33 * ratio, ratio, (ratio, ratio), None, 40, 2)] if ratio else []
    result = VariantResult(
        name, graph=f"sha256:{graph}", bytes=int(2e7 if "quant" in name else 9e7), latency=cells,
        closeness={"max_abs_error": error}, ceiling=CEILING, drift={"max_abs_error": 0.0},
    )  # fmt: skip
    return msgspec.structs.replace(result, **fields)


def report(folder, tier, variants, cpu="a processor", digest="sha256:m", version="1.32.0", **fields):
    """Write one machine's report, and return its folder."""
    machine = MachineRecord(arch="x86_64", tier=tier, cpu=cpu, cores=2)
    results = Results(machine, {"onnxruntime": version}, [ModelResult("m", digest, "embedding", variants=variants)])
    files.write(msgspec.structs.replace(results, **fields), folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    """Reports of two machines, whose int8 is faster, and another file in each; one shared int8 fails on the second."""
    first = [variant("plain", "p", 1e-6, 1.0), variant("O2", "o", 2e-6, 1.3), variant("quantized", "s8", 0.03, 3.0)]
    second = [variant("plain", "p", 1e-6, 1.0), variant("O2", "o", 3e-6, 1.1), variant("quantized", "u8", 0.05, 2.0)]
    first.append(variant("O2-quantized", "both", 0.01, 4.0))
    second.append(variant("O2-quantized", "both", 0.5, 4.0, status=Status.FAIL))
    failure = Failure("m", "O2-quantized", "scores_stay_within_ceiling", "m O2-quantized: too far")
    return [
        report(tmp_path / "a", "avx512_vnni", first),
        report(tmp_path / "b", "avx2", second, failures=[failure], verdict=Status.FAIL),
    ]


def test_what_passes_everywhere_is_shared_and_what_each_would_rather_have_stands_beside(folders):
    merged = fleet.read(folders)
    assert str(merged.shared("m")) == "O2 (o)"  # of plain and O2 the faster one, though int8 is faster in each place
    gain = "at least 1.1 times faster than plain where it was timed"
    assert merged.recommend("m") == f"share O2 (o): {gain}, 90 MB, max_abs_error at most 3e-06 (avx2)"
    preferences = {row[0]: (row[1], row[-1]) for row in merged.preferences("m").rows}
    assert preferences["avx512_vnni"] == ("O2-quantized (both)", "23.1 ms, max_abs_error 2e-06")
    assert preferences["avx2"][0] == "quantized (u8)"
    rows = {row[:2]: row[2:] for row in merged.matrix("m").rows}
    assert rows["quantized", "s8"] == ("0.03 pass", "-")
    assert rows["O2-quantized", "both"] == ("0.01 pass", "0.5 fail")
    assert list(merged.remarks()) == ["avx2: m O2-quantized: scores_stay_within_ceiling: too far"]
    assert merged.verdict == Status.FAIL


def test_untimed_places_share_the_smallest_file(tmp_path):
    variants = [variant("plain", "p", 1e-6), variant("quantized", "q", 0.03), variant("O2-quantized", "oq", 0.02)]
    merged = fleet.read([report(tmp_path / tier, tier, variants) for tier in ("arm64", "sse")])
    assert str(merged.shared("m")) == "O2-quantized (oq)"
    assert [row[-1] for row in merged.preferences("m").rows] == ["the same", "the same"]
    alone = fleet.read([report(tmp_path / tier, tier, [variant("plain", tier, 1e-6)]) for tier in ("arm64", "sse")])
    assert alone.recommend("m") == "no file passes on every machine: each needs its own"


def test_what_overflows_somewhere_is_shared_only_if_nothing_else_passes(tmp_path):
    """On the texts that were tried it errs less than what overflows nowhere."""
    cause = "kernel: 25 % of the sums of a node are wrong"
    signed, unsigned = variant("quantized-s8", "s8", 0.03), variant("quantized-u8", "u8", 0.05)
    cut_off = msgspec.structs.replace(
        signed, overflow=0.02, overflow_cause=cause, deviation_cause=DeviationCause.KERNEL
    )
    vnni = report(tmp_path / "a", "avx512_vnni", [signed, unsigned])
    merged = fleet.read([vnni, report(tmp_path / "b", "avx2", [cut_off, unsigned])])
    assert str(merged.shared("m")) == "quantized-u8 (u8)"
    assert list(merged.remarks()) == [f"m: quantized-s8 (s8) is not for avx2: {cause}"]
    alone = fleet.read([report(tmp_path / "c", "avx512_vnni", [signed]), report(tmp_path / "d", "avx2", [cut_off])])
    assert str(alone.shared("m")) == "quantized-s8 (s8)"
    rounding = msgspec.structs.replace(
        signed, overflow=0.02, overflow_cause="rounding: all sums are exact", deviation_cause=DeviationCause.ROUNDING
    )
    exact = fleet.read([vnni, report(tmp_path / "e", "arm64", [rounding, unsigned])])
    assert str(exact.shared("m")) == "quantized-s8 (s8)"


def test_nothing_is_recommended_of_a_model_that_failed_itself_anywhere(tmp_path):
    """Whatever its files did: scores of another reference say nothing of them."""
    variants = [variant("plain", "p", 1e-6, 1.0), variant("O2", "o", 2e-6, 1.3)]
    failure = Failure("m", "", "reference_is_the_approved_one", "m reference: it drifted")
    first = report(tmp_path / "a", "avx512_vnni", variants)
    assert str(fleet.read([first]).shared("m")) == "O2 (o)"
    second = report(tmp_path / "b", "avx2", variants, failures=[failure], verdict=Status.FAIL)
    merged = fleet.read([first, second])
    assert merged.shared("m") is None
    told = "no file is recommended for all machines: reference_is_the_approved_one failed on avx2"
    assert merged.recommend("m") == told
    assert merged.preferences("m").rows == []


def test_failure_of_a_model_itself_is_of_one_machine_whatever_versions_ran_there(tmp_path):
    """Under --emulate one run has several versions, each a place of its own."""
    variants = [variant("plain", "p", 1e-6, 1.0), variant("plain@1.23.2", "p", 1e-6, 1.0)]
    failure = Failure("m", "", "reference_is_the_approved_one", "m reference: it drifted")
    folder = report(tmp_path / "a", "emulated-avx2", variants, failures=[failure], verdict=Status.FAIL)
    told = "reference_is_the_approved_one failed on emulated-avx2, onnxruntime 1.32.0"
    assert fleet.read([folder]).obstacles("m") == [told]


@pytest.mark.parametrize(
    ("models", "reason"),
    [([], "no report of it"), ([ModelResult("m", "", "embedding", reason="no checkpoint here")], "no checkpoint here")],
)
def test_nothing_is_recommended_of_a_model_that_was_not_judged_everywhere(tmp_path, models, reason):
    first = report(tmp_path / "a", "avx512_vnni", [variant("plain", "p", 1e-6, 1.0)])
    second = report(tmp_path / "b", "avx2", [], models=models)
    merged = fleet.read([first, second])
    assert merged.shared("m") is None
    assert merged.recommend("m") == f"no file is recommended for all machines: it was not judged on avx2: {reason}"
    assert [row[0] for row in merged.preferences("m").rows] == ["avx512_vnni"], "which may have it for itself"


def test_file_that_no_test_compared_somewhere_is_not_recommended(tmp_path):
    compared, timed = variant("plain", "p", 1e-6, 1.0), variant("plain", "p", 1e-6, 1.0, closeness={}, drift={})
    folders = [report(tmp_path / "a", "avx512_vnni", [compared]), report(tmp_path / "b", "avx2", [timed])]
    assert fleet.read(folders[:1]).shared("m") is not None
    assert fleet.read(folders).shared("m") is None
    assert fleet.read(folders).matrix("m").rows == [("plain", "p", "1e-6 pass", "not judged")]


@pytest.mark.parametrize("last", [True, False])
def test_file_that_failed_under_one_of_its_names_is_not_recommended(tmp_path, last):
    good, bad = variant("quantized", "q", 0.03), variant("quantized-u8", "q", 0.03, status=Status.FAIL)
    failure = Failure("m", "quantized-u8", "weights_are_the_checkpoints", "m quantized-u8: wrong")
    variants = [good, bad] if last else [bad, good]
    merged = fleet.read([report(tmp_path, "avx2", variants, failures=[failure], verdict=Status.FAIL)])
    assert merged.shared("m") is None
    assert merged.matrix("m").rows[0][2] == "0.03 fail"


def test_jobs_of_one_machine_are_one_report(tmp_path):
    """A job for each model: as if one run had judged them."""
    names, variants = ("m", "n", "o"), [variant("plain", "p", 1e-6, 1.0)]
    failure = Failure("n", "plain", "scores_stay_within_ceiling", "n plain: too far")
    red = [msgspec.structs.replace(variants[0], status=Status.FAIL)]
    folders = [
        report(
            tmp_path / name, "avx2", [], models=[ModelResult(name, "sha256:m", "embedding", variants=of_model)],
            failures=[failure] if of_model is red else [], verdict=Status.FAIL if of_model is red else Status.PASS,
        )
        for name, of_model in zip(names, (variants, red, variants), strict=True)
    ]  # fmt: skip
    merged = fleet.merge(folders, tmp_path / "all")
    assert [place.name for place in merged.places] == ["avx2"]
    assert list(merged.tasks) == list(names)
    assert [merged.shared(name) is None for name in names] == [False, True, False]
    whole = files.read(tmp_path / "all" / "gate.json")
    assert [model.name for model in whole.models] == list(names)
    assert (whole.verdict, whole.failures) == (Status.FAIL, [failure])
    assert [(part.number, part.models) for part in whole.parts] == [(1, ["m"]), (2, ["n"]), (3, ["o"])]


def test_job_that_lacked_a_model_takes_nothing_away(tmp_path):
    lacking = ModelResult("m", "", "embedding", reason="no checkpoint here")
    first = report(tmp_path / "a", "avx2", [], models=[lacking], verdict=Status.NOT_JUDGED)
    for order in (1, -1):
        folders = [first, report(tmp_path / "b", "avx2", [variant("plain", "p", 1e-6)])][::order]
        assert fleet.read(folders).recommend("m").startswith("share plain (p)")
        assert fleet.read(folders).verdict == Status.PASS


def test_jobs_of_one_machine_with_other_versions_are_refused(tmp_path):
    folders = [
        report(
            tmp_path / torch, "avx2", [], models=[ModelResult(torch, "", "embedding")],
            versions={"onnxruntime": "1.32.0", "torch": torch},
        )
        for torch in ("2.8", "2.9")
    ]  # fmt: skip
    with pytest.raises(fleet.CannotMerge, match="are of one machine and have other versions of torch: leave one out"):
        fleet.read(folders)


def test_headline_explains_verdicts_that_need_a_word(tmp_path):
    """In every form, and in plain words."""
    unbaselined = variant("plain", "p", 1e-6, status=Status.UNBASELINED, drift={})
    timed = variant("O2", "o", 1e-6, 1.0, closeness={}, drift={})
    undecided = [Undecided(Measurement(Quantity.LATENCY, 1, length), "noisy") for length in (16, 128, 512)]
    unsupported = VariantResult("O4", status=Status.UNSUPPORTED, reason="O4 needs CUDA. Without it nothing is fused.")
    unbaselined.undecided = undecided
    folders = [
        report(tmp_path / "a", "avx2", [unbaselined, timed, unsupported]),
        report(tmp_path / "b", "sse", [variant("plain", "p", 1e-6)]),
    ]
    shown = io.StringIO()
    fleet.show(fleet.merge(folders, tmp_path / "all"), Console(file=shown, width=1000))
    assert shown.getvalue().splitlines()[-1].startswith("PASS: no failed checks in 2 runs. Unbaselined on avx2 means: ")
    document, page = ((tmp_path / "all" / name).read_text() for name in ("fleet.md", "fleet.html"))
    for text in (shown.getvalue(), document, page.partition("</style>")[2]):
        assert "Unbaselined on avx2 means: within the ceiling, and nothing is approved there yet" in text
        assert "--approve records it. Not judged on avx2 means: no test compared its scores" in text
        assert text.count("undecided") == 1
        assert "avx2: undecided: 3 measurements of m: for instance m plain 1x16: noisy" in text
        for heading in ("Which file passes on which machine", "The best file for each machine alone"):
            assert heading in text or text is shown.getvalue()
        for word in ("preferred artifact", "shared artifact", "rather have", "Who passes", "judged here"):
            assert word not in text


def test_variant_that_no_machine_can_judge_is_one_line(tmp_path):
    unsupported = VariantResult("O4", status=Status.UNSUPPORTED, reason="O4 needs CUDA. Without it nothing is fused.")
    variants = [variant("plain", "p", 1e-6), unsupported]
    merged = fleet.read([report(tmp_path / tier, tier, variants) for tier in ("avx2", "sse")])
    assert [row[0] for row in merged.matrix("m").rows] == ["plain"]
    assert list(merged.remarks()) == ["m: O4 is unsupported on every machine: O4 needs CUDA"]
    gpu = report(tmp_path / "gpu", "cuda", [variant("plain", "p", 1e-6), variant("O4", "", 1e-4)])
    assert [row[0] for row in fleet.read([tmp_path / "avx2", gpu]).matrix("m").rows] == ["plain", "O4"]


def test_one_file_may_have_two_names(tmp_path):
    """`quantized` is unsigned on AVX2 and signed with VNNI; each is judged on the other by its own name, too."""
    avx2 = [variant("quantized", "u8", 0.03), variant("quantized-s8", "s8", 0.3, status=Status.FAIL)]
    vnni = [variant("quantized", "s8", 0.02), variant("quantized-u8", "u8", 0.04)]
    first = report(tmp_path / "a", "avx2", avx2, verdict=Status.FAIL)
    merged = fleet.read([first, report(tmp_path / "b", "avx512_vnni", vnni)])
    assert str(merged.shared("m")) == "quantized, quantized-u8 (u8)"
    preferences = {row[0]: (row[1], row[-1]) for row in merged.preferences("m").rows}
    assert preferences["avx2"] == ("quantized, quantized-u8 (u8)", "the same")
    assert preferences["avx512_vnni"] == ("quantized-s8, quantized (s8)", "max_abs_error 0.04")


def test_versions_of_onnxruntime_are_places_of_their_own(tmp_path):
    variants = [variant("quantized", "q", 0.03), variant("quantized@1.23.2", "q", 0.04)]
    merged = fleet.read([report(tmp_path / "a", "emulated-avx2", variants)])
    assert merged.matrix("m").header[2:] == ("emulated-avx2, onnxruntime 1.32.0", "emulated-avx2, onnxruntime 1.23.2")
    assert merged.matrix("m").rows == [("quantized", "q", "0.03 pass", "0.04 pass")]


def test_machines_of_one_tier_are_told_apart_by_their_processors(tmp_path):
    variants = [variant("plain", "p", 1e-6)]
    merged = fleet.read([report(tmp_path / cpu, "avx2", variants, cpu) for cpu in ("EPYC", "Xeon")])
    assert [place.name for place in merged.places] == ["avx2, EPYC", "avx2, Xeon"]


def test_other_checkpoints_are_remarked_on(tmp_path):
    variants = [variant("plain", "p", 1e-6)]
    merged = fleet.read([report(tmp_path / tier, tier, variants, digest=f"sha256:{tier}") for tier in ("avx2", "sse")])
    assert "different checkpoints" in next(merged.remarks())


def test_every_form_says_the_same(folders, tmp_path):
    fleet.merge(folders, tmp_path / "all")
    content = json.loads((tmp_path / "all" / "fleet.json").read_text())
    assert content["models"][0]["shared"] == {"variants": "O2", "graph": "sha256:o"}
    assert content["models"][0]["artifacts"][0]["places"]["avx2"]["status"] == "pass"
    for name in ("fleet.md", "fleet.html"):
        text = (tmp_path / "all" / name).read_text()
        assert "share O2 (o)" in text
        assert "0.5 fail" in text
        assert "too far" in text


def test_what_cannot_be_merged_is_refused(folders, tmp_path):
    with pytest.raises(fleet.CannotMerge, match="are both of avx2, a processor"):
        fleet.read([*folders, folders[1] / "gate.json"])
    with pytest.raises(fleet.CannotMerge, match=r"nothing\.json: No such file"):
        fleet.read([tmp_path / "nothing.json"])
    (tmp_path / "gate.json").write_text('{"schema": 99, "machine": {}, "models": "as schema 99 has them"}')
    with pytest.raises(
        fleet.CannotMerge, match=r"by a newer exportgate \(schema 99, this one reads up to \d+\): upgrade"
    ):
        fleet.read([*folders, tmp_path])
    (tmp_path / "gate.json").write_bytes((folders[0] / "gate.json").read_bytes().replace(b"machine", b"\xedachine", 1))
    with pytest.raises(fleet.CannotMerge, match="is no report of exportgate"):
        fleet.read([tmp_path])
    (tmp_path / "gate.json").write_text('{"models": []}')
    with pytest.raises(fleet.CannotMerge, match="is no report of exportgate"):
        fleet.read([tmp_path])


def test_report_of_an_older_schema_is_merged(folders, tmp_path):
    older = Path(__file__).with_name("older_reports") / "gate-1.json"
    merged = fleet.merge([*folders, older], tmp_path / "all")
    assert merged.places[-1].run.files == [older]
    assert merged.places[-1].model("bert-embedder")
    assert "bert-embedder" in (tmp_path / "all" / "fleet.md").read_text()


ODD_VALUES: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    float("inf"),
    "",
    "x",
    "pass",
    "fail",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
)


def places_of(value, path=()):
    """Yield the paths of the values within a JSON value; of long lists, of their first two."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places_of(entry, (*path, key))


def replaced(value, path, odd):
    """Return a JSON value with another one at a path."""
    if not path:
        return odd
    value = value.copy()
    value[path[0]] = replaced(value[path[0]], path[1:], odd)
    return value


def test_damaged_report_is_refused_or_merged_and_never_a_traceback(folders, tmp_path):
    content = json.loads((folders[1] / "gate.json").read_text())
    file = tmp_path / "gate.json"
    refusals = []
    damaged = [replaced(content, path, odd) for path in places_of(content) for odd in ODD_VALUES]
    for value in damaged:
        file.write_text(json.dumps(value))
        try:
            fleet.show(fleet.merge([file], tmp_path / "merged"), Console(file=io.StringIO()))
        except fleet.CannotMerge as error:
            refusals.append(str(error))
    assert all(str(file) in refusal for refusal in refusals)
    assert 500 < len(refusals) < len(damaged) - 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": Status.PASS}, "has the verdict pass, and scores_stay_within_ceiling failed in it"),
        ({"verdict": Status.NOT_JUDGED, "failures": []}, "has the verdict not judged, and m O2-quantized failed"),
        ({"verdict": Status.LIMIT}, "has the verdict limit, and a run ends with pass, fail, not judged"),
    ],
)
def test_report_that_contradicts_itself_is_refused(folders, change, message):
    """Its verdict alone would be believed."""
    files.write(msgspec.structs.replace(files.read(folders[1] / "gate.json"), **change), folders[1])
    with pytest.raises(
        fleet.CannotMerge, match=f"gate.json {message}.*it was damaged or changed, or .*; run the gate again"
    ):
        fleet.read(folders)


def test_check_that_failed_is_a_failure_whatever_the_verdict(tmp_path):
    judged = variant("plain", "p", 1e-6, checks={"graph_is_valid": Check(Status.FAIL)})
    with pytest.raises(fleet.CannotMerge, match="graph_is_valid failed in it"):
        fleet.read([report(tmp_path, "avx2", [judged])])


def test_what_commands_a_terminal_is_shown_as_escapes(tmp_path):
    """In the terminal and in every file; the text may be of a stranger's report."""
    hostile = "\x1b[2J\u202eevil\x07"
    judged = variant("plain", "p", 1e-6, status=Status.FAIL, reason=hostile)
    folder = report(
        tmp_path, "avx2", [judged], cpu=hostile, failures=[Failure("m", "plain", "scores", hostile)],
        verdict=Status.FAIL,
    )  # fmt: skip
    shown = io.StringIO()
    fleet.show(fleet.merge([folder], tmp_path / "merged"), Console(file=shown, width=200))
    texts = [shown.getvalue(), *(file.read_text() for file in (tmp_path / "merged").iterdir())]
    assert len(texts) == 4
    for text in texts:
        assert not CONTROLS.search(text)
    assert "\\u001b[2J\\u202eevil\\u0007" in texts[0]


def test_option_runs_no_test_and_ends_as_the_worst_machine_did(folders, tmp_path):
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"]
    options = ["--report", str(tmp_path / "all"), "--merge"]
    process = subprocess.run([*command, *options, *folders], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert "share O2 (o)" in process.stdout
    assert "collected" not in process.stdout
    assert subprocess.run([*command, *options, folders[0]], cwd=ROOT, capture_output=True).returncode == 0
    timed = report(tmp_path / "timed", "sse", [VariantResult("plain")], verdict=Status.NOT_JUDGED)
    assert subprocess.run([*command, *options, folders[0], timed], cwd=ROOT, capture_output=True).returncode == 5
    assert json.loads((tmp_path / "all" / "fleet.json").read_text())["verdict"] == "not judged"
    refused = subprocess.run([*command, *options, tmp_path / "none"], cwd=ROOT, capture_output=True, text=True)
    assert (refused.returncode, "--merge: " in refused.stderr) == (4, True)
    refused = subprocess.run([*command, *options, "~nosuchuser/gate"], cwd=ROOT, capture_output=True, text=True)
    assert (refused.returncode, "--merge: '~nosuchuser/gate' is no path" in refused.stderr) == (4, True)
    (tmp_path / "file").touch()
    options = ["--report", str(tmp_path / "file"), "--merge"]
    refused = subprocess.run([*command, *options, *folders], cwd=ROOT, capture_output=True, text=True)
    assert (refused.returncode, "--report: " in refused.stderr) == (4, True)
