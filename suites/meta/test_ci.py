"""The CI recipes: the commands in the YAML files, run with what GitHub and GitLab would give them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from suites.meta.house import FEW, ROOT

ACTION = ".github/actions/gate/action.yml"
WORKFLOW = ".github/workflows/exportgate.yml"
PRE_MERGE = ".github/workflows/pre-merge.yml"
PROJECT = ".github/workflows/project.yml"
SHARDED = ".github/workflows/sharded.yml"
GITLAB = ".gitlab/exportgate.yml"
SHELLS = {"bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail"), "python": (sys.executable,)}
OPTIONS = "\n".join(("suites/accuracy", "-p", "no:cacheprovider", *FEW))
TOX = """[ "$1 $2 $3 $4" = "run -e gate --" ] || exit 99
shift 4
exec "$PYTHON" -m pytest -c pyproject.toml -p fixtures.options "$@"
"""
PIP = '[ "$1 $2 $3" = "-m pip install" ] || exit 99'
BROKEN = "[ceilings.plain]\nmax_abs_error = 0\n"


def read(name):
    # Every value as it is written: YAML would take `on` for a truth value.
    return yaml.load((ROOT / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


class Workplace:
    """A checkout with models, and a machine on which tox and pip are stand-ins that install nothing.

    Attributes:
        log: the arguments of each call of tox and pip, one word per line.
    """

    def __init__(self, folder, shop_house):
        self.folder, self.log = folder / "work space", folder / "log"
        self.models = self.folder / "the models"
        shutil.copytree(shop_house.baselines, self.models)
        self.store = shop_house.store
        self.temporary, self.programs = folder / "temporary", folder / "programs"
        self.temporary.mkdir()
        self.programs.mkdir()
        self.program("tox", TOX)
        self.program("python", PIP)
        clean = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
        self.environment = clean | {
            "CI": "true",
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
        }

    def program(self, name, body):
        log = f"""printf '%s\\n' "{name}" "$@" "PIP_CONSTRAINT=$PIP_CONSTRAINT" >> '{self.log}'"""
        (self.programs / name).write_text(f"#!/bin/sh\n{log}\n{body}\n")
        (self.programs / name).chmod(0o755)

    def run(self, command, environment):
        return subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def logged(self):
        return self.log.read_text().splitlines()


class Steps:
    """The composite action's commands in their order, as a runner takes them.

    Attributes:
        status: exit status of the first command that failed; 0 if none did.
        text: what they printed.
        summary: the page of the job.
    """

    def __init__(self, place, *, only=None, report="", **inputs):
        action = read(ACTION)
        values = {f"inputs.{name}": row.get("default", "") for name, row in action["inputs"].items()}
        values |= {f"inputs.{name}": value for name, value in {"store": str(place.store), **inputs}.items()}
        values |= {"github.action_path": str((ROOT / ACTION).parent), "steps.gate.outputs.report": str(report)}
        values |= {"steps.restored.outputs.cache-primary-key": "exportgate-Linux-X64-0-"}
        self.values, self.status, self.text = values, 0, ""
        page = place.temporary / "summary.md"
        page.write_text("")
        for number, step in enumerate(action["runs"]["steps"]):
            if "run" not in step or (only and step["name"] != only) or not (only or self._goes_on(step)):
                continue
            script, output = place.temporary / f"{number}.step", place.temporary / f"{number}.output"
            script.write_text(step["run"])
            output.write_text("")
            process = place.run(
                [*SHELLS[step["shell"]], str(script)],
                {name: self._expand(text) for name, text in step.get("env", {}).items()}
                | {"GITHUB_WORKSPACE": str(place.folder), "RUNNER_TEMP": str(place.temporary)}
                | {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(page), "GITHUB_ACTIONS": "true"},
            )
            self.text += process.stdout
            self.status = self.status or process.returncode
            for line in output.read_text().splitlines():
                name, _, value = line.partition("=")
                values[f"steps.{step['id']}.outputs.{name}"] = value
        self.summary = page.read_text()

    def _value(self, name):
        return self.values.get(name, "") if name.startswith("steps.") else self.values[name]

    def _expand(self, text):
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda expression: self._value(expression[1]), text)

    def _goes_on(self, step):
        if "if" not in step:
            return not self.status
        condition = re.fullmatch(r"\$\{\{ !cancelled\(\) && (\S+) \}\}", step["if"])
        assert condition is not None
        return bool(self._value(condition[1]))

    @property
    def errors(self):
        return [line for line in self.text.splitlines() if line.startswith("::error")]


@pytest.fixture
def place(tmp_path, shop):
    return Workplace(tmp_path, shop[1])


def test_green_action_shows_the_gate_and_keeps_the_store(place):
    (place.folder / "lock.txt").write_text("onnx\n")
    steps = Steps(place, baselines="the models", options=OPTIONS, constraints="lock.txt")
    assert steps.status == 0, steps.text
    assert "# exportgate: pass" in steps.summary
    assert steps.summary == Path(steps.values["steps.gate.outputs.report"], "gate.md").read_text()
    assert not steps.errors
    assert steps.values["steps.held.outputs.key"].startswith("exportgate-Linux-X64-0-")
    assert place.logged[:4] == ["python", "-m", "pip", "install"]
    assert f"PIP_CONSTRAINT={place.folder / 'lock.txt'}" in place.logged


def test_red_action_fails_and_says_where(place):
    model = place.models / "bert" / "model.toml"
    model.write_text(model.read_text() + BROKEN)
    steps = Steps(place, baselines="the models", options=OPTIONS)
    assert steps.status == 1, steps.text
    assert "# exportgate: fail" in steps.summary
    (error,) = steps.errors
    (number,) = [number for number, line in enumerate(model.read_text().splitlines(), 1) if line.startswith("digest")]
    where, title = f"file=the models/bert/model.toml,line={number}", "bert plain%3A scores_stay_within_ceiling"
    assert error.startswith(f"::error {where},title={title}::bert plain: max_abs_error ")
    assert "breaks its ceiling 0%0A  metric " in error
    assert "%0A  reproduce: tox run -e gate -- " in error


def test_words_of_inputs_are_not_commands(place):
    planted = place.temporary / "planted"
    words = [
        f"$(touch '{planted}')",
        f"`touch '{planted}'`",
        f"; touch '{planted}'",
        f'"; touch "{planted}',
        "*",
        "a b",
    ]
    place.program("tox", "exit 4")
    steps = Steps(place, baselines=words[0], options="\n".join(words[1:]), store="~/kept")
    assert steps.status == 4, steps.text
    assert not planted.exists()
    assert {f"{place.folder}/{words[0]}", f"{os.environ['HOME']}/kept", *words[1:]} <= set(place.logged)
    assert not steps.summary
    assert steps.errors == [
        "::error title=exportgate::The gate wrote no report: its last lines in the log say what it could not install "
        "or read."
    ]


def test_key_of_the_cache_follows_what_the_store_holds(place, tmp_path):
    keys = []
    for names in (("a", "b"), ("b", "a"), ("a", "c")):
        place.store = tmp_path / "-".join(names)
        for name in names:
            (place.store / "artifacts" / name).mkdir(parents=True)
        steps = Steps(place, only="Name what the store holds", baselines="the models")
        keys.append(steps.values["steps.held.outputs.key"])
    assert keys[0] == keys[1] != keys[2]


def run_gitlab(place, part, **variables):
    recipe = read(GITLAB)
    job = recipe[".exportgate"]
    environment = {**recipe["variables"], "CI_PROJECT_DIR": str(place.folder), **variables}
    return place.run(["sh", "-ec", "\n".join(job[part])], environment)


def test_variables_of_gitlab_are_those_that_an_including_file_may_set():
    """GitLab lets a job's own variables come before those of the pipeline, which an including file states."""
    recipe = read(GITLAB)
    assert all("variables" not in job for name, job in recipe.items() if name != "variables")
    assert {"EXPORTGATE_URL", "EXPORTGATE_REF", "EXPORTGATE_BASELINES"} <= recipe["variables"].keys()


