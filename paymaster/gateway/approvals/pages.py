"""The pages that a link of an alert shows: they load nothing, run nothing, and work without a style as well."""

from html import escape
from string import Template

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex, nofollow",
}
NAME_CHARACTERS_MAX = 60
_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark }
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 2rem auto; padding: 0 1rem }
button, input { font: inherit; padding: .5rem 1rem; max-width: 100%; box-sizing: border-box }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")
_FORM = Template("""\
<p>$question</p>
<form method="post">
<p><label for="name">Your name, for the log</label><br>
<input id="name" name="name" maxlength="$most" autocomplete="name"></p>
<p><button type="submit">$button</button></p>
</form>
<p>Who opens this page has raised nothing yet. The link is good for one raise.</p>
""")


def question_page(sentence: str, approver: str, button: str) -> str:
    """Asks whether to do what the sentence says, in the approver's name."""
    question = f"{sentence}, in the name of {approver}?"
    form = _FORM.substitute(question=escape(question), button=escape(button), most=NAME_CHARACTERS_MAX)
    return _PAGE.substitute(title="Raise a cap", body=form)


def told_page(title: str, text: str) -> str:
    return _PAGE.substitute(title=escape(title), body=f"<p>{escape(text)}</p>")
