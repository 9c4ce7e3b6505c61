"""docs/schemas/ says what the code reads and writes, and `schema` counts up where files would stop to be readable."""

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from fixtures.baselines.costs import write_costs
from fixtures.baselines.files import SCHEMA as BASELINE_SCHEMA
from fixtures.baselines.problems import too_new
from fixtures.latency.records import Quantity
from fixtures.report import files, fleet, schemas
from fixtures.report.compatibility import breaking_changes
from fixtures.report.fleet_file import SCHEMA as FLEET_SCHEMA
from fixtures.report.older import TO_NEXT
from fixtures.report.results import SCHEMA, Failure, MachineRecord, ModelResult, Results, Status, VariantResult
from fixtures.report.schemas import COMMAND, SCHEMA_FILES, SchemaFile
from suites.meta.house import EMBEDDER, FEW, LOOSE, RERANKER, ROOT

GATE, BASELINE, MODEL, PUBLISHED, FLEET, COSTS = SCHEMA_FILES
MODEL_FILES = sorted(ROOT.glob("baselines/**/model.toml"))
BASELINE_FILES = [file for model in MODEL_FILES for file in sorted(model.parent.glob("*.json"))]
PUBLISHED_FILES = sorted(ROOT.glob("baselines/**/published.toml"))
OLDER_REPORTS = Path(__file__).with_name("older_reports")
"""A report of each older schema, `gate-N.json`, as the exportgate of that time wrote it."""


DRAFTS = (Draft202012Validator, Draft7Validator)
"""What the schemas are written in, and what taplo knows."""


def refused(schema_file, content, draft=Draft202012Validator):
    """Return the place and the reason of everything that a schema refuses."""
    validator = draft(json.loads(schema_file.file.read_text(encoding="utf-8")))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


def report_content():
    """Return a gate.json with numbers that are not finite."""
    variant = VariantResult("O2", Status.FAIL, closeness={"max_abs_error": float("nan")}, ceiling={"max_abs_error": 1})
    model = ModelResult("minilm", "sha256:0", "embedding", variants=[variant])
    machine = MachineRecord(arch="x86_64", tier="avx2", cpu="a processor", cores=2)
    results = Results(machine, {"onnxruntime": "1.32.0"}, [model], [Failure("minilm", "O2", "scores", "too far")])
    results.verdict = Status.FAIL
    return msgspec.json.decode(msgspec.json.encode(results))


def set_value(content, path, value):
    """Return a copy of a content with another value in one place; `...` removes the key."""
    content = copy.deepcopy(content)
    *path, last = path
    place = content
    for part in path:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


# ------------------------------------------------------------------------------------- what is committed


@pytest.mark.parametrize("schema_file", SCHEMA_FILES, ids=lambda schema_file: schema_file.name)
def test_committed_schema_is_current(schema_file):
    Draft202012Validator.check_schema(schema_file.make())
    changes = list(breaking_changes(json.loads(schema_file.file.read_text(encoding="utf-8")), schema_file.make()))
    assert not changes, "files that were written before could not be read any more"
    assert schema_file.file.read_text(encoding="utf-8") == schemas.text_of(schema_file.make()), (
        f"run `{COMMAND}`, and commit it"
    )


def test_command_writes_what_changed_compatibly_and_refuses_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(schemas, "FOLDER", tmp_path)
    assert schemas.main() == 0
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {schema_file.file.name: schemas.text_of(schema_file.make()) for schema_file in SCHEMA_FILES}
    older = json.loads(GATE.file.read_text())
    del older["properties"]["answers"]
    GATE.file.write_text(schemas.text_of(older))
    assert schemas.main() == 0
    assert GATE.file.read_text() == written["gate.schema.json"]
    older["properties"]["dropped"] = {"type": "string"}
    GATE.file.write_text(schemas.text_of(older))
    assert schemas.main() == 1
    assert f"gate.schema.json: dropped: is gone; count SCHEMA up to {SCHEMA + 1}" in capsys.readouterr().err
    assert GATE.file.read_text() == schemas.text_of(older)


