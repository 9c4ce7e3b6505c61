"""Properties of every text model, tried on random texts.

A failing example ends with a line that can be pasted into a Python prompt in the project's folder.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from fixtures.arrays import Array
from fixtures.gate.case import Case
from fixtures.gate.verdicts import TWO_SIDES, judge_batch
from fixtures.plugin.example_profiles import PROFILE
from fixtures.plugin.outcomes import inapplicable, require
from fixtures.runtimes.session import Feeds
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.fast_tokenizer import Text
from fixtures.scoring.probes import LONG_TEXT
from fixtures.scoring.stress import StressReference, replay_line

pytestmark = pytest.mark.check

EVERY_PLANE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.lists(st.sampled_from(LONG_TEXT.split()), max_size=12).map(" ".join)
PAST_THE_LIMIT = st.integers(1, 3).map(lambda times: " ".join([LONG_TEXT] * times))
TEXTS = EVERY_PLANE | WORDS | st.builds("{} {}".format, WORDS, EVERY_PLANE)


def rows_of(case: Case, *texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[Text]]:
    """Return a strategy for rows of these texts, or for pairs where the task has pairs."""
    second = TEXTS if case.subject.task.probes == "pairs" else st.none()
    return st.tuples(*(st.tuples(first, second) for first in texts)).map(list)


def scored(case: Case, rows: Sequence[Text]) -> tuple[Encoded, Feeds, Array]:
    """Return tokens, feeds and scores of a batch of texts, and note how to get them again."""
    tokens = case.context.artifact(case.subject.plan.tokens).folder
    note(replay_line(case.file, tokens, case.subject.model.settings, rows))
    encoded = case.subject.encode(rows)
    feeds = encoded.feeds(np.arange(len(rows)))
    return encoded, feeds, case.score(feeds)


def by_row(case: Case, encoded: Encoded, scores: Array) -> list[Array]:
    """Split scores into one array per row."""
    return np.split(scores, np.cumsum(encoded.lengths)[:-1] if case.subject.task.per_token else len(encoded.lengths))


@PROFILE
@given(data=st.data())
def test_order_of_a_batch_does_not_matter(case: Case, data: st.DataObject) -> None:
    """A permuted batch yields permuted scores."""
    rows = data.draw(rows_of(case, TEXTS, TEXTS, TEXTS), label="rows")
    order = data.draw(st.permutations(range(len(rows))), label="order")
    encoded, _, scores = scored(case, rows)
    _, feeds, permuted = scored(case, [rows[index] for index in order])
    before = np.concatenate([by_row(case, encoded, scores)[index] for index in order])
    require(judge_batch(case, before, permuted, feeds, "the same batch in another order", TWO_SIDES))


@PROFILE
@given(data=st.data())
def test_padding_does_not_matter(case: Case, data: st.DataObject) -> None:
    """A text scores beside a longer one as it does alone."""
    rows = data.draw(rows_of(case, TEXTS | PAST_THE_LIMIT, TEXTS), label="rows")
    encoded, feeds, scores = scored(case, rows)
    single = np.concatenate([case.score(encoded.feeds(np.array([row]))) for row in range(len(rows))])
    require(judge_batch(case, single, scores, feeds, "the same texts alone", TWO_SIDES))


@PROFILE
@given(data=st.data())
def test_duplicates_score_alike(case: Case, data: st.DataObject) -> None:
    """A text that comes twice in a batch has one score."""
    rows = data.draw(rows_of(case, TEXTS, TEXTS), label="rows")
    encoded, _, scores = scored(case, [*rows, rows[0]])
    first, _, duplicate = by_row(case, encoded, scores)
    difference = float(np.abs(first - duplicate).max())
    assert difference <= 1e-5 * max(1, np.abs(first).max()), (
        f"{case}: a text and its duplicate differ by {difference:.3g}"
    )


@PROFILE
@given(data=st.data())
def test_embeddings_have_unit_norm(case: Case, data: st.DataObject) -> None:
    """Where model.toml says that they are normalised; tokens that a ColBERT skips have no vector."""
    settings = case.subject.model.settings
    if not settings.normalize or settings.dimensions:
        inapplicable("not normalised")
    _, _, scores = scored(case, data.draw(rows_of(case, TEXTS, TEXTS), label="rows"))
    norms = np.linalg.norm(scores[scores.any(axis=1)] if case.subject.task.per_token else scores, axis=1)
    assert np.allclose(norms, 1, atol=1e-5), f"{case}: norms {norms}"


@PROFILE
@given(data=st.data())
def test_o1_equals_plain(case: Case, plain: Case, data: st.DataObject) -> None:
    """What ONNX Runtime does when it loads plain, O1 has done; nothing else."""
    if case.variant.name != "O1":
        inapplicable("not O1")
    _, feeds, scores = scored(case, data.draw(rows_of(case, TEXTS, TEXTS), label="rows"))
    require(judge_batch(case, plain.score(feeds), scores, feeds, "plain", share=0.1))


def test_swapping_query_and_passage_changes_what_it_changes_in_pytorch(
    case: Case, stress_reference: StressReference
) -> None:
    """The order of a pair means in the export what it means in PyTorch."""
    if (swapped := case.subject.swapped) is None:
        inapplicable("no pairs")
    feeds = swapped.feeds(np.arange(len(swapped.lengths)))
    expected, against = stress_reference.scores["swapped"], "PyTorch, pairs and swapped pairs"
    require(judge_batch(case, expected, case.score(feeds), feeds, against))
