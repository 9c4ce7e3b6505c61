"""What is reused from the store and what is built again, and why: by recipes, and by whole runs."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from fixtures.build import step as build_step
from fixtures.build.needs import ModelSize
from fixtures.build.reuse import BuiltStep, Change, changes_since, recipes_in
from fixtures.build.store import Store
from fixtures.build.workers import Limits, build_all
from fixtures.export import recipes
from fixtures.export.variants import VARIANT, Variant
from fixtures.models.checkpoints import Checkpoint
from fixtures.runtimes import hardware
from suites.meta.house import EMBEDDER, FEW, LOOSE, House

MACHINE = hardware.detect()
CHECKPOINT = Checkpoint(None, None, "sha256:" + "0" * 64)


def steps(variant="quantized", source="seeded:bert@7"):
    root = recipes.prepare("tiny", CHECKPOINT, source)
    return recipes.plan("tiny", VARIANT[variant] if isinstance(variant, str) else variant, root, "fill-mask", MACHINE)


def documents(step):
    return [needed.document for needed in step.lineage()]


def with_version(monkeypatch, distribution, version):
    """Let another version of a distribution be installed."""
    installed = build_step.version_of
    monkeypatch.setattr(build_step, "version_of", lambda name: version if name == distribution else installed(name))


def test_what_was_built_with_the_same_recipe_is_no_change():
    assert changes_since(documents(steps()), steps().document) == []


def test_nothing_like_it_was_built():
    step = BuiltStep("tiny: export", changes_since([], steps().document))
    assert step.reason == "nothing like it is in the store"


def test_other_version_is_named_once_though_every_input_has_it(monkeypatch):
    earlier = documents(steps())
    with_version(monkeypatch, "onnx", "9.9.9")
    document = steps().document
    (change,) = changes_since(earlier, document)
    assert (change.what, change.after) == ("onnx", "9.9.9")
    assert str(change) == f"onnx {change.before} -> 9.9.9"


def test_nearest_of_several_recipes_is_what_it_is_compared_with():
    earlier = [*documents(steps("O2", "seeded:roberta@1")), *documents(steps("O2"))]
    assert changes_since(earlier, steps("O3").document) == [Change("parameter level", '"O2"', '"O3"')]


def test_recipe_of_another_kind_of_model_is_no_earlier_one():
    """One is exported from a folder, the other from a checkpoint that is made: all of it would be a change."""
    folder = recipes.plan("tiny", VARIANT["plain"], replace(CHECKPOINT, folder=Path("x")), "fill-mask", MACHINE)
    assert changes_since([folder.document], steps("plain").document) == []
    assert changes_since([steps("plain").document], folder.document) == []


def test_digest_is_of_a_checkpoint_or_of_an_input():
    earlier, recipe = ({"run": "x", "revision": 1, "parameters": {}, "tools": {}, "inputs": [key]} for key in "ab")
    assert [str(change) for change in changes_since([earlier], recipe)] == ["another checkpoint"]
    assert [str(change) for change in changes_since([earlier], recipe, by_content=True)] == [
        "another content of an input"
    ]


def test_long_reason_is_cut():
    changes = [Change(f"parameter {number}", "", "1") for number in range(5)]
    assert BuiltStep("tiny", changes).reason == (
        "parameter 0 none -> 1, parameter 1 none -> 1, parameter 2 none -> 1 and 2 more"
    )


def test_unreadable_manifest_is_no_recipe(tmp_path):
    Store(tmp_path)
    (tmp_path / "artifacts" / "broken").mkdir()
    (tmp_path / "artifacts" / "broken" / "manifest.json").write_text("{}")
    assert recipes_in(tmp_path) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function that builds a step, and returns label -> what was built of it and of what it needs.

    Nothing else is in its store, of which an artifact could be as near.
    """
    store = Store(tmp_path_factory.mktemp("store"))

    def build(step):
        entries = {}
        assert (
            build_all(
                store, {step: ModelSize()}, Limits(2, 2**33), lambda _, entry: entries.update({entry.step: entry})
            )
            == {}
        )
        return entries

    return build


def test_another_recipe_builds_its_own_branch_alone(built):
    built(steps("O2"))
    assert not built(steps("O2"))
    raw = Variant("mine", (*VARIANT["O2"].recipe[:1], ("optimize", "O2", "raw-mask")), VARIANT["O2"].precision)
    (entry,) = built(steps(raw)).values()
    assert entry.step == "tiny: export > O2 raw-mask"
    assert entry.changes == [Change("parameter raw_mask", "false", "true")]
    assert entry.cost.seconds > 0
    assert entry.cost.peak_bytes > 10_000_000


def test_another_onnxruntime_exports_nothing_again(built, monkeypatch):
    built(steps("O2"))
    with_version(monkeypatch, "onnxruntime", "9.9.9")
    (entry,) = built(steps("O2")).values()
    assert entry.step == "tiny: export > O2"
    assert [(change.what, change.after) for change in entry.changes] == [("onnxruntime", "9.9.9")]


def test_run_says_what_it_reused_and_another_tolerance_builds_nothing(tmp_path, shared_store):
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    house.run(*FEW)
    house.add("tiny", EMBEDDER + LOOSE.replace("max_abs_error = 1", "max_abs_error = 1e-9"))
    run = house.run(*FEW)
    assert "built" not in run.stdout.replace(" 0 built", "")
    assert house.gate()["steps"]["built"] == []
    count = house.gate()["steps"]["reused"]
    assert count > 5
    assert f"{count} steps reused from the store, 0 built" in run.stdout
    assert house.statuses()["quantized"] == "fail"
    house.add("tiny", EMBEDDER.replace("max_length = 64", "max_length = 32") + LOOSE)
    run = house.run(*FEW)
    entries = msgspec.convert(house.gate()["steps"]["built"], list[BuiltStep])
    reasons = {entry.step: entry.reason for entry in entries}
    assert reasons["tiny: tokenised probes"] == "parameter max_length 64 -> 32"
    assert "tiny: export > quantize" not in reasons
    assert "built tiny: tokenised probes (parameter max_length 64 -> 32)" in run.stdout
    assert "| tiny: tokenised probes | parameter max_length 64 -> 32 |" in (house.report / "gate.md").read_text()
