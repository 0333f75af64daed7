"""Print the rules of ``deploy/prometheus/rules`` as one PrometheusRule.

``python deploy/kubernetes/monitoring/wrap_rules.py > prometheus-rule.yaml``: run it
after a change of the rules; a test holds the file and them together. Text is put around
text, so that comments and line breaks stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

RULES = Path(__file__).parents[2] / "prometheus" / "rules"
HEAD = """\
# The groups are made by wrap_rules.py out of deploy/prometheus/rules: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: broker
  labels:
    app.kubernetes.io/name: broker
    # CHANGE: what the ruleSelector of your Prometheus asks for.
    release: kube-prometheus-stack
spec:
  groups:
"""


def wrapped() -> str:
    """The whole file.

    Raises:
        ValueError: A file of rules has something beside its groups.
    """
    return HEAD + "".join(_groups(path) for path in sorted(RULES.glob("*.yaml")))


def _groups(path: Path) -> str:
    before, found, groups = path.read_text().partition("\ngroups:\n")
    if not found or any(not line.startswith("#") for line in before.splitlines()):
        raise ValueError(f"{path} must be comments, then groups")
    lines = groups.splitlines(keepends=True)
    return "".join(f"  {line}" if line.strip() else line for line in lines)


if __name__ == "__main__":
    sys.stdout.write(wrapped())
