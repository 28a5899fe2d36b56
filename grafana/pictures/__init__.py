"""Pictures of the dashboards, drawn by Grafana's own panel components in Chromium."""
