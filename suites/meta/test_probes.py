"""The probes: how many, in which scripts, how long, how graded, and how their tokens are stored."""

import json
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from fixtures.scoring import probes, stress
from fixtures.scoring.encoded import Encoded, EncodedLongText, EncodedProbes, StatedPooling
from fixtures.scoring.probes import LENGTHS, LONG_TEXT, PAIRS, TEXTS, Probe, cut_to_length

NOTES_PAIRS = [
    ("Odio comer manzana.", "I reallly like eating apple"),
    ("I reallly like eating apple", "Realmente me gusta comer manzana."),
    ("I reallly like eating apple", "I hate apples"),
    ("Las manzanas son geniales.", "Realmente me gusta comer manzana."),
]
NOTES_LANGUAGES = {
    "English", "Spanish", "French", "German", "Italian", "Japanese", "Chinese", "Russian", "Arabic", "Hindi"
}  # fmt: skip
SCRIPTS = {
    "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "GEORGIAN",
    "ETHIOPIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL",
}  # fmt: skip
GRADED = [probe for probe in PAIRS if probe.grade is not None]


def scripts_of(text):
    return {unicodedata.name(char, "?").split()[0] for char in text if char.isalpha()}


def test_there_are_enough():
    assert len(TEXTS) >= 80
    assert len({probe.query for probe in GRADED}) >= 40


@pytest.mark.parametrize("rows", [TEXTS, PAIRS])
def test_ids_and_inputs_are_unique(rows):
    assert not [name for name, count in Counter(probe.id for probe in rows).items() if count > 1]
    inputs = Counter((probe.text, probe.pair, probe.length) for probe in rows)
    assert not [probe for probe, count in inputs.items() if count > 1]


def grades_by_query() -> dict[str, list[int]]:
    """Return the grades of each query's passages, in their order."""
    grades: dict[str, list[int]] = {}
    for probe in GRADED:
        assert probe.query is not None
        assert probe.grade is not None
        grades.setdefault(probe.query, []).append(probe.grade)
    return grades


def test_every_query_has_five_graded_passages_that_differ_in_grade():
    grades = grades_by_query()
    assert all(len(query_grades) == 5 for query_grades in grades.values())
    assert all(set(query_grades) <= {0, 1, 2, 3} and len(set(query_grades)) > 1 for query_grades in grades.values())


def test_order_of_passages_gives_no_grade_away():
    """The best passage stands at every place, or a scorer of places would look good."""
    grades = grades_by_query()
    places = Counter(query_grades.index(max(query_grades)) for query_grades in grades.values())
    assert set(places) == {0, 1, 2, 3, 4}
    assert max(places.values()) <= len(grades) / 2


def test_scripts_and_kinds_are_there():
    scripts = set().union(*(scripts_of(probe.text) for probe in TEXTS))
    assert scripts >= SCRIPTS
    corpus = "".join(probe.text for probe in TEXTS)
    assert {"\u200b", "\u200d", "\u0301", "\ufeff", "\u202e"} & set(corpus) >= {"\u200b", "\u200d", "\u0301"}
    assert any(unicodedata.category(char) == "So" for char in corpus), "no emoji"
    assert "https://" in corpus
    assert "" in {probe.text for probe in TEXTS if not probe.length}
    assert any(len(probe.text.split()) == 1 for probe in TEXTS)
    assert {probe.length for probe in TEXTS} == {None, *LENGTHS}


def test_field_notes_are_among_them():
    notes = [probe.text for probe in TEXTS if probe.id.startswith("notes-")]
    assert {text.partition(":")[0].split()[0] for text in notes} == NOTES_LANGUAGES
    assert set(NOTES_PAIRS) <= {(probe.text, probe.pair) for probe in PAIRS}


def test_lengths_are_those_of_their_names():
    assert [LENGTHS[name](256) for name in ("limit", "limit+1", "4*limit")] == [256, 257, 1024]


def words(text):
    return 2 + len(text.split())


