"""Targets of what strangers hand over: folders of checkpoints, their weights, and ready-made ONNX files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import tokenizers
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from fixtures.export import ready_made, seeded
from fixtures.export.graph_names import ReadyMadeError
from fixtures.gate import inferred
from fixtures.gate.context import Context
from fixtures.gate.session import Gate
from fixtures.gate.single_values import UsageError
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.files import checkpoint_digest
from fixtures.models.settings import Model, Settings
from fixtures.models.tensors import WeightsUnreadable, read_tensors
from fixtures.scoring import tokens
from fixtures.scoring.fast_tokenizer import TOKENIZER_FILE
from suites.meta.studies.fuzz.campaign import Attempt
from suites.meta.studies.fuzz.files import Changes, ValidFiles, files_in, one_of_files
from suites.meta.studies.fuzz.graphs import graph, onnx_files
from suites.meta.studies.fuzz.mutations import byte_files, json_files, safetensors_files
from suites.meta.studies.fuzz.written import context_of

NAMED = "--checkpoint: "
TYPE = "sentence_transformers.models."
CROSS_ENCODER = {
    "config_sentence_transformers.json": {
        "model_type": "CrossEncoder", "prompts": {"web": "Web search: "}, "default_prompt_name": "web",
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
    },
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": f"{TYPE}Transformer"}],
}  # fmt: skip
LOGIT_SCORE = {
    "config_sentence_transformers.json": {"model_type": "CrossEncoder"},
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{TYPE}Transformer"},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": f"{TYPE}LogitScore"},
    ],
    "1_LogitScore/config.json": {"true_token_id": 5, "false_token_id": 6},
}
EMBEDDER = {
    "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False, "model_kwargs": {"dtype": "float32"}},
}
SEEDS: Mapping[str, tuple[str, str, Mapping[str, object]]] = {
    "embedder": ("bert_dense", "AutoModel", EMBEDDER),
    "cross-encoder": ("bert", "AutoModelForSequenceClassification", CROSS_ENCODER),
    "decoder": ("qwen3", "AutoModelForCausalLM", LOGIT_SCORE),
    "classifier": ("roberta", "AutoModelForSequenceClassification", {}),
}
"""Folder of a checkpoint -> architecture, class and further files."""
STATED = ["template={query} {passage}"]
"""What no file of a decoder says."""


def make_seeds(folder: Path) -> None:
    """Write the checkpoints from which examples start, which takes PyTorch and some seconds."""
    for number, (name, (architecture, auto_class, files)) in enumerate(SEEDS.items()):
        checkpoint = folder / name
        checkpoint.mkdir(parents=True)
        labels = 3 if name == "classifier" else 1
        parameters = {"architecture": architecture, "seed": number, "auto_class": auto_class, "labels": labels}
        seeded.make([], checkpoint, parameters)
        for path, content in files.items():
            (checkpoint / path).parent.mkdir(exist_ok=True)
            (checkpoint / path).write_text(json.dumps(content))
    _pickle_weights(folder / "embedder", folder / "pickled")
    _shard_weights(folder / "classifier", folder / "sharded")
    (folder / "tokens").mkdir()
    model = Model("m", folder, Settings(task="embedding", source="path:embedder", max_length=64, pooling="mean"))
    embedder = Checkpoint(folder / "embedder", None, "")
    tokens.tokenize([folder / "embedder"], folder / "tokens", dict(tokens.plan_tokens(model, embedder).parameters))


def _pickle_weights(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint with all its weights as `torch.save` has them."""
    import torch

    shutil.copytree(checkpoint, folder)
    for file in sorted(folder.rglob("model.safetensors")):
        tensors = {name: torch.from_numpy(values) for name, values in load_file(file).items()}
        torch.save(tensors, file.with_name("pytorch_model.bin"))
        file.unlink()


def _shard_weights(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint with its weights in two files and an index."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(weights)}
    for shard in set(index.values()):
        save_file({name: weights[name] for name in weights if index[name] == shard}, folder / shard, {"format": "pt"})
    document = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))


def _reader(
    folder: Path, seeds: Path, name: str, then: Callable[[Path], object] | None = None
) -> tuple[ValidFiles, Callable[[Changes], None]]:
    """Return the valid files of a checkpoint, and what has them read as --checkpoint does.

    Args:
        then: reads more of what was accepted.
    """
    checkpoint = folder / name
    valid = ValidFiles(checkpoint, files_in(seeds / name))
    options = {"checkpoint": [str(checkpoint)], **({"set": STATED} if name == "decoder" else {})}
    context: Context = context_of(folder / "session", **options)
    (place,) = context.options.folders
    inferred.read_inferred(context, place)

    def read(example: Changes) -> None:
        valid.change(example)
        try:
            inferred.read_inferred(replace(context), place)
        finally:
            inferred.discard(place)
        if then:
            then(checkpoint)

    return valid, read


