"""Attacks of code on this machine, at every level of isolation that claims to stop them.

Each is made from a sandbox's first session and from a further one. `open_sandbox` checks after each test that
nothing is left and that another sandbox is unharmed. What every
backend must withstand (loops, bombs, floods, crashes) is in test_contract.py, attacks on the session in
test_attacks_session.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolrl.sandbox import LocalSandbox, Session

isolated = pytest.mark.parametrize("level", ["full", "no-landlock", "no-userns"])
reads_nothing_else = pytest.mark.parametrize("level", ["full", "no-userns"])
LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture(params=["first", "further"])
def sandbox(open_sandbox: Callable[..., LocalSandbox], request: pytest.FixtureRequest) -> Session:
    """A session for attacks."""
    opened = open_sandbox()
    return opened if request.param == "first" else opened.new_session()


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that every user may write to, with a secret file; not in /tmp, which may be private in a sandbox."""
    with tempfile.TemporaryDirectory(prefix="toolrl-outside-", dir="/var/tmp") as name:
        folder = Path(name)
        (folder / "file").write_text("do-not-tell")
        os.chmod(folder, 0o777)
        os.chmod(folder / "file", 0o666)
        yield folder


@pytest.fixture
def victim(sandbox) -> Iterator[subprocess.Popen]:
    """A process of the sandbox's own user, protected by isolation only."""
    uid = int(sandbox.run("import os; os.getuid()").value)
    user = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "600"], env={"SECRET": "do-not-tell"}, **user) as process:
        yield process
        process.kill()


