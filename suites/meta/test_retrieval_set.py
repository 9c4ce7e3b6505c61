"""fixtures/retrieval/docstrings: BEIR's layout, texts that are unlike each other, and none that a reranker learned."""

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from suites.meta.house import ROOT
from suites.meta.studies.retrieval_set import (
    ANSWER,
    FOLDER,
    LIBRARIES,
    LONGEST_PASSAGE,
    NEAR_DUPLICATE,
    RELATED,
    SHORTEST_PASSAGE,
    SHORTEST_QUERY,
    Docstring,
    RetrievalSet,
    are_known,
    choose_queries,
    load_training,
    normalized,
    overlap,
    parse,
    see_also_pairs,
    training_texts,
)

BYTES = 2_000_000
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "PSF-2.0"}
PATHS = (f"{ROOT}/", "/home/", "/root/", "/tmp/", "/Users/")
LARGEST = {"torch", "transformers"}
"""Two thirds of what the reranker's training reads; the study leaves out their texts too."""


def layout_problems(folder):
    """Return what of a folder is not in BEIR's layout, or does not point to anything, in words."""
    problems, ids, answered = [], {}, Counter[str]()
    for name, keys in (("corpus", ["_id", "title", "text"]), ("queries", ["_id", "text"])):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        problems += [f"{name}: keys {list(row)}" for row in rows if list(row) != keys]
        problems += [f"{name}: {row['_id']}: text" for row in rows if row.get("text") != " ".join(row["text"].split())]
        ids[name] = Counter(row["_id"] for row in rows)
        problems += [f"{name}: {key} occurs {count} times" for key, count in ids[name].items() if count > 1]
    header, *lines = (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()
    if header != "query-id\tcorpus-id\tscore":
        problems.append(f"qrels: header {header!r}")
    judged = Counter(tuple(line.split("\t")[:2]) for line in lines)
    problems += [f"qrels: {pair} is judged {count} times" for pair, count in judged.items() if count > 1]
    for line in lines:
        query, passage, grade = line.split("\t")
        if query not in ids["queries"] or passage not in ids["corpus"]:
            problems.append(f"qrels: {line!r} points to nothing")
        if grade not in {str(ANSWER), str(RELATED)}:
            problems.append(f"qrels: grade {grade!r}")
        answered[query] += grade == str(ANSWER)
    problems += [f"qrels: {query} has {answered[query]} answers" for query in ids["queries"] if answered[query] != 1]
    return problems


def text_problems(retrieval_set):
    """Return which texts are too short, too long, told by other texts, or of somebody's machine, in words."""
    problems = []
    for path, text in retrieval_set.corpus.items():
        if not SHORTEST_PASSAGE <= len(text.split()) <= LONGEST_PASSAGE:
            problems.append(f"{path}: {len(text.split())} words")
        problems += [f"{path}: has {part}" for part in PATHS if part in text]
    bodies = "\n".join(map(normalized, retrieval_set.corpus.values()))
    for query, text in retrieval_set.queries.items():
        if len(text.split()) < SHORTEST_QUERY:
            problems.append(f"{query}: {len(text.split())} words")
        if normalized(text) in bodies:
            problems.append(f"{query}: stands in a passage")
    for (query, path), grade in retrieval_set.qrels.items():
        name = path.rpartition(".")[2]
        if grade == ANSWER and re.search(rf"\b{re.escape(name)}\b", retrieval_set.queries[query], re.IGNORECASE):
            problems.append(f"{query}: names {name}")
    return problems


def near_duplicates(retrieval_set):
    """Return the pairs of passages' ids with nearly the same words."""
    ids, texts = list(retrieval_set.corpus), list(retrieval_set.corpus.values())
    pairs = np.argwhere(np.triu(overlap(texts, texts) > NEAR_DUPLICATE, 1))
    return [(ids[left], ids[right]) for left, right in pairs]


@pytest.fixture(scope="module")
def shipped():
    return RetrievalSet.read(FOLDER)


# ------------------------------------------------------------------------------------ the folder


def test_layout_is_beirs():
    assert layout_problems(FOLDER) == []


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("corpus.jsonl", '{"_id": "new", "text": "two words", "title": ""}', "corpus: keys"),
        ("corpus.jsonl", '{"_id": "new", "title": "", "text": "two  words"}', "corpus: new: text"),
        ("queries.jsonl", '{"_id": "q001", "text": "two words"}', "queries: q001 occurs 2 times"),
        ("queries.jsonl", '{"_id": "q999", "text": "two words"}', "qrels: q999 has 0 answers"),
        ("qrels/test.tsv", "q001\tnothing.here\t1", "qrels: 'q001\\tnothing.here\\t1' points to nothing"),
        ("qrels/test.tsv", "q001\tnothing.here\t3", "qrels: grade '3'"),
    ],
)
def test_damaged_layout_is_seen(tmp_path, file, line, problem):
    folder = shutil.copytree(FOLDER, tmp_path / "set")
    with (folder / file).open("a", encoding="utf-8") as damaged:
        damaged.write(f"{line}\n")
    assert any(words.startswith(problem) for words in layout_problems(folder))


def test_size(shipped):
    assert len(shipped.queries) >= 300
    assert len(shipped.corpus) >= 3000
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < BYTES


def test_what_is_read_is_what_was_written(shipped, tmp_path):
    shipped.write(tmp_path)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_libraries_are_permissive_and_named(shipped):
    text, licences = ((FOLDER / name).read_text("utf-8") for name in ("README.md", "LICENSES.txt"))
    packages = Counter(path.partition(".")[0] for path in shipped.corpus)
    assert set(packages) == {library.package for library in LIBRARIES}
    for library in LIBRARIES:
        assert library.licence in PERMISSIVE
        row = f"| {library.name} | {library.version} | {library.licence} | {packages[library.package]} |"
        assert row in text
        assert f"\n{library.name} {library.version}\n" in licences


