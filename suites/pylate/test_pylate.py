"""ColBERT in PyLate itself, beside the tokens, the vectors and the MaxSim that the gate makes of the same folder.

The checkpoint is seeded and tiny; tokenizer, projection, markers, expansion and skiplist are those of real ones.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pylate.models import ColBERT
from pylate.scores import colbert_scores
from transformers import AutoTokenizer

from fixtures.arrays import Doubles, Flags, Floats
from fixtures.build.step import Step
from fixtures.build.store import Store
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.late_interaction import read_late_interaction
from fixtures.models.modules import completed
from fixtures.models.sentence_transformers import CONFIG_FILE
from fixtures.models.settings import Model, Prompts, Settings
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.torch_runtime import COLBERT, TorchRuntime
from fixtures.scoring.encoded import TOKENS_FILE, EncodedProbes
from fixtures.scoring.late_interaction import max_sim
from fixtures.scoring.probes import TEXTS
from fixtures.scoring.scores import score
from fixtures.scoring.tasks import Scoring
from fixtures.scoring.tokens import filled, tokenize

MACHINE = hardware.detect()
QUERY_LENGTH, DOCUMENT_LENGTH = 16, 48
RUNTIMES = {"PyTorch": 1e-5, "plain": 1e-5, "O1": 1e-5, "O2": 1e-5, "O2-raw-mask": 1e-5, "O3": 2e-3}
"""What runs the graph -> how far it may be from PyLate; the int8 variants are judged by the gate."""
READINGS: Mapping[str, Mapping[str, Any]] = {
    "as PyLate makes it": {},
    "expansion attended to": {"attend_to_expansion_tokens": True},
    "no expansion": {"do_query_expansion": False},
    "no expansion, and attended to": {"do_query_expansion": False, "attend_to_expansion_tokens": True},
    "no markers": {"query_prefix": "", "document_prefix": ""},
    "no skiplist": {"skiplist_words": []},
    "words in the skiplist, one of them unknown": {"skiplist_words": ["the", "of", "no such word"]},
    "other lengths": {"query_length": 9, "document_length": 33},
}
"""What a folder's configuration says otherwise than the usual one."""


@dataclass(frozen=True)
class Both:
    """The probes in PyLate, and as the gate reads them.

    Attributes:
        vectors: PyLate's of each probe, without those that it skips. similarity: its MaxSim, (queries, documents).
        encoded, scoring: of the gate.
        are_queries: (n,).
    """

    vectors: list[Floats]
    similarity: Doubles
    encoded: EncodedProbes
    scoring: Scoring
    are_queries: Flags


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: variant name, or "PyTorch" -> folder of a tiny ColBERT."""
    store = Store(tmp_path_factory.mktemp("store"))
    seeded = Checkpoint(None, None, "sha256:" + "0" * 64)
    root = recipes.prepare("late", seeded, "seeded:bert_late@18", auto_class=COLBERT)
    assert isinstance(root, Step)

    def build(name: str) -> Path:
        step = root
        if name != "PyTorch":
            own_export = recipes.OWN_EXPORTS["late-interaction"]
            step = recipes.plan("late", VARIANT[name], root, "feature-extraction", MACHINE, own_export=own_export)
        return [store.run(needed) for needed in step.lineage()][-1].folder

    return build


def in_both(folder: Path, workspace: Path) -> Both:
    """Return the probes of a folder in PyLate and as the gate reads them, those of an exact length included."""
    colbert = ColBERT(str(folder), device="cpu")
    modules = read_late_interaction(folder)
    length = modules.max_seq_length or 0
    stated = Model("late", folder, Settings(task="late-interaction", source=f"path:{folder}", max_length=length))
    settings = completed(stated, modules, folder, 1).settings
    tokens_of(folder, settings, workspace)
    encoded = EncodedProbes.load(workspace / TOKENS_FILE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [probe.text for probe in filled(TEXTS, tokenizer, None, length, Prompts(), encoded.facts.reading)]
    are_queries = encoded.are_queries
    assert are_queries is not None
    vectors = [
        colbert.encode([text], is_query=bool(is_query), show_progress_bar=False)[0]
        for text, is_query in zip(texts, are_queries, strict=True)
    ]
    queries, documents = ([vectors[row] for row in np.flatnonzero(rows)] for rows in (are_queries, ~are_queries))
    similarity = [[float(colbert_scores(query[None], text[None])[0, 0]) for text in documents] for query in queries]
    return Both(vectors, np.array(similarity), encoded, Scoring.of(settings, {}), are_queries)


def tokens_of(folder: Path, settings: Settings, output: Path) -> None:
    """Write the probes' tokens as the gate makes them."""
    import msgspec

    parameters = {
        "probes": "texts", "max_length": settings.max_length, "padding_side": None, "truncation_side": None,
        "template": None, "mask": False, "position_ids": False,
        "late_interaction": msgspec.to_builtins(settings.late_interaction),
    }  # fmt: skip
    tokenize([folder], output, parameters)