@pytest.mark.parametrize(("added", "status", "verdict"), [("", 0, "pass"), (BROKEN, 1, "fail")], ids=["green", "red"])
def test_gitlab_job_ends_as_the_gate_does(place, shop, added, status, verdict):
    model = place.models / "bert" / "model.toml"
    model.write_text(model.read_text() + added)
    (place.folder / ".exportgate").symlink_to(ROOT)
    (place.folder / ".exportgate-store").symlink_to(place.store)
    process = run_gitlab(place, "script", EXPORTGATE_BASELINES="the models", EXPORTGATE_OPTIONS=OPTIONS)
    assert process.returncode == status, process.stdout
    job = read(GITLAB)[".exportgate"]
    assert f"# exportgate: {verdict}" in (place.folder / job["artifacts"]["paths"][0] / "gate.md").read_text()
    assert (place.folder / job["artifacts"]["reports"]["junit"]).exists()
    assert (place.folder / job["cache"]["paths"][0]).is_dir()


def test_words_of_gitlabs_variables_are_not_commands(place):
    planted = place.temporary / "planted"
    words = [f"$(touch '{planted}')", f"`touch '{planted}'`", f"; touch '{planted}'", "*", "a b"]
    (place.folder / ".exportgate").symlink_to(ROOT)
    place.program("tox", "exit 4")
    process = run_gitlab(place, "script", EXPORTGATE_BASELINES=words[0], EXPORTGATE_OPTIONS="\n".join(words[1:]))
    assert process.returncode == 4, process.stdout
    assert not planted.exists()
    assert {f"{place.folder}/{words[0]}", *words[1:]} <= set(place.logged)


