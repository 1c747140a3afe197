"""What an entry of the reference of messages is."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Message", "MessageSection"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that an operator can meet, or several with one cause and one cure."""

    text: str | tuple[str, ...]
    """As it stands in the code, with `…` for what varies."""
    cause: str
    """What has happened, in Markdown. What a text says already is not said again."""
    cure: str
    """What to do, in Markdown."""
    reason: str = ""
    """The word for it that clients and metrics get (`kes_core.KeyStoreReason`), if there is one."""
    foreign: bool = field(default=False, kw_only=True)
    """Whether a library makes the text, so that it is nowhere in the source."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, of which there is one at least."""
        return (self.text,) if isinstance(self.text, str) else self.text


@dataclass(frozen=True, slots=True)
class MessageSection:
    """A section of the reference."""

    title: str
    intro: str
    """Where its messages are met, in Markdown."""
    messages: tuple[Message, ...]
