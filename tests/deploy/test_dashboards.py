"""The dashboards, asked by a real Prometheus about two brokers in turmoil.

``BROKER_TEST_PANELS`` names a directory: what every query returned is written there,
as ``panels.txt`` for people and, with the past, as ``panels.json`` for
``grafana.plots``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from broker.metrics.catalog import CATALOG, PROTOCOLS
from grafana.boards import ALL
from grafana.build import text_of
from grafana.panel import Dashboard
from tests.harness import panels as p
from tests.harness.prometheus import Prometheus, compared
from tests.harness.redis_server import new_server
from tests.harness.servers import BrokerServer
from tests.harness.turmoil import EXPECTED, GUARDED, OPEN, Turmoil

DASHBOARDS = p.read_dashboards()
ONE_BY_ONE = pytest.mark.parametrize("name", DASHBOARDS)
WANTED = os.environ.get("BROKER_TEST_PANELS")
BEFORE_AND_AFTER, BETWEEN = (15, 3) if WANTED else (5, 0)
"""Scrapes to wait for: more where pictures shall be made of them."""

NOT_SHOWN: dict[str, str] = {}
"""Metrics that no panel shows, and why not."""

PROVOKED = [
    ("Broker: overview", "Lost for everybody", "trimmed unread"),
    ("Broker: overview", "Lost for everybody", "streams begun anew"),
    ("Broker: overview", "Lost for some", "{{reason}}"),
    ("Broker: overview", "Lost for some", "gaps of unknown size"),
    ("Broker: overview", "Left out as asked", "{{reason}}"),
    ("Broker: overview", "Entries skipped", "{{reason}}"),
    ("Broker: overview", "Clients refused", "{{reason}}"),
    ("Broker: overview", "Commands not stored", "{{result}}"),
    ("Broker: overview", "Events", "delivered"),
    ("Broker: overview", "Entries behind", "furthest behind"),
    ("Broker: sessions and evictions", "Sessions open", "Sessions open"),
    ("Broker: sessions and evictions", "Sessions ended", "{{reason}}"),
    ("Broker: sessions and evictions", "Lease renewals", "{{result}}"),
    ("Broker: sessions and evictions", "Tokens refused", "{{reason}}"),
    ("Broker: clients", "Closed", "{{code}}"),
    ("Broker: clients", "Errors told to clients", "{{code}}"),
    ("Broker: clients", "Bytes behind", "{{pod}}"),
    ("Broker: clients", "Subscriptions behind", "more than {{entries_over}}"),
    ("Broker: clients", "Where replays come from", "from {{source}}"),
    ("Broker: clients", "Where replays come from", "pages read in Redis"),
    ("Broker: Redis and reader", "Connected again", "{{role}}"),
    ("Broker: Redis and reader", "Reads that failed", "{{kind}}"),
    ("Broker: one pod", "Processes started again", "{{role}} started again"),
    ("Broker: one pod", "Memory", "{{process}}"),
    ("Broker: one pod", "Descriptors", "{{process}}"),
]
"""Lines that cannot be zero after what was done to the brokers."""


SEEN = (
    "count(rate(broker_probe_seconds_count[1m]) > 0) == 2",
    'sum(rate(broker_lease_renewals_total{result="renewed"}[1m])) > 0',
    "sum(broker_queue_depth_bytes) > 0",
    "sum(broker_sessions_open) > 0",
    'ALERTS{alertname="BrokerEventsLost",alertstate="firing"}',
    'ALERTS{alertname="BrokerStreamsReset",alertstate="firing"}',
)
"""What takes a moment until Prometheus can know of it."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What Prometheus said while everything was there to be seen."""

    answers: list[p.Answer]
    rules: list[dict[str, Any]]
    empty: list[str]
    choices: dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Findings]:
    """Two brokers in turmoil, and every query asked before they are calm again."""
    make = tmp_path_factory.mktemp
    with ExitStack() as ends:
        redis = ends.enter_context(new_server(make("redis")))
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        ends.enter_context(runner)
        first = BrokerServer(redis.url, make("broker"), OPEN)
        second = BrokerServer(redis.url, make("broker"), GUARDED)
        turmoil = runner.run(_begin(redis.url, first, second))
        for broker in (first, second):
            broker.allowed.append(EXPECTED)
            ends.callback(broker.start().stop)
        ends.callback(lambda: runner.run(turmoil.close()))
        targets = [first.admin, second.admin]
        server = ends.enter_context(Prometheus(make("prometheus"), targets))
        yield runner.run(_look(turmoil, server))


async def _begin(url: str, first: BrokerServer, second: BrokerServer) -> Turmoil:
    turmoil = Turmoil(url, first, second)
    await turmoil.prepare()
    return turmoil


async def _look(turmoil: Turmoil, server: Prometheus) -> Findings:
    wait = asyncio.to_thread
    await wait(server.wait_for, 'count(up{job="broker"} == 1) == 2')
    async with turmoil.load():
        await wait(server.wait_scrapes, BEFORE_AND_AFTER)
        for trouble in turmoil.troubles:
            await trouble()
            await wait(server.wait_scrapes, BETWEEN)
        for condition in SEEN:
            await wait(server.wait_for, condition)
        await wait(server.wait_scrapes, BEFORE_AND_AFTER)
        return await wait(_ask, server)


