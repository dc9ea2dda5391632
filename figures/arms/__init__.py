"""Arms that several figures share."""
