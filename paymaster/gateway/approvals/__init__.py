"""Raises that approvers give: buttons in Slack, and links for others."""
