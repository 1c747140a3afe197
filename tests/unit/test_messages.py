"""Every message that an operator can meet has an entry in the reference, with cause and cure, and none is out of date.

`tests.messages` collects the messages from the source. What is left out of the reference is left out here, by rules
that say why.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kes_core.client import Client, KESError
from kes_core.config import ConfigError, parse_config
from kes_core.identity import APIKey
from kes_core.keystore import KeyStoreReason
from kes_core.messages import Message, MessageSection
from kes_core.plugins import Plugins, load_plugins
from scripts.messages import sections
from tests.messages import ROOT, VARIABLE, Site, collect, files
from tests.support import vectors
from tests.unit.config.test_config import BROKEN, KEYSTORES, MISSING, START


class Rule(NamedTuple):
    """Sites that need no entry."""

    file: str
    function: str
    carrier: str
    why: str
    text: str = "*"
    """Of the site."""


NO_MESSAGES: Final = (
    Rule("kes_core/__init__.py", "*", "AttributeError", "what Python says of a name that is not there"),
    Rule("*", "*", "TypeError", "a mistake in a program, not in its use"),
    Rule("kes_core/_encoding.py", "*", "ValueError", "its callers say what can't be decoded"),
    Rule("kes_core/crypto.py", "*.__init__", "ValueError", "a mistake in a program: sizes are checked before"),
    Rule("kes_core/crypto.py", "KeyVersion.encode", "ValueError", "as above: new keys have an HMAC key"),
    Rule("kes_core/crypto.py", "Timestamp.parse", "ValueError", "its callers say which time it is"),
    Rule("kes_core/crypto.py", "KeyType.from_cipher", "ValueError", "its callers say it in words of their own"),
    Rule(
        "kes_core/crypto.py", "DecryptionError.__init__", "__init__", "the server answers in the same words, of its own"
    ),
    Rule("kes_core/identity.py", "APIKey.__init__", "ValueError", "a mistake in a program"),
    Rule("*", "*", "KeyExistsError", "key stores raise it; clients are told in the words of the protocol"),
    Rule("*", "*", "KeyNotFoundError", "as above"),
    Rule("*", "*", "ChannelClosedError", "who asked says that a worker has ended"),
    Rule(
        "kes_core/doctor/decision.py", "*", "_RefusedError", "the name of a check; the finding beside it is for reading"
    ),
    Rule("kes_core/cli/main.py", "main", "exit", "an exit code"),
    Rule("kes_core/cli/migrate.py", "_report", "echo", "a list of keys with their messages, and how it goes on"),
    Rule("kes_core/cli/server.py", "_announce", "echo", "tells a person what has started, and is no message"),
    Rule("plugins/vault/kes_vault/transport.py", "*", "RedirectError", "translated to words for operators"),
    Rule("plugins/vault/kes_vault/transport.py", "*", "GatewayError", "as above"),
)
"""What no operator meets as it stands there."""

PASSED_ON: Final = (
    Rule("kes_core/_config_reader.py", "ConfigReader._error", "Config*", "what `_report` was given"),
    Rule("kes_core/_config_reader.py", "ConfigReader.read*", "self._report", "a YAMLError that was kept"),
    Rule(
        "kes_core/_config_reader.py",
        "ConfigReader._explain",
        "self._report",
        "a ValueError after the value",
        "the value*…",
    ),
    Rule(
        "kes_core/_config_reader.py",
        "ConfigReader._explain",
        "self._report",
        "pydantic's own text: a foreign entry",
        "…",
    ),
    Rule("kes_core/boundary/_engines.py", "_GuardedEngine.authorize", "Verdict", "the engine's reason", "…*"),
    Rule("kes_core/cache.py", "KeyCache._look", "self._complain", "a KeyStoreError"),
    Rule("kes_core/_errors.py", "APIError.__init__", "__init__", "what the server answered"),
    Rule("kes_core/config.py", "_read", "ConfigError", "the ConfigProblem in it"),
    Rule("kes_core/_errors.py", "raise_for_status", "kind", "what the server answered"),
    Rule("kes_core/_transport.py", "failed", "KESConnectionError", "httpx's own text: there are foreign entries"),
    Rule("kes_core/cli/config.py", "check", "CLIError", "a TLSError, after the name of the file", "…: tls: …"),
    Rule("kes_core/cli/key.py", "_one_of", "CLIError", "what `told` says, after a name", "…: …; the server*"),
    Rule("kes_core/cli/key.py", "_one_of", "CLIError", "as above", "…: … (set*"),
    Rule("kes_core/cli/identity.py", "_back_up", "IsADirectoryError", "the system's own text"),
    Rule("plugins/fs/kes_fs/store.py", "FileKeyStore._check", "NotADirectoryError", "as above"),
    Rule("kes_core/doctor/decision.py", "_ask", "Verdict", "what a policy engine said"),
    Rule("kes_core/server/app.py", "_Dispatcher._route", "_NotRouted", "the error_body in it"),
    Rule("kes_core/server/app.py", "_Dispatcher._authorize", "APIError", "an IdentityError that was kept"),
    Rule("kes_core/server/auth.py", "_forwarded_client", "APIError", "as above"),
    Rule("kes_core/server/channel.py", "Channel._take", "PeerError", "what the other process said"),
    Rule("kes_core/server/probe.py", "_Probe._answer", "error_body", "an APIError of `readiness`"),
    Rule("kes_core/server/supervisor.py", "Supervisor.reload", "UnusableError", "a PeerError that was kept"),
    Rule("kes_core/server/tls_connection.py", "*", "self._on_failed", "OpenSSL's own text"),
    Rule("plugins/vault/kes_vault/session.py", "Session._*_problem", "*", "a KeyStoreError that was kept"),
)
"""Messages that repeat others, which are not just exceptions that are being handled: those the collector knows."""


def _applies(rule: Rule, site: Site) -> bool:
    pairs = zip(rule[:3], (site.file, site.function, site.carrier), strict=True)
    return all(fnmatch(name, wanted) for wanted, name in pairs) and fnmatch(site.text, rule.text)


def _needs_an_entry(site: Site) -> bool:
    if any(_applies(rule, site) for rule in NO_MESSAGES):
        return False
    if site.is_known:  # a rule for what is passed on has to name the text then
        return not any(_applies(rule, site) for rule in PASSED_ON if rule.text != "*")
    return not site.passes_on and not any(_applies(rule, site) for rule in PASSED_ON)


def _in_source(text: str) -> re.Pattern[str]:
    """Return what matches a text of the source: `…` stands for what varies there too, and for a single word."""
    return re.compile(r"(?:\S*|[^A-Za-z]*)".join(re.escape(part) for part in text.split(VARIABLE)))


@pytest.fixture(scope="module")
def sites() -> list[Site]:
    return collect(files())


@pytest.fixture(scope="module")
def tables() -> list[MessageSection]:
    return list(sections())


@pytest.fixture(scope="module")
def entries(tables: list[MessageSection]) -> list[Message]:
    return [message for section in tables for message in section.messages]


def test_every_message_in_the_source_has_an_entry(sites: list[Site], entries: list[Message]) -> None:
    known = [_in_source(text) for entry in entries for text in entry.texts]
    left = [site for site in sites if _needs_an_entry(site) and not any(text.fullmatch(site.text) for text in known)]
    assert not left, "without an entry in a module `messages`:\n" + "\n".join(map(str, left))


def test_every_entry_is_in_the_source(sites: list[Site], entries: list[Message]) -> None:
    made = {site.text for site in sites}
    texts = [text for entry in entries if not entry.foreign for text in entry.texts]
    dead = [text for text in texts if not any(_in_source(text).fullmatch(site) for site in made)]
    assert not dead, "nothing in the source says:\n" + "\n".join(dead)


def test_every_rule_is_needed(sites: list[Site]) -> None:
    idle = [rule for rule in (*NO_MESSAGES, *PASSED_ON) if not any(_applies(rule, site) for site in sites)]
    assert not idle


def test_entries_say_something_once(entries: list[Message]) -> None:
    texts = [text for entry in entries for text in entry.texts]
    assert len(texts) == len(set(texts)), sorted(text for text in set(texts) if texts.count(text) > 1)
    for entry in entries:
        assert entry.cause.endswith((".", ":")) or "`" in entry.cause, entry
        assert entry.cure, entry
        assert entry.reason in {"", *KeyStoreReason}, entry


def test_page_is_up_to_date() -> None:
    command = [sys.executable, "scripts/messages.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_that_serves_imports_the_tables() -> None:
    code = "import kes_core.server.main, kes_core.server.worker, kes_core.cli.server, kes_vault.store, sys; "
    code += "sys.exit(any('messages' in name for name in sys.modules if name.startswith('kes_')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The collector follows what it says it does, and hides nothing that it can't follow.

SOURCE = """
import logging
logger = logging.getLogger("x")
_END = "try again"
_WHY = {1: "it is old", 2: "it is new"}

