"""The tools of an agent that is asked for the weather, and what is asked."""

PROMPT = "How warm is it in Oslo, in Fahrenheit?"


def celsius(city: str) -> str:
    """The temperature of a city."""
    return f"10 in {city}"


def fahrenheit(celsius: int) -> str:
    """A temperature in Fahrenheit."""
    return str(celsius * 9 // 5 + 32)
