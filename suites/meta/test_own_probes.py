"""Texts of one's own: read row by row, drawn with a seed, and judged beside the built-in probes or instead of them."""

import gzip
import json

import msgspec
import pytest

from fixtures.build.step import key_of
from fixtures.models.settings import Model, Prompts, SettingError, Settings
from fixtures.models.tables import OwnProbes
from fixtures.scoring import own_probes, probes
from fixtures.scoring.own_files import (
    CORPUS_FILE,
    LINES_FILE,
    QRELS_FILE,
    QUERIES_FILE,
    RowError,
    read_qrels,
    read_queries,
)
from fixtures.scoring.own_probes import CALIBRATION, FEWEST_CALIBRATING, find_own_probes, select_own, select_probes
from fixtures.scoring.probes import PAIRS, TEXTS, Probe, prompt_of
from fixtures.scoring.tokens import plan_tokens
from suites.meta.house import LOOSE, House

OWN = OwnProbes("own.jsonl")
MODEL = 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n' + LOOSE
RERANKER = 'task = "rerank"\nsource = "seeded:xlm_roberta@5"\nmax_length = 64\n' + LOOSE
TICKETS = [
    {"text": f"Ticket {number}: the printer on floor {number % 7} shows {number * 37 % 101}"} for number in range(200)
]


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def beir(folder, queries=30, passages=120, grades=True):
    """Write a folder in BEIR's layout in which the nth query is about the nth passage, and a little about the next."""
    words = ["amber", "bridge", "copper", "drum", "ember", "ferry", "garden", "harbour", "island", "jacket", "kettle"]
    text = [
        f"{words[n % 11]} {words[n // 11 % 11]} number {n} lies in the {words[n * 5 % 11]}" for n in range(passages)
    ]
    write_lines(folder / CORPUS_FILE, [{"_id": f"d{n}", "title": "", "text": text[n]} for n in range(passages)])
    write_lines(folder / QUERIES_FILE, [{"_id": f"q{n}", "text": f"where is {text[n][:24]}?"} for n in range(queries)])
    if grades:
        lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n + m}\t{2 - m}" for n in range(queries) for m in (0, 1))]
        write_lines(folder / "qrels" / "test.tsv", lines)
    files = {name: folder / name for name in (CORPUS_FILE, QUERIES_FILE)}
    return files | ({QRELS_FILE: folder / "qrels" / "test.tsv"} if grades else {})


def drawn(file, kind="texts", **settings):
    return select_own({LINES_FILE: file}, kind, msgspec.structs.replace(OWN, **settings))


# ------------------------------------------------------------------------------ reading


def test_rows_may_have_what_they_like_beside_a_text(tmp_path):
    rows = [{"text": f"text {number}", "_id": number, "label": [1]} for number in range(8)]
    file = write_lines(tmp_path / "own.jsonl", ["", rows[0], "  ", *rows[1:]])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().lstrip())
    judged = drawn(file).judged
    # Two of eight calibrate.
    assert len(judged) == 6
    assert {probe.id: probe.text for probe in judged}.items() <= {f"own-{n}": f"text {n}" for n in range(8)}.items()


