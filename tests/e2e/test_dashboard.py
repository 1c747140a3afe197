"""The example's dashboard, scrape configuration and alerts, with a real Prometheus and a real server."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import math
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from kes_core.cli.identity import write_certificate
from tests.helpers.certificates import make_credentials
from tests.helpers.observation import Reader
from tests.helpers.programs import free_port, program
from tests.helpers.prometheus import GoServer, Prometheus, Series
from tests.helpers.server import start_server
from tests.helpers.vectors import vectors
from tests.helpers.workers import workers_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "grafana"
DASHBOARD = json.loads((EXAMPLE / "kes.json").read_text())
ALERTS = yaml.safe_load((EXAMPLE / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS: list[Any] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
_ROWS = [(row["gridPos"]["y"], row["title"]) for row in DASHBOARD["panels"] if row["type"] == "row"]
_OURS_BEGIN = next(y for y, title in _ROWS if title.startswith("kes-core: "))
FOR_BOTH = [panel for panel in PANELS if panel["gridPos"]["y"] < _OURS_BEGIN]
AT_ONCE = {rule["alert"] for rule in ALERTS if "for" not in rule}
"""The alerts that fire at once, without `for`."""
GO_NAMES = {case["name"] for case in vectors("metrics")["cases"]}
MAY_BE_ZERO = {"Requests in progress", "Requests in progress by server", "Audit records lost"}
"""What is over by the time of a scrape, or does not happen."""
ABSENT = ("kes_keystore_credential_", "kes_frontend_")
"""How the metrics begin that a server without Vault and without front ends does not have."""
RATE_INTERVAL = "4s"
"""Grafana's value of $__rate_interval with one scrape a second."""
DAY = 86400.0


