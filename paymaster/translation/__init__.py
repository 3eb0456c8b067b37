"""Wire calls in neutral words, for services that speak another format."""