def pieces(text):
    """Long words have several tokens, as for a tokenizer of word pieces."""
    return 2 + sum(1 + len(word) // 4 for word in text.split())


@given(st.integers(8, 3000), st.sampled_from([words, pieces]))
def test_text_is_cut_to_the_exact_length(tokens, count_tokens):
    assert count_tokens(cut_to_length(count_tokens, tokens)) == tokens


def test_tokenizer_that_makes_one_token_of_any_text_is_an_error_and_no_endless_search():
    with pytest.raises(ValueError, match="cannot make a text of exactly 9 tokens"):
        cut_to_length(lambda text: 1, 9)


def test_text_that_cannot_be_cut_is_an_error():
    with pytest.raises(ValueError, match="cannot make a text of exactly 9 tokens"):
        cut_to_length(lambda text: 2 * len(text.split()), 9)


def test_filled_probe_keeps_everything_but_its_length():
    count = lambda text, pair: len(text.split()) + len((pair or "").split())  # noqa: E731
    assert probes.fill(Probe("a", "one two"), count, 9) == Probe("a", "one two")
    text = probes.fill(Probe("b", "", length="limit+1"), count, 9)
    assert count(text.text, None) == 10
    assert LONG_TEXT.startswith(text.text)
    pair = probes.fill(Probe("c", "three words here", "", length="limit"), count, 9)
    assert pair.pair is not None
    assert (pair.text, len(pair.pair.split())) == ("three words here", 6)


def test_digest_follows_every_part():
    before = probes.digest(PAIRS)
    assert before == probes.digest(tuple(PAIRS))
    for change in ({"text": "x"}, {"pair": "x"}, {"grade": 9}, {"length": "limit"}):
        changed = Probe(**{**vars(PAIRS[0]), **change})
        assert probes.digest((changed, *PAIRS[1:])) != before


# ------------------------------------------------------------------------------- as tokens

STORED: dict[type[Encoded], dict[str, object]] = {
    EncodedProbes: {
        "ids": {"mask": 4}, "slow": "no slow tokenizer",
        "tokenizer": {
            "padding_side": "right", "truncation_side": "right", "model_max_length": 64,
            "special_tokens": {"mask_token": "[MASK]", "additional_special_tokens": ["[A]"]}, "fields": ["input_ids"],
        },
        "modules": {"pooling": "mean", "normalize": True}, "vocabulary": 9, "type_vocabulary": None, "end": None,
        "position_ids": False,
    },
    EncodedLongText: {"head": 1, "tail": 2, "positions": 64, "position_ids": True},
    Encoded: {"position_ids": False},
}  # fmt: skip
"""Kind of inputs -> what lies beside their arrays in every store, in this order."""


def store_tokens(file, facts):
    metadata = {"pad": {"input_ids": 0}, "padding_side": "right", "extra": facts}
    arrays = {"field.input_ids": np.arange(5), "offsets": np.array([0, 2, 5])}
    save_file(arrays, file, {"encoded": json.dumps(metadata)})


@pytest.mark.parametrize("kind", STORED, ids=lambda kind: kind.__name__)
def test_tokens_are_stored_as_they_always_were(tmp_path, kind):
    """Other bytes would be another artifact, and make everything that is measured of it stale."""
    store_tokens(tmp_path / "old", STORED[kind])
    kind.load(tmp_path / "old").save(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()
    with safe_open(tmp_path / "new", "numpy") as stored:
        assert json.loads(stored.metadata()["encoded"])["extra"] == STORED[kind]


def test_checkpoint_without_modules_has_none(tmp_path):
    store_tokens(tmp_path / "old", STORED[EncodedProbes] | {"modules": {}})
    encoded = EncodedProbes.load(tmp_path / "old")
    assert encoded.facts.modules == StatedPooling()
    encoded.save(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()


@pytest.mark.parametrize("message", ["", "out of range\nand more"])
def test_refusal_is_the_first_line_of_the_error(message):
    class Runtime:
        """A runtime that refuses empty feeds."""

        inputs = ("input_ids",)

        def __call__(self, feeds):
            if not feeds:
                raise IndexError(message)
            return {}

    assert stress.error_of(Runtime(), {}) == f"IndexError: {message.partition(chr(10))[0]}"
    assert stress.error_of(Runtime(), {"input_ids": np.zeros((1, 1), np.int64)}) is None


@pytest.mark.parametrize(
    ("lengths", "tokens", "expected"),
    [
        ([4, 5, 6], None, [[0, 1, 2]]),
        ([4, 5, 6], 18, [[0, 1, 2]]),
        ([4, 5, 6], 17, [[0, 1], [2]]),
        ([6, 5, 4], 10, [[2, 1], [0]]),
        ([40, 50], 10, [[0], [1]]),
    ],
)
def test_batch_has_no_more_tokens_than_it_may(lengths, tokens, expected):
    """A text that is longer than that is a batch of its own; padding counts."""
    offsets = np.cumsum([0, *lengths])
    encoded = Encoded({"input_ids": np.ones(offsets[-1], np.int64)}, offsets, {"input_ids": 0}, "right")
    assert [rows.tolist() for rows, _ in encoded.batches(16, 2.0, tokens)] == expected
