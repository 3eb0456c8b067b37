"""What the rows of each hour sum up to, for reports over years.

Triggers keep the sums, so that workers of every version do: what is stored, and what it changes in the sums, is one
transaction. They work when that commits: whoever stores rows holds the sums of their hour for no longer than that, and
no two that store the same rows wait for each other. What was stored before is summed up by
`paymaster.storage.hourly_sums.fill`, which runs after this migration and before the next one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"

_KEY = """
CREATE OR REPLACE FUNCTION usage_hourly_key(
    ledger text, hour timestamptz, budget text, charged_budgets text[], service text, model text, state text
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(jsonb_build_array(
        ledger, extract(epoch FROM hour)::bigint, budget, charged_budgets, service, model, state
    )::text, 'UTF8'))
$$
"""
_NOTE = """
CREATE OR REPLACE FUNCTION usage_hourly_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('paymaster.stored', coalesce(nullif(current_setting('paymaster.stored', true), '') || ',', '')
        || jsonb_build_array(NEW.ledger, NEW.call_id, NEW.id)::text, true);
    RETURN NULL;
END
$$
"""
_COUNT = """
CREATE OR REPLACE FUNCTION usage_hourly_count() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stored text := current_setting('paymaster.stored', true);
BEGIN
    IF stored <> '' THEN  -- the first of this transaction's rows counts all of them
        PERFORM set_config('paymaster.stored', '', true);
        PERFORM {schema}.usage_hourly_add(('[' || stored || ']')::jsonb);
    END IF;
    RETURN NULL;