def test_tox_runs_the_command():
    tox = (ROOT / "tox.ini").read_text()
    assert re.search(rf"\[testenv:{COMMAND.split()[-1]}\]\n(?:.+\n)*commands = .* python -m {schemas.__name__}\n", tox)


def test_keys_are_described_by_the_docstrings():
    definitions = json.loads(GATE.file.read_text(encoding="utf-8"))["$defs"]
    variant = definitions["VariantResult"]["properties"]
    assert variant["bytes"]["description"] == variant["digest"]["description"] == "Of the artifact."
    choice = definitions["Choice"]["properties"]
    assert choice["threads"]["description"] == "Intra-op threads."
    assert "Attributes" not in GATE.file.read_text()
    settings = json.loads(MODEL.file.read_text())["properties"]
    assert settings["weights"]["description"].startswith('The digest of model.safetensors alone: "sha256:" and 64')


# ------------------------------------------------------------------------------------- what is right, and what is not


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("file", MODEL_FILES, ids=lambda file: file.parent.name)
def test_every_model_toml_is_right(file, draft):
    assert refused(MODEL, tomllib.loads(file.read_text(encoding="utf-8")), draft) == []


@pytest.mark.parametrize("text", [EMBEDDER + LOOSE, RERANKER, f"{RERANKER}\n[latency]\nquick = [[1, 16], [8, 128]]\n"])
def test_model_toml_of_tests_is_right(text):
    for draft in DRAFTS:
        assert refused(MODEL, tomllib.loads(text), draft) == []


