"""What a look has found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["ok", "warn", "fail"]
ORDER: Final[tuple[Verdict, ...]] = ("ok", "warn", "fail")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check.

    Attributes:
        check: Its name, such as ``eviction``.
        verdict: ``fail``: does not work, or loses data; ``warn``: will hurt one day.
        text: What was found and why it matters, in a sentence.
        advice: What to do about it; empty if nothing.
        server: Which server of Redis it is about; empty for all else.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""
    server: str = ""


def ok(check: str, text: str) -> Finding:
    """Nothing has to be done."""
    return Finding(check=check, verdict="ok", text=text)


def warn(check: str, text: str, advice: str) -> Finding:
    """It works, and will hurt one day."""
    return Finding(check=check, verdict="warn", text=text, advice=advice)


def fail(check: str, text: str, advice: str) -> Finding:
    """It does not work, or loses data."""
    return Finding(check=check, verdict="fail", text=text, advice=advice)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict; ``ok`` if there is none."""
    return max((one.verdict for one in findings), key=ORDER.index, default="ok")
