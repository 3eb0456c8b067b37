"""Answers that are handed on while they come: what workers and gateways have in common, and the worker's side."""
