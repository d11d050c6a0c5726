"""Photos laid out by label: the names they want (`names`), who gets each (`claims`), and placing them (`placement`).

Only the job and its output import it.
"""
