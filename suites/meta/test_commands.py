"""Every command in the documents names what there is: environments, options, tests, modules, models, variants."""

import configparser
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from fixtures.export import seeded
from fixtures.export.recipes import EXPORTERS
from fixtures.export.variants import VARIANT
from fixtures.gate.command_line import Requirement
from fixtures.models.settings import model_folders
from fixtures.runtimes.emulation import PROCESSORS
from fixtures.runtimes.hardware import TIER
from suites.meta.house import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHELL, PROSE = ("bash", "console", "sh"), ("", "text")
"""Languages of fenced blocks: all commands, and what a program prints, in which commands are quoted."""
PROGRAMS = ("tox", "python", "pip", "bash", ".tox/meta/bin/python")
ELSEWHERE = ("cd", "git", "jq", "mkdir", "npm", "optimum-cli", "sha256sum")
"""Programs whose arguments are nobody's here."""
MODELS = {folder.name for folder in (*model_folders(ROOT / "baselines"), *model_folders(ROOT / "baselines" / "zoo"))}
NEW_MODELS, NEW_VARIANTS = {"my-embedder", "NAME", "NAME-...", "MODEL"}, {"NAME", "VARIANT"}
"""What documents call what a reader makes."""
OPTIONS_ELSEWHERE = {"--dtype", "--per_channel", "--upgrade"}
"""Options of optimum-cli and pip-compile that documents speak of."""
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini", encoding="utf-8")
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]


def expanded(name):
    """Return the names that an environment's name with alternatives in braces stands for, as tox expands it."""
    parts = [part.split(",") for part in re.split(r"\{([^}]*)\}", name)]
    return {"".join(chosen) for chosen in itertools.product(*parts)}


ENVIRONMENTS = {
    name: TOX[section].get("commands", "")
    for section in TOX.sections()
    if section.startswith("testenv:")
    for name in expanded(section.removeprefix("testenv:"))
}
"""Name -> its commands."""


def blocks_and_spans(text):
    """Yield (language, code) of each block of a document, None for one that is indented, and of each span of code."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("code_block", "fence"):
            yield (token.info if token.type == "fence" else None), token.content
        for child in token.children or ():
            if child.type == "code_inline":
                yield "span", child.content


def logical_lines(code):
    """Return the lines of a shell's code, those together that a backslash joins."""
    return re.sub(r"\\\n\s*", " ", code).splitlines()


def commands_of(text):
    """Yield the commands of a document: lines of blocks, what a program's output quotes, and spans of code.

    An indented block has commands alone: what is none stands in a fenced one.
    """
    for language, code in blocks_and_spans(text):
        lines = logical_lines(code)
        if language is None or language == "console":
            yield from filter(None, lines)
        elif language in PROSE:
            yield from (line[line.index("tox run") :] for line in lines if "tox run" in line)
        elif language == "span" and code.split(" ")[0] in PROGRAMS and " " in code:
            yield code


def problems_of(command, parser):
    """Yield what is wrong with a command, in words."""
    for part in re.split(r" && | \| ", command):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        match words:
            case ["tox", "list"]:
                pass
            case ["tox", "run" | "exec" as verb, "-e", environment, *rest]:
                own, _, behind = (" ".join(map(shlex.quote, rest)) + " ").partition("-- ")
                yield from problems_of_environment(environment, verb, own.split(), shlex.split(behind), parser)
            case ["python" | ".tox/meta/bin/python", "-m", "pytest", *rest]:
                yield from problems_of_arguments(rest, parser)
            case ["python", "-m", "pip", "install", *_] | ["pip", "install", *_]:
                group = words[words.index("--group") + 1] if "--group" in words else "gate"
                if group not in GROUPS:
                    yield f"no group {group} in pyproject.toml"
            case ["python", "-m", module, *rest]:
                yield from problems_of_module(module, rest)
            case ["bash", file, *_]:
                yield from () if (ROOT / file).is_file() else (f"no file {file}",)
            case [program, *_] if program in ELSEWHERE:
                pass
            case _:
                yield f"{part!r} is no command that is known here"


def problems_of_environment(environment, verb, own, behind, parser):
    if environment not in ENVIRONMENTS:
        yield f"no environment {environment} in tox.ini"
        return
    commands = ENVIRONMENTS[environment]
    yield from (f"tox has no {word} here" for word in own if word not in ("--notest", "-r"))
    if verb == "exec":
        yield from problems_of(shlex.join(behind), parser)
    elif "[suite]command" in commands or re.search(r"-e gate\S* -- (?!python)", commands):
        yield from problems_of_arguments(behind, parser)
    elif behind and "{posargs" not in commands:
        yield f"environment {environment} takes nothing behind --"
    elif behind:
        for module in re.findall(r"python -m ((?:suites|fixtures)\.[\w.]+) \{posargs", commands):
            yield from problems_of_module(module, behind)


