"""Every way to get a model.toml or its checkpoint wrong, and the message for it."""

import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import save

from fixtures.gate.subject import read_model
from fixtures.models import checkpoints
from fixtures.models.checkpoints import CheckpointMissing, CheckpointUnavailable, find_checkpoint
from fixtures.models.files import (
    checkpoint_digest,
    checkpoint_files,
    configuration_files,
    is_configuration,
    sha256_of,
)
from fixtures.models.settings import Latency, ModelError, Tokenizer

LIMIT = '[[limits]]\nvariant = "O2"\ncheck = "builds"\nreason = "r"\n'
EMBEDDER = 'task = "embedding"\nsource = "path:checkpoint"\nmax_length = 16\npooling = "mean"\n'


@pytest.fixture
def folder(tmp_path):
    """A model folder with a checkpoint of three files."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    (tmp_path / "checkpoint" / "tokenizer.json").write_text("{}")
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(save({"weight": np.ones(3, np.float32)}))
    return tmp_path


def read(folder, text):
    (folder / "model.toml").write_text(text)
    return read_model(folder)


def test_keys_have_their_defaults(folder):
    settings = read(folder, EMBEDDER).settings
    assert (settings.pooling, settings.normalize, settings.variants) == ("mean", None, None)
    assert settings.tokenizer == Tokenizer()
    assert settings.latency == Latency()


def test_all_keys(folder):
    text = EMBEDDER + (
        'variants = ["plain", "O2"]\nnormalize = true\ntokenizer = {padding_side = "left"}\n'
        "[ceilings.O2]\nmin_cosine = 0.5\n[latency]\nquick = [[1, 8]]\n"
        '[[limits]]\nvariant = "O2"\ncheck = "scores_hold_under_mask"\nreason = "fused mask"\nlink = "https://x.org"\n'
    )
    settings = read(folder, text).settings
    assert settings.variants == ("plain", "O2")
    assert settings.ceilings == {"O2": {"min_cosine": 0.5}}
    assert settings.latency.quick == ((1, 8),)
    assert settings.limits[0].variant == "O2"
    assert settings.tokenizer.padding_side == "left"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("task = embedding", 1, "not valid TOML: Invalid value .at line 1"),
        (
            EMBEDDER + "pooled = 3\n",
            5,
            "pooled: there is no such key: the keys are task, source, .*; did you mean pooling.$",
        ),
        (EMBEDDER.replace("16", '"16"'), 3, 'max_length: write a whole number, 1 or more, and not "16"$'),
        (EMBEDDER.replace("16", "0"), 3, "max_length: write a whole number, 1 or more, and not 0$"),
        (
            EMBEDDER.replace("max_length = 16\n", ""),
            1,
            "max_length is missing: write max_length = a whole number, 1 or more$",
        ),
        (
            EMBEDDER.replace("path:", "http:"),
            2,
            'source: write "path:/models/mine", "package:.*, "hub:.* or "seeded:.*, and not "http:checkpoint"$',
        ),
        (EMBEDDER.replace('"mean"', '"mean+median"'), 4, "pooling: 'median' is none of mean, cls, last, max"),
        (
            EMBEDDER + "[prompts]\nqwery = 'q: '\n",
            6,
            "prompts.qwery: there is no such key: the keys are query, passage",
        ),
        (EMBEDDER.replace("embedding", "rerank") + "dimensions = 8\n", 5, "dimensions: only an embedding model has it"),
        (EMBEDDER.replace("embedding", "rerank") + "[export]\npooled = true\n", 6, "only an embedding model pools"),
        (EMBEDDER.replace("embedding", "sorting"), 1, "task: 'sorting' is none of embedding, rerank"),
        (
            EMBEDDER + '[[limits]]\nvariant = "O2"\ncheck = "holds_under_masks[x]"\nreason = "r"\nlink = "l"\n',
            7,
            "limits.0..check: no check is called 'holds_under_masks'; did you mean 'scores_hold_under_mask'",
        ),
        (
            EMBEDDER + LIMIT + 'link = "l"\n' + LIMIT + LIMIT + 'link = "l"\n',
            10,
            "limits.1.: link is missing: write link = the address where that is known",
        ),
        (EMBEDDER + '[ceilings."int8, static"]\ntopk_overlap = "a"\n', 6, "int8, static.topk_overlap: write a number"),
        (EMBEDDER + LIMIT + "link = 3\n", 9, "limits.0..link: write the address .*, and not 3$"),
        (EMBEDDER + LIMIT + 'lnk = "l"\n', 9, "limits.0..lnk: there is no such key: .* did you mean link.$"),
        (EMBEDDER + "limits = [{}]\n", 5, "limits.0.: variant is missing"),
        (EMBEDDER + "limits = 3\n", 5, "limits: write a list, each entry a table of keys, and not 3$"),
        (EMBEDDER.replace('"embedding"', "true"), 1, "task: write a text in quotes, and not true$"),
        (EMBEDDER + "normalize = 1\n", 5, "normalize: write true or false, and not 1$"),
        (EMBEDDER + 'ceilings.O2.min_cosine = "1"\n', 5, 'ceilings.O2.min_cosine: write a number, and not "1"$'),
        (EMBEDDER + 'template = "{query} {passage}"\n', 5, "template: only a decoder-reranker has a template"),
        ('task = "question-answering"\nsource = "seeded:bert@1"\nmax_length = 8\n', 1, "labels: .* start and end"),
        (EMBEDDER.replace("embedding", "text-ranking"), 1, "task: .*optimum#2355.*write task = .rerank."),
        (EMBEDDER.replace("embedding", "default"), 1, "task: .*default drops a reranker's head"),
        (EMBEDDER.replace("embedding", "decoder-rerank"), 1, "template: .* needs a text with .query. and .passage."),
        (
            EMBEDDER + "[ceilings.int9]\nmin_cosine = 1\n",
            5,
            "int9: the variants are plain, .* and their classes fp32, ",
        ),
        (EMBEDDER + 'variants = ["O9"]\n', 5, "variants: 'O9' is none of plain, O1"),
        (
            EMBEDDER + 'digest = "sha256:12"\n',
            5,
            'digest: write "sha256:" and 64 hexadecimal digits, .*, and not "sha256:12"$',
        ),
        (EMBEDDER + "[ceilings.O9]\nmin_cosine = 1\n", 5, "ceilings.O9: the variants are plain"),
        (EMBEDDER + "[ceilings.O2]\nmax_logit_error = 1\n", 6, "max_logit_error: the metrics of task embedding are"),
        (
            EMBEDDER + "[latency]\nquick = [[1]]\n",
            6,
            "latency.quick.0.: write .batch, length in tokens., such as .8, 128., and not .1.$",
        ),
        (
            EMBEDDER + '[tokenizer]\npadding_side = "up"\n',
            6,
            'tokenizer.padding_side: write "left" or "right", and not "up"$',
        ),
        (EMBEDDER.replace("path:checkpoint", "hub:BAAI/bge-m3@main"), 2, "hub: needs owner/name@ and the full 40"),
        (EMBEDDER.replace("path:checkpoint", "seeded:bert"), 2, "seeded: needs architecture@seed"),
        (EMBEDDER.replace("path:checkpoint", "seeded:birt@1"), 2, "seeded: 'birt' is none of bert"),
    ],
)
def test_wrong_model_toml_names_key_and_line(folder, text, line, message):
    with pytest.raises(ModelError) as error:
        read(folder, text)
    assert re.search(message, str(error.value)), str(error.value)
    assert str(folder / "model.toml") in str(error.value)
    if "not valid TOML" not in message:
        assert f"model.toml:{line}: " in str(error.value), str(error.value)


def test_digest_is_that_of_sha256sum(folder):
    files = [folder / "checkpoint" / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    checkpoint = find_checkpoint(read(folder, EMBEDDER + f'digest = "sha256:{expected}"\n'))
    assert checkpoint.digest == f"sha256:{expected}"
    assert checkpoint.bytes == sum(file.stat().st_size for file in files)


def test_missing_digest_prints_the_line_to_add(folder):
    with pytest.raises(ModelError) as error:
        find_checkpoint(read(folder, EMBEDDER))
    assert find_checkpoint(read(folder, f"{EMBEDDER}{digest_line(error)}\n")).folder == folder / "checkpoint"


def digest_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    """Return the line that an error says is missing in model.toml."""
    (line,) = re.findall(r'digest = "sha256:[0-9a-f]{64}"', str(error.value))
    return str(line)


def test_changed_checkpoint_is_refused(folder):
    with pytest.raises(ModelError) as error:
        find_checkpoint(read(folder, EMBEDDER))
    text = f"{EMBEDDER}{digest_line(error)}\n"
    (folder / "checkpoint" / "README.md").write_text("not part of it")
    find_checkpoint(read(folder, text))
    (folder / "checkpoint" / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ModelError, match=r"model.toml:5: digest: .* not the pinned sha256:.*--approve"):
        find_checkpoint(read(folder, text))


def test_wrong_adapter_is_refused(folder):
    with pytest.raises(ModelError, match=r"model.toml:5: adapter: .* holds no adapter_model.safetensors"):
        find_checkpoint(read(folder, EMBEDDER + 'adapter = "lora"\n'))


def removed(file):
    file.unlink()


def cut(file):
    file.write_bytes(file.read_bytes()[:20])


def pointed(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("config.json", removed, "holds no config.json"),
        ("config.json", lambda file: file.write_text("{"), "config.json is not valid JSON"),
        ("config.json", pointed, "config.json is a pointer of Git LFS"),
        ("tokenizer.json", removed, "holds no tokenizer: none of tokenizer.json, "),
        ("model.safetensors", cut, "model.safetensors cannot be read .*: is it whole"),
        ("model.safetensors", lambda file: file.write_bytes(b""), "model.safetensors cannot be read .*: is it whole"),
        ("model.safetensors", pointed, "model.safetensors is a pointer of Git LFS"),
        (
            "model.safetensors.index.json",
            lambda file: file.write_text('{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'),
            "lacks model-2.safetensors, which model.safetensors.index.json names",
        ),
    ],
)
def test_checkpoint_that_is_not_whole_is_refused(folder, name, spoil, message):
    spoil(folder / "checkpoint" / name)
    with pytest.raises(ModelError, match=message):
        find_checkpoint(read(folder, EMBEDDER))


def pin(folder):
    """Return a model.toml that pins the checkpoint as it is: what is refused then is refused of a pinned one too."""
    return EMBEDDER + f'digest = "sha256:{checkpoint_digest(folder / "checkpoint")}"\n'


def sharded(checkpoint, shard, index="model.safetensors.index.json"):
    """Give a checkpoint an index that names a shard."""
    (checkpoint / index).write_text(json.dumps({"weight_map": {"weight": shard}}))


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    "shard",
    ["{folder}/other.safetensors", "../other.safetensors", "..\\other", "C:other", "shards/a.safetensors", ".."],
)
def test_shard_that_does_not_lie_beside_the_index_is_refused(folder, index, shard):
    """A digest covers what lies in the folder: two sets of weights elsewhere would pass under one."""
    checkpoint = folder / "checkpoint"
    for place in (folder / "other.safetensors", checkpoint / "shards" / "a.safetensors"):
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(checkpoint / "model.safetensors", place)
    if "bin" in index:
        (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    sharded(checkpoint, shard.format(folder=folder), index)
    with pytest.raises(ModelError, match=rf"{re.escape(index)}: weight_map: weight lies in .*, and not beside the ind"):
        find_checkpoint(read(folder, pin(folder)))


@pytest.mark.parametrize(
    ("index", "shard", "message"),
    [
        (
            "model.safetensors.index.json",
            "no.safetensors",
            "lacks no.safetensors, which model.safetensors.index.json n",
        ),
        ("model.safetensors.index.json", "tokenizer.json", "weight_map: tokenizer.json: is not called \\*.safetensors"),
        ("pytorch_model.bin.index.json", "no.bin", "lacks no.bin, which pytorch_model.bin.index.json names"),
        (
            "pytorch_model.bin.index.json",
            "weights.bin",
            r"weights\.bin: is not called pytorch_model\.bin or pytorch_mode",
        ),
    ],
)
def test_shard_that_the_digest_does_not_cover_is_refused(folder, index, shard, message):
    checkpoint = folder / "checkpoint"
    (checkpoint / "weights.bin").write_bytes(b"weights")
    if "bin" in index:
        (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    sharded(checkpoint, shard, index)
    with pytest.raises(ModelError, match=message):
        find_checkpoint(read(folder, pin(folder)))


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{"])
def test_index_that_is_none_is_refused(folder, text):
    (folder / "checkpoint" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(
        ModelError, match=r"model\.safetensors\.index\.json(: weight_map: is no object| is not valid JS)"
    ):
        find_checkpoint(read(folder, pin(folder)))


def test_index_of_pickled_weights_beside_others_says_nothing(folder):
    """Many repositories of the hub have both, and only the one is fetched."""
    sharded(folder / "checkpoint", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json")
    find_checkpoint(read(folder, pin(folder)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("exists", [True, False])
def test_link_out_of_the_checkpoint_is_refused(folder, name, exists):
    file, outside = folder / "checkpoint" / name, folder / f"outside-{name}"
    outside.write_bytes(file.read_bytes() if file.exists() else b"")
    text = pin(folder)
    file.unlink(missing_ok=True)
    file.symlink_to(outside)
    if not exists:
        outside.unlink()
    problem = "outside .*: put a copy of the file in place" if exists else "which is missing: put the file there"
    with pytest.raises(ModelError, match=rf"{file}: is a link to {outside}, {problem}"):
        find_checkpoint(read(folder, text))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_link_within_the_checkpoint_is_a_file_like_any_other(folder, link):
    """Its content is in the digest; so is that of a hard link, which package managers make of their caches."""
    checkpoint = folder / "checkpoint"
    digests = set()
    for value in (1, 2):
        (checkpoint / "weights").write_bytes(save({"weight": np.full(3, value, np.float32)}))
        (checkpoint / "model.safetensors").unlink()
        link(checkpoint / "weights", checkpoint / "model.safetensors")
        digests.add(find_checkpoint(read(folder, pin(folder))).digest)
    assert len(digests) == 2


@pytest.mark.parametrize("path", ["../1_Dense", "{folder}/1_Dense", "1_Dense"])
def test_module_elsewhere_is_refused(folder, path):
    """Also one in a folder that is a link."""
    outside, checkpoint = folder / "1_Dense", folder / "checkpoint"
    outside.mkdir()
    (outside / "model.safetensors").write_bytes(b"weights")
    if path == "1_Dense":
        (checkpoint / path).symlink_to(outside)
    modules = [{"path": ""}, {"path": path.format(folder=folder)}]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        ModelError, match=r"1\.path: .* leaves the checkpoint's folder|Dense/model\.safetensors: is a li"
    ):
        find_checkpoint(read(folder, pin(folder)))


def test_adapter_is_as_contained_as_its_checkpoint(folder):
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_model.safetensors").symlink_to(folder / "checkpoint" / "model.safetensors")
    text = pin(folder) + 'adapter = "lora"\n'
    with pytest.raises(ModelError, match=r"lora/adapter_model\.safetensors: is a link to .*, outside"):
        find_checkpoint(read(folder, text))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("seeded:brt@9", "seeded:brt@9: seeded: 'brt' is none of"),
        ("seeded:bert", "seeded: needs architecture@seed"),
        ("hub:foo/bar", "hub: needs owner/name@ and the full 40-digit commit hash"),
        ("/no/such/folder", "the checkpoint folder .* does not exist"),
        ("{folder}/checkpoint/model.safetensors", "is a file, .* judge a ready-made .onnx with --artifact"),
        ("{folder}/adapter", "holds only an adapter, and .* is a model without one"),
    ],
)
def test_source_of_a_candidate_is_checked(folder, where, message):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=message):
        checkpoints.candidate(read(folder, EMBEDDER), where.format(folder=folder), ("bert",))


def test_line_of_a_key_is_below_its_table(folder):
    text = EMBEDDER + "[ceilings.O2]\nmax_similarity_change = 0.1\n[update]\nmax_similarity_change = inf\n"
    with pytest.raises(ModelError, match=r"model.toml:8: update.max_similarity_change"):
        read(folder, text)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("path:nowhere", "the checkpoint folder .*nowhere does not exist"),
        ("package:no_such_package/model", "'no_such_package' is not installed: pip install no-such-package"),
        ("package:json/nothing", "the checkpoint folder .*nothing does not exist"),
    ],
)
def test_checkpoint_that_is_not_where_it_should_be_is_missing(folder, source, message):
    with pytest.raises(CheckpointMissing, match=message):
        find_checkpoint(read(folder, EMBEDDER.replace("path:checkpoint", source)))


def test_checkpoint_without_weights_is_missing(folder):
    (folder / "checkpoint" / "model.safetensors").rename(folder / "checkpoint" / "model.h5")
    with pytest.raises(CheckpointMissing, match=r"holds no weights: neither \*\.safetensors nor"):
        find_checkpoint(read(folder, EMBEDDER))


def test_pickled_weights_count_only_where_there_are_no_others(folder):
    checkpoint = folder / "checkpoint"
    (checkpoint / "pytorch_model.bin").write_bytes(b"older")
    assert checkpoint / "pytorch_model.bin" not in checkpoint_files(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    assert checkpoint / "pytorch_model.bin" in checkpoint_files(checkpoint)
    with pytest.raises(ModelError, match="digest: missing"):
        find_checkpoint(read(folder, EMBEDDER))


def test_configuration_is_known_by_name_as_it_is_in_a_folder(folder):
    """What lies beside a graph, and what does not count toward its digest, are the same files."""
    for name in ("vocab.txt", "spiece.model", "chat_template.jinja", "model.onnx", "model.onnx_data"):
        (folder / name).touch()
    files = {file.name for file in folder.iterdir() if file.is_file()}
    configuration = {name for name in files if is_configuration(name)}
    assert {file.name for file in configuration_files(folder)} == configuration
    assert files - configuration == {"model.onnx", "model.onnx_data"}
    assert is_configuration("onnx/config.json")


def test_hub_without_network_is_unavailable(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = EMBEDDER.replace("path:checkpoint", "hub:example/none@" + "0" * 40)
    with pytest.raises(CheckpointUnavailable, match=r"example/none at 0{40} is neither cached nor reachable"):
        find_checkpoint(read(folder, text))


def cached(checkpoint, cache, commit):
    """Move a checkpoint into a cache as the hub's client lays it out: links in snapshots/, content in blobs/."""
    repository = cache / "models--example--tiny"
    snapshot = repository / "snapshots" / commit
    (repository / "blobs").mkdir(parents=True)
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file():
            place = snapshot / file.relative_to(checkpoint)
            place.parent.mkdir(parents=True, exist_ok=True)
            blob = repository / "blobs" / sha256_of(file)
            file.rename(blob)
            place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub's client without a network, over a cache of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for module in ("huggingface_hub", "huggingface_hub._snapshot_download"):
        monkeypatch.setattr(f"{module}.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_links_of_the_hub_cache_are_of_its_repository(folder, offline):
    """Weights of modules count too: their links lead out of the snapshot as all others do."""
    commit, checkpoint = "0123456789" * 4, folder / "checkpoint"
    (checkpoint / "1_Dense").mkdir()
    (checkpoint / "1_Dense" / "config.json").write_text('{"in_features": 2}')
    (checkpoint / "1_Dense" / "model.safetensors").write_bytes(b"dense")
    (checkpoint / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Dense"}]))
    digest = f"sha256:{checkpoint_digest(checkpoint)}"
    snapshot = cached(checkpoint, offline, commit)
    text = EMBEDDER.replace("path:checkpoint", f"hub:example/tiny@{commit}")
    found = find_checkpoint(read(folder, text))
    assert found.digest == digest, "the same files, wherever they lie"
    assert "1_Dense/model.safetensors" in found.files
    assert find_checkpoint(read(folder, EMBEDDER.replace("path:checkpoint", f"path:{snapshot}")), pinned=False) == found
    (snapshot / "vocab.txt").symlink_to(folder / "elsewhere")
    (folder / "elsewhere").touch()
    with pytest.raises(ModelError, match=r"vocab\.txt: is a link to .*elsewhere, outside"):
        find_checkpoint(read(folder, text))


def test_hub_snapshot_is_read_from_the_cache(folder, offline):
    """The real client finds a snapshot that is laid out as the cache has it, without a network."""
    commit = "0123456789" * 4
    snapshot = offline / "models--example--tiny" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    (folder / "checkpoint").rename(snapshot)
    text = EMBEDDER.replace("path:checkpoint", f"hub:example/tiny@{commit}")
    checkpoint = find_checkpoint(read(folder, text))
    assert checkpoint.folder == snapshot
    assert checkpoint.digest == f"sha256:{checkpoint_digest(snapshot)}"
    with pytest.raises(ModelError, match="not the pinned sha256:0"):
        find_checkpoint(read(folder, text + f'digest = "sha256:{"0" * 64}"\n'))
