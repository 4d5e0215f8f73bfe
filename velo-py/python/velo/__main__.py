"""The command `velo`: ``velo …`` and ``python -m velo``."""

import signal
import sys

from . import _velo


def main() -> None:
    # Python would only note a signal, and look at it when the command is done.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_velo.main(["velo", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
