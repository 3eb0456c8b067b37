"""One row for each attempt as it ended, and the view with the rows that count."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_usage",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("attempt_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("confirmed", sa.Boolean, sa.Computed("state = 'final'", persisted=True), nullable=False),
        sa.Column("hold_id", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("epoch", sa.Text, nullable=False, comment="first run id of the budget workflow"),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False, comment="the model asked for"),
        sa.Column("model_answered", sa.Text),
        sa.Column(
            "granted_at", sa.DateTime(timezone=True), nullable=False, comment="the time that every window sum uses"
        ),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("duration_ms", sa.Integer),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error_class", sa.Text),
        sa.Column("http_status", sa.Integer),
        sa.Column("provider_request_id", sa.Text),
        sa.Column("input_tokens", sa.BigInteger, comment="with cached and cache-write tokens; null: not said"),
        sa.Column("cached_input_tokens", sa.BigInteger),
        sa.Column("cache_write_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger, comment="with reasoning tokens; null: not said"),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("cost_usd", sa.Numeric(20, 9), nullable=False),
        sa.Column("price_source", sa.Text, nullable=False),
        sa.Column("metadata", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.UniqueConstraint("attempt_id", "state", name="api_usage_attempt_id_state_key"),
        sa.CheckConstraint("state IN ('final', 'unconfirmed')", name="api_usage_state_check"),
        comment="One immutable row per attempt and state. Sum the view api_usage_counted, not this table.",
    )
    op.create_index("api_usage_ledger_granted_at_idx", "api_usage", ["ledger", "granted_at"])
    op.create_index("api_usage_budget_idx", "api_usage", ["budget"], postgresql_ops={"budget": "text_pattern_ops"})
    op.create_index("api_usage_call_id_idx", "api_usage", ["call_id"])
    op.create_index("api_usage_workflow_id_idx", "api_usage", ["workflow_id"])
    op.execute(
        """
        CREATE VIEW api_usage_counted AS
        SELECT * FROM api_usage AS entry
        WHERE entry.state = 'final' OR NOT EXISTS (
            SELECT FROM api_usage AS final WHERE final.attempt_id = entry.attempt_id AND final.state = 'final'
        )
        """
    )
    op.execute(
        "COMMENT ON VIEW api_usage_counted IS "
        "'An attempt counts by its final row if there is one, else by its unconfirmed row.'"
    )
