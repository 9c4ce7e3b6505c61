"""Limits of length: what each file of a folder says, what exports make of it, and what the report shows."""

import json

import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from fixtures.export.onnx_export import finish_tokenizer
from fixtures.models.length_limits import SOURCES, LengthLimits, read_limits
from fixtures.models.settings import ModelError
from fixtures.report import length_tables, terminal
from fixtures.report.results import MachineRecord, ModelResult, Results, VariantResult
from suites.meta.house import EMBEDDER

MACHINE = MachineRecord(arch="x86_64", tier="avx2", cpu="cpu", cores=2)


def write(folder, **documents):
    """Write JSON files by their names without the ending."""
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


MINILM = {
    "tokenizer": {"truncation": {"max_length": 128, "stride": 0}, "padding": {"strategy": {"Fixed": 128}, "pad_id": 0}},
    "tokenizer_config": {"model_max_length": 512, "do_lower_case": True},
    "sentence_bert_config": {"max_seq_length": 256},
    "config": {"model_type": "bert", "max_position_embeddings": 512},
}
"""What the real all-MiniLM-L6-v2 says."""


def test_limits_of_all_files_are_read(tmp_path):
    limits = read_limits(write(tmp_path, **MINILM))
    assert limits == LengthLimits(128, 128, None, 512, 256, 512)
    assert set(limits.__struct_fields__) == SOURCES.keys()