@pytest.mark.parametrize(
    ("kind", "line", "problem"),
    [
        ("texts", "{", r"own\.jsonl:3: .*: a line is one JSON object"),
        ("texts", "[1]", r"own\.jsonl:3: .*: a line is one JSON object"),
        ("texts", '{"text": 5}', r"own\.jsonl:3: .*text"),
        ("texts", '{"text": "\\ud800"}', r"own\.jsonl:3: "),
        ("texts", {"txt": "a"}, r"own\.jsonl:3: text is missing or empty"),
        ("texts", {"text": "a", "role": "answer"}, r"own\.jsonl:3: .*role"),
        ("texts", {"text": " "}, r"own\.jsonl:3: text is missing or empty"),
        ("texts", {"query": "a", "passage": "b"}, r'own\.jsonl:3: is a pair, and .*\{"text": "..."\}'),
        ("pairs", {"text": "a"}, r'own\.jsonl:3: is no pair, and .*"passage"'),
        ("pairs", {"query": "a"}, r"own\.jsonl:3: passage is missing or empty"),
        ("pairs", {"query": "", "passage": ""}, r"own\.jsonl:3: query and passage are missing or empty"),
        ("pairs", {"query": "a", "passage": "b", "grade": "good"}, r"own\.jsonl:3: .*grade"),
    ],
)
def test_bad_row_is_named_with_its_line(tmp_path, kind, line, problem):
    good = {"texts": {"text": "good"}, "pairs": {"query": "good", "passage": "better"}}[kind]
    file = write_lines(tmp_path / "own.jsonl", [good, good, line])
    with pytest.raises(RowError, match=problem):
        drawn(file, kind)


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        (CORPUS_FILE, {"_id": "d3", "text": "a"}, r"corpus\.jsonl:121: _id 'd3' is another row's too"),
        (QUERIES_FILE, {"_id": "q3", "text": "a"}, r"queries\.jsonl:31: _id 'q3' is another row's too"),
        (CORPUS_FILE, {"text": "no id"}, r"corpus\.jsonl:121: _id is missing"),
        (QUERIES_FILE, {"_id": "q", "text": ""}, r"queries\.jsonl:31: text is missing or empty"),
        ("qrels/test.tsv", "q1 d1 1", r"test\.tsv:62: needs query-id, corpus-id and a whole number"),
        ("qrels/test.tsv", "q1\td1\t0.5", r"test\.tsv:62: needs query-id, corpus-id and a whole number"),
    ],
)
def test_bad_row_of_a_folder_is_named_with_its_line(tmp_path, name, line, problem):
    files = beir(tmp_path)
    with (tmp_path / name).open("a") as stream:
        stream.write(f"{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(RowError, match=problem):
        select_own(files, "pairs", OWN)


def test_qrels_may_have_no_header(tmp_path):
    file = write_lines(tmp_path / "test.tsv", ["q1\td1\t2", "q1\td2\t0", "q2\td1\t-1"])
    assert read_qrels(file) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}


# ------------------------------------------------------------------------------ drawing


def test_sample_does_not_depend_on_the_order_of_rows(tmp_path):
    first = drawn(write_lines(tmp_path / "a", TICKETS), limit=20)
    second = drawn(write_lines(tmp_path / "b", TICKETS[::-1]), limit=20)
    assert {probe.text for probe in first.judged} == {probe.text for probe in second.judged}
    assert len(first.judged) == 20
    assert first.rows == 200


def test_added_row_moves_no_more_than_one(tmp_path):
    before = drawn(write_lines(tmp_path / "a", TICKETS), limit=20)
    after = drawn(write_lines(tmp_path / "b", [{"text": "new"}, *TICKETS]), limit=20)
    assert len({probe.text for probe in before.judged} - {probe.text for probe in after.judged}) <= 1


def test_seed_draws_others(tmp_path):
    file = write_lines(tmp_path / "a", TICKETS)
    samples = [{probe.text for probe in drawn(file, limit=20, seed=seed).judged} for seed in (0, 1)]
    assert len(samples[0] & samples[1]) < 10


