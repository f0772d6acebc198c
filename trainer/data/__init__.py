"""Data of a training run: order, packing, batches and their layout."""
