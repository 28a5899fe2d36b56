"""Dashboards of Grafana, built with its foundation SDK: ``python -m grafana`` writes them."""
