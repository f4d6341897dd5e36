"""Programs in a real pseudo-terminal, and the screen that its emulator shows at their end."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyte
from time_tools import HANG

ROWS = 300  # no program scrolls this far


@dataclass(frozen=True)
class Shown:
    """Exit code, bytes written to the terminal, and the lines on the screen at the end."""

    code: int
    raw: bytes
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def in_terminal(start: Callable[..., subprocess.Popen[bytes]], columns: int, kill_at: bytes = b"") -> Shown:
    """Run a program with all its streams on a terminal.

    Args:
        start: Starts it with the keywords of Popen that it gets.
        columns: Width of the terminal.
        kill_at: Text after which Ctrl-C is typed, once.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    control = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}
    # Ctrl-C reaches the processes whose controlling terminal this is.
    process = start(**control, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    parts: list[bytes] = []
    try:
        while data := _read(master):
            parts.append(data)
            if kill_at and kill_at in b"".join(parts):
                os.write(master, b"\x03")
                kill_at = b""
        code = process.wait(HANG)
    finally:
        process.kill()
        os.close(master)
    raw = b"".join(parts)
    return Shown(code, raw, screen(raw, columns))


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65_536)
    except OSError:  # EIO: the last process that had the terminal open has ended
        return b""


def screen(raw: bytes, columns: int) -> list[str]:
    """Return the lines that a terminal shows after these bytes, without the empty ones at the end."""
    shown = pyte.Screen(columns, ROWS)
    pyte.ByteStream(shown).feed(raw)
    return "\n".join(line.rstrip() for line in shown.display).rstrip().split("\n")


def program(code: str, *, python: Sequence[str]) -> Callable[..., subprocess.Popen[bytes]]:
    """Return a start of Python code, for `in_terminal`."""
    env = {**os.environ, "TERM": "xterm-256color"}
    env.pop("COLUMNS", None)
    return lambda **how: subprocess.Popen([*python, "-c", code], env=env, **how)
