"""What --store-gc removes and keeps, whoever uses the store and whatever its clock shows; what --store-verify says."""

import json
import multiprocessing
import os
import re
import shutil
import threading
import time

import pytest
from filelock import FileLock

from fixtures.build import disk, upkeep
from fixtures.build.step import Step, key_of, step_function
from fixtures.build.store import Store, StoreError
from fixtures.build.upkeep import Entry, Limits, Reason, decide, parse_limits
from suites.meta.house import EMBEDDER, LOOSE, House

DAY_NS = 86_400 * 10**9
NOW_NS = 1_800_000_000 * 10**9
NO_LIMITS = Limits(None, None, "")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def put(store, name, size=1000, days_ago=0.0):
    """Build an artifact that was used last some days ago, and return its key."""
    document = {"name": name}
    key = key_of(document)
    folder = store.build(key, document, lambda work: (work / "output" / "model.onnx").write_bytes(b"x" * size) and None)
    used_ns = time.time_ns() - int(days_ago * DAY_NS)
    os.utime(folder.folder / "manifest.json", ns=(used_ns, used_ns))
    return key


def keys(store):
    return {folder.name for folder in (store.root / "artifacts").iterdir()}


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("text", "age_s", "size"),
    [
        ("30d", 30 * 86_400, None),
        ("12h", 43_200, None),
        ("50GB", None, 50e9),
        ("500 MB", None, 5e8),
        ("30d,1.5TB", 30 * 86_400, 1.5e12),
        ("50GB, 0d", 0, 50e9),
    ],
)
def test_limits_are_an_age_a_size_or_both(text, age_s, size):
    limits = parse_limits(text)
    assert (limits.age_s, limits.bytes) == (age_s, size)


