"""Enforces decisions about access: counts them, and logs and refuses what is not allowed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from kes_core.access.errors import RequestError

if TYPE_CHECKING:
    from kes_core.access.decide import AccessDecision
    from kes_core.access.sender import Sender
    from kes_core.server.metrics import Metrics

__all__ = ["enforce", "log_refusal", "shortened"]

logger = logging.getLogger("kes.server")

_MAX_LOGGED_PATH: Final = 500
"""The longest path that is logged in full, in characters."""


def enforce(decision: AccessDecision, metrics: Metrics, sender: Sender, path: str, place: str = "") -> None:
    """Count the answers of the policy engines, and refuse a request that they do not allow.

    Args:
        decision: Whether the sender may make the request.
        metrics: Counts the answers.
        sender: The sender of the request.
        path: Its decoded path.
        place: What stands for its address in the log, if not the address itself.

    Raises:
        RequestError: The sender may not.
    """
    for answer in decision.answers:
        if answer.failure is not None:
            logger.error("%s; the request is refused", answer.failure)
    for label in decision.labels:
        metrics.decisions[label] += 1
    if not decision.allowed:
        who = sender.identity or "an unknown client"
        log_refusal(path, who, place or sender.address, decision.layer, decision.reason)
        raise RequestError(decision.status, decision.message, why=f"{decision.layer}: {decision.reason}")


def log_refusal(path: str, who: str, address: str, layer: str, reason: str) -> None:
    """Log which check refused a request, and why. The answer to the client says less."""
    if logger.isEnabledFor(logging.INFO):
        address = address or "an unknown address"
        logger.info("refused %r to %s at %s: %s: %s", shortened(path), who, address, layer, reason)


def shortened(path: str) -> str:
    """Return a path for the log."""
    return path if len(path) <= _MAX_LOGGED_PATH else path[:_MAX_LOGGED_PATH] + "..."
