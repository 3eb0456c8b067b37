"""Admission decides which call may spend what, when. Pure code: no clock, no randomness, no I/O, no Temporal."""
