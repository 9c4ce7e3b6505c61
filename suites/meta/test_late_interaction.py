"""ColBERT: how texts are read, which tokens have vectors, what MaxSim is, and what a folder of PyLate says of all that.

What PyLate itself makes of the same folders is compared in suites/pylate.
"""

import json
import shutil
import string
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fixtures.export import seeded
from fixtures.export.layout import layout_parameters, put_configuration
from fixtures.export.onnx_export import finish, finish_parameters
from fixtures.models.files import checkpoint_digest, checkpoint_sums
from fixtures.models.inference import infer, render
from fixtures.models.late_interaction import (
    DEFAULTS,
    asked_for,
    complete,
    read_asked_for,
    read_late_interaction,
    write_asked_for,
)
from fixtures.models.length_limits import read_limits
from fixtures.models.sentence_transformers import CONFIG_FILE, ModuleLayer
from fixtures.models.settings import ModelError, Settings
from fixtures.models.tables import LateInteraction
from fixtures.models.tensors import read_tensors
from fixtures.runtimes.torch_runtime import COLBERT, TorchRuntime
from fixtures.scoring.closeness import Layout
from fixtures.scoring.head import read_layers
from fixtures.scoring.late_interaction import (
    DOCUMENT,
    PADDING,
    QUERY,
    SKIPPED,
    TOKEN_ROLES,
    Reading,
    max_sim,
    read_with,
    token_vectors,
)
from fixtures.scoring.probes import is_query
from fixtures.scoring.stress import batch_layout
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.token_closeness import compare_late_interaction
from fixtures.scoring.update import late_interaction_update
from suites.conformance import test_prompts, test_tokenizer
from suites.meta.house import EMBEDDER, LOOSE

