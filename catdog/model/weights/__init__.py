"""Pretrained weights: where they are found, how a file of them is read and checked.

No TensorFlow, and nothing is unpickled but by the allow-listed reader.
"""
