"""Where photos come from: folders and object stores, containers and lists. Their keys and their bytes.

`inputs` is the entry point: `list_inputs` and `read_inputs`. All folders above may import it.
"""