@pytest.mark.parametrize("count", [8, 40, 200, 1000])
def test_nothing_that_calibrates_is_judged(tmp_path, count):
    file = write_lines(tmp_path / "a", [{"text": f"text {number}"} for number in range(count)])
    selection = drawn(file, limit=600)
    judged, calibrating = ({probe.text for probe in part} for part in (selection.judged, selection.calibration))
    assert not judged & calibrating
    assert len(calibrating) == min(CALIBRATION, count // 4)
    assert len(judged) == min(600, count - len(calibrating))


def test_pairs_of_a_query_stay_on_one_side(tmp_path):
    rows = [{"query": f"query {n // 5}", "passage": f"passage {n}", "grade": n % 3} for n in range(300)]
    selection = drawn(write_lines(tmp_path / "a", rows), "pairs", limit=100)
    judged, calibrating = ({probe.query for probe in part} for part in (selection.judged, selection.calibration))
    assert not judged & calibrating
    assert len(judged) == 20
    assert all(probe.grade is not None for probe in selection.judged)


def test_same_text_counts_once(tmp_path):
    selection = drawn(write_lines(tmp_path / "a", [{"text": f"text {n % 10}"} for n in range(100)]))
    texts = [probe.text for probe in (*selection.judged, *selection.calibration)]
    assert sorted(texts) == [f"text {n}" for n in range(10)]


def test_copies_take_no_place_in_the_sample(tmp_path):
    rows = [{"text": f"text {n if n % 100 == 0 else 0}", "id": "same"} for n in range(20_000)]
    selection = drawn(write_lines(tmp_path / "a", rows), limit=100)
    assert (len(selection.judged), len(selection.calibration)) == (100, 100)
    assert len({probe.text for probe in (*selection.judged, *selection.calibration)}) == 200


def test_text_of_both_files_is_on_one_side(tmp_path):
    """Of a folder of texts, queries do not calibrate: all are graded."""
    files = beir(tmp_path, queries=100, passages=400)
    with files[CORPUS_FILE].open("a") as corpus:
        corpus.writelines(line.replace('"q', '"x') for line in files[QUERIES_FILE].open())
    selection = select_own(files, "texts", OWN)
    queries = set(read_queries(files).values())
    assert not queries & {probe.text for probe in selection.calibration}
    assert len(selection.calibration) > 50


def test_folder_yields_queries_and_passages(tmp_path):
    selection = select_own(beir(tmp_path), "texts", msgspec.structs.replace(OWN, limit=40))
    roles = [probe.is_query for probe in selection.judged]
    assert (roles.count(True), roles.count(False)) == (20, 20)
    prompts = Prompts("query: ", "passage: ")
    assert [prompt_of(probe, prompts) for probe in selection.judged[::39]] == ["query: ", "passage: "]


def test_rows_of_texts_may_have_a_role(tmp_path):
    rows = [{"text": f"text {number}", "role": ("query", "passage")[number % 2]} for number in range(20)]
    judged = drawn(write_lines(tmp_path / "a", rows)).judged
    assert all(probe.is_query is (int(probe.text.split()[1]) % 2 == 0) for probe in judged)


@pytest.mark.parametrize("grades", [True, False])
def test_folder_yields_pairs(tmp_path, grades):
    selection = select_own(beir(tmp_path, grades=grades), "pairs", msgspec.structs.replace(OWN, limit=100))
    by_query: dict[str, list[Probe]] = {}
    for probe in (*selection.judged, *selection.calibration):
        by_query.setdefault(probe.query or "", []).append(probe)
    assert {len(pairs) for pairs in by_query.values()} == {own_probes.PASSAGES}
    for name, pairs in by_query.items():
        number = int(name.removeprefix("own-q"))
        expected = {f"own-q{number}-d{number}": 2, f"own-q{number}-d{number + 1}": 1} if grades else {}
        assert {pair.id: pair.grade for pair in pairs if pair.grade} == expected


# ------------------------------------------------------------------------------ in a model


def model_of(folder, **values):
    settings = {"task": "embedding", "source": "seeded:bert@7", "max_length": 64, "probes": {"path": "own.jsonl"}}
    (folder / "model.toml").write_text('task = "embedding"\n[probes]\npath = "own.jsonl"\n')
    return Model("m", folder, msgspec.convert(settings | values, Settings))


def test_own_probes_join_or_replace_the_built_in_ones(tmp_path):
    write_lines(tmp_path / "own.jsonl", TICKETS)
    joined = model_of(tmp_path)
    alone = model_of(tmp_path, probes={"path": "own.jsonl", "instead": True})
    counts = [len(select_probes(model, find_own_probes(model), "texts").judged) for model in (joined, alone)]
    assert counts[0] == len(TEXTS) + counts[1]
    own = find_own_probes(joined)
    assert own
    keys = [key_of(plan_tokens(model, own, own=own).document) for model in (joined, alone)]
    assert len(set(keys)) == 2


def test_model_without_own_probes_has_the_built_in_ones(tmp_path):
    model = model_of(tmp_path, probes=None)
    assert select_probes(model, find_own_probes(model), "pairs").judged is PAIRS


def with_another_split(file):
    beir(file)
    (file / "qrels" / "test.tsv").rename(file / "qrels" / "dev.tsv")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda file: None, r"model\.toml:3: probes\.path: .*own\.jsonl does not exist"),
        (lambda file: file.mkdir(), r"model\.toml:3: probes\.path: .*no corpus\.jsonl and no queries\.jsonl"),
        (lambda file: write_lines(file, TICKETS[:9]), r"probes\.path: 7 probes are left to be judged of 9, with limit"),
        (lambda file: write_lines(file, ["nonsense"]), r"probes\.path: .*own\.jsonl:1: "),
        (
            lambda file: write_lines(beir(file)[QRELS_FILE], ["q999\td1\t1"]),
            r"queries\.jsonl: has no query that .*test\.tsv",
        ),
        (lambda file: write_lines(beir(file)[CORPUS_FILE], []), r"probes\.path: .*corpus\.jsonl: has no passage"),
        (with_another_split, r"probes\.split: .*test\.tsv does not exist; there are: dev"),
    ],
)
def test_what_cannot_be_read_is_a_wrong_setting(tmp_path, make, problem):
    make(tmp_path / "own.jsonl")
    model = model_of(tmp_path)
    with pytest.raises(SettingError, match=problem):
        select_probes(model, find_own_probes(model), "texts")


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_files_that_gzip_packed_are_read_as_they_were(tmp_path, kind):
    selections = []
    for name in ("whole", "packed"):
        folder = tmp_path / name
        files = beir(folder / "own.jsonl")
        if name == "packed":
            for file in (files[CORPUS_FILE], files[QUERIES_FILE]):
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
                file.unlink()
        selections.append(select_probes(model_of(folder), find_own_probes(model_of(folder)), kind))
    assert selections[0] == selections[1]
    assert selections[0].rows


