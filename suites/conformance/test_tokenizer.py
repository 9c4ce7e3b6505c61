"""The tokenizer is part of the model: the same ids, sides and special tokens as were approved."""

import msgspec
import numpy as np
import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.plugin.outcomes import inapplicable, unbaselined
from fixtures.scoring.encoded import ModuleSettings
from fixtures.scoring.fast_tokenizer import tokenizer_changes
from fixtures.scoring.probes import TEXTS

pytestmark = pytest.mark.check


def fields_of(encoded):
    return encoded.fields | {"offsets": encoded.offsets}


def each(encoded):
    return np.split(encoded.fields["input_ids"], encoded.offsets[1:-1])


def same_tokens(subject, expected, found, source, name="input_ids", note=""):
    """Fail if one of two sets of tokens, each name -> (total tokens,) and `offsets`, differs from the other."""
    then, now = (np.split(one[name], one["offsets"][1:-1]) for one in (expected, found))
    wrong = [index for index, (a, b) in enumerate(zip(now, then, strict=True)) if not np.array_equal(a, b)]
    if wrong:
        first, what = wrong[0], "token ids" if name == "input_ids" else name
        pytest.fail(
            f"{subject.name}: {len(wrong)} of {len(now)} probes have other {what} than {source}\n"
            f"  {subject.describe(first)}\n  expected {then[first][:24]}\n  now      {now[first][:24]}{note}",
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
    same_tokens(subject, golden, fields_of(subject.encoded), "were approved")


def test_tokenizer_settings_are_the_pinned_ones(subject: Subject, gate: Gate) -> None:
    """Padding and truncation side, maximum length, special tokens and fields."""
    pins = subject.baseline.conformance_file
    if gate.approving:
        return
    if pins is None:
        unbaselined(subject, f"{subject.name} has no approved tokenizer settings; record them with --approve")
    now = msgspec.structs.asdict(subject.encoded.facts.tokenizer)
    changed = [
        f"{key}: {pins.tokenizer.get(key)} -> {value}" for key, value in now.items() if pins.tokenizer.get(key) != value
    ]
    assert not changed, f"{subject.name}: the tokenizer's settings changed: {'; '.join(changed)}"


def test_shipped_tokenizer_is_the_checkpoints(case: Case) -> None:
    """The tokenizer beside a ready-made file yields the checkpoint's tokens, in every field, and has its settings."""
    if not case.ready_made or not case.ready_made.has_tokenizer:
        inapplicable("no tokenizer came with it")
    own, shipped = case.subject.encoded, case.encoded
    changes = tokenizer_changes(case.subject.tokenizer, case.tokenizer)
    note = f"\n  its tokenizer.json differs: {'; '.join(changes) or 'in nothing, so that its settings do'}"
    settings = {"padding id": (own.pad, shipped.pad)} | {
        key: (value, getattr(shipped.facts.tokenizer, key))
        for key, value in msgspec.structs.asdict(own.facts.tokenizer).items()
    }
    changed = [f"{key}: {ours} -> {theirs}" for key, (ours, theirs) in settings.items() if ours != theirs]
    if changed:
        note += f"\n  its settings differ: {'; '.join(changed)}"
    for name in sorted(own.fields, key=lambda name: name != "input_ids"):
        if name in shipped.fields:
            same_tokens(case.subject, fields_of(own), fields_of(shipped), "the checkpoint makes", name, note)
    # Pairs are of few scripts: their tokenizer is tried on the texts too.
    texts = [(one.text, None) for one in TEXTS]
    wrong = [
        row[0]
        for row, expected, found in zip(texts, *(each(one.encode(texts)) for one in (case.subject, case)), strict=True)
        if not np.array_equal(expected, found)
    ]
    if wrong:
        pytest.fail(
            f"{case}: {len(wrong)} of {len(texts)} texts have other token ids than the checkpoint makes\n"
            f"  {wrong[0][:100]!r}{note}",
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
    """Pooling and normalisation are what `modules.json` and `1_Pooling/config.json` say."""
    modules, settings = subject.encoded.facts.modules, subject.model.settings
    if modules == ModuleSettings() or subject.task.name != "embedding":
        inapplicable("the checkpoint has no modules.json, or its task does not pool")
    own = {"pooling": settings.pooling, "normalize": settings.normalize}
    expected = msgspec.structs.asdict(modules)
    assert own == expected, f"{subject.name}: model.toml says {own}, and the checkpoint's modules.json {expected}"
