"""What a network is fed: clips of one split, in batches."""
