"""Answers of a model to prompts: what is asked, how it is drawn, and the file that holds it."""
