"""The tokenizer is part of the model: the same ids, sides and special tokens as were approved."""

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from fixtures.arrays import Array
from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.models.sentence_transformers import ModuleSettings
from fixtures.plugin.outcomes import inapplicable, unbaselined
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.fast_tokenizer import Text, tokenizer_changes
from fixtures.scoring.probes import TEXTS

pytestmark = pytest.mark.check
STATED = {
    "pooling": "its 1_Pooling/config.json",
    "normalize": "its modules.json",
    "dimensions": "truncate_dim in its config_sentence_transformers.json",
    "prompts": "its config_sentence_transformers.json",
    "include_prompt": "its 1_Pooling/config.json",
}
"""Key of model.toml -> where a checkpoint of sentence-transformers says the same of itself."""


def fields_of(encoded: Encoded) -> dict[str, Array]:
    """Return the tokens as a baseline stores them: name -> (total tokens,), and `offsets`."""
    return {**encoded.fields, "offsets": encoded.offsets}


def split(tokens: Mapping[str, Array], name: str = "input_ids") -> list[Array]:
    """Return one field of tokens as `fields_of` has them: one array per text."""
    return np.split(tokens[name], tokens["offsets"][1:-1])


def require_same_tokens(
    subject: Subject,
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    source: str,
    name: str = "input_ids",
    note: str = "",
) -> None:
    """Fail if two sets of tokens of the probes, as `fields_of` has them, differ in a field."""
    pairs = list(zip(split(expected, name), split(actual, name), strict=True))
    differing = [index for index, pair in enumerate(pairs) if not np.array_equal(*pair)]
    if differing:
        first, field = differing[0], "token ids" if name == "input_ids" else name
        expected_tokens, actual_tokens = pairs[first]
        pytest.fail(
            f"{subject.name}: {len(differing)} of {len(pairs)} probes have other {field} than {source}\n"
            f"  {subject.describe(first)}\n  expected {expected_tokens[:24]}\n  now      {actual_tokens[:24]}{note}",
            pytrace=False,
        )


def test_token_ids_are_the_golden_ones(subject: Subject, gate: Gate) -> None:
    """The probes have the token ids that were approved."""
    pins, golden = subject.baseline.conformance_file, subject.baseline.tokens
    if gate.approving:
        return
    if pins is None:
        unbaselined(subject, f"{subject.name} has no approved token ids; record them with --approve")
    if pins.probes != subject.probes_digest:
        pytest.fail(f"{subject.name}: the probes changed since the approval; approve again", pytrace=False)
    require_same_tokens(subject, golden, fields_of(subject.encoded), "were approved")


def test_tokenizer_settings_are_the_pinned_ones(subject: Subject, gate: Gate) -> None:
    """Padding and truncation side, maximum length, special tokens and fields."""
    pins = subject.baseline.conformance_file
    if gate.approving:
        return
    if pins is None:
        unbaselined(subject, f"{subject.name} has no approved tokenizer settings; record them with --approve")
    current = msgspec.structs.asdict(subject.encoded.facts.tokenizer)
    changed = [
        f"{key}: {pins.tokenizer.get(key)} -> {value}"
        for key, value in current.items()
        if pins.tokenizer.get(key) != value
    ]
    assert not changed, f"{subject.name}: the tokenizer's settings changed: {'; '.join(changed)}"


def test_shipped_tokenizer_is_the_checkpoints(case: Case) -> None:
    """The tokenizer beside a ready-made file yields the checkpoint's tokens, in every field, and has its settings."""
    if not case.ready_made or not case.ready_made.has_tokenizer:
        inapplicable("no tokenizer came with it")
    original, shipped = case.subject.encoded, case.encoded
    changes = tokenizer_changes(case.subject.tokenizer, case.tokenizer)
    note = f"\n  its tokenizer.json differs: {'; '.join(changes) or 'in nothing, so that its settings do'}"
    settings = {"padding id": (original.pad, shipped.pad)} | {
        key: (value, getattr(shipped.facts.tokenizer, key))
        for key, value in msgspec.structs.asdict(original.facts.tokenizer).items()
    }
    changed = [f"{key}: {expected} -> {actual}" for key, (expected, actual) in settings.items() if expected != actual]
    if changed:
        note += f"\n  its settings differ: {'; '.join(changed)}"
    for name in sorted(original.fields, key=lambda name: name != "input_ids"):
        if name in shipped.fields:
            expected, actual = fields_of(original), fields_of(shipped)
            require_same_tokens(case.subject, expected, actual, "the checkpoint makes", name, note)
    # Pairs are of few scripts: their tokenizer is tried on the texts too.
    texts: list[Text] = [(probe.text, None) for probe in TEXTS]
    ids, shipped_ids = (split(fields_of(tokenizer.encode(texts))) for tokenizer in (case.subject, case))
    differing = [
        text
        for (text, _), expected, actual in zip(texts, ids, shipped_ids, strict=True)
        if not np.array_equal(expected, actual)
    ]
    if differing:
        pytest.fail(
            f"{case}: {len(differing)} of {len(texts)} texts have other token ids than the checkpoint makes\n"
            f"  {differing[0][:100]!r}{note}",
            pytrace=False,
        )
    if changed:
        pytest.fail(f"{case}: the tokenizer beside it has other settings than the checkpoint's{note}", pytrace=False)


def test_slow_and_fast_tokenizer_agree(subject: Subject) -> None:
    """The tokenizer of the checkpoint's own files and its conversion yield the same ids."""
    differ = subject.encoded.facts.slow_differences
    if isinstance(differ, str):
        inapplicable(differ)
    if differ:
        pytest.fail(
            f"{subject.name}: slow and fast tokenizer differ at {len(differ)} probes\n  {subject.describe(differ[0])}",
            pytrace=False,
        )


def test_pooling_is_the_checkpoints_own(subject: Subject) -> None:
    """Pooling, norm, dimensions and prompts are what the checkpoint's own files say, where model.toml states them."""
    modules, settings = subject.plan.modules, subject.model.settings
    if modules == ModuleSettings():
        inapplicable("the checkpoint has no modules.json, or its task does not pool")
    stated = {key: getattr(settings, key) for key in STATED}
    differing = [key for key, value in stated.items() if value != getattr(modules, key)]
    assert not differing, "\n".join(
        [f"{subject.name}: model.toml is not what the checkpoint says of itself"]
        + [f"  {key} is {stated[key]!r}, and {STATED[key]} says {getattr(modules, key)!r}" for key in differing]
    )
