"""How good a classifier is: metrics, calibration, label errors, near-duplicates, predictions of held-out photos.

Pure functions on arrays and tables; no Ray, no TensorFlow. Imports storage and the layers below it.
"""
