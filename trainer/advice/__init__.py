"""What is likely wrong with a run, from numbers alone: the rules, and what they are asked about."""
