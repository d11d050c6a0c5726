"""The classifier: backbones and their weights, the saved model, the engines that run it, exports.

The only folder with modules that import TensorFlow at module level. Imports photos and the layers below it.
"""
