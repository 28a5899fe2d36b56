"""HTTP in and out: collects events, answers for profiles and aggregates, the live page."""
