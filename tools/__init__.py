"""What stands around the project: the demo, the benchmark, the pages written by the program."""
