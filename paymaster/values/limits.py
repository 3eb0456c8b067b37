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
STORED_REQUEST_BYTES_MAX = 12_000_000
"""A whole request of an agent whose client has external storage, as JSON: a wire call's body of 8 MB that cannot be
compressed is 10.7 MB."""
INLINE_BYTES_MAX = 2_000_000
"""A payload that is not put into external storage for its size alone."""
STARTS_BYTES_MAX = 3_000_000
"""Requests that an agent starts in one workflow task; the rest waits for the next task."""
OPERATIONS_AT_ONCE_MAX = 25
"""Nexus operations of one workflow: Temporal lets it have 30, and some are left for those of its own."""
METADATA_BYTES_MAX = 16 * 1024
"""All keys and values of a request's metadata, as UTF-8: they are in each record and each row."""
METADATA_KEYS_MAX = 100
"""Keys of a request's metadata."""
PURCHASE_BYTES_MAX = METADATA_BYTES_MAX + 4 * 1024
"""A purchase as JSON, of which its metadata are the most."""
ROUTE_BYTES_MAX = 1_000
"""A request's route, as UTF-8; the configuration allows names of 64 characters."""
BUDGETS_OF_CALL_MAX = 4
"""Budgets that one call names."""
BUDGET_BYTES_MAX = 1_000
"""A request's budget, as UTF-8, before its path is checked, which may have 200 characters."""
NESTING_MAX = 100
"""Levels of arrays and objects in JSON that passes through: the libraries write 254 and read 200, and messages add a
few of their own."""
JSON_VALUES_MAX = 50_000
"""Values of one JSON text that passes through (an answer, an event of a stream, a tool's arguments, a schema): each
becomes an object, and while they are made nothing else in the process runs."""
TOKEN_LISTS_MAX = 400_000
"""Values of a request for embeddings, whose texts may be lists of tokens; OpenAI takes 300,000 tokens at once."""
LIKELIHOODS_MAX = 200_000
"""Values of an answer with log probabilities, which are passed on and not read."""
WIRE_BYTES_MAX = 8_000_000
"""A body of a wire call, before it is compressed."""
WIRE_INLINE_BYTES_MAX = 256 * 1024
"""The body of a wire call as Temporal carries it, compressed, that the gateway starts a call with; a longer one is
stored, and the call has a reference."""
STORED_WIRE_BYTES_MAX = 32 * 1024 * 1024
"""The body of a wire call that is stored, decompressed. Anthropic and Gemini take requests of 32 MB and 20 MB."""
REQUEST_BODIES_BYTES_MAX = 4 * STORED_WIRE_BYTES_MAX
"""Stored bodies of requests, decompressed, that one worker holds at once while it measures and sends them; an attempt
holds each about three times."""
WIRE_REFUSAL_BYTES_MAX = 64 * 1024
"""A service's refusal of a wire call that the caller gets back."""
ANSWER_BYTES_MAX = 1_900_000
"""What a service answered, without the attempts, as Temporal carries it; the body of a longer one is stored."""
ANSWER_BODY_BYTES_MAX = 40_000_000
"""The body of a service's answer, decompressed; no more is read. 128,000 tokens streamed one by one are 37 MB."""
BODY_HELD_PLAIN_BYTES = 1_000_000
"""So much of an answer that is arriving is held as it is. A longer one is held compressed: many arrive at once."""
BODY_PIECE_BYTES = 1_000_000
"""A piece of a stored body, compressed: it is a row of the database and the result of one activity."""
BODY_PIECES_MAX = 50
"""Pieces of a stored body."""
STATE_OF_MESSAGE_BYTES_MAX = 512 * 1024
"""What a provider wants back with one message of its own; an answer with more of it is given without."""
COST_LINES_MAX = 40
"""Lines of the cost of one attempt; where several models had so many parts, there is one line for each kind."""
HEADERS_BYTES_MAX = 16_384
"""The headers of an answer of a service, and at most one read more: the HTTP library reads them all in one go."""

# ---------------------------------------------------------------- answers of others

KEY_ANSWER_BYTES_MAX = 256 * 1024
"""An answer of a key vault or of where we sign in to it; a secret has 25 KB at most, a token a few."""
JWKS_BYTES_MAX = 256 * 1024
"""The public keys of an identity provider; those of the largest have 20 KB."""
PRICE_LIST_BYTES_MAX = 16 * 1024 * 1024
"""A list of prices that is fetched; that of genai-prices has about 2 MB."""
COLLECTOR_ANSWER_BYTES_MAX = 64 * 1024
"""An answer of a collector of traces and metrics, of which only the status counts."""

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

# ---------------------------------------------------------------- erasing

GENERATIONS_MAX = 1_000
"""Generations of one call that an erasure by its id looks for in the rows: each is one more id in a statement."""

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

