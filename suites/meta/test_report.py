"""The report: one hand-made result set, and what every form of it must show."""

import json
import math
import re
import sys
from html.parser import HTMLParser

import markdown_it
import msgspec
import pytest
from jinja2 import Environment, FileSystemLoader

from fixtures.latency.records import Cell, Measurement, Quantity, Undecided
from fixtures.models.length_limits import LengthLimits
from fixtures.report import files, terminal
from fixtures.report.conclusions import conclude
from fixtures.report.results import Check, Failure, MachineRecord, ModelResult, Results, Status, VariantResult
from fixtures.report.table import summary, without_unsupported
from fixtures.scoring.tasks import TASKS

REFERENCE_AT_16 = Measurement(Quantity.LATENCY, 1, 16)
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
    for row in (row for model in results.models for row in summary(without_unsupported(model)).rows):
        line = re.compile("^" + r" +".join(map(re.escape, row)) + "$", re.MULTILINE)
        assert line.search(text), f"{row} is on no single line of\n{text}"


def full(results):
    """Let two models have all eight variants with latencies, and everything that a run may remark on."""
    missing = REFERENCE_AT_16, "after 10 pairs the ratio is known to 11% only"
    for model_ in results.models:
        others = [judged(model_.task, name, 1.1) for name in ("O1", "O3")]
        model_.variants = [*model_.variants[:2], *others, *model_.variants[2:]]
        model_.variants[-1].closeness = model_.variants[0].closeness
        model_.max_length, model_.length_limits = 256, LengthLimits(128, 128, None, 512, 256, 512)
        for variant in model_.variants:
            if variant.status != Status.UNSUPPORTED:
                variant.path = f"/data/.cache/exportgate/artifacts/{variant.variant:0>32}/model.onnx"
                variant.undecided = [Undecided(*missing)] * 2
                variant.stale = [f"{variant.variant} is 1.2 times faster (1.1 to 1.3); --approve records it"]
                variant.ready_made = ["inputs ids as input_ids, input_mask as attention_mask"]
    return results


@pytest.mark.parametrize("failures", [0, 3, 30])
@pytest.mark.parametrize("width", [80, 160])
def test_terminal_has_forty_lines_for_two_models(results, width, failures):
    """What does not fit is named; tables, recommendations, verdict and what the run has to say always fit."""
    results = full(results)
    failure = Failure(
        "minilm-l6", "O1", "scores_do_not_drift", "minilm-l6 O1: max_abs_error 0.0214 breaks its tolerance"
    )
    results.failures = [msgspec.structs.replace(failure, check=f"check_{index}") for index in range(failures)]
    conclude(results, passed=True)
    closing = [terminal.Line("letters above: s 13 skipped", fold=True), terminal.Line("report: build/report")]
    lines = terminal.render(results, width, False, closing).splitlines()
    assert [len(model_.variants) for model_ in results.models] == [8, 8]
    assert 25 < len(lines) <= 40
    assert max(map(len, lines)) <= width
    verdict = next(index for index, line in enumerate(lines) if line.startswith(results.verdict.upper()))
    assert lines[verdict - 2 : verdict] == [line.text for line in closing]
    (left_out,) = [line for line in lines if line.startswith("not shown here, and in gate.md: ")] or [""]
    shown = sum(line.startswith("fail: ") for line in lines)
    assert shown == failures or f"failed checks ({failures - shown})" in left_out
    assert shown >= min(failures, terminal.SHOWN_FAILURES)


def test_terminal_of_many_models_shows_each(results):
    results = full(results)
    results.models = [msgspec.structs.replace(results.models[0], name=f"m{index}") for index in range(9)]
    lines = terminal.render(results, 80, False).splitlines()
    assert all(any(line.startswith(f"m{index} (embedding)") for line in lines) for index in range(9))
    assert len(lines) <= 40 + 7 * 15


def test_terminal_says_undecided_once_with_a_reason(results):
    text = " ".join(terminal.render(full(results), 160, False).split())
    assert text.count("undecided") == 1
    assert (
        "undecided: 28 measurements of minilm-l6, minilm-reranker: for instance minilm-l6 plain 1x16: after 10" in text
    )


