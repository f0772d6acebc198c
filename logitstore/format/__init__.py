"""The written form: JSON objects of a store, its plan, its columns."""
