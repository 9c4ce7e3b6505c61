"""Save folders with the installed sentence-transformers, and store what it makes of them and of those made by hand.

python -m suites.sentence_transformers.truth, in the environment of `sentence-transformers5` or
`sentence-transformers6`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from fixtures.arrays import Array
from fixtures.models.files import digest_of, sha256_of
from fixtures.scoring.probes import LONG_TEXT, PAIRS, TEXTS
from suites.sentence_transformers.kinds import FOLDERS, KINDS, SAVED, Kind, weights_behind

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from fixtures.scoring.fast_tokenizer import Text

TEXTS_HERE = (*(probe.text for probe in TEXTS if probe.length is None), LONG_TEXT)
PAIRS_HERE = (*((probe.text, str(probe.pair)) for probe in PAIRS if probe.length is None), (PAIRS[0].text, LONG_TEXT))
"""What is scored: the probes, without those that each tokenizer cuts to size, and one that every model truncates."""
DEFAULT, BARE = "default", "bare"
"""Names of calls: as the folder says by default, and without a prompt or, for pairs, without an activation. Others have
the name of their prompt."""


class Truth(msgspec.Struct, frozen=True):
    """What the library makes of a folder; the scores of each call lie beside it.

    Attributes:
        format: the name of the folder's parent, such as `2` or `6`.
        package: the version of sentence-transformers that scored. transformers: the version beside it.
        folder_digest: of all files of the folder when it was scored. inputs_digest: of what was scored.
        max_length: tokens that it keeps of a text.
        prompts: call -> what stood before each text.
    """

    kind: str
    format: str
    package: str
    transformers: str
    folder_digest: str
    inputs_digest: str
    max_length: int
    prompts: dict[str, str]

    @property
    def folder(self) -> str:
        """Path of the folder in FOLDERS."""
        return f"{self.format}/{self.kind}"


def inputs_of(probes: str) -> Sequence[Text]:
    """Return what is scored in place of a set of PROBES, `texts` or `pairs`."""
    return PAIRS_HERE if probes == "pairs" else [(text, None) for text in TEXTS_HERE]


def digest_of_folder(folder: Path) -> str:
    """Return a digest of all files in a folder and below."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return digest_of({file.relative_to(folder).as_posix(): sha256_of(file) for file in files})


def digest_of_inputs() -> str:
    """Return a digest of what is scored."""
    return hashlib.sha256(repr((TEXTS_HERE, PAIRS_HERE)).encode()).hexdigest()


def save(kind: Kind, base: Path, folder: Path) -> None:
    """Save a folder of this kind as the installed package does.

    Args:
        base: the folder of its transformer.
    """
    model = cross_encoder(kind, base) if kind.is_cross_encoder else embedder(kind, base)
    model.save_pretrained(str(folder), create_model_card=False)


def embedder(kind: Kind, base: Path) -> SentenceTransformer:
    """Return an embedder of this kind that was put together from modules."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(base), max_seq_length=kind.max_length, do_lower_case=kind.lower_case)
    pooling = kind.pooling[0] if len(kind.pooling) == 1 else kind.pooling
    parts = [
        transformer,
        modules.Pooling(transformer.get_embedding_dimension(), pooling, include_prompt=kind.include_prompt),
    ]
    weights, width = weights_behind(kind), kind.pooled_width
    for dense in kind.dense:
        activation = getattr(torch.nn, dense.activation)()
        parts.append(modules.Dense(width, dense.width, bias=dense.bias, activation_function=activation))
        width = dense.width
    if kind.layer_norm:
        parts.append(modules.LayerNorm(width))
    for part, tensors in zip(parts[2:], weights, strict=True):
        part.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    if kind.normalize:
        parts.append(modules.Normalize())
    return SentenceTransformer(
        modules=parts,
        device="cpu",
        prompts=dict(kind.prompts),
        default_prompt_name=kind.default_prompt,
        similarity_fn_name=kind.similarity,
        truncate_dim=kind.truncate_dim,
    )


def cross_encoder(kind: Kind, base: Path) -> CrossEncoder:
    """Return a CrossEncoder of this kind over a transformer's folder."""
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(base),
        device="cpu",
        max_length=kind.max_length,
        activation_fn=getattr(torch.nn, kind.activation)() if kind.activation else None,
        prompts=dict(kind.prompts),
        default_prompt_name=kind.default_prompt,
        local_files_only=True,
    )


def score(kind: Kind, folder: Path) -> tuple[dict[str, Array], dict[str, str], int]:
    """Load a folder as people do, and score the texts or pairs.

    Returns:
        call -> scores, call -> the prompt that it put before them, and how many tokens it keeps.
    """
    if kind.is_cross_encoder:
        return _score_pairs(folder)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    texts = list(TEXTS_HERE)
    prompts = {DEFAULT: model.prompts.get(model.default_prompt_name, ""), BARE: ""}
    prompts |= {name: model.prompts[name] for name in kind.prompts}
    scores = {DEFAULT: model.encode(texts), BARE: model.encode(texts, prompt="")}
    scores |= {name: model.encode(texts, prompt_name=name) for name in kind.prompts}
    return scores, prompts, model.max_seq_length


def _score_pairs(folder: Path) -> tuple[dict[str, Array], dict[str, str], int]:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    pairs = [list(pair) for pair in PAIRS_HERE]
    scores = {DEFAULT: model.predict(pairs), BARE: model.predict(pairs, activation_fn=torch.nn.Identity())}
    return scores, dict.fromkeys(scores, model.prompts.get(model.default_prompt_name, "")), model.max_seq_length


def store(kind: Kind, form: str, root: Path = FOLDERS) -> Truth:
    """Score a folder, and store the scores and what describes them."""
    package, transformers = (importlib.metadata.version(name) for name in ("sentence-transformers", "transformers"))
    folder = root / form / kind.name
    scores, prompts, max_length = score(kind, folder)
    truth = Truth(
        kind.name, form, package, transformers, digest_of_folder(folder), digest_of_inputs(), max_length, prompts
    )
    file = root / "truth" / package.partition(".")[0] / form / kind.name
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in scores.items()}
    save_file(arrays, file.with_suffix(".safetensors"))
    file.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(truth), indent=1))
    return truth


def read(root: Path = FOLDERS) -> Iterator[tuple[Truth, dict[str, Array]]]:
    """Yield what is stored, with the scores of each call, by package, format and kind."""
    for file in sorted((root / "truth").rglob("*.json")):
        yield msgspec.json.decode(file.read_bytes(), type=Truth), load_file(file.with_suffix(".safetensors"))


def make_all(root: Path = FOLDERS) -> list[Truth]:
    """Save a folder of each kind, score all folders that this package can read, and store the scores."""
    import torch

    torch.set_num_threads(1)
    major = importlib.metadata.version("sentence-transformers").partition(".")[0]
    for part in (root / major, root / "truth" / major):
        shutil.rmtree(part, ignore_errors=True)
    truths = []
    for kind in KINDS:
        for form in kind.formats:
            if form == major:
                save(kind, root / "base" / kind.base, root / form / kind.name)
            if form == major or form not in SAVED:
                truths.append(store(kind, form, root))
    return truths


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore", FutureWarning)
    for truth in make_all():
        print(f"{truth.folder:40} sentence-transformers {truth.package}, transformers {truth.transformers}")


if __name__ == "__main__":
    main()
