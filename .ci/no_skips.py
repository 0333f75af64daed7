"""Fail if a JUnit report shows a skipped test, or none at all.

Usage: no_skips.py REPORT
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree

suites = list(ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"))  # noqa: S314
ran = sum(int(suite.get("tests", 0)) for suite in suites)
skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
print(f"{ran} tests, {skipped} skipped")
sys.exit("tests were skipped" if skipped else None if ran else "no test ran")
