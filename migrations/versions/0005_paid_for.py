"""What the cost of each row was paid for.

A column that may be null takes no longer on a large table than on an empty one, and older workers leave it out: their
rows, and those from before, have none. The lines are in the row and not in a table of their own: they are written once,
in one statement with it, and as three or four rows with keys and an index of their own they would take more room than
all the rest. What is there already stays as it is, because `paymaster migrate --way-back` has the schema called 0003
again without taking anything out.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    paid_for = sa.Column(
        "paid_for",
        postgresql.JSONB,
        comment="lines (kind, quantity, unit_price_nanos, cost_nanos, model) of cost_usd; null: not recorded",
    )
    op.add_column("api_usage", paid_for, if_not_exists=True)
    # A view keeps the columns that its table had when it was made.
    op.execute(
        """
        CREATE OR REPLACE VIEW api_usage_counted AS
        SELECT * FROM api_usage WHERE state = 'final'
        UNION ALL
        SELECT * FROM api_usage AS entry
        WHERE entry.state = 'unconfirmed' AND NOT EXISTS (
            SELECT FROM api_usage AS final WHERE final.attempt_id = entry.attempt_id AND final.state = 'final'
        )
        """
    )