def test_terminal_says_stale_baselines_once(results):
    text = " ".join(terminal.render(full(results), 160, False).split())
    assert text.count("stale baseline: plain, O2, O1, O3, ") == 1
    assert "of minilm-l6, minilm-reranker: faster than they were approved; --approve records them" in text


def test_unsupported_rows_are_one_line(results):
    text = terminal.render(results, 160, False)
    assert text.count("O4") == 2, "its name and its reason, and no row"
    assert text.count("unsupported: O4 of minilm-l6, minilm-reranker: O4 needs CUDAExecutionProvider") == 1


def test_long_reason_ends_with_its_first_sentence(results):
    for model_ in results.models:
        model_.variants[2].reason = "O4 needs CUDA 1.2. Without it Optimum fuses nothing."
    assert "minilm-reranker: O4 needs CUDA 1.2\n" in terminal.render(results, 160, False)


@pytest.mark.parametrize("drift", [{}, {"max_abs_error": 0.0}])
def test_verdict_never_stands_beside_words_that_nobody_explains(results, tmp_path, drift):
    """A pass over variants that nothing was approved of, and over variants that no test compared."""
    reason = "no approved scores for tier avx2; --approve records them"
    results.failures = []
    results.models = [
        ModelResult(
            "minilm-l6", "sha256:0", "embedding",
            variants=[
                judged("embedding", "plain", 1.0, status=Status.UNBASELINED, reason=reason, drift={}),
                judged("embedding", "O1", 1.0, closeness={}, drift=drift),
            ],
        )
    ]  # fmt: skip
    conclude(results, passed=True)
    files.write(results, tmp_path)
    forms = terminal.render(results, 80, False), *((tmp_path / name).read_text() for name in ("gate.md", "index.html"))
    for text in (" ".join(form.split()) for form in forms):
        assert f"Unbaselined means: within the ceiling, but {reason}" in text
        assert "Not judged means: no test of this run compared its scores; suites/accuracy does" in text


def test_terminal_names_the_file_to_deploy_and_folds_no_path(results):
    """That of the recommended variant, or of the only one that was judged."""
    folder = "/home/somebody/a-rather-long-name-of-a-folder/.cache/exportgate/store/artifacts"
    first, second = results.models
    first.variants[0].path = "/data/ours.onnx"
    second.variants[0].path, second.variants[3].path = f"{folder}/0/model.onnx", f"{folder}/1/model.onnx"
    assert second.choices[0].variant == second.variants[3].variant
    for width in (80, 160):
        text = terminal.render(results, width, False)
        assert f"\n{folder}/1/model.onnx\n" in text
        assert f"{folder}/0" not in text
        assert "\n/data/ours.onnx\n" in text


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
    assert "\nfail: minilm-l6 (the model itself): reference_is_the_approved_one: it drifted\n" in text


def test_terminal_ends_with_the_verdict_behind_what_the_run_says(results):
    closing = [terminal.Line("approved it", "red"), terminal.Line("report: build/report")]
    lines = terminal.render(results, 160, False, closing).splitlines()
    assert lines[-4:-2] == ["approved it", "report: build/report"]
    assert lines[-2].startswith("FAIL: 3 failed checks: of 12 variants 4 pass, 2 fail")
    _, throughput, size, error = results.models[1].choices
    goals = "; ".join(f"{choice.goal}: {choice.variant}" for choice in (throughput, size, error))
    assert [line for line in lines if "highest throughput" in line] == [f"  {goals}"]


# ------------------------------------------------------------------------------------------ JSON


def test_json_is_strict_and_keeps_its_contract(report):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((report / "gate.json").read_text("utf-8"), parse_constant=refuse)
    assert content.keys() >= {"schema", "verdict", "machine", "versions", "failures", "models"}
    assert content["machine"].keys() >= {"arch", "tier", "cpu", "cores", "providers"}
    assert content["failures"][0].keys() == {"model", "variant", "check", "message", "reproduce"}
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
    assert len(tables) == 2 * 4 + 1  # summary, closeness, latency, footprint; what to deploy, of the reranker
    assert [len(rows) for rows in tables[:2]] == [2 + len(model.variants) - 1 for model in results.models]  # without O4
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


