"""The Grafana dashboards and their source.

``boards`` says which panels there are; ``build`` writes them to ``dashboards/*.json``,
which are checked in and are all that Grafana needs.
"""
