"""The dump: a teacher over a corpus into a store."""
