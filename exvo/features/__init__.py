"""Audio in, features out, kept in a store."""
