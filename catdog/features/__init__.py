"""The trunk pass: `extract` takes photos through the frozen layers of `trunk` once, over the cluster; `cache` stores
the features, `rows` hands a train worker its share. Imports model and below; Ray Data does the work.
"""
