"""Write the reference of messages, docs/messages.md, from the tables in the code; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from kes_core.messages import SECTIONS, Message, MessageSection

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "messages.md"
_HEAD = """\
# Messages

Every message of the server and its command line, with its cause and its cure. Search this page for the words that you
see: `…` stands for what varies, such as names, paths and the reasons of the system. Where a message ends in `: …`, what
follows is mostly a message of its own, and stands here too.

The findings of `kes doctor` are not here: they have their cures beside them.

This page is written from the code (`python3 scripts/messages.py`).
"""


def main() -> None:
    """Write the page, or exit with 1 if it is not up to date."""
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not up to date: run python3 scripts/messages.py")


def page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(_section(section) for section in sections())])


def sections() -> Iterator[MessageSection]:
    """Yield the sections of the core, and those of the plugins in this repository."""
    yield from SECTIONS
    for file in sorted(ROOT.glob("plugins/*/kes_*/messages.py"), reverse=True):
        yield import_module(f"{file.parent.name}.messages").SECTION


def _section(section: MessageSection) -> str:
    has_reasons = any(message.reason for message in section.messages)
    columns = ["message", *(["reason"] if has_reasons else []), "cause", "cure"]
    rows = [
        _row([_code(message), *([_reason(message)] if has_reasons else []), message.cause, message.cure])
        for message in section.messages
    ]
    table = [_row(columns), "|" + "---|" * len(columns), *rows]
    return "\n".join([f"## {section.title}\n", f"{section.intro}\n", *table, ""])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _code(message: Message) -> str:
    # A text with backticks of its own stands between two.
    return "<br>".join(f"`` {text} ``" if "`" in text else f"`{text}`" for text in message.texts)


def _reason(message: Message) -> str:
    return f"`{message.reason}`" if message.reason else ""


if __name__ == "__main__":
    main()
