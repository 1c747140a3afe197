"""Times and durations for machines and for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.units import format_date, format_latency, format_time, format_uptime, humanize, parse_time


@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 # for hypothesis
def test_time_is_read_back(time: datetime) -> None:
    assert parse_time(format_time(time)) == time


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (datetime(2026, 3, 1, 14, tzinfo=UTC), "2026-03-01T14:00:00Z"),
        (datetime(2026, 3, 1, 14, 0, 0, 250000, tzinfo=UTC), "2026-03-01T14:00:00.25Z"),
        (datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))), "2026-03-01T12:00:00Z"),
    ],
)
def test_time_is_rfc_3339_in_utc(time: datetime, text: str) -> None:
    assert format_time(time) == text


def test_nanoseconds_are_cut_off() -> None:
    assert parse_time("2026-03-01T14:00:00.123456789Z").microsecond == 123456


def test_date_for_messages_is_in_utc() -> None:
    assert format_date(datetime(2026, 3, 1, 14, 5, tzinfo=timezone(timedelta(hours=2)))) == "2026-03-01 12:05 UTC"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (119, "1 minute"),
        (7200, "2 hours"),
        (86400 * 13.9, "13 days"),
        (86400 * 800, "2 years"),
    ],
)
def test_duration_in_its_largest_unit(seconds: float, text: str) -> None:
    assert humanize(timedelta(seconds=seconds)) == text


def test_uptime_and_latency() -> None:
    assert format_uptime(timedelta(seconds=3 * 3600 + 65)) == "3h 1m 5s"
    assert format_uptime(timedelta(days=2, seconds=1)) == "2d 0h 0m 1s"
    assert format_uptime(timedelta(seconds=125)) == "2m 5s"
    assert format_uptime(timedelta(seconds=8)) == "8s"
    assert format_uptime(timedelta()) == "0s"
    latencies = [format_latency(timedelta(seconds=seconds)) for seconds in (0.00013, 0.0025, 1.2)]
    assert latencies == ["130 µs", "2.5 ms", "1.20 s"]