def test_gitlab_job_takes_the_commit_that_it_is_told(place, tmp_path):
    source, commits = tmp_path / "source", []
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet", str(source)], check=True)
    for name in ("first", "second"):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", name], check=True)
        commits.append(subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout)
    process = run_gitlab(place, "before_script", EXPORTGATE_URL=str(source), EXPORTGATE_REF=commits[0].strip())
    assert process.returncode == 0, process.stdout
    head = place.run(["git", "-C", ".exportgate", "rev-parse", "HEAD"], {})
    assert head.stdout == commits[0]


@pytest.mark.parametrize("name", [ACTION, WORKFLOW, PRE_MERGE, PROJECT, SHARDED])
def test_no_command_has_an_expression(name):
    """What an expression stands for would become a part of the command; through `env:` it is a value."""
    content = read(name)
    steps = [step for job in content.get("jobs", {"": content.get("runs")}).values() for step in job.get("steps", [])]
    assert not [step["run"] for step in steps if "${{" in step.get("run", "")]


def test_caller_gives_what_is_taken():
    """An input that nobody takes is only a warning to GitHub, and one that is missing an empty word."""
    gate = read(WORKFLOW)
    inputs, action = gate["on"]["workflow_call"]["inputs"], read(ACTION)["inputs"]
    (used,) = [step for step in gate["jobs"]["gate"]["steps"] if step["uses"].endswith("actions/gate")]
    for arguments, declared in ((read(PRE_MERGE)["jobs"]["gate"]["with"], inputs), (used["with"], action)):
        assert arguments.keys() <= declared.keys()
        assert {name for name, row in declared.items() if row.get("required") == "true"} <= arguments.keys()
    assert set(re.findall(r"inputs\.([\w-]+)", (ROOT / WORKFLOW).read_text())) == inputs.keys()
    assert set(re.findall(r"inputs\.([\w-]+)", (ROOT / ACTION).read_text())) == action.keys()


def gate_step(job):
    """Return the arguments of the composite action in a job of a workflow."""
    (used,) = [step["with"] for step in job["steps"] if step["uses"].endswith("actions/gate")]
    return used


def test_sharded_workflow_has_every_shard_once():
    jobs, declared = read(SHARDED)["jobs"], read(ACTION)["inputs"]
    shards = jobs["shard"]["strategy"]["matrix"]["shard"]
    assert shards == [f"{number}/{len(shards)}" for number in range(1, len(shards) + 1)]
    for job in jobs.values():
        assert gate_step(job).keys() <= declared.keys()
    (download,) = [step["with"] for step in jobs["merge"]["steps"] if "download-artifact" in step["uses"]]
    assert gate_step(jobs["shard"])["report-name"] == download["pattern"].replace("*", "${{ strategy.job-index }}")
    assert not gate_step(jobs["merge"])["report-name"].startswith(download["pattern"].rstrip("*"))
    assert jobs["merge"]["if"] == "${{ !cancelled() }}", "a shard that is lost makes it red"


def test_sharded_workflow_makes_one_report(place):
    """Of two shards, the second of which has no model; then of one alone."""
    jobs = read(SHARDED)["jobs"]
    for number in (1, 2):
        options = gate_step(jobs["shard"])["options"].replace("${{ matrix.shard }}", f"{number}/2")
        steps = Steps(place, baselines="the models", options=f"{OPTIONS}\n{options}")
        assert steps.status == 0, steps.text
        shutil.copytree(steps.values["steps.gate.outputs.report"], place.folder / "reports" / f"shard-{number}")
    assert "none of the 1 model: nothing was judged" in steps.summary
    options = gate_step(jobs["merge"])["options"].replace("${{ github.workspace }}", str(place.folder))
    steps = Steps(place, baselines="the models", options=options)
    assert steps.status == 0, steps.text
    assert "# exportgate: pass" in steps.summary
    shutil.rmtree(place.folder / "reports" / "shard-2")
    steps = Steps(place, baselines="the models", options=options)
    assert steps.status == 1, steps.text
    assert "shard 2 of 2 is missing" in steps.summary