def unfolded(text):
    """Return the lines that a page shows before anybody unfolds anything, without blank ones."""
    shown = re.sub(r"<details>(<summary>.*?</summary>).*?^</details>", r"\1", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in shown.splitlines() if line.strip()]


@pytest.mark.parametrize("failures", [0, 1, 2, 30])
def test_markdown_has_fewer_than_sixty_lines_unfolded(results, tmp_path, failures):
    """Failures first, the first of them whole and open, all others whole and folded; nothing is missing."""
    results = full(results)
    message = "minilm-l6 O1: breaks\n" + "  a line\n" * 7 + "  reproduce: tox run -e gate -- 'suites/accuracy'"
    results.failures = [Failure("minilm-l6", "O1", f"check_{index}", message) for index in range(failures)]
    conclude(results, passed=True)
    files.write(results, tmp_path)
    text = (tmp_path / "gate.md").read_text("utf-8")
    lines = unfolded(text)
    assert 30 < len(lines) < 60
    assert text.count(message) == failures
    assert "\n".join(lines).count(message) == min(failures, 1)
    if failures:
        assert lines[2:4] == ["## Failures", "### minilm-l6 O1: check_0"]
    undecided = (
        "- undecided: 28 measurements of minilm-l6, minilm-reranker: for instance minilm-l6 plain 1x16: after 10"
    )
    assert sum(line.startswith(undecided) for line in lines) == 1
    assert sum(line.startswith("- stale baseline: ") for line in lines) == 1


def test_markdown_folds_a_first_failure_that_is_too_long(results, tmp_path):
    results.failures[0].message = "first\n" + "  a line\n" * 50 + "  reproduce: it"
    files.write(results, tmp_path)
    text = (tmp_path / "gate.md").read_text("utf-8")
    assert "<summary>3 failed checks</summary>" in text
    assert len(unfolded(text)) < 60
    assert results.failures[0].message in text


def test_markdown_leaves_out_what_github_would_not_take_and_says_so(results, tmp_path):
    """Details first; then failures, of which gate.json and index.html have all."""
    files.write(results, tmp_path)
    assert "Left out here" not in (tmp_path / "gate.md").read_text("utf-8")
    for model_ in results.models:
        model_.variants[0].checks = {f"check_{'x' * 900}_{index}": Check(Status.PASS) for index in range(40)}
    files.write(results, tmp_path)
    text = (tmp_path / "gate.md").read_text("utf-8")
    assert len(text) < 65_536
    assert text.endswith("and in index.html: Conformance, Closeness, Latency, Footprint.\n")
    results.failures = [Failure("m", "O1", f"check_{index}", "y" * 900) for index in range(200)]
    files.write(results, tmp_path)
    text = (tmp_path / "gate.md").read_text("utf-8")
    assert len(text) < 65_536
    ((shown, count),) = re.findall(r"<summary>(\d+) of (\d+) more failed checks, all of them in index.html", text)
    assert int(count) + text.partition("<details>")[0].count("### m O1: check_") == 200
    assert text.count("### m O1: check_") == int(shown) + 200 - int(count)
    assert (tmp_path / "index.html").read_text("utf-8").count("y" * 900) == 200


