"""What the tests share: servers, faults, arrays, processes."""
