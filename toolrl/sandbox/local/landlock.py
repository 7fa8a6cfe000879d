"""Denies this process and its descendants most of the file system; standard library only.

Landlock needs no privileges. It walks from a file up to the root and adds up the rights of the rules on the
way; what no rule grants is denied. A rule names an inode, not a path, and a rule on a directory does not reach
what is mounted over it: rules on fresh mounts are added after mounting.

Landlock does not cover reading a file's attributes, chmod and chown, nor sockets other than TCP.

Source: Documentation/userspace-api/landlock.rst of Linux.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

from toolrl.sandbox.local.isolation import call

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # numbers shared by all architectures
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REFER, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14
_MAKE = 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12  # folders, files, pipes, symbolic links; no sockets, no devices
_REMOVE = 1 << 4 | 1 << 5
_ALL_BY_ABI = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 5: 1 << 16}  # first bit that this version does not know

READ = EXECUTE | READ_FILE | READ_DIR
OWN = READ | WRITE_FILE | TRUNCATE | REFER | _MAKE | _REMOVE
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/sys/devices/system/cpu")
# Certificates of authorities, which HTTP libraries load even where they do not need them.
_CERTIFICATES = ("/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/ca-certificates")
_SETTINGS = ("ld.so.cache", "localtime", "timezone", "mime.types", "services", "protocols", "ssl/openssl.cnf")


def abi() -> int:
    """The version of the kernel's Landlock interface.

    Raises:
        OSError: Landlock is not compiled in (ENOSYS), or disabled at boot (EOPNOTSUPP).
    """
    return call("syscall", _CREATE, None, 0, 1)  # LANDLOCK_CREATE_RULESET_VERSION


def open_readable(packages: Iterable[str]) -> list[tuple[int, int]]:
    """Open everything that every sandbox may read, while we still can; return descriptors and rights.

    Args:
        packages: Folders that Python imports from, besides the standard library's.
    """
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    folders = (*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__), *libraries, *packages)
    folders += (*interpreter(), *_CERTIFICATES)
    rules = [(f"/etc/{name}", READ_FILE) for name in _SETTINGS]
    rules += [(path, READ_FILE) for path in interpreter() if os.path.isfile(path)]
    rules += [(path, READ_FILE | WRITE_FILE) for path in _DEVICES]
    rules = [rule for rule in rules if os.path.exists(rule[0])]
    rules += [(path, READ) for path in dict.fromkeys(folders) if os.path.isdir(path) and path.strip("/")]
    return [(os.open(path, os.O_PATH | os.O_CLOEXEC), rights) for path, rights in rules]


def interpreter() -> list[str]:
    """Paths needed to start this Python: the folders of its programs, and a virtual environment's settings."""
    folder = os.path.dirname(sys.executable)
    paths = (folder, os.path.dirname(os.path.realpath(sys.executable)), f"{os.path.dirname(folder)}/pyvenv.cfg")
    return [path for path in paths if os.path.exists(path)]


def restrict(opened: Iterable[tuple[int, int]], paths: Iterable[tuple[str, int]], *, network: bool = False) -> None:
    """Restrict this process to the given rights; no_new_privs must be set.

    Args:
        opened: Descriptors, and the rights on and below them.
        paths: The same for paths in the current mount namespace.
        network: Whether TCP sockets may be bound and connected.

    Raises:
        OSError: The kernel has no Landlock, or a path cannot be opened.
    """
    version = abi()
    handled = _ALL_BY_ABI[max(known for known in _ALL_BY_ABI if known <= version)] - 1
    sockets = 3 if version >= 4 and not network else 0  # binding and connecting TCP sockets
    scope = 3 if version >= 6 else 0  # no abstract Unix sockets or signals beyond this domain
    attributes = struct.pack("=3Q", handled, sockets, scope)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = call("syscall", _CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    ours = [(os.open(path, os.O_PATH | os.O_CLOEXEC), rights) for path, rights in paths]
    for descriptor, rights in (*opened, *ours):
        rule = struct.pack("=Qi", rights & handled, descriptor)
        call("syscall", _ADD_RULE, ruleset, 1, rule, 0)  # LANDLOCK_RULE_PATH_BENEATH
    call("syscall", _RESTRICT, ruleset, 0)
    for descriptor in (ruleset, *(descriptor for descriptor, _ in ours)):
        os.close(descriptor)
