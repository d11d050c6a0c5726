"""How folders and file names tell classes and splits.

Text in, text out: nothing here reads a file.
"""