@pytest.mark.parametrize(
    ("documents", "limits"),
    [
        ({}, LengthLimits()),
        ({"tokenizer": {"truncation": None, "padding": None}}, LengthLimits()),
        ({"tokenizer": {"padding": {"strategy": "BatchLongest"}}}, LengthLimits()),
        ({"tokenizer_config": {"model_max_length": 10**30, "max_length": 77}}, LengthLimits(max_length=77)),
        ({"tokenizer_config": {"model_max_length": 1e30}}, LengthLimits()),
        ({"config": {"model_type": "t5"}}, LengthLimits()),
        ({"config": {"model_type": "gpt2", "n_positions": 1024, "pad_token_id": None}}, LengthLimits(positions=1024)),
        ({"config": {"model_type": "roberta", "max_position_embeddings": 514}}, LengthLimits(positions=512)),
        (
            {"config": {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 3}},
            LengthLimits(positions=510),
        ),
    ],
)
def test_file_that_says_nothing_states_no_limit(tmp_path, documents, limits):
    assert read_limits(write(tmp_path, **documents)) == limits


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", '{"truncation": {"max_', r"tokenizer\.json is not valid JSON"),
        ("sentence_bert_config.json", '{"max_seq_length": "256"}', r"\$\.max_seq_length.*write a number of tokens"),
        ("config.json", '{"max_position_embeddings": "many"}', r"config\.json: max_position_embeddings"),
    ],
)
def test_limit_that_is_no_number_is_an_error_that_names_file_and_key(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        read_limits(tmp_path)


def test_limits_that_disagree_with_what_is_judged(tmp_path):
    limits = read_limits(write(tmp_path, **MINILM))
    assert {str(source): tokens for source, tokens in limits.conflicts(256).items()} == {
        "truncation.max_length in tokenizer.json": 128,
        "padding.strategy.Fixed in tokenizer.json": 128,
    }
    assert "max_seq_length in sentence_bert_config.json" in map(str, limits.conflicts(512))
    assert list(LengthLimits(truncation=512, model_max_length=512).conflicts(256)) == []
    assert list(LengthLimits(padding=512).conflicts(256)) == [SOURCES["padding"]], "padding is wrong at any length"


@pytest.fixture
def folder(tmp_path):
    """A folder whose tokenizer cuts and pads at 4 tokens."""
    tokenizer = tokenizers.Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(4, direction="left")
    tokenizer.enable_padding(length=4, pad_id=0, pad_token="[PAD]", direction="left")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return write(tmp_path, tokenizer_config={"max_length": 4, "model_max_length": 9, "pad_token": "[PAD]"})


def test_export_states_the_judged_length(folder):
    """And keeps sides and padding token; a batch is padded to its longest."""
    finish_tokenizer(folder, {"tokenizer_length": 6})
    assert read_limits(folder) == LengthLimits(truncation=6, max_length=6, model_max_length=9)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [encoding.ids for encoding in tokenizer.encode_batch(["a " * 9, "b"])] == [[2] * 6, [0, 0, 0, 0, 0, 1]]
    assert (tokenizer.truncation["direction"], tokenizer.padding["direction"]) == ("left", "left")
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"] == "[PAD]"


def test_export_leaves_other_tokenizers_as_they_are(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    finish_tokenizer(folder, {"task": "feature-extraction"})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_report_shows_all_lengths_and_the_terminal_those_that_disagree():
    variant = VariantResult("plain", length_limits=LengthLimits(truncation=256, model_max_length=512))
    model = ModelResult("minilm", "sha256:0", "embedding", variants=[variant], max_length=256)
    model.length_limits = LengthLimits(128, 128, None, 512, 256, 512)
    rows = {where: cells for where, _, *cells in length_tables.lengths(model).rows}
    assert rows["max_length in model.toml"] == ["256", "-"]
    assert rows["truncation.max_length in tokenizer.json"] == ["128", "256"]
    assert rows["padding.strategy.Fixed in tokenizer.json"] == ["128", "-"]
    assert len(rows) == 6
    text = " ".join(terminal.render(Results(MACHINE, {}, [model]), 200, False).split())
    assert "judged at 256 tokens, and the checkpoint's truncation.max_length in tokenizer.json is 128" in text
    model.length_limits = LengthLimits(model_max_length=512)
    assert "length limits" not in terminal.render(Results(MACHINE, {}, [model]), 200, False)


def test_checkpoint_that_cuts_and_pads_is_exported_with_the_judged_length(house, shop):
    """End to end: green, shown, and remarked on; the same files handed in are red."""
    first = shop[0] / "first"
    folder = house.baselines.parent / "padded"
    folder.mkdir(parents=True)
    for file in first.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(length=32)
    tokenizer.save(str(folder / "tokenizer.json"))
    text = EMBEDDER.replace("seeded:bert@7", f"path:{folder}")
    model = house.add("bert", text) / "model.toml"
    run = house.run("--variant=plain")
    (digest,) = {word for word in run.text.split('"') if word.startswith("sha256:")}
    model.write_text(f'digest = "{digest}"\n{text}')
    checks = "suites/conformance/test_tokenizer.py"
    run = house.run("--variant=plain", "--variant=O2", suite=checks)
    assert run.returncode == 0, run.text
    assert "the checkpoint's truncation.max_length in tokenizer.json is 32" in " ".join(run.text.split())
    (result,) = house.gate()["models"]
    assert (result["max_length"], result["length_limits"]["padding"]) == (64, 32)
    for variant in result["variants"]:
        assert variant["length_limits"].get("padding") is None, variant["variant"]
        assert variant["length_limits"]["truncation"] == variant["length_limits"]["max_length"] == 64
        remark = variant["checks"]["shipped_lengths_leave_room_for_what_was_judged"]["text"]
        assert (
            "states the judged length 64, where the checkpoint has truncation.max_length in tokenizer.json 32" in remark
        )
    assert "Length limits of bert" in (house.report / "gate.md").read_text()
    shipped = house.artifact("plain")
    handed_in = folder.parent / "handed in"
    handed_in.mkdir()
    for file in shipped.iterdir():
        (handed_in / file.name).write_bytes(file.read_bytes())
    (handed_in / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    run = house.run(f"--artifact=bert:plain={handed_in}", suite=checks)
    assert run.returncode == 1, run.text
    assert {failure["check"] for failure in house.gate()["failures"]} == {
        "shipped_lengths_leave_room_for_what_was_judged",
        "shipped_tokenizer_file_alone_makes_the_same_tokens",
    }
