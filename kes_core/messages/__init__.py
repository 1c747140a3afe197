"""Every message that an operator can meet, with its cause and its cure: the source of docs/messages.md.

The tables are data for that page and its test. Nothing that serves imports them. A plugin's own messages stand in its
module `messages`, as a `MessageSection` of the name `SECTION`.
"""

from __future__ import annotations

from typing import Final

from kes_core.messages import (
    audit,
    clients,
    command_line,
    configuration,
    keystore,
    plugins,
    requests,
    server,
    tls,
)
from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTIONS", "Message", "MessageSection"]

SECTIONS: Final[tuple[MessageSection, ...]] = (
    configuration.SECTION,
    plugins.SECTION,
    server.SECTION,
    tls.SECTION,
    keystore.SECTION,
    requests.SECTION,
    clients.SECTION,
    audit.SECTION,
    command_line.SECTION,
)
"""Those of the core, in the order of the page."""
