"""Safe unpacking of a ZIP archive, and a checksum over the content of a folder."""

import hashlib
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from wbcjax.errors import DataError

MAX_MEMBERS = 100_000


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(root: Path) -> str:
    """Hexadecimal SHA-256 of what a folder holds: every file's path and bytes.

    Hashed is the text of one line a file, ``<sha256 of the file>  <path below root>\\n``, sorted by path;
    files whose path has a part that starts with a dot (``.DS_Store``) do not count. The same figure on a
    command line::

      find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
    """
    names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    names = sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{file_sha256(root / name)}  {name}\n".encode())
    return digest.hexdigest()


def unpack(archive: Path, target: Path, mapping: Mapping[str, str], *, max_bytes: int,
           on_bytes: Callable[[int], None] = lambda n: None) -> int:
    """Write the wanted members of a ZIP archive below ``target``.

    The archive's single top folder (``<repository>-<commit>/``) is dropped first. ``mapping`` then takes
    a member's path to its place below ``target``: a key that ends in ``/`` is a folder and moves all
    files below it, any other key is one file. Members no key matches stay packed. The whole archive is
    refused before anything is written if one of its names could leave ``target``.

    Args:
      archive: the ZIP file.
      target: folder to write below; its caller removes it when this raises.
      mapping: path in the archive -> path below ``target``.
      max_bytes: bound on the unpacked size of the wanted members.
      on_bytes: told the size of each file written, for a progress bar.

    Returns:
      The number of files written.

    Raises:
      DataError: the archive is damaged; a member's path is absolute, holds ``..``, a backslash or a
        drive, or is a symbolic link; two members have one place; a key matches nothing; there are more
        members or bytes than the bounds allow.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            places = _places(archive, file.infolist(), mapping)
            total = sum(member.file_size for member, _ in places)
            if total > max_bytes:
                raise DataError(f"{archive.name} takes {total} bytes, over the {max_bytes} expected; refused")
            for member, place in places:
                path = target / place
                path.parent.mkdir(parents=True, exist_ok=True)
                # ZipFile reads at most the declared file_size and then checks the CRC: the bound above
                # holds.
                with file.open(member) as source, path.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                on_bytes(member.file_size)
    # RuntimeError and NotImplementedError: encrypted members and unknown compressions.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive.name} is no intact ZIP archive ({error}); download it again") from error
    return len(places)


def _places(archive: Path, members: list[zipfile.ZipInfo],
            mapping: Mapping[str, str]) -> list[tuple[zipfile.ZipInfo, str]]:
    """The wanted members with their places, after every member's name was checked."""
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{archive.name}: {len(members)} members, expected at most {MAX_MEMBERS}; refused")
    places, used, taken = [], set(), set()
    for member in members:
        _check_name(archive, member)
        if member.is_dir():
            continue
        _, _, name = member.filename.partition("/")
        key = next((k for k in mapping if name == k or (k.endswith("/") and name.startswith(k))), None)
        if key is None:
            continue
        place = mapping[key] + name[len(key):]
        if place in taken:
            raise DataError(f"{archive.name}: two members would be written to {place}; refused")
        taken.add(place)
        used.add(key)
        places.append((member, place))
    if missing := [key for key in mapping if key not in used]:
        raise DataError(f"{archive.name} lacks {', '.join(missing)}: it is not the archive of this source")
    return places


def _check_name(archive: Path, member: zipfile.ZipInfo) -> None:
    # orig_filename: ZipFile itself cuts a name at a NUL, which would hide what follows.
    name = member.orig_filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(c in name for c in "\\:\0"):
        raise DataError(f"{archive.name}: the member {name!r} could be written outside the folder; refused")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{archive.name}: the member {name!r} is a symbolic link; refused")
