"""How costs grow with the number of photos: whole jobs on more and more photos, and jobs whose photos cost nothing.

Only the benchmark imports it.
"""
