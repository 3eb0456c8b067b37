"""What stays of rows that were pruned: their sums by account and run, and which calls and attempts there were.

0.1.0 works beside these tables, which it does not know.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"

_ID = """
-- Eight bytes of a hash: beside a hundred million ids one new id in 10^11 is taken for one of them.
CREATE OR REPLACE FUNCTION usage_pruned_id(ledger text, id text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(sha256(convert_to(ledger || chr(10) || id, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint
$$
"""
_FIRST_GENERATION = """
-- The id under which a call is asked for: a later generation of it runs as `ID~g2`.
CREATE OR REPLACE FUNCTION usage_first_generation(call_id text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT regexp_replace(call_id, '^(.+)~g(?=[0-9]{1,9}$)0*([2-9]|[1-9][0-9]+)$', '\\1')
$$
"""
_ONCE = """
-- What is written again of an attempt whose rows were pruned is there already: its month has no partition any more.
CREATE OR REPLACE FUNCTION usage_entries_once() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM usage_pruned_ids WHERE attempt = usage_pruned_id(NEW.ledger, NEW.attempt_id)) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("usage_pruned"):
        return  # it was there before the schema was called an older one again
    op.execute(_ID)
    op.execute(_FIRST_GENERATION)
    _create_sums()
    op.create_table(
        "usage_pruned_ids",
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("attempt", sa.BigInteger, primary_key=True, autoincrement=False, comment="its usage_pruned_id"),
        sa.Column(
            "call",
            sa.BigInteger,
            comment="the usage_pruned_id of its call's first generation; null: neither answered nor billed",
        ),
        comment="Which attempts there were of which the rows were pruned, and which call ids are used.",
    )
    op.execute("CREATE INDEX ON usage_pruned_ids (call) WHERE call IS NOT NULL")
    op.execute(_ONCE)
    for table in ("usage_entries_default", "api_usage"):
        op.execute(
            f"CREATE TRIGGER usage_entries_once BEFORE INSERT ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION usage_entries_once()"
        )


def _create_sums() -> None:
    op.create_table(
        "usage_pruned",
        sa.Column("key", sa.LargeBinary, primary_key=True, comment="of what the sums are for, as in usage_hourly"),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("month", sa.DateTime(timezone=True), nullable=False, comment="of the grants, UTC"),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("charged_budgets", postgresql.ARRAY(sa.Text), comment="as in the rows"),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
        sa.Column("cost_usd", sa.Numeric, nullable=False),
        comment="Sums of the rows that were pruned: with those that are left they are what was spent.",
    )
    for index in (
        "(ledger, month)",
        "(budget text_pattern_ops)",
        "USING gin (charged_budgets) WHERE charged_budgets IS NOT NULL",
    ):
        op.execute(f"CREATE INDEX ON usage_pruned {index}")
    op.create_table(
        "usage_pruned_runs",
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("run", sa.Text(collation="C"), nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cost_usd", sa.Numeric, nullable=False),
        sa.PrimaryKeyConstraint("ledger", "run", name="usage_pruned_runs_pkey"),
        comment="Sums of the rows that were pruned, by run.",
    )
