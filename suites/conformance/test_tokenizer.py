"""The tokenizer is part of the model: the same ids, sides and special tokens as were approved."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fixtures.arrays import Array
from fixtures.gate.case import Case
from fixtures.gate.measured import Measured
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.models.late_interaction import complete
from fixtures.models.length_limits import TOKENIZER_READERS, read_limits
from fixtures.models.sentence_transformers import ModuleSettings
from fixtures.plugin.outcomes import inapplicable, unbaselined
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.fast_tokenizer import (
    TOKENIZER_FILE,
    FastTokenizer,
    LoneTokenizer,
    Text,
    encode_row,
    rebuilt_settings,
    tokenizer_changes,
)
from fixtures.scoring.probes import LONG_TEXT, PAIRS, TEXTS

pytestmark = pytest.mark.check
STATED = {
    "pooling": "its 1_Pooling/config.json",
    "activation": "its 1_SpladePooling/config.json",
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


def texts_of(subject: Subject) -> list[Text]:
    """Return the probes that are not cut to a length, texts of many scripts, and one that is longer than the limit."""
    limit = subject.model.settings.max_length
    long_text = " ".join([LONG_TEXT] * (8 * limit // len(LONG_TEXT) + 1))
    texts: list[Text] = [(probe.text, probe.pair) for probe in subject.probes if probe.length is None]
    if subject.task.probes == "pairs":
        return [*texts, *((probe.text, None) for probe in TEXTS if probe.length is None), (PAIRS[0].text, long_text)]
    return [*texts, (long_text, None)]


def require_same_ids_alone(target: Case | Subject, file: Path, *, as_stated: bool) -> None:
    """Fail if a folder's tokenizer.json, read by the tokenizers library, makes other ids than Transformers.

    Args:
        target: whose ids Transformers made.
        file: the folder's tokenizer.json.
        as_stated: whether the truncation and padding of the file hold.
    """
    subject = target.subject if isinstance(target, Case) else target
    if not file.is_file():
        inapplicable("no tokenizer.json lies there")
    settings, texts = subject.model.settings, texts_of(subject)
    limit, template = settings.max_length, settings.template
    loaded = FastTokenizer(target.tokenizer, target.encoded)
    lone = LoneTokenizer(file, loaded, as_stated=as_stated)
    pairs = [
        tuple(encode_row(tokenizer, text, pair, template, limit)["input_ids"] for tokenizer in (loaded, lone))
        for text, pair in texts
    ]
    differing = [index for index, (expected, actual) in enumerate(pairs) if expected != actual]
    if differing:
        (text, pair), (expected, actual) = texts[differing[0]], pairs[differing[0]]
        changes = rebuilt_settings(target.tokenizer, file, with_lengths=as_stated)
        pytest.fail(
            f"{target}: {len(differing)} of {len(pairs)} texts have other token ids if tokenizer.json is read alone\n"
            f"  {(pair or text)[:100]!r}\n"
            f"  Transformers   {len(expected)} ids, {expected[:24]}\n"
            f"  tokenizer.json {len(actual)} ids, {actual[:24]}\n"
            f"  {file} differs from what Transformers makes of its folder: {'; '.join(changes) or 'in nothing'}\n"
            f"  who reads it alone: {TOKENIZER_READERS}\n"
            "  AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it as Transformers reads it",
            pytrace=False,
        )


def test_tokenizer_file_alone_makes_the_same_tokens(subject: Subject, checkpoint_folder: Path) -> None:
    """The checkpoint's tokenizer.json makes the tokens that Transformers makes of its folder.

    Transformers sets parts of a tokenizer anew from tokenizer_config.json; programs without it do not. Truncation and
    padding are left out, since exports state their own.
    """
    require_same_ids_alone(subject, checkpoint_folder / TOKENIZER_FILE, as_stated=False)


def test_shipped_tokenizer_file_alone_makes_the_same_tokens(case: Case) -> None:
    """The tokenizer.json beside the graph makes the tokens that were judged, with its own truncation and padding."""
    require_same_ids_alone(case, case.artifact.folder / TOKENIZER_FILE, as_stated=True)


def test_shipped_lengths_leave_room_for_what_was_judged(case: Case, measured: Measured, finding: NoteFinding) -> None:
    """No file beside the graph cuts shorter than texts were judged, or pads all of them to one length."""
    judged, subject = case.subject.model.settings.max_length, case.subject
    measured.length_limits = read_limits(case.artifact.folder)
    if conflicts := measured.length_limits.conflicts(judged):
        lines = [
            f"  {source} {'pads every text to' if source.pads else 'cuts at'} {limit}; who reads it: {source.readers}"
            for source, limit in conflicts.items()
        ]
        advice = (
            f"let truncation cut at {judged} and padding go no further than the longest of a batch, or judge max_length"
        )
        pytest.fail(
            f"{case}: judged at {judged} tokens, and what lies beside the graph says otherwise\n"
            + "\n".join(lines)
            + f"\n  {advice} = {min(conflicts.values())} in {subject.model.folder / 'model.toml'}",
            pytrace=False,
        )
    if subject.tokenizer_length and not case.ready_made:
        mended = (f"{source} {limit}" for source, limit in subject.plan.length_limits.conflicts(judged).items())
        finding(f"the export states the judged length {judged}, where the checkpoint has {', '.join(mended)}")


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
    """Pooling, norm, dimensions, prompts, and how a ColBERT reads, are what the checkpoint's own files say, where
    model.toml states them."""
    modules, settings = subject.plan.modules, subject.model.settings
    if modules == ModuleSettings():
        inapplicable("the checkpoint has no modules.json, or its task does not pool")
    stated = {key: getattr(settings, key) for key in STATED}
    said = {key: value for key in STATED if (value := getattr(modules, key)) is not None}
    sources = dict(STATED)
    if reading := modules.late_interaction:
        meant = msgspec.structs.asdict(complete(reading))  # what is not there is not attended to
        said |= {key: meant[key] for key, value in msgspec.structs.asdict(reading).items() if value is not None}
        stated |= msgspec.structs.asdict(settings.late_interaction or reading)
        sources |= dict.fromkeys(stated.keys() - STATED.keys(), "its config_sentence_transformers.json")
    differing = [key for key, value in said.items() if value != stated[key]]
    assert not differing, "\n".join(
        [f"{subject.name}: {subject.model.folder / 'model.toml'} is not what the checkpoint says of itself"]
        + [f"  {key} is {stated[key]!r}, and {sources[key]} says {said[key]!r}" for key in differing]
    )