def names(expression: str) -> set[str]:
    """Return the metrics that an expression uses; a histogram counts once, under its base name."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bkes_\w+", expression)}


def expressions(panels: list[Any]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


class Site:
    """A server with two workers, its clients, and a Prometheus that scrapes it and a Go server."""

    def __init__(self, directory: Path, started: ExitStack) -> None:
        """Start everything; `started` stops it."""
        self.readers: list[Reader] = []
        self.directory = directory
        self.store = directory / "keys"
        self.user, self.stranger = (make_credentials(directory, name) for name in ("user", "stranger"))
        self.probe = f"127.0.0.1:{free_port()}"
        scraper = self._certificate("prometheus", days=3)
        self._certificate("server", days=10)
        self.server = start_server(
            directory,
            {
                "keystore": {"fs": {"path": str(self.store)}},
                "workers": 2,
                "keys": [{"name": "k"}, {"name": "doomed"}],
                "deletion": {"scheduled": "on", "interval": "1s"},
                "probe": {"address": self.probe},
                "policy": {
                    "users": {"allow": ["/v1/key/*"], "deny": ["/v1/key/delete/*"], "identities": [self.user.identity]},
                    "prometheus": {"allow": ["/v1/metrics"], "identities": [scraper]},
                },
            },
        )
        started.callback(self._stop)
        self.api = f"127.0.0.1:{self.server.port}"
        self.go = GoServer()
        started.callback(self.go.close)
        self.prometheus = Prometheus(self._configuration())
        started.callback(self.prometheus.close)
        self.begin = time.time()
        self._work()
        self.end = time.time()

    def _certificate(self, name: str, *, days: int) -> str:
        address, valid_for = ipaddress.ip_address("127.0.0.1"), dt.timedelta(days=days)
        key, cert = self.directory / f"{name}.key", self.directory / f"{name}.crt"
        return write_certificate(key, cert, subject=name, dns=[], ips=[address], valid_for=valid_for).identity

    def _configuration(self) -> Path:
        """Return the example's configuration with the addresses and files of the test, and one more target."""
        text = (EXAMPLE / "prometheus.yml").read_text()
        for old, new in (
            ("_interval: 15s", "_interval: 1s"),
            ('"127.0.0.1:7373"', f'"{self.api}"'),
            ('"127.0.0.1:7374"', f'"{self.probe}"'),
            ("/etc/prometheus/kes/kes-public.crt", f"{self.directory}/server.crt"),
            ("/etc/prometheus/kes/", f"{self.directory}/"),
        ):
            assert old in text
            text = text.replace(old, new)
        text += f'- job_name: kes-go\n  static_configs:\n  - targets: ["{self.go.instance}"]\n'
        path = self.directory / "prometheus.yml"
        path.write_text(text)
        (self.directory / "alerts.yml").write_text((EXAMPLE / "alerts.yml").read_text())
        return path

    def _work(self) -> None:
        """Do everything that has a counter, until Prometheus has seen every counter grow."""
        with self.server.client(self.user) as user:
            assert user.put("/v1/key/schedule-delete/doomed").status_code == 200
        for _ in self.prometheus.until("count(kes_worker_restarts_total == 0) == 2"):
            self._use()
        os.kill(workers_of(self.server)[0], signal.SIGKILL)
        for _ in self.prometheus.until("count(kes_workers == 2 and kes_worker_restarts_total == 1) == 2"):
            self._use()
        self.readers += [Reader(self.server, f"/v1/log/{log}", http2=False) for log in ("audit", "error")]
        alerts = [f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) == 2' for alert in AT_ONCE]
        read = [f"count(rate(kes_log_{log}_events[{RATE_INTERVAL}]) > 0) == 3" for log in ("audit", "error")]
        failed = "count(count by (instance) (count_over_time(kes_http_request_failure[1m]) >= 4)) == 3"
        doomed = "count(kes_keys_scheduled_for_deletion == 1) == 2"
        keys = "count(count by (instance) (kes_key_newest_version_timestamp_seconds)) == 2"
        for _ in self.prometheus.until(failed, doomed, keys, *read, *alerts):
            self._use()
            self._fail()

    def _use(self) -> None:
        with self.server.client(self.user, http2=False) as user:
            for _ in range(3):
                user.put("/v1/key/generate/k")
            assert user.get("/v1/key/describe/nothing").status_code == 404
            assert user.delete("/v1/key/delete/k").status_code == 403
            user.get("/v1/key/list/")
        with self.server.client(self.stranger, http2=False) as stranger:
            for _ in range(10):
                assert stranger.put("/v1/key/generate/k").status_code == 403
        with socket.create_connection((self.server.host, self.server.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(1000):
                pass  # until the server hangs up

    def _fail(self) -> None:
        """Make the key store fail. Only while no worker starts: it would create the directory again."""
        away = self.directory / "away"
        self.store.rename(away)
        try:
            with self.server.client(self.user, http2=False) as user:
                assert user.put("/v1/key/create/new").status_code == 502
        finally:
            away.rename(self.store)

    def _stop(self) -> None:
        assert self.server.stop() == 0
        for reader in self.readers:
            reader.close()

    def variable(self, name: str) -> set[str]:
        """Return the values that Grafana offers for a variable of the dashboard, with all jobs selected."""
        (variable,) = (entry for entry in DASHBOARD["templating"]["list"] if entry["name"] == name)
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        selector = found[1].replace("$job", ".+")
        return set(self.prometheus.get(f"/label/{found[2]}/values", **{"match[]": selector}))

    def series(self, target: Any, instance: str = "") -> list[Series]:
        """Return the result of a query as Grafana makes it, for all instances or for one."""
        values = {
            "$__rate_interval": RATE_INTERVAL,
            "$job": ".+",
            "$instance": re.escape(instance).replace("\\", r"\\") or ".+",
        }
        expression = target["expr"]
        for name, value in values.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        if target["instant"]:
            return self.prometheus.at(expression, self.end)
        return self.prometheus.over(expression, self.begin, self.end)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as started:
        yield Site(tmp_path_factory.mktemp("dashboard"), started)


def numbers(series: list[Series]) -> list[float]:
    """Return all values but NaN: while there are no requests, quantiles and ratios are undefined."""
    found = [float(value) for one in series for _, value in one["values"]]
    return [value for value in found if not math.isnan(value)]


def check_panel(site: Site, panel: Any, instance: str = "") -> None:
    """Check that each query of a panel returns values, with the labels that its legend names."""
    for target in panel["targets"]:
        found = site.series(target, instance)
        shown = numbers(found)
        assert shown, (target["expr"], found)
        assert all(math.isfinite(value) and value >= 0 for value in shown)
        if panel["title"] not in MAY_BE_ZERO:
            assert max(shown) > 0, target["expr"]
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert all(label in one["metric"] for one in found), (target["expr"], label)


@pytest.mark.parametrize(
    "panel",
    [panel for panel in PANELS if not any(name in panel["targets"][0]["expr"] for name in ABSENT)],
    ids=lambda panel: panel["title"],
)
def test_every_panel_has_something_to_show(site: Site, panel: Any) -> None:
    """Every panel has values for all servers together, and for one server alone in each way to scrape it."""
    for instance in ("", site.api, site.probe):
        check_panel(site, panel, instance)


@pytest.mark.parametrize("panel", FOR_BOTH, ids=lambda panel: panel["title"])
def test_first_rows_have_something_to_show_of_a_go_server(site: Site, panel: Any) -> None:
    check_panel(site, panel, site.go.instance)
    for expression in expressions([panel]):
        assert names(expression) <= GO_NAMES
        assert names(expression) or re.findall(r"\w+(?=\{)", expression) == ["up"]  # Prometheus's own


def test_variables_offer_what_is_scraped(site: Site) -> None:
    assert site.variable("job") == {"kes", "kes-probe", "kes-go"}
    assert site.variable("instance") == {site.api, site.probe, site.go.instance}


def test_numbers_are_right(site: Site) -> None:
    """The panels show the numbers that are known in advance."""

    def last(title: str, instance: str) -> list[float]:
        (panel,) = (panel for panel in PANELS if panel["title"] == title)
        return [numbers([one])[-1] for target in panel["targets"] for one in site.series(target, instance)]

    for instance in (site.api, site.probe):
        assert last("Servers up", instance) == [1, 1]
        (ratio,) = last("Cache hit ratio", instance)
        assert 0.1 < ratio < 0.9
        # In each round, one of the six allowed requests fails.
        (failed,) = last("Failed requests", instance)
        assert 0.05 < failed < 0.3
        assert last("Server certificate expires in", instance) == [pytest.approx(10 * DAY, abs=300)]
        assert last("Client certificates that expire within 14 days", instance) == [pytest.approx(3 * DAY, abs=300)]
        assert last("Workers", instance) == [2]
    assert last("Servers up", "") == [3, 3]


def test_worker_that_dies_makes_no_counter_fall(site: Site) -> None:
    """Prometheus takes a falling counter for a reset, so the whole count would show as a spike."""
    series = site.prometheus.get("/series", **{"match[]": '{job=~"kes|kes-probe"}'})
    kept = re.compile(r"kes_.+_(total|bucket|count|sum|success|error|failure|events)")
    counters = {one["__name__"] for one in series if kept.fullmatch(one["__name__"])}
    assert len(counters) > 10
    for counter in counters:
        assert site.prometheus.at(f'resets({counter}{{job=~"kes|kes-probe"}}[1m]) > 0') == [], counter


def test_names_are_those_that_the_server_has(site: Site) -> None:
    text = httpx.get(f"http://{site.probe}/metrics", trust_env=False).text
    exposed = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    shown = {name for expression in expressions(PANELS) for name in names(expression)}
    alerted = {name for rule in ALERTS for name in names(rule["expr"])}
    assert {name for name in shown if not name.startswith(ABSENT)} == exposed
    assert {name for name in alerted if not name.startswith(ABSENT)} <= exposed
    assert {name for expression in expressions(FOR_BOTH) for name in names(expression)} == GO_NAMES


def test_alerts_fire(site: Site) -> None:
    """The alerts without a waiting time fire; the example's own tests cover the others."""
    (group,) = site.prometheus.get("/rules")["groups"]
    assert all(rule["health"] == "ok" and not rule.get("lastError") for rule in group["rules"])
    fired = site.prometheus.at('ALERTS{alertstate="firing"}')
    found = {(alert["metric"]["alertname"], alert["metric"]["job"]) for alert in fired}
    assert found == {(alert, job) for alert in AT_ONCE for job in ("kes", "kes-probe")}


def promtool(*arguments: str | Path) -> None:
    command = [program("promtool", "prometheus"), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_promtool_accepts_the_examples(site: Site) -> None:
    promtool("check", "rules", EXAMPLE / "alerts.yml")
    promtool("check", "config", "--syntax-only", EXAMPLE / "prometheus.yml")
    promtool("check", "config", site.directory / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", EXAMPLE / "alerts_test.yml")
    tests = (EXAMPLE / "alerts_test.yml").read_text()
    for rule in ALERTS:
        assert rule["alert"] in tests
        assert set(rule["annotations"]) == {"summary", "description"}


def test_grafana_can_import_the_dashboard() -> None:
    """Each panel has the fields that Grafana needs, and a place of its own."""
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["id"] is None
    assert DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["datasource"] == source
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert target["instant"] != target["range"]
            selectors = re.findall(r"\b(?:up|kes_\w+)\{(.*?)\}", target["expr"])
            assert set(selectors) == {'job=~"$job", instance=~"$instance"'}
