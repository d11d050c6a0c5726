"""The predict job: any folder of photos to prediction rows, each photo exactly once.

Imports features, report and below; nothing of training.
"""
