"""Benchmarks: whole jobs compared with baselines, microbenchmarks, and how costs grow with the number of photos.

Only catdog/__main__.py imports this package. bench.py holds what all measures share.
"""
