"""Files on local disks and mounted file servers."""