def documented(*beginnings):
    """Yield the blocks of TOML in documents that have a line with each of these beginnings."""
    for document in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))):
        for block in re.findall(r"```toml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            if all(re.search(rf"^{re.escape(beginning)}", block, re.MULTILINE) for beginning in beginnings):
                yield pytest.param(re.sub(r"sha256:\w*\.\.\.", f"sha256:{0:064}", block), id=document.name)


@pytest.mark.parametrize("text", list(documented("task = ", "source = ", "max_length = ")))
def test_documented_model_toml_is_right(text):
    assert refused(MODEL, tomllib.loads(text)) == []


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("file", PUBLISHED_FILES, ids=lambda file: file.parent.name)
def test_every_published_toml_is_right(file, draft):
    assert refused(PUBLISHED, tomllib.loads(file.read_text(encoding="utf-8")), draft) == []


@pytest.mark.parametrize("draft", DRAFTS)
def test_costs_as_merge_writes_them_are_right(draft):
    written = tomllib.loads(write_costs({"bge-v1.5": 1234.56, "a": 0.01234, "fetched": 0.0}).decode())
    assert written["seconds"]
    assert refused(COSTS, written, draft) == []


@pytest.mark.parametrize("text", list(documented("[seconds]")))
def test_documented_costs_are_right(text):
    assert refused(COSTS, tomllib.loads(text)) == []


def test_every_baseline_is_right():
    assert len(BASELINE_FILES) > 20
    wrong = [file for file in BASELINE_FILES if refused(BASELINE, json.loads(file.read_text(encoding="utf-8")))]
    assert wrong == []


def test_report_is_right_numbers_that_are_not_finite_included():
    content = report_content()
    assert content["models"][0]["variants"][0]["closeness"] == {"max_abs_error": None}
    assert refused(GATE, content) == []


def test_kept_report_is_right():
    content = json.loads((OLDER_REPORTS / f"gate-{SCHEMA - 1}.json").read_text())
    assert refused(GATE, content), f"it is of schema {SCHEMA - 1}"
    results = files.read(OLDER_REPORTS / f"gate-{SCHEMA - 1}.json")
    assert refused(GATE, msgspec.json.decode(msgspec.json.encode(results))) == []


def test_report_of_a_run_is_right(house):
    """With most of what a report can hold: a candidate that fails, thresholds, an index, a shard."""
    decided = '[[thresholds]]\nname = "duplicate"\nscore = "cosine"\nvalue = 0.9\n'
    house.add("bert", f"{EMBEDDER}dimensions = 16\n[index]\n{decided}{LOOSE}")
    assert house.run("--approve", *FEW).returncode == 0
    approved = {file.name: json.loads(file.read_text()) for file in (house.baselines / "bert").glob("*.json")}
    assert [name for name, content in approved.items() if refused(BASELINE, content)] == []
    assert house.run("--candidate", "bert=seeded:bert@8", "--shard", "1/1", *FEW).returncode == 1
    content = house.gate()
    (model,) = content["models"]
    assert all((content["failures"], content["shard"], model["update"], model["moved_probes"], model["thresholds"]))
    assert all((model["variants"][0]["index"], model["reference_norms"]))
    assert refused(GATE, content) == []


CELL = {
    **{"batch": 1, "length": 16, "p50_ms": 1.0, "p95_ms": 2.0, "items_per_s": 3.0, "ratio_to_plain": 1.0},
    **{"interval": [0.9, 1.1], "ratio_to_torch": None, "rounds": 30, "threads": 1},
}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("machine",), ..., "'machine' is a required property"),
        (("schema",), ..., "'schema' is a required property"),
        (("schema",), SCHEMA + 1, rf"schema: {SCHEMA} was expected"),
        (("verdict",), "passed", "'passed' is not one of"),
        (("models",), {}, r"models: \{\} is not of type 'array'"),
        (("models", 0, "name"), 7, r"models\[0\].name: 7 is not of type 'string'"),
        (("models", 0, "variants", 0, "bytes"), 1.5, "1.5 is not of type 'integer'"),
        (("models", 0, "variants", 0, "closeness", "max_abs_error"), "small", "'small' is not valid"),
        (("models", 0, "variants", 0, "ceiling", "max_abs_error"), None, "None is not of type 'number'"),
        (("models", 0, "variants", 0, "latency"), [{**CELL, "p51_ms": 1.0}], "'p51_ms' was unexpected"),
        (("models", 0, "variants", 0, "latency"), [{**CELL, "interval": [1]}], r"\[1\] is too short"),
    ],
)
def test_damaged_report_is_refused_by_schema_and_by_code(tmp_path, path, value, problem):
    damaged = set_value(report_content(), path, value)
    assert re.search(problem, "\n".join(refused(GATE, damaged)))
    (tmp_path / "gate.json").write_text(json.dumps(damaged))
    with pytest.raises(files.Unreadable):
        files.read(tmp_path / "gate.json")


def test_report_with_a_cell_is_right():
    assert refused(GATE, set_value(report_content(), ("models", 0, "variants", 0, "latency"), [CELL])) == []


@pytest.fixture
def fleet_content(tmp_path):
    """A fleet.json of two machines, with a file that they can share and one with a number that is not finite."""
    plain = {"variant": "plain", "graph": "sha256:1", "bytes": 4, "closeness": {"max_abs_error": 1e-7}}
    failed = {**report_content()["models"][0]["variants"][0], "graph": "sha256:2"}
    content = set_value(report_content(), ("models", 0, "variants"), [plain, failed])
    for tier in ("avx2", "sse"):
        (tmp_path / tier).mkdir()
        (tmp_path / tier / "gate.json").write_text(json.dumps(set_value(content, ("machine", "tier"), tier)))
    fleet.merge([tmp_path / "avx2", tmp_path / "sse"], tmp_path / "all")
    return json.loads((tmp_path / "all" / "fleet.json").read_text())


