"""What must stay fast: whole jobs against baselines, microbenchmarks, and how cost grows with photos.

Only catdog/__main__.py imports it. bench.py has what all measures share.
"""
