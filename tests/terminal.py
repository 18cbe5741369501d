# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A terminal for a command, and what it shows there."""

from __future__ import annotations

import os
import pty
import termios
import threading
from collections.abc import Callable


class Terminal:
    """``descriptor`` is the command's end; :meth:`attached` once the command has it."""

    def __init__(self, columns: int = 80) -> None:
        self._ours, self.descriptor = pty.openpty()
        termios.tcsetwinsize(self._ours, (24, columns))
        self._shown = bytearray()

    def attached(self) -> Callable[[], str]:
        """Collects what is shown from now on. The function waits until no command has the terminal
        any more, and returns all of it."""
        os.close(self.descriptor)
        reader = threading.Thread(target=self._read)
        reader.start()

        def shown() -> str:
            reader.join()
            os.close(self._ours)
            return self._shown.decode()

        return shown

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 1 << 16):
                self._shown.extend(data)
        except OSError:  # nobody has the other end any more
            pass
