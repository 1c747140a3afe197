"""The server finds the policy engine."""

from kes_core.plugins import load_plugins


def test_policy_engine_is_found() -> None:
    plugins = load_plugins()
    assert [info.error for info in plugins.infos if info.distribution == "kes-office-hours"] == [None]
    assert "office-hours" in plugins.engines
