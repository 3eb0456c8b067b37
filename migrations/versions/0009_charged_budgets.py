"""The budgets of a call that counts for several.

A column that may be null: older workers leave it out, and so do the rows of calls that name one budget. What is there
already stays as it is, because `paymaster migrate --way-back` has the schema called 0003 again without taking anything
out.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    charged = sa.Column(
        "charged_budgets",
        postgresql.ARRAY(sa.Text),
        comment="of a call that names several budgets, each with its ancestors after it; null: the budget's alone",
    )
    op.add_column("api_usage", charged, if_not_exists=True)
    op.execute(
        "CREATE INDEX IF NOT EXISTS api_usage_charged_budgets_idx ON api_usage USING gin (charged_budgets) "
        "WHERE charged_budgets IS NOT NULL"
    )
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
