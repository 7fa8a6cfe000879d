"""The filter of system calls, simulated: both architectures, every call of the tables."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from toolrl.sandbox.local import seccomp

ALLOW, KILL, EPERM, ENOSYS, IGNORE = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x00050000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(
    machine: str, number: int, *arguments: int, architecture: int = 0, attributes: bool = True, sockets: bool = False
) -> int:
    """Run the filter on a call; interprets the few instructions that it uses."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    call = struct.pack("=IIQ6Q", number, architecture or MACHINES[machine], 0, *padded)
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine, attributes=attributes, sockets=sockets)))
    position = value = 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", call, operand)
        elif code == 0x54:
            value &= operand
        elif code == 0x06:
            return operand
        else:
            test = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            position += if_true if test else if_false


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def number(machine: str, name: str) -> int:
    return seccomp.numbers(seccomp.SOME, machine)[name]


def test_exactly_the_calls_of_the_table_are_denied(machine):
    denied = seccomp.numbers(seccomp.DENIED + seccomp.SOCKETS + seccomp.OF_SOCKETS, machine)
    assert {name: answer(machine, at) for name, at in denied.items()} == dict.fromkeys(denied, EPERM)
    conditional = {number(machine, "clone3"), number(machine, "socketpair")}
    others = set(range(470)) - set(denied.values()) - conditional
    assert {at for at in others if answer(machine, at) != ALLOW} == set()
    assert {"ptrace", "socket", "mount", "unshare", "bpf", "memfd_create"} < denied.keys()


def test_with_sockets_nothing_else_is_allowed(machine):
    allowed = seccomp.numbers(seccomp.SOCKETS + seccomp.OF_SOCKETS, machine)
    made = allowed.pop("socket")
    assert {name for name, at in allowed.items() if answer(machine, at, sockets=True) != ALLOW} == set()
    families = {family: answer(machine, made, family, 1, sockets=True) for family in (1, 2, 10, 16, 17, 40)}
    assert families == {1: ALLOW, 2: ALLOW, 10: ALLOW, 16: EPERM, 17: EPERM, 40: EPERM}  # no netlink, packets, vsock
    others = set(range(470)) - {*allowed.values(), made}
    assert {at for at in others if answer(machine, at, sockets=True) != answer(machine, at)} == set()


def test_calls_newer_than_the_table_do_not_exist(machine):
    assert answer(machine, 470) == answer(machine, 600) == ENOSYS


def test_other_architectures_are_killed_and_x32_is_denied(machine):
    for architecture in (0x40000003, 0x40000028, *(set(MACHINES.values()) - {MACHINES[machine]})):  # i386, ARM
        assert answer(machine, 0, architecture=architecture) == KILL
    if machine == "x86_64":
        assert answer(machine, 0x40000000 | 39) == answer(machine, 0xFFFFFFFF) == EPERM


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_processes_and_threads_but_no_namespaces(machine, flag):
    assert answer(machine, number(machine, "clone"), 0x1200011) == ALLOW  # fork
    assert answer(machine, number(machine, "clone"), 0x3D0F00) == ALLOW  # a thread
    assert answer(machine, number(machine, "clone"), flag | 17) == EPERM
    assert answer(machine, number(machine, "clone3")) == ENOSYS


@pytest.mark.parametrize(
    ("family", "kind", "expected"),
    [(1, 1, ALLOW), (1, 1 | 0x80800, ALLOW), (1, 5, EPERM), (1, 2, EPERM), (1, 3, EPERM), (2, 1, EPERM)],
)
def test_only_connected_unix_pairs_are_made(machine, family, kind, expected):
    assert answer(machine, number(machine, "socketpair"), family, kind) == expected


def test_limits_and_priorities_of_other_processes_cannot_be_changed(machine):
    for at in seccomp.numbers(seccomp.OF_PROCESSES, machine).values():
        assert (answer(machine, at, 0, 1), answer(machine, at, 1234, 1)) == (ALLOW, EPERM)
    priority = number(machine, "setpriority")
    assert answer(machine, priority, 0, 0, 5) == ALLOW
    assert {answer(machine, priority, *target, 5) for target in ((0, 1), (1, 0), (2, 0), (2, 1234))} == {EPERM}


def test_nothing_can_be_typed_into_a_terminal(machine):
    requests = {0x5412: EPERM, 0x541C: EPERM, 1 << 32 | 0x5412: EPERM, 0x5401: ALLOW}
    assert {request: answer(machine, number(machine, "ioctl"), 3, request) for request in requests} == requests


def test_changing_file_attributes_can_be_a_silent_no_op(machine):
    for at in seccomp.numbers(seccomp.ATTRIBUTES, machine).values():
        assert answer(machine, at) == ALLOW
        assert answer(machine, at, attributes=False) == IGNORE


def test_an_unknown_architecture_is_an_error():
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64", attributes=True)


def test_the_numbers_match_the_kernels_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    official = {name: int(digits) for name, digits in pairs}
    ours = seccomp.numbers(
        seccomp.DENIED + seccomp.SOCKETS + seccomp.OF_SOCKETS + seccomp.ATTRIBUTES + seccomp.OF_PROCESSES
        + seccomp.SOME, machine,
    )  # fmt: skip
    known = {name: at for name, at in ours.items() if at <= max(official.values())}
    assert known == {name: official.get(name) for name in known}
