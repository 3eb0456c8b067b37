"""A copy of how each ledger and its accounts stand: whoever shows it reads these rows, and nobody asks the ledger.

0.1.0 works beside these tables, which it does not know.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    copied_at = "when the ledger sent it, by the clock of Temporal's server"
    op.create_table(
        "ledger_status",
        sa.Column("ledger", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False, comment="of the copy; they count from 1"),
        sa.Column("copied_at", sa.DateTime(timezone=True), nullable=False, comment=copied_at),
        sa.Column("status", sa.Text, nullable=False, comment="JSON; without accounts"),
        if_not_exists=True,
    )
    # In the order of bytes the accounts of one kind, and those below a budget, are one range.
    op.create_table(
        "account_status",
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("account", sa.Text(collation="C"), nullable=False),
        sa.Column("copied_at", sa.DateTime(timezone=True), nullable=False, comment=copied_at),
        sa.Column("status", sa.Text, nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("ledger", "account", name="account_status_pkey"),
        if_not_exists=True,
    )
    # Rows are written again and again: room in each page keeps new versions of them beside the old ones.
    op.execute("ALTER TABLE account_status SET (fillfactor = 50)")
