"""index.html in a browser: plots, switches, sorting and filtering, without a request or an error, for everybody."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fixtures.baselines.tolerances import ProvenanceChange
from fixtures.models.content import visible
from fixtures.report import changes, files, fleet, history_page, page
from fixtures.report.history import Point, Series, speed_changes
from fixtures.report.results import Status
from suites.meta.page_results import COMMAND, HOSTILE, LIMIT, NO_GPU, approval, page_results, without_latencies

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 360)
PAGES = ("passing", "failing", "untimed", "history", "fleet")
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: this machine's own, since Playwright's would be a download of its own."""
    if CHROMIUM is None:
        pytest.skip("unsupported: there is no Chromium; apt-get install chromium brings one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The pages of a run that passes, of one that fails, of one that timed nothing, with a history, and of a fleet."""
    contents = {
        "passing": page_results(),
        "failing": page_results(failing=True),
        "untimed": without_latencies(page_results()),
        "history": page_results(),
    }
    contents["failing"].machine.tier = "avx2"
    folders = {name: tmp_path_factory.mktemp(name) for name in contents}
    for name, results in contents.items():
        files.write(files.printable(results), folders[name])
    points = {
        Series(
            f"suites/latency/test_speed.py::test_speed[an-embedder-{name}]", "plain at 1x128", "avx512, 2 threads"
        ): [
            Point(f"2026-01-{day:02}T10:00", "c0ffee", (1.5 if day < 13 else 1.2) + day % 3 / 1e3, {}, 1e-6)
            for day in range(1, 25)
        ]
        for name in ("O2", "quantized")
    }
    history_page.add(folders["history"], points, speed_changes(points))
    merged = tmp_path_factory.mktemp("fleet")
    fleet.merge([folders["passing"], folders["failing"]], merged)
    return {name: folder / "index.html" for name, folder in folders.items()} | {"fleet": merged / "fleet.html"}


class Opened:
    """A page in a browser, with what it asked for and complained about."""

    def __init__(self, browser, file, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.tab = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.address = file.as_uri()
        self.tab.goto(self.address)

    def unfold(self):
        """Unfold all that is folded; a page without such has no button."""
        for button in self.tab.get_by_role("button", name="Unfold all").all():
            button.click()

    def table(self, label):
        """Return the table in the scrolling box of this name."""
        return self.tab.get_by_role("group", name=label, exact=True).locator("table")

    def column(self, table, number):
        return table.locator(f"tbody tr:visible > *:nth-child({number})").all_inner_texts()


@pytest.fixture
def opened(browser, reports, request):
    options = getattr(request, "param", {})
    opened = Opened(browser, reports["passing"], **options)
    yield opened
    opened.tab.context.close()


# ------------------------------------------------------------------------------------- what it says


def test_fleet_answers_first_and_shows_failures_whole(browser, reports):
    """The run that failed says on which machine, and how to repeat it."""
    opened = Opened(browser, reports["fleet"])
    tab = opened.tab
    assert tab.locator(".verdict p").all_inner_texts() == ["✗ FAIL", "No: 1 failed check in 2 runs."]
    assert tab.locator("main h2").all_inner_texts() == ["Failures", "an-embedder", "a-<b>reranker</b>", "Machines"]
    assert tab.locator(".failure h3").inner_text() == "avx2: an-embedder O3: scores stay within ceiling"
    assert tab.locator(".failure pre.command").inner_text() == COMMAND
    rows = opened.table("Which file passes on which machine, with its max_abs_error").locator("tbody tr")
    assert "plain" in rows.first.inner_text()
    tab.context.close()


def test_history_has_its_step_and_its_plots(browser, reports):
    opened = Opened(browser, reports["history"])
    section = opened.tab.locator("#history")
    assert section.locator("svg.plot").count() == 2
    assert "since 2026-01-13T10:00: test_speed[an-embedder-O2] is 1.2" in section.inner_text()
    opened.tab.context.close()


def test_plots_are_drawn(opened):
    plots = opened.tab.locator("svg.plot")
    assert plots.count() == 2 * 3  # of each model: accuracy against latency, and two batches over length
    for plot in plots.all():
        assert plot.bounding_box()["height"] > 100
        assert plot.locator("path").count() > 5
    words = opened.tab.locator("svg.plot").first.text_content()
    assert "quantized · 23 MB" in words
    assert "PyTorch" in words
    assert opened.tab.locator("svg.curve path").count() == 2 * 6


def test_colours_of_plots_follow_the_page(browser, reports):
    shown = {}
    for scheme in ("light", "dark"):
        opened = Opened(browser, reports["passing"], color_scheme=scheme)
        text = opened.tab.locator("svg.plot text").first
        shown[scheme] = [text.evaluate("text => getComputedStyle(text).fill"), opened.tab.locator("body").evaluate(
            "body => getComputedStyle(body).backgroundColor"
        )]  # fmt: skip
        opened.tab.context.close()
    assert shown["light"] == ["rgb(27, 31, 36)", "rgb(255, 255, 255)"]
    assert shown["dark"] == ["rgb(230, 233, 238)", "rgb(20, 23, 27)"]


def test_failures_stand_first_and_unfolded_with_the_whole_command(browser, reports):
    opened = Opened(browser, reports["failing"])
    tab = opened.tab
    assert tab.locator("main h2").all_inner_texts()[:4] == [
        "Failures", "What was judged", "What changed since the approval", "What to deploy",
    ]  # fmt: skip
    command = tab.locator(".failure pre.command")
    assert command.inner_text() == COMMAND
    assert command.evaluate("pre => pre.scrollWidth <= pre.clientWidth")
    assert HOSTILE[1] in tab.locator(".failure pre").first.inner_text()
    assert tab.locator(".verdict").inner_text().split()[:2] == ["✗", "FAIL"]
    assert "No: 1 check failed, in 1 variant of 14." in tab.locator(".verdict").inner_text()
    tab.context.close()


def test_what_changed_names_versions_files_scores_and_speed(opened):
    text = opened.tab.locator("#changed dd").first.inner_text()
    assert text == (
        "approved 2026-11-20 on avx512; another one now: onnxruntime 1.31.0 → 1.32.0; "
        "ONNX file of plain, O1, O2, O3, quantized, O2-quantized; "
        "scores moved, at most: PyTorch's by 1e-7, variants' by 3e-8 (plain); "
        "speed: slower plain O1 O2 O3 quantized O2-quantized"
    )


def test_verdict_names_what_changed_and_what_to_deploy(opened):
    lines = opened.tab.locator(".verdict p").all_inner_texts()[2:]
    assert lines == [
        "Another one than approved: onnxruntime, ONNX file. What changed",
        "Deploy: an-embedder: quantized; a-<b>reranker</b>: quantized. What to deploy",
    ]


def test_what_changed_tells_the_reference_from_its_variants():
    model = page_results().models[0]
    earlier = approval(ProvenanceChange("tier", "avx2", "avx512"))
    model.since_approval = msgspec.structs.replace(earlier, date="2026-01-01", tier="avx2")
    model.variants[0].since_approval = approval(ProvenanceChange("artifact", "sha256:" + "d" * 64, "sha256:e"))
    results = page_results()
    results.models = [model]
    (changed,) = changes.changed(results)
    assert changed.approved == "approved 2026-11-20 on avx512, the reference 2026-01-01 on avx2"
    assert changed.provenance == (
        "another one now: onnxruntime 1.31.0 → 1.32.0; ONNX file of O1, O2, O3, quantized, O2-quantized; "
        "files beside the graph of plain; for the reference: tier avx2 → avx512"
    )
    model.since_approval = None
    model.reference_drift = {}
    for variant in model.variants:
        variant.since_approval, variant.drift = None, {}
    assert changes.changed(results)[0].approved == ""


def test_recommended_variant_is_marked(opened):
    row = opened.table("Variants of an-embedder").locator("tr", has=opened.tab.locator(".badge"))
    assert row.locator("th").inner_text() == "quantized recommended"
    assert "0.04 of 0.08" in row.inner_text()
    assert float(row.locator(".bar rect").get_attribute("width")) == 50


def test_checks_that_a_machine_cannot_make_are_one_line(opened):
    text = opened.tab.locator("#model-1").inner_text()
    assert text.count("Not judged on this machine: O4") == 1
    assert f"1 not made on this machine (no node leaves the gpu): {NO_GPU}" in text
    assert "O4" not in opened.tab.locator("#model-1 table.matrix thead").text_content()


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("", "Yes: no check failed, and all 12 judged variants keep their limits. Nothing is said of O4"),
        ("unbaselined", "2 of them are unbaselined. Unbaselined means: within the ceiling, but nothing is approved."),
        ("not compared", "The scores of O3 were not compared."),
        ("nothing", "No answer: nothing failed, but no variant's scores were compared in this run."),
        ("ended", "No: no check failed, but the run did not end as it should"),
    ],
)
def test_answer_says_what_it_does_not_cover(change, answer):
    results = page_results()
    for model in results.models:
        for variant in model.variants:
            if change == "unbaselined" and variant.variant == "O3":
                variant.status, variant.reason = Status.UNBASELINED, "nothing is approved"
            if change == "nothing" or (change == "not compared" and variant.variant == "O3"):
                variant.closeness = {}
    if change == "nothing":
        results.verdict = Status.NOT_JUDGED
    if change == "ended":
        results.verdict = Status.FAIL
    told = page.answer(results)
    assert answer in f"{told.word}: {' '.join(told.sentences)}"


