"""The gateway: an HTTP server by which whatever speaks a provider's API makes calls of Paymaster."""
