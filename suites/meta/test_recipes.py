"""The recipes for clusters: their commands, run with what Slurm and Kubernetes would give them."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from fixtures.report import files
from fixtures.report.results import Status
from suites.meta.house import EMBEDDER, LOOSE, ROOT

EXAMPLES, PAGE = ROOT / "docs" / "examples", ROOT / "docs" / "shards.md"
SBATCH = '''#!{python}
"""Stand-in of Slurm's: the tasks of an array run one after the other, from a copy of the script, as Slurm has it."""
import os, re, shutil, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")][: 1 + ("--parsable" in sys.argv)]
script, *words = sys.argv[1 + len(options) :]
copy = shutil.copy(script, "{folder}/slurm_script")
first, last = re.findall(r"--array=([0-9]+)-?([0-9]*)", " ".join(options) + " --array=0")[0]
for task in range(int(first), int(last or first) + 1):
    variables = {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "1"}} if task else {{}}
    subprocess.run(["bash", copy, *words], env=os.environ | variables, stdout=sys.stderr)
print("4711" if "--parsable" in options else "Submitted batch job 4712")
with open("{folder}/log", "a") as log:
    print(*options, file=log)
'''


@pytest.fixture
def small_house(house):
    """A house with one model: of two shards the second is empty."""
    house.add("tiny", EMBEDDER + LOOSE)
    return house


@pytest.fixture
def environment(small_house, tmp_path):
    clean = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    return clean | {"EXPORTGATE_STORE": str(small_house.store), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def test_commands_for_slurm_make_one_report(small_house, environment, tmp_path):
    (tmp_path / "sbatch").write_text(SBATCH.format(python=sys.executable, folder=tmp_path))
    (tmp_path / "sbatch").chmod(0o755)
    text = PAGE.read_text(encoding="utf-8")
    (commands,) = [block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "sbatch" in block]
    again = re.search(r"`(sbatch --array=3 [^`]*)`", text)
    assert again is not None
    for line, replacement in (
        ("s3://bucket/exportgate", str(small_house.store)),
        ("$PWD/build", str(tmp_path)),
        ("--array=1-8 docs/examples/slurm-shard.sh 8 ", "--array=1-2 docs/examples/slurm-shard.sh 2 "),
        ("my-baselines", f"'{small_house.baselines}' --variant=plain suites/accuracy"),
    ):
        assert line in commands
        commands = commands.replace(line, replacement)
    variables = {"PYTHON": sys.executable, "NODE_CACHE": str(tmp_path / "cache")}

    def run(script):
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script], cwd=ROOT, env=environment | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    process = run(commands)
    assert process.returncode == 0, process.stdout
    merged = files.read(tmp_path / "reports-1.merged" / "gate.json")
    assert merged.verdict == Status.PASS, process.stdout
    assert [(part.number, part.models) for part in merged.parts] == [(1, ["tiny"]), (2, [])]
    assert "--dependency=afterany:4711" in (tmp_path / "log").read_text()
    (tmp_path / "reports-1" / "2" / "gate.json").unlink()
    merging = 'reports={}; sbatch docs/examples/slurm-merge.sh "$reports"'.format(tmp_path / "reports-1")
    assert "shard 2 of 2 is missing" in run(merging).stdout
    one_task = again[1].replace("=3 ", "=2 ").replace(" 8 ", " 2 ").replace("my-baselines", str(small_house.baselines))
    process = run(f"reports={tmp_path / 'reports-1'}; {one_task}")
    shard = files.read(tmp_path / "reports-1" / "2" / "gate.json").shard
    assert shard is not None, process.stdout
    assert shard.number == 2


def test_store_has_to_be_named_on_a_node(environment, tmp_path):
    del environment["EXPORTGATE_STORE"]
    command = ["bash", str(EXAMPLES / "slurm-shard.sh"), "8", str(tmp_path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode != 0
    assert "EXPORTGATE_STORE: name the store between the nodes" in process.stderr


def pod_of(name):
    """Return a Job's specification, its container's command and the container's environment."""
    job = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return job, container["command"], {row["name"]: row["value"] for row in container["env"]}


def test_commands_for_kubernetes_make_one_report(small_house, environment, tmp_path):
    job, command, variables = pod_of("kubernetes-shards.yaml")
    merging, merge, merge_variables = pod_of("kubernetes-merge.yaml")
    assert variables["SHARDS"] == str(job["completions"])
    assert variables["REPORTS"] == merge_variables["REPORTS"]
    mounts = [mount["mountPath"] for mount in merging["template"]["spec"]["containers"][0]["volumeMounts"]]
    assert any(variables["REPORTS"].startswith(f"{path}/") for path in mounts)
    (tmp_path / "python").symlink_to(sys.executable)
    changed = {"REPORTS": str(tmp_path / "reports"), "BASELINES": str(small_house.baselines), "SHARDS": "2"}
    changed |= {"PYTEST_ADDOPTS": "--variant=plain", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for index in range(2):
        pod = environment | variables | changed | {"JOB_COMPLETION_INDEX": str(index)}
        pod["EXPORTGATE_STORE"] = str(small_house.store)
        words = [word.replace("-m pytest", "-m pytest suites/accuracy") for word in command]
        process = subprocess.run(words, cwd=ROOT, env=pod, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout
    process = subprocess.run(merge, cwd=ROOT, env=environment | changed, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    merged = files.read(tmp_path / "reports.merged" / "gate.json")
    assert [(part.number, part.models) for part in merged.parts] == [(1, ["tiny"]), (2, [])]


def test_run_that_came_to_its_end_is_not_tried_again():
    """A failed check, a wrong option, and nothing judged end alike whenever they are tried."""
    job, *_ = pod_of("kubernetes-shards.yaml")
    (rule,) = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailIndex"]
    assert rule["onExitCodes"]["values"] == [1, 4, 5]
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