END
$$
"""
_ADD = """
-- What rows change is the difference between the sums of their calls with them and without them.
CREATE OR REPLACE FUNCTION usage_hourly_add(stored jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    -- One transaction of a ledger at a time: each sees what those before it have counted.
    PERFORM pg_advisory_xact_lock(729562430, ledger) FROM (
        SELECT DISTINCT hashtext(row ->> 0) AS ledger FROM jsonb_array_elements(stored) AS row ORDER BY 1
    ) AS ledgers;
    WITH new AS (
        SELECT row ->> 0 AS ledger, row ->> 1 AS call_id, (row ->> 2)::bigint AS id
        FROM jsonb_array_elements(stored) AS row
    ), of_calls AS (
        SELECT rows.*, rows.id IN (SELECT id FROM new) AS is_new
        FROM (SELECT DISTINCT ledger, call_id FROM new) AS calls JOIN usage_hourly_rows AS rows USING (ledger, call_id)
    ), judged AS (
        SELECT *, bool_or(state = 'final') OVER same_attempt AS has_final,
               bool_or(state = 'final' AND NOT is_new) OVER same_attempt AS had_final
        FROM of_calls WINDOW same_attempt AS (PARTITION BY attempt_id, granted_at)
    ), counted AS (
        SELECT 1 AS sign, * FROM judged WHERE state = 'final' OR NOT has_final
        UNION ALL
        SELECT -1, * FROM judged WHERE NOT is_new AND (state = 'final' OR NOT had_final)
    ), ranked AS (
        SELECT *,
               (row_number() OVER (of_call ORDER BY attempt_id COLLATE "C") = 1)::int AS first,
               (row_number() OVER (PARTITION BY sign, ledger, call_id, run_id, service
                                   ORDER BY attempt_id COLLATE "C") = 1)::int AS first_of_service,
               (row_number() OVER (PARTITION BY sign, ledger, call_id, run_id, model
                                   ORDER BY attempt_id COLLATE "C") = 1)::int AS first_of_model,
               (row_number() OVER (PARTITION BY sign, ledger, call_id, run_id, service, model
                                   ORDER BY attempt_id COLLATE "C") = 1)::int AS first_of_candidate
        FROM counted WINDOW of_call AS (PARTITION BY sign, ledger, call_id, run_id)
    )
    INSERT INTO usage_hourly AS sums (
        ledger, hour, budget, charged_budgets, service, model, state, entries, attempts, calls, calls_of_service,
        calls_of_model, calls_of_candidate, reported, input_tokens, cached_input_tokens, cache_write_tokens,
        output_tokens, reasoning_tokens, cost_usd
    )
    SELECT ledger, date_trunc('hour', granted_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', budget, charged_budgets,
           service, model, state,
           sum(sign), coalesce(sum(sign) FILTER (WHERE status NOT IN ('expired', 'corrected')), 0),
           sum(sign * first), sum(sign * first_of_service), sum(sign * first_of_model), sum(sign * first_of_candidate),
           coalesce(sum(sign) FILTER (WHERE input_tokens IS NOT NULL), 0),
           coalesce(sum(sign * input_tokens::numeric), 0), coalesce(sum(sign * cached_input_tokens::numeric), 0),
           coalesce(sum(sign * cache_write_tokens::numeric), 0), coalesce(sum(sign * output_tokens::numeric), 0),
           coalesce(sum(sign * reasoning_tokens::numeric), 0), sum(sign * cost_usd)
    FROM ranked
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (key) DO UPDATE SET
        entries = sums.entries + excluded.entries,
        attempts = sums.attempts + excluded.attempts,
        calls = sums.calls + excluded.calls,
        calls_of_service = sums.calls_of_service + excluded.calls_of_service,
        calls_of_model = sums.calls_of_model + excluded.calls_of_model,
        calls_of_candidate = sums.calls_of_candidate + excluded.calls_of_candidate,
        reported = sums.reported + excluded.reported,
        input_tokens = sums.input_tokens + excluded.input_tokens,
        cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = sums.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = sums.output_tokens + excluded.output_tokens,
        reasoning_tokens = sums.reasoning_tokens + excluded.reasoning_tokens,
        cost_usd = sums.cost_usd + excluded.cost_usd;
END
$$
"""
_ROWS = """
CREATE VIEW usage_hourly_rows AS
SELECT id, ledger, call_id, run_id, attempt_id, granted_at, budget, charged_budgets, service, model, state, status,
       input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd
FROM api_usage
"""


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("usage_hourly"):
        return  # it was there before the schema was called an older one again
    op.execute(_KEY)
    op.create_table(
        "usage_hourly",
        sa.Column(
            "key",
            sa.LargeBinary,
            sa.Computed(
                "usage_hourly_key(ledger, hour, budget, charged_budgets, service, model, state)", persisted=True
            ),
            primary_key=True,
            comment="of what the sums are for, which may be too long for an index",
        ),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False, comment="of the grant, UTC"),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("charged_budgets", postgresql.ARRAY(sa.Text), comment="as in the rows"),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        _count("entries", "rows that count; 0: none is left"),
        _count("attempts", "of these the requests: neither expired holds nor corrections"),
        _count("calls", "whose first attempt is here; a call is counted once"),
        _count("calls_of_service", "likewise of the first attempts with this service"),
        _count("calls_of_model", "likewise of the first attempts with a model of this name"),
        _count("calls_of_candidate", "likewise of the first attempts with this model of this service"),
        _count("reported", "rows that have tokens"),
        *(sa.Column(name, sa.Numeric, nullable=False) for name in _TOKENS),
        sa.Column("cost_usd", sa.Numeric, nullable=False),
        comment="Sums of api_usage_counted. Only its trigger writes here.",
    )
    op.create_index("usage_hourly_ledger_hour_idx", "usage_hourly", ["ledger", "hour"])
    # Those of the hour that goes on are written again and again: room in each page keeps new versions beside old ones.
    op.execute("ALTER TABLE usage_hourly SET (fillfactor = 50)")
    op.execute(_ROWS)
    op.execute(_NOTE)
    op.execute(_ADD)
    op.execute(_COUNT.format(schema=op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))))
    op.execute("LOCK TABLE api_usage IN SHARE ROW EXCLUSIVE MODE")
    op.execute(
        "CREATE TRIGGER usage_hourly_note AFTER INSERT ON api_usage FOR EACH ROW EXECUTE FUNCTION usage_hourly_note()"
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER usage_hourly_count AFTER INSERT ON api_usage "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION usage_hourly_count()"
    )
    # Nobody stores anything now, so what is there is what the trigger did not see.
    op.execute("CREATE TABLE usage_hourly_unfilled AS SELECT coalesce(max(id), 0) AS last_id FROM api_usage")


_TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def _count(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, comment=comment)
