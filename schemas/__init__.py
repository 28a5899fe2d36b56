"""Names that cross a process boundary: events, topics, tables, profiles, settings."""
