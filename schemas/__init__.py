"""Every name that crosses a process boundary: events, topics, tables, profiles, settings."""
