"""All tables may be published, and the sums are added up as their owner.

A copy by logical replication, as for a move to another server, publishes every table. PostgreSQL then refuses to change
or to delete what the copy could not find: rows of a table without a key, and from version 18 on rows whose key is
generated. Those who store rows need no privilege for the function that adds up their sums.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

_KEYED = """
CREATE OR REPLACE FUNCTION usage_hourly_keyed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.key := {schema}.usage_hourly_key(
        NEW.ledger, NEW.hour, NEW.budget, NEW.charged_budgets, NEW.service, NEW.model, NEW.state);
    RETURN NEW;
END
$$
"""
_IDENTIFY = """
-- What tells the rows of a partition apart.
CREATE OR REPLACE FUNCTION usage_entries_identify(name regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', name, (
        SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = name AND indisunique));
END
$$
"""
_COLUMNS = """
    attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service, model, model_answered,
    granted_at, started_at, duration_ms, status, error_class, http_status, provider_request_id, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, price_source, metadata,
    recorded_at, paid_for, dialect, charged_budgets, run
"""
_MAKE = f"""
-- A partition for each month from the first to the last, as its owner. What is granted in a month that has none goes to
-- the default one, and from there to the month's own when that is made.
CREATE OR REPLACE FUNCTION usage_entries_make(first date, last date) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    month timestamptz; made int := 0; name text;
BEGIN
    PERFORM pg_advisory_xact_lock(729562431, 0);
    FOR month IN SELECT generate_series(date_trunc('month', first::timestamp), last::timestamp, '1 month') LOOP
        name := 'usage_entries_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL OR month < (SELECT ends_at FROM usage_entries_begin);
        EXECUTE format(
            'CREATE TABLE %I (LIKE usage_entries INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)', name);
        LOCK TABLE usage_entries_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format(
            'WITH moved AS (DELETE FROM usage_entries_default WHERE granted_at >= $1 AND granted_at < $2 RETURNING *) '
            'INSERT INTO %I (id, {" ".join(_COLUMNS.split())}) SELECT id, {" ".join(_COLUMNS.split())} FROM moved',
            name) USING month, month + interval '1 month';
        EXECUTE format('ALTER TABLE usage_entries ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            name, month, month + interval '1 month');
        PERFORM usage_entries_identify(name::regclass);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$
"""  # noqa: S608
_COUNT = """
CREATE OR REPLACE FUNCTION usage_hourly_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    stored text := current_setting('paymaster.stored', true);
BEGIN
    IF stored <> '' THEN  -- the first of this transaction's rows counts all of them
        PERFORM set_config('paymaster.stored', '', true);
        PERFORM usage_hourly_add(('[' || stored || ']')::jsonb);
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.execute("ALTER TABLE usage_hourly ALTER COLUMN key DROP EXPRESSION")
    op.execute(_KEYED.format(schema=op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))))
    op.execute(
        "CREATE TRIGGER usage_hourly_keyed BEFORE INSERT ON usage_hourly "
        "FOR EACH ROW EXECUTE FUNCTION usage_hourly_keyed()"
    )
    op.execute(_IDENTIFY)
    op.execute(_MAKE)
    # Those of the table of before have a key of their own.
    op.execute(
        "SELECT usage_entries_identify(oid::regclass) FROM pg_class "
        "WHERE oid IN (SELECT 'usage_entries'::regclass UNION ALL "
        "SELECT inhrelid FROM pg_inherits WHERE inhparent = 'usage_entries'::regclass) AND relname <> 'api_usage'"
    )
    op.execute(_COUNT)
