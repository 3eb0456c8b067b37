"""Administration over HTTP: what the commands of the CLI do, as JSON."""
