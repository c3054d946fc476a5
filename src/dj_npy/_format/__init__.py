"""
What a file, a path and a row say, and which arrays they give back as they were.

No I/O, no stores, no database.
"""
