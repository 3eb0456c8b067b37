"""Numbers with their nouns, as people write them."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2,000 rows`. `many` None: the plural has an s more."""
    return f"1 {one}" if number == 1 else f"{number:,} {many or one + 's'}"
