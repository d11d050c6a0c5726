"""Pretrained weights: where they are found, how a file of them is read and checked.

No TensorFlow; a pickle is read only by a reader that knows a handful of names.
"""
