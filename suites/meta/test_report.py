"""The report: one hand-made result set, and what every form of it must show."""

import json
import math
import re
from html.parser import HTMLParser

import msgspec
import pytest

from fixtures.latency.records import Cell, Measurement, Quantity, Undecided
from fixtures.report import files, terminal
from fixtures.report.conclusions import conclude
from fixtures.report.results import Failure, MachineRecord, ModelResult, Results, Status, VariantResult
from fixtures.report.table import summary
from fixtures.scoring.tasks import TASKS

NASTY = "no approved scores | for <b>this</b> tier\nand a second line"
NO_GPU = "O4 needs CUDAExecutionProvider, and this machine has CPUExecutionProvider"
CLOSE = {
    "embedding": (1.2e-6, 0.99999991, 2.2e-6, 1.0),
    "rerank": (1.2e-4, 0.99931, 0.8, 2.1e-5, 0.0, 0.0, 1.0, 0.0),
}
CEILING = {
    "embedding": (1e-4, 0.99999, 1e-4, 0.99),
    "rerank": (1e-3, 0.999, 0.8, 5e-4, 0.0, 1e-3, 1.0, 1e-3),
}


def cell(ratio, shape=(1, 128), p50_ms=30.0):
    interval = ratio - 0.1, ratio + 0.1
    return Cell(shape[0], shape[1], p50_ms / ratio, 1.2 * p50_ms / ratio, 33.3 * ratio, ratio, interval, None, 40, 2)


def judged(task, variant, ratio, **fields):
    """Return a variant inside its ceiling, timed at two shapes."""
    metrics = TASKS[task].metrics
    result = VariantResult(
        variant, digest="sha256:ab", bytes=90_400_000, load_ms=120.0, peak_rss_mb=310.0,
        closeness=dict(zip(metrics, CLOSE[task], strict=True)),
        ceiling=dict(zip(metrics, CEILING[task], strict=True)),
        drift={metrics[0]: 3e-8}, latency=[cell(ratio), cell(ratio, (8, 16), 60.0)],
    )  # fmt: skip
    return msgspec.structs.replace(result, **fields)


def model(name, task):
    """Return a model with a variant of every status; the two fastest must not be deployed."""
    error = TASKS[task].metrics[0]
    failing = judged(task, "O3-quantized", 3.4)
    failing.closeness[error] = math.nan
    variants = [
        judged(task, "plain", 1.0),
        judged(task, "O2", 1.25, limits=["padding: wrong for left padding (https://example.org/1)"]),
        VariantResult("O4", status=Status.UNSUPPORTED, reason=NO_GPU, ceiling={error: 2e-3}),
        judged(task, "O2-quantized", 2.5, status=Status.UNBASELINED, reason=NASTY, drift={}),
        failing,
        judged(task, "quantized", 3.9, closeness={}, drift={}),
    ]
    return ModelResult(name, "sha256:cbf2", task, variants=variants, torch_latency=[cell(0.5)])


@pytest.fixture
def results():
    """Two models, all four statuses, failures of variants and of a reference, concluded."""
    machine = MachineRecord(
        arch="x86_64",
        native="avx512",
        tier="avx512",
        cpu="Some <CPU> | 2.0 GHz",
        cores=4,
        threads=2,
        memory_bytes=1,
        providers=["CPUExecutionProvider"],
    )
    message = "{} breaks its ceiling\n  metric | value\n```\n  reproduce: pytest '<b>'"
    failures = [
        Failure(name, "O3-quantized", "scores_stay_within_ceiling", message.format(f"{name} O3-quantized: NaN"))
        for name in ("minilm-l6", "minilm-reranker")
    ]
    failures.append(Failure("minilm-l6", "", "reference_is_the_approved_one", "minilm-l6 reference: it drifted"))
    results = Results(
        machine,
        {"onnxruntime": "1.22.1", "torch": "2.8.0"},
        [model("minilm-l6", "embedding"), model("minilm-reranker", "rerank")],
        failures,
    )
    conclude(results, passed=True)
    return results


