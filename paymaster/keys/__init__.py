"""Where API keys and tokens come from."""
