"""The Ray cluster: connect to it, plan what a job reserves, run tasks and actors, report lost nodes and processes.

Ray is imported inside functions, so that `--help` stays fast. Imports storage and below.
"""
