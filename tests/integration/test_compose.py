"""deploy/compose.yaml, as far as it can be checked where no Docker is."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from broker.config import load_settings
from broker.supervisor.supervisor import DRAIN_MARGIN_S, KILLED_S, READER_STOP_S
from broker.worker.main import BACKLOG
from tests.harness.manifests import COMPOSE, DEPLOY, Object, seconds, services
from tests.harness.servers import BrokerServer

SERVICES = services()
BROKERS = ("broker-1", "broker-2")

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_broker = pytest.mark.parametrize("name", BROKERS)


def run_check(admin_port: int) -> subprocess.CompletedProcess[str]:
    """The health check of a broker, by the Python of the tests."""
    command = SERVICES["broker-1"]["healthcheck"]["test"]
    return subprocess.run(
        [sys.executable, *command[2:]],
        env={"BROKER_ADMIN_PORT": str(admin_port)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@each_broker
def test_settings_are_understood(name: str):
    """The environment is that of a broker which starts, with a Redis without secret."""
    settings = load_settings(SERVICES[name]["environment"], env_file=None)

    assert settings.secrets() == ()
    assert settings.redis_address == "redis://redis:6379/0"


@each_broker
def test_a_broker_has_the_time_that_its_end_may_take(name: str):
    """Docker kills nobody whom the broker still wants to send home."""
    settings = load_settings(SERVICES[name]["environment"], env_file=None)
    ours = settings.drain_delay_s + settings.drain_s + DRAIN_MARGIN_S + KILLED_S
    theirs = READER_STOP_S + KILLED_S

    assert ours + theirs < seconds(SERVICES[name]["stop_grace_period"])


@each_broker
def test_every_connection_has_a_descriptor(name: str):
    """The limit of the container is above that of a worker's connections."""
    settings = load_settings(SERVICES[name]["environment"], env_file=None)
    limits = SERVICES[name]["ulimits"]["nofile"]

    assert limits["soft"] == limits["hard"] > 2 * settings.max_connections


@each_service
def test_a_service_may_do_nothing_it_needs_not(service: Object):
    """Neither capabilities nor a disk but its volumes; memory and logs have an end."""
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["mem_limit"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


@each_service
def test_an_image_has_a_version(service: Object):
    """None is whatever was pushed last."""
    assert re.fullmatch(r"[\w/-]+:v?\d+(\.\d+)+(-alpine)?", service["image"])


@each_service
def test_what_is_mounted_is_there(service: Object):
    """Docker would make an empty folder of a file that is missing."""
    sources = [volume.split(":")[0] for volume in service.get("volumes", [])]
    files = [source for source in sources if source.startswith(".")]

    assert [name for name in files if not (DEPLOY / name).exists()] == []


@each_service
def test_only_this_machine_gets_in(service: Object):
    """Nothing is open to a network before somebody has said so."""
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_balancer_is_the_one_that_is_believed():
    """Its address is fixed, and it knows both brokers."""
    balancer = SERVICES["haproxy"]
    address = balancer["networks"]["front"]["ipv4_address"]

    assert SERVICES["broker-1"]["environment"]["BROKER_TRUSTED_PROXIES"] == address
    assert balancer["environment"]["BROKER_1"] == "broker-1:8080"
    assert balancer["environment"]["BROKER_2"] == "broker-2:8080"


def test_a_full_redis_refuses_and_forgets_nothing():
    """Events that were promised are not evicted, and are on disk within a second."""
    text = " ".join(SERVICES["redis"]["command"])

    assert "--maxmemory-policy noeviction" in text
    assert "--appendonly yes --appendfsync everysec" in text


@each_broker
def test_every_setting_can_be_given_and_no_secret_is_in_the_file(name: str):
    """What `.env` says reaches the broker; nothing is there before it is written."""
    service = SERVICES[name]
    fixed = {it for it in service["environment"] if re.search("SECRET|KEY|TOKEN", it)}

    assert service["env_file"] == [{"path": ".env", "required": False}]
    assert fixed == set()


@each_broker
def test_a_burst_of_newcomers_waits_to_be_accepted(name: str):
    """A container has bounds of its own: those of the machine do not reach it."""
    bounds = SERVICES[name]["sysctls"]

    assert bounds["net.core.somaxconn"] >= BACKLOG
    assert bounds["net.ipv4.tcp_max_syn_backlog"] >= BACKLOG


def test_a_certificate_that_is_renewed_is_seen():
    """Its folder is mounted: a mount of the file would keep the old one."""
    over = yaml.safe_load((DEPLOY / "compose.tls.yaml").read_text())
    balancer = over["services"]["haproxy"]
    ((source, target, mode),) = (it.split(":") for it in balancer["volumes"])

    assert (DEPLOY / source).is_dir()
    assert mode == "ro"
    assert balancer["environment"]["TLS_CERTIFICATE"] == f"{target}/site.pem"


def test_another_network_can_be_chosen_in_one_place():
    """Where the addresses are in use: of the network and of who is believed."""
    text = COMPOSE.read_text()

    assert text.count("${FRONT:-172.31.250}.") == text.count("172.31.250") == 4


def test_the_health_check_passes_with_a_broker_that_is_ready(broker: BrokerServer):
    """It says so, and shows what the broker says of itself."""
    done = run_check(broker.admin[1])

    assert (done.returncode, done.stderr) == (0, "")
    assert '"ready":true' in done.stdout


def test_the_health_check_fails_where_nobody_answers(unused_tcp_port: int):
    """Nobody waits for a broker that is not there."""
    assert run_check(unused_tcp_port).returncode == 1
