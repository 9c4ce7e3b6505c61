"""The documents name what there is: words for every option, field and class of the gate, and paths that exist."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from enum import StrEnum

import msgspec
import pytest

import fixtures
import fixtures.gate
from fixtures import options
from fixtures.gate.command_line import ROOT
from fixtures.report import results
from fixtures.scoring.closeness import METRICS

WORDS = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`\n]+)`", WORDS))
"""What words.md names as code."""
ROOMS = {module.name for module in pkgutil.iter_modules(fixtures.__path__)}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_path_in_a_document_exists(document):
    """Of links, and of code that begins with a folder of this repository; NAME stands for a new one."""
    text = document.read_text(encoding="utf-8")
    paths = re.findall(rf"`((?:{'|'.join(map(re.escape, TOP))})/[\w./-]*)`", text)
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)]
    missing += [link for link in links if not (document.parent / link).exists()]
    assert not missing


def test_parts_of_the_example_are_those_that_run():
    example = (ROOT / "docs" / "examples" / "our_rows.py").read_text(encoding="utf-8")
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    assert [block for block in blocks if block not in example] == []
