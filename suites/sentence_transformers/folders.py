"""Make the folders whose format no installed package writes any more, and the transformers that all folders share.

python -m suites.sentence_transformers.folders, in the environment of `gate`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fixtures.arrays import Floats
from fixtures.export import seeded
from suites.sentence_transformers.kinds import (
    BASES,
    FOLDERS,
    HIDDEN_SIZE,
    KINDS,
    MIDDLE,
    OLD,
    PLAIN,
    SAVED,
    SEED,
    Base,
    Kind,
    weights_behind,
)

POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Mode -> its key in 1_Pooling/config.json before 5.4."""
VERSIONS = {OLD: "2.7.0", MIDDLE: "5.1.2"}
"""Format -> the version that its files name."""


def activation_path(name: str) -> str:
    """Return the dotted path under which sentence-transformers stores a class of torch.nn."""
    import torch

    activation: type[torch.nn.Module] = getattr(torch.nn, name)
    return f"{activation.__module__}.{activation.__name__}"


def make_base(base: Base, folder: Path) -> None:
    """Make the transformer of a folder, with its tokenizer."""
    folder.mkdir(parents=True)
    keys = {"architecture": base.architecture, "auto_class": base.auto_class, "labels": base.labels}
    seeded.make([], folder, keys | {"seed": SEED})
    if base.tokenizer_keys:
        import transformers

        transformers.AutoTokenizer.from_pretrained(folder, **base.tokenizer_keys).save_pretrained(folder)


def write_by_hand(kind: Kind, form: str, base: Path, folder: Path) -> None:
    """Write a folder in a format that no installed package writes.

    Args:
        form: OLD, MIDDLE or PLAIN.
        base: the folder of its transformer.
    """
    shutil.copytree(base, folder)
    if form == PLAIN:
        return
    if kind.is_cross_encoder:
        _write_cross_encoder(kind, form, folder)
        return
    length = kind.max_length or _read(folder / "tokenizer_config.json")["model_max_length"]
    _write(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": kind.lower_case})
    configuration: dict[str, Any] = {"__version__": {"sentence_transformers": VERSIONS[form], "pytorch": "2.3.0"}}
    configuration |= {"prompts": dict(kind.prompts), "default_prompt_name": kind.default_prompt}
    if form == MIDDLE:
        configuration |= {"model_type": "SentenceTransformer", "similarity_fn_name": kind.similarity}
    _write(folder / "config_sentence_transformers.json", configuration)
    modules = ["", *_write_modules(kind, form, folder)]
    rows = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{_class_of(path)}"}
        for index, path in enumerate(modules)
    ]
    _write(folder / "modules.json", rows)


def _class_of(path: str) -> str:
    """Return the class of the module that lies in a subfolder such as `1_Pooling`."""
    return path.partition("_")[2] or "Transformer"


def _write_modules(kind: Kind, form: str, folder: Path) -> list[str]:
    """Write the subfolders of the modules behind the transformer, and return their names in order."""
    flags = {key: mode in kind.pooling for mode, key in POOLING_FLAGS.items()}
    pooling = {"word_embedding_dimension": HIDDEN_SIZE, **flags, "include_prompt": kind.include_prompt}
    classes: list[tuple[str, Mapping[str, object] | None, Mapping[str, Floats]]] = [("Pooling", pooling, {})]
    weights, width = weights_behind(kind), kind.pooled_width
    for dense, dense_weights in zip(kind.dense, weights, strict=False):
        keys = {"in_features": width, "out_features": dense.width, "bias": dense.bias}
        classes.append(("Dense", keys | {"activation_function": activation_path(dense.activation)}, dense_weights))
        width = dense.width
    if kind.layer_norm:
        classes.append(("LayerNorm", {"dimension": width}, weights[-1]))
    if kind.normalize:
        classes.append(("Normalize", None, {}))
    paths = []
    for index, (name, configuration, tensors) in enumerate(classes, 1):
        paths.append(f"{index}_{name}")
        if configuration is not None:  # Normalize has no file, and a hub keeps no empty folders
            (folder / paths[-1]).mkdir()
            _write(folder / paths[-1] / "config.json", configuration)
        if tensors:
            _save_tensors(tensors, form, folder / paths[-1])
    return paths


def _save_tensors(tensors: Mapping[str, Floats], form: str, folder: Path) -> None:
    """Save weights as 2.x did, pickled, or as later versions do."""
    import torch
    from safetensors.numpy import save_file

    if form == OLD:
        torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, folder / "pytorch_model.bin")
    else:
        save_file(dict(tensors), folder / "model.safetensors")


def _write_cross_encoder(kind: Kind, form: str, folder: Path) -> None:
    """Write what a CrossEncoder adds to its transformer's config.json and tokenizer_config.json."""
    configuration = _read(folder / "config.json")
    if form == MIDDLE:
        activation = kind.activation or ("Sigmoid" if kind.labels == 1 else "Identity")
        described = {"version": VERSIONS[form], "activation_fn": activation_path(activation)}
        configuration["sentence_transformers"] = described
    elif kind.activation:
        configuration["sbert_ce_default_activation_function"] = activation_path(kind.activation)
    _write(folder / "config.json", configuration)
    if kind.max_length:
        tokenizer = _read(folder / "tokenizer_config.json")
        _write(folder / "tokenizer_config.json", tokenizer | {"model_max_length": kind.max_length})


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_all(root: Path = FOLDERS) -> None:
    """Make all transformers and all folders that are written by hand anew."""
    for part in ("base", OLD, MIDDLE, PLAIN):
        shutil.rmtree(root / part, ignore_errors=True)
    for name, base in BASES.items():
        make_base(base, root / "base" / name)
    for kind in KINDS:
        for form in kind.formats:
            if form not in SAVED:
                write_by_hand(kind, form, root / "base" / kind.base, root / form / kind.name)


if __name__ == "__main__":
    make_all()
