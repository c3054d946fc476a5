"""
Threads: parallel work, read-ahead, cancellation by Ctrl-C, and progress bars.

Knows nothing of arrays or files.
"""
