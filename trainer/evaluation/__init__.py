"""Evaluation: how good a model is, and how near to its teacher."""
