"""The page on performance shows the numbers of the last measurement, and says rightly whether they reach the goals."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import instructions
from benchmarks.callgrind import by_library
from benchmarks.plot import draw
from benchmarks.tables import BLOCKS, MARKED, MISSING, fill_page
from benchmarks.verdicts import GOALS, goals_table

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = json.loads((ROOT / "benchmarks" / "goals.json").read_text())
RENDER = "python3 benchmarks/goals.py --render"


def test_page_shows_the_numbers() -> None:
    page = PAGE.read_text()
    assert fill_page(page, RESULTS) == page, RENDER
    assert PAGE.with_suffix(".svg").read_text() == draw(RESULTS), RENDER


def test_page_has_every_table_with_numbers() -> None:
    found = {match[2]: match[3] for match in MARKED.finditer(PAGE.read_text())}
    assert found.keys() == BLOCKS.keys()
    assert [name for name, content in found.items() if MISSING in content or "{" in content] == []
    assert "not measured" not in found["goals"]


def test_a_table_without_numbers_says_so() -> None:
    page = "a\n<!-- measured: bulk -->\nold\n<!-- end -->\nz"
    assert fill_page(page, {}) == f"a\n<!-- measured: bulk -->\n\n{MISSING}\n<!-- end -->\nz"
    assert "not measured" in goals_table({})


def test_a_marker_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown table: other"):
        fill_page("<!-- measured: other -->\n<!-- end -->", {})


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (0.5, "yes: 0.50 (at most 1.00)"),
        (1.0, "yes: 1.00 (at most 1.00)"),
        (1.5, "**no**: 1.50 (at most 1.00)"),
    ],
)
def test_a_goal_is_reached_up_to_its_limit(key: float, answer: str) -> None:
    goal = next(goal for goal in GOALS if "KiB for a key" in goal.text)
    assert goal.verdict({"keys": {"native": {"kib": key}}}, "native") == answer


def test_the_worst_result_decides() -> None:
    goal = next(goal for goal in GOALS if goal.text.startswith("bulk"))
    rows = {str(number): {"native": [{"cpu": 1000 / number}]} for number in (50_000, 39_000)}
    assert goal.verdict({"bulk": rows}, "native") == "**no**: 39,000 to 50,000 (at least 40,000)"
    assert goal.verdict({"bulk": rows}, "hypercorn") == ""


def test_picture_is_svg_with_a_bar_for_each_runtime_and_load() -> None:
    svg = ET.fromstring(draw(RESULTS))
    loads = len(RESULTS["requests"]) + len(RESULTS["connections"])
    legend_and_background = 3
    assert len(svg.findall("{http://www.w3.org/2000/svg}rect")) == 2 * loads + legend_and_background


def test_profile_counts_a_function_without_those_that_it_calls(tmp_path: Path) -> None:
    """The format of Callgrind: names have numbers, lines are absolute, relative or the same as before."""
    profile = tmp_path / "callgrind.out.1"
    profile.write_text(
        "events: Ir\n\nob=(1) /lib/a.so\nfn=(1) f\n10 5\n+2 7\ncob=(2) /lib/b.so\ncfn=(2) g\ncalls=1 3\n* 100\n-1 1\n"
        "\nob=(2)\nfn=(2)\n3 100\n\ntotals: 113\n"
    )
    assert by_library(profile) == {"/lib/a.so": 13, "/lib/b.so": 100}


def test_request_may_take_five_percent_more_instructions_than_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "BUDGETS", tmp_path / "budgets.json")
    budgets = {"native": {"generate h1": 1000, "decrypt h1": 1000}}
    instructions.BUDGETS.write_text(json.dumps({instructions.environment(): budgets}))
    assert instructions.exceeded({"native": {"generate h1": 1050, "decrypt h1": 900}}) == []
    (problem,) = instructions.exceeded({"native": {"generate h1": 1051, "decrypt h1": 1050}})
    assert problem.startswith("native generate h1: 1,051 instructions")
    assert capsys.readouterr().out == ""
    instructions.BUDGETS.write_text(json.dumps({"Python 2.7.18, x86_64": budgets}))
    assert instructions.exceeded({"native": {"generate h1": 2000}}) == []
    assert "nothing is checked" in capsys.readouterr().out


def test_every_measured_load_has_a_budget() -> None:
    loads = {*instructions.LOADS, *instructions.AUDITED}
    for budgets in json.loads(instructions.BUDGETS.read_text()).values():
        assert {name: budget.keys() for name, budget in budgets.items()} == {"native": loads, "hypercorn": loads}
