"""Erasing what is stored of some calls' prompts and answers, and keeping what they cost."""
