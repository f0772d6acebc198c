"""The data types that every stage shares: sparse targets, and the documents they belong to."""
