"""What the fuzzer prints, and docs/fuzzing.md."""

from __future__ import annotations

from collections.abc import Sequence

from suites.meta.studies.fuzz.campaign import Tally, Target


def row(target: Target, tally: Tally) -> str:
    """Return a line of the table in the terminal."""
    ending = "FAULT" if tally.fault else ""
    counts = f"{tally.examples:7} examples {tally.refused:7} refused {tally.accepted:7} read {tally.seconds:7.1f} s"
    return f"{target.name:15}{counts}  {ending}".rstrip()


def document(profile: str, tallies: Sequence[tuple[Target, Tally]]) -> str:
    """Return docs/fuzzing.md."""
    rows = [
        f"| `{target.name}` | {target.files} | {target.reader} "
        f"| {tally.examples} | {tally.refused} | {tally.accepted} | {'**yes**' if tally.fault else 'none'} |"
        for target, tally in tallies
    ]
    total, refused = (sum(getattr(tally, name) for _, tally in tallies) for name in ("examples", "refused"))
    accepted = total - refused
    return TEXT.format(profile=profile, rows="\n".join(rows), total=total, refused=refused, accepted=accepted)


TEXT = """# Damaged and hostile files

Written by `tox run -e fuzz -- --profile {profile} --document`.

Every file that the gate reads may be damaged, half fetched, merged by hand or a stranger's. Hypothesis changes
valid ones: values, types, keys, depth, huge numbers, NUL, half surrogate pairs, long paths and paths that lead
elsewhere by their structure; and bits, cuts and repetitions by their bytes. What lies in a file's place may be a
folder, nothing, or a link to nothing or in a circle. Whoever reads it says what is wrong, in one of the project's
own errors that names the file or the option, or reads it. Anything else is a fault: another exception, a crash,
more than 2 GiB of memory, half a minute for one example; and what a target promises beside that: an approved file
that has changed never counts as nothing approved, a red report stays red, no file outside its folder is read or
changed.

| target | what is changed | who reads it, and what holds | examples | refused | read | faults |
| --- | --- | --- | ---: | ---: | ---: | --- |
{rows}
| all | | | {total} | {refused} | {accepted} | |

What is read is not always harmless: a number that a person may have meant to change is a number. Scores are
compared in the run that follows. The targets stand in `suites/meta/studies/fuzz/targets.py`, the changes in
`suites/meta/studies/fuzz/mutations.py`. `tox run -e fuzz` tries the profile `ci`, the same examples every time, and
so do the tests of the machinery; `-- --profile nightly` tries thirty times as many, others every time. A fault is
printed with the smallest example that has it, which is left in `build/fuzz`.
"""
