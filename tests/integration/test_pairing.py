"""Two checkouts of the broker under load at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def loadtest(words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_checkout_is_measured_against_itself() -> None:
    """Both get everything; the table tells what each took."""
    words = "sessions --match 100 --scale 0.02 --rounds 1 --windows 2 --against "
    done = loadtest(words + str(ROOT))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "this / other" in done.stdout
    assert "BROKEN" not in done.stdout


def test_only_checkouts_are_measured_against_each_other() -> None:
    """Elsewhere the same broker would be found twice and be as fast as itself."""
    done = loadtest(f"sessions --against {ROOT / 'tests'}")
    assert done.returncode == 2
    assert "there is no broker in it" in done.stderr

    done = loadtest(f"sessions --out figures.json --against {ROOT}")
    assert done.returncode == 2
    assert "--out and --only do not go with --against" in done.stderr


def test_what_matches_nothing_is_refused() -> None:
    """Nothing measured is no success; the names that there are help."""
    done = loadtest("sessions --match nonsense")
    assert done.returncode == 2
    assert "no case contains 'nonsense'" in done.stderr
    assert "sessions: 500 x 2 sockets" in done.stderr

    done = loadtest(f"idle --against {ROOT}")
    assert done.returncode == 2
    assert "--against takes fanout and sessions" in done.stderr
