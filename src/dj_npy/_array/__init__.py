"""
What the user holds: `ref`, and below it the `file` of one row, read whole, in parts or as a map.

Knows stores and rows; no SQL.
"""
