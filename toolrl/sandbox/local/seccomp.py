"""Takes system calls away from this process and its descendants; standard library only.

The filter is a classic BPF program that the kernel runs before every call. A denied call fails with
EPERM, or with ENOSYS where callers have a fallback, so that Python code gets an exception instead of dying.

Sources: seccomp(2); numbers from Linux's `unistd_64.h` (x86-64) and `asm-generic/unistd.h` (arm64).
"""

import ctypes
import errno
import struct

from toolrl.sandbox.local.isolation import call

# name x86-64/arm64; "-" where the architecture lacks the call.
DENIED = """
ptrace 101/117  process_vm_readv 310/270  process_vm_writev 311/271  process_madvise 440/440  kcmp 312/272
process_mrelease 448/448  pidfd_getfd 438/438  perf_event_open 298/241  userfaultfd 323/282
move_pages 279/239  migrate_pages 256/238  ioprio_set 251/30

shmget 29/194  shmat 30/196  shmctl 31/195  semget 64/190  semop 65/193  semctl 66/191  semtimedop 220/192
msgget 68/186  msgsnd 69/189  msgrcv 70/188  msgctl 71/187  mq_open 240/180  mq_unlink 241/181

unshare 272/97  setns 308/268  mount 165/40  umount2 166/39  pivot_root 155/41  chroot 161/51
open_tree 428/428  move_mount 429/429  fsopen 430/430  fsconfig 431/431  fsmount 432/432  fspick 433/433
mount_setattr 442/442  statmount 457/457  listmount 458/458  open_tree_attr 467/467
name_to_handle_at 303/264  open_by_handle_at 304/265

inotify_init 253/-  inotify_init1 294/26  inotify_add_watch 254/27  fanotify_init 300/262  io_setup 206/0
vmsplice 278/75
seccomp 317/277  landlock_create_ruleset 444/444  landlock_add_rule 445/445  landlock_restrict_self 446/446

memfd_create 319/279  memfd_secret 447/447  io_uring_setup 425/425  io_uring_enter 426/426
io_uring_register 427/427  bpf 321/280  add_key 248/217  request_key 249/218  keyctl 250/219

init_module 175/105  finit_module 313/273  delete_module 176/106  kexec_load 246/104  kexec_file_load 320/294
reboot 169/142  swapon 167/224  swapoff 168/225  acct 163/89  quotactl 179/60  quotactl_fd 443/443
syslog 103/116  personality 135/92  vhangup 153/58  sethostname 170/161  setdomainname 171/162
settimeofday 164/170  adjtimex 159/171  clock_settime 227/112  clock_adjtime 305/266
nfsservctl 180/42  lookup_dcookie 212/18  iopl 172/-  ioperm 173/-  modify_ldt 154/-  uselib 134/-
ustat 136/-  sysfs 139/-  _sysctl 156/-  create_module 174/-  get_kernel_syms 177/-  query_module 178/-
"""
SOCKETS = """
socket 41/198  connect 42/203  bind 49/200  listen 50/201  accept 43/202  accept4 288/242
"""
# What programs with sockets call too: asyncio and node wait with epoll, HTTP libraries send with sendmsg.
OF_SOCKETS = """
epoll_create 213/-  epoll_create1 291/20  sendmsg 46/211  sendmmsg 307/269
"""
# File attributes: Landlock does not protect them from the file's owner, or from whoever may write to it.
ATTRIBUTES = """
chmod 90/-  fchmod 91/52  fchmodat 268/53  fchmodat2 452/452  chown 92/-  lchown 94/-  fchown 93/55
fchownat 260/54  utime 132/-  utimes 235/-  futimesat 261/-  utimensat 280/88
setxattr 188/5  lsetxattr 189/6  fsetxattr 190/7  removexattr 197/14  lremovexattr 198/15  fremovexattr 199/16
setxattrat 463/463  removexattrat 466/466  file_setattr 469/469
"""
# Calls that take a process id: only 0, the caller, is allowed. Others could be any process of the same user.
OF_PROCESSES = """
prlimit64 302/261  sched_setaffinity 203/122  sched_setparam 142/118  sched_setscheduler 144/119  sched_setattr 314/274
"""
# Other calls that are decided by their arguments.
SOME = """
clone 56/220  clone3 435/435  ioctl 16/29  setpriority 141/140  socketpair 53/199  setsockopt 54/208  fcntl 72/25
prctl 157/167  flock 73/32
"""
_NEWEST = 469  # file_setattr, Linux 6.17; later calls are unknown here, hence denied
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, linux/audit.h
_X32 = 0x40000000  # the bit of a second set of numbers on x86-64

_NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW* that clone(2) knows
_AF_UNIX, _AF_INET, _AF_INET6, _SOCK_STREAM, _SOCK_TYPE = 1, 2, 10, 1, 0xF
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into a terminal
_SIZES_OF_BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and their variants that exceed the system's limits
_FILTERS = 26  # SO_ATTACH_FILTER: from this one on, socket options cost kernel memory or time
_LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW
_SETLEASE, _NOTIFY, _SETPIPE_SZ, _USUAL_PIPE = 1024, 1026, 1031, 1 << 16
_SET_SECCOMP = 22

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45
ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
DENY, UNKNOWN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS


def numbers(table: str, machine: str) -> dict[str, int]:
    """The numbers of a table's calls on `machine` ("x86_64" or "aarch64"); missing calls are left out."""
    words = table.split()
    both = {name: pair.split("/") for name, pair in zip(words[::2], words[1::2], strict=True)}
    column = list(_ARCHITECTURES).index(machine)
    return {name: int(pair[column]) for name, pair in both.items() if pair[column] != "-"}


def program(machine: str, *, attributes: bool, locks: bool = True, sockets: bool = False) -> bytes:
    """Assemble the filter.

    Args:
        machine: The architecture, as `os.uname` names it.
        attributes: Whether modes, owners, times and extended attributes of files may be changed. If not, the calls
            do nothing and report success, so that copying files and unpacking archives still works.
        locks: Whether files may be locked. If not, locking does nothing and reports success.
        sockets: Whether TCP, UDP and Unix sockets may be opened.

    Raises:
        OSError: ENOSYS, for an architecture without a table.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no seccomp filter for the architecture {machine!r}")
    some = numbers(SOME, machine)
    denied = DENIED if sockets else DENIED + SOCKETS + OF_SOCKETS
    blocks = {number: [answer(DENY)] for number in numbers(denied, machine).values()}
    if sockets:
        families = [_argument(0)]
        for family in (_AF_UNIX, _AF_INET, _AF_INET6):
            families += _when(_EQUAL, family, [answer(ALLOW)])
        blocks[numbers(SOCKETS, machine)["socket"]] = [*families, answer(DENY)]
    if not attributes:
        blocks |= {number: [answer(_ERRNO)] for number in numbers(ATTRIBUTES, machine).values()}
    ourselves = [_instruction(_EQUAL, 0, 1, 0), answer(DENY)]
    for number in numbers(OF_PROCESSES, machine).values():
        blocks[number] = [_argument(0), *ourselves, answer(ALLOW)]
    blocks[some["setpriority"]] = [_argument(0), *ourselves, _argument(1), *ourselves, answer(ALLOW)]
    blocks[some["clone3"]] = [answer(UNKNOWN)]  # its flags are in memory; glibc falls back to clone
    blocks[some["clone"]] = no_new_namespaces()
    # asyncio and multiprocessing need connected pairs. Datagram sockets could still send to any address, and
    # SOCK_SEQPACKET holds twice the memory.
    pairs = [_argument(0), _instruction(_EQUAL, _AF_UNIX, 1, 0), answer(DENY)]
    pairs += [_argument(1), _instruction(_AND, _SOCK_TYPE), *_when(_EQUAL, _SOCK_STREAM, [answer(ALLOW)])]
    blocks[some["socketpair"]] = [*pairs, answer(DENY)]
    terminals = [_argument(1)]
    for request in (_TIOCSTI, _TIOCLINUX):
        terminals += _when(_EQUAL, request, [answer(DENY)])
    blocks[some["ioctl"]] = [*terminals, answer(ALLOW)]
    # Larger buffers would be memory that no limit counts. As beyond the system's limit, no error is reported.
    buffers = [_argument(2)]
    for option in _SIZES_OF_BUFFERS:
        buffers += _when(_EQUAL, option, [answer(_ERRNO)])
    blocks[some["setsockopt"]] = [*buffers, *_when(_AT_LEAST, _FILTERS, [answer(DENY)]), answer(ALLOW)]
    # A lease makes other openers of the file wait or fail; a lock affects only those who lock it too.
    descriptors = [_argument(1)]
    for command in (_SETLEASE, _NOTIFY):
        descriptors += _when(_EQUAL, command, [answer(DENY)])
    if not locks:
        blocks[some["flock"]] = [answer(_ERRNO)]
        for command in _LOCKS:
            descriptors += _when(_EQUAL, command, [answer(_ERRNO)])
    pipes = [_argument(2), *_when(_AT_LEAST, _USUAL_PIPE + 1, [answer(DENY)]), answer(ALLOW)]
    blocks[some["fcntl"]] = [*descriptors, *_when(_EQUAL, _SETPIPE_SZ, pipes), answer(ALLOW)]
    blocks[some["prctl"]] = [_argument(0), *_when(_EQUAL, _SET_SECCOMP, [answer(DENY)]), answer(ALLOW)]
    return assemble(machine, blocks)


def assemble(machine: str, blocks: dict[int, list[bytes]]) -> bytes:
    """Assemble a filter that runs one block, which ends in an answer, per call number; other calls are allowed."""
    code = [_instruction(_LOAD, 4), _instruction(_EQUAL, _ARCHITECTURES[machine], 1, 0), answer(_KILL)]
    code += [_instruction(_LOAD, 0)]
    if machine == "x86_64":
        code += _when(_AT_LEAST, _X32, [answer(DENY)])
    code += _when(_AT_LEAST, _NEWEST + 1, [answer(UNKNOWN)])
    return b"".join([*code, *_choice(_segments(blocks))])


def no_new_namespaces() -> list[bytes]:
    """The block for clone(2): no new namespaces."""
    return [_argument(0), *_when(_ANY_BIT, _NEW_NAMESPACES, [answer(DENY)]), answer(ALLOW)]


def install(code: bytes) -> None:
    """Install a filter irrevocably; no_new_privs must be set.

    Raises:
        OSError: The kernel has no seccomp filters.
    """
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    call("prctl", 22, 2, filter_program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _choice(segments: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Find the block of the loaded number by binary search, and run it.

    On installation the kernel runs the filter once for every number; a linear search takes up to 0.1 ms longer.

    Args:
        segments: The first number and the block of each range, in order.
    """
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    low, high = _choice(segments[:middle]), _choice(segments[middle:])
    return [_instruction(_AT_LEAST, segments[middle][0], len(low), 0), *low, *high]  # jumps reach 255 instructions


def _segments(blocks: dict[int, list[bytes]]) -> list[tuple[int, list[bytes]]]:
    """Ranges of numbers that share a block; numbers without one are allowed."""
    segments: list[tuple[int, list[bytes]]] = []
    for number in range(_NEWEST + 1):
        block = blocks.get(number, [answer(ALLOW)])
        if not segments or segments[-1][1] != block:
            segments.append((number, block))
    return segments


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def answer(action: int) -> bytes:
    """The instruction that ends the filter with an action."""
    return _instruction(_RETURN, action)


def _argument(index: int) -> bytes:
    """Load the low half of an argument, which is all that these calls read."""
    return _instruction(_LOAD, 16 + 8 * index)


def _when(test: int, operand: int, block: list[bytes]) -> list[bytes]:
    """Run a block, which ends in an answer, if the test of the loaded value holds."""
    return [_instruction(test, operand, 0, len(block)), *block]