def prepare_checkpoint(name: str, folder: Path, seeds: Path) -> Attempt:
    """JSON files of a checkpoint are others."""
    valid, read = _reader(folder, seeds, name)
    strategies = {path: json_files(content) for path, content in valid.files.items() if path.endswith(".json")}
    return Attempt(one_of_files(strategies), read, (UsageError,), (NAMED, "--set: "))


def prepare_index(folder: Path, seeds: Path) -> Attempt:
    """The index of a checkpoint in shards is another."""
    valid, read = _reader(folder, seeds, "sharded", read_tensors)
    file = "model.safetensors.index.json"
    return Attempt(one_of_files({file: json_files(valid.files[file])}), read, (UsageError, WeightsUnreadable), (file,))


def prepare_weights(name: str, folder: Path, seeds: Path) -> Attempt:
    """Weights of a checkpoint and of its modules are others: read when it is planned, and compared with a graph's."""
    valid, read = _reader(folder, seeds, name, read_tensors)
    strategies: dict[str, st.SearchStrategy[Any]] = {
        path: safetensors_files(content) if path.endswith(".safetensors") else byte_files(content)
        for path, content in valid.files.items()
        if path.endswith((".safetensors", ".bin"))
    }
    return Attempt(one_of_files(strategies), read, (UsageError, WeightsUnreadable), (NAMED, *strategies, name))


# --------------------------------------------------------------------------------------------- ONNX


def prepare_artifact_folder(folder: Path, seeds: Path) -> Attempt:
    """JSON files beside a ready-made graph are others: it is judged in place of an export, or refused."""
    beside = {name: content for name, content in files_in(seeds / "embedder").items() if name.endswith(".json")}
    model, data = graph(64)
    contents = {f"artifact/{name}": content for name, content in beside.items()}
    contents |= {"artifact/model.onnx": model.SerializeToString(), "artifact/weights.bin": data}
    settings = f'task = "embedding"\nsource = "path:{seeds / "embedder"}"\nmax_length = 64\n'
    digest = checkpoint_digest(seeds / "embedder")
    contents["baselines/m/model.toml"] = f'{settings}digest = "sha256:{digest}"\n'.encode()
    valid = ValidFiles(folder, contents)
    context = context_of(folder, artifact=[f"m:plain={folder / 'artifact'}"])

    def read(example: Changes) -> None:
        valid.change(example)
        gate = Gate(replace(context))
        (case,) = gate.cases_of(gate.load()[0])
        if case.refused:
            raise UsageError(case.refused)
        context.store.key(case.step)

    strategies = {name: json_files(contents[name]) for name in contents if name.endswith(".json")}
    return Attempt(one_of_files(strategies), read, (UsageError,), ("--artifact: ", str(folder / "artifact")))


def prepare_graph(folder: Path, _: Path) -> Attempt:
    """A ready-made ONNX file with external data: found, with all that it names."""
    model, data = graph(64)
    contents = {"model.onnx": model.SerializeToString(), "weights.bin": data, "tokenizer.json": b"{}", "secret": b"s"}
    valid = ValidFiles(folder / "artifact", contents)
    inside = valid.folder.resolve()

    def read(example: Changes) -> None:
        valid.change(example)
        made = ready_made.find(valid.folder, None)
        for file in (*made.graph.values(), *made.configuration.values()):
            assert file.resolve().is_relative_to(inside), f"{file} lies elsewhere"
            assert file.is_file(), f"{file} is no file"
        made.as_checkpoint(with_graph=True)

    strategies = {"model.onnx": onnx_files(model), "weights.bin": byte_files(data), "tokenizer.json": json_files(b"{}")}
    return Attempt(one_of_files(strategies), read, (ReadyMadeError,), (str(folder),))


def prepare_adoption(folder: Path, seeds: Path) -> Attempt:
    """The same file, given its task's names as the step does that makes it an artifact."""
    tokenised = seeds / "tokens"
    size = tokenizers.Tokenizer.from_file(str(tokenised / TOKENIZER_FILE)).get_vocab_size()
    model, data = graph(size)
    valid = ValidFiles(folder / "artifact", {"model.onnx": model.SerializeToString(), "weights.bin": data})
    output = folder / "output"

    def read(example: Changes) -> None:
        valid.change(example)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        ready_made.find(valid.folder / "model.onnx", None)
        ready_made.adopt([valid.folder, tokenised], output, {"task": "embedding"})
        ready_made.describe(output)
        onnx.load(str(output / "model.onnx"), load_external_data=False)

    return Attempt(one_of_files({"model.onnx": onnx_files(model)}), read, (ReadyMadeError,), ("",))
