"""A rolling update of three pods behind HAProxy: the load test of it, but smaller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

SCALE = 0.1
"""Of 3 000 clients and 2 000 events per second."""
SECONDS_MAX = 240


@pytest.mark.timeout(SECONDS_MAX + 30)
def test_rolling_update_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Each client is told to go, comes back to another pod and resumes there.

    How far behind anybody was depends on the machine as well: the load test at its full
    size, alone on a machine, says whether it stayed below 2 s.
    """
    run = roll(tmp_path / "roll.json")
    figures = run["figures"]

    assert figures["lost"] == 0
    assert figures["doubled"] == 0
    assert figures["cut"] == 0
    assert figures["complete"] == 1
    assert figures["returns"] >= 300
    assert not [what for what in run["wrong"] if "told" in what or "resumed" in what]


def roll(out: Path) -> dict[str, Any]:
    """Run the load test; its figures, and the promises that were broken."""
    words = ["roll", "--quick", "--scale", str(SCALE), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest", *words],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said, _ = process.communicate(timeout=SECONDS_MAX)
    finally:
        # It ends what it has started, which a kill would leave behind.
        process.terminate()
        process.communicate()
    (case,) = orjson.loads(out.read_bytes())["cases"]
    assert not case["failures"], said.decode()
    runs: list[dict[str, Any]] = case["runs"]["broker"]
    return runs[0]
