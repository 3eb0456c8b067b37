"""Requests at the gateway whose callers left before they had the answer, for their retries.

0.1.0 works beside this table, which it does not know.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "left_requests",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False, comment="of the gateway, whose request it was"),
        sa.Column("digest", sa.Text, nullable=False, comment="of what was asked"),
        sa.Column("call_id", sa.Text, nullable=False, comment="the call that a retry of this request attaches to"),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        if_not_exists=True,
    )
    op.create_index("left_requests_idx", "left_requests", ["ledger", "client", "digest"], if_not_exists=True)
    op.create_index("left_requests_left_at_idx", "left_requests", ["left_at"], if_not_exists=True)
