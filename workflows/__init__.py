"""Deterministic code: the way of one call, the budget's durable shell, and the example agent."""
