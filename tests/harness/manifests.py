"""What `kubectl kustomize` makes of deploy/kubernetes, and what compose.yaml says.

Debian 12 has a kubectl whose kustomize is of 2019. It is given the same files with the
words of its time for the same things (`_in_old_words`); every later one gets the files
as they are, and may print no warning about them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.harness.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose.yaml"
OVERLAYS = ("dev", "production")

Object = dict[str, Any]


@cache
def build(folder: str, change: tuple[str, str] | None = None) -> list[Object]:
    """The objects of a folder of deploy/kubernetes, as they would be applied.

    Args:
        folder: Such as ``overlays/dev``.
        change: Text of its kustomization.yaml, and what stands there instead.

    Raises:
        AssertionError: kubectl fails, or warns; the text is not there once.
    """
    with tempfile.TemporaryDirectory() as workspace:
        copy = Path(workspace) / "kubernetes"
        shutil.copytree(KUBERNETES, copy)
        if change is not None:
            _replace(copy / folder / "kustomization.yaml", *change)
        if _is_old():
            for path in copy.rglob("kustomization.yaml"):
                path.write_text(_in_old_words(path))
        return _kustomize(copy / folder)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def overlay(name: str) -> list[Object]:
    """The objects of an overlay."""
    return build(f"overlays/{name}")


def _kustomize(folder: Path) -> list[Object]:
    done = subprocess.run(
        [program("kubectl"), "kustomize", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def one(objects: list[Object], kind: str, name: str = "broker") -> Object:
    """The only object of that kind and name; a ConfigMap's may end in a hash."""
    (found,) = (
        it
        for it in objects
        if it["kind"] == kind
        and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", it["metadata"]["name"])
    )
    return found


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """All objects of a kind."""
    return [it for it in objects if it["kind"] == kind]


def container(objects: list[Object]) -> Object:
    """The broker's container."""
    (found,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def settings_of(objects: list[Object]) -> dict[str, str]:
    """The environment that the broker's ConfigMap makes."""
    return dict(one(objects, "ConfigMap", "broker-config")["data"])


def services() -> dict[str, Object]:
    """The services of compose.yaml, with the defaults of its variables put in."""
    text = re.sub(r"\$\{\w+(?::-([^}]*))?\}", r"\1", COMPOSE.read_text())
    return dict(yaml.safe_load(text)["services"])


def seconds(duration: str) -> int:
    """Seconds of such as ``60s``."""
    assert duration.endswith("s"), duration
    return int(duration[:-1])


def containers(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each container of each Deployment, with the pod it is in."""
    for deployment in of_kind(objects, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        yield from ((pod, it) for it in pod["containers"])


@cache
def _is_old() -> bool:
    told = subprocess.run(
        [program("kubectl"), "version", "--client", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    version = json.loads(told.stdout)["clientVersion"]
    return (int(version["major"]), int(re.sub(r"\D.*", "", version["minor"]))) < (1, 21)


def _in_old_words(path: Path) -> str:
    """``resources`` that are folders were ``bases``, patches in files a plain list.

    Raises:
        AssertionError: There is something that had another meaning then.
    """
    told = yaml.safe_load(path.read_text())
    known = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}
    assert not told.keys() - known - {"configMapGenerator"}, path
    named = told["resources"]
    told["bases"] = [it for it in named if (path.parent / it).is_dir()]
    told["resources"] = [it for it in named if it not in told["bases"]]
    patches = told.pop("patches", [])
    assert all(patch.keys() == {"path"} for patch in patches), path
    told["patchesStrategicMerge"] = [patch["path"] for patch in patches]
    return str(yaml.safe_dump(told))
