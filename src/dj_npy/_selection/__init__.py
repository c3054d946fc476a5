"""
From an index to the bytes it needs from a file, and back to the result. No I/O.

`index` resolves a selection, `plan` turns it into bytes to read, `parts` are those reads.
"""
