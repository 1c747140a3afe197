"""A malicious configuration file is refused at once, with one error that has the line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kes_core.config import ConfigError, load, parse_config
from kes_core.config.document import Document, YAMLError, parse
from kes_core.plugins import Plugins, load_plugins
from tests.helpers.vectors import vectors

CPU_SECONDS = 20.0
"""Twice the time of the slowest case with the pure parser under coverage. Without limits, most take minutes."""
IDENTITY = "c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d"
HEAD = f"admin: {{identity: {IDENTITY}}}\ntls: {{key: k, cert: c}}\nkeystore: {{memory: }}\n"


@pytest.fixture(params=["libyaml", "pure Python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "libyaml":
        assert yaml.__with_libyaml__
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param == "libyaml")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture
def _bounded() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < CPU_SECONDS


def read(text: str) -> Document:
    return parse(text, environ={}, literal=lambda _path: False)


def tower(width: int, levels: int, line: str) -> str:
    """Return lines, each with several aliases of the line before."""
    names = [f"*a{level}" for level in range(levels)]
    lines = [line.format(level=n, many=", ".join([names[n - 1]] * width), one=names[n - 1]) for n in range(1, levels)]
    return "\n".join(["a0: &a0 {x: y}", *lines])


BOMBS = {
    "merge keys": (tower(10, 25, "a{level}: &a{level}\n  <<: [{many}]"), r"more than \d+ values"),
    "empty merge keys": (tower(10, 25, "a{level}: &a{level}\n  <<: [{many}]").replace("x: y", ""), "more than"),
    "a chain of merge keys": (tower(1, 2000, "a{level}: &a{level}\n  <<: {one}"), "nested more than"),
    "aliases": (tower(10, 10, "a{level}: &a{level} [{many}]"), r"more than \d+ values"),
    "a chain of aliases": (tower(1, 2000, "a{level}: &a{level} [{one}]"), "nested more than"),
    "an alias of itself": ("a: 1\nb: &b\n- *b", "the alias 'b' stands inside the value that it names"),
    "a merge key of itself": ("a: &a\n  <<: *a", "the alias 'a' stands inside the value that it names"),
    "brackets": ("[" * 100_000, "nest"),
    "braces": ("{a: " * 100_000, "nested more than"),
    "dashes": ("- " * 100_000, "nested more than"),
    "question marks": ("? " * 100_000, "nested more than"),
    "many values": ("[" + "a," * 550_000 + "]", "more than"),
    "directives": ("%TAG !a! b\n" * 80_000 + "---\na: b", "lines begin with '%'"),
    "size": ("#" * ((16 << 20) + 1), "larger than"),
    "a long name": ("? " + "a" * 60_000 + "\n: b", "the name of a field has more than"),
}


@pytest.mark.usefixtures("_parser", "_bounded")
@pytest.mark.parametrize("name", BOMBS)
def test_bomb_ends_at_once(name: str) -> None:
    text, message = BOMBS[name]
    with pytest.raises(YAMLError, match=message) as caught:
        read(text)
    assert 1 <= caught.value.line <= text.count("\n") + 1


def test_large_file_needs_libyaml(monkeypatch: pytest.MonkeyPatch, plugins: Plugins, tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(HEAD + "# padding\n" * 220_000)
    assert load(path, plugins=plugins).config.admin.identity == IDENTITY
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    message = "larger than 2097152 bytes; up to 16777216 with libyaml: install a PyYAML that has it"
    with pytest.raises(ConfigError, match=message):
        load(path, plugins=plugins)


@pytest.mark.usefixtures("_bounded")
def test_error_names_the_line_of_the_bomb(plugins: Plugins) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + "x: 1\ny: " + "[" * 40 + "]" * 40, filename="f", plugins=plugins, environ={})
    assert str(caught.value) == "f:5: y[0][0][0]: nested more than 32 levels deep"


@pytest.mark.usefixtures("_bounded")
def test_file_with_very_many_errors(plugins: Plugins) -> None:
    text = HEAD + "".join(f"a{number}: b\n" for number in range(40_000))
    text += "cache: {expiry: {any: " + "1" * 60_000 + "}}\naddress: :" + "1" * 60_000 + "\nworkers: " + "9" * 60_000
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename="f", plugins=plugins, environ={})
    assert len(caught.value.problems) == 100


HUGE = {
    "cache: {expiry: {any: " + "1" * 60_000 + "}}": "is not a duration",
    "address: :" + "1" * 60_000: "has no valid port",
    "workers: " + "1" * 60_000: "expected 1 to 256",
    "log: {error: info+" + "1" * 60_000 + "}": "is not a log level",
    "audit: {syslog: {address: 'udp://h:" + "1" * 60_000 + "'}}": "is not the address of a log",
}


@pytest.mark.usefixtures("_bounded")
@pytest.mark.parametrize("text", HUGE)
def test_number_of_very_many_digits(text: str, plugins: Plugins) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + text, filename="f", plugins=plugins, environ={})
    [problem] = caught.value.problems
    assert problem.line == 4
    assert HUGE[text] in problem.message
    assert len(problem.message) < 500


def test_file_without_an_end(plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="larger than"):
        load(Path("/dev/zero"), plugins=plugins)


MEANT = {
    IDENTITY[:63]: "it has 63 hex digits, an identity has 64",
    IDENTITY + "0": "it has 65 hex digits, an identity has 64",
    IDENTITY.upper(): "write its hex digits in lower case",
    IDENTITY[:63] + "D": "write its hex digits in lower case",
}


@pytest.mark.parametrize("place", ["admin", "policy", "proxy"])
@pytest.mark.parametrize("identity", MEANT)
def test_what_is_almost_an_identity_is_an_error(place: str, identity: str, plugins: Plugins) -> None:
    """Such a typo would silently lock out the admin, an application or a proxy."""
    text = {
        "admin": HEAD.replace(IDENTITY, identity),
        "policy": HEAD + f"policy:\n  p:\n    identities: [{identity}]",
        "proxy": HEAD.replace("cert: c", f"cert: c, proxy: {{identities: [{identity}]}}"),
    }[place]
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename="f", plugins=plugins, environ={})
    [problem] = caught.value.problems
    assert problem.message == f"'{identity[:60]}...' is not an identity: {MEANT[identity]}"


@pytest.mark.parametrize("word", ["disabled", "_", "none", "off", "dead", "no admin!", "0"])
def test_another_word_switches_the_admin_off(word: str, plugins: Plugins) -> None:
    config = parse_config(HEAD.replace(IDENTITY, f"'{word}'"), filename="f", plugins=plugins, environ={})
    assert config.admin.identity == word


def both(text: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the result of each of the two parsers, or the line of its error."""
    results: list[object] = []
    for with_libyaml in (True, False):
        monkeypatch.setattr(yaml, "__with_libyaml__", with_libyaml)
        try:
            document = read(text)
            results.append(
                (document.value, document.lines, document.item_lines, [str(problem) for problem in document.problems])
            )
        except YAMLError as error:
            results.append(error.line)
    return results


