"""The document that describes the admin port says what is there, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import msgspec
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker.config import load_settings
from broker.control.authenticator import Authenticator
from broker.metrics.slots import Slots
from broker.supervisor.admin import AdminServer
from broker.supervisor.api.messages import Publish
from broker.supervisor.api.openapi import document
from broker.supervisor.api.routes import ROUTES, request_line
from broker.supervisor.api.server import Api


class PodStatus:
    def health(self) -> dict[str, object]:
        return {}

    def not_started(self) -> list[str]:
        return []

    def not_live(self) -> list[str]:
        return []

    def not_ready(self) -> list[str]:
        return []

    def metrics(self) -> bytes:
        return b""


@pytest.fixture
def served() -> Iterator[set[tuple[str, str]]]:
    """Methods and paths of the application that the supervisor runs."""
    settings = load_settings({}, None)
    slots = Slots.create(1)
    api = Api(settings, Authenticator(settings), "pod", slots.row(2), lambda: 0)
    app = AdminServer(PodStatus(), "127.0.0.1", 0, api).app
    yield {
        (route.method, str(route.resource.canonical))
        for route in app.router.routes()
        if isinstance(route.resource, web.Resource) and route.method != "HEAD"
    }
    slots.close()
    os.close(slots.fd)


def documented() -> set[tuple[str, str]]:
    return {
        (method.upper(), path)
        for path, methods in document()["paths"].items()
        for method in methods
    }


def test_document_is_valid_openapi():
    """Programs that make clients of it can read it."""
    assert [
        error.message for error in OpenAPIV31SpecValidator(document()).iter_errors()
    ] == []


def test_document_and_server_have_the_same_routes(served: set[tuple[str, str]]):
    """What is served is documented, and what is documented is served."""
    assert documented() == served
    assert len(documented()) == len(ROUTES)


def test_document_can_be_written_as_json():
    """It is one text, made at start."""
    assert msgspec.json.decode(msgspec.json.encode(document())) == document()


def test_bodies_are_documented_as_they_are_read():
    """What the schema of an event names is what the server knows, and what it needs."""
    schema = document()["components"]["schemas"]["Publish"]

    assert set(schema["properties"]) == set(Publish.__struct_fields__)
    assert schema["required"] == ["event"]
    assert schema["additionalProperties"] is False


def test_each_route_that_takes_a_right_says_so():
    """A bearer token, or nothing where none is set."""
    operations = [
        operation
        for methods in document()["paths"].values()
        for operation in methods.values()
    ]
    open_ones = {one["operationId"] for one in operations if "security" not in one}

    assert open_ones == {
        *("healthz", "startupz", "livez", "readyz"),
        *("metrics", "openapi"),
    }


def test_operations_have_names_of_their_own():
    """Generated clients make methods of them."""
    names = [route.name for route in ROUTES]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)


@pytest.mark.parametrize(
    ("user", "path"),
    [
        ("ada", "/v1/users/ada/disconnect"),
        ("a/b", "/v1/users/a%2Fb/disconnect"),
        ("..", "/v1/users/../disconnect"),
        ("ä {x}", "/v1/users/%C3%A4%20%7Bx%7D/disconnect"),
    ],
)
def test_request_line_escapes_what_it_is_given(user: str, path: str):
    """A user's name stays one part of the path, whatever is in it."""
    assert request_line("disconnect", user=user) == ("POST", path)
