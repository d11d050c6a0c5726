"""Files on disks and object stores: reading, writing whole or not at all, finished artifacts, stored schemas.

Imports config and below only; every folder above may import it.
"""
