"""What a person sees of a store: documents, distributions and plots, as data and as one page."""
