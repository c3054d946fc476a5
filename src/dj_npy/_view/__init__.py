"""
The page of ``dj-npy view``: what a browser on this machine asks for, and the answers.

`server` lets in nobody but the user, `database` reads without writing and not for long, `catalog`
has tables and rows, `arrays` finds an array and reads parts of it, `trace`, `overview` and `movie`
make what is drawn. No answer costs more than the bounds in these modules, whatever is asked.
"""
