"""The table of targets: which files are mutated, and who reads them."""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

from suites.meta.studies.fuzz import approved, end_to_end, handed_over, written
from suites.meta.studies.fuzz.campaign import Target

_weights = partial(partial, handed_over.prepare_weights)
TARGETS = (
    Target("model.toml", "every model.toml of baselines/", "alone", 300, written.prepare_model_toml),
    Target("planned", "every model.toml of the zoo", "all before a run", 600, written.prepare_planned_model),
    Target("published.toml", "every published.toml of baselines/", "alone", 600, written.prepare_published),
    Target("own texts", "JSON Lines, a folder of BEIR", "bad rows are named", 600, written.prepare_own_probes),
    Target("baseline", "JSON and arrays of minilm-l6", "no part is lost", 800, approved.prepare_baseline),
    Target("arrays", "the same, under their new digest", "finite, right types", 600, approved.prepare_arrays),
    Target("approval", "journal and files of a killed one", "all or none of it", 200, approved.prepare_approval),
    Target("gate.json", "red, green, of schema 1", "--merge: red stays red", 250, written.prepare_report),
    *(
        Target(
            name, f"JSON of a checkpoint: {name}", "--checkpoint", 200, partial(handed_over.prepare_checkpoint, name)
        )
        for name in handed_over.SEEDS
    ),
    Target("index", "the index of shards", "--checkpoint, weights", 120, handed_over.prepare_index),
    Target("safetensors", "weights and modules", "--checkpoint, weights", 200, _weights("embedder")),
    Target("torch.save", "the same, pickled", "--checkpoint, weights", 150, _weights("pickled")),
    Target("onnx", "graph, its data, tokenizer", "--artifact: finds it", 300, handed_over.prepare_graph),
    Target("adopted", "graph", "--artifact: maps its names", 300, handed_over.prepare_adoption),
    Target("beside", "JSON beside a graph", "--artifact: plans it", 80, handed_over.prepare_artifact_folder),
    Target("store", "manifest and files of an artifact", "as built, or built anew", 800, approved.prepare_artifact),
    Target("runs", "approved JSON and arrays", "a whole run of pytest", 3, end_to_end.prepare_runs),
)


def seeds_in(folder: Path) -> Path:
    """Make what examples start from, in a process of its own, and return its folder."""
    process = multiprocessing.get_context("spawn").Process(target=handed_over.make_seeds, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder
