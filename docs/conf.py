"""The site of these pages: `tox run -e docs` builds it in build/docs."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = "https://github.com/OWNER/exportgate/blob/main"
LINK_UPWARDS = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")

project, release = PROJECT["name"], PROJECT["version"]
extensions = ["myst_parser"]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False
highlight_language = "none"
smartquotes = False  # names and values are shown as they are written
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # commands write some pages, whose headings may begin at any level
linkcheck_anchors = False
linkcheck_ignore = [r"https://github\.com/OWNER/.*"]


def lead_links_upwards(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links that leave docs/ lead to the repository."""
    folder = Path(app.env.doc2path(name)).parent

    def leading(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target.is_relative_to(HERE):
            return link[0]
        return f"]({REPOSITORY}/{target.relative_to(HERE.parent).as_posix()}{link[2] or ''})"

    source[0] = LINK_UPWARDS.sub(leading, source[0])


def publish_schemas(app: Sphinx, error: Exception | None) -> None:
    """Copy the JSON schemas beside the pages, under addresses that stay."""
    schemas = HERE / "schemas"
    if error is None and schemas.is_dir() and app.builder.format == "html":
        shutil.copytree(schemas, Path(app.outdir) / "schemas", dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    app.connect("source-read", lead_links_upwards)
    app.connect("build-finished", publish_schemas)
