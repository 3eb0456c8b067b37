"""What one call needs to know of itself, without any I/O: its limits, its output, its usage."""
