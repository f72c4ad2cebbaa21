"""What MLproject names: each file starts one entry point of exvo, as `exvo <entry point>` does."""