def test_report_of_a_fleet_is_right(fleet_content):
    """With most of what one can hold."""
    (model,) = fleet_content["models"]
    assert all((fleet_content["remarks"], model["wishes"]))
    assert model["shared"] == {"variants": "plain", "graph": "sha256:1"}
    assert model["artifacts"][1]["places"]["sse"]["closeness"] == {"max_abs_error": None}
    assert refused(FLEET, fleet_content) == []
    assert refused(FLEET, set_value(fleet_content, ("models", 0, "shared"), None)) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("schema",), ..., "'schema' is a required property"),
        (("schema",), FLEET_SCHEMA + 1, rf"schema: {FLEET_SCHEMA} was expected"),
        (("verdict",), "passed", "'passed' is not one of"),
        (("machines", 0, "place"), ..., "'place' is a required property"),
        (("models", 0, "artifacts", 0, "bytes"), "4 MB", "'4 MB' is not of type 'integer'"),
        (("models", 0, "artifacts", 0, "places", "sse", "closeness", "max_abs_error"), "small", "'small' is not valid"),
        (("models", 0, "wishes", 0, "for the"), ..., "'for the' is a required property"),
    ],
)
def test_damaged_report_of_a_fleet_is_refused(fleet_content, path, value, problem):
    assert re.search(problem, "\n".join(refused(FLEET, set_value(fleet_content, path, value))))


@pytest.mark.parametrize("name", ["reference.json", "avx2.json", "conformance.json"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("another",), 1),
        (("probes",), 7),
        (("arrays",), ...),
        (("schema",), 2),
    ],
)
def test_damaged_baseline_is_refused(name, path, value):
    content = json.loads((ROOT / "baselines" / "minilm-l6" / name).read_text())
    assert refused(BASELINE, content) == []
    assert refused(BASELINE, set_value(content, path, value))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('poolin = "cls"', "'poolin' was unexpected"),
        ("normalize = 1", "normalize: 1 is not of type 'boolean'"),
        ("dimensions = 0", "dimensions: 0 is less than the minimum of 1"),
        ('digest = "sha256:12"', "does not match"),
        ("[latency]\nquick = [[1, 16, 3]]", r"\[1, 16, 3\] is too long"),
        ("[latency]\nquick = [[1, 0]]", "0 is less than the minimum of 1"),
        ('[tokenizer]\npadding_side = "up"', "'up' is not one of"),
        ('[[limits]]\nvariant = "O2"', "'check' is a required property"),
        ('[ceilings.int8]\nmin_cosine = "high"', "'high' is not of type 'number'"),
    ],
)
def test_wrong_model_toml_is_refused(text, problem):
    embedder = 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\n'
    for draft in DRAFTS:
        assert re.search(problem, "\n".join(refused(MODEL, tomllib.loads(embedder + text), draft)))


SCORE = {"kind": "similarity", "inputs": ["a", "b"], "value": 0.5}
PUBLICATION = {"source": "a page", "precision": "fp16", "tolerance": 0.01, "why": "it rounds", "score": [SCORE]}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ((), [], r"document: \[\] (should be non-empty|is too short)"),
        ((0, "tolerance"), 0, r"document\[0\].tolerance: 0 is less than or equal to the minimum of 0"),
        ((0, "why"), ..., "'why' is a required property"),
        ((0, "reason"), "it rounds", "'reason' was unexpected"),
        ((0, "score", 0, "value"), "0.5", "'0.5' is not of type 'number'"),
        ((0, "score", 0, "label"), -1, "-1 is less than the minimum of 0"),
    ],
)
def test_wrong_published_toml_is_refused(path, value, problem, draft):
    wrong = set_value({"document": [PUBLICATION]}, ("document", *path), value)
    assert re.search(problem, "\n".join(refused(PUBLISHED, wrong, draft)))


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "'seconds' is a required property"),
        ({"seconds": {"a": 0}}, "seconds.a: 0 is less than or equal to the minimum of 0"),
        ({"seconds": {"a": "1 h"}}, "seconds.a: '1 h' is not of type 'number'"),
        ({"seconds": {}, "minutes": {}}, "'minutes' was unexpected"),
    ],
)
def test_wrong_costs_toml_is_refused(content, problem, draft):
    assert re.search(problem, "\n".join(refused(COSTS, content, draft)))


