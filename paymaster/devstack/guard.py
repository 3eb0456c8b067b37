"""Runs one command that must not outlive the process that asked for it.

`python -I -S guard.py REPORT_FD,HELD_FD… STOP_SIGNAL GRACE_S USER COMMAND…`; `GuardedProcess` in process.py is the
other half.

Standard input is a pipe whose other end only the owner holds and to which nobody writes. However the owner ends, by
SIGKILL too, the kernel closes that end and the guard sees the end of file. It then sends STOP_SIGNAL to the command
and, GRACE_S seconds later, SIGKILL to the command's whole process group. Should the guard itself be killed, Linux
kills the command (PR_SET_PDEATHSIG); elsewhere the command is left alone then.

The guard runs in a session of its own, so a terminal's Ctrl-C reaches the owner alone, which then stops its commands in
the order that it wants. Only the few modules below are imported: this file is started for every server.
"""

import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STOP_REQUESTS = {signal.SIGTERM, signal.SIGHUP}


def main(arguments: list[str]) -> int:
    """Returns the command's exit code; a command that died from a signal takes the guard along with the same signal."""
    fds, stop_signal, grace_s, user, *command = arguments
    report, *held = (int(fd) for fd in fds.split(","))
    for fd in (report, *held):  # inheritable so that they reached the guard; the command must not get them
        os.set_inheritable(fd, False)

    # The owner blocked it, for a Ctrl-C that came before this session was made; it is the owner's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    for number in {*_STOP_REQUESTS, signal.SIGCHLD}:
        signal.signal(number, lambda _number, _frame: None)  # the number arrives through the wake-up pipe

    try:
        child = _start(command, None if user == "-" else user)
    except OSError as error:
        os.write(report, f"{error}\n".encode())
        return 127
    try:  # noqa: SIM105 - contextlib would take longer to import than all the rest
        os.write(report, f"{child}\n".encode())
    except BrokenPipeError:
        pass  # the owner is gone already, as the wait below will see
    os.close(report)

    status = _wait(child, wake_reader, signal.Signals(int(stop_signal)), float(grace_s))
    _kill_group(child)  # what the command left behind in its own process group
    if os.WIFSIGNALED(status):
        _die_from(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _wait(child: int, wake_reader: int, stop_signal: int, grace_s: float) -> int:
    """Waits for the child and returns its wait status; stops it when the owner is gone or a stop request arrives."""
    lifeline = sys.stdin.fileno()
    watched = [lifeline, wake_reader]
    kill_at: float | None = None
    stopping = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        remaining_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready, _, _ = select.select(watched, [], [], remaining_s)
        stop = False
        if wake_reader in ready:
            stop = not _STOP_REQUESTS.isdisjoint(os.read(wake_reader, 4096))
        if lifeline in ready:
            watched.remove(lifeline)
            stop = True
        if stop and not stopping:
            stopping = True
            kill_at = time.monotonic() + grace_s
            os.kill(child, stop_signal)
            os.kill(child, signal.SIGCONT)  # a suspended process would not see the signal before the grace is over
        elif kill_at is not None and time.monotonic() >= kill_at:
            kill_at = None
            _kill_group(child)


def _start(command: list[str], user: str | None) -> int:
    """Forks and executes the command in a process group of its own. Raises OSError if that fails, as execve does."""
    guard = os.getpid()
    error_reader, error_writer = os.pipe()  # closed by a successful execve
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if user is not None:
                _become(user)
            command = _die_with(guard, command)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # ignored here, which execve would hand on
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)  # noqa: S606 - as everywhere: ours, and a list
        except BaseException as error:
            os.write(error_writer, str(error).encode())
        finally:
            os._exit(127)
    os.close(error_writer)
    with open(error_reader, "rb") as reader:
        message = reader.read().decode()
    if message:
        os.waitpid(child, 0)
        raise OSError(message.replace("\n", " "))
    return child


def _become(user: str) -> None:
    import pwd  # here, because most commands do not change the user

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise OSError(f"this system has no user {user!r}") from None
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _die_with(guard: int, command: list[str]) -> list[str]:
    """Linux: has the kernel kill this process when the guard ends, or returns a command that does that first.

    To be called after the change of user, which would clear the setting.
    """
    if sys.platform != "linux":
        return command
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        setpriv = "/usr/bin/setpriv"
        if os.path.exists(setpriv) and "busybox" not in os.path.realpath(setpriv) and os.access(command[0], os.X_OK):
            return [setpriv, "--pdeathsig", "KILL", "--", *command]
        return command
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(127)  # it ended before the setting was made
    return command


def _kill_group(child: int) -> None:
    try:  # noqa: SIM105 - as above
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # empty; macOS says EPERM for a group of zombies


def _die_from(number: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command's own core dump is enough
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
