"""``footfall doctor``: facts of the installation, what they mean, and what to do."""
