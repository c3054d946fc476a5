"""Files on disks of this machine, and on file servers that are mounted."""
