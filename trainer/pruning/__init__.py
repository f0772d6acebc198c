"""Pruning: a student of some of its teacher's layers, channels and neurons."""