def test_what_other_plugins_add_is_right():
    ours = 'task = "our-task"\nsource = "seeded:bert@7"\nmax_length = 64\nvariants = ["ours"]\n'
    assert refused(MODEL, tomllib.loads(ours)) == []
    assert "O2" in MODEL.file.read_text()
    assert refused(PUBLISHED, {"document": [set_value(PUBLICATION, ("score", 0, "kind"), "our-kind")]}) == []
    assert "colbert" in PUBLISHED.file.read_text()


# ------------------------------------------------------------------------------------- when `schema` counts up


class Color(msgspec.Struct):
    name: str
    weight: int | None = None


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 0


def schema_of(number=1, **fields):
    """Return the schema of a file with these fields: name -> type, or (type, default)."""
    basic = {
        "schema": (int, 1),
        "color": (Color | None, None),
        "closed": (Closed, msgspec.field(default_factory=Closed)),
    }
    entries = basic | {"level": (Literal["low", "high"], "low"), "numbers": (dict[str, float], {})} | fields
    listed = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, kind in entries.items() if kind]
    struct = msgspec.defstruct("File", sorted(listed, key=len))
    return SchemaFile("file", "a file", (struct,), lambda _: None, number).make()


class Renamed(Color):
    """The same fields under another name of the class."""


class Wider(Color):
    shade: str = ""


class Required(msgspec.Struct):
    name: str
    shade: str
    weight: int | None = None


class ClosedAndWider(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 0
    depth: int = 0


COMPATIBLE: dict[str, dict[str, Any]] = {
    "an optional key": {"remark": (str, "")},
    "an optional key further in": {"color": (Wider | None, None)},
    "another name of a class": {"color": (Renamed | None, None)},
    "another default": {"level": (Literal["low", "high"], "high")},
}
INCOMPATIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a key that is gone": ({"level": None}, "level: is gone"),
    "a key that files must have": ({"remark": str}, "remark: is new, and older files lack it"),
    "such a key further in": ({"color": (Required | None, None)}, "shade: is new, and older files lack it"),
    "a key that was optional": ({"level": Literal["low", "high"]}, "level: may be missing no longer"),
    "another type": ({"numbers": (dict[str, str], {})}, "numbers.* type: was number and is string"),
    "a type more": ({"numbers": (dict[str, float | None], {})}, "numbers.*: was type number and is anyOf [{"),
    "a narrower range": ({"numbers": (dict[str, Annotated[float, msgspec.Meta(ge=0)]], {})}, "minimum was not there"),
    "a choice that is gone": ({"level": (Literal["low"], "low")}, "level: high is gone"),
    "a choice more": ({"level": (Literal["low", "high", "top"], "low")}, "level: top is new"),
    "a key where others are refused": (
        {"closed": (ClosedAndWider, msgspec.field(default_factory=ClosedAndWider))},
        "closed.depth: is new, and older versions refuse a key there",
    ),
}


@pytest.mark.parametrize("change", COMPATIBLE)
def test_compatible_change_needs_no_number(change):
    assert list(breaking_changes(schema_of(), schema_of(**COMPATIBLE[change]))) == []


@pytest.mark.parametrize("change", INCOMPATIBLE)
def test_incompatible_change_needs_the_next_number(change):
    fields, problem = INCOMPATIBLE[change]
    (told,) = breaking_changes(schema_of(), schema_of(**fields))
    assert problem in told
    assert "; count SCHEMA up to 2 and read what has 1" in told
    assert list(breaking_changes(schema_of(), schema_of(2, **fields))) == []