def _ask(server: Prometheus) -> Findings:
    history_s = server.scrapes() if WANTED else 0
    answers = [
        answer
        for board in DASHBOARDS.values()
        for answer in p.ask(server, board, "127.0.0.1", history_s)
    ]
    rules = server.rules()
    asked = [one for rule in rules for one in _vectors(rule)]
    empty = [expr for expr in asked if not server.query(expr)]
    choices = {
        name: p.choices(server, board, "127.0.0.1")
        for name, board in DASHBOARDS.items()
    }
    if WANTED:
        Path(WANTED).mkdir(parents=True, exist_ok=True)
        Path(WANTED, "panels.txt").write_text(p.report(answers), "utf-8")
        text = json.dumps([asdict(answer) for answer in answers])
        Path(WANTED, "panels.json").write_text(text, "utf-8")
    return Findings(answers, rules, empty, choices)


def _vectors(rule: dict[str, Any]) -> list[str]:
    return [rule["name"]] if rule["type"] == "recording" else compared(rule["query"])


@pytest.mark.parametrize("board", ALL, ids=[board.name for board in ALL])
def test_a_file_is_what_its_source_says(board: Dashboard) -> None:
    """Otherwise: python -m grafana.build."""
    file = p.GRAFANA / "dashboards" / f"{board.name}.json"

    assert file.read_text("utf-8") == text_of(board)


def test_there_is_no_other_file() -> None:
    """Addresses of dashboards are in runbooks and bookmarks."""
    assert {name: board["uid"] for name, board in DASHBOARDS.items()} == {
        "overview": "broker-overview",
        "fanout": "broker-fanout",
        "sessions": "broker-sessions",
        "clients": "broker-clients",
        "redis": "broker-redis",
        "pod": "broker-pod",
    }


@ONE_BY_ONE
def test_every_panel_explains_itself(name: str) -> None:
    """Title, description, unit, colours, and a legend for each line."""
    for panel in p.panels_of(DASHBOARDS[name]):
        defaults = panel["fieldConfig"]["defaults"]

        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"]
        assert defaults["thresholds"]["steps"]
        assert all(target["legendFormat"] for target in panel["targets"])


@ONE_BY_ONE
def test_panels_have_places_of_their_own(name: str) -> None:
    """None lies upon another, or beyond the right edge."""
    panels = DASHBOARDS[name]["panels"]
    squares = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


@ONE_BY_ONE
def test_queries_name_metrics_that_exist(name: str) -> None:
    """The table of metrics knows every name."""
    used = set().union(*map(p.metric_names, p.expressions(DASHBOARDS[name])))

    assert used <= p.exported_names().keys()


def test_every_metric_is_shown() -> None:
    """On some panel, or it is listed here with the reason."""
    exported = p.exported_names()
    everywhere = [
        expr for board in DASHBOARDS.values() for expr in p.expressions(board)
    ]
    used = {exported[name] for expr in everywhere for name in p.metric_names(expr)}
    links = json.dumps([board["annotations"] for board in DASHBOARDS.values()])
    used |= {exported[name] for name in p.metric_names(links)}

    assert {metric.name for metric in CATALOG} - used == NOT_SHOWN.keys()


def test_grafana_is_told_where_everything_is() -> None:
    """The provisioning files name the server and the folder of deploy/compose.yaml."""
    folder = p.GRAFANA / "provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())
    boards = yaml.safe_load((folder / "dashboards/broker.yaml").read_text())

    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert boards["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"


@pytest.mark.timeout(180)
@ONE_BY_ONE
def test_every_query_of_a_dashboard_returns_data(findings: Findings, name: str) -> None:
    """With all variables chosen; a number, not only that there is none."""
    title = DASHBOARDS[name]["title"]
    asked = [answer for answer in findings.answers if answer.dashboard == title]

    assert len(asked) == len(p.expressions(DASHBOARDS[name]))
    assert [answer.expr for answer in asked if not answer.values] == []


@pytest.mark.timeout(180)
def test_trouble_is_seen(findings: Findings) -> None:
    """What was provoked is on the panels that speak of it."""
    shown = {(a.dashboard, a.panel, a.legend): a.values for a in findings.answers}

    assert [line for line in PROVOKED if not any(shown[line])] == []


@pytest.mark.timeout(180)
def test_every_rule_returns_data(findings: Findings) -> None:
    """What is recorded, and what each alert compares with its bound."""
    assert {rule["health"] for rule in findings.rules} == {"ok"}
    assert len(findings.rules) > 40
    assert findings.empty == []


@pytest.mark.timeout(180)
def test_alerts_say_what_happened(findings: Findings) -> None:
    """Those that need no time to be sure fire, and their texts have no holes."""
    alerts = [one for rule in findings.rules for one in rule.get("alerts", ())]
    firing = {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}
    texts = [text for one in alerts for text in one["annotations"].values()]

    assert firing >= {"BrokerEventsLost", "BrokerStreamsReset"}
    assert [text for text in texts if "<error" in text or "<no value>" in text] == []


@pytest.mark.timeout(180)
@ONE_BY_ONE
def test_variables_offer_what_there_is(findings: Findings, name: str) -> None:
    """Namespaces, pods and protocols, by labels that the configuration sets."""
    there = {
        "namespace": {"compose"},
        "pod": {"127.0.0.1", "127.0.0.2"},
        "protocol": set(PROTOCOLS),
    }
    offered = findings.choices[name]

    assert {"namespace", "pod"} <= offered.keys()
    assert all(there[variable] == found for variable, found in offered.items())


@ONE_BY_ONE
def test_whoever_looks_may_choose_several(name: str) -> None:
    """Or everything; only the page of one pod is of one."""
    variables = DASHBOARDS[name]["templating"]["list"][1:]
    of_one = [v["name"] for v in variables if not v["multi"]]

    assert of_one == (["pod"] if name == "pod" else [])
    assert all(v["allValue"] == ".*" for v in variables if v["multi"])
