"""Around the project: the demo, the benchmarks, the checks of bytes, the makers of pages."""
