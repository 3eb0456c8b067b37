"""Which configurations were in force, who brought them, and which of them ended what admins had done to a cap.

0.1.0 works on these tables too: what it does not know has defaults. What is there already stays as it is, because
`paymaster migrate --way-back` has the schema called 0003 again without taking anything out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "configurations",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("epoch", sa.Text, nullable=False, comment="first run id of the budget workflow"),
        sa.Column("sequence", sa.BigInteger, nullable=False, comment="in the epoch; with it unique"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.Text, nullable=False, comment="of the file that was brought"),
        sa.Column("who", sa.Text, nullable=False, comment="and from where"),
        sa.Column("changes", sa.Text, nullable=False, comment="in words, cut to length; empty: the first one"),
        sa.Column("config", sa.JSON, nullable=False, comment="what was in force when this row was stored"),
        sa.UniqueConstraint("ledger", "epoch", "sequence", name="configurations_sequence_key"),
        if_not_exists=True,
    )
    op.create_index("configurations_ledger_id_idx", "configurations", ["ledger", "id"], if_not_exists=True)
    by_file = sa.Column(
        "by_file",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="another value of the file ended what admins had done to this cap",
    )
    op.add_column("cap_changes", by_file, if_not_exists=True)
    op.alter_column("cap_changes", "to_usd", nullable=True, comment="null: not capped any more")
