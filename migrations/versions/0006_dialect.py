"""The format in which a call was written that came in a provider's own.

A column that may be null: older workers leave it out, and the rows of neutral calls have none. What is there already
stays as it is, because `paymaster migrate --way-back` has the schema called 0003 again without taking anything out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    dialect = sa.Column(
        "dialect",
        sa.Text,
        comment="of a call in a provider's own format, that format; null: none, or not known",
    )
    op.add_column("api_usage", dialect, if_not_exists=True)
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
