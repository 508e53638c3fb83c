"""Copies a folder on gs://, such as a prepared corpus, to a disk of this host."""

import base64
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from f2jax import files
from f2jax.errors import Restart, UserError

CACHE = "F2JAX_CACHE"  # environment variable with the folder of all copies
TOGETHER = 16  # files that are copied at the same time
BLOCK = 2**20  # bytes
LOCK = ".lock"  # name of a lock in the folder of a copy, and in that of each of its versions
VERSIONS = "@"  # first character of the folder of each version of a copy
_in_use: dict[Path, TextIO] = {}  # versions that this process may read until it ends, with their shared locks


class LocalCopy:
    """A folder that is local, or on gs:// with a copy in `F2JAX_CACHE`, by default `~/.cache/f2jax`.

    Each version of the folder has its own copy, since other runs on this host may be reading an earlier one.

    >>> copy = LocalCopy("gs://bucket/corpus")
    >>> copy.fetch(["corpus.json"])
    >>> copy.folder / "corpus.json"
    PosixPath('/home/me/.cache/f2jax/bucket/corpus/@5bd2f0c91a7e43d6/corpus.json')

    Attributes:
        source: the folder as it was given.

    Raises:
        UserError: the folder is neither local nor on gs://.
    """

    def __init__(self, source: str | Path):
        self.source, self.is_remote = str(source).rstrip("/"), files.is_remote(source)
        if self.is_remote and not self.source.startswith("gs://"):
            raise UserError(f"{source} is neither a local folder nor one on gs://; copy it to one of them.")

    @cached_property
    def folder(self) -> Path:
        """The folder on a disk of this host."""
        if not self.is_remote:
            return Path(self.source)
        cache = Path(os.environ.get(CACHE) or Path.home() / ".cache/f2jax")
        generations = sorted((name, found["generation"]) for name, found in self._objects.items())
        version = hashlib.blake2b(json.dumps(generations).encode(), digest_size=8).hexdigest()
        return cache / self.source.removeprefix("gs://") / f"{VERSIONS}{version}"

    @cached_property
    def _objects(self) -> dict[str, dict]:
        """The metadata of each object, by its name inside the folder."""
        store, root = files.filesystem(self.source)
        with files.clear_errors(self.source):
            return {path.removeprefix(f"{root}/"): found for path, found in store.find(root, detail=True).items()}

    def names(self, folder: str) -> list[str]:
        """Returns the names of all objects in a subfolder on gs://."""
        return [name for name in self._objects if name.startswith(f"{folder}/")]

    def exists(self, name: str) -> bool:
        """Returns whether the given folder contains a file or, if it is local, a folder of this name."""
        return name in self._objects if self.is_remote else (self.folder / name).exists()

    def fetch(self, names: Collection[str], sizes: Mapping[str, int] = {}) -> None:
        """Copies missing files from gs://, while other processes wait; does nothing for a local folder.

        Each file is checked against its CRC32C in the bucket, and only appears once it is complete. Its modification
        time stores the generation of the object that it was copied from.

        Args:
            names: file names inside the folder.
            sizes: known sizes of files, in bytes.

        Raises:
            UserError: a file is missing or has another size, or the disk has no room.
            Restart: there was a temporary failure, or a file arrived damaged.
        """
        if not self.is_remote:
            return
        for name in names:
            if name not in self._objects:
                raise UserError(f"{self.source} lacks {name}; copy the complete folder there again.")
            if (found := self._objects[name]["size"]) != sizes.get(name, found):
                raise UserError(
                    f"{self.source}/{name} has {found:,} bytes instead of {sizes[name]:,}; copy the complete "
                    "folder there again."
                )
            if not (self.folder / name).resolve().is_relative_to(self.folder.resolve()):
                raise UserError(f"{self.source} names the file {name}, outside of the folder; use another one.")
        with files.clear_errors(self.folder, "written"):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = _lock_file(self.folder.parent, fcntl.LOCK_EX)
        with lock, ThreadPoolExecutor(TOGETHER) as threads:
            if self.folder not in _in_use:
                with files.clear_errors(self.folder, "written"):
                    self.folder.mkdir(exist_ok=True)
                    _in_use[self.folder] = _lock_file(self.folder, fcntl.LOCK_SH)
                    self._follow_earlier_versions()
            missing = [name for name in names if not self._is_there(name, self.folder)]
            total = sum(self._objects[name]["size"] for name in missing)
            if total > (free := shutil.disk_usage(self.folder).free):
                raise UserError(
                    f"{self.source} needs {total / 2**30:,.1f} GiB in {self.folder}, which has {free / 2**30:,.1f} GiB "
                    f"free; make room there, or name another folder in the environment variable {CACHE}."
                )
            what, off = f"copying {self.source}", None if missing else True
            with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=off) as bar:
                jobs = [threads.submit(self._copy, name) for name in missing]
                try:
                    for name, job in zip(missing, jobs, strict=True):
                        job.result()
                        bar.update(self._objects[name]["size"])
                finally:
                    threads.shutdown(cancel_futures=True)

    def _follow_earlier_versions(self) -> None:
        """Takes over files that have not changed, and removes versions that no process uses.

        Before copies had versions, files were stored directly in the folder that now holds these, with shards of any
        upload. Copies of subfolders have their own locks, and are left alone.
        """
        unversioned = self.folder.parent
        for place, folders, names in os.walk(unversioned):
            where = Path(place)
            folders[:] = [x for x in folders if not x.startswith(VERSIONS) and not (where / x / LOCK).exists()]
            for path in (where / name for name in names if name != LOCK):
                name = path.relative_to(unversioned).as_posix()
                if name in self._objects and self._is_there(name, unversioned):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    path.rename(self.folder / name)
                else:
                    path.unlink()
            with suppress(OSError):  # a folder that is not empty stays
                os.removedirs(where)
        for earlier in self.folder.parent.glob(f"{VERSIONS}*"):
            if earlier == self.folder:
                continue
            for name in self._objects:
                if self._is_there(name, earlier) and not (path := self.folder / name).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with suppress(OSError):  # on a disk without hard links, it is copied from the bucket
                        os.link(earlier / name, path)
            with suppress(BlockingIOError), _lock_file(earlier, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(earlier, ignore_errors=True)  # on NFS, an open lock stays

    def _is_there(self, name: str, folder: Path) -> bool:
        path, found = folder / name, self._objects[name]
        return path.exists() and (path.stat().st_size, path.stat().st_mtime_ns) == (found["size"], _time(found))

    def _copy(self, name: str) -> None:
        store, _ = files.filesystem(self.source)
        found = self._objects[name]
        with files.atomic_path(self.folder / name) as part:
            with files.clear_errors(f"{self.source}/{name}"):
                store.get_file(found["name"], str(part))
            if checksum(part) != found["crc32c"]:
                raise Restart(f"{self.source}/{name} arrived damaged; run the same command again.")
            os.utime(part, ns=(_time(found), _time(found)))


def _time(found: dict) -> int:
    """Returns the time of a copy in nanoseconds: the generation of its object, which is in microseconds."""
    return int(found["generation"]) * 1000


def checksum(path: Path) -> str:
    """Returns the CRC32C of a file in Google's encoding."""
    import google_crc32c

    with path.open("rb") as file:
        found = google_crc32c.Checksum()
        while block := file.read(BLOCK):
            found.update(block)
    return base64.b64encode(found.digest()).decode()


def _lock_file(folder: Path, how: int) -> TextIO:
    """Locks a folder and returns the lock file, which releases the lock when it is closed."""
    file = (folder / LOCK).open("w")
    try:
        fcntl.flock(file, how)
    except OSError:
        file.close()
        raise
    return file
