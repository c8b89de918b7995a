"""One file over HTTP, resumed after a cut."""

import os
import re
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich import progress as rich_progress

from wbcjax.console import progress_console
from wbcjax.errors import DataError

RETRY_SECONDS = (1.0, 4.0, 16.0)
"""Waits before a broken transfer is taken up again; after the last one the error is the caller's."""
TIMEOUT_SECONDS = 60.0
CHUNK = 1 << 20
_TRANSIENT = (408, 429, 500, 502, 503, 504)

OnSize = Callable[[int, int | None], None]


def fetch(url: str, path: Path, *, max_bytes: int = 1 << 30,
          on_size: OnSize = lambda done, total: None) -> None:
    """Download ``url`` to ``path`` by way of ``path.part``, which a later call resumes (HTTP Range).

    The validator the server gave (ETag) is kept in ``path.etag`` and sent as If-Range, so that the rest
    of a changed file is never appended to the start of the old one. A server without Range starts over.

    Args:
      url: http or https.
      max_bytes: bound on the file's size.
      on_size: called with (bytes so far, bytes in all or None when the server does not say).

    Raises:
      DataError: no connection, an HTTP error, too many bytes, or a transfer that broke once more often
        than it is retried.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: only http and https addresses can be downloaded")
    part = path.with_name(path.name + ".part")
    etag = path.with_name(path.name + ".etag")
    for wait in (*RETRY_SECONDS, None):
        try:
            _transfer(url, part, etag, max_bytes, on_size)
            break
        except HTTPError as error:
            if error.code not in _TRANSIENT or wait is None:
                raise DataError(f"{url}: the server answers {error.code} {error.reason}; check the address, "
                                "or try again later") from error
        except (HTTPException, ConnectionError, TimeoutError, _BrokenTransfer) as error:
            if wait is None:
                raise _unreachable(url, part, error) from error
        except OSError as error:
            # What the network did carries a reason (URLError, SSLError); any other OSError is the local
            # disk's.
            if not hasattr(error, "reason"):
                raise
            if wait is None:
                raise _unreachable(url, part, error) from error
        time.sleep(wait)
    os.replace(part, path)
    etag.unlink(missing_ok=True)


def transfer_bar(show: bool = True) -> rich_progress.Progress:
    """Progress bars of downloads on standard error: what, how much, how fast, how long yet."""
    return rich_progress.Progress(rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn(),
                                  rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn(),
                                  rich_progress.TimeRemainingColumn(), console=progress_console(), disable=not show)


class _BrokenTransfer(Exception):
    """The transfer ended before, or stands in another place than, the server had announced."""


def _unreachable(url: str, part: Path, error: Exception) -> DataError:
    have = part.stat().st_size if part.exists() else 0
    return DataError(f"{url}: the transfer failed after {have} bytes ({getattr(error, 'reason', error)}); "
                     "check the network and run the command again: it resumes")


def _transfer(url: str, part: Path, etag: Path, max_bytes: int, on_size: OnSize) -> None:
    """One attempt: append what is missing to ``part``, or write it anew where the server does not
    resume."""
    have = part.stat().st_size if part.exists() else 0
    # Identity: a compressed transfer would make the byte positions of Range meaningless.
    headers = {"User-Agent": "wbcjax", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag.exists():
            headers["If-Range"] = etag.read_text()
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # an earlier call had all of it
        part.unlink()
        raise _BrokenTransfer(f"{have} bytes of an earlier download do not fit the file") from error
    with response:
        have, total = _position(response, have)
        # Only a strong validator may go into If-Range (RFC 9110, 13.1.5).
        if (tag := response.headers.get("ETag", "")) and not tag.startswith("W/"):
            etag.write_text(tag)
        elif not have:
            etag.unlink(missing_ok=True)
        on_size(have, total)
        with part.open("ab" if have else "wb") as out:
            while block := response.read(CHUNK):
                have += len(block)
                if have > max_bytes:
                    part.unlink()
                    etag.unlink(missing_ok=True)
                    raise DataError(f"{url}: more than the {max_bytes} bytes expected; discarded")
                out.write(block)
                on_size(have, total)
    if total is not None and have != total:
        raise _BrokenTransfer(f"{have} of {total} bytes arrived")


def _position(response: HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the body starts in the file, and the whole file's size if the server says."""
    if response.status != 206:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if match is None or int(match[1]) != have:
        raise _BrokenTransfer(f"asked for the bytes from {have} on, the server sent {content_range!r}")
    return have, None if match[2] == "*" else int(match[2])
