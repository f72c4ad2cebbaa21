"""The bodies of the entry points, and what they share."""
