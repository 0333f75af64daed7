"""Tests of ``deploy/`` with the programs it is made for, as Debian packages them.

A file whose programs are not on this machine is not collected, which the first lines of
the output say; with ``BROKER_TEST_ALL=1`` that is an error. ``programs.NEEDS`` lists
what each file runs: add a line there for a new one.
"""

from __future__ import annotations

import pytest

from tests.harness.programs import missing_for_deploy
from tests.harness.tools import IS_ALL_WANTED

MISSING = missing_for_deploy()

if MISSING and IS_ALL_WANTED:
    names = sorted({name for lacks in MISSING.values() for name in lacks})
    raise pytest.UsageError(f"tests/deploy needs {' and '.join(names)}: see .ci/run")
collect_ignore = sorted(MISSING)