@pytest.mark.parametrize("text", ["", "30", "30x", "d", "-1d", "1e9d", "30d,", "30 days", "50gb", "50GB 30d", "nand"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ValueError, match="is neither an age, such as 30d or 12h, nor a size"):
        parse_limits(text)


def test_two_limits_of_a_kind_are_refused():
    with pytest.raises(ValueError, match="'30d,12h' has two of the same kind: write one age, one size, or both"):
        parse_limits("30d,12h")


# -------------------------------------------------------------------------------------- what is removed


def entry(name, days_ago, size=1, **attributes):
    return Entry(name, None, f"sha256:{name}", size, NOW_NS - int(days_ago * DAY_NS), **attributes)  # type: ignore[arg-type]


def reasons(entries, limits, needed=(), approved=(), since_ns=(), now_ns=NOW_NS):
    decided = decide(entries, limits, needed, approved, since_ns, now_ns)
    return {entry.key: reason for reason, kept in decided.items() for entry in kept}


def test_least_recently_used_goes_first_until_the_rest_fits():
    entries = [entry("new", 0, 10), entry("old", 9, 10), entry("older", 10, 10), entry("middle", 5, 10)]
    decided = reasons(entries, Limits(None, 20, ""))
    assert {key for key, reason in decided.items() if reason is Reason.LARGE} == {"old", "older"}
    assert decided["new"] is decided["middle"] is Reason.WITHIN_LIMITS


def test_what_is_needed_approved_or_in_use_stays_whatever_the_limits():
    entries = [entry(name, 100 - number) for number, name in enumerate(("none", "needed", "approved", "used"))]
    since_ns = [entries[3].used_ns, NOW_NS]
    decided = reasons(entries, parse_limits("0d,0MB"), {"needed"}, {"sha256:approved"}, since_ns)
    assert decided == {
        "none": Reason.OLD,
        "needed": Reason.NEEDED,
        "approved": Reason.APPROVED,
        "used": Reason.IN_USE,
    }


def test_damaged_artifact_goes_unless_it_is_in_use():
    entries = [entry("damaged", 2, damage="empty"), entry("used", 0, damage="empty")]
    decided = reasons(entries, NO_LIMITS, {"damaged"}, since_ns=[NOW_NS - DAY_NS])
    assert decided == {"damaged": Reason.DAMAGED, "used": Reason.IN_USE}


@pytest.mark.parametrize(
    "clock_days",
    [0, -20_000, -1, 400, 30_000],
    ids=["right", "1970", "set back", "a year ahead", "far ahead"],
)
def test_clock_that_is_wrong_does_not_empty_a_store(clock_days):
    """Ages count from the last use, so that a clock that is ahead makes nothing old."""
    entries = [entry("new", 0), entry("newer", 0.5), entry("old", 50)]
    decided = reasons(entries, parse_limits("30d"), now_ns=NOW_NS + clock_days * DAY_NS)
    assert decided["new"] is decided["newer"] is Reason.WITHIN_LIMITS
    assert decided["old"] is (Reason.WITHIN_LIMITS if clock_days < -1 else Reason.OLD)


@pytest.mark.parametrize("used_days", [-5000, 20_000], ids=["future", "1970"])
def test_last_use_that_cannot_be_counts_as_now(used_days):
    """The clock was wrong when it was used, or an archive keeps no times."""
    decided = reasons([entry("odd", used_days), entry("new", 0), entry("old", 50)], parse_limits("30d"))
    assert decided["odd"] is decided["new"] is Reason.WITHIN_LIMITS
    assert decided["old"] is Reason.OLD


# ------------------------------------------------------------------------------------------- last use


@step_function("test_upkeep:write_model")
def write_model(inputs, output, parameters):
    (output / "model.onnx").write_text("one")


def test_every_way_to_use_an_artifact_marks_it(tmp_path):
    store = Store(tmp_path / "store")
    step = Step(write_model, "a model", ())
    manifest = store.run(step).folder / "manifest.json"
    for use in (
        lambda other: other.find(other.key(step)),
        lambda other: other.has(step),
        lambda other: other.run(step),
    ):
        os.utime(manifest, (1, 1))
        assert use(Store(tmp_path / "store"))
        assert time.time() - manifest.stat().st_mtime < 3600


def test_clock_that_is_set_back_makes_no_artifact_older(store, monkeypatch):
    key = put(store, "a")
    manifest = store.root / "artifacts" / key / "manifest.json"
    used_ns = manifest.stat().st_mtime_ns
    monkeypatch.setattr(time, "time_ns", lambda: used_ns - 10 * DAY_NS)
    assert store.uses.mark(key, again=True)
    assert manifest.stat().st_mtime_ns >= used_ns


def test_artifact_that_was_used_before_the_clock_was_set_back_is_in_use(store, monkeypatch):
    """The session began later, by the clock, than the use of the artifact."""
    key = put(store, "a", days_ago=20)
    set_back_ns = time.time_ns() - 10 * DAY_NS
    monkeypatch.setattr(time, "time_ns", lambda: set_back_ns)
    store.uses.mark(key, again=True)
    cleaned = upkeep.clean(Store(store.root), parse_limits("0MB"))
    assert [entry.key for entry in cleaned.kept[Reason.IN_USE]] == [key]


def _hold(root, key, begun, end):
    store = Store(root)
    assert store.find(key)
    begun.set()
    end.wait(60)


def test_artifact_that_another_process_uses_stays_until_that_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    first = Store(tmp_path / "store")
    used, unused = put(first, "used", days_ago=9), put(first, "unused", days_ago=9)
    del first
    begun, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "store", used, begun, end))
    process.start()
    assert begun.wait(60)
    (tmp_path / "store" / "locks" / f"{'a' * 32}.lock").touch()
    cleaned = upkeep.clean(Store(tmp_path / "store"), parse_limits("0MB"))
    assert (cleaned.running, cleaned.locks) == (1, 0)
    assert [entry.key for entry in cleaned.removed[Reason.LARGE]] == [unused]
    assert keys(Store(tmp_path / "store")) == {used}
    process.kill()
    process.join()
    cleaned = upkeep.clean(Store(tmp_path / "store"), parse_limits("0MB"))
    assert cleaned.running == 0
    assert cleaned.locks == 3
    assert not keys(Store(tmp_path / "store"))


def test_nothing_is_marked_while_artifacts_are_taken_away(store):
    key = put(store, "a")
    other = Store(store.root)
    present: list[bool] = []
    with store.uses.exclusive:
        thread = threading.Thread(target=lambda: present.append(other.uses.mark(key)))
        thread.start()
        thread.join(0.5)
        (store.root / "artifacts" / key).rename(store.root / "partial" / "removed-1")
    thread.join()
    assert present == [False]


