"""The rows of before are a partition, and the coming months have theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    connection = op.get_bind()
    if not connection.scalar(sa.text("SELECT relispartition FROM pg_class WHERE oid = 'api_usage'::regclass")):
        op.execute("SELECT usage_entries_attach()")
    op.execute("DROP FUNCTION IF EXISTS usage_entries_attach()")
    op.execute("SELECT usage_entries_make(current_date, (current_date + interval '3 months')::date)")
