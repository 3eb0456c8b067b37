"""Calls of which everything personal was erased, and who had it done.

What is stored late of such a call, from a backlog or by a worker that was cut off, comes without what was personal:
triggers see to it, so that workers of every version do. 0.1.0 works beside these tables, which it does not know.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_ROWS = """
CREATE FUNCTION usage_entries_erased() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM erased_calls WHERE run_id = NEW.run_id) THEN
        NEW.metadata := '{}';
    END IF;
    RETURN NEW;
END
$$
"""
_BODIES = """
CREATE FUNCTION call_bodies_erased() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM erased_calls WHERE run_id = split_part(NEW.reference, '/', 1)) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("erased_calls"):
        return  # it was there before the schema was called an older one again
    op.create_table(
        "erased_calls",
        sa.Column("run_id", sa.Text, primary_key=True, comment="of the call's workflow, as in the rows"),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "erasures",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="a ticket's number, say; what was asked for is not kept"),
        sa.Column("ended_at", sa.DateTime(timezone=True), comment="null: it was broken off"),
        sa.Column("erased", sa.JSON, comment="how much of each kind went, and how many calls stayed"),
    )
    op.create_index("erasures_ledger_id_idx", "erasures", ["ledger", "id"])
    # Workers of 0.1.0 lock the partition first, all others the table: where one waits for us and we for it, we give way
    # before PostgreSQL breaks off its transaction, and are tried again.
    op.execute("SET LOCAL lock_timeout = '500ms'")
    op.execute(_ROWS)
    op.execute(_BODIES)
    op.execute(
        "CREATE TRIGGER usage_entries_erased BEFORE INSERT ON usage_entries FOR EACH ROW "
        "WHEN (NEW.metadata <> '{}') EXECUTE FUNCTION usage_entries_erased()"
    )
    op.execute(
        "CREATE TRIGGER call_bodies_erased BEFORE INSERT ON call_bodies FOR EACH ROW "
        "EXECUTE FUNCTION call_bodies_erased()"
    )
