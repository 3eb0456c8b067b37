"""How many tokens a request has, from its bytes, before anybody has counted them."""

BYTES_PER_TOKEN = 4
"""For the estimate that rate limits are charged with before the call: English text has about 4.5 bytes a token. What it
is wrong by is corrected when the call has ended."""
INPUT_OVERHEAD_TOKENS = 1_024
"""Input tokens never exceeded the request's bytes plus this in 1,259 of 1,260 recorded text-only calls to 12 hosts; the
one exception searched the web by itself. The largest overhead seen over the bytes was 629 (a hidden system prompt)."""
TOKENS_NOT_ESTIMATED_MAX = INPUT_OVERHEAD_TOKENS + BYTES_PER_TOKEN - 1
"""No attempt has more tokens than its estimate times `BYTES_PER_TOKEN`, and these."""
