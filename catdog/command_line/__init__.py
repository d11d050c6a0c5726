"""From the words of a command line or a YAML file to a checked config, and from an error to an exit code.

No setting is named here: catdog/config.py declares them all with `setting`, and only errors and console lie below.
"""
