"""The predict job: it turns any folder of photos into prediction rows, exactly one for each photo.

It may import features, report and the layers below, but nothing from training.
"""
