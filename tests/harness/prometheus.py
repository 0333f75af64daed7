"""A real Prometheus with the configuration and the rules of ``deploy/prometheus``."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.harness.client import Address
from tests.harness.programs import program

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
SCRAPE = "1s"
_START_S = 30.0
_SCRAPES = "min(count_over_time(up[1h]))"


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer: its labels and its points (time, value)."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def value(self) -> float:
        """The last value."""
        return self.points[-1][1]


def configuration(targets: Sequence[Address]) -> dict[str, Any]:
    """The deployed configuration, but quick and with other targets."""
    found: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    found["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    found["rule_files"] = [str(DEPLOYED / path) for path in found["rule_files"]]
    (job,) = found["scrape_configs"]
    (static,) = job["static_configs"]
    static["targets"] = [f"{host}:{port}" for host, port in targets]
    return found


class Prometheus:
    """One server, which scrapes every second; a context manager."""

    def __init__(self, directory: Path, targets: Sequence[Address]) -> None:
        self._url = ""
        self._log = directory / "prometheus.log"
        config = directory / "prometheus.yml"
        config.write_text(yaml.safe_dump(configuration(targets)))
        self._command = [
            program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def query(self, expr: str) -> list[Sample]:
        """What *expr* is now."""
        found = self._ask("query", query=expr)["result"]
        return [Sample(one["metric"], [_point(one["value"])]) for one in found]

    def query_range(self, expr: str, seconds: float) -> list[Sample]:
        """What *expr* was in the last *seconds*, once per second."""
        (now,) = self.query("vector(time())")
        end = now.points[0][0]
        found = self._ask(
            "query_range", query=expr, start=end - seconds, end=end, step=1
        )["result"]
        return [
            Sample(one["metric"], [_point(point) for point in one["values"]])
            for one in found
        ]

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their state, as Prometheus tells it."""
        groups = self._ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def wait_for(self, expr: str, timeout_s: float = 60.0) -> None:
        """Wait until *expr* has a result: conditions in PromQL filter.

        Raises:
            TimeoutError: It has none in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.query(expr):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {expr} in {timeout_s} s")
            time.sleep(0.2)

    def wait_scrapes(self, count: int) -> None:
        """Wait until every target was scraped so many times more."""
        wanted = self.scrapes() + count
        self.wait_for(f"{_SCRAPES} >= {wanted}", 60.0 + 5 * count)

    def scrapes(self) -> int:
        """How often every target was scraped: also the seconds since the first time."""
        found = self.query(_SCRAPES)
        return int(found[0].value) if found else 0

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self._log.read_text())
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        """Whether it serves; where, it has chosen itself and logged."""
        listens = re.search(r'"Listening on" address=(\S+)', self._log.read_text())
        if listens is None:
            return False
        self._url = f"http://{listens[1]}"
        try:
            with urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except (URLError, OSError):
            return False

    def _ask(self, what: str, **query: str | float) -> Any:
        with urlopen(f"{self._url}/api/v1/{what}?{urlencode(query)}", timeout=30) as a:
            return json.load(a)["data"]


def compared(expr: str) -> list[str]:
    """What the comparisons of an alert's expression compare: it must exist.

    ``a > 1 and b == 2`` gives a and b. What must be absent gives itself.
    """
    parts = re.split(r"\s+(?:and|unless)\b(?:\s+on\s*\([^)]*\))?", _flat(expr))
    found = []
    for part in parts:
        sides = _OUTER_COMPARISON.match(part.strip())
        assert sides is not None, f"no comparison with a number at the end: {part}"
        vector = sides["vector"].strip()
        absent = re.fullmatch(r"absent\((.*)\)", vector)
        found.append(absent[1] if absent else vector)
    return found


_OUTER_COMPARISON = re.compile(r"(?P<vector>.*?)\s(?:>|<|==|!=|>=|<=)\s[\d.]+\Z")


def _flat(expr: str) -> str:
    return " ".join(expr.split())


def _point(pair: tuple[float, str]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
