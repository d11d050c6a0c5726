"""The classifier in OpenVINO: its graph, built from the weights, and the same graph in int8. Needs no TensorFlow.

The model folder and `features` import it.
"""
