"""The console's page and files, as a browser asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.worker import console as module
from broker.worker.console import read_files
from tests.harness.http import request
from tests.integration.worker.console.front import MAX_EVENT_BYTES, Front


async def test_the_page_is_served_below_its_folder(console: Front) -> None:
    """`/console/` is the page, with the type and the policy that browsers obey."""
    answer = await console.get("/console/")
    assert answer.status == 200
    assert answer.body == (module.WEB / "console.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_page_may_load_nothing_from_elsewhere(console: Front) -> None:
    """The policy names this host alone, and no inline code."""
    answer = await console.get("/console/")
    host = console.origin.removeprefix("http://")
    rules = answer.headers["content-security-policy"].split("; ")
    assert rules == [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data: 'self'",
        f"connect-src 'self' ws://{host} wss://{host}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]


async def test_a_host_that_is_none_gets_into_no_policy(console: Front) -> None:
    """What a client sends as Host cannot add a rule."""
    answer = await console.get("/console/", Host="a; script-src *")
    assert "connect-src 'self';" in answer.headers["content-security-policy"]


async def test_without_the_slash_there_is_a_relative_redirect(console: Front) -> None:
    """It works below any prefix, since it names none."""
    answer = await console.get("/console")
    assert (answer.status, answer.headers["location"]) == (307, "console/")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("console.css", "text/css; charset=utf-8"),
        ("console/app.js", "text/javascript; charset=utf-8"),
        ("client.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_each_file_has_its_type(
    console: Front, path: str, content_type: str
) -> None:
    """A browser runs no module, and with nosniff no style, of another type."""
    answer = await console.get(f"/console/{path}")
    assert answer.status == 200
    assert answer.headers["content-type"] == content_type


async def test_a_file_that_is_known_is_not_sent_again(console: Front) -> None:
    """If-None-Match with the tag of the file is answered 304, without a body."""
    first = await console.get("/console/console.css")
    again = await console.get(
        "/console/console.css", **{"If-None-Match": first.headers["etag"]}
    )
    assert (again.status, again.body) == (304, b"")
    other = await console.get("/console/console.css", **{"If-None-Match": '"x"'})
    assert other.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "..%2f__init__.py",
        "%2e%2e/%2e%2e/pyproject.toml",
        "console/..%2f..%2fworker/console.py",
        "%2fetc%2fpasswd",
        "console/",
        "client.d.ts",
        "nothing.js",
    ],
)
async def test_nothing_but_the_table_is_served(console: Front, path: str) -> None:
    """A path is looked up among the known ones, so none leads out of the folder."""
    assert (await console.get(f"/console/{path}")).status == 404


async def test_only_reading_methods_get_files(console: Front) -> None:
    """Another method is refused, with those that work."""
    answer = await request("DELETE", console.address, "/console/")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_head_has_no_body(console: Front) -> None:
    """HEAD is answered like GET, without the file."""
    answer = await request("HEAD", console.address, "/console/")
    assert (answer.status, answer.body) == (200, b"")


async def test_the_settings_that_a_page_needs_hold_no_secret(guarded: Front) -> None:
    """The page learns that a token is needed, and nothing about how it is checked."""
    answer = await guarded.get("/console/config.json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "auth": "token",
        "session": "demo",
        "max_sessions_per_user": 3,
        "max_event_bytes": MAX_EVENT_BYTES,
        "max_replay_entries": 10_000,
        "heartbeat_s": 25.0,
        "presence": True,
    }


def test_the_files_come_from_one_folder_only(tmp_path: Path) -> None:
    """What lies beside them, such as examples, is not for the console."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "page.html").write_text("<p>")
    (tmp_path / "client.js").write_text("export {}")
    assert set(read_files(tmp_path)) == {"client.js"}
