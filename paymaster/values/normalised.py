"""How long a text can become when a tokenizer normalises it first."""

import unicodedata

_PIECE = 128
"""Characters that are normalised together: Python sorts a run of combining marks in a time that grows with the square
of its length."""
_MARKS_USUAL = 8
"""In a row; more than these are taken for a text that is none."""


def utf8_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def normalised_bytes(text: str) -> int:
    """The bytes of a text's NFKC form; a little more for marks in unusual places, never less.

    Takes a fraction of a second for two megabytes of whatever characters.
    """
    if text.isascii():
        return len(text)
    grown = 0
    for character in set(text):  # many that grow much are counted: to write them out takes a second
        if unicodedata.decomposition(character) and len(unicodedata.normalize("NFKC", character)) > 2:
            times = text.count(character)
            if times > 1_000:
                grown += times * (utf8_length(unicodedata.normalize("NFKD", character)) - 1)
                text = text.replace(character, " ")
    begin, follows = 0, True
    while begin < len(text):
        end = _end_of_piece(text, begin)
        whole = end == len(text) or not _joins(text[end])
        # What is joined is never longer than its parts; only a piece between two characters that join nothing with
        # their neighbours is as long by itself as it is within the text.
        form = "NFKC" if follows and whole else "NFKD"
        grown += utf8_length(unicodedata.normalize(form, text[begin:end]))
        begin, follows = end, whole
    return grown


def _end_of_piece(text: str, begin: int) -> int:
    """Where nothing is joined across, if there is such a place."""
    latest = min(begin + _PIECE, len(text))
    if latest == len(text):
        return latest
    return next((end for end in range(latest, latest - _MARKS_USUAL, -1) if not _joins(text[end])), latest)


def _joins(character: str) -> bool:
    """Whether it is, or begins with, a mark that belongs to the character before it."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0