@pytest.fixture
def report(results, tmp_path):
    files.write(results, tmp_path / "new" / "report")
    return tmp_path / "new" / "report"


# ---------------------------------------------------------------------------------- conclusions


def test_failures_fail_the_variant_and_the_run(results):
    statuses = {variant.variant: variant.status for variant in results.models[0].variants}
    assert results.verdict == Status.FAIL
    assert statuses["O3-quantized"] == Status.FAIL
    assert statuses["plain"] == Status.PASS
    assert results.models[0].variants[4].reason == "minilm-l6 O3-quantized: NaN breaks its ceiling"


@pytest.mark.parametrize(("passed", "verdict"), [(True, Status.PASS), (False, Status.FAIL)])
def test_run_without_failures_passes_if_pytest_passed(results, passed, verdict):
    results.failures = []
    conclude(results, passed=passed)
    assert results.verdict == verdict


def test_fastest_deployable_variant_is_recommended(results):
    """Neither the failing O3-quantized nor the unjudged quantized, though both are faster."""
    assert results.models[1].recommendation.startswith("deploy O2-quantized: 5.0 times faster than PyTorch and 2.5 ")


def test_nothing_is_recommended_for_a_model_whose_reference_failed(results):
    assert results.models[0].recommendation == "no recommendation: minilm-l6 reference: it drifted"


def test_nothing_is_recommended_where_nothing_was_judged(results):
    for variant in results.models[1].variants:
        variant.closeness = {}
    conclude(results, passed=True)
    assert results.models[1].recommendation == "no variant passed: deploy none of them"  # one of them failed
    results.failures.clear()
    for variant in results.models[1].variants:
        variant.status = Status.PASS
    conclude(results, passed=True)
    assert "no scores were judged" in results.models[1].recommendation


# -------------------------------------------------------------------------------------- terminal


@pytest.mark.parametrize("color", [False, True], ids=["plain", "colour"])
@pytest.mark.parametrize("width", [80, 160])
def test_terminal_fits_and_cuts_nothing(results, width, color):
    text = re.sub(r" *\x1b\[[\d;]*m$|\x1b\[[\d;]*m", "", terminal.render(results, width, color), flags=re.MULTILINE)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "..." not in text
    for row in (row for model in results.models for row in summary(model).rows):
        line = re.compile("^" + r" +".join(map(re.escape, row)) + "$", re.MULTILINE)
        assert line.search(text), f"{row} is on no single line of\n{text}"


def test_terminal_names_each_judged_file_and_folds_no_path(results):
    """Below the folder that they share; whole where there is one. What was not built has none."""
    store = "/home/somebody/a-rather-long-name-of-a-folder/.cache/exportgate/store/artifacts"
    first, second = results.models
    for variant in first.variants[:3]:
        variant.path = f"{store}/{'0' * 32}/model.onnx"
    first.variants[4].path = f"{store}/{'1' * 32}/model.onnx"
    second.variants[0].path = "/data/ours.onnx"
    for width in (80, 160):
        text = terminal.render(results, width, False)
        assert f"files in {store}:\n  plain, O2, O4  {'0' * 32}/model.onnx\n" in text
        assert f"\n  O3-quantized   {'1' * 32}/model.onnx\n" in text
        assert "\nfile of plain: /data/ours.onnx\n" in text


def test_every_form_names_each_judged_file_whole(results, tmp_path):
    results.models[0].variants[0].path = path = "/store/artifacts/01/model.onnx"
    files.write(results, tmp_path)
    assert json.loads((tmp_path / "gate.json").read_bytes())["models"][0]["variants"][0]["path"] == path
    assert [f" {path} "] == [
        cells[1] for rows in markdown_tables((tmp_path / "gate.md").read_text()) for cells in rows if path in cells[1]
    ]
    assert path in Page((tmp_path / "index.html").read_text("utf-8")).text


