"""The tables of docs/reference/, made of the tables and docstrings of the code.

python -m suites.meta.studies.tables

writes each of TABLES anew between the two comments that name it in a page.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

from fixtures import options
from fixtures.baselines.tolerances import TOLERANCES
from fixtures.export.variant_guide import VARIANT_GUIDE
from fixtures.export.variants import ALL_VARIANTS, DEFAULT_VARIANTS
from fixtures.models.settings import Settings
from fixtures.plugin.exit_statuses import EXIT_STATUSES
from fixtures.report.results import MachineRecord, Results
from fixtures.runtimes.hardware import TIERS, Machine
from fixtures.scoring import ceilings
from fixtures.scoring.closeness import METRICS
from fixtures.scoring.task_guide import TASK_GUIDE
from fixtures.scoring.tasks import TASKS

ROOT = Path(__file__).resolve().parents[3]
PAGES = ROOT / "docs" / "reference"
COMMAND = "tox run -e tables"
BLOCK = re.compile(
    rf"^(?P<begin><!-- Table (?P<name>[a-z-]+), written by: {COMMAND} -->)\n.*?"
    r"^(?P<end><!-- end of table (?P=name) -->)$",
    re.MULTILINE | re.DOTALL,
)
"""A place for a table."""
WORDS = {"StrType": "text", "IntType": "whole number", "FloatType": "number", "BoolType": "true or false"}
TABLES_OF_ITEMS = "tables "
"""What begins the words for a list of tables in model.toml."""
REPORT, MODEL = Results, Settings
SAME_FIELDS: Mapping[type, type] = {MachineRecord: Machine}
"""Class of the report -> the class whose docstring says what its fields are."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; cells may have any text in them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "\\<").strip()


def _code(name: object) -> str:
    return f"`{name}`"


def _number(value: float) -> str:
    return f"{value:g}"


class _Group:
    """Takes what the command line would be given, in place of pytest's parser."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Mapping[str, Any]]] = []

    def getgroup(self, _name: str) -> _Group:
        return self

    def addoption(self, flag: str, **settings: Any) -> None:
        self.rows.append((flag, settings))


def command_line() -> str:
    group = _Group()
    options.pytest_addoption(group)  # type: ignore[arg-type]
    return table(["option", "does"], ((_flag(flag, settings), settings["help"]) for flag, settings in group.rows))


def _flag(flag: str, settings: Mapping[str, Any]) -> str:
    value = settings.get("metavar") or "|".join(settings.get("choices", ()))
    several = "..." if settings.get("nargs") == "+" else ""
    return _code(f"{flag} {value}{several}".strip())


def exit_statuses() -> str:
    return table(["exit status", "means"], ((str(int(status)), text) for status, text in EXIT_STATUSES.items()))


def variants() -> str:
    default = {variant.name for variant in DEFAULT_VARIANTS}
    return table(
        ["variant", "what it is", "when to choose it", "class", "judged"],
        (
            (
                _code(variant.name),
                *VARIANT_GUIDE.get(variant.name, ("", "")),
                variant.precision.name,
                "always" if variant.name in default else "where named",
            )
            for variant in ALL_VARIANTS
        ),
    )


def tasks() -> str:
    return table(
        ["task", "of", "scores", "compared by", "thresholds on"],
        (
            (
                _code(task.name),
                task.probes,
                TASK_GUIDE.get(task.name, ""),
                ", ".join(map(_code, task.metrics)),
                ", ".join(map(_code, task.threshold_scores)),
            )
            for task in TASKS.values()
        ),
    )


def tiers() -> str:
    return table(
        ["tier", "of", "flags of the processor", "weights of `quantized`", "16-bit sums overflow"],
        (
            (
                _code(tier.name),
                tier.family,
                ", ".join(sorted(tier.flags)),
                tier.int8.weights_dtype + (", reduced range" if tier.int8.reduce_range else ""),
                "yes" if tier.saturates else "no",
            )
            for tier in TIERS
        ),
    )


def limits() -> str:
    """Return ceilings by class, and where their figures come from."""
    classes = [value for value in vars(ceilings).values() if isinstance(value, ceilings.Precision)]
    figures = table(
        ["metric", *(precision.name for precision in classes)],
        (
            (_code(name), *(_number(p.ceiling[name]) if name in p.ceiling else "" for p in classes))
            for name in METRICS
            if any(name in precision.ceiling for precision in classes)
        ),
    )
    return figures + "\n" + table(["class", "source"], ((p.name, p.source) for p in classes))


def tolerances() -> str:
    return table(
        ["class", "versions", "drift", "reason"],
        (
            (
                precision,
                "the same" if same else "others",
                ", ".join(f"{_code(name)} {_number(limit)}" for name, limit in row.limits.items()),
                row.reason,
            )
            for (precision, same), row in TOLERANCES.items()
        ),
    )


def checks(suite: str) -> str:
    """Return what each test function of a suite claims, module by module, as its docstring says it."""
    parts = []
    for file in sorted((ROOT / "suites" / suite).glob("test_*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        functions = [
            part for part in module.body if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")
        ]
        rows = ((_code(part.name.removeprefix("test_")), ast.get_docstring(part) or "") for part in functions)
        title = file.stem.removeprefix("test_")
        parts.append(f"### {title}\n\n{ast.get_docstring(module) or ''}\n\n{table(['check', 'claim'], rows)}")
    return "\n".join(parts)


def described(owner: type, names: Iterable[str]) -> dict[str, str]:
    """Return field -> what the `Attributes:` of a class's docstring say of it.

    Several fields may share a description, `rss_mb, peak_rss_mb: memory ...`, and a line may begin with another field.
    """
    text = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    starts = list(re.finditer(rf"(?:^ *|(?<=\. ))((?:{known})(?:, (?:{known}))*): ", text, re.MULTILINE))
    ends = [*(start.start() for start in starts), len(text)][1:]
    found = {}
    for start, end in zip(starts, ends, strict=True):
        for name in start[1].split(", "):
            found[name] = _values(owner, text[start.end() : end])
    return found


def _values(owner: type, text: str) -> str:
    """Return a text with the values of a module's constants in place of their names."""
    module = vars(sys.modules[owner.__module__])

    def value(match: re.Match[str]) -> str:
        constant = module.get(match[0])
        return ", ".join(map(_code, constant)) if isinstance(constant, tuple) else match[0]

    return re.sub(r"\b[A-Z]+_?[A-Z_]+\b", value, text)


