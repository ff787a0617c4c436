"""Which change, where, and how strong: one file a method."""
