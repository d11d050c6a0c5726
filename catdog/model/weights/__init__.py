"""Pretrained weights: where they are found, and how their files are read and checked.

No TensorFlow. Pickles are read only by an unpickler that resolves seven names and refuses all others.
"""