def test_markdown_renders_as_folded_parts_and_tables_and_no_foreign_markup(results, tmp_path):
    """As CommonMark with tables, which is what GitHub adds. A text closes no part and begins no tag."""
    hostile = "</details>\n\n<script>alert(1)</script>\n```\n# heading"
    results.models[0].name = "</summary><b>*a*"
    results.failures = [Failure("m", "O1", f"check_{index}", hostile) for index in range(9)]
    files.write(results, tmp_path)
    text = (tmp_path / "gate.md").read_text("utf-8")
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(text)
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert [tag for tag in html if tag.startswith("<details>")][1] == (
        "<details><summary>&lt;/summary&gt;&lt;b&gt;*a* in detail</summary>"
    )
    assert html == [tag for pair in zip(html[::2], ["</details>"] * len(html), strict=False) for tag in pair]
    assert len(html) == 2 * (1 + 2 + 1 + 1)  # failures, models, remarks, machine
    assert sum(token.type == "table_open" for token in tokens) == len(markdown_tables(text))
    assert [token.content for token in tokens if token.type == "fence"] == [f"{hostile}\n"] * 9
    assert "heading" not in {token.content for token in tokens if token.type == "inline"}
    inline = [child for token in tokens for child in token.children or () if child.type == "html_inline"]
    assert inline == []


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
        if tag not in ("meta", "br", "input"):
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
    assert {address[0] for address in page.addresses} == {"#"}
    assert not page.tags & {"link", "img", "iframe"}
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


def test_terminal_without_models_leaves_out_nothing_that_closes_it():
    closing = [terminal.Line(f"notice {number}") for number in range(45)]
    empty = Results(MachineRecord(arch="arm64", tier="arm64", cpu="", cores=1), {})
    text = terminal.render(empty, 80, color=False, closing=closing)
    assert text.count("notice") == 45


def test_empty_run_is_reported(tmp_path):
    empty = Results(MachineRecord(arch="arm64", tier="arm64", cpu="", cores=1), {})
    conclude(empty, passed=True)
    files.write(empty, tmp_path)
    assert (
        terminal.render(empty, 80, False)
        == "NOT JUDGED: no failed checks, and no scores were judged: no variant was selected"
    )


# ----------------------------------------------------------------------------------------- compiled templates


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Return a function that makes an environment of templates of this test, as another run would."""
    templates = tmp_path / "templates"
    templates.mkdir()
    monkeypatch.setattr(files, "TEMPLATES", FileSystemLoader(templates))
    monkeypatch.setattr(files, "COMPILED", tmp_path / "compiled")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def environment(text=None, name="html", **options):
        if text is not None:
            (templates / "page").write_text(text)
        return files._environment(name, **options)

    return environment


def kept(tmp_path):
    return sorted((tmp_path / "compiled").glob("*"))


def test_template_is_compiled_once(compiled, tmp_path, monkeypatch):
    assert compiled("a {{ word }}").get_template("page").render(word="b") == "a b"
    assert len(kept(tmp_path)) == 1
    monkeypatch.setattr(Environment, "compile", lambda *_: pytest.fail("it is compiled again"))
    assert compiled().get_template("page").render(word="b") == "a b"


def test_changed_template_is_compiled_again(compiled):
    compiled("a").get_template("page").render()
    assert compiled("b").get_template("page").render() == "b"


def test_changed_options_in_the_module_count(compiled, monkeypatch):
    compiled("a").get_template("page").render()
    monkeypatch.setattr(files, "version_of", lambda distribution: "4")
    monkeypatch.setattr(Environment, "compile", lambda *_: pytest.fail("it is compiled again"))
    with pytest.raises(pytest.fail.Exception):
        compiled().get_template("page")


def test_what_escapes_and_what_does_not_are_kept_apart(compiled):
    assert compiled("{{ text }}", name="markdown").get_template("page").render(text="<b>") == "<b>"
    assert compiled(name="html", autoescape=True).get_template("page").render(text="<b>") == "&lt;b&gt;"


@pytest.mark.parametrize("length", [0, 5, 16, 24, 40, 90, -1])
def test_damaged_one_is_compiled_again(compiled, tmp_path, length):
    compiled("a").get_template("page").render()
    (file,) = kept(tmp_path)
    file.write_bytes(file.read_bytes()[:length])
    assert compiled().get_template("page").render() == "a"


def test_where_nothing_can_be_kept_it_is_compiled_each_time(compiled, tmp_path):
    files.COMPILED.write_text("a file in the folder's place")
    assert compiled("a").get_template("page").render() == "a"
