"""`python like_docker.py ARGUMENTS ...`: Python under the restrictions of a Docker container.

That is most capabilities, and new namespaces and mounts by a seccomp filter; Landlock and seccomp itself stay. The
table is what Docker's default profile ties to CAP_SYS_ADMIN, and some of what it always denies.
"""

from __future__ import annotations

import os
import sys

from toolrl.sandbox.local import isolation, seccomp

DENIED = """
unshare 272/97  setns 308/268  mount 165/40  umount2 166/39  pivot_root 155/41  mount_setattr 442/442
open_tree 428/428  move_mount 429/429  fsopen 430/430  fsconfig 431/431  fsmount 432/432  fspick 433/433
bpf 321/280  perf_event_open 298/241  add_key 248/217  request_key 249/218  keyctl 250/219  userfaultfd 323/282
"""
# chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
# audit_write, setfcap
CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
NEWEST_CAPABILITY = 40
DROP_FROM_BOUND, NO_NEW_PRIVILEGES = 24, 38  # prctl(2)


def shut_in() -> None:
    """Restrict this process and its descendants as Docker does."""
    machine = os.uname().machine
    clone, clone3 = (seccomp.numbers(seccomp.SOME, machine)[name] for name in ("clone", "clone3"))
    blocks = {number: [seccomp.answer(seccomp.DENY)] for number in seccomp.numbers(DENIED, machine).values()}
    blocks |= {clone: seccomp.no_new_namespaces(), clone3: [seccomp.answer(seccomp.UNKNOWN)]}
    program = seccomp.assemble(machine, blocks)
    if os.geteuid() == 0:
        for capability in set(range(NEWEST_CAPABILITY + 1)) - CAPABILITIES:
            isolation.process_control(DROP_FROM_BOUND, capability)
    else:
        isolation.process_control(NO_NEW_PRIVILEGES, 1)
    seccomp.install(program)


if __name__ == "__main__":
    shut_in()
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
