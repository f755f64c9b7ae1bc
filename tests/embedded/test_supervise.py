from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from energy_cloud_dagster.domain.errors import BrokerUnavailable, Conflict, Misconfigured, PartUnavailable
from energy_cloud_dagster.embedded import supervise
from energy_cloud_dagster.embedded.guardian import group_lives
from energy_cloud_dagster.embedded.supervise import Child

from .conftest import alive, await_true, descendants

# as a module, because coverage follows those
GUARDIAN = [sys.executable, "-m", "energy_cloud_dagster.embedded.guardian"]
HOLD = """
import sys, time
from pathlib import Path
from energy_cloud_dagster.embedded.supervise import Child
for number, script in enumerate(sys.argv[2:]):
    child = Child("held", ["sh", "-c", script], None, Path(sys.argv[1]) / f"{number}.log").start()
    child.wait_until_ready(lambda: "ready" in child.tail())
print("up", flush=True)
time.sleep(600)
"""
WITH_GRANDCHILD = "sleep 600 & echo ready; wait"
# what macOS is like: no death signal from the kernel
NO_DEATH_SIGNAL = (
    f"exec {sys.executable} -c 'import ctypes, time; ctypes.CDLL(None).prctl(1, 0); "
    'print("ready", flush=True); time.sleep(600)\''
)


def shell(script: str, folder: Path, name: str = "part") -> Child:
    return Child(name, ["sh", "-c", script], None, folder / "logs" / f"{name}.log")


