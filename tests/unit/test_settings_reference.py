"""The page of all settings says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from broker.config import PREFIX, Settings
from broker.config.reference import render

PAGE = Path(__file__).parents[2] / "deploy" / "SETTINGS.md"


def line_of(name: str) -> str:
    (line,) = re.findall(rf"^\| `{PREFIX}{name}` \| (.*) \|$", render(), re.MULTILINE)
    return str(line)


def test_the_page_in_the_repository_is_what_the_code_prints():
    """Whoever changes a setting prints the page again."""
    assert PAGE.read_text() == render()


def test_every_setting_has_one_line():
    """Nothing can be set that the page does not tell of, and nothing is there twice."""
    named = re.findall(rf"^\| `{PREFIX}([A-Z0-9_]+)` \|", render(), re.MULTILINE)

    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_a_line_gives_the_bounds_and_the_default_in_units():
    """Sizes and times stand there as one would write them."""
    assert line_of("RING_BYTES").startswith("size from 1MiB up to 16GiB | `64MiB` | ")
    assert line_of("HANG_S").startswith("seconds above 0 up to 86400 | `15` | ")
    assert line_of("SESSION_LEASE_S").startswith("seconds from 1 up to 86400 | `30` | ")
    assert line_of("READER_MODE").startswith("`auto`, `tracking`, `blocking` | `auto`")
    assert line_of("CONSOLE").startswith("`true`, `false` | `false` | ")


def test_the_page_is_the_same_on_every_machine():
    """What depends on the machine is described, not evaluated."""
    assert "usable cores" in line_of("WORKERS").split(" | ")[1]
    assert "auth=none" in line_of("HOST").split(" | ")[1]


def test_a_secret_shows_no_value():
    """A secret has a kind and no default; the URL of Redis shows the harmless one."""
    assert line_of("JWT_SECRET").startswith("secret |  | ")
    assert line_of("REDIS_URL").startswith("secret | `redis://127.0.0.1:6379/0` | ")
