"""The counts of an answer, taken apart so that no token is counted twice."""

from collections.abc import Sequence

from paymaster.providers.provider import WireUsage
from paymaster.values.cost_lines import Kind


def counted_kinds(usage: WireUsage) -> dict[Kind, int]:
    """How many of each kind there were; kinds without any are left out.

    The kinds of input together are `input_tokens`, those of output `output_tokens`. Where counts contradict each other
    a part is never larger than the whole that it is of; more cached and written tokens than input are kept all the
    same, because they are charged.
    """
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    cached = _split(
        read,
        Kind.CACHED_INPUT,
        [
            (Kind.CACHED_AUDIO, usage.cached_audio_tokens),
            (Kind.CACHED_IMAGE, usage.cached_image_tokens),
            (Kind.CACHED_VIDEO, usage.cached_video_tokens),
        ],
    )
    kept = _split(written, Kind.CACHE_WRITE, [(Kind.CACHE_WRITE_1H, usage.cache_write_1h_tokens)])
    plain = _split(
        max(0, usage.input_tokens - read - written),
        Kind.INPUT,
        [
            (Kind.INPUT_AUDIO, usage.input_audio_tokens - usage.cached_audio_tokens),
            (Kind.INPUT_IMAGE, usage.input_image_tokens - usage.cached_image_tokens),
            (Kind.INPUT_VIDEO, usage.input_video_tokens - usage.cached_video_tokens),
        ],
    )
    made = _split(
        usage.output_tokens,
        Kind.OUTPUT,
        [
            (Kind.OUTPUT_AUDIO, usage.output_audio_tokens),
            (Kind.OUTPUT_IMAGE, usage.output_image_tokens),
            (Kind.OUTPUT_VIDEO, usage.output_video_tokens),
            (Kind.REASONING, usage.reasoning_tokens),
        ],
    )
    found = plain | cached | kept | made | {Kind.WEB_SEARCH: usage.web_searches}
    return {kind: count for kind, count in found.items() if count}


def _split(whole: int, rest: Kind, parts: Sequence[tuple[Kind, int]]) -> dict[Kind, int]:
    """The parts, as far as the whole has them, and what is left of it."""
    found: dict[Kind, int] = {}
    left = whole
    for kind, count in parts:
        found[kind] = min(max(0, count), left)
        left -= found[kind]
    return found | {rest: left}
