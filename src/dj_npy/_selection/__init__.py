"""
From an index to the bytes of a file that it needs, and from these to the result. No I/O.

`index` says what is selected, `plan` which bytes that is, `parts` what a store is asked for.
"""
