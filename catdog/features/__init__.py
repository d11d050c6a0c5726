"""The trunk pass: `extract` runs photos through the frozen layers of `trunk` once, on the cluster; `cache` stores
the features, and `rows` gives a train worker its share. Imports model and below; Ray Data does the work.
"""
