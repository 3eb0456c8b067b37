"""What people do in the console: each action is asked for, confirmed with its reason, carried out once, and can be
taken back where that makes sense. The ledger gets the commands that the administration over HTTP sends it."""

import re
import secrets
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from paymaster.console.cap_plans import CapPlans
from paymaster.console.opened import Opened
from paymaster.console.pages import View
from paymaster.console.plans import Confirmed, Fields, Plan
from paymaster.console.service_plans import RunPlans, ServicePlans
from paymaster.gateway.admin.asked import Said
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.ledger.approving import Approvers
from paymaster.settings import ConsoleRole
from paymaster.values.windows import ALL_WINDOWS

REASON_CHARACTERS_MAX = 500
_FIELD_CHARACTERS_MAX = 1_000
_ONCE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Action:
    title: str
    button: str
    role: ConsoleRole
    """Who may do it, and those who may do more."""
    fields: tuple[str, ...]
    plan: Callable[[Fields], Awaitable[Plan | None]]
    """None: fields are missing, and a form asks for them. Raises Problem."""
    form: str = ""
    """The template of that form. Empty: there is nothing to ask."""


class Actions:
    def __init__(self, site: AdminSite, approvers: Approvers, *, signs: bool) -> None:
        """`signs`: the ledger follows signed commands alone, so that a page shows the command to sign."""
        self._signs = signs
        self._approvers = approvers
        self._caps = caps = CapPlans(site, approvers)
        services, runs = ServicePlans(site), RunPlans(site)
        cap, run = ("budget", "window"), ("run",)
        self._actions = {
            "raise": Action(
                "Raise a cap", "Raise the cap", "approver", (*cap, "by", "lapses"), caps.raise_, "raise.html"
            ),
            "set": Action("Set a cap", "Set the cap", "admin", (*cap, "usd"), caps.set_, "set.html"),
            "unset": Action("Take a cap back", "Take it back", "admin", cap, caps.unset),
            "pause": Action("Pause a service", "Pause it", "admin", ("service",), services.pause),
            "resume": Action("Resume a service", "Resume it", "admin", ("service",), services.resume),
            "raise-run": Action(
                "Give a run more", "Give it", "approver", (*run, "by", "calls", "minutes"), runs.raise_, "run.html"
            ),
            "resume-run": Action("Let a run go on", "Let it go on", "approver", run, runs.resume),
            "end-run": Action("End a run", "End it", "admin", run, runs.end),
        }

    # -------------------------------------------------------- pages

    async def ask(self, opened: Opened) -> View:
        """The form, or, where all is said, what will be done."""
        name, action = self._action(opened)
        fields = _fields(action, opened.query)
        try:
            plan = await action.plan(fields)
            by_approval = self._is_by_approval(opened, plan)
        except Problem as problem:
            if not action.form or problem.status != 400:
                raise
            return await self._form(name, action, fields, problem.detail)
        if plan is None:
            return await self._form(name, action, fields, "")
        reason = opened.query.get("reason", "")[:REASON_CHARACTERS_MAX]
        return self._confirmation(name, action, fields, plan, reason, by_approval=by_approval)

    async def do(self, opened: Opened) -> View:
        """Carries out what was confirmed."""
        name, action = self._action(opened)
        fields = _fields(action, opened.form)
        plan = await action.plan(fields)
        if plan is None:
            raise Problem(400, "bad_request", "something of the form is missing; ask for it again")
        by_approval = self._is_by_approval(opened, plan)
        reason, once = opened.form.get("reason", "").strip(), opened.form.get("once", "")
        if self._signs and not by_approval:
            raise Problem(403, "not_allowed", "the ledger follows signed commands alone: give the one that was shown")
        if not reason or len(reason) > REASON_CHARACTERS_MAX:
            cut = reason[:REASON_CHARACTERS_MAX]
            view = self._confirmation(name, action, fields, plan, cut, by_approval=by_approval)
            wrong = f"Say why, in at most {REASON_CHARACTERS_MAX} characters: it is kept with the change."
            return View(view.template, {**view.shows, "wrong": wrong}, 400)
        if not _ONCE.fullmatch(once):
            raise Problem(400, "bad_request", "the form is not one of the console's")
        tag = opened.form.get("tag") or None
        said = Said(who=opened.person.name, reason=reason, signature=None, if_tag=tag)
        try:
            await plan.send(Confirmed(said, once, by_approval))
        except ValueError as error:  # of the command's own bounds
            raise Problem(400, "bad_request", str(error)) from None
        # Where it was another one when the form was made, what is so now may be of this form, sent before.
        may_undo = tag == plan.tag and self._may_undo(opened, plan)
        return View("done.html", {"title": action.title, "plan": plan, "may_undo": may_undo})

    def _action(self, opened: Opened) -> tuple[str, Action]:
        """Raises Problem."""
        name = opened.path["action"]
        action = self._actions.get(name)
        if action is None:
            raise Problem(404, "not_found", "the console has no such page")
        if not opened.person.is_at_least(action.role):
            what = f"{action.title.lower()}: this is for {'an admin' if action.role == 'admin' else 'approvers'}"
            raise Problem(403, "not_allowed", f"{opened.person.name} is {opened.person.role} and cannot {what}")
        return name, action

    async def _form(self, name: str, action: Action, fields: Mapping[str, str], wrong: str) -> View:
        account = await self._caps.account(fields) if "budget" in action.fields else None
        shows = {"name": name, "action": action, "fields": fields, "wrong": wrong, "account": account}
        return View(action.form, {**shows, "windows": ALL_WINDOWS}, 400 if wrong else 200)

    def _is_by_approval(self, opened: Opened, plan: Plan | None) -> bool:
        """Whether the ledger counts it for an approver: one of the console with a table of [approvals].

        Raises Problem for a raise for good, which such approvers do not give.
        """
        person = opened.person
        if (
            plan is None
            or plan.lapses is None
            or person.role != "approver"
            or person.name not in self._approvers.tables
        ):
            return False
        if not plan.lapses:
            detail = f"{person.name} is an approver of [approvals], who raises caps until their window ends"
            raise Problem(400, "bad_request", detail)
        return True

    def _confirmation(
        self, name: str, action: Action, fields: Fields, plan: Plan, reason: str, *, by_approval: bool
    ) -> View:
        command = None
        if self._signs and not by_approval:
            why = ("--reason", reason or "…", "--sign-with", "YOUR-KEY.pem")
            command = f"paymaster {shlex.join((*plan.command, *why))}"
        shows = {"name": name, "action": action, "fields": fields, "plan": plan, "reason": reason, "wrong": ""}
        return View("confirm.html", {**shows, "command": command, "once": secrets.token_urlsafe(12)})

    def _may_undo(self, opened: Opened, plan: Plan) -> bool:
        if plan.undo is None:
            return False
        name = plan.undo.partition("?")[0].rpartition("/")[2]
        return opened.person.is_at_least(self._actions[name].role)


def _fields(action: Action, sent: Mapping[str, str]) -> Fields:
    return {name: sent.get(name, "").strip()[:_FIELD_CHARACTERS_MAX] for name in action.fields}
