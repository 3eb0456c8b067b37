"""The HTTP formats of LLM providers, and how their answers and failures are judged."""
