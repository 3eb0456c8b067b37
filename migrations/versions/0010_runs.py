"""The run that an attempt counts for.

A column that may be null: older workers leave it out, and so do calls without a run. What is there already stays as it
is, because `paymaster migrate --way-back` has the schema called 0003 again without taking anything out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # In the order of bytes what is below a run is one range: from what begins with its path and "/" up to "0".
    run = sa.Column(
        "run", sa.Text(collation="C"), comment="the path of the run that the call counted for; null: it had none"
    )
    op.add_column("api_usage", run, if_not_exists=True)
    op.execute("CREATE INDEX IF NOT EXISTS api_usage_run_idx ON api_usage (ledger, run) WHERE run IS NOT NULL")
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
