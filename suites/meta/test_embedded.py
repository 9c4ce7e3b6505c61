"""The two embedded models are what they claim to be."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fixtures.build.needs import ModelSize
from fixtures.build.store import Store
from fixtures.build.workers import Limits, build_all
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.gate.subject import read_model
from fixtures.models.checkpoints import find_checkpoint
from fixtures.models.settings import Model, ModelError, Settings
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.scoring import probes
from fixtures.scoring import scores as scoring_scores
from fixtures.scoring.encoded import LONG_FILE, TOKENS_FILE, EncodedLongText, EncodedProbes
from fixtures.scoring.probes import PAIRS, TEXTS
from fixtures.scoring.scores import SCORES_FILE, plan_reference
from fixtures.scoring.tasks import TASKS, Scoring
from fixtures.scoring.tokens import plan_tokens

BASELINES = Path(__file__).resolve().parents[2] / "baselines"
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]


class Built:
    """One embedded model, its plain export and its reference."""

    def __init__(self, name, folder):
        self.model = read_model(BASELINES / name)
        self.checkpoint = find_checkpoint(self.model)
        root = recipes.prepare(name, self.checkpoint, self.model.settings.source)
        tokens = plan_tokens(self.model, root)
        task = TASKS[self.model.settings.task].export_task
        plain = recipes.plan(name, VARIANT["plain"], root, task, hardware.detect())
        steps = [tokens, plan_reference(self.model, root, tokens), plain]
        store = Store(folder)
        assert build_all(store, dict.fromkeys(steps, ModelSize()), Limits(2, 2**33), print) == {}
        folders = [store.run(step).folder for step in steps]
        self.encoded = EncodedProbes.load(folders[0] / TOKENS_FILE)
        self.long = EncodedLongText.load(folders[0] / LONG_FILE)
        self.reference = load_file(folders[1] / SCORES_FILE)["scores"]
        self.runtime = OnnxRuntime(folders[2] / MODEL_FILE, 2)
        self.plain = folders[2]


@pytest.fixture(scope="module")
def embedder(shared_store):
    return Built("minilm-l6", shared_store)


@pytest.fixture(scope="module")
def reranker(shared_store):
    return Built("minilm-reranker", shared_store)


def test_embedder_equals_sentence_transformers(embedder):
    """Every probe, from text to unit vector, in PyTorch and in the plain export."""
    from sentence_transformers import SentenceTransformer

    texts = []
    transformer = SentenceTransformer(str(embedder.checkpoint.folder), device="cpu")
    for probe in TEXTS:
        count = lambda text, pair: len(transformer.tokenizer(text, pair)["input_ids"])  # noqa: E731
        texts.append(probes.fill(probe, count, embedder.model.settings.max_length).text)
    expected = transformer.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.reference, expected, atol=1e-5)
    scores = scoring_scores.score(embedder.runtime, embedder.encoded, Scoring.of(embedder.model.settings, {}))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_embedder_has_the_published_similarities(embedder):
    """sentence-transformers' quick start prints 0.6660, 0.1046 and 0.1411 for its three sentences."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(embedder.plain / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(SENTENCES)
    feeds = {
        "input_ids": np.array([row.ids for row in rows]),
        "attention_mask": np.array([row.attention_mask for row in rows]),
        "token_type_ids": np.array([row.type_ids for row in rows]),
    }
    settings = embedder.model.settings
    vectors = TASKS["embedding"].scores(embedder.runtime, feeds, Scoring.of(settings, {}))
    similarity = (vectors @ vectors.T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(similarity, [0.6660, 0.1046, 0.1411], atol=1e-4)


def test_length_probes_have_their_exact_lengths(embedder, reranker):
    """Exactly at the limit, and cut back to it from one over and from far over."""
    for built, rows in ((embedder, TEXTS), (reranker, PAIRS)):
        lengths = {row.id: n for row, n in zip(rows, built.encoded.lengths, strict=True) if row.length}
        assert set(lengths.values()) == {built.model.settings.max_length}


def test_reranker_puts_graded_passages_in_order(reranker):
    """At least 90 % of the pairs with different grades, at every query of the probes."""
    grades = np.array([np.nan if probe.grade is None else probe.grade for probe in PAIRS])
    queries = np.array([probe.query or "" for probe in PAIRS])
    above = (grades[:, None] > grades) & (queries[:, None] == queries)
    right = (reranker.reference[:, None] > reranker.reference)[above].mean()
    assert right >= 0.9, f"only {right:.1%} of {above.sum()} pairs are in order"


def test_reranker_logits_spread_over_several_units(reranker):
    assert np.ptp(reranker.reference) > 6
    assert reranker.reference.std() > 1.5


def test_wrong_weights_are_refused(embedder, tmp_path):
    """A package with other weights under the same name is not all-MiniLM-L6-v2."""
    settings = Settings(
        task="embedding", source=f"path:{embedder.checkpoint.folder}", max_length=256, pooling="mean",
        weights="sha256:" + "0" * 64,
    )  # fmt: skip
    (tmp_path / "model.toml").write_text('weights = "sha256:..."\n')
    with pytest.raises(ModelError, match="not the pinned sha256:0000"):
        find_checkpoint(Model("fake", tmp_path, settings))


def test_plain_export_of_the_embedder_is_close(embedder):
    scores = scoring_scores.score(embedder.runtime, embedder.encoded, Scoring.of(embedder.model.settings, {}))
    assert np.abs(embedder.reference - scores).max() < 1e-5