def state_of(folder: Path) -> dict[str, tuple]:
    """Everything about a folder that could be changed."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (content, status.st_mode, status.st_nlink, status.st_mtime_ns, status.st_uid, status.st_gid)
        found[str(path)] += tuple(os.listxattr(path))
    return found


@isolated
@pytest.mark.parametrize(
    "attempt",
    [
        "open(outside + '/file', 'w')",
        "open(outside + '/file', 'a')",
        "open(outside + '/new', 'x')",
        "os.truncate(outside + '/file', 0)",
        "os.remove(outside + '/file')",
        "os.rename(outside + '/file', outside + '/new')",
        "os.rename(outside + '/file', 'taken')",
        "os.rename('own', outside + '/new')",
        "os.link(outside + '/file', 'link')",
        "os.symlink('/etc', outside + '/new')",
        "os.mkdir(outside + '/new')",
        "os.mkfifo(outside + '/new')",
        "os.chmod(outside + '/file', 0)",
        "os.chmod(outside, 0)",
        "os.utime(outside + '/file', (0, 0))",
        "os.utime(outside + '/file')",
        "os.setxattr(outside + '/file', 'user.mark', b'x')",
        "os.symlink(outside, 'link'); open('link/new', 'x')",
        "os.symlink(outside + '/file', 'link'); open('link', 'w')",
        "os.chdir(outside); open('new', 'x')",
        "open('/proc/self/root' + outside + '/new', 'x')",
        "open(f'/proc/{os.getppid() or 1}/root{outside}/new', 'x')",
        "import subprocess; subprocess.run(['sh', '-c', f'echo > {outside}/new; rm -rf {outside}/file'])",
    ],
)
def test_files_outside_cannot_be_changed(sandbox, outside, attempt):
    before = state_of(outside)
    sandbox.run(f"import os\noutside = {str(outside)!r}\nopen('own', 'x').close()\n{attempt}")
    assert state_of(outside) == before


@isolated
def test_nothing_appears_in_shared_folders(sandbox):
    name = f"toolrl-{uuid.uuid4().hex}"
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock"):
        sandbox.run(f"open('{folder}/{name}', 'x')")
        assert not Path(folder, name).exists()
    result = sandbox.run(f"import os; open(os.path.dirname(os.getcwd()) + '/{name}', 'x')")
    assert result.error is not None or not Path(tempfile.gettempdir(), name).exists()


@isolated
def test_the_interpreters_files_cannot_be_touched(sandbox):
    code = "import json, os, sys\nopened = []\nfor path in (os.__file__, json.__file__, sys.executable):\n"
    code += "    try: opened.append(open(path, 'r+b'))\n    except OSError: pass\nopened"
    assert sandbox.run(code).value == "[]"
    assert sandbox.run("os.mkdir(os.path.dirname(os.__file__) + '/toolrl_attack')").error is not None


@reads_nothing_else
@pytest.mark.parametrize(
    "attempt",
    [
        "open(outside + '/file').read()",
        "os.listdir(outside) and 'do-not-tell'",
        "os.symlink(outside + '/file', 'link'); open('link').read()",
        "os.symlink(outside, 'link'); open('link/file').read()",
        "os.link(outside + '/file', 'link'); open('link').read()",
        "open('/proc/self/root' + outside + '/file').read()",
        "open(f'/proc/{os.getppid() or 1}/root{outside}/file').read()",
        "open(os.open(outside, os.O_PATH) * 0 or outside + '/file').read()",
        "open('file', opener=lambda name, flags: os.open(name, flags, dir_fd=os.open(outside, os.O_PATH))).read()",
        "import subprocess; subprocess.run(['cat', outside + '/file'], capture_output=True).stdout",
        "import mmap; str(mmap.mmap(os.open(outside + '/file', os.O_RDONLY), 11, prot=mmap.PROT_READ)[:])",
    ],
)
def test_files_outside_cannot_be_read(sandbox, outside, attempt):
    result = sandbox.run(f"import os\noutside = {str(outside)!r}\n{attempt}")
    assert "do-not-tell" not in f"{result.value} {result.stdout}"


@reads_nothing_else
@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/hostname", "/root", "/home", "/sys/class", "/var/log", "/"])
def test_the_machines_own_files_cannot_be_read(sandbox, path):
    if os.path.exists(path):
        assert sandbox.run(f"import os; os.close(os.open({path!r}, os.O_RDONLY))").error.name == "PermissionError"


@reads_nothing_else
def test_the_machines_users_cannot_be_read(sandbox):
    result = sandbox.run("open('/etc/passwd').read()")
    assert result.error is not None or "daemon" not in result.value
    assert "daemon" in Path("/etc/passwd").read_text()


@isolated
def test_no_secret_is_in_memory_or_environment_of_another_process(sandbox, victim):
    attempts = f"""
    seen = b''
    for pid in ({victim.pid}, {os.getpid()}, os.getppid()):
        for name in ('environ', 'maps', 'cmdline', 'stack', 'fd', 'mem'):
            try:
                seen += open(f'/proc/{{pid}}/{{name}}', 'rb').read(100_000)
            except OSError: pass
    """
    code = "import os\n" + "\n".join(line[4:] for line in attempts.splitlines())
    assert sandbox.run(f"{code}\nb'do-not-tell' in seen, b'sleep' in seen").value == "(False, False)"


@isolated
@pytest.mark.parametrize(
    "call", ["ptrace(16, pid, 0, 0)", "ptrace(0x4206, pid, 0, 0)", "process_vm_readv(pid, *vectors)"]
)
def test_another_process_cannot_be_traced(sandbox, victim, call):
    sandbox.run(f"{LIBC}here = (ctypes.c_void_p * 2)(id(1), 8); vectors = here, 1, here, 1, 0; pid = {victim.pid}")
    assert sandbox.run(f"libc.{call}, ctypes.get_errno()").value == "(-1, 1)"
    assert "TracerPid:\t0" in Path(f"/proc/{victim.pid}/status").read_text()


@isolated
@pytest.mark.parametrize(
    "attempt",
    [
        "os.kill(pid, 9)",
        "os.killpg(os.getpgid(pid), 9)",
        "os.kill(0, 9)",
        "os.kill(-1, 9)",
        "os.kill(os.getppid(), 9)",
        "signal.pidfd_send_signal(os.pidfd_open(pid), 9)",
        "resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0))",
        "resource.prlimit(pid, resource.RLIMIT_AS, (0, 0))",
        "os.setpriority(os.PRIO_PROCESS, pid, 19)",
        "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
        "os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))})",
        "os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))",
        "for other in range(2, 70_000):\n    try: os.kill(other, 9)\n    except OSError: pass",
    ],
)
def test_another_process_can_be_neither_killed_nor_slowed_down(sandbox, victim, attempt):
    status = f"/proc/{victim.pid}/stat"
    before = Path(status).read_text().split()[17:19], Path(f"/proc/{victim.pid}/limits").read_text()
    sandbox.run(f"import os, resource, signal\npid = {victim.pid}\n{attempt}", timeout_seconds=20)
    after = Path(status).read_text().split()[17:19], Path(f"/proc/{victim.pid}/limits").read_text()
    assert after == before
    assert os.sched_getscheduler(victim.pid) == os.SCHED_OTHER
    assert os.sched_getaffinity(victim.pid) == os.sched_getaffinity(0)
    assert victim.poll() is None


@isolated
@pytest.mark.parametrize(
    "arguments",
    [
        "socket.AF_INET",
        "socket.AF_INET6",
        "socket.AF_INET, socket.SOCK_DGRAM",
        "socket.AF_INET, socket.SOCK_RAW, 1",
        "socket.AF_UNIX",
        "socket.AF_UNIX, socket.SOCK_DGRAM",
        "socket.AF_NETLINK, socket.SOCK_RAW",
        "socket.AF_PACKET, socket.SOCK_RAW",
        "socket.AF_VSOCK",
        "socket.AF_ALG, socket.SOCK_SEQPACKET",
    ],
)
def test_no_socket_can_be_created(sandbox, arguments):
    assert sandbox.run(f"import socket; socket.socket({arguments})").error.name == "PermissionError"


@isolated
@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_no_service_of_this_machine_can_be_reached(sandbox, outside, kind):
    address = str(outside / "service") if kind == "path" else f"\0toolrl-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(address)
        if kind == "path":
            os.chmod(address, 0o666)
        for make in ("socket.socket", "socket.socketpair"):
            code = f"import socket\nmade = {make}(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            sandbox.run(f"{code}(made[0] if isinstance(made, tuple) else made).sendto(b'hello', {address!r})")
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.recv(10)


@isolated
def test_no_host_name_can_be_resolved(sandbox):
    result = sandbox.run("import socket; socket.getaddrinfo('example.com', 80)")
    assert result.error.name in ("gaierror", "PermissionError")


@isolated
def test_connected_socket_pairs_work(sandbox):
    code = "import asyncio, multiprocessing, socket, subprocess\nleft, right = socket.socketpair()\nleft.send(b'a')\n"
    code += "pipe = multiprocessing.Pipe()\npipe[0].send('b')\n"
    code += "run = subprocess.run(['cat'], input=b'd', capture_output=True).stdout\n"
    code += "right.recv(1), pipe[1].recv(), asyncio.run(asyncio.sleep(0, 'c')), run"
    assert sandbox.run(code).value == "(b'a', 'b', 'c', b'd')"


@isolated
@pytest.mark.parametrize(
    "call",
    [
        "unshare(0x10000000)",
        "unshare(0x20000)",
        "setns(0, 0)",
        "mount(b'none', b'/tmp', b'tmpfs', 0, 0)",
        "umount2(b'/proc', 2)",
        "chroot(b'.')",
        "personality(0x0400000)",
        "accept(-1, 0, 0)",
        "shmget(0, 4096, 0o1600)",
        "inotify_add_watch(-1, b'/', 1)",
        "keyctl(0, -3, 0)",
        "syscall(425, 1, 0)",
        "syscall(428, -100, b'/', 0)",
        "syscall(447, 0)",
    ],
)
def test_unneeded_kernel_interfaces_are_denied(sandbox, call):
    if call.startswith("keyctl"):
        call = {"x86_64": "syscall(250", "aarch64": "syscall(219"}[os.uname().machine] + ", 0, -3, 0)"
    assert sandbox.run(f"{LIBC}libc.{call}, ctypes.get_errno()").value == "(-1, 1)"


@isolated
def test_memory_files_cannot_be_created(sandbox):
    assert sandbox.run("import os; os.memfd_create('code')").error.name == "PermissionError"


@isolated
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize(
    ("code", "signal"),
    [
        ("b8 14 00 00 00 cd 80 c3", 31),  # mov eax, 20; int 0x80; ret: getpid of 32-bit x86
        ("b8 27 00 00 40 0f 05 c3", None),  # mov eax, 0x40000027; syscall; ret: getpid of x32
    ],
)
def test_other_system_call_tables_are_denied(sandbox, code, signal):
    program = f"import ctypes, mmap\npage = mmap.mmap(-1, 4096, prot=7)\npage.write(bytes.fromhex({code!r}))\n"
    program += "ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
    result = sandbox.run(program)
    if signal:
        assert f"signal {signal} " in result.error.value
    else:
        assert result.value == "-1"  # EPERM


def test_the_code_has_no_privileges_and_gains_none(sandbox):
    status = sandbox.run("print(open('/proc/self/status').read())").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


@pytest.mark.parametrize("level", ["full", "no-landlock"])
def test_with_namespaces_there_are_no_other_processes_and_no_terminals(sandbox):
    assert (
        sandbox.run("import os; [int(n) for n in os.listdir('/proc') if n.isdigit()], os.getpid()").value == "([1], 1)"
    )
    assert (
        sandbox.run("try: terminals = os.listdir('/dev/pts')\nexcept OSError: terminals = []\nterminals").value == "[]"
    )


def test_the_code_inherits_no_environment_and_no_descriptors(sandbox):
    names, descriptors = eval(sandbox.run("import os; sorted(os.environ), len(os.listdir('/proc/self/fd'))").value)
    assert set(names) == {"PATH", "LANG", "HOME", "TMPDIR", "USER", "GIT_CONFIG_NOSYSTEM"}
    assert descriptors <= 9
