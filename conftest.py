"""Options and plugin list. The machinery is in fixtures/, the checks are in suites/."""

pytest_plugins = ("fixtures.gate",)


def pytest_addoption(parser):
    group = parser.getgroup("exportgate")
    add = group.addoption
    add("--model", action="append", metavar="NAME", help="only this model (repeatable)")
    add("--variant", action="append", metavar="NAME", help="only this variant (repeatable)")
    add("--baselines", metavar="DIR", help="another folder of models and baselines")
    add(
        "--store",
        metavar="DIR_OR_URL",
        help="artifact store; default: EXPORTGATE_STORE, then the user's cache",
    )
    add("--tier", metavar="NAME", help="quantize for this hardware tier, at most the machine's own")
    add("--approve", action="store_true", help="write what was measured as the new baseline")
    add("--grid", choices=("quick", "full"), default="quick", help="latency grid (default: quick)")
    add(
        "--report",
        metavar="DIR",
        default="build/report",
        help="where the report goes (default: build/report)",
    )
    add("--require-all", action="store_true", help="what would be skipped fails instead")
