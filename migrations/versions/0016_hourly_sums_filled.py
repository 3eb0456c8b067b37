"""The hourly sums have all rows: from here on reports may be made of them."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    for left in ("usage_hourly_unfilled", "usage_hourly_filling"):
        if sa.inspect(op.get_bind()).has_table(left):
            raise RuntimeError(f"{left} is there: the sums are not filled; `paymaster migrate` does it first")
