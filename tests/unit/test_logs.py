"""Logs: one path for every line, and no secret at its end."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from broker.config import Settings, load_settings
from broker.logs import configure_logs, redact

CANARY = "canary9f2c77d0"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Logs set up as in a process, written to memory; undone afterwards."""
    root = logging.getLogger()
    before = list(root.handlers), root.level, sys.excepthook
    stream = io.StringIO()
    configure_logs(settings(), stream=stream, process="test")
    yield stream
    logging.captureWarnings(False)
    root.handlers, root.level, sys.excepthook = before
    structlog.reset_defaults()


def settings(**env: str) -> Settings:
    named = {f"BROKER_{name.upper()}": value for name, value in env.items()}
    return load_settings(
        {"BROKER_REDIS_URL": "redis://:sesame0815@h"} | named, env_file=None
    )


def last(lines: io.StringIO) -> dict[str, object]:
    line: dict[str, object] = json.loads(lines.getvalue().splitlines()[-1])
    return line


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization: basic {CANARY}",
        f"{{'Authorization': 'Token {CANARY}'}}",
        f"bearer.{CANARY}, broker.v1",
        f"Client protocols ['broker.v1', 'bearer.{CANARY}'] don't overlap",
        f"GET /v1/ws/s1?token={CANARY} HTTP/1.1",
        f"GET /v1/ws/s1?a=1&access_token={CANARY}&b=2",
        f"GET /x?next=%3Ftoken%3D{CANARY}",
        f'{{"token": "{CANARY}"}}',
        f"password={CANARY}",
        f"Error 111 connecting to redis://:{CANARY}@10.0.0.1:6379",
        f"rediss://user:pa@ss/{CANARY}@host:1/0 is away",
        f"https://user:{CANARY}@host/path",
        f"Command # 1 (AUTH {CANARY}) of pipeline",
        f"HELLO 3 AUTH default {CANARY} SETNAME broker",
        f"got {JWT}.{CANARY}",
        f"line one\ntoken={CANARY}\nline three",
    ],
)
def test_secret_is_taken_out_of_text(text: str):
    """Whatever form a token or password has, it is not in the output."""
    assert CANARY not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/ws/s1?last_event_id=1763700000000-0@412",
        "redis://127.0.0.1:6379/0 answered in 3 ms",
        "token_stream 4 of session user@example:1",
        "http://127.0.0.1:8080/v1/ws/room@1",
    ],
)
def test_harmless_text_stays_as_it_is(text: str):
    """Redaction must not make ordinary lines unreadable."""
    assert redact(text) == text


def test_known_secrets_are_removed_wherever_they_are():
    """A password is recognised without any context."""
    assert redact("why sesame0815?", ["sesame0815"]) == "why ***?"


def test_line_is_json_with_event_level_time_and_context(lines: io.StringIO):
    """Each line is one JSON object that names process and logger."""
    structlog.get_logger("broker.x").info("ready", workers=4, ratio=0.5, none=None)
    line = last(lines)

    assert line.pop("timestamp", "").endswith("Z")  # type: ignore[attr-defined]
    assert line == {
        "event": "ready",
        "level": "info",
        "logger": "broker.x",
        "process": "test",
        "workers": 4,
        "ratio": 0.5,
        "none": None,
    }


def test_standard_logging_takes_the_same_path(lines: io.StringIO):
    """A library's log lines look like ours and are redacted like ours."""
    logging.getLogger("some.library").warning("failed for %s", f"token={CANARY}")
    line = last(lines)

    assert line["event"] == "failed for token=***"
    assert (line["level"], line["process"]) == ("warning", "test")


@pytest.mark.parametrize(
    "message",
    [
        f"400, message:\n  Invalid header value char:\n\n    b'Bearer {CANARY}'\n    ^",
        f"Got more than 8190 bytes (9001) when reading b'{CANARY * 20}",
        f"Bad status line \"b'GET /{CANARY} HTTP/1.1'\"",
    ],
)
def test_what_aiohttp_quotes_from_a_request_is_taken_out(
    message: str, lines: io.StringIO
):
    """Its parser quotes header values without their names, so quotes go as a whole."""
    logging.getLogger("aiohttp.server").error(message)

    assert CANARY not in lines.getvalue()


def test_nested_values_and_foreign_objects_are_redacted(lines: io.StringIO):
    """No depth and no repr hides a secret from the redaction."""
    structlog.get_logger().info(
        "x",
        headers={"Authorization": CANARY, "a": [f"token={CANARY}"]},
        error=ValueError(f"redis://:{CANARY}@h"),
        raw=f"token={CANARY}".encode(),
        token=CANARY,
        **{"set-cookie": CANARY},
    )

    assert CANARY not in lines.getvalue()
    assert last(lines)["headers"] == {"Authorization": "***", "a": ["token=***"]}


def test_traceback_is_logged_without_locals_and_secrets(lines: io.StringIO):
    """An exception is shown with its trace, but no variable and no token of it."""
    hidden = CANARY
    try:
        raise ValueError(f"token={hidden}")  # noqa: TRY301  the trace is the test
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "ValueError: token=***" in str(last(lines)["exception"])
    assert CANARY not in lines.getvalue()


def test_redis_password_of_the_settings_is_known(lines: io.StringIO):
    """The configured password is removed even where nothing announces it."""
    logging.getLogger("redis").error("sent sesame0815 to the server")

    assert last(lines)["event"] == "sent *** to the server"


def test_lines_below_the_level_are_not_written(lines: io.StringIO):
    """The level counts for structlog and for logging."""
    structlog.get_logger().debug("quiet")
    logging.getLogger("x").debug("quiet")

    assert lines.getvalue() == ""


def test_setting_up_again_replaces_the_handler(lines: io.StringIO):
    """A second set-up does not write each line twice."""
    again = io.StringIO()
    configure_logs(settings(), stream=again)
    logging.getLogger("x").warning("once")

    assert lines.getvalue() == ""
    assert len(again.getvalue().splitlines()) == 1


def test_warnings_become_log_lines(lines: io.StringIO):
    """A warning goes the way of every other line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"token={CANARY}", stacklevel=1)

    assert last(lines)["logger"] == "py.warnings"
    assert CANARY not in lines.getvalue()


def test_text_format_is_readable_and_redacted(lines: io.StringIO):
    """People get text; the same secrets are missing from it."""
    text = io.StringIO()
    configure_logs(settings(log_format="text"), stream=text)
    structlog.get_logger().info("ready", url=f"redis://:{CANARY}@h")

    assert re.search(r"info +\] ready ", text.getvalue())
    assert CANARY not in text.getvalue()


CRASH = f"""
from broker.config import load_settings
from broker.logs import configure_logs
configure_logs(load_settings({{}}, None), process="crash")
raise RuntimeError("token={CANARY}")
"""


def test_uncaught_exception_is_a_redacted_log_line():
    """A process that dies says why on its log, and keeps secrets while it does."""
    ended = subprocess.run(
        [sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=30
    )
    line = json.loads(ended.stdout)

    assert ended.returncode == 1
    assert (line["event"], line["process"]) == ("uncaught_exception", "crash")
    assert "RuntimeError: token=***" in line["exception"]
    assert CANARY not in ended.stdout + ended.stderr
