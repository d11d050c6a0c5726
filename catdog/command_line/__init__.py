"""Turns a command line or a YAML file into a checked config, and an error into an exit code.

It names no setting: catdog/config.py declares them all with `setting`. It imports errors and console only.
"""
