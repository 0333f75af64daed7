"""The system packages that tests/deploy needs, and which of them are not there.

They are those of ``.ci/run``. Debian puts some into ``/usr/sbin``, which is not on the
PATH of every user.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))

NEEDS: Mapping[str, tuple[str, ...]] = {
    "test_alerts.py": ("prometheus", "promtool"),
    "test_dashboards.py": ("prometheus", "promtool"),
    "test_haproxy.py": ("haproxy",),
    "test_manifests.py": ("kubectl", "promtool"),
    "test_nginx.py": ("nginx",),
    "test_redis_tls.py": ("redis-server",),
    "test_roll.py": ("haproxy",),
}
"""What each file of tests/deploy runs; a file that is not here needs nothing."""


def find_program(name: str) -> str | None:
    """Where the program *name* is, or None."""
    return shutil.which(name, path=_PATH)


def program(name: str) -> str:
    """Where the program *name* is.

    Raises:
        AssertionError: It is not on this machine, and ``NEEDS`` does not say so.
    """
    found = find_program(name)
    assert found is not None, f"{name} is not on this machine"
    return found


def missing_programs(names: Iterable[str]) -> list[str]:
    """Those of *names* that are not on this machine."""
    return [name for name in names if find_program(name) is None]


def missing_for_deploy() -> dict[str, list[str]]:
    """The files of tests/deploy that cannot run here, and what each lacks."""
    lacks = {file: missing_programs(names) for file, names in NEEDS.items()}
    return {file: names for file, names in lacks.items() if names}