def largest_differences(both: Both, rows: Floats) -> tuple[float, float]:
    """Return how far token vectors and MaxSim are from PyLate's at most; MaxSim is a sum there, and here a mean."""
    parts = np.split(rows, np.cumsum(both.encoded.lengths)[:-1])
    ours = [part[part.any(axis=1)] for part in parts]
    assert [part.shape for part in ours] == [part.shape for part in both.vectors]
    vector_error = max(float(np.abs(a - b).max()) for a, b in zip(ours, both.vectors, strict=True))
    sums = max_sim(rows.astype(np.float64), both.encoded.lengths, both.are_queries)
    sums *= np.array([[len(both.vectors[row])] for row in np.flatnonzero(both.are_queries)])
    return vector_error, float(np.abs(sums - both.similarity).max())


def changed(folder: Path, workspace: Path, keys: Mapping[str, Any]) -> Path:
    """Return a copy of a folder whose configuration says something else."""
    copy = workspace / "changed"
    shutil.copytree(folder, copy)
    file = copy / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return copy


@pytest.fixture(scope="module")
def usual(folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Both:
    return in_both(folder_of("PyTorch"), tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize("name", RUNTIMES)
def test_vectors_and_scores_are_pylates(folder_of: Callable[[str], Path], usual: Both, name: str) -> None:
    """Every probe, query by query and document by document."""
    folder = folder_of(name)
    runtime = TorchRuntime(folder, COLBERT, 1) if name == "PyTorch" else OnnxRuntime(folder / "model.onnx", 1)
    vector_error, maxsim_error = largest_differences(usual, score(runtime, usual.encoded, usual.scoring))
    print(f"{name}: a token vector differs by {vector_error:.2g} at most, a MaxSim by {maxsim_error:.2g}")
    assert vector_error <= RUNTIMES[name]
    assert maxsim_error <= QUERY_LENGTH * RUNTIMES[name]


@pytest.mark.parametrize("name", READINGS)
def test_folders_are_read_as_pylate_reads_them(folder_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = changed(folder_of("PyTorch"), tmp_path, READINGS[name])
    both = in_both(folder, tmp_path)
    rows = score(TorchRuntime(folder, COLBERT, 1), both.encoded, both.scoring)
    vector_error, maxsim_error = largest_differences(both, rows)
    print(f"{name}: a token vector differs by {vector_error:.2g} at most, a MaxSim by {maxsim_error:.2g}")
    assert vector_error <= 1e-5
    assert maxsim_error <= QUERY_LENGTH * 1e-5


def test_folder_that_pylate_saves_is_read(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Of an encoder alone, to which PyLate adds markers and a random projection."""
    encoder = tmp_path / "encoder"
    shutil.copytree(folder_of("PyTorch"), encoder)
    for name in ("modules.json", CONFIG_FILE):
        (encoder / name).unlink()
    made = ColBERT(
        str(encoder), device="cpu", embedding_size=12, query_prefix="[ask]", document_prefix="[text]",
        query_length=QUERY_LENGTH, document_length=DOCUMENT_LENGTH,
    )  # fmt: skip
    made.save(str(tmp_path / "saved"))
    both = in_both(tmp_path / "saved", tmp_path)
    rows = score(TorchRuntime(tmp_path / "saved", COLBERT, 1), both.encoded, both.scoring)
    assert rows.shape[1] == 12
    assert max(largest_differences(both, rows)) <= QUERY_LENGTH * 1e-5


def test_planted_difference_is_seen(folder_of: Callable[[str], Path], usual: Both) -> None:
    rows = score(TorchRuntime(folder_of("PyTorch"), COLBERT, 1), usual.encoded, usual.scoring)
    rows[0, 0] += 1e-3
    assert min(largest_differences(usual, rows)) > 1e-5
