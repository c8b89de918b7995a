"""The SHA-256 of every file of a folder, kept in one of its own: what has changed on the disk since is found and named.

Of a checkpoint's files only some carry a checksum; a flipped bit in the others would go on as a wrong number.
"""

import hashlib
import json
from pathlib import Path

from wbcjax.files import write_text

DIGESTS = "sha256.json"


def write_digests(folder: Path) -> None:
    """Note what the files below ``folder`` hold, in its file ``DIGESTS``."""
    write_text(folder / DIGESTS, json.dumps(_digests(folder), indent=1))


def has_digests(folder: Path) -> bool:
    """Whether ``write_digests`` has been here."""
    return (folder / DIGESTS).exists()


def find_damage(folder: Path) -> str | None:
    """The first file below ``folder`` that is not as it was written, and what is wrong with it; None if all are, or if
    nothing was noted."""
    noted_in = folder / DIGESTS
    try:
        noted = json.loads(noted_in.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{noted_in}: damaged ({error})"
    if not isinstance(noted, dict):
        return f"{noted_in}: damaged (no table)"
    try:
        found = _digests(folder)
    except OSError as error:
        return f"{error.filename}: cannot be read ({error.strerror})"
    for name in sorted(noted.keys() | found.keys()):
        if found.get(name) != noted.get(name):
            problem = "missing" if name not in found else "changed since it was written"
            return f"{folder / name}: {problem}"
    return None


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its path from ``folder``; hidden files, of which network disks make some, left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != DIGESTS and not path.name.startswith("."):
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
