"""What a dump will cost and which one to make, told from a sample of the corpus."""
