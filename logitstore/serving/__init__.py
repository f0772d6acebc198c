"""Stores on the network: a catalogue of them, the page of each, and their files; all read-only."""
