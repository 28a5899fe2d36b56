"""The ``footfall`` command: one module for each family of commands."""
