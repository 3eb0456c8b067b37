"""Nexus operations, one a file: how callers of other namespaces ask."""
