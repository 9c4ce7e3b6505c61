"""A plugin of runs that judge faults: on each artifact only those checks run that its fault is to be found by.

Another check says nothing of the fault that it was planted for; `tox run -e detection` runs all, to count them too.
"""

import pytest

from fixtures.faults.table import FAULT
from fixtures.plugin.items import check_of, subject_of, target_of

SEPARATOR = "--"
"""Between a model's name and that of the fault that is planted in it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if not _finds_its_fault(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if _finds_its_fault(item)]


def _finds_its_fault(item: pytest.Item) -> bool:
    target = target_of(item)
    if target is None:
        return True
    fault = FAULT[subject_of(target).name.partition(SEPARATOR)[2]]
    return check_of(item).partition("[")[0] in fault.checks