def test_packed_lines_are_read_and_damaged_ones_told(tmp_path):
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in TICKETS).encode())
    file = tmp_path / "own.jsonl"
    file.write_bytes(packed)
    assert drawn(file) == drawn(write_lines(tmp_path / "whole.jsonl", TICKETS))
    for damaged in (packed[:-20], packed[:10] + b"\x07" * 50):
        file.write_bytes(damaged)
        with pytest.raises(RowError, match=r"own\.jsonl: is damaged behind line \d+, where gzip cannot unpack it"):
            drawn(file)


def test_digest_of_built_in_probes_is_what_baselines_have():
    """Language and role are not in it, unless a probe of one's own has a role."""
    probe = Probe("a", "text")
    assert probes.digest((Probe("a", "text", language="en"),)) == probes.digest((probe,))
    assert probes.digest((Probe("a", "text", is_query=True),)) != probes.digest((probe,))
    assert probes.digest((Probe("a", "text", is_query=True),)) != probes.digest((Probe("a", "text", is_query=False),))


# ------------------------------------------------------------------------------ whole runs


def test_gate_with_own_texts(tmp_path, shared_store):
    house = House(tmp_path, shared_store)
    house.add("embedder", MODEL + '[probes]\npath = "tickets.jsonl"\nlimit = 16\n')
    write_lines(house.baselines / "embedder" / "tickets.jsonl", TICKETS)
    run = house.run("--variant", "plain", "--variant", "static-quantized", "--approve", suite="suites/accuracy")
    assert run.returncode == 0, run.text
    assert "few texts calibrate" not in run.text
    (model,) = house.gate()["models"]
    assert model["probes"] | {"digest": ""} == {
        "path": "tickets.jsonl", "digest": "", "seed": 0, "rows": 200, "judged": 16, "built_in": len(TEXTS),
        "calibration": CALIBRATION,
    }  # fmt: skip
    assert "16 of 200 rows of tickets.jsonl" in (house.report / "gate.md").read_text()
    calibrated = [manifest["recipe"]["inputs"][1]["parameters"] for manifest, _ in house.artifacts("calibrate")]
    assert any(tokens.get("own", {}).get("for_calibration") for tokens in calibrated)
    again = house.run("--variant", "plain", suite="suites/accuracy")
    assert again.returncode == 0, again.text
    few = write_lines(house.baselines / "embedder" / "tickets.jsonl", TICKETS[:40])
    warning = f"few texts calibrate: embedder static-quantized: 24 of {few.name}, fewer than {FEWEST_CALIBRATING}"
    assert warning in " ".join(house.run("--variant", "static-quantized", suite="suites/accuracy").text.split())
    assert "few texts calibrate" in (house.report / "gate.md").read_text()
    assert "few texts calibrate" not in house.run("--variant", "quantized", suite="suites/accuracy").text
    write_lines(few, TICKETS[:100])
    changed = house.run("--variant", "plain", suite="suites/accuracy")
    assert changed.returncode == 1
    assert "the probes changed since the approval" in changed.text
