"""Answers that are too large for Temporal's histories.

The body of an answer is compressed, cut into pieces, and each of them is encrypted as payloads are. It is deleted when
the workflow of its call is gone from Temporal. 0.1.0 works beside this table, which it does not know.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "call_bodies",
        sa.Column("reference", sa.Text, nullable=False, comment="id of the attempt that this was the answer to"),
        sa.Column("piece", sa.Integer, nullable=False, comment="from 0 on"),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False, comment="of Temporal, that has the call's workflow"),
        sa.Column("workflow_id", sa.Text, nullable=False, comment="of the call"),
        sa.Column("sha256", sa.Text, nullable=False, comment="of the whole body; only who knows it gets it"),
        sa.Column("data", sa.LargeBinary, nullable=False, comment="a payload, encrypted if payloads are"),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column(
            "look_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now() + interval '1 day'"),
            comment="when Temporal is asked whether it still has the workflow",
        ),
        sa.PrimaryKeyConstraint("reference", "piece", name="call_bodies_pkey"),
        if_not_exists=True,
    )
    op.execute("ALTER TABLE call_bodies ALTER COLUMN data SET STORAGE EXTERNAL")  # it is compressed already
    op.create_index(
        "call_bodies_look_at_idx",
        "call_bodies",
        ["ledger", "namespace", "look_at"],
        postgresql_where=sa.text("piece = 0"),
        if_not_exists=True,
    )
