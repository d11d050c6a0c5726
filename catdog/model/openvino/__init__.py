"""The classifier in OpenVINO: its graph from the weights, and the graph in int8. TensorFlow is not needed.

The model folder and `features` import it.
"""
