"""`paymaster clients`: a key is printed once and stored nowhere, and what is wrong is said in words."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from command_line import Run, assert_ends_with_advice

from paymaster.values.client_key import key_id_of


@pytest.fixture
def clients(run: Run, database_url: str) -> Run:
    """Runs `paymaster clients` with a database of its own."""
    return lambda *arguments: run("clients", *arguments, PAYMASTER__DATABASE__URL=database_url)


def test_a_key_is_printed_once_and_never_again(clients: Run) -> None:
    made = clients("create", "bot", "--budget", "acme/content", "--routes", "writer, local/good", "--expires", "30d")
    key = made.stdout.removesuffix("\n")
    key_id = key_id_of(key)
    assert key_id is not None
    assert made.stderr == "bot may ask, under acme/content. Its key, which is shown this once:\n"
    [client] = json.loads(clients("list", "--json").stdout)["clients"]
    assert client["key_id"] == key_id
    assert (client["name"], client["state"], client["routes"]) == ("bot", "active", ["writer", "local/good"])
    outputs = [clients("list"), clients("show", "bot"), clients("show", key_id, "--json"), clients("revoke", "bot")]
    assert [ended.returncode for ended in outputs] == [0, 0, 0, 0]
    assert all(key_id in ended.stdout for ended in outputs)
    assert not [ended for ended in outputs if key[-43:][:8] in ended.stdout + ended.stderr]


@pytest.mark.parametrize(("budget", "is_known"), [("acme/a/b", True), ("users/ann/notes", True), ("acne/a", False)])
def test_a_budget_that_nobody_configured_is_told(clients: Run, folder: Path, budget: str, is_known: bool) -> None:
    with (folder / "paymaster.toml").open("a") as file:
        file.write('[budgets."users/*"]\ncap_usd = { day = "1" }\n')
    made = clients("create", "bot", "--budget", budget)
    assert (made.returncode, key_id_of(made.stdout.strip()) is not None) == (0, True)
    assert (f'refused until there is [budgets."{budget}"]' in made.stderr) is not is_known


def test_json_has_the_key_and_whoever_made_it(clients: Run) -> None:
    made = clients("create", "bot", "--budget", "acme", "--requests-at-once", "5", "--who", "ada", "--json")
    document = json.loads(made.stdout)
    assert key_id_of(document["key"]) == document["key_id"]
    assert (document["requests_at_once"], document["created_by"], document["expires_at"]) == (5, "ada", None)
    again = json.loads(clients("show", "bot", "--json").stdout)
    assert again == {name: value for name, value in document.items() if name != "key"}
    assert sha256(document["key"].encode()).hexdigest() not in json.dumps(again)


def test_a_revoked_key_says_who_did_it_and_its_name_is_free(clients: Run) -> None:
    clients("create", "bot", "--budget", "acme")
    assert_ends_with_advice(clients("create", "bot", "--budget", "acme"), 1, "`paymaster clients revoke bot`")
    revoked = json.loads(clients("revoke", "bot", "--who", "ada", "--json").stdout)
    assert (revoked["state"], revoked["revoked_by"]) == ("revoked", "ada")
    assert_ends_with_advice(clients("revoke", revoked["key_id"]), 1, "bot was revoked before", "by ada")
    assert clients("create", "bot", "--budget", "acme").returncode == 0


def test_a_whole_key_is_no_argument_and_not_repeated(clients: Run) -> None:
    """Any user of the machine sees the arguments of its processes."""
    key = clients("create", "bot", "--budget", "acme").stdout.strip()
    for command in ("show", "revoke"):
        ended = clients(command, key)
        assert_ends_with_advice(ended, 2, "whoever lists this machine's processes")
        assert key[-43:][:8] not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["create", "Bot!", "--budget", "acme"], "'Bot!': not a name: write 1 to 64 of a-z"),
        (["create", "bot", "--budget", "acme//x"], "--budget: budget path 'acme//x'"),
        (["create", "bot", "--budget", "acme", "--routes", "writers"], "did you mean writer?"),
        (["create", "bot", "--budget", "acme", "--routes", "writer,locale/good"], "no route 'locale/good'"),
        (["create", "bot", "--budget", "acme", "--expires", "soon"], "--expires: 'soon' is not a duration"),
    ],
)
def test_what_makes_no_client_is_refused_in_words(run: Run, arguments: list[str], advice: str) -> None:
    """Before any database is asked."""
    assert_ends_with_advice(run("clients", *arguments), 2, advice)


def test_a_name_of_the_configuration_is_taken(run: Run, folder: Path) -> None:
    """What a client did is told from what others did by its name."""
    with (folder / "paymaster.toml").open("a") as file:
        file.write(f'[gateway.clients.bot]\nkey_sha256 = "{"0" * 64}"\nbudget = "acme"\n')
    taken = run("clients", "create", "bot", "--budget", "acme")
    assert_ends_with_advice(taken, 2, "the configuration has a client 'bot'; take another name")


def test_a_client_that_is_not_there(clients: Run) -> None:
    for command in ("show", "revoke"):
        assert_ends_with_advice(clients(command, "nobody"), 1, "there is no client 'nobody'; see `paymaster clients")
