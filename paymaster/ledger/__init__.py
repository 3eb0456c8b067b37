"""The budget workflow seen from outside: commands to it, and what waits for it."""
