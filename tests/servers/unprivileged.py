"""Runs a command as somebody who is not root, which PostgreSQL insists on, and ends it when its parent ends.

    python unprivileged.py {as-is|namespace|nobody} COMMAND [ARGUMENT ...]

A test session may well be root: in a container, or root of nothing but a user namespace (`unshare -rn`). `namespace`
makes a user namespace in which the same user goes by another number: nothing on the machine changes, files keep their
owner. Where that is forbidden (a container without CAP_SYS_ADMIN), `nobody` really becomes that user. Run as a file, so
it uses nothing but the standard library.
"""

import ctypes
import os
import pwd
import signal
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
NOBODY = 65534


def ordinary_user() -> tuple[int, int]:
    """User and group of somebody who is in the password file, as initdb demands, and is not root."""
    everybody = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    chosen = next((entry for entry in everybody if entry.pw_name == "nobody"), everybody[0] if everybody else None)
    return (chosen.pw_uid, chosen.pw_gid) if chosen else (NOBODY, NOBODY)


def rename_myself_in_a_namespace(libc: ctypes.CDLL) -> None:
    uid, gid = ordinary_user()
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer_uid} 1"),
        ("gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{file}", "w", encoding="ascii") as map_file:
            map_file.write(text)


def become_nobody() -> None:
    uid, gid = ordinary_user()
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(how: str, command: list[str]) -> None:
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if how == "namespace":
        rename_myself_in_a_namespace(libc)
    elif how == "nobody":
        become_nobody()
    if sys.platform == "linux":
        # Last, because a change of user takes it away. SIGINT shuts PostgreSQL down fast, and Redis in good order.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            sys.exit("the parent ended before the server began")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
