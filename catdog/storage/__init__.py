"""Files on local disks and object stores: atomic writes, finished artifacts, schemas, and ownership of folders.

Imports the command line's settings, config, console and errors only; every folder above may import it.
"""
