"""The documents name what there is: words for every option, field and class of the gate, and places that exist.

What their commands name is tried in test_commands.py, and links within the site by `tox run -e docs`.
"""

import dataclasses
import importlib
import inspect
import itertools
import pkgutil
import re
from enum import StrEnum

import msgspec
import pytest
from markdown_it import MarkdownIt

import fixtures
import fixtures.gate
from fixtures import options
from fixtures.export.variant_guide import VARIANT_GUIDE
from fixtures.export.variants import VARIANT
from fixtures.gate.checks import CHECKS
from fixtures.gate.command_line import ROOT
from fixtures.models.settings import Settings
from fixtures.plugin.exit_statuses import EXIT_STATUSES
from fixtures.report import results
from fixtures.scoring.closeness import METRICS
from fixtures.scoring.task_guide import TASK_GUIDE
from fixtures.scoring.tasks import TASKS
from suites.meta.studies import tables

WORDS = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`\n]+)`", WORDS))
"""What words.md names as code."""
ROOMS = {module.name for module in pkgutil.iter_modules(fixtures.__path__)}
PAGES = sorted(ROOT.glob("docs/**/*.md"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *PAGES])
MOST_LINES_OF_README = 200
TOP = ("fixtures", "suites", "docs", "baselines", ".ci", ".github", ".gitlab")


def gate_modules():
    return [
        importlib.import_module(f"fixtures.gate.{module.name}")
        for module in pkgutil.iter_modules(fixtures.gate.__path__)
    ]


def public_classes(module):
    """Yield the classes that a module defines; errors are no nouns of their own."""
    for name, member in inspect.getmembers(module, inspect.isclass):
        if member.__module__ == module.__name__ and not name.startswith("_") and not issubclass(member, Exception):
            yield member


def dotted(member):
    return f"{member.__module__.removeprefix('fixtures.')}.{member.__qualname__}"


def test_every_option_has_a_word(request):
    flags = re.findall(r'"(--[\w-]+)"', inspect.getsource(options))
    assert len(flags) > 10
    assert set(flags) <= NAMED


@pytest.mark.parametrize("struct", [results.VariantResult, results.ModelResult, results.Results])
def test_every_field_of_the_report_has_a_word(struct):
    assert {field.encode_name for field in msgspec.structs.fields(struct)} <= NAMED


def test_every_class_of_the_gate_and_of_the_report_has_a_word():
    members = [member for module in (*gate_modules(), results) for member in public_classes(module)]
    assert {dotted(member) for member in members} - NAMED == set()
    assert any(dataclasses.is_dataclass(member) for member in members)


def test_every_value_of_an_enumeration_has_a_word():
    """Those are the words that messages, gate.json and other people's scripts have."""
    for room in sorted(ROOMS - {"options"}):
        package = importlib.import_module(f"fixtures.{room}")
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"fixtures.{room}.{module.name}")
    enumerations = [one for one in StrEnum.__subclasses__() if one.__module__.startswith("fixtures.")]
    assert results.Status in enumerations
    assert {value for enumeration in enumerations for value in enumeration} - NAMED == set()


def test_every_metric_has_a_word():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (largest|smallest) value \|$", WORDS, re.MULTILINE))
    assert rows == {name: "largest" if metric.bound == "max" else "smallest" for name, metric in METRICS.items()}


def test_every_name_in_the_words_exists():
    names = [name for name in NAMED if re.fullmatch(r"[a-z_]\w*(\.\w+)+", name) and name.partition(".")[0] in ROOMS]
    assert len(names) > 80
    for name in names:
        pkgutil.resolve_name(f"fixtures.{name}")


def place(file):
    return file.relative_to(ROOT).as_posix()


def anchors(file):
    """Return the anchors of a page's headings, as GitHub and the site make them: small letters, hyphens for spaces."""
    tokens = MarkdownIt("commonmark").parse(file.read_text(encoding="utf-8"))
    texts = [inline.content for token, inline in itertools.pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=place)
def test_every_path_in_a_document_exists(document):
    """Of links, and of code that begins with a folder of this repository; NAME stands for a new one."""
    text = document.read_text(encoding="utf-8")
    paths = re.findall(rf"`((?:{'|'.join(map(re.escape, TOP))})/[\w./-]*)`", text)
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert not missing


def test_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < MOST_LINES_OF_README
    links = set(re.findall(r"\]\((docs/[\w/.-]+\.md)\)", text))
    assert {place(page) for page in PAGES} - links == {"docs/index.md"}


def test_every_table_has_its_page():
    names = [block["name"] for page in PAGES for block in tables.BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(tables.TABLES)


@pytest.mark.parametrize("page", sorted(tables.PAGES.glob("*.md")), ids=place)
def test_tables_of_a_page_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- Table ") == len(tables.BLOCK.findall(text)), "a pair of comments is damaged"
    assert text == tables.filled(text), f"run `{tables.COMMAND}`, and commit it"


def test_damaged_table_is_written_anew():
    page = (tables.PAGES / "exit-statuses.md").read_text(encoding="utf-8")
    damaged = page.replace("| 5 | nothing was judged", "| 5 | all is well")
    assert damaged != page == tables.filled(damaged)


def test_every_row_is_described():
    assert set(VARIANT_GUIDE) == set(VARIANT)
    assert set(TASK_GUIDE) == set(TASKS)
    assert set(EXIT_STATUSES) == {status for status in pytest.ExitCode if status < 6}  # 6 is that of --max-warnings


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("options", re.findall(r'"(--[\w-]+)"', inspect.getsource(options))),
        ("variants", VARIANT),
        ("tasks", TASKS),
        ("conformance-checks", CHECKS),
        ("model-toml", [field.encode_name for field in msgspec.structs.fields(Settings)]),
        ("gate-json", [field.encode_name for field in msgspec.structs.fields(results.VariantResult)]),
    ],
)
def test_table_has_every_row(name, rows):
    """Each with a text beside its name."""
    told = dict(re.findall(r"^\| `(\S+?)(?: [^`]*)?` \| (.*) \|$", tables.TABLES[name](), re.MULTILINE))
    assert [row for row in rows if not told.get(row, "").strip(" |")] == []


MODES = ("mean", "cls")
"""A constant that the docstring of Described names."""


class Described:
    """A class with fields.

    Attributes:
        size, peak: of a process, in MODES: of bytes. at_end: what is left
            afterwards.
        name: what it is called.
    """


def test_docstrings_become_rows():
    """Of several fields in one line, over several lines, and with the values of constants."""
    told = tables.described(Described, ["size", "peak", "at_end", "name", "untold"])
    size = ["of", "a", "process,", "in", "`mean`,", "`cls`:", "of", "bytes."]
    assert {name: text.split() for name, text in told.items()} == {
        "size": size,
        "peak": size,
        "at_end": ["what", "is", "left", "afterwards."],
        "name": ["what", "it", "is", "called."],
    }


def test_parts_of_the_example_are_those_that_run():
    example = (ROOT / "docs" / "examples" / "our_rows.py").read_text(encoding="utf-8")
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    assert [block for block in blocks if block not in example] == []