# ------------------------------------------------------------------------------------ the texts


def test_texts(shipped):
    assert text_problems(shipped) == []


def test_unsuitable_texts_are_seen(shipped):
    answers = {query: path for (query, path), grade in shipped.qrels.items() if grade == ANSWER}
    (first, path), (second, other), (third, _) = list(answers.items())[:3]
    corpus = shipped.corpus | {path: f"{PATHS[0]} is a folder", other: shipped.corpus[other] + shipped.queries[first]}
    queries = shipped.queries | {second: f"Read what {other.rpartition('.')[2]} wrote", third: "Too few words"}
    assert set(text_problems(replace(shipped, corpus=corpus, queries=queries))) >= {
        f"{path}: 4 words", f"{path}: has {PATHS[0]}", f"{first}: stands in a passage",
        f"{second}: names {other.rpartition('.')[2]}", f"{third}: 3 words",
    }  # fmt: skip


def test_no_passage_is_nearly_another(shipped):
    assert near_duplicates(shipped) == []
    path, text = next(iter(shipped.corpus.items()))
    words = text.split()
    assert (path, "copy") in near_duplicates(replace(shipped, corpus=shipped.corpus | {"copy": " ".join(words[1:])}))


def test_rerankers_training_is_apart(shipped, monkeypatch):
    train = load_training()
    assert not {library.package for library in LIBRARIES} & {*train.LIBRARIES, *sys.stdlib_module_names}
    monkeypatch.setattr(train, "LIBRARIES", [name for name in train.LIBRARIES if name not in LARGEST])
    trained_queries, trained_passages = training_texts(train)
    assert len(trained_queries) > 4000
    passages, queries = list(shipped.corpus.values()), list(shipped.queries.values())
    assert not are_known(passages, trained_passages).any()
    assert not are_known(queries, trained_queries, np.maximum).any()
    assert are_known([*passages[:1], f"It is so: {trained_passages[-1]}"], trained_passages).tolist() == [False, True]
    assert are_known([*queries[:1], trained_queries[-1].upper()], trained_queries, np.maximum).tolist() == [False, True]


# ------------------------------------------------------------------------------------ how it is made

NUMPY_STYLE = """Count the birds of a :class:`~zoo.Flock`.
Wings are counted twice. See [1]_.

.. versionadded:: 3.1
    Birds could not be counted before.

Parameters
----------
flock : Flock
    Whose birds are counted, `None` for all::

        flock = Flock()
wings : bool, default True

See Also
--------
Flock.feed, sing : Other things.
Nest

Examples
--------
>>> count_birds(Flock())
12
"""
LONG = " ".join(["Everything that has been written on this board was agreed by those who keep the place."] * 2)
SPHINX_STYLE = """Open the gate.

:param keeper: who opens the gate and stays beside it until every visitor has left.
:type keeper: a :ref:`keeper of gates <keepers>`
"""


def test_docstring_is_parted():
    docstring = parse("zoo.birds.count_birds", "zoo", NUMPY_STYLE)
    assert docstring == Docstring(
        "zoo.birds.count_birds",
        "zoo",
        "Count the birds of a Flock",
        "Wings are counted twice. See. Parameters: flock: Flock Whose birds are counted, None for all "
        "wings: bool, default True",
        ("Flock.feed", "sing", "Nest"),
    )
    sphinx = parse("zoo.gates.open", "zoo", SPHINX_STYLE)
    assert sphinx
    assert sphinx.body == (
        "keeper: who opens the gate and stays beside it until every visitor has left. keeper: a keeper of gates"
    )


@pytest.mark.parametrize("hole", ["%(flock)s", "{flock}", "/home/keeper/birds", "keeper@zoo.example", "\\frac"])
def test_unsuitable_docstrings_are_left_out(hole):
    assert parse("zoo.count", "zoo", NUMPY_STYLE.replace("twice", hole)) is None


def docstring(path, summary="", body="", see_also=()):
    return Docstring(path, path.partition(".")[0], summary, body, see_also)


def test_related_functions_name_each_other():
    pairs = see_also_pairs([
        docstring("zoo.Bird.eat", see_also=("drink", "Bird.sing", "run")),
        docstring("zoo.Bird.drink", see_also=("eat",)),
        docstring("zoo.Bird.sing"),
        docstring("zoo.Fish.eat", see_also=("Bird.eat", "drink")),
        docstring("zoo.Fish.drink"),
        docstring("park.run", see_also=("eat",)),
    ])  # fmt: skip
    assert {path for path, partners in pairs.items() if partners} == {"zoo.Bird.eat", "zoo.Bird.drink"}
    assert pairs["zoo.Bird.eat"] == {"zoo.Bird.drink"}


def test_queries_ask_what_nothing_else_says():
    passages = [
        docstring("zoo.sing", "Let every bird raise its voice", LONG),
        docstring("zoo.whistle", "Make a sound like that of an owl", "Short."),
        docstring("zoo.feed", "Feed what lives in cages", LONG),
        docstring("park.feed", "Give food to the ducks", LONG),
        docstring("park.offer", "Give the ducks some food", LONG),
        docstring("park.walk", "Go round the whole lake", f"One may go round the whole lake on foot. {LONG}"),
        docstring("park.close", "Call `close_gate` before the night", LONG),
        docstring("park.list", "Print the names of the following", LONG),
        docstring("park.sweep", "Gather leaves from all paths", LONG),
    ]
    assert {row.id for row in choose_queries(passages, ["gather leaves from all PATHS"])} == {"zoo.sing"}