# ---------------------------------------------------------------- the configuration

BUDGETS_MAX = 10_000
"""Budgets of a configuration."""
CONFIG_PLAIN_BYTES_MAX = 256 * 1024
"""A configuration up to this size is written as it is, so that version 0.1.0 can read it. A larger one is compressed:
10,000 budgets with caps in six windows are 2.9 MB."""
CONFIG_BYTES_MAX = 8 * 1024 * 1024
"""A compressed configuration holds no more than this."""
CONFIG_PACKED_BYTES_MAX = 1_500 * 1024
"""A compressed configuration as it is sent."""
CARRIED_BYTES_MAX = 64 * 1024 * 1024
"""Compressed hold ids or cap changes hold no more than this."""
SUPERSEDED_MAX = 50
"""Earlier configurations that do not come back by themselves."""

# ---------------------------------------------------------------- the ledger's state

STATE_BYTES_MAX = 1_536 * 1024
"""The dump of a state: a payload may have 2 MiB, and the state goes on growing until the next look at it."""
STATE_BYTES_ALERT = STATE_BYTES_MAX // 2
"""From this size on there is an alert, once a day."""
STATE_BYTES_SLACK = 256 * 1024
"""Within a minute it may grow by so much more before it is measured, which takes as long as to write it."""
OLD_FORM_BYTES_MAX = TEMPORAL_PAYLOAD_BYTES - 64 * 1024
"""The dump of a state of version 0.1.0, whose form takes twice as much; a larger one goes on in the newer form."""
STATE_JSON_BYTES_MAX = 128 * 1024 * 1024
"""A state that is to be loaded holds no more than this, decompressed."""
STATE_PLAIN_BYTES_MAX = 32 * 1024 * 1024
"""The dump before it is compressed; from three quarters of it on no further calls are taken in. What is forged can be
small when it is compressed."""
LOOK_AFTER_BYTES = 64 * 1024
"""What new calls can add to the dump before the ledger looks how large it is, where there is little room; else once a
minute, and when they can have taken a part of the room."""
ACCOUNTS_MAX = BUDGETS_MAX + 2_000
"""Budgets and services, of the configuration and opened by admins."""
RUNS_KEPT_MAX = 1_000
"""Runs that admins ended, or that are held, which have an account, but for those with money on hold."""
ENDED_RUNS_MAX = 4_000
"""Ended runs without an account, of which only the name is remembered."""
REMEMBER_ENDED_MAX = 10_000
"""Ended holds that are remembered, for an hour. A reserve that is older than a forgotten one is answered `ended`."""
ENDED_IN_A_MINUTE_MAX = 36_000
"""Of the last minute so many are remembered: at 600 calls a second all of them. They take 576 KB of the state."""
UNCONFIRMED_MAX = 1_000
"""Unconfirmed holds that the desk keeps one by one; older ones are folded into sums of their accounts."""
FOLDED_AT_ONCE = 100
"""Unconfirmed holds beyond that number, and the oldest are folded."""
APPROVALS_KEPT_MAX = 500
"""Raises that approvers gave and that are remembered, at least until their window and their day are over."""
PRICES_MAX = 1_000
"""Models whose last price is remembered."""
ANSWERS_MAX = 500
"""Answers to commands of admins that are remembered; the oldest are forgotten first. Whoever asks again does so within
minutes."""
ANSWERS_BYTES_MAX = 64 * 1024
"""All of these answers."""
REFUSAL_BYTES_MAX = 4 * 1024
"""A refusal as it is remembered; the rest is cut off."""

# ---------------------------------------------------------------- what waits in the ledger for others

CAP_CHANGES_WAITING_MAX = 1_000
"""Cap changes that wait to be stored. Beyond this number admins are asked to wait for the database."""
CAPS_ENDED_MAX = 10_000
"""Cap changes that wait to be stored, with those that a configuration would make by ending what admins did."""
CANDIDATES_PARKED_MAX = 30_000
"""Candidates of all parked calls. Beyond this number no further call is parked: each is filed by what it waits for
whenever a run begins."""
CALL_MESSAGES_MAX = 10_000
"""Messages to calls that wait to be delivered. Beyond this number no further call is parked."""
CONFIG_CHANGES_MAX = 100
"""Configurations that wait to be stored. Beyond this number the oldest are left out: the last one counts."""
ALERTS_MAX = 2_000
"""Alerts that wait to be delivered. Beyond this number the oldest that wait only for the webhook are dropped, and when
there are none of them, new alerts; each is counted."""
ALERTS_BYTES_MAX = 256 * 1024
"""All alerts that wait to be delivered."""
ALERT_TEXT_BYTES_MAX = 1_000
"""The sentence of one alert, as UTF-8."""
ONCE_MAX = 1_000
"""Alerts given once for ever that are remembered."""
WHO_BYTES_MAX = 300
"""Who made a cap change, as UTF-8. The database keeps 600 characters."""
REASON_BYTES_MAX = 1_000
"""Why, likewise."""
REFUSED_KEPT = 20
"""Messages that could not be applied, in the status."""
REFUSED_ALERTS_A_MINUTE = 5
"""Alerts of messages that could not be applied. The others of the minute are counted, and told together when it is
over."""
REFUSED_BYTES_MAX = 1_000
"""What is kept of such a message, with the reason, as UTF-8."""
PAUSED_BY_BYTES_MAX = 300
"""Who paused a service, and why, as UTF-8: it is a part of what parked calls wait for."""

