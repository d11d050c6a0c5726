"""The tune job: a sweep of trials over Ray Tune on shared features.

A trial runs the stages that a train job runs. Imports training and below.
"""
