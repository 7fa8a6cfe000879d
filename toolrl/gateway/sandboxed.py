"""A program in a sandbox whose network is the gateway, and nothing else.

The sandbox has a network of its own with a loopback device. A relay in it listens there, and passes every connection on
to a Unix socket of the gateway, which is mounted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolrl.errors import ConfigError, SandboxFault
from toolrl.gateway.command import Outcome
from toolrl.sandbox import LocalSandbox, Mount, SandboxLimits
from toolrl.sandbox.local.launcher import reachable_parent
from toolrl.support.cleanup import remove_tree
from toolrl.support.leftovers import make_folder

PORT = 8000  # of the relay; each sandbox has a network of its own
# A client's SDK takes some 100 MB, and reserves more; what an agent prints is its answer.
LIMITS = SandboxLimits(memory_mb=4096, processes=128, disk_mb=256, output_characters=1 << 20, loopback=True)
_FOLDER, _GATE = "agent", "gateway"

# Runs in the sandbox. Its value is the command's exit code.
_BOOT = """
import asyncio, subprocess, threading

async def pass_on(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def accept(reader, writer):
    inner, outer = await asyncio.open_unix_connection({gate!r})
    await asyncio.gather(pass_on(reader, outer), pass_on(inner, writer))

async def relay():
    server = await asyncio.start_server(accept, "127.0.0.1", {port})
    ready.set()
    await server.serve_forever()

ready = threading.Event()
threading.Thread(target=lambda: asyncio.run(relay()), daemon=True).start()
if not ready.wait(20):
    raise SystemExit("the relay did not start")
subprocess.run({command!r}, cwd={folder!r}, stdin=subprocess.DEVNULL).returncode
"""


class Gate:
    """A Unix socket for the gateway that sandboxes can mount.

    Attributes:
        listener: To serve.
        path: Where it is.
    """

    def __init__(self) -> None:
        """Listen."""
        self._folder = make_folder(_GATE, reachable_parent())
        self.path = Path(self._folder, "socket")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(512)
        os.chmod(self._folder, 0o755)
        os.chmod(self.path, 0o666)

    def close(self) -> None:
        """Stop listening."""
        self.listener.close()
        remove_tree(self._folder)


class SandboxedRun:
    """A command's run in a sandbox of its own."""

    def __init__(self, command: Sequence[str], folder: Path, gate: Gate):
        """Open the sandbox.

        Args:
            command: Run in the folder.
            folder: Of this machine; the command may read it.
            gate: Of the gateway.

        Raises:
            ConfigError: There is no such folder, or the machine offers no network namespaces.
            SandboxFault: The sandbox could not be opened.
        """
        if not folder.is_dir():
            raise ConfigError(f"the program's folder {str(folder)!r} does not exist")
        mounts = (Mount(gate.path, _GATE), Mount(folder, _FOLDER))
        self._code = _BOOT.format(gate=_GATE, port=PORT, command=list(command), folder=_FOLDER)
        self._sandbox = LocalSandbox(LIMITS, packages=True, mounts=mounts)

    def outcome(self, seconds: float, environment: Mapping[str, str]) -> Outcome:
        """Run the command. Blocks.

        Raises:
            SandboxFault: The sandbox could not do its work.
            ConfigError: There is no such command.
        """
        result = self._sandbox.run(self._code, timeout_seconds=seconds, environment=dict(environment))
        if result.error is None:
            if result.value is None:
                raise SandboxFault("in the sandbox, the command's exit status was lost")
            return Outcome.of(int(result.value), result.stdout, result.stderr)
        if result.error.name == "SystemExit":
            raise SandboxFault(f"in the sandbox, {result.error.value}")
        if result.error.name in ("FileNotFoundError", "PermissionError", "NotADirectoryError"):
            raise ConfigError(f"in the sandbox, the program cannot be started: {result.error.value}")
        return Outcome(None, f"was ended: {result.error.name}: {result.error.value}")

    def close(self) -> None:
        """End the run, and all that it started."""
        self._sandbox.close()
