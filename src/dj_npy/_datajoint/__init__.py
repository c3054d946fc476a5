"""
Everything that touches DataJoint.

The `codec`, an `insertion` and its `outcome`, the `catalog` of columns and rows, and `patches`, one
per fault of DataJoint; those of a fetch are in `fetching`.
"""
