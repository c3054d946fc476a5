"""
All that touches DataJoint.

The `codec`, an `insertion` and its `outcome`, what a `catalog` says of columns and rows, and
`patches`, one a fault of DataJoint's.
"""
