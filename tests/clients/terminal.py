"""`steerage top` in a terminal: `terminal.py COMMAND...`; drains the second backend."""

import os
import pty
import re
import select
import sys
import time

PATIENCE_SECONDS = 30


class Terminal:
    def __init__(self, command):
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", LINES="30", COLUMNS="140")
            os.execvp(command[0], command)
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 140, 0, 0))
        self.raw = ""

    def until(self, expected):
        """Reads until it was written since the last key; movements of the cursor are left out."""
        until = time.monotonic() + PATIENCE_SECONDS
        while expected not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw):
            assert time.monotonic() < until, f"{expected!r} is not in {self.raw!r}"
            if select.select([self.end], [], [], 0.2)[0]:
                try:
                    self.raw += os.read(self.end, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended: {self.raw!r}") from None

    def press(self, keys):
        self.raw = ""
        os.write(self.end, keys.encode())

    def finish(self):
        rest = ""
        while True:
            try:
                piece = os.read(self.end, 65536).decode(errors="replace")
            except OSError:
                break
            if not piece:
                break
            rest += piece
        return rest, os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def main(command):
    top = Terminal(command)
    top.until("AVAILABLE")
    top.until("2 of 2")
    top.press("2")
    top.until("REUSE")
    top.press("\x1b[B")
    top.press("d")
    top.until("y or n")
    top.press("y")
    top.until("draining")
    top.press("q")
    rest, code = top.finish()
    assert code == 0, code
    # The screen is given back as it was.
    assert "\x1b[?1049l" in rest, rest


if __name__ == "__main__":
    main(sys.argv[1:])
    print("all good")
