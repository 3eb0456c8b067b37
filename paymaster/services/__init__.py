"""How to talk to each kind of service: one pure file for each wire format, and what they share."""
