"""Build Grafana's dashboards with its SDK: ``python -m footfall.grafana`` writes them."""
