"""What some tests need besides Python 3.11, and what of it is not there.

With ``BROKER_TEST_ALL=1`` whatever is missing is an error, except for Python 3.12.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.harness.programs import missing_for_deploy

CLIENTS = Path(__file__).parents[1] / "clients"
CHROMIUM = Path(os.environ.get("BROKER_TEST_CHROMIUM", "/usr/bin/chromium"))
IS_ALL_WANTED = os.environ.get("BROKER_TEST_ALL") == "1"
_CHECK = "import ensurepip, sys; sys.exit(sys.version_info < (3, 12))"


def missing_for_browser() -> list[str]:
    """What the tests in a real browser lack."""
    found = {
        "playwright": importlib.util.find_spec("playwright") is not None,
        str(CHROMIUM): CHROMIUM.exists(),
    }
    return [name for name, is_there in found.items() if not is_there]


def missing_for_node() -> list[str]:
    """What the clients in JavaScript lack."""
    found = {
        "node": shutil.which("node") is not None,
        "tests/clients/node_modules": (CLIENTS / "node_modules").is_dir(),
    }
    return [name for name, is_there in found.items() if not is_there]


@cache
def newer_python() -> str | None:
    """A Python of 3.12 or newer, for a client that needs one."""
    pyenv = Path.home() / ".pyenv" / "versions"
    there = [shutil.which(name) for name in ("python3.12", "python3.13")]
    there += [str(path) for path in sorted(pyenv.glob("3.1[23]*/bin/python"))]
    for path in filter(None, there):
        # A shim may be there without what it stands for.
        check = subprocess.run([path, "-c", _CHECK], capture_output=True, check=False)
        if check.returncode == 0:
            return path
    return None


def left_out() -> list[str]:
    """A line for each group of tests that is not collected, and why."""
    lines = []
    if lacks := missing_for_browser():
        lines.append(f"left out: tests/browser, for want of {' and '.join(lacks)}")
    if lacks := missing_for_node():
        lines.append(
            f"left out: clients in JavaScript, for want of {' and '.join(lacks)}"
        )
    for file, lacks in missing_for_deploy().items():
        wanted = " and ".join(lacks)
        lines.append(f"left out: tests/deploy/{file}, for want of {wanted}")
    if newer_python() is None:
        lines.append("left out: openhands-sdk, for want of Python 3.12")
    return lines