def test_terminal_folds_where_it_must(results):
    assert max(map(len, terminal.render(results, 40, False).splitlines())) <= 40


def test_terminal_has_colours_only_on_request(results):
    assert "\x1b" not in terminal.render(results, 80, False)
    coloured = terminal.render(results, 80, True)
    for code, status in ((32, "pass"), (31, "fail"), (33, "unbaselined"), (33, "unsupported"), (33, "not judged")):
        assert f"\x1b[{code}m{status}" in coloured


def test_terminal_says_each_reason_once_and_of_whom(results):
    text = terminal.render(results, 160, False)
    assert text.count(NO_GPU) == 1
    assert "unsupported: O4 of minilm-l6, minilm-reranker\n" in text
    assert "fail: minilm-l6 (the model itself)\n" in text


def test_terminal_ends_with_recommendations_and_the_verdict(results):
    lines = terminal.render(results, 160, False).splitlines()
    last = [line.split(":")[0] for line in lines[-8:]]
    assert last[:2] == ["minilm-l6", "minilm-reranker"]
    assert last[2:-1] == [f"  {choice.goal}" for choice in results.models[1].choices] + [
        "  Pareto front of latency, size and error"
    ]
    assert last[-1] == "FAIL"


# ------------------------------------------------------------------------------------------ JSON


def test_json_is_strict_and_keeps_its_contract(report):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((report / "gate.json").read_text("utf-8"), parse_constant=refuse)
    assert content.keys() >= {"schema", "verdict", "machine", "versions", "failures", "models"}
    assert content["machine"].keys() >= {"arch", "tier", "cpu", "cores", "providers"}
    assert content["failures"][0].keys() == {"model", "variant", "check", "message"}
    assert content["models"][0].keys() >= {"name", "digest", "task", "variants", "recommendation"}
    failing = content["models"][0]["variants"][4]
    assert failing.keys() >= {
        "variant", "status", "reason", "digest", "bytes", "closeness", "ceiling", "drift", "latency",
    }  # fmt: skip
    assert failing["latency"][0].keys() >= {
        "batch", "length", "p50_ms", "p95_ms", "items_per_s", "ratio_to_plain", "ratio_to_torch",
    }  # fmt: skip
    assert failing["closeness"]["max_abs_error"] is None


@pytest.mark.parametrize(
    ("measurement", "content", "text"),
    [
        (Measurement(Quantity.LATENCY, 1, 16), {"quantity": "latency", "batch": 1, "length": 16}, "1x16"),
        (Measurement(Quantity.SPEED), {"quantity": "speed"}, "speed"),
        (Measurement(Quantity.FOOTPRINT), {"quantity": "footprint"}, "footprint"),
        (Measurement(Quantity.WORKLOAD, 1), {"quantity": "workload", "batch": 1}, "mixed lengths: one by one"),
        (
            Measurement(Quantity.WORKLOAD, 8, sorted=True),
            {"quantity": "workload", "batch": 8, "sorted": True},
            "mixed lengths: batches of 8, by length",
        ),
        (
            Measurement(Quantity.CALLERS, callers=2, threads=1),
            {"quantity": "callers", "callers": 2, "threads": 1},
            "callers: 2 on 1 thread",
        ),
    ],
    ids=str,
)
def test_undecided_measurements_are_objects_in_json_and_words_in_markdown(
    results, tmp_path, measurement, content, text
):
    results.models[0].variants[0].undecided = [Undecided(measurement, "noisy")]
    files.write(results, tmp_path)
    (entry,) = json.loads((tmp_path / "gate.json").read_bytes())["models"][0]["variants"][0]["undecided"]
    assert entry == {"measurement": content, "reason": "noisy"}
    assert f"- undecided, minilm-l6 plain: {text}: noisy\n" in (tmp_path / "gate.md").read_text("utf-8")
    assert files.read(tmp_path / "gate.json").models[0].variants[0].undecided == [Undecided(measurement, "noisy")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(results, tmp_path, value):
    results.models[0].reference_drift = {"max_abs_error": value}
    files.write(results, tmp_path)
    content = json.loads((tmp_path / "gate.json").read_bytes())
    assert content["models"][0]["reference_drift"] == {"max_abs_error": None}
    assert math.isnan(files.read(tmp_path / "gate.json").models[0].reference_drift["max_abs_error"])


# -------------------------------------------------------------------------------------- Markdown


def markdown_tables(text):
    """Return the tables as lists of rows of cells, as GitHub splits them."""
    unfenced = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^\|.*\n)+", unfenced, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_markdown_rows_have_the_cells_of_their_header(report, results):
    tables = markdown_tables((report / "gate.md").read_text("utf-8"))
    assert len(tables) == 2 * 4 + 1  # summary, closeness, latency, footprint; what to deploy, of one
    assert [len(rows) for rows in tables[:2]] == [2 + len(model.variants) for model in results.models]
    for rows in tables:
        assert {len(cells) for cells in rows} == {len(rows[0])}


