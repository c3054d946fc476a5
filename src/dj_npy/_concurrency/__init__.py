"""
Work in threads: side by side, ahead of who needs it, and stopped by Ctrl-C.

Knows no arrays and no files.
"""
