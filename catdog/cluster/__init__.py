"""The Ray cluster: environment, connection, what it has, what a job asks of it, lost processes and nodes.

Ray is imported inside functions, so that `--help` stays fast. Imports storage and below.
"""
