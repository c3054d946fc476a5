"""Check that each row has its file (`verify`), and remove files without a row (`collect`)."""
