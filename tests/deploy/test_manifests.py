"""The Kubernetes manifests, as `kubectl kustomize` builds them.

No cluster is asked. Objects of Kubernetes itself are held against the schemas of
several versions; those of the Prometheus Operator and of the Gateway API have no schema
there, so what the broker needs of them is asked for by name.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from broker.config import Settings, load_settings
from broker.metrics import catalog
from broker.store.embedded import EmbeddedServer
from broker.supervisor.supervisor import DRAIN_MARGIN_S, KILLED_S, READER_STOP_S
from tests.conftest import StartBroker
from tests.harness.http import get
from tests.harness.manifests import (
    DEPLOY,
    KUBERNETES,
    OVERLAYS,
    Object,
    build,
    container,
    containers,
    of_kind,
    one,
    overlay,
    settings_of,
)
from tests.harness.programs import program

VERSIONS = ("1.27", "1.30", "1.33", "1.35", "1.37")
SECRETS = {
    "BROKER_REDIS_URL": "rediss://broker:pass@redis.example.com:6380/0",
    "BROKER_JWT_SECRET": "a-secret-of-the-tests-32-bytes-long",
}
"""What the Secret of README.md holds: settings that no file of deploy/ may have."""

UNCHECKED = {
    "BackendTrafficPolicy",
    "Gateway",
    "HTTPRoute",
    "PodMonitor",
    "PrometheusRule",
}

each_overlay = pytest.mark.parametrize("name", OVERLAYS)


@pytest.fixture
def objects(name: str) -> list[Object]:
    return overlay(name)


def adapter_rule() -> Object:
    """The rule by which the adapter makes a metric of connections."""
    text = (KUBERNETES / "monitoring" / "adapter-values.yaml").read_text()
    (rule,) = yaml.safe_load(text)["rules"]["custom"]
    return dict(rule)


def pod_environment(objects: list[Object]) -> dict[str, str]:
    """The settings of the pod by field name, but for where Redis is."""
    return {
        name.removeprefix("BROKER_").lower(): value
        for name, value in (SECRETS | settings_of(objects)).items()
        if name != "BROKER_REDIS_URL"
    }


@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid_in_every_version(objects: list[Object], version: str):
    """Each has a schema of that very version, and no property that is not in it."""
    used = {kubernetes_validate.validate(it, version, strict=True) for it in objects}

    assert used == {version}


@pytest.mark.parametrize("folder", ["monitoring", "gateway"])
def test_objects_without_a_schema_are_those_we_know_of(folder: str):
    """Whatever is in there and has a schema must go where it is checked."""
    kinds = {it["kind"] for it in build(folder)}

    assert kinds <= UNCHECKED


@each_overlay
def test_settings_are_understood(objects: list[Object]):
    """The pod's environment is that of a broker which starts."""
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)

    assert settings.log_format == "json"


@each_overlay
def test_no_file_holds_a_secret(objects: list[Object]):
    """A Secret is referred to, never made; the settings have no password in them."""
    public = load_settings(
        settings_of(objects) | {"BROKER_AUTH": "none", "BROKER_ALLOW_INSECURE": "true"},
        env_file=None,
    )

    assert of_kind(objects, "Secret") == []
    assert public.secrets() == ()


@each_overlay
def test_a_pod_has_the_time_that_its_end_may_take(objects: list[Object]):
    """The kubelet kills nobody whom the broker still wants to send home."""
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    hook = container(objects)["lifecycle"]["preStop"]["exec"]["command"]
    ours = settings.drain_delay_s + settings.drain_s + DRAIN_MARGIN_S + KILLED_S
    theirs = READER_STOP_S + KILLED_S

    assert hook[0] == "sleep"
    assert int(hook[1]) + ours + theirs < pod["terminationGracePeriodSeconds"]


@each_overlay
def test_readiness_fails_before_newcomers_are_refused(objects: list[Object]):
    """Kubernetes notices a pod that leaves within its delay, or was told before."""
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)
    probe = container(objects)["readinessProbe"]
    hook = container(objects)["lifecycle"]["preStop"]["exec"]["command"]
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"]

    assert noticed_s < settings.drain_delay_s + int(hook[1])


