"""Mutations of valid files, as Hypothesis draws them: of JSON and TOML by their structure, of any file by its bytes.

A mutation starts from a file that a run would read, so that what is wrong lies deeper than the first line.
"""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]
"""Keys and indices, from the outermost."""
MOST_EDITS = 3
"""Edits of one file; more of them would only be refused sooner."""
MOST_KEYS, MOST_ENTRIES = 100, 4
"""Keys of a table, and entries of a list, that are edited."""

RAW_JSON: Mapping[str, str] = {
    "lists in lists": "[" * 3000 + "]" * 3000,
    "objects in objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "a number of 5,000 digits": "1" + "0" * 5000,
    "more than a float": "1e999",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "half a surrogate pair": r'"\ud800"',
    "a key that comes twice": '1, "schema": 1, "schema": 2',
    "a comma too many": "1,",
    "minus nothing": "-0",
}
"""What no Python value stands for -> its text."""
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, 1e-320, 1e308, -1.5),
    *("", " ", "a", "\x00", "a\x00b", "\n", "\x1b[2J", "\u202ea", "\ud800", "é" * 300, "x" * 5000, "%s{0}{a}"),
    *("/", "..", "../..", "/etc/passwd", "~nosuchuser", "a/../../b", "C:\\x", "nul", "a:b", "sha256:" + "0" * 64),
    *([], [1], [[]], ["a", "a"], {}, {"a": 1}, {"": {}}, [None], list(range(300)), {"a": {"a": {"a": []}}}),
)


class Change(Enum):
    """What an edit does to a value, beside giving it another one."""

    DELETE = auto()
    RENAME = auto()
    ADD = auto()
    REPEAT = auto()
    REVERSE = auto()
    EMPTY = auto()
    NEGATE = auto()
    WRAP = auto()


@dataclass(frozen=True)
class Raw:
    """Text of JSON in the place of a value: a key of RAW_JSON."""

    name: str

    @property
    def placeholder(self) -> str:
        return f"raw text: {self.name}"


@dataclass(frozen=True)
class Edit:
    """A change of one value, or another value in its place, which may stand elsewhere in the document."""

    path: Path
    change: Change | Raw | object


