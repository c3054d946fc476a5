"""
Where arrays are, and how they and their rows get elsewhere.

`usage` counts; `migrate` changes a column's type; `move` and `relocate` change the store; `export`
and `importing` write and read packages; `backup`, `restore` and `rebuild` bring rows back.

What they share: `definitions` reads tables, `declaring` makes them; `selection` reads rows as the
text of `values`, `rowfiles` keeps that in files of a `place`, and `incoming` takes it in.
"""
