"""Whether each row has its file (`verify`), and which files have no row (`collect`)."""
