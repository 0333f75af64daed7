"""``broker doctor``."""

from __future__ import annotations

import sys

import click
import msgspec

from broker.admin import run
from broker.config import Settings, load_settings
from broker.doctor.examine import examine_machine, examine_redis
from broker.doctor.finding import Finding, worst
from broker.doctor.tokens import check_tokens


@click.command()
@click.option("--url", help="Which Redis; default: BROKER_REDIS_URL.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def doctor(url: str | None, as_json: bool) -> None:
    """Look at Redis and at this machine, and say what is wrong and what to do.

    The key set of BROKER_JWT_JWKS_URL is fetched as the broker does it, where tokens
    are checked with one. Everything is only looked at, but for a key that is written
    to Redis and deleted to see whether tracking works. Exit status 1 if something
    fails.
    """
    settings = load_settings()
    url = url or settings.redis_url.get_secret_value()
    findings = run(_ask(url, settings)) + examine_machine(settings)
    several = len({one.server for one in findings if one.server}) > 1
    for one in findings:
        click.echo(msgspec.json.encode(one) if as_json else _line(one, several))
    sys.exit(1 if worst(findings) == "fail" else 0)


async def _ask(url: str, settings: Settings) -> list[Finding]:
    return await examine_redis(url, settings) + await check_tokens(settings)


def _line(finding: Finding, names_server: bool) -> str:
    where = f" [{finding.server}]" if names_server and finding.server else ""
    what = f"{finding.verdict:4}  {finding.check}{where}: {finding.text}"
    return f"{what}. What to do: {finding.advice}" if finding.advice else what
