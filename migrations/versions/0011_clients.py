"""Clients of the gateway, with the hashes of their keys.

0.1.0 works beside this table, which it does not know.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    op.create_table(
        "clients",
        sa.Column("key_id", sa.Text, primary_key=True, comment="what the key begins with: pmk_k3j2m1x9w8q7"),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_sha256", sa.LargeBinary, nullable=False, comment="of the whole key, which is stored nowhere"),
        sa.Column("budget", sa.Text, nullable=False, comment="its requests are charged to this one or one below it"),
        sa.Column("routes", postgresql.ARRAY(sa.Text), comment="routes and service/model that it may name; null: all"),
        sa.Column("requests_at_once", sa.Integer, comment="the most at one gateway; null: the gateway's own limit"),
        sa.Column("created_at", at, nullable=False, server_default=sa.func.now()),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_at", at, comment="from then on the key is refused; null: never"),
        sa.Column("revoked_at", at, comment="null: it is not revoked"),
        sa.Column("revoked_by", sa.Text),
        sa.Column("last_used_at", at, comment="written about once a minute; null: never used"),
        if_not_exists=True,
    )
    # A name is free again when its key is revoked.
    op.create_index(
        "clients_name_idx",
        "clients",
        ["ledger", "name"],
        unique=True,
        postgresql_where=sa.text("revoked_at IS NULL"),
        if_not_exists=True,
    )
