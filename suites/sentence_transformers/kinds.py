"""The kinds of folders that people have: one row each, whatever version of sentence-transformers wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fixtures.arrays import Floats

FOLDERS = Path(__file__).resolve().parents[2] / "build" / "folders"
"""Where the folders lie, in `FORMAT/KIND`, beside `base/` and `truth/`."""
HIDDEN_SIZE, SEED = 32, 21
OLD, MIDDLE, FIVE, SIX, PLAIN = "2", "4", "5", "6", "plain"
"""Formats: what 2.x wrote, what 4.0 to 5.3 wrote, what 5.4 and later 5.x write, what 6.x writes, and a folder that has
nothing of sentence-transformers. FIVE and SIX are saved by the package of that major version, the others by hand."""
SAVED = (FIVE, SIX)


@dataclass(frozen=True)
class Dense:
    """A Dense module.

    Attributes:
        activation: a class of torch.nn, made without arguments.
    """

    width: int
    activation: str = "Tanh"
    bias: bool = True


@dataclass(frozen=True)
class Base:
    """The transformer of a folder, tiny and seeded.

    Attributes:
        architecture: a row of `seeded.ARCHITECTURES`.
        auto_class: what it is saved as.
        labels: how many a classifier has.
        tokenizer_keys: keys of tokenizer_config.json that differ from the architecture's.
    """

    architecture: str = "bert"
    auto_class: str = "AutoModel"
    labels: int = 1
    tokenizer_keys: Mapping[str, object] = field(default_factory=dict)


BASES: Mapping[str, Base] = {
    "bert": Base(),
    "bert-cased": Base(tokenizer_keys={"do_lower_case": False}),
    "qwen3": Base("qwen3"),
    "qwen3-right": Base("qwen3", tokenizer_keys={"padding_side": "right"}),
    "qwen3-causal": Base("qwen3", "AutoModelForCausalLM"),
    "t5": Base("t5"),
    "mt5": Base("mt5"),
    "umt5": Base("umt5"),
    "mpnet": Base("mpnet"),
    "roberta": Base("roberta"),
    "xlm_roberta": Base("xlm_roberta"),
    "modernbert": Base("modernbert"),
    "classifier-1": Base("bert", "AutoModelForSequenceClassification"),
    "classifier-2": Base("bert", "AutoModelForSequenceClassification", 2),
    "classifier-3": Base("bert", "AutoModelForSequenceClassification", 3),
}


@dataclass(frozen=True)
class Kind:
    """One row of KINDS: what a folder holds beside its transformer, in the order of its modules.

    Attributes:
        base: a row of BASES.
        pooling: sentence-transformers' names of modes, joined in this order.
        include_prompt: whether the tokens of a prompt are pooled.
        max_length: of the module Transformer or of the CrossEncoder, in tokens; None where the tokenizer's holds.
        lower_case: `do_lower_case` of the module Transformer.
        activation: of a CrossEncoder, a class of torch.nn; empty for the library's default.
        formats: those that can hold it.
    """

    name: str
    base: str = "bert"
    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    dense: tuple[Dense, ...] = ()
    layer_norm: bool = False
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    similarity: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    activation: str = ""
    formats: Sequence[str] = (OLD, MIDDLE, FIVE, SIX)

    @property
    def is_cross_encoder(self) -> bool:
        return BASES[self.base].auto_class == "AutoModelForSequenceClassification"

    @property
    def labels(self) -> int:
        """How many labels a CrossEncoder has."""
        return BASES[self.base].labels

    @property
    def pooled_width(self) -> int:
        """Width of what its Pooling module yields."""
        return HIDDEN_SIZE * len(self.pooling)


QUERY = "Represent this sentence for searching relevant passages: "
E5 = {"query": "query: ", "passage": "passage: "}
GEMMA = {"query": "task: search result | query: ", "document": "title: none | text: "}

KINDS: Sequence[Kind] = (
    Kind("pooling-mean"),
    Kind("pooling-cls", pooling=("cls",)),
    Kind("pooling-max", pooling=("max",)),
    Kind("pooling-lasttoken", pooling=("lasttoken",)),
    Kind("pooling-weightedmean", pooling=("weightedmean",)),
    Kind("pooling-mean-sqrt-len", pooling=("mean_sqrt_len_tokens",)),
    # Flags have no order: OLD and MIDDLE join cls, max, mean. The others keep the order of a list.
    Kind("pooling-max-mean", pooling=("max", "mean"), normalize=True),
    Kind("pooling-mean-cls", pooling=("mean", "cls"), formats=SAVED),
    Kind("normalize", normalize=True),
    Kind("layer-norm", layer_norm=True, normalize=True),
    Kind("dense-tanh", dense=(Dense(16),)),
    Kind("dense-identity", dense=(Dense(48, "Identity"),), normalize=True),
    Kind("dense-gelu", dense=(Dense(16, "GELU"),), normalize=True),
    Kind("dense-relu", dense=(Dense(16, "ReLU"),)),
    Kind("dense-without-bias", dense=(Dense(16, "Tanh", bias=False),)),
    Kind("dense-after-joined-pooling", pooling=("cls", "mean"), dense=(Dense(16),), normalize=True),
    Kind("embeddinggemma", dense=(Dense(96, "Identity", False), Dense(32, "Identity", False)), normalize=True,
         prompts=GEMMA),
    Kind("labse", pooling=("cls",), dense=(Dense(32),), normalize=True),
    Kind("sentence-t5", "t5", dense=(Dense(24, "Identity", bias=False),), normalize=True, max_length=64),
    Kind("mt5", "mt5", normalize=True),
    Kind("umt5", "umt5", normalize=True),
    Kind("e5", prompts=E5, normalize=True),
    Kind("bge", pooling=("cls",), prompts={"query": QUERY}, normalize=True),
    Kind("default-prompt", prompts={"s2s": "Instruct: match\nText: ", "query": "Q: "}, default_prompt="s2s"),
    Kind("prompt-not-pooled", include_prompt=False, prompts={"query": QUERY}, default_prompt="query", normalize=True),
    Kind("prompt-not-pooled-max", pooling=("max",), include_prompt=False, prompts={"query": QUERY},
         default_prompt="query"),
    Kind("prompt-not-pooled-cls", pooling=("cls",), include_prompt=False, prompts={"query": QUERY},
         default_prompt="query"),
    Kind("prompt-not-pooled-weightedmean", pooling=("weightedmean",), include_prompt=False,
         prompts={"query": QUERY}, default_prompt="query"),
    Kind("prompt-not-pooled-left-padding", "qwen3", include_prompt=False, prompts={"query": QUERY},
         default_prompt="query", normalize=True),
    Kind("truncate-dim", truncate_dim=8, formats=SAVED),
    Kind("truncate-dim-normalized", normalize=True, truncate_dim=8, formats=SAVED),
    Kind("truncate-dim-behind-dense", dense=(Dense(24),), normalize=True, truncate_dim=12, formats=SAVED),
    Kind("similarity-dot", similarity="dot", formats=(MIDDLE, *SAVED)),
    Kind("similarity-euclidean", similarity="euclidean", formats=(MIDDLE, *SAVED)),
    Kind("short-max-length", max_length=24, normalize=True),
    # Not SIX: BertTokenizer of Transformers 5 drops the normalizer that 6.2 has put into tokenizer.json.
    Kind("lower-case", "bert-cased", lower_case=True, formats=(OLD, MIDDLE, FIVE)),
    Kind("cased", "bert-cased"),
    Kind("qwen3-embedding", "qwen3", pooling=("lasttoken",), normalize=True,
         prompts={"query": "Instruct: Given a web search query, retrieve relevant passages\nQuery:", "document": ""}),
    Kind("decoder-mean-left-padding", "qwen3", normalize=True),
    Kind("decoder-cls-left-padding", "qwen3", pooling=("cls",)),
    Kind("decoder-weightedmean", "qwen3-right", pooling=("weightedmean",), normalize=True),
    Kind("decoder-lasttoken-right-padding", "qwen3-right", pooling=("lasttoken",)),
    Kind("mpnet", "mpnet", normalize=True),
    Kind("roberta", "roberta", pooling=("cls",), normalize=True),
    Kind("xlm-roberta", "xlm_roberta", prompts=E5, normalize=True),
    Kind("modernbert", "modernbert", normalize=True),
    Kind("transformers-encoder", formats=(PLAIN,)),
    Kind("transformers-decoder", "qwen3-causal", pooling=("lasttoken",), formats=(PLAIN,)),
    Kind("cross-encoder", "classifier-1"),
    Kind("cross-encoder-identity", "classifier-1", activation="Identity"),
    Kind("cross-encoder-sigmoid", "classifier-1", activation="Sigmoid"),
    Kind("cross-encoder-2-labels", "classifier-2"),
    Kind("cross-encoder-3-labels", "classifier-3"),
    Kind("cross-encoder-short", "classifier-1", max_length=48),
    Kind("cross-encoder-prompt", "classifier-1", prompts={"web": "Web search: "}, default_prompt="web",
         formats=SAVED),
    Kind("cross-encoder-prompt-3-labels", "classifier-3", prompts={"web": "Web search: "}, default_prompt="web",
         formats=SAVED),
    Kind("transformers-classifier", "classifier-1", formats=(PLAIN,)),
)  # fmt: skip

KIND = {kind.name: kind for kind in KINDS}

UNKNOWN_MODULES = (
    *("sentence_transformers.models.WeightedLayerPooling", "sentence_transformers.models.CNN"),
    *("sentence_transformers.models.LSTM", "sentence_transformers.models.BoW"),
    *("sentence_transformers.models.WordEmbeddings", "sentence_transformers.models.WordWeights"),
    *("sentence_transformers.models.StaticEmbedding", "sentence_transformers.models.CLIPModel"),
    *("sentence_transformers.models.Asym", "sentence_transformers.base.modules.router.Router"),
    "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
    "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "custom_module.GatedPooling",
)
"""Types of modules that change embeddings and that the gate does not know: a folder with one has to be refused."""


def weights_behind(kind: Kind) -> list[dict[str, Floats]]:
    """Return the weights of each Dense of a kind, and behind them of its LayerNorm: tensor -> values."""
    random = np.random.default_rng(SEED)
    width, modules = kind.pooled_width, []
    for dense in kind.dense:
        weight = random.standard_normal((dense.width, width)) * 2 / np.sqrt(width)
        tensors = {"linear.weight": weight.astype(np.float32)}
        if dense.bias:
            tensors["linear.bias"] = random.standard_normal(dense.width).astype(np.float32)
        modules.append(tensors)
        width = dense.width
    if kind.layer_norm:
        gains, biases = random.standard_normal((2, width)).astype(np.float32)
        modules.append({"norm.weight": 1 + 0.5 * gains, "norm.bias": biases})
    return modules