@pytest.mark.parametrize(("store", "environment"), [("s3://b/c", "gate-s3"), ("gs://b/c", "gate-gs"), ("~/x", "gate")])
def test_environment_speaks_to_the_store(place, store, environment):
    place.program("tox", "exit 4")
    Steps(place, baselines="the models", store=store)
    assert place.logged[place.logged.index("tox") :][:5] == ["tox", "run", "-e", environment, "--"]


def test_both_watch_the_same_files():
    (rule,) = read(GITLAB)[".exportgate"]["rules"]
    assert rule["changes"] == read(PRE_MERGE)["on"]["pull_request"]["paths"]


def test_project_runs_what_ci_runs():
    """For every pull request and commit of main, on the oldest Python that the project takes, with the least rights."""
    content = read(PROJECT)
    job = content["jobs"]["ci"]
    assert job["if"] == "github.event_name != 'schedule'"
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    assert command.split() == ["bash", ".ci/run"]
    assert (ROOT / command.split()[1]).is_file()
    on = {name: value for name, value in content["on"].items() if name != "schedule"}
    assert on == {"pull_request": "", "push": {"branches": ["main"]}}
    assert content["permissions"] == {"contents": "read"}
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(f">={python},")
    assert int(job["timeout-minutes"]) == 90


def test_night_runs_environments_that_exist():
    """On a schedule alone, and each whatever became of the one before."""
    content = read(PROJECT)
    job = content["jobs"]["nightly"]
    assert job["if"] == "github.event_name == 'schedule'"
    assert len(content["on"]["schedule"]) == 1
    steps = [step for step in job["steps"] if "tox run" in step.get("run", "")]
    environments = [re.findall(r"tox run -e (\S+)", step["run"]) for step in steps]
    assert environments == [["gate-locked"], ["audit"], ["fuzz"]]
    assert [step.get("if") for step in steps[1:]] == ["${{ !cancelled() }}"] * 2
    tox = (ROOT / "tox.ini").read_text()
    assert all(f"[testenv:{name}]" in tox for (name,) in environments)


def test_every_action_of_others_is_pinned_to_one_commit():
    """In all recipes the same one, with the version beside it for people."""
    commits = defaultdict(set)
    for file in (ROOT / ".github").rglob("*.yml"):
        for action, rest in re.findall(r"uses: ([\w-]+/[\w-]+)(.*)", file.read_text()):
            pinned = re.fullmatch(r"(?:/[\w-]+)?@([0-9a-f]{40} # v[\d.]+)", rest)
            assert pinned, f"{action}{rest} in {file.name}"
            commits[action].add(pinned[1])
    assert {"actions/checkout", "actions/setup-python", "actions/cache"} <= commits.keys()
    assert all(len(versions) == 1 for versions in commits.values()), commits


def test_every_tag_that_is_named_is_that_of_this_version():
    """Whoever copies a line gets the version that the line was written for."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    documents = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob(".github/**/*.yml"),
        *ROOT.glob(".gitlab/*.yml"),
    ]
    for_tags = re.compile(
        r"exportgate(?:/[\w./-]+)?@v([\d.]*\d)|/exportgate/v([\d.]*\d)/|EXPORTGATE_REF: .*\bv([\d.]*\d)"
    )
    tags = {file.name: for_tags.findall(file.read_text(encoding="utf-8")) for file in documents}
    tagged = {name: {"".join(match) for match in found} for name, found in tags.items() if found}
    assert tagged.keys() >= {"action.yml", "pre-merge.yml", "exportgate.yml", "extending.md", "compatibility.md"}
    assert {name: versions for name, versions in tagged.items() if versions != {version}} == {}


def test_everything_that_has_owners_exists():
    rows = [line.split() for line in (ROOT / ".github/CODEOWNERS").read_text().splitlines() if line.startswith("/")]
    assert all(owners == ["@exportgate/maintainers"] for _, *owners in rows)
    assert [pattern for pattern, *_ in rows if not any(ROOT.glob(pattern.strip("/")))] == []
