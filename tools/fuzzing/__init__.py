"""What is fuzzed, and how inputs are made: bytes become decisions that change sound content."""
