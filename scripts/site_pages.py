"""A hook of mkdocs: pages for the README of each plugin and for documents at the root, and links that lead to them."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from environment import ROOT
from mkdocs.structure.files import File, Files

PAGES = {
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
} | {
    f"plugins/{path.parent.name}/README.md": f"plugins/{path.parent.name}.md"
    for path in ROOT.glob("plugins/*/README.md")
}
"""The file of each page in the repository, and its address in the site's source."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, uri in sorted(PAGES.items()):
        files.append(File.generated(config, uri, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """Let links between files of the repository lead to pages; make links to other files plain text."""
    uri = page.file.src_uri
    sources = {target: source for source, target in PAGES.items()}
    folder = posixpath.dirname(sources.get(uri, f"docs/{uri}"))

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups("")
        file = posixpath.normpath(posixpath.join(folder, target))
        if file not in PAGES and not (file.startswith("docs/") and file.endswith(".md")):
            return text
        to = PAGES.get(file, file.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(uri) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", link, markdown)
