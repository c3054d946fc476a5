"""
Formats of files, paths and rows, and the arrays that survive a round trip.

No I/O, no stores, no database.
"""
