"""The frozen stage as one convex problem: solved (`logistic_head`), in mini-batches (`head_batches`), as a stage
(`frozen_head`), in a classifier without TensorFlow (`head_network`). Trials of a sweep import it too.
"""
