"""What Paymaster's parts can do: `make bench`."""
