"""Published files in the cache: downloaded once, checked, and noticed when they change."""

import json
from pathlib import Path

from wbcjax.config import DataConfig
from wbcjax.data.fetch import fetch, transfer_bar
from wbcjax.errors import DataError
from wbcjax.files import alone, write_text
from wbcjax.pretrained.catalog import Entry, file_digests


def provide(entry: Entry, cache_dir: Path | None = None, *, progress: bool = True) -> tuple[Path, str]:
    """The file of an entry, downloaded if it is not there, and its SHA-256.

    It lies below ``weights/`` of the cache, with its SHA-256 in a JSON file beside it; a file that was put there by
    hand is checked as a download is. A broken transfer is resumed, by itself a few times and then by the next call.

    Args:
      cache_dir: the package's cache folder; None is ``DataConfig.cache_dir``'s default.
      progress: show a bar.

    Raises:
      DataError: no connection, an HTTP error, a checksum that differs, a file that has changed since, or a disk that
        cannot be written.
    """
    folder = (cache_dir or DataConfig().cache_dir).expanduser() / "weights" / entry.publisher
    path, note = folder / entry.file, folder / f"{entry.file}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / f".{entry.file}.lock"):  # the later ones find it there
            fetched = not path.is_file()
            if fetched:
                _download(entry, path, progress)
            digests = file_digests(path)
            if fetched or not note.is_file():
                _check(entry, path, digests, fetched)
                write_text(note, json.dumps({"url": entry.url, "bytes": path.stat().st_size, **digests}, indent=1))
            elif digests["sha256"] != (noted := _noted(note)):
                raise DataError(f"{path} has changed since it was downloaded: its SHA-256 is {digests['sha256']}, was "
                                f"{noted}; delete it, and the same call downloads it again")
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read or written ({error.strerror or error}); free space, "
                        "or choose another cache folder") from error
    return path, digests["sha256"]


def _download(entry: Entry, path: Path, progress: bool) -> None:
    try:
        with transfer_bar(progress) as bar:
            task = bar.add_task(entry.name, total=None)
            fetch(entry.url, path, on_size=lambda done, total: bar.update(task, completed=done, total=total))
    except DataError as error:
        raise DataError(f"{error}. Without a network, put the file there by hand: {path}") from error


def _check(entry: Entry, path: Path, digests: dict[str, str], fetched: bool) -> None:
    """Refuse a file that is not what was published; a download of it is deleted, a user's own file kept."""
    if entry.matches(digests, copies=not fetched):
        return
    kind, _, expected = entry.checksum.partition(":")
    if fetched:
        path.unlink()
    remedy = ("discarded: try again, and if it stays so, the publisher has changed it" if fetched else
              "delete it, and the same call downloads it")
    raise DataError(f"{entry.url if fetched else path}: {kind} {digests[kind]}, expected {expected}"
                    f"{'…' if len(expected) < len(digests[kind]) else ''}; {remedy}")


def _noted(note: Path) -> str:
    try:
        return json.loads(note.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{note}: damaged ({error!r}); delete it, and the file beside it is checked anew") from error