def test_candidate_stands_before_its_variants(browser, tmp_path):
    """Its probes beside those of the approved checkpoint; the fingerprints of all variants are there as well."""
    results = page_results()
    embedder = results.models[0]
    embedder.candidate, embedder.approved = "a folder", "sha256:" + "a" * 64
    embedder.moved_probes = embedder.variants[4].moved_probes[:3]
    files.write(results, tmp_path)
    opened = Opened(browser, tmp_path / "index.html")
    section = opened.tab.locator("#model-1")
    assert section.locator("summary", has_text="beside").all_inner_texts()[:3] == [
        "the candidate, beside the approved checkpoint",
        "quantized, beside PyTorch",
        "plain, beside PyTorch",
    ]
    moved = opened.table("Probes that the candidate moved most")
    assert moved.locator("thead th").all_inner_texts() == ["probe", "approved", "the candidate", "moved by"]
    assert moved.locator("tbody tr").count() == 3
    assert section.locator("table", has_text="sha256:f0f0").count() == 1
    opened.tab.context.close()


# --------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("opened", [{}, {"java_script_enabled": False}], indirect=True, ids=["script", "no script"])
def test_heat_map_switches_between_measures(opened):
    table = opened.table("Latency of an-embedder over batch and length")
    row = table.locator("tr", has=opened.tab.get_by_role("rowheader", name="quantized", exact=True))
    texts = {}
    for label in ("ms per run", "texts per second", "times as fast as plain", "as PyTorch"):
        opened.tab.locator("#model-1").get_by_label(label, exact=True).check()
        texts[label] = row.locator("td").first.inner_text()
    assert texts == {
        "ms per run": "2.42", "texts per second": "412", "times as fast as plain": "1.57", "as PyTorch": "1.88",
    }  # fmt: skip
    assert table.locator("td", has_text="undecided").count() == 5
    shades = row.locator("td span.torch").evaluate_all("spans => spans.map(span => span.className)")
    assert len(set(shades)) > 1


