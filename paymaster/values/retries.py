"""How waits before another attempt are spread."""

JITTER = 0.2
"""Calls that failed together come back spread over so much of their wait. Temporal's own retries would all come at the
same moment."""
