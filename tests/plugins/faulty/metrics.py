"""Key stores with a fault in a metric."""

from __future__ import annotations

from typing import Any

from kes_core import PluginContext
from tests.plugins.faulty.bases import FaultyStore


class MetricHasABadName(FaultyStore):
    """A metric has a name that Prometheus does not allow."""

    @classmethod
    async def connect(cls, _settings: Any, context: PluginContext) -> Any:
        context.metrics.counter("pool-size", "Open connections.")
        return cls()


class MetricIsOfTwoKinds(FaultyStore):
    """A counter and a gauge have the same name."""

    @classmethod
    async def connect(cls, _settings: Any, context: PluginContext) -> Any:
        context.metrics.counter("connections", "Connections.")
        context.metrics.gauge("connections", "Connections.")
        return cls()


class MetricIsDefinedTwice(FaultyStore):
    """A counter is defined twice, with other help texts: both count the same."""

    @classmethod
    async def connect(cls, _settings: Any, context: PluginContext) -> Any:
        for text in ("First.", "Second."):
            context.metrics.counter("calls", text)()
        return cls()


class MetricIsText(FaultyStore):
    """A gauge gets text instead of a number."""

    @classmethod
    async def connect(cls, _settings: Any, context: PluginContext) -> Any:
        context.metrics.gauge("connections", "Connections.")("five")  # type: ignore[arg-type]
        return cls()


class CounterGoesDown(FaultyStore):
    """A counter gets a negative number."""

    @classmethod
    async def connect(cls, _settings: Any, context: PluginContext) -> Any:
        context.metrics.counter("connections", "Connections.")(-1)
        return cls()
