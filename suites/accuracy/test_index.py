"""What an index loses on top of what the model lost, where model.toml has `[index]`."""

from collections.abc import Sequence

import pytest

from fixtures.gate.case import Case
from fixtures.gate.index_verdicts import judge_index, judge_norms
from fixtures.gate.retrieved import judge_index_quality, why_not_found_in_indexes
from fixtures.plugin.outcomes import inapplicable, require
from fixtures.retrieval.quality import Quality
from fixtures.scoring.index import IndexCloseness, Norms

pytestmark = pytest.mark.scores


def test_index_keeps_neighbours(indexed: Case, index: Sequence[IndexCloseness]) -> None:
    """In an index, a variant loses no more of the reference's neighbours beyond what the index loses than it may."""
    settings = indexed.subject.model.settings.index
    if settings is None or settings.max_overlap_loss is None:
        inapplicable("[index] has no max_overlap_loss; the report says what is lost")
    require(judge_index(indexed, index, settings.max_overlap_loss))


def test_index_finds_graded_passages(case: Case, quality: Quality) -> None:
    """In an index, a variant loses no more of what people graded beyond what the index loses than it may."""
    if not quality.indexes:
        inapplicable(why_not_found_in_indexes(case.subject) or "its embeddings have not the reference's width")
    settings = case.subject.model.settings.index
    if settings is None or settings.max_ndcg_loss is None:
        inapplicable("[index] has no max_ndcg_loss; the report says what is lost")
    require(judge_index_quality(case, quality))


def test_cut_and_norm_come_in_the_references_order(indexed: Case, norms: tuple[Norms, Norms]) -> None:
    """Embeddings that are cut to `dimensions` are normalised after that where the reference's are, and only there."""
    require(judge_norms(indexed, *norms))
