"""
References (`ref`) and the `file` of one row, read whole, in parts or as a memory map.

Knows stores and rows, but no SQL.
"""
