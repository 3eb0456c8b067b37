"""What admins do at the desk of the machine: configurations, caps, runs and pauses."""

import re
from collections.abc import Callable
from dataclasses import replace

from desk_drawn import Drawn, Usual, configuration, drawn_by_machine, places, tight, watched
from desk_facts import (
    ACCOUNTS,
    MINUTE,
    NAMES,
    PLACES,
    ROLLING,
    SERVICES,
    UNIT,
    Cap,
    File,
    Part,
    Place,
    T,
    charged_by,
    window_name,
)
from desk_judge import DeskJudge
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from paymaster.admission.desk import Desk
from paymaster.messages import (
    EndRun,
    PauseService,
    RaiseCap,
    RaiseRun,
    ResumeRun,
    ResumeService,
    SetCap,
    UnsetCap,
    Window,
)
from paymaster.values.money import nanos_to_usd


class Admins(DeskJudge):
    drawn = Drawn()
    usual: Usual

    @initialize(file=drawn_by_machine("files"), earlier=drawn_by_machine("earlier"), usual=drawn_by_machine("usuals"))
    def begin(self, file: File, earlier: dict[Place, int] | None = None, usual: Usual | None = None) -> None:
        self.model.earlier = earlier or {}
        if usual is not None:
            self.usual, self.reads_at_once = usual, usual.reads_at_once
        self.configure(file)

    @precondition(lambda self: self.desk.state.began)
    @rule(watched=watched)
    def watch_budgets(self, watched: frozenset[str]) -> None:
        """And enforce the others."""
        self.configure(replace(self.model.file, watched=watched))

    @precondition(lambda self: self.desk.state.began)  # before that nothing can be removed
    @rule(file=drawn_by_machine("files"), keep=st.booleans())
    def change_configuration(self, file: File, keep: bool) -> None:
        before = self.model.file
        caps_nanos = {**before.caps_nanos, **file.caps_nanos} if keep else file.caps_nanos
        self.configure(replace(file, caps_nanos=caps_nanos, watched=before.watched))

    def configure(self, file: File) -> None:
        self.configurations += 1
        config = configuration(file, self.configurations)
        self.let_time_pass()
        self.both(lambda desk: desk.configure(config, self.clock_ms, may_remove=True))
        model = self.model
        before = {place: model.cap_unchanged(place) for place in model.changed}
        rolling, renewed = self.capped_and_rolling(), {path: model.renewed(f"run:{path}") for path in model.parts}
        model.file = file
        for path, windows in renewed.items():
            model.is_limited_anew(f"run:{path}", windows)
        for place, cap in before.items():
            if model.cap_unchanged(place) != cap:
                del model.changed[place]
        model.loading |= {account for account, _ in self.capped_and_rolling() - rolling}  # nobody counted there before
        self.take_in_gates()
        self.after_a_look()

    def capped_and_rolling(self) -> set[Place]:
        every: set[Place] = {(account, window) for account in self.model.open for window in ROLLING}
        return {place for place in every if self.model.cap(place) is not None}

    @precondition(lambda self: self.capped_places())
    @rule(data=st.data(), by=st.sampled_from([1, UNIT, 2 * UNIT, 4 * UNIT]), lapses=st.booleans())
    def raise_a_cap(self, data: st.DataObject, by: int, lapses: bool) -> None:
        self.raise_cap(data.draw(st.sampled_from(self.capped_places())), by, lapses)

    @rule(place=places, by=st.sampled_from([0, 1, UNIT]))
    def raise_what_may_not_be_capped(self, place: Place, by: int) -> None:
        self.raise_cap(place, by, False)

    def capped_places(self) -> list[Place]:
        every: list[Place] = [(account, window) for account in (*ACCOUNTS, *NAMES) for window in PLACES]
        return [place for place in every if self.model.cap(place) is not None]

    def is_waited_for(self, account: str) -> bool:
        """A command about it would open it, and who waits for room is looked at a second later."""
        return any(account in charged_by(w.request) for w in self.model.queue if self.model.is_missing(w.request))

    def raise_cap(self, place: Place, by: int, lapses: bool) -> None:
        account, window = place
        if self.is_waited_for(account):
            return
        change = RaiseCap(account=account, window=window, by=str(nanos_to_usd(by)), until_window_end=lapses)
        self.let_time_pass()
        before = self.model.cap_unchanged(place)
        if self.model.cap(place) is None or by == 0 or (lapses and window in ("total", *ROLLING)):
            self.refused(lambda desk: desk.raise_cap(change, self.clock_ms), "cap|never ends|account")
        else:
            answer = self.allowed(lambda desk: desk.raise_cap(change, self.clock_ms))
            cap = self.model.changed.setdefault(place, Cap(before or 0))
            if lapses:
                cap.lapsing.append((window_name(window, self.model.now_ms), by))
            else:
                cap.nanos += by
            assert answer.cap_nanos == self.model.cap(place), "the answer to raise_cap is not the new cap"
        self.after_a_look()

    def allowed(self, do: Callable[[Desk], T]) -> T:
        try:
            return self.both(do)
        except ValueError as error:
            raise AssertionError(f"an admin is refused: {error}") from error

    def refused(self, do: Callable[[Desk], object], why: str) -> None:
        def words(desk: Desk) -> str | None:
            try:
                do(desk)
            except ValueError as error:
                return str(error)
            return None

        found = self.both(words)
        assert found is not None, "an admin may do what is to be refused"
        assert re.search(why, found), f"an admin is refused in other words: {found}"

    @rule(place=places, to=st.one_of(tight, st.sampled_from([0, UNIT])))
    def set_cap(self, place: Place, to: int) -> None:
        self.set_cap_to(place, to)

    def set_cap_to(self, place: Place, to: int) -> None:
        change = SetCap(account=place[0], window=place[1], to=str(nanos_to_usd(to)))
        self.let_time_pass()
        answer = self.both(lambda desk: desk.set_cap(change, self.clock_ms))
        if place not in self.capped_and_rolling() and place[1] in ROLLING:
            self.model.loading.add(place[0])
        self.model.changed[place] = Cap(to)
        assert answer.cap_nanos == to, f"cap of {place}"
        self.after_a_look()

    @rule(place=places)
    def unset_cap(self, place: Place) -> None:
        change = UnsetCap(account=place[0], window=place[1])
        self.let_time_pass()
        if not self.model.began or place[0] not in self.model.open:
            self.refused(lambda desk: desk.unset_cap(change, self.clock_ms), "still reading|no account")
        else:
            answer = self.allowed(lambda desk: desk.unset_cap(change, self.clock_ms))
            self.model.changed.pop(place, None)
            assert answer.cap_nanos == self.model.cap(place), f"cap of {place}"
        self.after_a_look()

    @precondition(lambda self: self.model.parts)
    @rule(
        data=st.data(),
        by=st.sampled_from([None, UNIT, 4 * UNIT]),
        calls=st.sampled_from([0, 1]),
        lasts_ms=st.sampled_from([0, MINUTE]),
    )
    def raise_run(self, data: st.DataObject, by: int | None, calls: int, lasts_ms: int) -> None:
        self.give_run_more(data.draw(st.sampled_from(sorted(self.model.parts))), by, calls, lasts_ms)

    def give_run_more(self, path: str, by: int | None = None, calls: int = 0, lasts_ms: int = 0) -> None:
        model, usd = self.model, None if by is None else str(nanos_to_usd(by))
        change = RaiseRun(run=path, by=usd, calls=calls, lasts_ms=lasts_ms)
        self.let_time_pass()
        account, terms, part = f"run:{path}", model.terms(path), model.parts.get(path)
        windows: list[Window] = ["total", *model.renewed(account)]
        capped: list[Window] = [window for window in windows if model.cap((account, window)) is not None]
        limited: list[Window] = [
            w for w in windows if model.terms(account, None if w == "total" else w).calls is not None
        ]
        unlimited = (by and not capped) or (calls and not limited) or (lasts_ms and terms.lasts_ms is None)
        if part is None or unlimited or not (by or calls or lasts_ms):
            self.refused(lambda desk: desk.raise_run(change, self.clock_ms), "run|cap")
        else:
            self.allowed(lambda desk: desk.raise_run(change, self.clock_ms))
            part.more_ms += lasts_ms
            for window in limited if calls else ():
                self.more_calls(part, window, calls)
            for window in capped if by else ():
                self.more_money((account, window), by or 0)
        self.after_a_look()

    def more_calls(self, part: Part, window: Window, calls: int) -> None:
        """Where they are renewed, in the open window alone."""
        if window == "total":
            part.more_calls += calls
        else:
            of = window, window_name(window, self.model.now_ms)
            part.more_in[of] = part.more_in.get(of, 0) + calls

    def more_money(self, place: Place, by: int) -> None:
        """Likewise."""
        cap = self.model.changed.setdefault(place, Cap(self.model.cap_unchanged(place) or 0))
        if place[1] == "total":
            cap.nanos += by
        else:
            cap.lapsing.append((window_name(place[1], self.model.now_ms), by))

    @precondition(lambda self: self.model.parts)
    @rule(data=st.data())
    def resume_run(self, data: st.DataObject) -> None:
        self.let_go_on(data.draw(st.sampled_from(sorted(self.model.parts))))

    def let_go_on(self, path: str) -> None:
        self.let_time_pass()
        part = self.model.parts.get(path)
        if part is None or not part.held:
            self.refused(lambda desk: desk.resume_run(ResumeRun(run=path), self.clock_ms), "held|no limited run")
        else:
            self.model.parts[path].held, self.model.parts[path].asked_for = False, []
            self.allowed(lambda desk: desk.resume_run(ResumeRun(run=path), self.clock_ms))
        self.after_a_look()

    @precondition(lambda self: self.model.parts)
    @rule(path=st.sampled_from(["r1", "r1/a", "r2"]))
    def end_run(self, path: str) -> None:
        self.let_time_pass()
        is_new, is_full = path not in self.model.parts, len(self.model.open) >= self.model.accounts_max

        def end(desk: Desk) -> str:
            try:
                return desk.end_run(EndRun(run=path), self.clock_ms).ended_by
            except ValueError:
                return ""

        if self.both(end):
            self.model.parts[path].ended = True
        else:
            assert is_new, f"{path} is not ended, and it is there"
            assert is_full, f"{path} is not ended, and there is room for it"
        self.after_a_look()

    @rule(service=st.sampled_from(SERVICES), pause=st.booleans())
    def pause_or_resume(self, service: str, pause: bool) -> None:
        self.let_time_pass()
        if pause:
            self.both(lambda desk: desk.pause_service(PauseService(service=service), self.clock_ms))
        else:
            self.both(lambda desk: desk.resume_service(ResumeService(service=service), self.clock_ms))
            self.model.margins.pop(service, None)
        self.take_in_gates()
        self.take_in_outbox()
        self.looked = False
