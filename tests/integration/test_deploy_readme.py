"""What deploy/README.md tells to do can be done, where that needs no Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli import main as command_line
from broker.config import load_settings
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.http import get

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "README.md"
TEXT = PAGE.read_text()
SECRET = "a-secret-of-the-tests-32-bytes-long"

LINKS = sorted(set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)))
ANCHORS = sorted(set(re.findall(r"\]\(([^)#:]*)#([^)]+)\)", TEXT)))
NAMED = sorted(set(re.findall(r"(?<= )deploy/[\w./-]*[\w]", TEXT)) - {"deploy/.env"})
VERBS = sorted(set(re.findall(r"(?:`|-- |1 )broker ([a-z]+)", TEXT)))


def anchors_of(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", it.lower()).replace(" ", "-") for it in headings}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_somewhere(link: str):
    """The file or folder is there."""
    assert (PAGE.parent / link).exists()


@pytest.mark.parametrize(("link", "anchor"), ANCHORS)
def test_a_link_leads_to_a_heading(link: str, anchor: str):
    """The page has that part."""
    page = PAGE.parent / link if link else PAGE

    assert anchor in anchors_of(page)


@pytest.mark.parametrize("name", NAMED)
def test_a_file_in_a_command_is_there(name: str):
    """Commands are given from the root of the repository."""
    assert (ROOT / name).exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_of_the_broker_exists(verb: str):
    """Nobody is told to run what is not there."""
    assert verb in command_line.commands


def test_the_settings_of_the_page_are_those_of_a_broker(tmp_path: Path):
    """Its block writes a file for its owner alone; with it a broker asks for tokens."""
    (block,) = re.findall(r"^touch .env.*?^END$", TEXT, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True)
    file = tmp_path / ".env"
    settings = load_settings({}, env_file=file)

    assert file.stat().st_mode & 0o777 == 0o600
    assert settings.auth == "jwt"
    assert len(settings.jwt_secret) == len(settings.admin_token) == 64


def test_the_table_of_choices_names_every_file_with_one():
    """Whoever goes through it has seen each CHANGE."""
    marked = {
        path.name
        for path in (ROOT / "deploy" / "kubernetes").rglob("*.yaml")
        if "CHANGE" in path.read_text()
    }

    assert {name for name in marked if f"{name}`" not in TEXT} == set()


@pytest.fixture
def token() -> str:
    """Made by the code on the page."""
    (code, *_) = re.findall(r"python -c '(import jwt.*?)'\)", TEXT, re.DOTALL)
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={"BROKER_JWT_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


async def test_the_token_of_the_page_opens_its_session(
    token: str, shared_redis: EmbeddedServer, start_broker: StartBroker
):
    """With it one reads the session of the example, and no other."""
    broker = start_broker(shared_redis.url, auth="jwt", jwt_secret=SECRET)
    who = {"Authorization": f"Bearer {token}"}

    refused = await get(broker.public, "/v1/sse/demo")
    allowed = await get(broker.public, "/v1/sessions/demo/events", headers=who)
    elsewhere = await get(broker.public, "/v1/sessions/other/events", headers=who)

    assert refused.status == 204
    assert allowed.status == 200
    assert elsewhere.status == 403
