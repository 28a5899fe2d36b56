"""The ``footfall`` command: one module per family of commands."""
