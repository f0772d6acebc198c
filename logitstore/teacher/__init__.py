"""The teacher: a causal language model, as logits of counted rows."""
