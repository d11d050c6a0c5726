"""Files on local disks and object stores: whole writes, finished artifacts, schemas, and whose folder it is.

Imports the command line's settings, config, console and errors only; every folder above may import it.
"""
