"""Trials: what runs in a trial's process, what it reports, and what the driver keeps of it.

Imported late by the tune job alone: most of these modules need Ray at their top.
"""
