"""The dashboards, from the question that comes first to the closest look."""

from __future__ import annotations

from grafana.boards.clients import CLIENTS
from grafana.boards.fanout import FANOUT
from grafana.boards.overview import OVERVIEW
from grafana.boards.pod import POD
from grafana.boards.redis import REDIS
from grafana.boards.sessions import SESSIONS
from grafana.panel import Dashboard

ALL: tuple[Dashboard, ...] = (OVERVIEW, FANOUT, SESSIONS, CLIENTS, REDIS, POD)
