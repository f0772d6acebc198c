"""The report: one page about several runs."""
