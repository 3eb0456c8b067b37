"""For which accounts a stored row counts, in SQL; `accounts_charged` is the desk's rule, and a test compares them."""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, FromClause, Text, column, func, select


def charged(spent: str, sums: Iterable[str]) -> str:
    """A query for `account` and the sums, a row for each account that a row of `spent` counts for.

    `spent` is a table with budget, charged_budgets, service and the sums. There are fewer such rows than entries when
    it is grouped by these. A budget is charged to its ancestors segment by segment, so that no character in a name acts
    as a wildcard. Names are words of the code, never values.
    """
    names = ", ".join(sums)
    return f"""
        SELECT 'service:' || service AS account, {names} FROM {spent}
        UNION ALL
        SELECT 'budget:' || array_to_string(segments[1 : depth], '/'), {names}
        FROM {spent}, string_to_array(budget, '/') AS segments, generate_series(1, cardinality(segments)) AS depth
        WHERE charged_budgets IS NULL
        UNION ALL
        SELECT 'budget:' || path, {names} FROM {spent}, unnest(charged_budgets) AS path
    """  # noqa: S608


def rows_of_accounts(columns: str, its_own: str) -> str:
    """A FROM clause with a row for each entry that counts for one of `:accounts`, by indexes: `account`, and `columns`.

    For budgets and runs. `its_own` is a condition for the entries. In the order of bytes "0" comes after "/".
    """
    entries = f"{columns} FROM api_usage_counted"
    return f"""
        {ASKED_ACCOUNTS},
        LATERAL ({of_budget(entries, its_own)} UNION ALL {of_run(entries, its_own)}) AS entries
    """


ASKED_ACCOUNTS = """
        unnest(CAST(:accounts AS text[])) AS account,
        LATERAL (
            SELECT CASE WHEN account LIKE 'budget:%' THEN substr(account, length('budget:') + 1) END AS path,
                   CASE WHEN account LIKE 'run:%' THEN substr(account, length('run:') + 1) END AS run_path
        ) AS named
"""
"""A FROM clause with a row for each of `:accounts`: `path` is the budget's, `run_path` that of the run."""


def of_budget(selected: str, its_own: str) -> str:
    """What counts for the budget `path`; `selected` is what of which table, with the columns of rows."""
    return f"""
            SELECT {selected} WHERE {its_own} AND charged_budgets IS NULL AND budget = path
            UNION ALL
            SELECT {selected}
            WHERE {its_own} AND charged_budgets IS NULL AND budget ~>=~ (path || '/') AND budget ~<~ (path || '0')
            UNION ALL
            SELECT {selected} WHERE {its_own} AND charged_budgets @> ARRAY[path]
    """


def of_run(selected: str, its_own: str) -> str:
    """What counts for the run `run_path`, likewise."""
    return f"""
            SELECT {selected} WHERE {its_own} AND run = run_path
            UNION ALL
            SELECT {selected} WHERE {its_own} AND run >= (run_path || '/') AND run < (run_path || '0')
    """


def counts_for_budget(rows: FromClause, budget: str) -> ColumnElement[bool]:
    """Whether a row counts for this budget: it names it or one below it."""
    own = rows.c.budget
    return (own == budget) | own.startswith(budget + "/", autoescape=True) | rows.c.charged_budgets.contains([budget])


def counts_for_run(rows: FromClause, run: str) -> ColumnElement[bool]:
    """Whether a row counts for this run, or this part of one: it names it or one below it.

    The column is in the order of bytes, in which "0" comes after "/": an index finds the range, in which there may be
    some whose names only begin alike.
    """
    own = rows.c.run
    return (own >= run) & (own < f"{run}0") & ((own == run) | (own >= f"{run}/"))


def budget_within(rows: FromClause, budget: str) -> ColumnElement[str]:
    """Of the budgets that a row names, the first one that is this budget or below it; there is one."""
    paths = func.unnest(rows.c.charged_budgets).table_valued(column("path", Text), with_ordinality="number")
    paths = paths.render_derived("paths")
    inside = (paths.c.path == budget) | paths.c.path.startswith(budget + "/", autoescape=True)
    first = select(paths.c.path).where(inside).order_by(paths.c.number).limit(1).correlate(rows)
    return func.coalesce(first.scalar_subquery(), rows.c.budget)
