"""How folders and file names tell classes and splits."""
