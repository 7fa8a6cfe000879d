"""One GET request to a checked address, bounded in time and size.

Standard library only. The connection goes to an address that `AddressGuard` has resolved and found public, so a name
cannot change its meaning in between. Proxies from the environment are not used: behind one, the address could not be
checked.
"""

from __future__ import annotations

import errno
import http.client
import io
import socket
import ssl
import time
import zlib
from dataclasses import dataclass
from email.message import Message
from functools import cache
from typing import Any, cast

from toolrl.errors import RetrieverFault
from toolrl.search.base import NotReadable
from toolrl.search.web.addresses import AddressGuard, IPAddress, ParsedURL, shown
from toolrl.support.retry import TryAgain

# Connection errors caused by this machine, not by the site.
_OURS = {
    *(errno.ENETDOWN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    *(errno.EACCES, errno.EPERM),  # from a local firewall
}
# Without a network, all connections fail with these; without IPv6, as on many machines, those over IPv6.
_NO_NETWORK = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class PageResponse:
    """A server's response.

    Attributes:
        requested: The URL, after redirects.
        status: The HTTP status.
        headers: Its headers.
        body: The content, decompressed; empty if the status is not 200.
        too_large: Whether there was more content than allowed.
    """

    requested: ParsedURL
    status: int
    headers: Message
    body: bytes
    too_large: bool = False


class Deadline:
    """A point in time by which everything must be done."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            TimeoutError: No time is left.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time is up")
        return seconds


def get(parsed: ParsedURL, guard: AddressGuard, deadline: Deadline, *, max_bytes: int, user_agent: str) -> PageResponse:
    """Request a URL once; redirects are not followed.

    Args:
        parsed: The URL.
        guard: Looks up the address.
        deadline: For the whole request.
        max_bytes: Maximum size of the content, decompressed; no more is read.
        user_agent: The User-Agent header.

    Raises:
        NotReadable: The page may not be visited, or cannot be read.
        TryAgain: The site does not answer properly, but may do so later.
        RetrieverFault: The network here is down.
    """
    try:
        addresses = guard.addresses(parsed, deadline.remaining())
        with _connected(parsed, addresses, deadline) as connection:
            connection.sendall(_request(parsed, user_agent))
            response = http.client.HTTPResponse(cast(socket.socket, _Incoming(connection, deadline)), method="GET")
            try:
                response.begin()
                if response.status != 200:
                    return PageResponse(parsed, response.status, response.headers, b"")
                body, too_large = _unpacked(response, parsed, max_bytes)
                return PageResponse(parsed, response.status, response.headers, body, too_large)
            finally:
                response.close()
    except TimeoutError:
        raise TryAgain("it did not answer in time") from None
    except ssl.SSLCertVerificationError as error:
        raise NotReadable(f"{shown(parsed.url)}: its certificate is not valid ({error.verify_message})") from error
    except http.client.HTTPException as error:
        raise TryAgain(f"it does not answer as a web server should ({type(error).__name__})") from error
    except OSError as error:
        raise TryAgain(f"the connection broke ({error.strerror or type(error).__name__})") from error


def _connected(parsed: ParsedURL, addresses: list[IPAddress], deadline: Deadline) -> socket.socket:
    """Connect to the first of the addresses that accepts a connection."""
    error: OSError | None = None
    unreachable = 0
    for number, address in enumerate(addresses):
        try:
            # The remaining addresses share the remaining time.
            seconds = deadline.remaining() / (len(addresses) - number)
            connection = socket.create_connection((str(address), parsed.port), timeout=seconds)
        except OSError as failure:
            error = failure
            if failure.errno in _OURS or (failure.errno in _NO_NETWORK and address.version == 4):
                raise RetrieverFault(f"the network cannot be used here: {failure}") from failure
            unreachable += failure.errno in _NO_NETWORK
            continue
        if parsed.scheme == "http":
            return connection
        try:
            connection.settimeout(deadline.remaining())
            return _tls_context().wrap_socket(connection, server_hostname=parsed.host)
        except BaseException:
            connection.close()
            raise
    if unreachable == len(addresses):
        raise NotReadable(f"{shown(parsed.url)}: it has IPv6 addresses only, which cannot be reached from here")
    if isinstance(error, TimeoutError):
        raise TryAgain("it did not answer in time") from error
    raise TryAgain(f"it takes no connections ({error.strerror if error else 'no address'})") from error


@cache
def _tls_context() -> ssl.SSLContext:
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not paths.capath:
        raise RetrieverFault(
            f"no certificates of authorities are installed (looked in {paths.openssl_cafile}); "
            "install ca-certificates, or set SSL_CERT_FILE"
        )
    return ssl.create_default_context()


def _request(parsed: ParsedURL, user_agent: str) -> bytes:
    lines = [
        f"GET {parsed.target} HTTP/1.1",
        f"Host: {parsed.origin.partition('://')[2]}",
        f"User-Agent: {user_agent}",
        "Accept: text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.5",
        "Accept-Language: en,*;q=0.5",
        "Accept-Encoding: gzip, deflate",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class _Incoming(io.RawIOBase):
    """The stream `HTTPResponse` reads from; each read is limited to the time left before the deadline."""

    def __init__(self, connection: socket.socket, deadline: Deadline):
        self._connection = connection
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _CHUNK_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.remaining())
        return self._connection.recv_into(buffer)


def _unpacked(response: http.client.HTTPResponse, parsed: ParsedURL, max_bytes: int) -> tuple[bytes, bool]:
    """Return the decompressed content, and whether it was cut off at `max_bytes`."""
    packing = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if packing not in ("identity", "gzip", "x-gzip", "deflate"):
        raise NotReadable(f"{shown(parsed.url)}: its content is packed in an unknown way ({packing[:40]!r})")
    unpacker = None if packing == "identity" else _Unpacker(packing)
    content = bytearray()
    packed_bytes = 0
    while chunk := response.read1(_CHUNK_BYTES):
        packed_bytes += len(chunk)
        try:
            content += chunk if unpacker is None else unpacker.unpack(chunk, max_bytes + 1 - len(content))
        except zlib.error as error:
            raise TryAgain(f"its content is packed wrongly ({error})") from error
        if len(content) > max_bytes or packed_bytes > max_bytes:
            return bytes(content[:max_bytes]), True
    if response.length or (unpacker is not None and not unpacker.is_complete):
        raise TryAgain("the connection broke before its content was complete")
    return bytes(content), False


class _Unpacker:
    """Decompresses gzip or deflate piece by piece, up to a given size."""

    def __init__(self, packing: str):
        self._packing = packing
        self._zlib: Any = None

    def unpack(self, chunk: bytes, max_bytes: int) -> bytes:
        if self._zlib is None:
            # "deflate" is the zlib format; some servers omit its header.
            bare = self._packing == "deflate" and chunk[0] & 0x0F != 8
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
        return self._zlib.decompress(chunk, max_bytes)

    @property
    def is_complete(self) -> bool:
        """Whether the end was reached, or there was no content at all."""
        return self._zlib is None or self._zlib.eof