# ---------------------------------------------------------------- one activation of the ledger, and its answers

UPDATES_PER_RUN = 1_000
"""Updates after which the ledger begins a new run, far from the most that Temporal takes."""
COMMANDS_PER_RUN = 10_000
"""Commands in them, likewise: a worker that has lost what it had in memory of a run reads all of them again, for a
second, before it answers anybody."""
SENDERS_MAX = 1_000
"""Processes that the ledger counts as senders of updates: of more, those heard longest ago are forgotten."""
AT_ONCE_MAX = 2_000
"""Parked calls that are served in one activation of the workflow, deadlines that pass and holds that expire in it. Each
takes about 0.1 ms. What is left goes on in the next one."""
IN_VAIN_MAX = 500
"""Parked calls that are looked at in one activation and wait on: their money is spent now, say."""
COUNTING_AT_ONCE_MAX = 20
"""Parked calls that count their tokens by one service at once; the next ones do when these have, or
have not within a minute."""
LOOKED_AT_MAX = 4_000
"""Candidates of parked calls that are looked at in one activation. Each takes about 0.03 ms."""
ASKED_AT_ONCE_MAX = 12_000
"""Candidates of the calls that ask for a hold in one activation, and three more for each call. Ten updates may come
together; who asks beyond this number is parked, and looked at in the next activation."""
LOADED_AT_ONCE = 4_000
"""Accounts of which one question to the database asks what they have spent."""
PAGE_BYTES_MAX = 1024 * 1024
"""The accounts of one page of the status."""
COPY_PLAIN_BYTES_MAX = 2 * 1024
"""The changed accounts of a copy of the status are compressed above it: every copy stays in the ledger's history."""
UNCONFIRMED_SHOWN = 500
"""Unconfirmed holds in one answer, which has about a kilobyte of each."""
NOTICES_MAX = 20
"""Notices in the answer to one settlement: of the service and the nearest budgets."""
IN_THE_WAY_MAX = 5
"""Caps without room for a call that its denial has as fields; its sentence names each."""
DETAIL_BYTES_MAX = 2_000
"""The sentence of a denial, as UTF-8, of which a batch of answers has 200, or of a refusal by Nexus."""

# ---------------------------------------------------------------- messages that can be forged

COMMANDS_MAX = 1_000
"""Commands in one update of the ledger; ours have 200, and the backlog of 0.1.0 sends up to 400."""
CANDIDATES_MAX = 50
"""Candidates of a route, and of a call."""
WEIGHT_MAX = 1_000
"""Of a candidate among those that share the load with it."""
CANDIDATES_OF_UPDATE_MAX = BATCH_ITEMS_MAX * CANDIDATES_MAX
"""Candidates of all calls in one update of the ledger; ours have no more."""
MODEL_CHARACTERS_MAX = 200
"""Characters of the name of a model that is asked."""
REFUSED_CHARACTERS_MAX = 500
"""Characters of why a candidate cannot be bounded."""
TIERS_MAX = 20
"""Tiers of a price; no listed one has more than three."""
RESERVE_BYTES_MAX = 64 * 1024
"""The question of a call, which has each candidate of its route with its price: about 300 bytes each."""
ADMIN_MESSAGE_BYTES_MAX = 64 * 1024
"""A command of an admin, signal or update, before it is read."""
OFFERS_MAX = 5
"""Raises that an alert offers: each is a button."""
ALERT_PARTS_MAX = 20
"""Parts of its caps at which an account alerts."""
CONFIG_ACCOUNTS_MAX = 2 * BUDGETS_MAX
"""Budgets of a configuration before it is read: 0.1.0 had no bound of its own, and ours is kept by who sends it."""
CONFIG_VALUES_MAX = 155_000
"""Values of a configuration, and strings, of which each key is one: 10,000 budgets with caps in six windows have
150,000 and 120,000."""
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
WINDOWS_MAX = 100
"""Caps of one account; there are six windows."""
ERRORS_TOLD_MAX = 100
"""Errors in one message that are told one by one; of more, only how many."""
