"""``broker doctor``."""

from __future__ import annotations

import sys

import click
import msgspec

from broker.admin import run
from broker.config import load_settings
from broker.doctor.examine import examine_machine, examine_redis
from broker.doctor.finding import Finding, worst


@click.command()
@click.option("--url", help="Which Redis; default: BROKER_REDIS_URL.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def doctor(url: str | None, as_json: bool) -> None:
    """Look at Redis and at this machine, and say what is wrong and what to do.

    Everything is only looked at, but for a key that is written and deleted to see
    whether tracking works. Exit status 1 if something fails.
    """
    settings = load_settings()
    url = url or settings.redis_url.get_secret_value()
    findings = run(examine_redis(url, settings)) + examine_machine(settings)
    several = len({one.server for one in findings if one.server}) > 1
    for one in findings:
        click.echo(msgspec.json.encode(one) if as_json else _line(one, several))
    sys.exit(1 if worst(findings) == "fail" else 0)


def _line(finding: Finding, names_server: bool) -> str:
    where = f" [{finding.server}]" if names_server and finding.server else ""
    what = f"{finding.verdict:4}  {finding.check}{where}: {finding.text}"
    return f"{what}. What to do: {finding.advice}" if finding.advice else what
