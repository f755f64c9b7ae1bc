"""A tiny program of the standard library alone, run by its path (so that it starts in 15 ms).

``guard PARENT [GRACE]``: remembers process groups that its parent names on stdin (``+ group signal`` and ``- group``,
one a line) and ends them when the parent is gone: the signal, a short grace, then SIGKILL. Its stdin ends, or its
parent changes, whatever way the parent died. It lies in a session of its own and ignores the terminal's signals.

``exec PARENT SIGNAL USER PROGRAM …``: becomes PROGRAM. On Linux PROGRAM gets SIGNAL when its parent's forking thread
ends. USER is ``-`` (stay who we are), ``userns`` (root shows itself as uid 65534 in a user namespace; files stay
root's) or ``UID:GID`` (become that user). A shim, because Python code between fork and exec is unsafe beside threads.
"""

import os
import select
import signal
import sys
import time

GRACE_SECONDS = 5.0
NOBODY = 65534
PR_SET_PDEATHSIG = 1


def signal_group(group: int, number: int) -> bool:
    """Send ``number`` to every process of ``group``; False when the group is gone."""
    try:
        os.killpg(group, number)
    except OSError:  # macOS answers EPERM for a group of zombies
        return False
    return True


def ended(stat: list[str]) -> bool:
    """Whether the fields of ``/proc/PID/stat`` from the state on tell of a process that holds nothing any more.

    A zombie whose other threads still end (field 20 counts them) still has its ports and files.
    """
    return stat[0] == "X" or (stat[0] == "Z" and int(stat[17]) <= 1)


def group_lives(group: int) -> bool:
    """Whether ``group`` has a member that is not a mere zombie (a container's first process may never reap them)."""
    if not signal_group(group, 0):
        return False
    try:
        stats = [f"/proc/{name}/stat" for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return True
    for path in stats:
        try:
            with open(path) as file:  # noqa: PTH123
                stat = file.read().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(stat[2]) == group and not ended(stat):
            return True
    return not stats


def guard(parent: int, grace: float = GRACE_SECONDS) -> None:
    """Remember groups until the parent is gone, then end them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, int] = {}
    buffer = b""
    while True:
        if not select.select([0], [], [], 1.0)[0]:
            if os.getppid() != parent:  # a forked copy of the parent holds the pipe open
                break
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            sign, *numbers = line.split()
            if sign == b"+":
                groups[int(numbers[0])] = int(numbers[1])
            else:
                groups.pop(int(numbers[0]), None)
    left = [group for group, number in groups.items() if signal_group(group, number)]
    end = time.monotonic() + grace
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = [group for group in left if group_lives(group)]
    for group in left:
        signal_group(group, signal.SIGKILL)


def become(parent: int, number: int, user: str, argv: list[str]) -> None:
    """Drop root if asked, tie our life to the parent's, and exec ``argv``."""
    for reset in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # Python, or a shell's "&", ignores them
        signal.signal(reset, signal.SIG_DFL)
    if sys.platform == "linux":
        import ctypes  # while we may still read where Python lies

        libc = ctypes.CDLL(None)
    if user == "userns":
        os.unshare(os.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} 0 1"), ("gid_map", f"{NOBODY} 0 1")):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
                file.write(text)
    elif user != "-":
        uid, gid = user.split(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # last: a change of credentials would clear it
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the line above
        os._exit(1)
    if argv:
        os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1] == "guard":
        guard(int(sys.argv[2]), *map(float, sys.argv[3:]))
    else:
        become(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
