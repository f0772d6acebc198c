"""Training: a student, a run folder, the loop of transformers with our loss in it."""
