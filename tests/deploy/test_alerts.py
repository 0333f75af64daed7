"""The rules of Prometheus: valid, tried, and explained to whom they wake."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.cli import main
from broker.config import Settings
from tests.harness.panels import exported_names, metric_names
from tests.harness.programs import program
from tests.harness.prometheus import DEPLOYED, compared

RUNBOOK = DEPLOYED.parent / "OPERATIONS.md"
RULES = sorted((DEPLOYED / "rules").glob("*.yaml"))
UNIT_TESTS = sorted((DEPLOYED / "tests").glob("*.yaml"))


def rules() -> list[dict[str, Any]]:
    """All rules of all files."""
    groups = [g for file in RULES for g in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


BY_NAME = {rule.get("alert") or rule["record"]: rule for rule in rules()}
ALERTS = {name: rule for name, rule in BY_NAME.items() if "alert" in rule}
EACH = pytest.mark.parametrize("name", ALERTS)


def promtool(*arguments: str | Path) -> str:
    """Run it in the folder of the rules; what it says. It must succeed."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=DEPLOYED,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sections() -> dict[str, str]:
    """The third-level sections of the runbook by heading."""
    parts = re.split(r"^### (.+)\n", RUNBOOK.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def anchors() -> set[str]:
    """What links within the runbook may name, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def commands(section: str) -> list[str]:
    """The indented lines of a section that are no comments."""
    lines = [line.strip() for line in section.split("\n") if line.startswith("    ")]
    return [line for line in lines if not line.startswith("#")]


def unit_tests() -> dict[str, list[dict[str, Any]]]:
    """What is expected of each alert, in the order of time."""
    files = [yaml.safe_load(file.read_text()) for file in UNIT_TESTS]
    return {one["name"]: one["promql_expr_test"] for f in files for one in f["tests"]}


def test_promtool_takes_the_rules() -> None:
    """Syntax, labels and templates."""
    said = promtool("check", "rules", *RULES)

    assert said.count("SUCCESS") == len(RULES)


def test_promtool_takes_the_configuration() -> None:
    """With the rule files that it names."""
    said = promtool("check", "config", "prometheus.yml")

    assert f"SUCCESS: {len(RULES)} rule files found" in said


@pytest.mark.parametrize("file", UNIT_TESTS, ids=[file.stem for file in UNIT_TESTS])
def test_alerts_fire_and_resolve(file: Path) -> None:
    """On numbers that get bad and good again."""
    assert "SUCCESS" in promtool("test", "rules", file)


@EACH
def test_an_alert_is_tried(name: str) -> None:
    """It is quiet while all is well, fires, and is quiet again."""
    query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    quiet, fires, resolved = unit_tests()[name]

    assert {quiet["expr"], fires["expr"], resolved["expr"]} == {query}
    assert (quiet["exp_samples"], resolved["exp_samples"]) == ([], [])
    assert [sample["value"] for sample in fires["exp_samples"]] == [1]
    assert int(fires["eval_time"][:-1]) < int(resolved["eval_time"][:-1])


@EACH
def test_an_alert_says_what_to_do(name: str) -> None:
    """Who is woken is told what it is about and where to read on."""
    rule = ALERTS[name]

    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"deploy/OPERATIONS.md#{name.lower()}"


@EACH
def test_an_alert_is_in_the_runbook(name: str) -> None:
    """Symptom, meaning, three commands, and how it ends."""
    section = sections()[name]
    severity = ALERTS[name]["labels"]["severity"]
    first = {"page": "Wakes somebody.", "ticket": "Can wait for the morning."}

    assert section.strip().startswith(first[severity])
    assert "**Symptom:**" in section
    assert "**Meaning:**" in section
    assert "**How it ends:**" in section
    assert len(commands(section)) == 3


def test_the_runbook_knows_no_other_alert() -> None:
    """A section without an alert would be of one that is gone."""
    assert sections().keys() == ALERTS.keys()


def test_links_within_the_runbook_lead_somewhere() -> None:
    """Each anchor is a heading."""
    links = re.findall(r"\]\(#([^)]+)\)", RUNBOOK.read_text("utf-8"))

    assert len(links) > 5
    assert set(links) <= anchors()


def test_commands_of_the_runbook_exist() -> None:
    """Verbs of the broker, and settings."""
    text = RUNBOOK.read_text("utf-8")
    called = re.findall(r"^    (?:.*-- )?broker ([a-z]+)", text, re.MULTILINE)
    settings = {f"BROKER_{name.upper()}" for name in Settings.model_fields}

    assert set(called) <= main.commands.keys()
    assert set(re.findall(r"BROKER_[A-Z_]+", text)) <= settings


def test_what_the_runbook_looks_for_is_in_a_scrape() -> None:
    """Each word that it greps for is part of a metric's name."""
    text = RUNBOOK.read_text("utf-8")
    patterns = re.findall(r"/metrics \| grep (?:-E )?'?([^'\n]+)'?", text)
    found = [any(re.search(one, name) for name in exported_names()) for one in patterns]

    assert len(patterns) > 10
    assert all(found)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_rule_names_metrics_that_exist(name: str) -> None:
    """The table of metrics, or another rule, knows every name."""
    expr = BY_NAME[name]["expr"]
    recorded = set(re.findall(r"\b\w+:broker_\w+:\w+", expr))

    assert metric_names(expr) <= exported_names().keys()
    assert recorded <= BY_NAME.keys()


def test_what_is_compared_is_found() -> None:
    """The rest of the tests of expressions stands on it."""
    assert compared("a > 1") == ["a"]
    assert compared('sum by (x) (\n  a{b=~"c > 1"}[5m]\n) >= 0.5') == [
        'sum by (x) ( a{b=~"c > 1"}[5m] )'
    ]
    assert compared("a < 1 and on (x) b == 1") == ["a", "b"]
    assert compared('absent(up{job="b"}) == 1') == ['up{job="b"}']