class OwnError(ValueError): ...

def helper(what, place="the file"):
    raise OwnError(f"{place} {what} " "is wrong; " + _END)

def callers(name):
    helper("here")
    helper("there", place="the list")

def reason(number):
    if number:
        return "it is late"
    return _WHY.get(number, "nobody knows")

def log(value, error):
    logger.warning("took %d of %5.1f %s", 1, 2, value)
    logging.getLogger("y").error("written %s", value)
    hint = "" if value else "; or not"
    hint += "; or later"
    raise ValueError(f"can't use {value!r}: {reason(value)}{hint}")

def unknown(value, kind, call):
    if value:
        raise kind("by variable")
    if call:
        raise OwnError(message=call())
    try:
        pass
    except OwnError as error:
        raise OwnError(str(error))
    raise OwnError(*value)
"""


def test_collector(tmp_path: Path) -> None:
    file = tmp_path / "source.py"
    file.write_text(SOURCE)
    found = collect([file], tmp_path)
    assert {site.text for site in found if site.is_known} == {
        "the file here is wrong; try again",
        "the list there is wrong; try again",
        "took … of …",
        "written …",
        *(
            f"can't use …: {why}{hint}"
            for why in ("it is old", "it is new", "it is late", "nobody knows")
            for hint in ("", "; or not", "…; or later")
        ),
        "by variable",
    }
    unknown = [(site.function, site.passes_on) for site in found if not site.is_known]
    assert sorted(unknown) == [("unknown", False), ("unknown", False), ("unknown", True)]


# What is really said, and not only what stands in the source


def _matching(message: str, entries: Iterable[Message]) -> list[str]:
    """Return the texts that match a message with what may stand before it: a name, a value, a place."""
    texts = [text for entry in entries for text in entry.texts]
    patterns = {text: ".*".join(re.escape(part) for part in text.split(VARIABLE)) for text in texts}
    return [text for text, found in patterns.items() if re.fullmatch(f"(?:.* )?{found}", message, re.DOTALL)]


CASES = [START + text for text in BROKEN] + [START.partition("keystore:")[0] + text for text in KEYSTORES]
CASES += [*MISSING, *(case["yaml"] for case in vectors("config")["cases"] if case.get("should_fail"))]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.mark.parametrize("text", CASES)
def test_what_is_said_of_a_broken_file_has_an_entry(text: str, plugins: Plugins, tables: list[MessageSection]) -> None:
    titles = ("The configuration file", "Vault", "Keys in files", "Cedar")
    entries = [message for table in tables if table.title in titles for message in table.messages]
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename="config.yml", plugins=plugins, environ={})
    for problem in caught.value.problems:
        assert _matching(problem.message, entries), problem


def test_answers_of_the_protocol_have_entries(tables: list[MessageSection]) -> None:
    entries = [message for table in tables if table.title == "Answers to clients" for message in table.messages]
    precise = [entry for entry in entries if entry.text != "… (…)"]
    # The others nobody has brought a server to send.
    cases = [case for case in vectors("errors")["cases"] if case["verified"] != "read from the source only"]
    answers = {case["message"] for case in cases} - {""}
    assert len(answers) > 20
    assert [answer for answer in answers if not _matching(answer, precise)] == []


PLUGIN = """\
from kes_core import hookimpl
kes_hookspec_version = 1
@hookimpl
def kes_audit_sinks(nonsense): ...
"""


def test_libraries_say_what_their_entries_have(
    entries: list[Message], plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        with Client(url, api_key=APIKey.generate()) as client, pytest.raises(KESError) as refused:
            client.version()
    (tmp_path / "kes_nonsense.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    (info,) = load_plugins([metadata.EntryPoint("nonsense", "kes_nonsense", "kes")]).infos
    with pytest.raises(ConfigError) as unknown:
        parse_config(START + "policy_engines: {cedar: {policies: p, default: no}}", filename="f", plugins=plugins)
    said = [str(refused.value), str(info.error), unknown.value.problems[0].message]
    found = [_matching(message, [entry for entry in entries if entry.foreign]) for message in said]
    assert found == [["…: [Errno …] Connection refused"], ["Plugin … for hook …"], ["input should be …"]]