def test_tables_sort_by_any_column_and_what_is_missing_stays_last(opened):
    table = opened.table("Variants of an-embedder")
    header = table.locator("thead th").nth(5)
    assert opened.column(table, 1)[:2] == ["plain", "O1"]
    header.get_by_role("button").click()
    assert opened.column(table, 6) == ["13.8", "19.8", "20.8", "24.8", "24.8", "-"]
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").press("Enter")
    assert opened.column(table, 6) == ["24.8", "24.8", "20.8", "19.8", "13.8", "-"]
    assert header.get_attribute("aria-sort") == "descending"
    table.locator("thead th").first.get_by_role("button").click()
    assert opened.column(table, 1)[:3] == ["O1", "O2", "O2-quantized"]
    assert header.get_attribute("aria-sort") is None


def test_rows_are_filtered_by_all_words(opened):
    tab = opened.tab
    section = tab.locator("#claims")
    assert section.locator("tbody tr:visible").count() == 18
    section.get_by_label("Filter rows").fill("claim 3 EMBEDDER")
    assert section.locator("tbody tr:visible").count() == 1
    assert section.locator("output").inner_text() == "1 of 18 rows"
    section.get_by_label("Filter rows").fill("")
    assert section.locator("tbody tr:visible").count() == 18


def test_reasons_are_shown_by_pointer_and_keyboard(opened):
    tab = opened.tab
    tab.get_by_role("button", name="Unfold all").click()
    link = tab.locator("#model-1 table.matrix a.limit").first
    tip = tab.locator("#tip")
    link.hover()
    assert tip.inner_text() == LIMIT
    tab.mouse.move(0, 0)
    assert tip.is_hidden()
    link.focus()
    assert tip.inner_text() == LIMIT
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    tab.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.parametrize("opened", [{"has_touch": True, "viewport": {"width": 360, "height": 800}}], indirect=True)
def test_reasons_are_shown_at_a_touch(opened):
    opened.tab.get_by_role("button", name="Unfold all").click()
    opened.tab.locator("#model-1 table.matrix a.limit").first.tap()
    assert opened.tab.locator("#tip").inner_text() == LIMIT
    assert opened.tab.url == opened.address


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_a_script_the_page_says_everything(opened):
    tab = opened.tab
    assert tab.locator("th button, input[type=search]").count() == 0
    link = tab.locator("#model-1 table.matrix a.limit").first
    reason = tab.locator(link.get_attribute("href"))
    assert LIMIT in reason.text_content()
    tab.locator("#model-1 summary", has_text="How every check ended").click()
    link.click()
    assert reason.is_visible()


