"""Entities are those of Transformers' pipeline, and how many stay is gated."""

import json

import numpy as np
import pytest

from fixtures.export import seeded
from fixtures.export.seeded_tokenizers import POSITIONS
from fixtures.scoring.closeness import Layout, compare_token_classes
from fixtures.scoring.entities import AGGREGATIONS, Entity, Tagging, Words, entities_of, entity_agreement, read_words
from fixtures.scoring.probes import LONG_TEXT, TEXTS
from fixtures.scoring.update import token_class_update

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PLAIN_LABELS = ("O", "PER", "LOC", "ORG", "MISC")
TAGGER = 'task = "token-classification"\nsource = "seeded:electra@8"\nlabels = 5\nmax_length = 64\n'
SENTENCES = (
    "Angela Merkel met François Hollande in Aix-en-Provence, near Marseille.",
    "The tenants' association of Saint-Étienne wrote to Mrs. O'Neill-Smith on 3 May.",
    LONG_TEXT,
)


@pytest.fixture(scope="module", params=["electra", "roberta", "xlm_roberta"])
def checkpoint(request, tmp_path_factory):
    """Return the folder of a tagger: of WordPiece, whose tokenizer knows words, and of two that do not."""
    folder = tmp_path_factory.mktemp(request.param)
    seeded.make(
        [],
        folder,
        {"architecture": request.param, "seed": 8, "auto_class": "AutoModelForTokenClassification", "labels": 5},
    )
    return folder


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("labels", [TAGS, PLAIN_LABELS], ids=["tags", "labels"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_are_those_of_transformers_pipeline(checkpoint, aggregation, labels):
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    model.config.id2label = dict(enumerate(labels))
    tagger = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=aggregation, device="cpu"
    )
    count = 0
    for text in [*SENTENCES, *(probe.text for probe in TEXTS[::3] if probe.text)]:
        expected = [Entity(row["entity_group"], row["start"], row["end"]) for row in tagger(text)]
        with torch.no_grad():
            logits = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].numpy()
        words = read_words(tokenizer, [text], POSITIONS)
        assert entities_of(logits, words, labels, aggregation) == expected, text
        count += len(expected)
    assert count > len(TEXTS) / 3


def words_of(*continued):
    """Return tokens of three letters each between two special ones, one behind the other with a space between."""
    spans = [(0, 0), *((4 * at, 4 * at + 3) for at in range(len(continued))), (0, 0)]
    special = [True, *[False] * len(continued), True]
    return Words(np.array(spans), np.array(special), np.array([False, *continued, False]))


def logits_of(*labels):
    """Return logits whose largest are these labels, between two of special tokens."""
    return np.eye(5, dtype=np.float32)[[1, *(TAGS.index(label) for label in labels), 1]] * 4


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("O", "O", "O"), []),
        (("B-PER", "I-PER", "O"), [("PER", 0, 7)]),
        (("B-PER", "B-PER", "I-PER"), [("PER", 0, 3), ("PER", 4, 11)]),
        (("I-PER", "O", "I-PER"), [("PER", 0, 3), ("PER", 8, 11)]),
        (("B-PER", "I-LOC", "I-LOC"), [("PER", 0, 3), ("LOC", 4, 11)]),
    ],
)
def test_tags_are_grouped(tags, expected):
    assert entities_of(logits_of(*tags), words_of(False, False, False), TAGS, "simple") == expected


def test_word_has_one_label():
    """Of its first token, of the mean, or of its surest token."""
    logits, words = logits_of("B-PER", "B-LOC", "B-LOC"), words_of(False, True, True)
    logits[2] *= 2
    assert entities_of(logits, words, TAGS, "simple") == [("PER", 0, 3), ("LOC", 4, 7), ("LOC", 8, 11)]
    assert entities_of(logits, words, TAGS, "first") == [("PER", 0, 11)]
    assert entities_of(logits, words, TAGS, "average") == [("LOC", 0, 11)]
    assert entities_of(logits, words, TAGS, "max") == [("LOC", 0, 11)]


def test_text_without_tokens_has_no_entities():
    words = Words(np.zeros((1, 2), int), np.ones(1, bool), np.zeros(1, bool))
    for aggregation in AGGREGATIONS:
        assert entities_of(np.ones((1, 5), np.float32), words, TAGS, aggregation) == []


def test_agreement_is_the_f1_of_entities():
    a, b, c = Entity("PER", 0, 3), Entity("PER", 4, 7), Entity("LOC", 4, 7)
    assert entity_agreement([[], []], [[], []]) == 1
    assert entity_agreement([[a, b]], [[a, b]]) == 1
    assert entity_agreement([[a, b]], [[a, c]]) == 0.5
    assert entity_agreement([[a]], [[]]) == 0
    assert entity_agreement([[a], []], [[], [a]]) == 0, "an entity of another text"
    assert entity_agreement([[a, b], [a]], [[a], [a]]) == pytest.approx(2 * 2 / 5)


def layout_of(words, texts):
    tokens = np.full(texts, len(words.is_special))
    places = np.tile(np.arange(len(words.is_special)), texts)
    return Layout(tokens, [None] * texts, [None] * texts, Tagging(words.select(places), TAGS, "simple"))


def test_comparison_counts_entities_of_all_texts_and_of_some():
    words = words_of(False, False, False)
    before = np.concatenate([logits_of("B-PER", "I-PER", "O"), logits_of("B-LOC", "O", "B-PER")])
    after = np.concatenate([logits_of("B-PER", "O", "O"), logits_of("B-LOC", "O", "B-PER")])
    layout = layout_of(words, 2)
    assert compare_token_classes(before, before, layout).metrics["entity_agreement"] == 1
    assert compare_token_classes(before, after, layout).metrics["entity_agreement"] == pytest.approx(2 / 3)
    assert token_class_update(before, after, layout).metrics["entity_agreement"] == pytest.approx(2 / 3)
    for row, expected in ((0, 0), (1, 1)):
        rows = np.array([row])
        left, right = (layout.select(values, rows, per_token=True) for values in (before, after))
        assert compare_token_classes(left, right, layout.subset(rows)).metrics["entity_agreement"] == expected


def test_labels_one_token_too_late_change_entities(house):
    """Of the model's own probes, whose words the step that tokenises keeps."""
    house.add("tagger", TAGGER + '[entities]\naggregation = "average"\n')
    (subject,) = house.start().load()
    assert subject.layout.tagging.aggregation == "average"
    assert len(subject.layout.tagging.words.is_special) == subject.encoded.offsets[-1]
    assert subject.compare(subject.reference, subject.reference).metrics["entity_agreement"] == 1
    shifted = np.roll(subject.reference, 1, axis=0)
    assert subject.compare(subject.reference, shifted).metrics["entity_agreement"] < 0.5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (TAGGER + '[entities]\naggregation = "last"\n', "entities.aggregation"),
        (TAGGER.replace("token", "text") + "[entities]\n", "only a token classifier has entities"),
    ],
)
def test_entities_are_a_token_classifiers(house, keys, message):
    house.add("tagger", keys)
    assert message in house.usage_error()


def test_only_token_classifiers_keep_words(house):
    """The keys of all others are what they were."""
    house.add("tagger", TAGGER)
    house.add("embedder", 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\n')
    parameters = {subject.name: subject.plan.tokens.parameters for subject in house.start().load()}
    assert parameters["tagger"]["words"] is True
    assert "words" not in parameters["embedder"]
    assert "words" not in json.dumps(parameters["embedder"])
