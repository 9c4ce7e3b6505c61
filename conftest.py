"""The plugin list. The machinery is in fixtures/, the checks are in suites/."""

import gc

gc.disable()  # until the tests run (fixtures/plugin/hooks.py): looking for garbage takes a tenth of a warm run's start

pytest_plugins = (
    "fixtures.options",
    "fixtures.plugin.ci",
    "fixtures.plugin.suite_fixtures",
    "fixtures.plugin.benchmarks",
    "fixtures.plugin.consumers",
    "fixtures.plugin.decisions",
    "fixtures.plugin.retrieval",
    "fixtures.plugin.index_fixtures",
    "fixtures.plugin.collection",
    "fixtures.plugin.reporting",
    "fixtures.plugin.progress_line",
    "fixtures.plugin.interruptions",
    "fixtures.plugin.hooks",
)
