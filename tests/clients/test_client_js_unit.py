"""The browser client against a scripted broker: ``node --test`` of ``tests/js``.

Where there is no Node nothing of this file is collected, unless BROKER_TEST_ALL=1 makes
that an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

TESTS = Path(__file__).parents[1] / "js"
OLDEST_NODE = 18
"""The first that has fetch, web streams and a test runner of its own."""


def _find_node() -> str | None:
    node = shutil.which("node")
    if node is None:
        return None
    done = subprocess.run([node, "--version"], capture_output=True, text=True)
    major = done.stdout.strip().removeprefix("v").partition(".")[0]
    return node if major.isdigit() and int(major) >= OLDEST_NODE else None


NODE = _find_node()
if NODE is None and os.environ.get("BROKER_TEST_ALL") == "1":
    raise RuntimeError(f"BROKER_TEST_ALL=1, and there is no Node {OLDEST_NODE}")

__test__ = NODE is not None


def test_every_test_of_the_browser_client_passes() -> None:
    """States, promises and bounds of the client hold: one Node test each."""
    assert NODE is not None
    files = sorted(TESTS.glob("*.test.mjs"))
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", *files],
        capture_output=True,
        text=True,
        timeout=50,
        # Options of a developer's shell are not for this run.
        env=os.environ | {"NODE_OPTIONS": ""},
    )
    assert files
    assert done.returncode == 0, done.stdout + done.stderr
