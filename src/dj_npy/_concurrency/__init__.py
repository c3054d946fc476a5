"""
Threads and an event loop: parallel work, read-ahead, cancellation by Ctrl-C, and progress bars.

Knows nothing of arrays or files.
"""