READING = Reading(query_marker=90, document_marker=91, query_length=6, expansion=4, attends=False, skipped=[7, 8])
ROW = {"input_ids": [2, 7, 9, 3], "token_type_ids": [0, 0, 0, 0], "attention_mask": [1, 1, 1, 1]}
IDS = {"mask": 4, "end": None, "pad": 0, "unknown": 1}
VOCABULARY = {"[Q] ": 90, "[D] ": 91, ".": 7, ",": 8, "[UNK]": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a seeded ColBERT."""
    folder = tmp_path_factory.mktemp("base")
    seeded.make([], folder, {"architecture": "bert_late", "seed": 18, "auto_class": COLBERT, "labels": 1})
    return folder


@pytest.fixture
def folder(base, tmp_path):
    """A copy of the seeded ColBERT."""
    return shutil.copytree(base, tmp_path / "folder")


def change(folder, name=CONFIG_FILE, **keys):
    """Change keys of a JSON file; None removes one."""
    file = folder / name
    content = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def judged(house, folder, keys=""):
    """Return a folder as the gate judges it."""
    digest = checkpoint_digest(folder)
    text = f'task = "late-interaction"\nsource = "path:{folder}"\ndigest = "sha256:{digest}"\nmax_length = 64\n{keys}'
    house.add("tiny", text)
    (subject,) = house.start().load()
    return subject


# ------------------------------------------------------------------------------------- how texts are read


def test_query_has_its_marker_and_is_filled_up():
    marked = READING.mark(ROW, is_query=True)
    assert marked == {
        "input_ids": [2, 90, 7, 9, 3, 4],
        "token_type_ids": [0] * 6,
        "attention_mask": [1, 1, 1, 1, 1, 0],
        TOKEN_ROLES: [QUERY] * 6,
    }
    assert READING.limit(64, is_query=True) == 5
    assert ROW["input_ids"] == [2, 7, 9, 3]


def test_document_has_its_marker_and_skips():
    marked = READING.mark(ROW, is_query=False)
    assert marked["input_ids"] == [2, 91, 7, 9, 3]
    assert marked["attention_mask"] == [1] * 5
    assert marked[TOKEN_ROLES] == [DOCUMENT, DOCUMENT, SKIPPED, DOCUMENT, DOCUMENT]
    assert READING.limit(64, is_query=False) == 63


@pytest.mark.parametrize(
    ("keys", "ids", "mask"),
    [
        ({"attends": True}, [2, 90, 7, 9, 3, 4], [1] * 6),
        ({"expansion": None}, [2, 90, 7, 9, 3], [1] * 5),
        ({"query_marker": None}, [2, 7, 9, 3, 4, 4], [1, 1, 1, 1, 0, 0]),
        ({"query_length": 4}, [2, 90, 7, 9, 3], [1] * 5),  # a caller cuts it before
    ],
)
def test_query_is_read_as_the_folder_says(keys, ids, mask):
    fields = {name: getattr(READING, name) for name in Reading.__struct_fields__}
    marked = Reading(**(fields | keys)).mark(ROW, is_query=True)
    assert (marked["input_ids"], marked["attention_mask"]) == (ids, mask)


def test_word_that_is_no_token_skips_the_unknown_one():
    stated = LateInteraction(skiplist_words=(".", "no such word")).over(DEFAULTS)
    assert read_with(stated, VOCABULARY.get, IDS).skipped == [1, 7]
    assert read_with(stated, VOCABULARY.get, IDS | {"unknown": None}).skipped == [7]


@pytest.mark.parametrize(("ids", "filler"), [({}, 4), ({"mask": None, "end": 5}, 5), ({"mask": None}, 0)])
def test_queries_are_filled_with_the_mask_or_what_ends_or_pads(ids, filler):
    assert read_with(DEFAULTS, VOCABULARY.get, IDS | ids).expansion == filler


def test_marker_that_is_no_token_is_refused():
    with pytest.raises(
        ValueError, match=r"query_prefix is '\[ask\]', and the vocabulary has no such token: PyLate adds"
    ):
        read_with(LateInteraction("[ask]").over(DEFAULTS), VOCABULARY.get, IDS)
    with pytest.raises(ValueError, match="no mask token, and none that ends or pads"):
        read_with(DEFAULTS, VOCABULARY.get, dict.fromkeys(IDS))
    assert read_with(LateInteraction("", "").over(DEFAULTS), VOCABULARY.get, IDS).query_marker is None


def test_probes_are_read_as_queries_and_documents(house, folder):
    """Those of an exact length fill what the marker leaves; texts of others are documents."""
    subject = judged(house, folder)
    encoded, queries = subject.encoded, [is_query(probe) for probe in subject.probes]
    assert encoded.are_queries.tolist() == queries
    lengths = encoded.lengths
    assert set(lengths[queries].tolist()) == {16}
    assert lengths[np.logical_not(queries)].max() == 64
    markers = encoded.fields["input_ids"][encoded.offsets[:-1] + 1]
    assert [(marker == 1000) for marker in markers.tolist()] == queries
    (text,) = np.split(subject.encode([("a tenant.", None)]).fields[TOKEN_ROLES], 1)
    assert text.tolist() == [DOCUMENT] * (len(text) - 2) + [SKIPPED, DOCUMENT]
    np.testing.assert_array_equal(subject.layout.are_queries, queries)
    np.testing.assert_array_equal(subject.layout.subset(np.array([1, 0])).are_queries, queries[1::-1])


def test_left_padding_is_refused(house, folder):
    subject = judged(house, folder, '[tokenizer]\npadding_side = "left"\n')
    with pytest.raises(Exception, match="pads on the left is not judged"):
        subject.encoded  # noqa: B018


def test_query_longer_than_the_positions_is_refused(house, folder):
    subject = judged(house, change(folder, query_length=129))
    with pytest.raises(
        Exception, match=r"query_length is 129 in model\.toml, and the checkpoint has only 128 positions"
    ):
        subject.encoded  # noqa: B018


# ------------------------------------------------------------------------------------- vectors and MaxSim


FEEDS = {
    TOKEN_ROLES: np.array(
        [[QUERY] * 4, [DOCUMENT, SKIPPED, DOCUMENT, PADDING], [DOCUMENT, DOCUMENT, PADDING, PADDING]]
    ),
    "attention_mask": np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]),
    "input_ids": np.zeros((3, 4), np.int64),
}
HIDDEN = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


def test_expansion_has_vectors_and_what_is_skipped_has_none():
    rows = token_vectors(HIDDEN, FEEDS, normalize=False)
    expected = np.concatenate([HIDDEN[0], HIDDEN[1, :3], HIDDEN[2, :2]])
    expected[[5, 8]] = 0  # skipped, and left out by the mask
    np.testing.assert_array_equal(rows, expected)
    unit = token_vectors(HIDDEN, FEEDS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), rows.any(axis=1), rtol=1e-6)
    assert batch_layout(FEEDS).tokens.tolist() == [4, 3, 2]
    np.testing.assert_array_equal(batch_layout(FEEDS).are_queries, [True, False, False])


def test_query_that_the_mask_leaves_nothing_of_has_no_vector():
    feeds = FEEDS | {"attention_mask": np.array([[0] * 4, [1, 1, 1, 0], [1, 0, 0, 0]])}
    assert not token_vectors(HIDDEN, feeds, normalize=True)[:4].any()


def test_batch_without_roles_is_of_documents():
    feeds = {name: values for name, values in FEEDS.items() if name != TOKEN_ROLES}
    rows = token_vectors(HIDDEN, feeds, normalize=False)
    assert len(rows) == FEEDS["attention_mask"].sum()
    assert batch_layout(feeds).are_queries is None


def test_max_sim_is_the_mean_of_the_largest_products():
    rows = token_vectors(HIDDEN, FEEDS, normalize=True).astype(np.float64)
    table = max_sim(rows, np.array([4, 3, 2]), np.array([True, False, False]))
    expected = [max(query @ rows[place] for place in places) for places in ([4, 6], [7]) for query in rows[:4]]
    np.testing.assert_allclose(table, np.reshape(expected, (2, 4)).mean(axis=1)[None])


def test_max_sim_of_texts_without_vectors_is_zero():
    rows = np.zeros((3, 2))
    rows[0] = 1
    layout = np.array([1, 1, 1]), np.array([True, False, True])
    np.testing.assert_array_equal(max_sim(rows, *layout), [[0], [0]])
    assert max_sim(rows, np.array([1, 1, 1]), np.zeros(3, bool)).shape == (0, 3)


def compared(before, after):
    layout = Layout(np.array([4, 3, 2]), [None] * 3, [None] * 3, are_queries=np.array([True, False, False]))
    return compare_late_interaction(before, after, layout)


def test_closeness_of_token_vectors():
    rows = token_vectors(HIDDEN, FEEDS, normalize=True)
    assert compared(rows, rows).metrics == {
        "max_abs_error": 0, "min_token_cosine": 1, "max_maxsim_error": 0, "kendall_tau": 1
    }  # fmt: skip
    moved = rows.copy()
    moved[6] = -moved[6]
    closeness = compared(rows, moved)
    assert closeness.worst == 1
    assert closeness.metrics["max_abs_error"] == pytest.approx(2 * np.abs(rows[6]).max())
    assert closeness.metrics["min_token_cosine"] == pytest.approx(-1)
    layout = np.array([4, 3, 2]), np.array([True, False, False])
    change_of_scores = max_sim(rows.astype(float), *layout) - max_sim(moved.astype(float), *layout)
    assert closeness.metrics["max_maxsim_error"] == pytest.approx(np.abs(change_of_scores).max())


def test_vector_of_a_token_that_is_skipped_is_seen():
    rows = token_vectors(HIDDEN, FEEDS, normalize=True)
    counted = rows.copy()
    counted[5] = 1
    assert compared(rows, counted).metrics["min_token_cosine"] == 0


def test_update_says_which_pairs_moved():
    rows = token_vectors(HIDDEN, FEEDS, normalize=True)
    moved = rows.copy()
    moved[7] = -moved[7]
    layout = Layout(np.array([4, 3, 2]), [None] * 3, [None] * 3, are_queries=np.array([True, False, False]))
    update = late_interaction_update(rows, moved, layout)
    assert set(update.metrics) == set(TASKS["late-interaction"].update.metrics)
    assert update.moves[0].rows == (0, 2)
    assert update.moves[0].before.startswith("MaxSim ")
    assert late_interaction_update(rows, rows[:, :2], layout).reason


# ------------------------------------------------------------------------------------- what a folder says


def test_folder_says_what_model_toml_needs(folder):
    lines = {line.key: (line.value, line.origin) for line in infer(folder, TASKS, {})}
    assert lines["task"] == ("late-interaction", f"model_type in {CONFIG_FILE}")
    assert lines["max_length"] == (64, f"document_length in {CONFIG_FILE}")
    assert lines["late_interaction.query_length"] == (16, f"query_length in {CONFIG_FILE}")
    assert lines["late_interaction.skiplist_words"][0] == list(string.punctuation)
    assert "[late_interaction]" in render(infer(folder, TASKS, {}))


def test_folder_that_says_less_is_read_as_pylate_reads_it(folder):
    change(folder, query_length=None, document_length=None, skiplist_words=None, model_type=None)
    lines = {line.key: (line.value, line.origin) for line in infer(folder, TASKS, {})}
    assert lines["task"] == ("late-interaction", "a module of PyLate in modules.json")
    assert lines["max_length"] == (180, "PyLate's document_length, since no file says it")
    assert lines["late_interaction.query_length"] == (32, "PyLate's query_length, since no file says it")


def test_model_toml_goes_before_the_folder_and_the_folder_before_pylate(house, folder):
    change(folder, query_prefix="[D] ", do_query_expansion=False, attend_to_expansion_tokens=True)
    keys = '[late_interaction]\nquery_length = 9\nskiplist_words = ["."]\n'
    stated = judged(house, folder, keys).model.settings
    assert stated.late_interaction == LateInteraction("[D] ", "[D] ", 9, False, False, (".",))
    assert stated.normalize


def modules(*kinds: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (kind, path) in enumerate(kinds)]


TRANSFORMER, DENSE = ("sentence_transformers.models.Transformer", ""), ("pylate.models.Dense.Dense", "1_Dense")
POOLING = ("sentence_transformers.models.Pooling", "1_Pooling")


@pytest.mark.parametrize(
    ("listed", "keys", "message"),
    [
        ([TRANSFORMER], {}, "modules.json: Transformer: of a ColBERT an encoder in the folder itself and its Dense"),
        ([TRANSFORMER, POOLING], {}, "Transformer, Pooling: of a ColBERT"),
        ([(TRANSFORMER[0], "0_Transformer"), DENSE], {}, "an encoder in the folder itself"),
        ([TRANSFORMER, ("mine.Dense", "1_Dense")], {}, "is code of the checkpoint's own, which is not run"),
        ([TRANSFORMER, (DENSE[0], "2_Dense")], {}, "2_Dense is missing, and modules.json names it"),
        ([TRANSFORMER, DENSE], {"query_length": "many"}, f"{CONFIG_FILE}: query_length: "),
        ([TRANSFORMER, DENSE], {"query_length": 0}, f"{CONFIG_FILE}: query_length: "),
        ([TRANSFORMER, DENSE], {"skiplist_words": "."}, f"{CONFIG_FILE}: skiplist_words: "),
        ([TRANSFORMER, DENSE], {"document_length": "long"}, f"{CONFIG_FILE}: document_length: is 'long'"),
        ([TRANSFORMER, DENSE], {"default_prompt_name": "query"}, "default_prompt_name: a prompt before every text"),
    ],
)
def test_what_is_not_known_is_refused_by_name(folder, listed, keys, message):
    (folder / "modules.json").write_text(json.dumps(modules(*listed)))
    with pytest.raises(ModelError, match=message.replace(".", r"\.")):
        read_late_interaction(change(folder, **keys))


def test_folder_without_modules_is_refused(folder):
    (folder / "modules.json").unlink()
    with pytest.raises(ModelError, match=r"modules\.json is missing: load the folder with PyLate, and save it again"):
        read_late_interaction(folder)


def test_projection_of_another_width_is_refused(house, folder):
    save_file({"linear.weight": np.ones((24, 30), np.float32)}, folder / "1_Dense" / "model.safetensors")
    with pytest.raises(Exception, match="takes vectors of 30 numbers, and those before it have 32"):
        judged(house, folder)


def test_late_interaction_is_for_a_colbert_alone(house):
    house.add(
        "tiny", 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\n[late_interaction]\nquery_length = 9\n'
    )
    with pytest.raises(Exception, match=r'model\.toml:4: late_interaction: only a ColBERT has it: task = "late-inter'):
        house.start().load()


def test_length_that_pylate_sets_anew_is_no_limit(folder):
    """The last length that a text was cut at stays in the file of the encoder, whatever it was."""
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 15}')
    assert read_limits(folder).max_seq_length is None
    change(folder, model_type="SentenceTransformer")
    (folder / "modules.json").unlink()
    assert read_limits(folder).max_seq_length == 15


def test_projection_is_in_the_digest_and_among_the_weights(folder):
    assert {"1_Dense/model.safetensors", "1_Dense/config.json"} <= checkpoint_sums(folder).keys()
    assert read_tensors(folder)["1_Dense.linear.weight"].shape == (24, 32)


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"])
def test_projection_is_computed_as_the_modules_of_sentence_transformers_are(folder, activation):
    """Bias, activation and residual, in two layers, against NumPy's."""
    random = np.random.default_rng(1)
    place = "linear" if activation == "Identity" else "activation"
    named = f"torch.nn.modules.{place}.{activation}"
    layers = []
    for name, (outputs, inputs), residual in (("1_Dense", (24, 32), True), ("2_Dense", (24, 24), True)):
        tensors = {"linear.weight": random.standard_normal((outputs, inputs)), "linear.bias": random.random(outputs)}
        if inputs != outputs:
            tensors["residual.weight"] = random.standard_normal((outputs, inputs))
        (folder / name).mkdir(exist_ok=True)
        content = {key: array.astype(np.float32) for key, array in tensors.items()}
        save_file(content, folder / name / "model.safetensors")
        config = {"in_features": inputs, "out_features": outputs, "bias": True, "use_residual": residual}
        (folder / name / "config.json").write_text(json.dumps(config | {"activation_function": named}))
        layers.append(ModuleLayer("dense", name, activation.lower(), residual))
    (folder / "modules.json").write_text(json.dumps(modules(TRANSFORMER, DENSE, (DENSE[0], "2_Dense"))))
    assert read_late_interaction(folder).layers == tuple(layers)
    feeds = {name: np.ones((1, 5), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    expected = TorchRuntime(folder, "AutoModel", 1)(feeds)["last_hidden_state"][0]
    for layer in read_layers(folder, layers):
        expected = layer(expected)
    actual = TorchRuntime(folder, COLBERT, 1)(feeds)["token_embeddings"][0]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-5)


# ------------------------------------------------------------------------------------- what is shipped


def case_of(folder, settings):
    subject = SimpleNamespace(model=SimpleNamespace(settings=settings))
    return SimpleNamespace(subject=subject, ready_made=None, artifact=SimpleNamespace(folder=folder))


def test_configuration_beside_the_graph_says_what_was_judged(folder, tmp_path):
    """It is the checkpoint's own, unless model.toml says otherwise, and one that says otherwise fails."""
    reading = complete(read_late_interaction(folder).late_interaction or LateInteraction())
    settings = Settings(task="late-interaction", source="path:x", max_length=64, late_interaction=reading)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    finish(folder, artifact, {"task": "feature-extraction", **finish_parameters(settings, None)})
    assert (artifact / CONFIG_FILE).read_bytes() == (folder / CONFIG_FILE).read_bytes()
    test_prompts.test_queries_and_documents_are_asked_for(case_of(artifact, settings))

    shorter = Settings(
        task="late-interaction", source="path:x", max_length=48,
        late_interaction=LateInteraction(query_length=9).over(reading),
    )  # fmt: skip
    with pytest.raises(AssertionError, match=r"query_length is 16, and was judged as 9\n *document_length is 64, and"):
        test_prompts.test_queries_and_documents_are_asked_for(case_of(artifact, shorter))
    finish(folder, artifact, {"task": "feature-extraction", **finish_parameters(shorter, None)})
    test_prompts.test_queries_and_documents_are_asked_for(case_of(artifact, shorter))
    assert read_asked_for(artifact / CONFIG_FILE) == asked_for(shorter)
    (artifact / CONFIG_FILE).unlink()
    with pytest.raises(pytest.fail.Exception, match="whoever runs it has to guess markers and lengths"):
        test_prompts.test_queries_and_documents_are_asked_for(case_of(artifact, shorter))


def test_layout_says_what_was_judged(house, folder, tmp_path):
    model = judged(house, folder, "[late_interaction]\nquery_length = 9\n").model
    sums = {name: folder / name for name in checkpoint_sums(folder)}
    shutil.copytree(folder, tmp_path / "artifact", ignore=shutil.ignore_patterns("modules.json", "1_Dense"))
    put_configuration(tmp_path / "artifact", sums, tmp_path / "layout", layout_parameters(model))
    assert read_asked_for(tmp_path / "layout" / CONFIG_FILE) == asked_for(model.settings)
    assert read_late_interaction(tmp_path / "layout").layers == read_late_interaction(folder).layers


def test_layout_of_other_models_says_nothing_of_it(house):
    """It is part of a store key, which must be what it was."""
    house.add("bert", EMBEDDER + LOOSE)
    (subject,) = house.start().subjects
    assert "late_interaction" not in layout_parameters(subject.model)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "[late_interaction]\nquery_length = 9\n",
            "query_length is 9, and its config_sentence_transformers.json says 16",
        ),
        ("[late_interaction]\nskiplist_words = []\n", r"skiplist_words is \(\), and its config"),
        ("normalize = false\n", "normalize is False, and its modules.json says True"),
    ],
)
def test_model_toml_that_says_otherwise_is_named(house, folder, keys, message):
    subject = judged(house, folder, keys)
    with pytest.raises(AssertionError, match=message):
        test_tokenizer.test_pooling_is_the_checkpoints_own(subject)
    test_tokenizer.test_pooling_is_the_checkpoints_own(judged(house, folder))


def test_folder_without_pylates_file_gets_one_that_says_what_it_is(base, tmp_path):
    """A folder that an older ColBERT saved has none: what it is judged as stands in model.toml."""
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "artifact"
    checkpoint.mkdir()
    folder.mkdir()
    asked = read_asked_for(base / CONFIG_FILE)
    write_asked_for(checkpoint, folder, asked)
    assert read_asked_for(folder / CONFIG_FILE) == asked
    assert json.loads((folder / CONFIG_FILE).read_text())["model_type"] == "ColBERT"
