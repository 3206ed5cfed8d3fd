"""Benchmarks: this program beside others, in turns, in one run. Ratios count."""
