"""What `make bench` runs: each figure is a ratio measured in one run against a plain reference beside it."""