def test_markdown_cells_are_escaped(results, tmp_path):
    results.models[0].variants[0].variant = "a|b\nc <b>*"
    files.write(results, tmp_path)
    rows = markdown_tables((tmp_path / "gate.md").read_text("utf-8"))[0]
    assert rows[2][0] == r" a\|b c \<b>\* "
    assert len(rows[2]) == len(rows[0])


def test_markdown_says_everything(report, results):
    text = (report / "gate.md").read_text("utf-8")
    assert text.startswith("# exportgate: fail\n")
    assert r"no approved scores \| for \<b>this\</b> tier and a second line" in text
    for phrase in (NO_GPU, "wrong for left padding", "onnxruntime 1.22.1", "| NaN |"):
        assert phrase in text
    for failure in results.failures:
        assert re.search(rf"^(`{{3,}})text\n{re.escape(failure.message)}\n\1$", text, re.MULTILINE)


# ------------------------------------------------------------------------------------------ HTML


class Page(HTMLParser):
    """Collects tags, addresses and text, and checks that what opens closes."""

    def __init__(self, text):
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_is_escaped_and_whole(report, results):
    page = Page((report / "index.html").read_text("utf-8"))
    assert "b" not in page.tags
    for phrase in (NASTY, NO_GPU, "Some <CPU> | 2.0 GHz", *(failure.message for failure in results.failures)):
        assert phrase in page.text


def test_html_needs_nothing_else(report):
    text = (report / "index.html").read_text("utf-8")
    page = Page(text)
    assert page.addresses == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


# ----------------------------------------------------------------------------------------- files


def test_files_replace_what_was_there_and_leave_nothing_else(report, results):
    results.verdict = Status.PASS
    files.write(results, report)
    assert sorted(file.name for file in report.iterdir()) == [
        "gate.json",
        "gate.md",
        "index.html",
        "scores.safetensors",
    ]
    assert json.loads((report / "gate.json").read_bytes())["verdict"] == "pass"


def test_write_that_fails_leaves_the_old_file(report, results, monkeypatch):
    before = (report / "gate.json").read_bytes()

    def no_space(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", no_space)
    with pytest.raises(OSError, match="no space"):
        files.write(Results(results.machine, {}), report)
    assert (report / "gate.json").read_bytes() == before
    assert len(list(report.iterdir())) == 4


def test_empty_run_is_reported(tmp_path):
    empty = Results(MachineRecord(arch="arm64", tier="arm64", cpu="", cores=1), {})
    conclude(empty, passed=True)
    files.write(empty, tmp_path)
    assert (
        terminal.render(empty, 80, False)
        == "NOT JUDGED: no failed checks, and no scores were judged: no variant was selected"
    )
