"""Where compiled kernels are kept between runs.

Numba's own cache notices a change in the file of a kernel, not in the files of the kernels it
calls. Ours is therefore a directory named by a hash of every `kernels.py` of the package, of the
Numba version and of the Python version: a changed kernel is never served stale.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import platformdirs


def kernel_key(package: Path | None = None) -> str:
    """Hash of all kernels of a package, Numba's version and Python's.

    Parameters
    ----------
    package : Path, optional
        Directory that is searched for `kernels.py`; by default clustersim itself.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    package = Path(__file__).parent if package is None else package
    digest = hashlib.sha256()
    digest.update(f"{metadata.version('numba')} {platform.python_version()}".encode())
    for path in sorted(package.rglob("kernels.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def prepare_numba_cache() -> str:
    """Point Numba's cache at the directory of these kernels; call before importing a kernel.

    A directory that the user chose with `NUMBA_CACHE_DIR` is left alone, and a second call does
    nothing. Where the user's cache directory cannot be written, a private temporary one is used
    and removed at exit: kernels are then compiled once a process.

    Returns
    -------
    str
        The directory in use.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return chosen
    directory = str(
        _writable(platformdirs.user_cache_path("clustersim") / f"kernels-{kernel_key()}")
    )
    os.environ["NUMBA_CACHE_DIR"] = directory
    numba = sys.modules.get("numba")
    if numba is not None and not numba.config.CACHE_DIR:  # somebody imported it before us
        numba.config.CACHE_DIR = directory
    return directory


def _writable(directory: Path) -> Path:
    """`directory` if a file can be written there, else a private temporary directory.

    Numba unpickles what it finds in its cache, so a shared, predictable directory under /tmp
    would let other users run code as ours.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError:
        fallback = tempfile.mkdtemp(prefix="clustersim-kernels-")
        atexit.register(shutil.rmtree, fallback, ignore_errors=True)
        return Path(fallback)