def test_link_into_what_is_folded_unfolds_it(opened):
    opened.tab.goto(f"{opened.address}#why-1-0")
    assert opened.tab.locator("#why-1-0").is_visible()


def test_print_has_what_is_folded(opened):
    opened.tab.emulate_media(media="print")
    row = opened.tab.locator("#model-1 table.matrix tbody tr").first
    assert row.bounding_box()["height"] > 5
    assert opened.tab.locator("nav").is_hidden()


# ------------------------------------------------------------------------------------- what it must not


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_for_and_nothing_complains(browser, reports, name):
    opened = Opened(browser, reports[name])
    opened.unfold()
    for button in opened.tab.locator("th button").all()[:40]:
        button.click()
    assert opened.requests == [opened.address]
    assert opened.complaints == []
    opened.tab.context.close()


def test_hostile_texts_stay_texts(opened):
    tab = opened.tab
    tab.get_by_role("button", name="Unfold all").click()
    text = " ".join(tab.locator("main").inner_text().split())
    for hostile in HOSTILE:
        assert " ".join(visible(hostile).split()) in text
    assert tab.title() == "exportgate: pass"
    assert tab.locator("main img, main script, main h1, main b").count() == 0
    source = Path(tab.url.removeprefix("file://")).read_text(encoding="utf-8")
    assert not set(source) & set("\u202e\u2066\u200f\x07\x1b\x00\x7f")


def test_foreign_script_and_style_are_refused(opened):
    """By the Content-Security-Policy, should a text ever get past the escapes."""
    refused = opened.tab.evaluate(
        """() => new Promise((resolve) => {
            const refused = new Set();
            setTimeout(() => resolve([...refused]), 5000);
            document.addEventListener("securitypolicyviolation", (event) => {
                refused.add(event.effectiveDirective);
                if (refused.size === 3) resolve([...refused]);
            });
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", '<p style="color: red">x</p><img src="https://example.org/x">');
        })"""
    )
    assert sorted(refused) == ["img-src", "script-src-elem", "style-src-attr"]
    assert opened.tab.title() == "exportgate: pass"


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("passing", 1280, "light"),
        ("failing", 360, "dark"),
        ("history", 1280, "dark"),
        ("fleet", 1280, "light"),
        ("fleet", 360, "dark"),
    ],
)
def test_axe_finds_no_violation(browser, reports, name, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(
        browser, reports[name], viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    opened.unfold()
    found = Axe().run(opened.tab)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 20
    opened.tab.context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_no_wider_than_the_screen(browser, reports, width, name, pytestconfig):
    """Unfolded as well. What it looks like is kept beside the report of the run."""
    opened = Opened(browser, reports[name], viewport={"width": width, "height": 900})
    shots = Path(pytestconfig.option.report) / "screenshots"
    opened.tab.screenshot(path=shots / f"{name}-{width}.png", full_page=True)
    opened.unfold()
    assert opened.tab.evaluate("document.documentElement.scrollWidth") == width
    opened.tab.context.close()


# ------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(("count", "megabytes", "seconds"), [(2, 6, 2), (40, 25, 20)])
def test_page_is_small_and_opens_soon(browser, tmp_path, count, megabytes, seconds):
    """With the full grid of latencies."""
    names = [f"model-{number}" for number in range(count)]
    files.write(page_results(*names, grid="full"), tmp_path)
    file = tmp_path / "index.html"
    assert file.stat().st_size < megabytes * MEGABYTE
    opened = Opened(browser, file)
    took = opened.tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert took < seconds * 1e3
    unfolded = count <= page.UNFOLDED
    assert opened.tab.get_by_text("All that was measured of model-0").count() == (not unfolded)
    assert opened.tab.locator("#model-1 svg.plot").first.is_visible() == unfolded
    opened.tab.context.close()


def test_page_without_latencies_draws_nothing(tmp_path, monkeypatch):
    """A warm run that compares scores alone does not wait for the plots' library."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    results = page_results()
    with pytest.raises(ImportError, match="vl_convert"):
        files.write(results, tmp_path)
    files.write(without_latencies(results), tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'class="plot"' not in text
    assert 'class="curve"' in text


def test_machinery_does_not_import_the_library_of_plots():
    code = "import sys, fixtures.report.files; sys.exit('vl_convert' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
