"""Editing: sealed stores are converted, joined, cut and extended, each into a new store."""