def problems_of_module(module, words):
    """Yield options of a program that its source does not have."""
    place = ROOT.joinpath(*module.split("."))
    files = [*place.glob("*.py"), *place.parent.glob(f"{place.name}.py")]
    if not files:
        yield f"no module {module}"
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    yield from (f"{module} has no {word}" for word in words if word.startswith("--") and f'"{word}"' not in source)


def problems_of_arguments(words, parser):
    """Yield what is wrong with pytest's arguments; `@FILE`, whose content nobody knows here, is left out."""
    words = [word for word in words if not word.startswith("@")]
    try:
        known, unknown = parser.parse_known_and_unknown_args(words)
    except pytest.UsageError as error:
        yield str(error)
        return
    yield from (f"no option {word}" for word in unknown)
    for place in known.file_or_dir:
        yield from problems_of_test(place)
    named = {
        "model": (known.model or [], MODELS | NEW_MODELS),
        "variant": (known.variant or [], {*VARIANT, *NEW_VARIANTS}),
        "exporter": ([known.exporter] if known.exporter else [], EXPORTERS),
        "tier": ([known.tier] if known.tier else [], TIER),
        "emulated processor": ([known.emulate] if known.emulate else [], PROCESSORS),
        "requirement": (",".join(known.require or ()).split(",") if known.require else [], list(Requirement)),
        "model of a candidate": ([text.partition("=")[0] for text in known.candidate or ()], MODELS | NEW_MODELS),
        "model of a file": ([text.partition(":")[0] for text in known.artifact or ()], MODELS | NEW_MODELS),
    }
    for kind, (names, choices) in named.items():
        yield from (f"no {kind} {name}" for name in names if name not in choices)
    for text in known.artifact or ():
        if (name := text.partition(":")[2].partition("=")[0]) not in {*VARIANT, *NEW_VARIANTS}:
            yield f"no variant {name}"
    folder = known.baselines or ""
    if folder.startswith("baselines") and not (ROOT / folder).is_dir():
        yield f"no folder {folder}"


def problems_of_test(place):
    """Yield what does not exist of a folder, a file, or a test with its parameters."""
    path, _, test = place.partition("::")
    name, _, parameters = test.rstrip("]").partition("[")
    if not (ROOT / path).exists():
        yield f"no path {path}"
    elif name and f"\ndef {name}(" not in (ROOT / path).read_text(encoding="utf-8"):
        yield f"{path} has no test {name}"
    if parameters and not any(parameters == f"{model}-{variant}" for model in MODELS for variant in VARIANT):
        yield f"no model and variant {parameters}"


@pytest.fixture
def parser(request):
    """What reads the command line of this run, and so of any other."""
    return request.config._parser


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_commands_of_a_document_name_what_there_is(document, parser):
    commands = list(commands_of(document.read_text(encoding="utf-8")))
    assert [(command, problem) for command in commands for problem in problems_of(command, parser)] == []


