"""One way to download: bounded in size and time, verified, kept in the user's cache, verified again when read."""

import gzip
import hashlib
import http.client
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import platformdirs

from .files import LARGEST, one_line, read_bytes, write_atomically

TIMEOUT = 60  # seconds to wait for the next bytes
LONGEST = 900  # seconds for a whole file
Content = TypeVar("Content")


def cache_folder() -> Path:
    """The user's cache folder."""
    return Path(platformdirs.user_cache_dir("kn_utils"))


def fetch(url: str, name: str, otherwise: str) -> bytes:
    """Download one file.

    Args:
        name: what it belongs to, for the messages: "ParaRel".
        otherwise: what can be done without a network: "pass load_facts() the path of a local copy".

    Raises:
        ConnectionError: it cannot be reached, is cut short, takes too long, holds more than LARGEST bytes, or is a web
            page, as networks that ask for a password first send it.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            body = _body(response)
        if body.lstrip()[:1] == b"<":
            raise OSError("a web page came instead")
    except (OSError, http.client.HTTPException) as error:  # the latter where a download is cut short
        reason = one_line(error) if isinstance(error, OSError) else repr(error)
        raise ConnectionError(
            f"{name} is not cached and {url} cannot be reached ({reason}): connect once to download it, or {otherwise}"
        ) from None
    return body


def _body(response) -> bytes:
    """All that a server sends, within the bounds."""
    body, end = bytearray(), time.monotonic() + LONGEST
    while part := response.read1(2**16):
        body += part
        if len(body) > LARGEST:
            raise OSError(f"it sends more than {LARGEST:,} bytes")
        if time.monotonic() > end:
            raise OSError(f"it takes more than {LONGEST} seconds")
    if getattr(response, "length", None):  # bytes that were announced and did not come
        raise OSError(f"the download was cut short after {len(body):,} bytes")
    return bytes(body)


def cached(
    path: Path,
    name: str,
    make: Callable[[], bytes],
    parse: Callable[[bytes, str], Content],
    verify: Callable[[Content], object],
) -> Content:
    """What a cached file holds; made, verified and kept the first time.

    Beside the file lies the sha256 of its content, with which the file is compared whenever it is read. A file without
    one, kept by an older version, is verified as if it had just been made.

    Args:
        path: where the file is kept, gzipped; its folder is made.
        name: what it is, for the messages.
        make: downloads the content.
        parse: turns the content into what is wanted; gets it and the name of its origin for messages.
        verify: raises ValueError unless this is what it should be.

    Raises:
        ConnectionError: it is not cached and cannot be downloaded.
        ValueError: what was downloaded is not what it should be, or the cached file has changed.
        OSError: the cache cannot be written.
    """
    record = path.with_name(path.name + ".sha256")
    if not path.exists():
        raw = make()
        content = parse(raw, name)
        verify(content)
        _keep(raw, path, record)
        return content
    remedy = "delete it and try again"
    raw = read_bytes(path, f"cached {name}", remedy)
    origin = f"cached {name} {str(path)!r}"
    if record.exists():
        if _text(record) != hashlib.sha256(raw).hexdigest():
            raise ValueError(f"{origin} has changed since it was downloaded: {remedy}")
        return parse(raw, origin)
    content = parse(raw, origin)
    verify(content)
    with suppress(OSError):  # a cache that can only be read is no fault
        _write_record(raw, record)
    return content


def _keep(raw: bytes, path: Path, record: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)  # of a file that was deleted
    except OSError as error:
        raise OSError(f"the cache {str(path.parent)!r} cannot be written ({one_line(error)})") from None
    write_atomically(path, lambda partial: partial.write_bytes(gzip.compress(raw, mtime=0)))
    _write_record(raw, record)


def _write_record(raw: bytes, record: Path) -> None:
    digest = hashlib.sha256(raw).hexdigest()
    write_atomically(record, lambda partial: partial.write_bytes(digest.encode()))


def _text(record: Path) -> str:
    """A digest's file; whatever else it holds is no digest."""
    with suppress(OSError, ValueError):
        return record.read_bytes()[:100].decode("ascii").strip()
    return ""
