"""Trials: what runs in a trial's process, what it reports, and what the driver keeps of it.

Only the tune job imports it, and late: most of these modules import Ray at their top.
"""
