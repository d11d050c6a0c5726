"""From files to a checked, deduplicated, split manifest: listing, reading, decoding, classes, corrections.

No TensorFlow. Imports cluster, evaluation and below.
"""
