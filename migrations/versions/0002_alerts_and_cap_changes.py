"""What the ledger tells people: alerts, and who changed which cap."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "alerts",
        *_common(),
        sa.Column("what", sa.Text, nullable=False, comment="threshold, exhausted, overage, unconfirmed, …"),
        sa.Column("account", sa.Text),
        sa.Column("window", sa.Text),
        sa.Column("text", sa.Text, nullable=False),
        sa.UniqueConstraint("ledger", "epoch", "sequence", name="alerts_sequence_key"),
    )
    op.create_index("alerts_ledger_at_idx", "alerts", ["ledger", "at"])
    op.create_table(
        "cap_changes",
        *_common(),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("window", sa.Text, nullable=False),
        sa.Column("from_usd", sa.Numeric(20, 9), comment="null: not capped before"),
        sa.Column("to_usd", sa.Numeric(20, 9), nullable=False),
        sa.Column("by_usd", sa.Numeric(20, 9), comment="of a raise; null: the cap was set"),
        sa.Column("file_usd", sa.Numeric(20, 9), comment="what the configuration said then; null: no cap"),
        sa.Column("until_window_end", sa.Boolean, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.UniqueConstraint("ledger", "epoch", "sequence", name="cap_changes_sequence_key"),
    )
    op.create_index("cap_changes_ledger_at_idx", "cap_changes", ["ledger", "at"])


def _common() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("epoch", sa.Text, nullable=False, comment="first run id of the budget workflow"),
        sa.Column("sequence", sa.BigInteger, nullable=False, comment="in the epoch; with it unique"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