def inputs_of(name, *keys):
    """Return the names that a recipe for CI declares below some of its keys."""
    content = yaml.load((ROOT / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    for key in keys:
        content = content[key]
    return set(content)


def problems_of_recipe(content, parser):
    """Yield what is wrong with a recipe that calls those of this repository: an input or an option that is none."""
    workflow = inputs_of(".github/workflows/exportgate.yml", "on", "workflow_call", "inputs")
    action = inputs_of(".github/actions/gate/action.yml", "inputs")
    gitlab = inputs_of(".gitlab/exportgate.yml", "variables")
    calls = [*content.get("jobs", {}).values()] if isinstance(content, dict) else content
    for call in calls:
        declared = action if "actions/gate@" in call["uses"] else workflow
        yield from (f"no input {name}" for name in call["with"].keys() - declared)
        options = call["with"].get("options", "").splitlines()
        yield from problems_of_arguments([line.partition("#")[0].strip() for line in options], parser)
    variables = content.get("variables", {}) if isinstance(content, dict) else {}
    yield from (f"no variable {name}" for name in variables if name not in gitlab)


RECIPES = [
    (file, code)
    for file in DOCUMENTS
    for language, code in blocks_and_spans(file.read_text("utf-8"))
    if language == "yaml" and ("uses: OWNER/exportgate" in code or "EXPORTGATE_" in code)
]


@pytest.mark.parametrize(("file", "code"), RECIPES, ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_recipes_in_documents_give_what_is_taken(file, code, parser):
    assert list(problems_of_recipe(yaml.load(code, Loader=yaml.BaseLoader), parser)) == []


def test_recipe_that_gives_what_nobody_takes_is_told(parser):
    assert {file.name for file, _ in RECIPES} == {"README.md", "ci.md", "extending.md"}
    call = {
        "uses": "OWNER/exportgate/.github/workflows/exportgate.yml@v1",
        "with": {"baseline": "a", "options": "--on"},
    }
    told = [*problems_of_recipe({"jobs": {"gate": call}}, parser)]
    told += problems_of_recipe({"variables": {"EXPORTGATE_FOLDER": "a"}}, parser)
    assert told == ["no input baseline", "no option --on", "no variable EXPORTGATE_FOLDER"]


def test_documents_have_commands():
    counts = {file.relative_to(ROOT).as_posix(): len(list(commands_of(file.read_text("utf-8")))) for file in DOCUMENTS}
    assert counts["README.md"] > 8
    assert counts["docs/tutorial.md"] > 8
    assert sum(counts.values()) > 120


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_options_in_a_document_exist(document, parser):
    """Those that stand alone as code: of the gate, of its plugins, or of a program of this repository."""
    programs = "".join(file.read_text("utf-8") for file in (ROOT / "suites").glob("**/*.py") if "meta" in file.parts)
    known = {name for action in parser.optparser._actions for name in action.option_strings}
    spans = [code for kind, code in blocks_and_spans(document.read_text("utf-8")) if kind == "span"]
    options = {match[0] for code in spans if (match := re.match(r"--[a-z][\w-]*", code.removeprefix("-- ")))}
    options -= known | OPTIONS_ELSEWHERE
    assert {option for option in options if f'"{option}"' not in programs} == set()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("tox run -e gates", "no environment gates in tox.ini"),
        ("tox run -e gate-ort124", "no environment gate-ort124 in tox.ini"),
        ("tox run -e gate -- --models minilm-l6", "no option --models"),
        ("tox run -e gate -- --model minilm-l7", "no model minilm-l7"),
        ("tox run -e latency -- --variant O5", "no variant O5"),
        ("tox run -e gate -- --grid fuller", "fuller"),
        ("tox run -e gate -- suites/speed", "no path suites/speed"),
        ("tox run -e gate -- 'suites/accuracy/test_scores.py::test_gone[minilm-l6-O2]'", "has no test test_gone"),
        (
            "tox run -e gate -- 'suites/accuracy/test_scores.py::test_scores_do_not_drift[minilm-l6-O5]'",
            "no model and variant minilm-l6-O5",
        ),
        ("tox run -e gate -- --require tiers", "no requirement tiers"),
        ("tox run -e gate -- --artifact my-embedder:O5=a.onnx", "no variant O5"),
        ("tox run -e detection -- --faults a", "suites.meta.studies.detection has no --faults"),
        ("tox run -e lint -- --fix", "environment lint takes nothing behind --"),
        ("tox exec -e gate -- python -m fixtures.report.upgrades", "no module fixtures.report.upgrades"),
        ("pip install --group gates", "no group gates in pyproject.toml"),
        ("bash .ci/runs", "no file .ci/runs"),
        ("cd exportgate && txo run -e gate", "'txo run -e gate' is no command that is known here"),
    ],
)
def test_command_of_what_there_is_not_is_told(command, problem, parser):
    assert any(problem in told for told in problems_of(command, parser))


TUTORIAL = ROOT / "docs" / "tutorial.md"
ENDS = (0, 0, 0, 1, 0)
"""Exit statuses of the tutorial's runs in their order: the fourth is of a ceiling that int8 does not keep."""


def test_tutorial_runs_as_it_is_written(tmp_path, shared_store):
    """Its runs of the gate in their order, over a tiny model; what it adds to model.toml is there for one run."""
    checkpoint, places = tmp_path / "my-embedder", {"my-baselines": tmp_path / "my-baselines"}
    checkpoint.mkdir()
    seeded.make([], checkpoint, {"architecture": "bert_dense", "seed": 15, "labels": 1, "auto_class": "AutoModel"})
    places |= {"/models/my-embedder": checkpoint, "build/my-embedder": tmp_path / "handed over"}
    model, added, ends = places["my-baselines"] / "my-embedder" / "model.toml", "", []
    environment = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
    for language, code in blocks_and_spans(TUTORIAL.read_text(encoding="utf-8")):
        if language == "toml":
            added = code
        for command in logical_lines(code) if language is None else ():
            words = [str(places.get(word, word)) for word in shlex.split(command)]
            if words[0] == "mkdir":
                Path(words[1]).mkdir()
            if words[:4] != ["tox", "run", "-e", "gate"] or "--notest" in words:
                continue
            before = model.read_text() if added else ""
            if added:
                model.write_text(f"{before}\n{added}")
            process = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "fixtures.options"),
                    *("-p", "no:cacheprovider", "--store", str(shared_store), "--report", str(tmp_path / "report")),
                    *words[words.index("--") + 1 :],
                ],
                cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            ends.append((command, process.returncode, process.stdout[-2000:] + process.stderr))
            if added:
                model.write_text(before)
                assert "max_abs_error" in process.stdout
                assert (
                    f"breaks its ceiling {tomllib.loads(added)['ceilings']['quantized']['max_abs_error']}"
                    in process.stdout
                )
                added = ""
    assert [status for _, status, _ in ends] == list(ENDS), ends
    approved = {file.name for file in model.parent.iterdir()}
    assert {"model.toml", "reference.json", "conformance.json"} <= approved
    assert {file.name for file in (tmp_path / "handed over" / "onnx").iterdir()} == {"model.onnx", "model_O3.onnx"}
