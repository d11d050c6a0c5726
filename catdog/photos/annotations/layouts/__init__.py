"""How folder and file names determine classes and splits.

Text in, text out: nothing here reads a file.
"""
