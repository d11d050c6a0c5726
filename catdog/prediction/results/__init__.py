"""The rows of a predict job: built, stored in parts, joined into the files of the result."""
