"""The frozen stage as one convex problem: `logistic_head` solves it, `head_batches` trains it in mini-batches,
`frozen_head` is the stage, `head_network` the classifier without TensorFlow. Trials of a sweep import it too.
"""