@each_overlay
def test_workers_and_reader_have_a_cpu_each(objects: list[Object]):
    """More processes than CPUs would wait for each other at the limit."""
    workers = int(settings_of(objects)["BROKER_WORKERS"])

    assert workers + 1 <= int(container(objects)["resources"]["limits"]["cpu"])


@each_overlay
def test_the_ring_fits_into_memory_twice(objects: list[Object]):
    """The rest is for the processes and for what sockets hold."""
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)
    limit = container(objects)["resources"]["limits"]["memory"]
    number, unit = re.fullmatch(r"(\d+)([MG])i", limit).groups()  # type: ignore[union-attr]

    assert 2 * settings.ring_bytes <= int(number) * {"M": 2**20, "G": 2**30}[unit]


@each_overlay
def test_containers_may_do_nothing_they_need_not(objects: list[Object]):
    """Neither root nor capabilities nor a disk nor a token of Kubernetes."""
    for pod, it in containers(objects):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert it["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert it["resources"]["limits"].keys() == {"cpu", "memory"}
        assert it["resources"]["requests"].keys() == {"cpu", "memory"}
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False


@each_overlay
def test_whoever_selects_pods_finds_the_broker(objects: list[Object]):
    """Labels and the names of ports are the same on both sides."""
    pod = one(objects, "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    ports = {
        port["name"]: port["containerPort"] for port in container(objects)["ports"]
    }
    monitor = one(build("monitoring"), "PodMonitor")["spec"]
    policy = one(objects, "NetworkPolicy")["spec"]
    allowed = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]

    assert ports == {"http": 8080, "admin": 9090}
    assert one(objects, "Service")["spec"]["selector"].items() <= labels
    assert one(objects, "Service")["spec"]["ports"][0]["targetPort"] == "http"
    assert one(objects, "Service", "broker-admin")["spec"]["selector"].items() <= labels
    assert one(objects, "Service", "broker-admin")["spec"]["clusterIP"] == "None"
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert allowed == ["http", "admin"]
    assert monitor["selector"]["matchLabels"].items() <= labels
    assert monitor["podMetricsEndpoints"][0]["port"] == "admin"
    assert pod["metadata"]["labels"][monitor["jobLabel"]] == "broker"