def _from_words() -> dict[str, str]:
    """Return field of gate.json -> the meaning of its word in docs/words.md."""
    meanings: dict[str, str] = {}
    for line in (ROOT / "docs" / "words.md").read_text(encoding="utf-8").splitlines():
        cells = line.split(" | ")
        if len(cells) == 3 and "report " in cells[2]:
            for name in re.findall(r"`(\w+)`", cells[2].rpartition("report ")[2]):
                meanings.setdefault(name, re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", cells[1]))
    return meanings


def _record_fields(of: types.Type) -> tuple[type, Sequence[types.Field]] | None:
    if isinstance(of, types.StructType | types.DataclassType | types.NamedTupleType):
        return of.cls, of.fields
    return None


def type_words(of: types.Type, link: Callable[[type], str]) -> str:
    """Return what a value may be, in words; `link` names an object."""
    match of:
        case types.Metadata():
            schema = of.extra_json_schema or {}
            return schema.get("description") or type_words(of.type, link)
        case types.NoneType():
            return "nothing"
        case types.LiteralType():
            return " or ".join(_code(value) for value in of.values if value != "")
        case types.EnumType():
            return " or ".join(_code(value.value) for value in of.cls if isinstance(value, Enum))
        case types.ListType() | types.VarTupleType() | types.SetType() | types.CollectionType():
            item = type_words(of.item_type, link)
            return item if item.startswith(TABLES_OF_ITEMS) else f"list of {item}"
        case types.TupleType():
            return "list of " + ", ".join(type_words(item, link) for item in of.item_types)
        case types.DictType():
            return f"{type_words(of.value_type, link)} by name"
        case types.UnionType():
            return " or ".join(type_words(one, link) for one in of.types if not isinstance(one, types.NoneType))
        case _ if record := _record_fields(of):
            return link(record[0])
        case types.IntType() if of.ge == 1:
            return "whole number, 1 or more"
        case _:
            return WORDS.get(type(of).__name__, "any value")


def _inside(of: types.Type) -> Iterator[types.Type]:
    """Yield the types that a type is made of, itself first."""
    yield of
    for name in ("type", "item_type", "value_type"):
        if isinstance(part := getattr(of, name, None), types.Type):
            yield from _inside(part)
    for name in ("types", "item_types"):
        for part in getattr(of, name, ()):
            yield from _inside(part)


def _default(field: types.Field) -> str:
    if field.required:
        return "has to be there"
    if field.default is msgspec.NODEFAULT:
        return ""
    if isinstance(field.default, msgspec.Struct) or field.default in (None, (), ""):
        return ""
    value = field.default
    return _code(str(value).lower() if isinstance(value, bool) else value)


def report_fields() -> str:
    """Return the fields of gate.json, an object after the other, as they are met from its root."""
    pending, seen, parts = [types.type_info(REPORT)], set(), []
    words = _from_words()
    while pending:
        record = _record_fields(pending.pop(0))
        if record is None or record[0] in seen:
            continue
        cls, fields = record
        seen.add(cls)
        told = described(cls, [field.name for field in fields])
        if cls in SAME_FIELDS:
            told = described(SAME_FIELDS[cls], [field.name for field in fields]) | told
        rows = []
        for field in fields:
            text = told.get(field.name) or (words.get(field.encode_name, "") if _is_of_report(cls) else "")
            text = re.sub(r"\bNone\b", "null", text)
            rows.append((_code(field.encode_name), type_words(field.type, _heading), text))
            pending += [part for part in _inside(field.type) if _record_fields(part)]
        summary = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
        parts.append(f"### {cls.__name__}\n\n{summary}\n\n{table(['field', 'holds', 'meaning'], rows)}")
    return "\n".join(parts)


def _is_of_report(cls: type) -> bool:
    return cls.__module__ == REPORT.__module__


def _heading(cls: type) -> str:
    return f"[{cls.__name__}](#{cls.__name__.lower()})"


def model_keys() -> str:
    """Return the keys of model.toml: those of the file itself, then those of each table."""
    root = types.type_info(MODEL)
    names: dict[type, str] = {}
    for field in root.fields:  # type: ignore[attr-defined]
        several = any(isinstance(part, types.VarTupleType | types.ListType) for part in _inside(field.type))
        for part in _inside(field.type):
            if record := _record_fields(part):
                names[record[0]] = f"[[{field.name}]]" if several else f"[{field.name}]"
    parts = [_keys(root, names)]
    for field in root.fields:  # type: ignore[attr-defined]
        for part in _inside(field.type):
            if record := _record_fields(part):
                cls = record[0]
                summary = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
                parts.append(f"### `{names[cls]}`\n\n{_values(cls, summary)}\n\n{_keys(part, names)}")
    return "\n".join(parts)


def _keys(of: types.Type, names: Mapping[type, str]) -> str:
    record = _record_fields(of)
    assert record is not None
    cls, fields = record
    told = described(cls, [field.name for field in fields])
    rows = []
    for field in fields:
        text = re.sub(r"\bNone\b", "left out", told.get(field.name, ""))
        rows.append(
            (_code(field.name), type_words(field.type, lambda part: _table_link(names[part])), text, _default(field))
        )
    return table(["key", "may be", "meaning", "default"], rows)


def _table_link(name: str) -> str:
    kind = TABLES_OF_ITEMS if name.startswith("[[") else "table "
    return f"{kind}[`{name}`](#{name.strip('[]')})"


TABLES: Mapping[str, Callable[[], str]] = {
    "options": command_line,
    "exit-statuses": exit_statuses,
    "variants": variants,
    "tasks": tasks,
    "tiers": tiers,
    "ceilings": limits,
    "tolerances": tolerances,
    "conformance-checks": lambda: checks("conformance"),
    "accuracy-checks": lambda: checks("accuracy"),
    "gate-json": report_fields,
    "model-toml": model_keys,
}


def filled(page: str) -> str:
    """Return the text of a page with its tables as they are now; a name that is none of TABLES raises a KeyError."""
    return BLOCK.sub(lambda block: f"{block['begin']}\n\n{TABLES[block['name']]()}\n{block['end']}", page)


if __name__ == "__main__":
    for file in sorted(PAGES.glob("*.md")):
        file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