def guardian_of(pids: set[int]) -> int:
    (found,) = (pid for pid in pids if b"guardian.py\0guard" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def test_a_child_has_a_session_a_log_and_an_exit_status(folder: Path) -> None:
    child = Child(
        "part",
        ["sh", "-c", 'echo "$WORD"; ps -o sid= -p $$; exit 3'],
        {"WORD": "hello", "PATH": os.environ["PATH"]},
        folder / "x" / "a.log",
    )
    assert child.pid is None
    assert child.returncode is None
    assert child.wait() is None
    child.start()
    group = child.pid
    assert child.wait(10) == 3
    assert child.tail().split() == ["hello", str(group)]
    assert child.pid is None
    assert child.returncode == 3


def test_the_log_is_appended_and_the_tail_is_this_start(folder: Path) -> None:
    for word in ("first", "second"):
        child = shell(f"echo {word}", folder).start()
        child.wait(10)
        assert child.tail() == word
    assert child.log.read_text().split() == ["first", "second"]


def test_a_large_log_is_put_aside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES", 3)
    shell("echo first", folder).start().wait(10)
    child = shell("echo second", folder).start()
    child.wait(10)
    assert child.log.read_text() == "second\n"
    assert child.log.with_suffix(".old.log").read_text() == "first\n"


def test_start_twice_is_one_child(folder: Path) -> None:
    child = shell("sleep 600", folder).start()
    pid = child.pid
    assert child.start().pid == pid
    child.stop()


def test_stop_is_polite_first(folder: Path) -> None:
    child = shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done", folder).start()
    child.wait_until_ready(lambda: "ready" in child.tail())
    assert child.wait(0.01) is None
    child.stop()
    assert (child.returncode, "bye" in child.tail()) == (7, True)
    assert not list(folder.glob("logs/*.pid"))
    child.stop()


def test_stop_kills_who_does_not_listen_and_its_children(folder: Path) -> None:
    child = shell("trap '' TERM; sleep 600 & echo ready; while :; do sleep 0.01; done", folder).start()
    child.wait_until_ready(lambda: "ready" in child.tail())
    group = child.pid
    assert group
    below = descendants(group)
    child.stop(0.1)
    assert child.returncode == -signal.SIGKILL
    await_true(lambda: not any(map(alive, below)) and not group_lives(group))


def test_the_group_of_a_child_that_crashed_is_ended(folder: Path) -> None:
    child = shell("sleep 600 & echo ready; read _ < fifo", folder)
    child.cwd = folder
    os.mkfifo(folder / "fifo")
    child.start()
    child.wait_until_ready(lambda: "ready" in child.tail())
    group = child.pid
    assert group
    (folder / "fifo").write_text("go\n")
    await_true(lambda: not child.alive)
    await_true(lambda: not group_lives(group))


def test_a_child_outlives_the_thread_that_started_it(folder: Path) -> None:
    child = shell("echo ready; read _ < fifo; echo done", folder)
    child.cwd = folder
    os.mkfifo(folder / "fifo")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    child.wait_until_ready(lambda: "ready" in child.tail())
    (folder / "fifo").write_text("go\n")
    assert child.wait(10) == 0
    assert "done" in child.tail()


@pytest.mark.parametrize("script", [WITH_GRANDCHILD, NO_DEATH_SIGNAL], ids=["grandchild", "no death signal"])
def test_nothing_outlives_a_killed_parent(folder: Path, parent, script: str) -> None:
    held = parent(HOLD, folder, script)
    assert held.said == "up"
    assert len(held.below) >= 2
    held.kill()


def test_the_kernel_ends_the_child_when_the_guardian_is_killed_too(folder: Path, parent) -> None:
    held = parent(HOLD, folder, "echo ready; exec sleep 600")
    held.kill(guardian_of(held.below))


def test_a_killed_guardian_is_replaced(folder: Path, parent) -> None:
    script = HOLD.replace(
        'print("up", flush=True)',
        """
import os, signal
from energy_cloud_dagster.embedded.supervise import _guardian
os.kill(_guardian._process.pid, signal.SIGKILL); _guardian._process.wait()
Child("held", ["sleep", "600"], None, Path(sys.argv[1]) / "last.log").start()
print("up", flush=True)""",
    )
    held = parent(script, folder, NO_DEATH_SIGNAL)
    assert held.said == "up"
    held.kill()


def test_a_forked_copy_that_lives_on_does_not_keep_our_children(folder: Path, parent) -> None:
    """It holds the guardian's pipe open, so its end never comes."""
    script = HOLD.replace('print("up", flush=True)', "import os\nif copy := os.fork(): print(copy, flush=True)")
    held = parent(script, folder, NO_DEATH_SIGNAL)
    copy = int(held.said)
    held.below.remove(copy)
    held.kill()
    assert alive(copy)
    os.kill(copy, signal.SIGKILL)


def test_a_forked_copy_has_no_children_of_ours(folder: Path, parent) -> None:
    script = HOLD.replace(
        'print("up", flush=True)',
        """
import os
if os.fork() == 0:
    second = Child("second", ["sleep", "600"], None, Path(sys.argv[1]) / "second.log").start()
    second.stop()
    os._exit(0 if second.returncode else 1)
print("up", os.wait()[1], child.alive, flush=True)""",
    )
    held = parent(script, folder, "echo ready; exec sleep 600")
    assert held.said == "up 0 True"
    held.kill()


def test_an_orphan_of_an_earlier_run_is_ended_at_the_next_start(
    folder: Path, parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an orphan that all other nets missed: a process whose recorded starter is gone
    child = shell("echo ready", folder)
    orphan = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo trapped; sleep 600 & wait; wait"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert orphan.stdout
    with orphan.stdout:
        orphan.stdout.readline()
        gone = subprocess.Popen(["true"])
        starter = supervise._identity(gone.pid)
        gone.wait()
        child.log.parent.mkdir()
        child.log.with_suffix(".pid").write_text(f"{supervise._identity(orphan.pid)}\n{starter}\n")
        monkeypatch.setattr(supervise, "PREDECESSOR_GRACE_SECONDS", 0.05)
        child.start()
        assert orphan.wait(5) == -signal.SIGKILL
    assert child.wait(5) == 0


def test_a_zombie_with_a_thread_at_work_still_lives() -> None:
    """The kernel ends a process thread by thread; the last one to go closes its ports."""
    leave = (
        "import ctypes, sys, threading; threading.Thread(target=sys.stdin.read).start(); "
        "print(flush=True); ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", leave], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        await_true(lambda: not alive(process.pid))
        assert supervise._identity(process.pid)
        assert group_lives(process.pid)
        process.kill()
        await_true(lambda: not group_lives(process.pid))
        assert not supervise._identity(process.pid)


def test_a_pid_that_now_belongs_to_a_stranger_is_left_alone(folder: Path) -> None:
    child = shell("echo ready", folder)
    child.log.parent.mkdir()
    child.log.with_suffix(".pid").write_text(f"{os.getpid()} 1\n1 1\n")
    assert child.start().wait(5) == 0
    child.log.with_suffix(".pid").write_text("torn")
    assert child.start().wait(5) == 0


def test_two_starters_of_one_child_are_told(folder: Path, parent) -> None:
    held = parent(HOLD, folder, "echo ready; exec sleep 600")
    with pytest.raises(Conflict, match=rf"part already runs \(process \d+, started by process {held.process.pid}\)"):
        Child("part", ["true"], None, folder / "0.log").start()
    held.kill()


def test_a_missing_program_is_named(folder: Path) -> None:
    with pytest.raises(Misconfigured, match="The broker cannot start: there is no program 'no-such-thing'"):
        Child("The broker", ["no-such-thing"], None, folder / "a.log").start()


def test_an_early_end_says_why(folder: Path) -> None:
    script = "echo 'FATAL:  could not do it'; echo 'LOG: shut down'; exit 4"
    child = Child("The part", ["sh", "-c", script], None, folder / "a.log", error=BrokerUnavailable).start()
    with pytest.raises(BrokerUnavailable, match=r"The part ended at start \(exit status 4\): FATAL:  could not do it"):
        child.wait_until_ready(lambda: False)
    child = shell("kill -9 $$", folder).start()
    with pytest.raises(PartUnavailable, match=r"ended at start \(signal 9\): it wrote nothing"):
        child.wait_until_ready(lambda: False)


def test_a_slow_start_says_what_it_last_said(folder: Path) -> None:
    child = shell("echo working on it; exec sleep 600", folder).start()
    await_true(child.tail)
    with pytest.raises(PartUnavailable, match=r"part was not ready within 0 s: working on it \(log: "):
        child.wait_until_ready(lambda: False, timeout=0.01)
    child.stop()


def test_a_full_disk_is_named_before_what_follows_it(folder: Path) -> None:
    child = shell("echo 'ERROR: No space left on device'; echo 'PANIC: all is lost'", folder).start()
    child.wait(5)
    assert child.last_line().startswith("the disk is full: ERROR: No space left on device (log: ")


def test_silence_on_a_full_disk_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = shell("exit 1", folder).start()
    child.wait(5)
    full = supervise.shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(supervise.shutil, "disk_usage", lambda _: full)
    assert child.last_line() == f"no space left on the disk of {folder}/logs"
    child.log.unlink()
    assert child.tail() == ""


def test_who_a_child_of_root_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = supervise.unprivileged.__wrapped__
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ask() == "-"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for status, user in ((0, "userns"), (1, "65534:65534")):
        monkeypatch.setattr(supervise.subprocess, "run", lambda *_, s=status, **__: subprocess.CompletedProcess([], s))
        assert ask() == user


def test_the_guardian_ends_what_it_was_told(folder: Path) -> None:
    """Run here as a plain Python program, the way our process runs it but for the isolation."""
    stubborn, polite, forgotten = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(3))
    guardian = subprocess.Popen([*GUARDIAN, "guard", str(os.getpid()), "0.2"], stdin=subprocess.PIPE)
    told = f"+ {polite.pid} 15\n+ {stubborn.pid} 0\n+ {forgotten.pid} 9\n- {forgotten.pid}\n+ 999999999 9\n"
    guardian.communicate(told.encode())  # and the end of its stdin: we are gone
    assert guardian.returncode == 0
    assert polite.wait(5) == -signal.SIGTERM
    assert stubborn.wait(5) == -signal.SIGKILL
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()


def test_the_shim_ends_when_its_parent_is_gone_already() -> None:
    argv = [*GUARDIAN, "exec", "1", "0", "-", "/bin/echo", "alive"]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_the_shim_takes_root_its_powers() -> None:
    user = supervise.unprivileged()
    assert subprocess.run([*GUARDIAN, "exec", str(os.getpid()), "0", user], check=False).returncode == 0


def test_the_shim_becomes_the_program() -> None:
    argv = [*GUARDIAN, "exec", str(os.getpid()), "0", "-", "/bin/echo", "alive"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"alive\n"
