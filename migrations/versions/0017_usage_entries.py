"""The table of which the rows are partitions: the old one, and one for each month after it.

The new table cannot have the old one's name: workers of 0.1.0 say ON CONFLICT (attempt_id, state), which a table that
is partitioned by time can have no index for. They go on with `api_usage`, which becomes a partition with the rows of
before, under its name; what it cannot hold goes to the others. Attaching it needs no more than a moment's lock, because
`paymaster.storage.partitions.prepare`, which runs after this migration and before the next one, has checked its rows
and made its index while workers go on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_COLUMNS = """
    attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service, model, model_answered,
    granted_at, started_at, duration_ms, status, error_class, http_status, provider_request_id, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, price_source, metadata,
    recorded_at, paid_for, dialect, charged_budgets, run
"""
_ROUTE = f"""
-- For workers that store into the table of before what is granted after its end.
CREATE FUNCTION api_usage_route() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO usage_entries (id, {_COLUMNS})
    VALUES (NEW.id, {", ".join(f"NEW.{name.strip()}" for name in _COLUMNS.split(","))}) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""  # noqa: S608
_MAKE = f"""
-- A partition for each month from the first to the last, as its owner. What is granted in a month that has none goes to
-- the default one, and from there to the month's own when that is made.
CREATE FUNCTION usage_entries_make(first date, last date) RETURNS int
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
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$
"""  # noqa: S608
_ATTACH = """
-- A moment's work where the rows are checked and the index is there.
CREATE FUNCTION usage_entries_attach() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    routed jsonb;
BEGIN
    LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE;
    -- No trigger has seen what came here from the table of before, because it was granted after its end.
    SELECT jsonb_agg(jsonb_build_array(ledger, call_id, id)) INTO routed FROM usage_entries;
    CREATE SEQUENCE usage_entries_id_seq OWNED BY usage_entries.id;
    GRANT USAGE ON SEQUENCE usage_entries_id_seq TO PUBLIC;  -- as nobody needs a privilege for an identity's
    PERFORM setval('usage_entries_id_seq', nextval(pg_get_serial_sequence('api_usage', 'id')));
    ALTER TABLE api_usage ALTER COLUMN id DROP IDENTITY;
    ALTER TABLE api_usage ALTER COLUMN id SET DEFAULT nextval('usage_entries_id_seq');
    ALTER TABLE usage_entries ALTER COLUMN id SET DEFAULT nextval('usage_entries_id_seq');
    DROP TRIGGER usage_hourly_note ON api_usage;
    DROP TRIGGER usage_hourly_count ON api_usage;
    EXECUTE format('ALTER TABLE usage_entries ATTACH PARTITION api_usage FOR VALUES FROM (MINVALUE) TO (%L)',
        (SELECT ends_at FROM usage_entries_begin));
    ALTER TABLE api_usage DROP CONSTRAINT api_usage_ends;
    -- What moves from one partition to another is counted already.
    CREATE TRIGGER usage_hourly_note AFTER INSERT ON usage_entries FOR EACH ROW
        WHEN (current_setting('paymaster.moves_rows', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION usage_hourly_note();
    CREATE CONSTRAINT TRIGGER usage_hourly_count AFTER INSERT ON usage_entries DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION usage_hourly_count();
    CREATE OR REPLACE VIEW usage_hourly_rows AS
    SELECT id, ledger, call_id, run_id, attempt_id, granted_at, budget, charged_budgets, service, model, state, status,
           input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd
    FROM usage_entries;
    CREATE OR REPLACE VIEW api_usage_counted AS
    SELECT * FROM usage_entries WHERE state = 'final'
    UNION ALL
    SELECT * FROM usage_entries AS entry
    WHERE entry.state = 'unconfirmed' AND NOT EXISTS (
        SELECT FROM usage_entries AS final
        WHERE final.attempt_id = entry.attempt_id AND final.granted_at = entry.granted_at AND final.state = 'final'
    );
    IF routed IS NOT NULL THEN
        PERFORM usage_hourly_add(routed);
    END IF;
END
$$
"""
_INDEXES = (
    "(ledger, granted_at)",
    "(budget text_pattern_ops)",
    "(call_id)",
    "(workflow_id)",
    "(attempt_id) WHERE state = 'unconfirmed'",
    "(ledger, granted_at) WHERE attempt_id <> run_id || '/1/1'",
    "USING gin (charged_budgets) WHERE charged_budgets IS NOT NULL",
    "(ledger, run) WHERE run IS NOT NULL",
)
"""Those of the table of before, which become parts of these."""


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("usage_entries"):
        return  # it was there before the schema was called an older one again
    op.execute(
        "CREATE TABLE usage_entries (LIKE api_usage INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED "
        "INCLUDING COMMENTS) PARTITION BY RANGE (granted_at)"
    )
    op.execute(
        "COMMENT ON TABLE usage_entries IS "
        "'One immutable row per attempt and state. Sum the view api_usage_counted, not this table.'"
    )
    # A row that is written twice has the same granted_at both times.
    op.execute("CREATE UNIQUE INDEX ON usage_entries (attempt_id, state, granted_at)")
    for index in _INDEXES:
        op.execute(f"CREATE INDEX ON usage_entries {index}")
    op.execute("CREATE TABLE usage_entries_default PARTITION OF usage_entries DEFAULT")
    # A table with rows ends after them, some of which may have been granted while the server's clock was ahead, and not
    # before next month is a week away: until then workers of before need no detour. An empty one ends before all
    # months, so that each has a partition of its own.
    op.execute("LOCK TABLE api_usage IN SHARE ROW EXCLUSIVE MODE")
    op.execute(
        """
        CREATE TABLE usage_entries_begin AS
        SELECT CASE WHEN max(granted_at) IS NULL THEN timestamptz '1970-01-01 00:00:00Z' ELSE
            (date_trunc('month', (greatest(max(granted_at), now()) + interval '7 days') AT TIME ZONE 'UTC')
                + interval '1 month') AT TIME ZONE 'UTC'
        END AS ends_at FROM api_usage
        """
    )
    op.execute(_ROUTE)
    op.execute(_MAKE)
    op.execute(_ATTACH)
    ends_at = op.get_bind().scalar(sa.text("SELECT extract(epoch FROM ends_at)::bigint FROM usage_entries_begin"))
    op.execute(
        "CREATE TRIGGER api_usage_route BEFORE INSERT ON api_usage FOR EACH ROW "
        f"WHEN (NEW.granted_at >= to_timestamp({ends_at})) EXECUTE FUNCTION api_usage_route()"
    )
    op.execute(
        f"ALTER TABLE api_usage ADD CONSTRAINT api_usage_ends CHECK (granted_at < to_timestamp({ends_at})) NOT VALID"
    )
    if not ends_at:
        op.execute("SELECT usage_entries_attach()")
