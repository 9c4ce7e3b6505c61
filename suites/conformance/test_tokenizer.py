"""The tokenizer is part of the model: the same ids, sides and special tokens as were approved."""

import numpy as np
import pytest

from fixtures.gate import inapplicable


def test_token_ids_are_the_golden_ones(subject, gate):
    """The probes have the token ids that were approved."""
    pins, golden = subject.baseline.pins_file, subject.baseline.tokens
    if gate.approve:
        return
    if pins is None:
        gate.skip(f"unbaselined: {subject.name} has no approved token ids; record them with --approve")
    if pins.probes != subject.probes_digest:
        pytest.fail(f"{subject.name}: the probes changed since the approval; approve again", pytrace=False)
    now, then = (
        np.split(one["input_ids"], one["offsets"][1:-1])
        for one in ({"input_ids": subject.encoded.fields["input_ids"], "offsets": subject.encoded.offsets}, golden)
    )
    wrong = [index for index, (a, b) in enumerate(zip(now, then, strict=True)) if not np.array_equal(a, b)]
    if wrong:
        pytest.fail(
            f"{subject.name}: {len(wrong)} of {len(now)} probes have other token ids than were approved\n"
            f"  {subject.describe(wrong[0])}\n  approved {then[wrong[0]][:24]}\n  now      {now[wrong[0]][:24]}",
            pytrace=False,
        )


def test_tokenizer_settings_are_the_pinned_ones(subject, gate):
    """Padding and truncation side, maximum length, special tokens and fields."""
    pins = subject.baseline.pins_file
    if gate.approve:
        return
    if pins is None:
        gate.skip(f"unbaselined: {subject.name} has no approved tokenizer settings; record them with --approve")
    now = subject.encoded.extra["tokenizer"]
    changed = [
        f"{key}: {pins.tokenizer.get(key)} -> {value}" for key, value in now.items() if pins.tokenizer.get(key) != value
    ]
    assert not changed, f"{subject.name}: the tokenizer's settings changed: {'; '.join(changed)}"


def test_slow_and_fast_tokenizer_agree(subject):
    """The tokenizer of the checkpoint's own files and its conversion yield the same ids."""
    differ = subject.encoded.extra["slow"]
    if isinstance(differ, str):
        inapplicable(differ)
    if differ:
        pytest.fail(
            f"{subject.name}: slow and fast tokenizer differ at {len(differ)} probes\n  {subject.describe(differ[0])}",
            pytrace=False,
        )


def test_pooling_is_the_checkpoints_own(subject):
    """Pooling and normalisation are what `modules.json` and `1_Pooling/config.json` say."""
    said, settings = subject.encoded.extra["modules"], subject.model.settings
    if not said or subject.task.name != "embedding":
        inapplicable("the checkpoint has no modules.json, or its task does not pool")
    own = {"pooling": settings.pooling, "normalize": settings.normalize}
    assert own == said, f"{subject.name}: model.toml says {own}, and the checkpoint's modules.json {said}"
