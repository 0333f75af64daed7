"""Write the dashboards: ``python -m grafana.build``."""

from __future__ import annotations

import json
from pathlib import Path

from grafana.boards import ALL
from grafana.panel import Dashboard

DIRECTORY = Path(__file__).parent / "dashboards"


def text_of(board: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(board.json(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file anew."""
    for board in ALL:
        (DIRECTORY / f"{board.name}.json").write_text(text_of(board), "utf-8")


if __name__ == "__main__":
    main()