def test_number_never_counts_down():
    (told,) = breaking_changes(schema_of(2), schema_of(1))
    assert "was 2 and is 1: it counts up by one" in told


def test_model_toml_may_grow_and_never_shrink():
    """It has no number: nobody writes one for an older exportgate."""
    old = schema_of(None, schema=None)
    for change in ("a choice more", "a key where others are refused"):
        assert list(breaking_changes(old, schema_of(None, schema=None, **INCOMPATIBLE[change][0]))) == []
    for change in ("a key that is gone", "a key that files must have", "a choice that is gone", "another type"):
        (told,) = breaking_changes(old, schema_of(None, schema=None, **INCOMPATIBLE[change][0]))
        assert "stays right" in told


# ------------------------------------------------------------------------------------- older and newer files


def test_every_older_schema_is_read():
    assert sorted(TO_NEXT) == list(range(1, SCHEMA))
    assert {file.name for file in OLDER_REPORTS.iterdir()} == {f"gate-{number}.json" for number in TO_NEXT}


@pytest.mark.parametrize("number", sorted(TO_NEXT))
def test_older_report_opens(number, tmp_path):
    results = files.read(OLDER_REPORTS / f"gate-{number}.json")
    assert results.schema_ == SCHEMA
    assert [variant.variant for variant in results.models[0].variants] == ["plain", "O1"]
    files.write(results, tmp_path)
    assert files.read(tmp_path / files.JSON_FILE) == results


def test_schema_1_said_in_words_what_was_undecided():
    content = json.loads((OLDER_REPORTS / "gate-1.json").read_text())
    results = files.read(OLDER_REPORTS / "gate-1.json")
    (before, *_), (model, *_) = content["models"], results.models
    after: list[ModelResult | VariantResult] = [model, *model.variants]
    for old, new in zip([before, *before["variants"]], after, strict=True):
        assert old["undecided"] == {str(entry.measurement): entry.reason for entry in new.undecided}
    quantities = {entry.measurement.quantity for variant in model.variants for entry in variant.undecided}
    assert quantities >= {Quantity.LATENCY, Quantity.WORKLOAD, Quantity.CALLERS, Quantity.FOOTPRINT}


@pytest.mark.parametrize(
    "undecided", [{"1x16": 3}, {"something": "busy"}, {f"1x{'9' * 5000}": "busy"}, ["1x16"], "1x16", 3]
)
def test_damaged_report_of_schema_1_is_refused(tmp_path, undecided):
    content = json.loads((OLDER_REPORTS / "gate-1.json").read_text())
    content["models"][0]["undecided"] = undecided
    (tmp_path / "gate.json").write_text(json.dumps(content))
    with pytest.raises(files.Unreadable, match=r"gate.json is no report of exportgate"):
        files.read(tmp_path / "gate.json")


@pytest.mark.parametrize("number", [0, -1, "1", None, True, 1.5])
def test_number_that_is_none_is_refused(tmp_path, number):
    (tmp_path / "gate.json").write_text(json.dumps(set_value(report_content(), ("schema",), number)))
    with pytest.raises(files.Unreadable, match=r"gate.json is no report of exportgate"):
        files.read(tmp_path / "gate.json")


def test_page_on_compatibility_has_the_numbers_and_the_message():
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert too_new(SCHEMA + 1, SCHEMA) in page
    assert f"could not read them any more. It is {BASELINE_SCHEMA}.\n" in page


def test_newer_report_says_so(tmp_path):
    """Whatever else it holds."""
    (tmp_path / "gate.json").write_text(f'{{"schema": {SCHEMA + 1}, "models": "in a form that is yet to come"}}')
    told = (
        rf"gate.json was written by a newer exportgate \(schema {SCHEMA + 1}, this one reads up to {SCHEMA}\): upgrade"
    )
    with pytest.raises(files.Unreadable, match=told):
        files.read(tmp_path / "gate.json")
