"""The page of a train job (`report`): sections on scores and on photos, and heatmaps of what the model looked at.

The job imports it, and the train worker the heatmaps.
"""
