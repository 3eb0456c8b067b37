"""What each message, batch, record, state and history may be: docs/limits.md has the same figures, with who checks them
and what happens at each. Sizes are bytes of JSON in UTF-8, unless a constant says otherwise."""

# ---------------------------------------------------------------- Temporal's own; nothing of ours may reach them

TEMPORAL_PAYLOAD_BYTES = 2 * 1024 * 1024
"""One argument or result. The SDK refuses a larger one on the client; inside a workflow its task fails for ever."""
TEMPORAL_TASK_BYTES = 4 * 1024 * 1024
"""All commands of one workflow task together. Server 1.32 ends the workflow beyond it, older ones leave it retrying."""
TEMPORAL_HISTORY_BYTES = 50 * 1024 * 1024
"""The history of one run. The server ends the workflow beyond it; it suggests continue-as-new at 4 MiB."""
TEMPORAL_HISTORY_EVENTS = 51_200
"""Events of one run. The server ends the workflow beyond it; it suggests continue-as-new at 4,096."""
TEMPORAL_UPDATES_PER_RUN = 2_000
"""Updates that one run takes; further ones are refused until it has continued as new."""
TEMPORAL_UPDATES_IN_FLIGHT = 10
"""Updates to one workflow that wait for an answer; further ones are refused until one has it."""

# ---------------------------------------------------------------- requests and answers

REQUEST_BYTES_MAX = 1_900_000
"""A whole request; with it travel its grant and, where it is on, its encryption."""
METADATA_BYTES_MAX = 16 * 1024
"""All keys and values of a request's metadata, as UTF-8: they are in each record and each row."""
METADATA_KEYS_MAX = 100
"""Keys of a request's metadata."""
ROUTE_BYTES_MAX = 1_000
"""A request's route, as UTF-8; the configuration allows names of 64 characters."""
BUDGET_BYTES_MAX = 1_000
"""A request's budget, as UTF-8, before its path is checked, which may have 200 characters."""
NESTING_MAX = 100
"""Levels of arrays and objects in JSON that passes through: the libraries write 254 and read 200, and messages add a
few of their own."""
JSON_VALUES_MAX = 50_000
"""Values of one JSON text that passes through (an answer, an event of a stream, a tool's arguments, a schema): each
becomes an object, and while they are made nothing else in the process runs."""
ANSWER_BYTES_MAX = 1_900_000
"""What a service answered, without the attempts; what is longer Temporal turns into a failure without its cost."""
HEADERS_BYTES_MAX = 16_384
"""The headers of an answer of a service, and at most one read more: the HTTP library reads them all in one go."""

# ---------------------------------------------------------------- batches

BATCH_ITEMS_MAX = 200
"""Items that go together: commands in an update, reports or records in a signal, rows in a statement."""
BATCH_BYTES_MAX = 512 * 1024
"""Such a batch; an item that is larger goes alone."""

# ---------------------------------------------------------------- failures

FAILURE_MESSAGE_BYTES_MAX = 8 * 1024
"""The message of one failure in a history, as UTF-8; the rest is cut off."""
FAILURE_TRACEBACK_BYTES_MAX = 16 * 1024
"""The traceback of one failure in a history, as UTF-8; the rest is cut off."""

# ---------------------------------------------------------------- the usage backlog

PIECE_BYTES_MAX = 1_000_000
"""What one workflow of the usage backlog takes through continue-as-new, or over from another, before it is compressed:
packed as base64 even what cannot be compressed stays below 1.4 MB."""
BACKLOG_HISTORY_BYTES_MAX = 8 * 1024 * 1024
"""The history of a run of the usage backlog: senders wait until the next run has begun, which Temporal suggests at half
of it. Each process sends half a MiB before it looks again."""
BACKLOG_EVENTS_MAX = 5_000
"""Its events, likewise; a run takes 10,000 signals."""
SET_ASIDE_BYTES_MAX = 200_000
"""Records that are refused for good, kept without their metadata; the oldest are then only counted and summed up."""

# ---------------------------------------------------------------- the ledger's state

LOOK_AFTER_BYTES = 64 * 1024
"""So many bytes of new calls, as messages, and the ledger looks how large its state is; else once a minute."""

# ---------------------------------------------------------------- messages that can be forged

COMMANDS_MAX = 1_000
"""Commands in one update of the ledger; ours have 200, and the backlog of 0.1.0 sends up to 400."""
RESERVE_BYTES_MAX = 64 * 1024
"""The question of a call, which has each candidate of its route with its price: about 300 bytes each."""
ADMIN_MESSAGE_BYTES_MAX = 64 * 1024
"""A command of an admin, signal or update, before it is read."""
CONFIG_VALUES_MAX = 150_000
"""Values of a configuration that comes as plain JSON, as 0.1.0 sends the largest; ours is compressed above 256 KiB."""
TIME_MS_MAX = 4_102_444_800_000
"""The latest time that a message may name, in milliseconds: the year 2100."""
DURATION_MS_MAX = 366 * 86_400_000
"""The longest duration that a message may name, in milliseconds: as in the configuration, 366 days."""
COUNT_MAX = 10**18
"""The largest number that a message may name of tokens, requests, calls and the like."""
ID_CHARACTERS_MAX = 300
"""Characters of the id of a hold, a run or a configuration; ours have at most 64."""
NAME_CHARACTERS_MAX = 1_000
"""Characters of a name: of a workflow, a budget, a service, a model, the source of a price."""
SERVICES_MAX = 1_000
"""Services of a configuration, and items of the lists in it."""
