"""Build Grafana's dashboards with its SDK: ``python -m grafana`` writes them."""
