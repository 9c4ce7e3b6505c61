""".ci/gate.txt stands for the group `gate` of pyproject.toml: each of its requirements, within its range."""

import re
import tomllib

import pytest
from packaging.dependency_groups import resolve_dependency_groups
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from suites.meta.house import ROOT

LOCK = ".ci/gate.txt"
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
    r"    # via(?P<via>(?: \S+| -r gate\.in)\n|(?:\n    #   (?:-r )?\S+)+\n)",
    re.MULTILINE,
)
"""A locked version with its hashes, and behind `via` what asks for it: names, and `-r gate.in` for the group itself."""


def problems_of(lock, groups):
    """Return how a lock and the ranges of the group `gate` part, in words; empty if they do not."""
    entries = {canonicalize_name(entry["name"]): entry for entry in ENTRY.finditer(lock)}
    rest = [line for line in ENTRY.sub("", lock).splitlines() if not re.fullmatch(r"(#[^/\\]*)?", line)]
    problems = [f"{line!r} is neither a locked version nor a comment" for line in rest]
    requirements = [Requirement(text) for text in resolve_dependency_groups(groups, "gate")]
    for requirement in requirements:
        entry = entries.get(canonicalize_name(requirement.name))
        if entry is None:
            problems.append(f"{requirement.name} is not locked")
        elif not requirement.specifier.contains(entry["version"]):
            problems.append(f"{requirement.name} {entry['version']} is not {requirement.specifier}")
    names = {canonicalize_name(requirement.name) for requirement in requirements}
    locked_for_group = {name for name, entry in entries.items() if "-r gate.in" in entry["via"]}
    return problems + [f"{name} is locked, and the group has it no longer" for name in locked_for_group - names]


def lock():
    return (ROOT / LOCK).read_text()


def test_lock_and_ranges_agree():
    """`tox run -e lock` writes the lock anew where they do not."""
    assert problems_of(lock(), GROUPS) == []
    assert len(ENTRY.findall(lock())) > len(list(resolve_dependency_groups(GROUPS, "gate")))


@pytest.mark.parametrize(
    ("group", "requirement", "problem"),
    [
        ("common", "numpy>=1,<1.5", r"numpy \S+ is not <1.5,>=1"),
        ("common", "onnx>=99", r"onnx \S+ is not >=99"),
        ("gate", "another-package>=1", "another-package is not locked"),
    ],
)
def test_range_that_has_moved_is_told(group, requirement, problem):
    (told,) = problems_of(lock(), GROUPS | {group: [*GROUPS[group], requirement]})
    assert re.fullmatch(problem, told)


def test_requirement_that_is_gone_is_told():
    fewer = [requirement for requirement in GROUPS["light"] if "jinja2" not in requirement]
    assert problems_of(lock(), GROUPS | {"light": fewer}) == ["jinja2 is locked, and the group has it no longer"]


@pytest.mark.parametrize(
    "line",
    ["--extra-index-url https://example.org/simple", "-e .", "evil @ https://example.org/evil.whl", "evil==1.0"],
)
def test_line_that_is_no_hashed_version_is_told(line):
    """Neither an address nor a version without hashes may get in."""
    assert f"{line!r} is neither a locked version nor a comment" in problems_of(f"{lock()}{line}\n", GROUPS)


def test_comment_names_no_path_or_address():
    (told,) = problems_of(f"# pip-compile /home/me/gate.in\n{lock()}", GROUPS)
    assert "/home/me" in told


def test_pytorch_is_its_cpu_build():
    """Any other on Linux needs CUDA's packages, which the lock has not."""
    assert re.search(r"^torch==\S+\+cpu ", lock(), re.MULTILINE)


def test_lock_is_of_the_python_that_installs_it():
    (python,) = re.findall(r"pip-compile with Python (\S+)$", lock(), re.MULTILINE)
    tox = (ROOT / "tox.ini").read_text()
    for name in ("gate-locked", "lock"):
        section = re.search(rf"^\[testenv:{name}\]\n(?:.+\n)+", tox, re.MULTILINE)
        assert section
        assert f"base_python = python{python}\n" in section[0]
