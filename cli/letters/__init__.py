"""``footfall dead-letters``: shows records that could not be processed, and sends them again."""
