"""Where photos come from: folders and object stores, containers and lists; their keys and their bytes.

`inputs` is the way in: `list_inputs` and `read_inputs`. All folders above may import it.
"""
