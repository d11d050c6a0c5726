"""The trunk pass: photos through the frozen layers, once over the cluster, to cached or streamed feature rows.

Ray Data does the work. Imports model and below.
"""
