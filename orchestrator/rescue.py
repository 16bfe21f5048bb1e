"""A database whose disk has failed at a sync: its successor copies what it reads into a new file and goes on with that.

After a failed fsync the kernel takes the pages for clean although they are not on the disk: a later fsync succeeds and
writes nothing, and whatever is committed after them in the same file is lost with them at the next power loss. So whoever
meets such an error leaves a note beside the database and ends; whoever opens it next, and finds the note, writes every
byte anew into files that never failed. The note need not survive a power loss: what is read after one was on the disk.

The files are copied as bytes, the write-ahead log with the database, and SQLite only opens the copy: a connection to the
failed file would fold the write-ahead log into it when it is closed, which is safe only where that log is on the disk.

    NAME.rescue    the copy under way; worth nothing
    NAME.rescued   a whole copy: from now on it is the database, whatever else is there

The second name is the point of no return: a crash after it is taken up by the next opening.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from typing import TYPE_CHECKING, Final

from orchestrator.mark import mark_path, renew_mark

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.files import Files

_CHUNK: Final = 1 << 20
_SIDES: Final = ("-wal", "-shm", "-journal")
_NO_INDEX: Final = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_SHMOPEN})


class UnrescuedError(Exception):
    """What is read cannot be copied, or the copy is damaged: the message says why."""


def lacks_index(error: BaseException) -> bool:
    """Whether it is the index of the write-ahead log that has found no room, or could not be had: it holds no data.

    Of unknown outcome all the same: SQLite extends it when the commit is in the write-ahead log already.
    """
    return getattr(error, "sqlite_errorcode", 0) in _NO_INDEX


def is_io_error(error: BaseException) -> bool:
    """Whether the disk failed, so that pages may be taken for clean that are not on it."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR and not lacks_index(error)
    return isinstance(error, OSError) and error.errno == errno.EIO


def note_failure(files: Files, path: Path, error: BaseException) -> None:
    """Leave a note for the successor; where even that fails, there is no more to be done."""
    with contextlib.suppress(OSError):
        note = files.open(_note(path), create=True)
        try:
            note.write(str(error).encode(errors="replace"), 0)
            note.sync()
        finally:
            note.close()


def has_failed(files: Files, path: Path) -> bool:
    """Whether a disk error was noted, and the database not copied since."""
    return bool(files.identity(_note(path)) or files.identity(rescued_path(path)))


def rescued_path(path: Path) -> Path:
    """Where the whole copy lies until it has taken the database's place."""
    return path.with_name(path.name + ".rescued")


def rescue(files: Files, path: Path) -> bool:
    """Copy a database whose disk has failed into a new file and put that in its place; call it as the owner.

    Returns:
        Whether there was anything to rescue.

    Raises:
        UnrescuedError: it cannot be copied; nothing has been changed.
        sqlite3.Error, OSError: the disk is full, or fails again; call it again.
    """
    if not has_failed(files, path):
        return False
    if not files.identity(rescued_path(path)):
        _copy(files, path)
    for suffix in _SIDES:
        files.remove(_beside(path, suffix))
    files.sync_directory(path.parent)  # before the rename: the old write-ahead log must never be applied to the copy
    files.rename(rescued_path(path), path)
    renew_mark(mark_path(path), files)
    files.sync_directory(path.parent)
    files.remove(_note(path))
    files.sync_directory(path.parent)
    return True


def _copy(files: Files, path: Path) -> None:
    draft = path.with_name(path.name + ".rescue")
    _remove(files, draft)
    try:
        for suffix in ("", "-wal"):
            if files.identity(_beside(path, suffix)):
                _copy_bytes(files, _beside(path, suffix), _beside(draft, suffix))
        _fold(files, draft)
        file = files.open(draft)
        try:
            file.sync()
        finally:
            file.close()
    except (sqlite3.Error, OSError):
        with contextlib.suppress(OSError):  # others need the room meanwhile
            _remove(files, draft)
        raise
    files.rename(draft, rescued_path(path))
    files.sync_directory(path.parent)


def _remove(files: Files, draft: Path) -> None:
    for suffix in ("", *_SIDES):
        files.remove(_beside(draft, suffix))


def _copy_bytes(files: Files, source: Path, target: Path) -> None:
    with contextlib.ExitStack() as undo:
        reading = files.open(source)
        undo.callback(reading.close)
        writing = files.open(target, create=True)
        undo.callback(writing.close)
        offset = 0
        while chunk := reading.read(_CHUNK, offset):
            writing.write(chunk, offset)
            offset += len(chunk)


def _fold(files: Files, draft: Path) -> None:
    """Fold the copied write-ahead log into the copied database, and look at the result."""
    connection = files.connect(draft, "rw")
    try:
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        raise UnrescuedError(str(error)) from error
    finally:
        connection.close()
    if busy or found != "ok":
        raise UnrescuedError(f"the copy is damaged: {found}" if found != "ok" else "the copy is in use")


def _note(path: Path) -> Path:
    return _beside(path, ".failed")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
