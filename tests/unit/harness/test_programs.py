"""Which system packages tests/deploy needs, and who notices that one is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.harness.programs import NEEDS, missing_programs

ROOT = Path(__file__).parents[3]


def collect(**env: str) -> subprocess.CompletedProcess[str]:
    """What pytest finds in tests/deploy on a machine without any of the programs."""
    kept = {name: it for name, it in os.environ.items() if name != "BROKER_TEST_ALL"}
    code = (
        "import sys, pytest, tests.harness.programs as programs;"
        "programs._PATH = '/nowhere';"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    what = ["tests/deploy", "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-c", code, *what],
        cwd=ROOT,
        env=kept | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_program_that_is_not_there_is_named():
    """Only that one."""
    assert missing_programs(["sh", "no-such-program"]) == ["no-such-program"]


def test_ci_installs_every_program_that_is_needed():
    """Nothing would be left out there, or fail for want of a package."""
    script = (ROOT / ".ci" / "run").read_text()
    needed = {name for names in NEEDS.values() for name in names}
    # promtool comes with the package of prometheus.
    looked_for = {name for name in needed if f"command -v {name} " in script}

    assert needed - looked_for == {"promtool"}


def test_files_without_their_program_are_left_out():
    """They are not collected, and nothing fails."""
    done = collect()

    assert "test_manifests.py" not in done.stdout
    assert "ERROR" not in done.stdout


def test_a_missing_program_is_an_error_where_all_is_wanted():
    """It says which."""
    done = collect(BROKER_TEST_ALL="1")

    assert done.returncode == 4
    assert "tests/deploy needs haproxy and kubectl and nginx" in done.stderr
