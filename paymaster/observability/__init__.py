"""Logs, metrics, traces, health, and what people see in the Temporal UI."""
