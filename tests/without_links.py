"""`python -m tests.without_links ...` is `logitstore ...` on a file system without hard links."""

import errno
import os
from typing import NoReturn

from logitstore.cli import main


def _refuse(*_: object) -> NoReturn:
    raise OSError(errno.EPERM, "Operation not permitted")


if __name__ == "__main__":
    os.link = _refuse
    main()
