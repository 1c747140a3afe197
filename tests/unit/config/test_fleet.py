"""The configuration of a large fleet."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "admin: {identity: disabled}\ntls: {key: /k, cert: /c}\nkeystore: {memory: }\npolicy:\n"
CHECK = r"""
import re, sys, time
from pathlib import Path
from kes_core.config import load
started = time.process_time()
config = load(Path(sys.argv[1])).config
seconds = time.process_time() - started
print(len(config.policy), sum(len(policy.identities) for policy in config.policy.values()))
print(seconds, re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def fleet(policies: int, identities: int) -> str:
    lines = [HEAD]
    for policy in range(policies):
        rules = "".join(f"    - /v1/key/{verb}/app-{policy}-*\n" for verb in ("generate", "decrypt", "encrypt"))
        lines.append(f"  policy-{policy}:\n    allow:\n{rules}    identities:\n")
        lines += (
            f"    - {hashlib.sha256(str(number).encode()).hexdigest()}\n"
            for number in range(policy, identities, policies)
        )
    return "".join(lines)


@pytest.mark.slow
def test_fleet_loads_in_linear_time_and_bounded_memory(tmp_path: Path) -> None:
    """10,000 policies with 100,000 identities make a file of 8 MiB."""
    seconds: list[float] = []
    for policies, identities in ((1_000, 10_000), (10_000, 100_000)):
        path = tmp_path / f"{policies}.yml"
        path.write_text(fleet(policies, identities))
        done = subprocess.run([sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True, check=True)
        counts, costs = done.stdout.splitlines()
        assert counts.split() == [str(policies), str(identities)]
        seconds.append(float(costs.split()[0]))
        assert int(costs.split()[1]) < 256 * 1024  # KiB
    assert seconds[1] < 30 * seconds[0] + 1
