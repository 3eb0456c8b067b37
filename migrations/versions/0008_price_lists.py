"""Lists of prices that admins brought: who, when, what they changed; workers look prices up in the newest.

0.1.0 works beside this table, which it does not know.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "price_lists",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False, comment="the URL that it was fetched from"),
        sa.Column("read_by", sa.Text, nullable=False, comment="version of genai-prices; others do not use it"),
        sa.Column("sha256", sa.Text, nullable=False, comment="of the list"),
        sa.Column("changes", sa.Text, nullable=False, comment="in words, cut to length"),
        sa.Column("list", sa.LargeBinary, nullable=False, comment="JSON, compressed by zlib"),
        if_not_exists=True,
    )
    op.create_index("price_lists_ledger_id_idx", "price_lists", ["ledger", "id"], if_not_exists=True)