def test_two_stores_that_are_cleaned_at_once_remove_each_artifact_once(tmp_path):
    store = Store(tmp_path / "store")
    for number in range(20):
        put(store, str(number), days_ago=9)
    put(store, "new")
    context = multiprocessing.get_context("spawn")
    del store
    processes = [context.Process(target=_clean, args=(tmp_path / "store",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(keys(Store(tmp_path / "store"))) == 1


def _clean(root):
    upkeep.clean(Store(root), parse_limits("1d"))


# ---------------------------------------------------------------------------------------- what is orphaned


def test_orphans_go_and_what_belongs_to_an_artifact_stays(tmp_path):
    store = Store(tmp_path / "store")
    key = put(store, "a")
    logs, locks, partials = (store.root / name for name in ("logs", "locks", "partial"))
    (logs / f"{key}.log").write_text("kept")
    for name in ("new", "old"):
        (logs / f"{name}.log").write_text("")
    os.utime(logs / f"{key}.log", (1, 1))
    os.utime(logs / "old.log", (1, 1))
    (partials / "killed").mkdir()
    (partials / "killed" / "half").write_bytes(b"x" * 500)
    (partials / "removed-1").write_bytes(b"x" * 500)
    del store
    cleaned = upkeep.clean(Store(tmp_path / "store"), parse_limits("30d"))
    assert (cleaned.builds.artifacts, cleaned.builds.bytes) == (2, 1000)
    assert sorted(file.name for file in logs.iterdir()) == sorted([f"{key}.log", "new.log"]), "of a failure of today"
    assert [file.stem for file in locks.iterdir()] == [key]
    assert cleaned.logs == 1
    assert not list(partials.iterdir())


def test_build_in_progress_is_left_alone(store):
    def make(work):
        process = multiprocessing.get_context("spawn").Process(target=_clean, args=(store.root,))
        process.start()
        process.join()
        assert process.exitcode == 0
        (work / "output" / "model.onnx").write_text("one")

    assert store.build("0" * 32, {}, make).bytes == 3


def test_log_goes_with_its_artifact(store):
    old, _ = put(store, "old", days_ago=40), put(store, "new")
    store.log(old).write_text("")
    os.utime(store.log(old), (1, 1))
    upkeep.clean(Store(store.root), parse_limits("30d"))
    assert not store.log(old).exists()


def test_artifact_that_cannot_be_removed_is_told_and_the_others_go(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    first, second = put(store, "first", days_ago=9), put(store, "second", days_ago=8)
    take_away = disk.take_away

    def refuse_first(path, place):
        if path.name == first:
            raise PermissionError(13, "Permission denied", str(path))
        return take_away(path, place)

    monkeypatch.setattr(disk, "take_away", refuse_first)
    del store
    cleaned = upkeep.clean(Store(tmp_path / "store"), parse_limits("0MB"))
    assert cleaned.not_removed == {first: "Permission denied"}
    assert [entry.key for entry in cleaned.removed[Reason.LARGE]] == [second]


def test_store_that_cannot_be_written_is_an_error_that_names_it(store, monkeypatch):
    def refuse(self):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FileLock, "__enter__", refuse)
    with pytest.raises(StoreError, match=r"store cannot be cleaned: .*Read-only file system"):
        upkeep.clean(store, parse_limits("0d"))


# ---------------------------------------------------------------------------------------- verification and size


def test_size_is_that_of_the_manifests_and_hostile_ones_count_as_nothing(store, tmp_path):
    put(store, "a", 700)
    put(store, "b", 500)
    assert upkeep.size_of_store(store.root) == upkeep.Size(2, 1200)
    for number, text in enumerate(("", "[]", '{"files": ' * 10**5, '{"files": {"a": {"sha256": "", "bytes": -1}}}')):
        (store.root / "artifacts" / str(number)).mkdir()
        (store.root / "artifacts" / str(number) / "manifest.json").write_text(text)
    (store.root / "artifacts" / "pipe").mkdir()
    os.mkfifo(store.root / "artifacts" / "pipe" / "manifest.json")
    assert upkeep.size_of_store(store.root) == upkeep.Size(7, 1200)
    assert upkeep.size_of_store(tmp_path / "nowhere") == upkeep.Size(0, 0)


def test_verification_tells_damage_and_forgery_and_removes_nothing(store):
    sound, changed, forged = (put(store, name) for name in ("sound", "changed", "forged"))
    folder = store.root / "artifacts" / changed
    (folder / "model.onnx").write_bytes(b"y" * 1000)
    manifest = store.root / "artifacts" / forged / "manifest.json"
    stated = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(stated | {"recipe": {"name": "another"}}))
    used_ns = manifest.stat().st_mtime_ns
    verified = upkeep.verify_store(store)
    assert verified.damage == {
        changed: "model.onnx has changed since it was stored",
        forged: "it is forged: its recipe has another key",
    }
    assert (verified.sound, verified.damaged) == (upkeep.Size(1, 1000), upkeep.Size(2, 2000))
    assert keys(store) == {sound, changed, forged}
    assert manifest.stat().st_mtime_ns == used_ns, "to verify is no use"


# ---------------------------------------------------------------------------------------- whole runs


def test_options_look_after_a_store_and_run_no_test(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    options = ("--variant", "plain")
    assert house.run(*options).returncode == 0
    needed = len(list(house.store.glob("artifacts/*")))
    store = Store(house.store)
    unneeded = put(store, "of another time", 12_345_678, days_ago=40)
    damaged = put(store, "damaged", days_ago=40)
    (store.root / "artifacts" / damaged / "model.onnx").write_text("")
    del store

    run = house.run("--store-verify")
    assert run.returncode == 1, run.text
    assert f"damaged: artifact {damaged}: model.onnx has changed since it was stored: 0 bytes, not 1000" in run.stdout
    assert f"sound: {needed + 1} artifacts, 1" in run.stdout
    assert "damaged: 1 artifact, 0.001 MB: a run that needs one builds it again" in run.stdout
    assert "test session starts" not in run.stdout

    run = house.run("--store-gc", "30d,0MB")
    assert run.returncode == 0, run.text
    assert f"removed: 2 artifacts, 12 MB: {Reason.OLD.value}" in run.stdout
    assert re.search(
        rf"kept: {needed} artifacts, .*: a run of these models needs them \({house.baselines}\)", run.stdout
    )
    assert re.search(
        rf"store: .*: {needed} artifacts, .* MB, more than 30d,0MB, since the rest is kept, .* free", run.stdout
    )
    assert unneeded not in keys(Store(house.store))
    assert house.run("--store-verify").returncode == 0
    assert " built " not in house.run(*options).stdout, "what was needed has stayed"


def test_artifact_that_was_approved_stays_under_a_key_that_nothing_needs(tmp_path):
    """It was built by versions that are no longer installed; the baseline has its digest."""
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    assert house.run("--variant", "plain", "--approve").returncode == 0
    approved, document = house.artifact("plain"), {"tools": "older"}

    def copy(work):
        shutil.copytree(approved, work / "output", ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)

    key = Store(house.store).build(key_of(document), document, copy).key
    run = house.run("--store-gc", "0d,0MB")
    assert run.returncode == 0, run.text
    assert re.search(rf"kept: 1 artifact, .*: {Reason.APPROVED.value} \({house.baselines}\)", run.stdout)
    assert {key, approved.name} <= keys(Store(house.store))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--store-gc", "30x"), "--store-gc: '30x' is neither an age, such as 30d or 12h, nor a size"),
        (("--store-gc", "1d", "--model", "tiny"), "--store-gc: --model cannot be combined with it"),
        (("--store-gc", "1d", "--store-verify"), "--store-gc: --store-verify cannot be combined with it"),
        (("--store-verify", "--approve"), "--store-verify: --approve cannot be combined with it"),
        (("--store-verify",), "--store: there is no store in {store}: name the folder of one"),
        (("--store-gc", "1d", "--store", ""), "--store: is empty"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_made(tmp_path, options, words):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER)
    run = house.run(*options)
    assert run.returncode == 4, run.text
    assert words.format(store=house.store) in run.stderr
    assert not house.store.exists()


def test_model_that_cannot_be_read_keeps_everything(tmp_path):
    """What it would need cannot be told."""
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", "task = 3")
    key = put(Store(house.store), "a", days_ago=40)
    run = house.run("--store-gc", "30d")
    assert run.returncode == 4, run.text
    assert "model.toml" in run.stderr
    assert keys(Store(house.store)) == {key}


def test_shared_store_is_left_alone_and_not_even_asked(tmp_path, monkeypatch):
    house = House(tmp_path, tmp_path / "unused")
    house.add("tiny", EMBEDDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key = put(Store(tmp_path / "exportgate"), "a", days_ago=40)
    put(Store(tmp_path / "exportgate"), "b")
    for options in (("--store-verify",), ("--store-gc", "30d")):
        run = house.run(*options, "--store", "s3://nobody-s-bucket/at-all")
        assert run.returncode == 0, run.text
        assert "s3://nobody-s-bucket/at-all is not " in run.stdout
        assert "this is about the folder on this machine alone" in run.stdout
    assert key not in keys(Store(tmp_path / "exportgate"))
