"""A disk that is full, without privileges: the system refuses to let a file grow."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond `most_bytes` in the block: writes fail with EFBIG, as others with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