def places_of(document: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all values in a document; of long lists and of vocabularies, of the first few."""
    yield path
    entries: list[tuple[str | int, Any]] = []
    if isinstance(document, dict):
        entries = list(document.items())[:MOST_KEYS]
    elif isinstance(document, list):
        entries = list(enumerate(document[:MOST_ENTRIES]))
    for key, value in entries:
        yield from places_of(value, (*path, key))


def value_at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def edited(document: Any, edits: Sequence[Edit]) -> Any:
    """Return a copy of a document with some edits; one whose place an earlier one has removed does nothing."""
    root: dict[str, Any] = {"": copy.deepcopy(document)}
    for edit in edits:
        *outer, key = ("", *edit.path)
        try:
            container = value_at(root, tuple(outer))
            value = container[key]
        except (KeyError, IndexError, TypeError):
            continue
        if type(container) in (dict, list):
            _change(container, key, value, edit.change)
    return root.get("")


def _change(container: Any, key: str | int, value: Any, change: Change | Raw | object) -> None:
    """Change the value that a dictionary or a list has under a key."""
    match change:
        case Change.DELETE:
            del container[key]
        case Change.RENAME if isinstance(container, dict):
            container[f"{key}_"] = container.pop(key)
        case Change.ADD if isinstance(value, dict):
            value["unknown"] = 1
        case Change.ADD if isinstance(value, list):
            value.append(value[0] if value else 1)
        case Change.REPEAT:
            container[key] = [value, copy.deepcopy(value)]
        case Change.REVERSE if isinstance(value, list | str):
            container[key] = value[::-1]
        case Change.EMPTY:
            container[key] = {} if value is None else type(value)()
        case Change.NEGATE if isinstance(value, bool):
            container[key] = not value
        case Change.NEGATE if isinstance(value, int | float):
            container[key] = -value
        case Change.WRAP:
            container[key] = {"a": value}
        case Raw():
            container[key] = change.placeholder
        case Change():
            pass  # it does not fit the value
        case _:
            container[key] = copy.deepcopy(change)


def json_bytes(document: Any) -> bytes:
    """Return a document as JSON, with the text of each Raw."""
    text = json.dumps(document)
    for name, raw in RAW_JSON.items():
        text = text.replace(json.dumps(Raw(name).placeholder), raw)
    return text.encode()


def edits_of(document: Any, most: int = MOST_EDITS) -> st.SearchStrategy[list[Edit]]:
    """Return a strategy of edits of a document, at least one."""
    places = list(places_of(document))
    changes = st.one_of(
        st.sampled_from(Change),
        st.sampled_from([Raw(name) for name in RAW_JSON]),
        st.sampled_from(ODD_VALUES),
        st.sampled_from(places).map(lambda path: value_at(document, path)),
        st.integers(),
        st.text(max_size=20),
    )
    return st.lists(st.builds(Edit, st.sampled_from(places), changes), min_size=1, max_size=most)


def json_files(content: bytes, most: int = MOST_EDITS) -> st.SearchStrategy[bytes]:
    """Return a strategy of what a JSON file may have become: nine in ten by its structure, and its bytes."""
    document = json.loads(content)
    by_structure = edits_of(document, most).map(lambda edits: json_bytes(edited(document, edits)))
    return st.one_of(*[by_structure] * 4, byte_files(content), st.sampled_from(NO_FILES))


# ------------------------------------------------------------------------------------------------ bytes

NO_FILES = (
    *(b"", b"\x00", b"[", b"{", b"null", b"[]", b"{}", b'"a"', b"[1]", b"1", bytes(range(256))),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
)
"""What lies in the place of a file that was not written, not fetched, or is another one."""
INSERTED = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"[[[[", b"\xed\xa0\x80", b'"', b"\\", b"=", b"\n", b"9" * 400)


@dataclass(frozen=True)
class ByteEdit:
    """An edit of bytes at a place, a number of which only the rest of the division by their length counts.

    Attributes:
        kind: `flip` a bit, `cut` everything behind, `insert` bytes, `drop` some or `repeat` some.
    """

    kind: str
    place: int
    size: int
    inserted: bytes

    def apply(self, content: bytes) -> bytes:
        place = self.place % (len(content) or 1)
        match self.kind:
            case "flip" if content:
                return content[:place] + bytes([content[place] ^ 1 << self.size % 8]) + content[place + 1 :]
            case "cut":
                return content[:place]
            case "insert":
                return content[:place] + self.inserted + content[place:]
            case "drop":
                return content[:place] + content[place + self.size :]
            case "repeat":
                return content[: place + self.size] + content[place:]
        return content


def byte_edits() -> st.SearchStrategy[list[ByteEdit]]:
    kinds = st.sampled_from(("flip", "flip", "cut", "insert", "drop", "repeat"))
    inserted = st.one_of(st.sampled_from(INSERTED), st.binary(min_size=1, max_size=9))
    edit = st.builds(ByteEdit, kinds, st.integers(0, 2**24), st.integers(1, 40), inserted)
    return st.lists(edit, min_size=1, max_size=MOST_EDITS)


def byte_files(content: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of what a file may have become by its bytes."""

    def apply(edits: Sequence[ByteEdit]) -> bytes:
        edited_content = content
        for edit in edits:
            edited_content = edit.apply(edited_content)
        return edited_content

    return byte_edits().map(apply)


# ------------------------------------------------------------------------------------------------ TOML

RAW_TOML = (
    *('""', '"a"', r'"a\u0000b"', r'"\u001b[2J"', '"' + "x" * 5000 + '"', "'''\n'''", "true", "0", "-1", "1", "0.5"),
    *("nan", "-inf", "1e999", "0x_", str(2**63), str(10**30), "1" + "0" * 5000, "1979-05-27", "07:32:00"),
    *("[]", "[1]", '["a"]', "[[1, 2]]", "[[1]]", "[true, 1]", "{}", "{a = 1}", "{a.b.c = 1}", "[" * 3000 + "]" * 3000),
    *('"path:~nosuchuser/m"', '"path:.."', '"path:/etc"', r'"path:/a\u0000b"', f'"path:/{"x" * 5000}"', '"path:."'),
    *('"package:os"', '"package:../x"', '"package:no_such_package"', '"package:.a"', '"package:a..b"', '"package:/"'),
    *('"hub:a/b"', '"seeded:bert@7"', f'"seeded:bert@{"9" * 50}"', '"seeded:gpt2@1"', '"seeded:none@1"', '"path:a"'),
    *('"mean+max"', '"mean+"', '"embedding"', '"rerank"', '"bge-m3"', '"decoder-rerank"', '"sha256:' + "0" * 64 + '"'),
)
"""Values that a line of a TOML file may get, and some that are none."""
LINES = (
    *("[", "[[limits]]", "[ceilings]", "[ceilings.int8]", "[a.b.c]", "[[a]]", "=", "a", "a = 1", '"" = 1', "a.b = 1"),
    *("task.x = 1", "[task]", "[prompts]", "[tokenizer]", "[export]", "pooled = true", "max_abs_error = nan", "# \x00"),
    *(f"{'a.' * 2000}a = 1", "\ufeff", "\u2028", r'"\u202e" = 1', r'"\u001b[2J" = 1', "[[document]]", "[update]"),
)


@st.composite
def toml_texts(draw: st.DrawFn, text: str, keys: Sequence[str]) -> bytes:
    """Draw what a TOML file may have become by its lines: values, keys, lines of another, and their order.

    Args:
        keys: that such a file may have.
    """
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, MOST_EDITS))):
        place = draw(st.integers(0, max(0, len(lines) - 1)))
        kind = draw(st.sampled_from(("value", "value", "value", "new", "new", "key", "line", "drop", "repeat", "swap")))
        key, equals, value = (lines[place] if lines else "").partition("=")
        raw = st.one_of(st.sampled_from(RAW_TOML), st.text(max_size=12).map(json.dumps), st.integers().map(str))
        match kind:
            case "value" if equals:
                lines[place] = f"{key}= {draw(raw)}"
            case "new":
                lines.insert(place, f"{draw(st.sampled_from(list(keys)))} = {draw(raw)}")
            case "key" if equals:
                lines[place] = f"{draw(st.sampled_from(list(keys)))} = {value}"
            case "drop" if lines:
                del lines[place]
            case "repeat" if lines:
                lines.insert(place, lines[place])
            case "swap" if lines:
                lines.append(lines.pop(place))
            case _:
                lines.insert(place, draw(st.sampled_from(LINES)))
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def toml_files(text: str, keys: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Return a strategy of what a TOML file may have become: by its lines, and its bytes."""
    by_lines = toml_texts(text, keys)
    return st.one_of(*[by_lines] * 4, byte_files(text.encode()), st.sampled_from(NO_FILES))


def keys_of(text: str) -> list[str]:
    """Return the keys of the lines of a TOML text, without those of their tables."""
    return sorted(set(re.findall(r"^([\w.]+) *=", text, re.MULTILINE)))


# ------------------------------------------------------------------------------------------------ safetensors

HEADER_LENGTH = struct.Struct("<Q")
ELEMENT_BYTES = {"F64": 8, "C64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F4": 0.5}
"""Type of a tensor in a .safetensors -> bytes of an element."""
ODD_LENGTHS = (0, 1, 8, 2**31, 2**63, 2**64 - 1)
"""Bytes that a header of a .safetensors says it has."""


def safetensors_files(content: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of what a .safetensors file may have become: its header by structure, its length, its bytes."""
    (length,) = HEADER_LENGTH.unpack_from(content)
    header, data = content[HEADER_LENGTH.size :][:length], content[HEADER_LENGTH.size + length :]
    document = json.loads(header)

    def with_header(changed: bytes) -> bytes:
        padded = changed + b" " * (-len(changed) % 8)
        return HEADER_LENGTH.pack(len(padded)) + padded + data

    by_structure = edits_of(document).map(lambda edits: with_header(json_bytes(edited(document, edits))))
    of_types = st.tuples(st.sampled_from(list(document)), st.sampled_from(list(ELEMENT_BYTES))).map(
        lambda choice: with_header(json_bytes(retyped(document, *choice)))
    )
    of_length = st.sampled_from(ODD_LENGTHS).map(lambda number: HEADER_LENGTH.pack(number) + content[8:])
    of_header_bytes = byte_files(content[: HEADER_LENGTH.size + length]).map(lambda head: head + data)
    return st.one_of(
        *[by_structure] * 3, of_types, of_length, of_header_bytes, byte_files(content), st.sampled_from(NO_FILES)
    )


def retyped(document: Mapping[str, Any], name: str, kind: str) -> dict[str, Any]:
    """Return a header in which a tensor has another type, and as many elements as its bytes hold of it."""
    entry = document[name]
    if "data_offsets" not in entry:
        return dict(document)
    begin, end = entry["data_offsets"]
    return {**document, name: {**entry, "dtype": kind, "shape": [int((end - begin) / ELEMENT_BYTES[kind])]}}