@pytest.mark.parametrize("name", ["production"])
def test_a_roll_and_the_loss_of_a_node_leave_enough_pods(objects: list[Object]):
    """A newcomer is ready before one goes, and pods are spread."""
    deployment = one(objects, "Deployment")["spec"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]

    assert deployment["strategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }
    assert [it["topologyKey"] for it in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    assert "replicas" not in deployment
    assert one(objects, "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 3
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("name", ["production"])
def test_the_autoscaler_asks_for_a_metric_that_is_there(objects: list[Object]):
    """The adapter makes it of a metric that the broker has, well below the limit."""
    rule = adapter_rule()
    first = one(objects, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)
    most = settings.workers * settings.max_connections

    assert first["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith(f"{catalog.CONNECTIONS.name}{{")
    assert re.match(rule["name"]["matches"], catalog.CONNECTIONS.name)
    assert int(first["target"]["averageValue"]) <= 0.6 * most


def test_what_the_adapter_asks_of_prometheus_is_a_query(tmp_path: Path):
    """Filled in as the adapter does it, Prometheus can read it."""
    query = adapter_rule()["metricsQuery"]
    query = query.replace("<<.Series>>", catalog.CONNECTIONS.name)
    query = query.replace("<<.LabelMatchers>>", 'namespace="broker",pod=~"a|b"')
    query = query.replace("<<.GroupBy>>", "pod")
    rules = [{"record": "a:b:c", "expr": query}]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))

    subprocess.run([program("promtool"), "check", "rules", file], check=True)


@pytest.mark.parametrize("name", ["production"])
def test_idle_clients_are_kept_for_three_heartbeats(objects: list[Object]):
    """The gateway cuts nobody whose heartbeat is only late."""
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)
    notes = one(objects, "Ingress")["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io"

    assert int(notes[f"{prefix}/proxy-read-timeout"]) > 3 * settings.heartbeat_s
    assert int(notes[f"{prefix}/proxy-send-timeout"]) > 3 * settings.heartbeat_s


def test_a_route_of_the_gateway_lasts_as_long_as_its_socket():
    """No request is cut by its age, and the route leads to the Service."""
    (rule,) = one(build("gateway"), "HTTPRoute")["spec"]["rules"]
    service = one(overlay("production"), "Service")

    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["backendRefs"][0]["name"] == service["metadata"]["name"]
    assert rule["backendRefs"][0]["port"] == service["spec"]["ports"][0]["port"]


def test_the_gateway_takes_the_place_of_the_ingress():
    """One line of the production overlay changes the way in, as its comment says."""
    line = ("  - ingress.yaml\n", "  - ../../gateway\n")
    kinds = {it["kind"] for it in build("overlays/production", line)}

    assert {"Gateway", "HTTPRoute"} <= kinds
    assert "Ingress" not in kinds


def test_envoy_lets_in_as_many_as_the_pods_take():
    """Its own bound is above what the autoscaler may bring, and it is for our route."""
    line = ("  # - envoy-gateway.yaml\n", "  - envoy-gateway.yaml\n")
    policy = one(build("gateway", line), "BackendTrafficPolicy")["spec"]
    objects = overlay("production")
    settings = load_settings(SECRETS | settings_of(objects), env_file=None)
    pods = one(objects, "HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    most = pods * settings.workers * settings.max_connections

    assert policy["circuitBreaker"]["maxConnections"] >= most
    assert policy["circuitBreaker"]["maxParallelRequests"] >= most
    assert policy["targetRefs"][0]["kind"] == "HTTPRoute"
    assert one(build("gateway"), "HTTPRoute", policy["targetRefs"][0]["name"])


def test_key_sets_may_be_fetched_with_the_policy_taken_in():
    """The line is there, and only has to be uncommented."""
    line = ("  # - network-policy-jwks.yaml\n", "  - network-policy-jwks.yaml\n")

    assert one(build("overlays/production", line), "NetworkPolicy", "broker-jwks")


def test_the_rules_of_the_operator_are_those_of_prometheus():
    """`wrap_rules.py` was run after the last change, and wraps without loss."""
    script = KUBERNETES / "monitoring" / "wrap_rules.py"
    printed = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout
    plain = [
        group
        for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]

    assert script.with_name("prometheus-rule.yaml").read_text() == printed
    assert one(build("monitoring"), "PrometheusRule")["spec"] == {"groups": plain}


def test_every_setting_that_is_named_exists():
    """Neither a manifest nor a document names a variable that would stop the start."""
    others = {"BROKER_TOKEN", "BROKER_SERVICE_HOST"}
    known = {f"BROKER_{name.upper()}" for name in Settings.model_fields} | others
    read = [path for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".md", ""}]
    texts = {path.name: path.read_text() for path in read if path.is_file()}
    named = {
        (name, found)
        for name, text in texts.items()
        for found in re.findall(r"BROKER_[A-Z][A-Z0-9_]*[A-Z0-9]", text)
    }

    assert {found for _, found in named} - known == set()


@each_overlay
async def test_a_broker_with_these_settings_answers_the_probes(
    objects: list[Object], shared_redis: EmbeddedServer, start_broker: StartBroker
):
    """A real one, with the pod's own environment but for ports and Redis."""
    given = pod_environment(objects) | {
        "port": "0",
        "admin_port": "0",
        "host": "127.0.0.1",
        "admin_host": "127.0.0.1",
    }
    broker = start_broker(shared_redis.url, **given)
    it = container(objects)
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    probes = [it[kind]["httpGet"] for kind in kinds]
    answers = [await get(broker.admin, probe["path"]) for probe in probes]

    assert {probe["port"] for probe in probes} == {"admin"}
    assert [answer.status for answer in answers] == [200, 200, 200]

    # A second SIGTERM, from the fixture, ends the delay.
    broker.signal(signal.SIGTERM)
    assert broker.log.wait_for(lambda line: '"draining"' in line, 10)
