"""A copy of each parked call, beside those of the ledger and its accounts: why it waits, and until when.

0.1.0 works beside this table, which it does not know.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "parked_calls",
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("hold_id", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False, comment="of one priority the smallest is served first"),
        sa.Column("version", sa.BigInteger, nullable=False, comment="of the copy of the ledger's status"),
        sa.Column("call", postgresql.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("ledger", "hold_id", name="parked_calls_pkey"),
        if_not_exists=True,
    )
