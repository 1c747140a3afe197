"""The section `frontends` of the configuration: read, shown, described and examined as those of other plugins."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from kes_core import FrontendBackend, FrontendContext, FrontendError
from kes_core.config import Config, ConfigError, Secret, Section, parse_config
from kes_core.config.views import effective, exposed_credentials, json_schema
from kes_core.doctor.frontends import examine_frontends
from kes_core.findings import Finding
from kes_core.plugins import Plugins, load_plugins
from tests.helpers import json_frontend

BASE = "admin: {identity: disabled}\ntls: {key: /a, cert: /b}\nkeystore: {memory: }\n"


class Door(Section):
    """A section of a third party."""

    port: int
    """The port to listen on."""
    secret: Secret = Secret("")
    password: str = ""


async def connect(_settings: Door, _context: FrontendContext) -> Any:
    raise FrontendError("it is not started in this test")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    kinds = {"door": FrontendBackend("door", Door, connect), "json": json_frontend.kes_frontends()[0]}
    return dataclasses.replace(load_plugins(), frontends=kinds)


def read(plugins: Plugins, section: str) -> Config:
    return parse_config(BASE + section, filename="/etc/kes/c.yml", plugins=plugins, environ={})


def test_section_is_read_and_shown_with_masked_secrets(plugins: Plugins) -> None:
    config = read(plugins, "frontends: {door: {port: 8200, secret: hush, password: hush}}")
    (choice,) = config.frontends
    assert (choice.type.name, choice.config.port, str(choice.directory)) == ("door", 8200, "/etc/kes")  # type: ignore[attr-defined]
    shown = effective(config)["frontends"]["door"]
    assert shown["port"] == 8200
    assert shown["secret"] != "hush"
    assert exposed_credentials(config) == ["frontends.door.password"]
    assert config == read(plugins, "frontends: {door: {port: 8200, secret: hush, password: hush}}")
    assert config.frontends != read(plugins, "frontends: {door: {port: 8201}}").frontends


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("frontends: {door: {}}", "/etc/kes/c.yml:4: frontends.door.port: required, but missing"),
        ("frontends: {door: {port: 1, prot: 2}}", "frontends.door.prot: unknown field; did you mean 'port'?"),
        (
            "frontends: {dor: {}}",
            "frontends.dor: no installed plugin provides it, and no known package does; installed: ",
        ),
        ("frontends: {kubernetes: {}}", "install the package kes-kubernetes; installed: door, json"),
        ("frontends: {static: {}}", "frontends.static: no installed plugin provides it"),
        ("frontends: [door]", "frontends: must be a mapping"),
    ],
)
def test_faults_have_line_and_field(plugins: Plugins, section: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(plugins, section)
    assert problem in str(caught.value)


def test_schema_describes_the_section(plugins: Plugins) -> None:
    schema = json_schema(plugins)
    (choice, _empty) = schema["$defs"]["FileSettings"]["properties"]["frontends"]["anyOf"]
    assert list(choice["properties"]) == ["door", "json"]
    assert schema["$defs"]["Door"]["properties"]["port"]["description"] == "The port to listen on."


def test_doctor_asks_the_plugin_or_only_reads_the_section(plugins: Plugins) -> None:
    async def collect(config: Config) -> list[Finding]:
        return [finding async for finding in examine_frontends(config)]

    found = asyncio.run(collect(read(plugins, "frontends: {door: {port: 1}, json: {socket: no/a, identity: b}}")))
    assert found == [
        Finding.ok("front end", "the section of 'door' is valid"),
        Finding.error("front end", "there is no directory /etc/kes/no", "make it: mkdir /etc/kes/no"),
    ]


def test_doctor_survives_a_broken_plugin(plugins: Plugins) -> None:
    async def diagnose(_settings: Door, _context: object) -> Any:
        raise ValueError("canary-3a7")

    async def collect(config: Config) -> list[Finding]:
        return [finding async for finding in examine_frontends(config)]

    broken = dataclasses.replace(plugins, frontends={"door": FrontendBackend("door", Door, connect, diagnose)})
    (found,) = asyncio.run(collect(read(broken, "frontends: {door: {port: 1}}")))
    assert found.level == "error"
    assert "the front end 'door' failed in diagnose: ValueError" in found.message
    assert "canary" not in found.message
