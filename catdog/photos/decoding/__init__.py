"""From a photo's bytes to pixels, within limits of size, memory and work; every failure is one ImageError.

All folders above may import it.
"""
