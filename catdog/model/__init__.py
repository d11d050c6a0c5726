"""The classifier: backbones and their weights, the saved model, the engines that run it, exports.

The only folder whose modules import TensorFlow at their top. Imports photos and below.
"""
