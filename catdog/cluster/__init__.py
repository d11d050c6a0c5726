"""The Ray cluster: connect to it, plan what a job reserves of it, run actors on it, tell of what it loses.

Ray is imported inside functions, so that `--help` stays fast. Imports storage and below.
"""
