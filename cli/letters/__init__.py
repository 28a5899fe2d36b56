"""``footfall dead-letters``: what could not be processed, and sending it again."""
