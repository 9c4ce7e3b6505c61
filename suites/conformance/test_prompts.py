"""Prompts are part of what an embedder reads: they reach the scores, and are asked for by what is shipped."""

from pathlib import Path

import numpy as np
import pytest

from fixtures.arrays import unit_rows
from fixtures.gate.case import Case
from fixtures.models.cross_encoders import read_pair_prompt
from fixtures.models.late_interaction import asked_for as asked_for_by_model
from fixtures.models.late_interaction import read_asked_for
from fixtures.models.sentence_transformers import CONFIG_FILE, read_prompts
from fixtures.models.settings import ModelError, Prompts
from fixtures.plugin.outcomes import inapplicable
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.scoring.probes import is_query

pytestmark = pytest.mark.check
PROMPTED = 16
"""Texts that are scored without their prompts, at most: the first ones."""
SAME = 1e-4
"""Difference of the cosine from 1, or of scores, below which those of a text or pair are the same: a prompt moves them
by more."""


def test_prompts_are_asked_for_and_matter(case: Case, finding: NoteFinding) -> None:
    """The configuration beside the graph asks for the model's prompts, and a text, or a pair, without its prompt has
    another embedding, or score; the report says how far it moves."""
    prompts = case.subject.model.settings.prompts
    if prompts is None:
        inapplicable("the model has no prompts")
    probes = case.subject.probes
    rows = [row for row, probe in enumerate(probes) if probe.length is None][:PROMPTED]
    bare = case.encode([(probes[row].text, probes[row].pair) for row in rows]).feeds(np.arange(len(rows)))
    if case.subject.task.probes == "pairs":
        errors = np.abs(case.score(bare) - case.scores[rows])
        finding(f"a pair without {prompts.query!r} has a score that is off by {np.median(errors):.3g}")
        assert errors.max() > SAME, f"{case}: the prompt {prompts.query!r} does not reach the scores"
    else:
        cosines = (unit_rows(case.score(bare)) * unit_rows(case.scores[rows])).sum(axis=1)
        for role, prompt in (("query", prompts.query), ("passage", prompts.passage)):
            of_role = [is_query(probes[row]) == (role == "query") for row in rows]
            if not prompt or not any(of_role):
                continue
            moved = cosines[of_role]
            finding(f"a {role} without {prompt!r} has a cosine of {np.median(moved):.3f} to the same with it")
            assert 1 - min(moved) > SAME, f"{case}: the prompt {prompt!r} does not reach the scores"
    if not case.ready_made or case.ready_made.has_tokenizer:
        require_shipped_prompts(case, prompts)


def test_queries_and_documents_are_asked_for(case: Case) -> None:
    """The configuration beside a ColBERT's graph says how queries and documents were read that were judged."""
    judged = asked_for_by_model(case.subject.model.settings)
    if not judged:
        inapplicable("its queries are read as its documents are")
    if case.ready_made and not case.ready_made.has_tokenizer:
        inapplicable("no tokenizer came with it")
    folder = case.ready_made.path if case.ready_made else case.artifact.folder
    file = case.ready_made.configuration.get(CONFIG_FILE) if case.ready_made else folder / CONFIG_FILE
    if file is None or not file.is_file():
        pytest.fail(f"{case}: {folder} has no {CONFIG_FILE}: whoever runs it has to guess markers and lengths")
    shipped = read_asked_for(file)
    differing = [
        f"  {key} is {shipped[key]!r}, and was judged as {judged[key]!r}"
        for key in judged
        if shipped[key] != judged[key]
    ]
    assert not differing, "\n".join(
        [f"{case}: {file} lets others read texts otherwise than they were judged", *differing]
    )


def require_shipped_prompts(case: Case, prompts: Prompts) -> None:
    """Fail unless the configuration beside the graph asks for these prompts."""
    folder = case.ready_made.path if case.ready_made else case.artifact.folder
    own = case.artifact.folder / CONFIG_FILE
    file = case.ready_made.configuration.get(CONFIG_FILE) if case.ready_made else own if own.is_file() else None
    try:
        shipped = asked_for(case, file) if file else None
    except ModelError as error:
        pytest.fail(f"{case}: {error}", pytrace=False)
    assert shipped == prompts, (
        f"{case}: the model wants {described(prompts)}, and "
        f"{f'{file} asks for {described(shipped)}' if file else f'{folder} has no {CONFIG_FILE}'}: "
        "whoever runs it would score texts without, and find others"
    )


def asked_for(case: Case, file: Path) -> Prompts | None:
    """Return the prompts that a configuration asks for; of pairs, the one that they have by default."""
    if case.subject.task.probes == "texts":
        return read_prompts(file)
    prompt = read_pair_prompt(file)
    return Prompts(query=prompt) if prompt else None


def described(prompts: Prompts | None) -> str:
    """Return prompts as people write them."""
    if prompts is None:
        return "no prompts"
    return f"{prompts.query!r} before queries and {prompts.passage!r} before passages"
