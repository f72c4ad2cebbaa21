"""Hostile input for whatever exvo reads: `make fuzz`. tests/test_hostile.py runs a seeded sample of the same."""
