"""How cost grows with photos: whole jobs on more and more of them, and what remains where photos cost nothing.

Only the benchmark imports it.
"""
