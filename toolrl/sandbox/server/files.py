"""The files of a hosted sandbox as E2B's envd shows them.

Looking, making folders, moving and removing happens in the sandbox's own session, which can do no more than
the code of its other sessions; contents pass through the sandbox's own methods, which follow no links.
"""

from __future__ import annotations

import errno
import json
import threading
from typing import Any

from toolrl.sandbox.local import LocalSandbox

HOME = "/home/user"  # what clients call the working directory
_STATUS = {"FileNotFoundError": 404, "FileExistsError": 409, "PermissionError": 403}  # else 400

_HELPERS = """
import base64, datetime, json, os, shutil, stat
home = os.getcwd()

def entry(path, shown):
    link, kind = os.lstat(path), None
    is_link = stat.S_ISLNK(link.st_mode)
    try: kind = os.stat(path).st_mode if is_link else link.st_mode
    except OSError: kind = 0
    name = 'FILE' if stat.S_ISREG(kind) else 'DIRECTORY' if stat.S_ISDIR(kind) else 'UNSPECIFIED'
    made = datetime.datetime.fromtimestamp(link.st_mtime, datetime.timezone.utc)
    found = dict(name=os.path.basename(shown), type='FILE_TYPE_' + name, path=shown, size=str(link.st_size),
        mode=stat.S_IMODE(link.st_mode), permissions=stat.filemode(link.st_mode), owner='user', group='user',
        modifiedTime=made.strftime('%Y-%m-%dT%H:%M:%S.%fZ'))
    if is_link: found.update(symlinkTarget=os.readlink(path), isSymlink=True)
    return found

def listed(path, shown, depth):
    found = []
    for name in sorted(os.listdir(path)):
        below, said = os.path.join(path, name), shown.rstrip('/') + '/' + name
        found.append(entry(below, said))
        if depth > 1 and os.path.isdir(below) and not os.path.islink(below):
            try: found += listed(below, said, depth - 1)
            except PermissionError: pass  # locked; as is what lies in it
    return found

def made(path, shown):
    os.makedirs(path)
    return entry(path, shown)

def moved(path, shown, target, said):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(path, target)
    return entry(target, said)

def removed(path):
    if os.path.isdir(path) and not os.path.islink(path): shutil.rmtree(path)
    else: os.unlink(path)
"""


class FileError(Exception):
    """What a client asked of the files cannot be done.

    Attributes:
        status: HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class GuestFiles:
    """File operations of one sandbox; thread-safe."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()

    def stat(self, path: str) -> dict[str, Any]:
        """One entry, as EntryInfo in JSON."""
        return self._ask("entry({0}, {1})", path)

    def list(self, path: str, depth: int) -> list[dict[str, Any]]:
        """Entries below a folder, down to a depth."""
        return self._ask(f"listed({{0}}, {{1}}, {min(max(depth, 1), 64)})", path)

    def make_folder(self, path: str) -> dict[str, Any]:
        """Make a folder and those above it."""
        return self._ask("made({0}, {1})", path)

    def move(self, path: str, target: str) -> dict[str, Any]:
        """Rename; the entry under its new name."""
        return self._ask("moved({0}, {1}, {2}, {3})", path, target)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        self._ask("removed({0})", path)

    def read(self, path: str) -> bytes:
        """Content of a regular file."""
        try:
            return self._sandbox.read_file(inside(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileError(404, f"path '{path}' does not exist") from error
        except (OSError, ValueError) as error:
            raise _as_file_error(error) from error

    def write(self, path: str, content: bytes) -> dict[str, Any]:
        """Create or replace a file; its entry as POST /files answers it."""
        try:
            self._sandbox.write_file(inside(path), content)
        except (OSError, ValueError) as error:
            raise _as_file_error(error) from error
        return {"name": path.rpartition("/")[2], "type": "file", "path": shown(path)}

    def _ask(self, expression: str, *paths: str) -> Any:
        arguments = [part for path in paths for part in (f"os.path.join(home, {inside(path)!r})", repr(shown(path)))]
        with self._lock:
            code = f"if 'home' not in globals():\n    exec({_HELPERS!r})\n"
            result = self._sandbox.run(f"{code}print(json.dumps({expression.format(*arguments)}))")
        if result.error is not None:
            raise FileError(_STATUS.get(result.error.name, 400), f"{paths[0]}: {result.error.value}")
        return json.loads(result.stdout)


def _as_file_error(error: OSError | ValueError) -> FileError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FileError(507, str(error))
    return FileError(_STATUS.get(type(error).__name__, 400), str(error))


def inside(path: str) -> str:
    """A client's path as one below the working directory; absolute if it lies elsewhere."""
    if path == HOME or path.startswith(f"{HOME}/"):
        path = path[len(HOME) :].lstrip("/")
    return path or "."


def shown(path: str) -> str:
    """A client's path as it is shown to clients: absolute."""
    return path if path.startswith("/") else f"{HOME}/{path}"
