"""An arm as data, and what becomes of it."""
