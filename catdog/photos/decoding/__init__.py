"""From a photo's bytes to pixels, within limits on size, memory and work. Every failure is an ImageError.

All folders above may import it.
"""
