"""Folders that hold the files of an embedded backend: are they there, local, and ours to write?"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from deerflow_backends.errors import ConfigError

#: Where locks do not hold between hosts, and shared memory does not exist.
NETWORK_FILE_SYSTEMS: Final = {
    *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.glusterfs", "fuse.rclone"),
    *("fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"),
}

#: Errors of the system that trying again will not mend.
REFUSALS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
)

_MOUNTS: Final = Path("/proc/mounts")


def check_folder(folder: Path, locks: str, *, parents: bool = False) -> None:
    """Raise `ConfigError` if *folder* cannot hold our files. It may be missing, its parent may not.

    Args:
        locks: Whose locks do not hold on a network file system.
        parents: Whether its parents may be missing, too.
    """
    existing = folder if os.path.lexists(folder) else folder.parent
    while parents and not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        problem = "is no folder" if os.path.lexists(existing) else "does not exist"
        raise ConfigError(f"path {str(folder)!r}: {existing} {problem}; make it, or choose another path")
    kind = file_system(existing)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"path {str(folder)!r} is on a network file system ({kind}), where {locks} do not hold; "
            "choose a local folder, or another backend"
        )
    if not is_writable(existing) or not os.access(existing, os.X_OK):
        raise ConfigError(f"path {str(folder)!r}: the folder {existing} is read-only; make it writable")


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Name the type of the file system that holds *folder*; None where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    target = folder.resolve()
    found: tuple[int, str | None] = (-1, None)
    for line in lines:
        _device, point, kind = line.split(" ")[:3]
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        if target.is_relative_to(mounted) and len(mounted.parts) >= found[0]:
            found = (len(mounted.parts), kind)
    return found[1]


def is_writable(path: Path) -> bool:
    """Whether we may write there, and the mode says that anybody may: the superuser could, and should not."""
    return bool(path.stat().st_mode & 0o222) and os.access(path, os.W_OK)


def sync(path: Path) -> None:
    """Make what is written, or of a folder its names, survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write a file, for its owner alone, and make what is in it survive a power loss."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