def test_both_parsers_read_the_vectors_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in vectors("config")["cases"]:
        fast, pure = both(case["yaml"], monkeypatch)
        assert fast == pure, case["name"]


TABS = {
    "indented JSON": '{\n\t"a": "b",\n\t"c": [\n\t\t"d"\n\t]\n}',
    "before a comment": "a: b\t# comment\nc: [d]\n",
    "after a colon": "a:\tb\nc:\t[d]\n",
}


@pytest.mark.parametrize("name", TABS)
def test_tabs_where_yaml_allows_them(name: str) -> None:
    assert read(TABS[name]).value == {"a": "b", "c": ["d"]}


def test_a_tab_that_indents_is_an_error() -> None:
    with pytest.raises(YAMLError) as caught:
        read("a:\n\tb: c\n")
    assert caught.value.line == 2


@given(st.text(alphabet="ab:-[]{},&*!|>'\"%#?~<$ \n\t\u00e9\ufeff\ud800\x00") | st.text())
def test_any_text_gives_a_document_or_one_kind_of_error(text: str) -> None:
    line = 1
    try:
        read(text)
    except YAMLError as error:
        line = error.line
    assert 1 <= line <= len(text) + 1


VALUES = st.recursive(
    st.sampled_from(["a", "~", "'b c'", "'${SET}'", "'${UNSET}'", "~/x", "'x${SET}'"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"@[\n{','.join(items)}]")
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda members: f"@{{\n{','.join(f'{name}: {value}' for name, value in members.items())}}}"
        )
    ),
)
"""Values with an `@` where an anchor may stand."""


@given(VALUES)
def test_what_has_an_anchor_is_read_like_what_has_none(template: str) -> None:
    """Only parts with an anchor are built before they are read."""

    def everything(anchor: str) -> Document:
        return parse(template.replace("@", anchor), environ={"SET": "value"}, literal=lambda path: path[-1:] == ("a",))

    plain, anchored = everything(""), everything("&x ")
    assert [vars(problem) | {"text": str(problem)} for problem in plain.problems] == [
        vars(problem) | {"text": str(problem)} for problem in anchored.problems
    ]
    plain.problems = anchored.problems = []
    assert plain == anchored
