"""Where arrays are, and how they get to another store (`usage`, `move`, `relocate`)."""
