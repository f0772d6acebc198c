"""Many runs over a grid of settings, measured on held-out text, and what they show."""
