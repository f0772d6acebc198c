"""What a dump will cost, and which sparsifier to choose, estimated from a sample of the corpus."""
