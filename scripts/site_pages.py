"""A hook of mkdocs: the README of each plugin is a page of the site as well, and links to it lead there."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from environment import ROOT
from mkdocs.structure.files import File, Files

PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/README.md"))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for name in PLUGINS:
        content = (ROOT / "plugins" / name / "README.md").read_text("utf-8")
        files.append(File.generated(config, f"plugins/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """Let links to a README lead to its page, and links to files that are no pages be plain text."""
    uri = page.file.src_uri
    for name in PLUGINS:
        target = posixpath.relpath(f"plugins/{name}.md", posixpath.dirname(uri) or ".")
        markdown = re.sub(rf"\]\((\.\./)+plugins/{name}/README\.md", f"]({target}", markdown)
    if uri.startswith("plugins/"):
        markdown = re.sub(r"\[([^]]+)\]\((?!https?:|[\w/.-]*\.md)[^)]+\)", r"\1", markdown)
    return markdown
