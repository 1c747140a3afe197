"""What the server and the commands answer to a faulty plugin: one function for each stage of `answers.txt`.

Each returns lines: what the operator or the client reads, in its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from kes_core import FindingLevel, KeyStoreError, ServerInfo
from kes_core.access.routing import decode_path
from kes_core.access.sender import ProvenClient
from kes_core.boundary import access_policy, notify
from kes_core.config import Config, ConfigError, load
from kes_core.config.views import effective, exposed_credentials, json_schema
from kes_core.doctor.audit import examine_audit
from kes_core.doctor.store import examine_engines, examine_store
from kes_core.faults import watch_loop
from kes_core.plugins import Plugins, load_plugins
from kes_core.server.metrics import Metrics
from kes_core.server.process import ConfigRejectedError
from kes_core.server.server import ServerProcess
from kes_core.server.watchdog import Watchdog
from kes_core.server.workers.peers import LocalPeers
from tests.helpers.patience import one_ends
from tests.helpers.server import write_config
from tests.plugins.faulty import loading
from tests.plugins.faulty.bases import FaultyEngine, FaultyFrontend, FaultySink, FaultyStore

STRANGER: Final = "5" * 64


class Distribution(NamedTuple):
    """The part of an installed distribution that an entry point needs."""

    name: str
    version: str


def entry_point(value: str, distribution: str = "kes-faulty", name: str = "faulty") -> metadata.EntryPoint:
    """Return an entry point of a distribution, as `importlib.metadata` makes them."""
    version = "0.1.0" if distribution == "kes-core" else "1.0"
    point: metadata.EntryPoint = metadata.EntryPoint(name, value, "kes")._for(Distribution(distribution, version))  # type: ignore[attr-defined] # what importlib.metadata itself calls
    return point


OWN: Final = [
    entry_point(point.value, "kes-core", point.name)
    for point in metadata.entry_points(group="kes")
    if point.dist is not None and point.dist.name == "kes-core"
]
"""The plugins of the core. Their metadata are read once."""


def processes() -> tuple[set[threading.Thread], int, str]:
    """Return the threads, the number of file descriptors, and the child processes."""
    children = ""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ends
            children += (task / "children").read_text()
    return set(threading.enumerate()), len(list(Path("/proc/self/fd").iterdir())), children


def run(
    work: Callable[[list[str]], Coroutine[Any, Any, None]], log: Callable[[], Sequence[str]], *, blocks: bool = False
) -> list[str]:
    """Run a coroutine function, which gets a list for lines; return the lines, and those of the log.

    If it `blocks`, a watchdog runs.

    Check that no thread, file descriptor or process is left. Tasks that are left are counted in a line.
    """
    lines: list[str] = []

    async def main() -> None:
        watch_loop(asyncio.get_running_loop())
        watchdog = Watchdog(asyncio.get_running_loop(), end=lambda: os._exit(1))
        if blocks:
            watchdog.start()
        try:
            await work(lines)
        finally:
            if blocks:
                watchdog.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        while (left := [task for task in others if not task.done()]) and await one_ends(left, patience=0.05):
            pass
        lines.extend(log())
        if left:
            lines.append(f"tasks left: {len(left)}")

    before = processes()
    asyncio.run(main())
    if processes() != before:
        gc.collect()  # which takes longer than all the rest
        assert processes() == before
    return lines


@dataclass(frozen=True)
class Stage:
    """Where one faulty plugin is tried."""

    fault: str
    """The module and the class of the fault."""
    directory: Path
    """A directory with the certificate of a server."""
    identity: str
    """The admin."""
    log: Callable[[], Sequence[str]]
    """Returns the messages of the log so far."""

    @property
    def kind(self) -> Any:
        module, _, name = self.fault.partition(".")
        return getattr(importlib.import_module(f"tests.plugins.faulty.{module}"), name)

    @property
    def hangs(self) -> bool:
        """Whether it waits for the end of a time limit."""
        return not self.fault.startswith("loading.") and bool(getattr(self.kind, "hangs", False))

    @property
    def blocks(self) -> bool:
        """Whether it blocks the event loop for ever."""
        return self.hangs and bool(getattr(self.kind, "blocks", False))

    def plugins(self) -> Plugins:
        """Load the plugin, besides those of the core."""
        module, _, name = self.fault.partition(".")
        value = f"tests.plugins.faulty.{module}:{name}"
        if name in loading.SOURCES:
            value = f"faulty_{name}"
            (self.directory / f"{value}.py").write_text(loading.SOURCES[name])
        return load_plugins([*OWN, entry_point(value)])

    def config(self) -> tuple[Config, Plugins]:
        """Return a configuration that uses the plugin."""
        plugins = self.plugins()
        assert [info.error for info in plugins.infos if info.error] == []
        sections: dict[str, Any] = {"log": {"audit": "off"}}
        if issubclass(self.kind, FaultyStore):
            sections["keystore"] = {"faulty": {}}
            if self.hangs and not self.blocks:
                sections["api"] = {"/v1/key/describe/": {"timeout": "500ms"}}
        else:
            sections["keys"] = [{"name": "my-key"}]
        if issubclass(self.kind, FaultyEngine):
            sections["policy_engines"] = {"faulty": {}}
            sections["plugins"] = {"authorize_timeout": "200ms" if self.hangs and not self.blocks else "10s"}
        if issubclass(self.kind, FaultySink):
            sections["audit_sinks"] = {"faulty": {}}
        if issubclass(self.kind, FaultyFrontend):
            sections["frontends"] = {"faulty": {}}
        return load(write_config(self.directory, self.identity, sections), plugins=plugins).config, plugins

    # The stages

    def load(self, _requests: Sequence[str]) -> list[str]:
        """Return why the plugin is not loaded."""
        plugins = self.plugins()
        (info,) = [info for info in plugins.infos if info.name == "faulty"]
        assert info.error is not None
        reason = plugins.why_not("faulty")
        assert reason is not None
        assert info.error in reason
        return [info.error]

    def configuration(self, _requests: Sequence[str]) -> list[str]:
        """Return the problems of a configuration that selects the plugin."""
        try:
            self.config()
        except ConfigError as error:
            return [f"{problem.path}: {problem.message}" for problem in error.problems]
        return ["it is valid"]

    def show(self, _requests: Sequence[str]) -> list[str]:
        """Return what `kes config show` shows of its section, and its warnings."""
        config, _plugins = self.config()
        shown = [line.strip() for line in yaml.safe_dump(effective(config)["keystore"], width=1000).splitlines()]
        return [*shown, *(f"exposed: {field}" for field in exposed_credentials(config))]

    def schema(self, _requests: Sequence[str]) -> list[str]:
        """Return what `kes config schema` says of its section."""
        sections = json_schema(self.plugins())["$defs"]["FileSettings"]["properties"]["keystore"]
        return [json.dumps(sections["anyOf"][0]["properties"]["faulty"])]

    def start(self, _requests: Sequence[str]) -> list[str]:
        """Return why the server does not start."""
        server, config = self._server()

        async def work(lines: list[str]) -> None:
            try:
                await server.connect(config)
            except ConfigRejectedError as error:
                lines.append(str(error))
            else:
                lines.append("it starts")
                await self._stop(server)

        return run(work, self.log, blocks=self.blocks)

    def request(self, requests: Sequence[str]) -> list[str]:
        """Return the answers to requests, and the log."""
        server, config = self._server()

        async def work(lines: list[str]) -> None:
            await server.connect(config)
            lines += [f"{each} -> {await self._answer(server, *each.split(' '))}" for each in requests]
            await self._stop(server)

        return run(work, self.log, blocks=self.blocks)

    def health(self, _requests: Sequence[str]) -> list[str]:
        """Return the log of a health check."""
        server, config = self._server()

        async def work(_lines: list[str]) -> None:
            await server.connect(config)
            await server.app.server_state.cache._check_health()
            await self._stop(server)

        return run(work, self.log, blocks=self.blocks)

    def stop(self, _requests: Sequence[str]) -> list[str]:
        """Return the log of a stop, after a request."""
        (_answer, *lines) = self.request(["GET /v1/ready"])
        return lines or ["it stops"]

    def frontend(self, _requests: Sequence[str]) -> list[str]:
        """Return the log of a front end from its start to its stop."""
        server, config = self._server()

        async def work(lines: list[str]) -> None:
            await server.connect(config)
            frontends, self.kind.identity = server._frontends, self.identity
            try:
                await frontends.use(config)
            except ConfigRejectedError as error:
                lines.append(str(error))
            else:
                for running in frontends._running.values():
                    await running._check()
                    if self.kind.has_task:
                        async with asyncio.timeout(5):
                            await running.guard.failed.wait()
                lines += [f"{name}: {problem or 'ready'}" for name, problem in frontends.problems().items()]
                await frontends.stop()
            await self._stop(server)
            if hasattr(self.kind, "clean_up"):
                self.kind.clean_up()

        return run(work, self.log, blocks=self.blocks)

    def hook(self, _requests: Sequence[str]) -> list[str]:
        """Return the log of the hooks of a server that starts and stops."""
        plugins = self.plugins()

        async def work(_lines: list[str]) -> None:
            for hook in ("kes_server_started", "kes_server_stopping"):
                await notify(plugins, hook, ServerInfo("1.0", ("127.0.0.1:7373",)))
            if hasattr(self.kind, "end"):
                self.kind.end.set()
                for thread in threading.enumerate():
                    if thread.name.startswith("kes-kes_server"):
                        await asyncio.to_thread(thread.join)

        return run(work, self.log, blocks=self.blocks)

    def doctor(self, _requests: Sequence[str]) -> list[str]:
        """Return the findings of `kes doctor` about the plugin, as its output shows them."""

        async def work(lines: list[str]) -> None:
            config, plugins = self.config()
            found = [
                *await examine_store(config.keystore, time_limit=0.2),
                *[finding async for finding in examine_engines(config)],
                *[finding async for finding in examine_audit(config, plugins)],
            ]
            lines += [f"{each.level}: {each.subject}: {each.message}" for each in found if each.level in SHOWN]

        return run(work, self.log, blocks=self.blocks)

    def policy(self, _requests: Sequence[str]) -> list[str]:
        """Return the error of `kes doctor store-policy`."""
        choice = self.config()[0].keystore
        try:
            return [access_policy(choice.backend, choice.config)]
        except KeyStoreError as error:
            return [str(error)]

    # Their parts

    def _server(self) -> tuple[ServerProcess, Config]:
        config, plugins = self.config()
        metrics = Metrics()
        return ServerProcess(plugins, metrics, LocalPeers(metrics)), config

    async def _stop(self, server: ServerProcess) -> None:
        """Close what `ServerProcess.stop` closes; there is no network."""
        await server.app.server_state.audit.close()
        await server.app.server_state.close()

    async def _answer(self, server: ServerProcess, method: str, path: str) -> str:
        identity = STRANGER if issubclass(self.kind, FaultyEngine) else self.identity
        scope = {
            "type": "http",
            "method": method,
            "path": decode_path(path.encode()),
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 50000),
            "extensions": {"kes.client": ProvenClient(identity, "", None, verified=False, presented=True)},
        }
        sent: list[Mapping[str, Any]] = []

        async def receive() -> Mapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        async with asyncio.timeout(10):
            await server.app(scope, receive, send)  # type: ignore[arg-type] # starlette wants its own kinds of mapping
        body = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        if path == "/v1/metrics":
            body = " ".join(line for line in body.splitlines() if line.startswith("kes_plugin_faulty_"))
        return f"{sent[0]['status']} {body}".rstrip()


SHOWN: Final = {FindingLevel.ERROR, FindingLevel.OK}
