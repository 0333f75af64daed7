"""The image, as far as it can be checked where no Docker is: its file, its content.

What `docker build` would run is not run here, except for what is ours in it: the
package is made of exactly the files that are copied, and the health check asks a real
broker.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from broker import __version__
from tests.harness.servers import BrokerServer

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
DEPLOYMENT = ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml"
INSTALLED = {".py", ".typed", ".lua", ".html", ".css", ".js"}
"""Kinds of files below broker/ that it runs on or serves; others are for developers."""


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of that name, in one line each."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\s*\\\n\s*", " ", text)
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


def copied() -> list[str]:
    """What is copied from the repository."""
    plain = [line.split() for line in instructions("COPY") if "--from" not in line]
    return [source for *sources, _ in plain for source in sources]


def files_below(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix()


def run_check(admin_port: int) -> subprocess.CompletedProcess[str]:
    """The image's health check, by the Python of the tests."""
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    return subprocess.run(
        [sys.executable, *command[1:]],
        env={"BROKER_ADMIN_PORT": str(admin_port)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_hadolint_finds_nothing():
    """Not even something to remark on."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (0, b"")


def test_the_base_is_one_image_and_no_other():
    """Version and digest: a build of next year starts from the same bytes."""
    (base, *_) = instructions("ARG")

    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert instructions("FROM") == ["${BASE} AS build", "${BASE} AS broker"]


def test_what_is_installed_is_locked():
    """Every package is one whose hash is in the lock file; none is built here."""
    (lock,) = [line for line in instructions("RUN") if "requirements.lock" in line]

    assert "--require-hashes --only-binary :all: -r requirements.lock" in lock


def test_the_process_is_the_broker_itself_and_nobody():
    """SIGTERM reaches it, since no shell is between; its user is that of the pods."""
    pod = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]

    assert json.loads(*instructions("ENTRYPOINT")) == ["broker"]
    assert json.loads(*instructions("CMD")) == ["serve"]
    assert instructions("USER") == ["65532:65532"]
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["runAsGroup"] == 65532


def test_the_version_is_that_of_the_broker():
    """Label, manifests and code name one version."""
    places = [DOCKERFILE, *(ROOT / "deploy").rglob("*.yaml"), ROOT / "deploy/README.md"]
    named = r"(?:VERSION=|VERSION:-|newTag: |stream-broker:)(\d+\.\d+\.\d+)"
    found = [it for path in places for it in re.findall(named, path.read_text())]

    assert set(found) == {__version__}


def test_what_is_copied_is_not_ignored():
    """.dockerignore lets in what the image is made of, and no more."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}

    assert "*" in lines
    assert let_in == set(copied())


@pytest.mark.timeout(120)
def test_the_package_is_whole(tmp_path: Path):
    """Of the copied files alone one gets every module, script and page."""
    context, target = tmp_path / "context", tmp_path / "site"
    context.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    for name in copied():
        subprocess.run(["cp", "-r", ROOT / name, context], check=True)
    alone = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    subprocess.run(
        [*pip, "install", "--quiet", *alone, f"--target={target}", "."],
        cwd=context,
        check=True,
    )
    ours = files_below(ROOT / "broker")
    expected = {it for it in ours if Path(it).suffix in INSTALLED}

    assert set(files_below(target / "broker")) == expected


def test_the_health_check_passes_with_a_broker_that_lives(broker: BrokerServer):
    """It says so, and shows what the broker says of itself."""
    done = run_check(broker.admin[1])

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)


def test_the_health_check_fails_where_nobody_answers(unused_tcp_port: int):
    """A pod whose supervisor is gone is not healthy."""
    assert run_check(unused_tcp_port).returncode == 1
