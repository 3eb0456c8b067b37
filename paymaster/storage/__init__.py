"""PostgreSQL: what is written there and read back."""
