"""The plugin list. The machinery is in fixtures/, the checks are in suites/."""

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
