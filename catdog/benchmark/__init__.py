"""What must stay fast: whole jobs against baselines, microbenchmarks, and how cost grows with photos.

Nothing imports it but jobs/benchmark.py.
"""
