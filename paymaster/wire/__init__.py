"""Calls in a provider's own format: what their bodies ask for, and how little of them is changed."""
