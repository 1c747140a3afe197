"""A terminal for tests: runs a program on a pseudo-terminal and shows what is on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KES = [sys.executable, "-m", "kes_core.cli"]
_SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])")
_COLOURS = {31: "red", 32: "green", 33: "yellow", 34: "blue", 35: "magenta", 36: "cyan"}


@dataclass(frozen=True)
class Cell:
    """One character on the screen."""

    text: str = " "
    colour: str = ""
    bold: bool = False


class Screen:
    """What a terminal shows. It knows the sequences that our programs send; any other is an error."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._rows: list[list[Cell]] = [[]]
        self._row = self._column = 0
        self._colour = ""
        self._bold = False
        self._unfinished = ""

    def feed(self, data: str) -> None:
        data = self._unfinished + data
        self._unfinished = ""
        place = 0
        while place < len(data):
            character = data[place]
            if character == "\x1b":
                match = _SEQUENCE.match(data, place)
                if match is None:
                    assert re.fullmatch(r"\x1b(\[[?0-9;]*)?", data[place:]), f"unknown sequence {data[place:][:10]!r}"
                    self._unfinished = data[place:]
                    return
                self._obey(match.group(1), match.group(2))
                place = match.end()
                continue
            self._put(character)
            place += 1

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row += 1
        else:
            assert character.isprintable(), f"control character {character!r}"
            if self._column == self.columns:
                self._row, self._column = self._row + 1, 0
            while len(self._rows) <= self._row:
                self._rows.append([])
            row = self._rows[self._row]
            row += [Cell()] * (self._column + 1 - len(row))
            row[self._column] = Cell(character, self._colour, self._bold)
            self._column += 1

    def _obey(self, arguments: str, command: str) -> None:
        if command == "m":
            for number in map(int, (arguments or "0").split(";")):
                if number == 0:
                    self._colour, self._bold = "", False
                elif number == 1:
                    self._bold = True
                elif number in _COLOURS:
                    self._colour = _COLOURS[number]
        elif command == "A":
            self._row -= int(arguments or 1)
        elif (command, arguments) == ("K", "2"):
            if self._row < len(self._rows):
                self._rows[self._row] = []
        else:
            assert arguments == "?25", f"unknown sequence {arguments}{command}"  # hides or shows the cursor

    @property
    def rows(self) -> list[list[Cell]]:
        """The characters of the screen."""
        return [list(row) for row in self._rows]

    @property
    def lines(self) -> list[str]:
        """The text of the screen."""
        return ["".join(cell.text for cell in row).rstrip() for row in self._rows]

    def colour_of(self, text: str) -> str:
        """Return the colour of the first occurrence of `text`."""
        return self._cell(text).colour

    def is_bold(self, text: str) -> bool:
        return self._cell(text).bold

    def column_of(self, text: str) -> int:
        """Return the column in which `text` begins."""
        return next(line.index(text) for line in self.lines if text in line)

    def _cell(self, text: str) -> Cell:
        for row, line in zip(self._rows, self.lines, strict=True):
            if text in line:
                return row[line.index(text)]
        raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(self.lines))


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], parent: int, columns: int) -> None:
        self.process = process
        self.screen = Screen(columns)
        self.sent = ""
        """Everything that the program has sent."""
        self._parent = parent
        self._open = True

    def wait_until(self, condition: Callable[[Screen], object], timeout: float = 120.0) -> Screen:
        """Read until the screen is as expected."""
        deadline = time.monotonic() + timeout
        while not condition(self.screen):
            left = deadline - time.monotonic()
            if not self._open or left <= 0 or not select.select([self._parent], [], [], left)[0]:
                raise AssertionError("the screen never was as expected:\n" + "\n".join(self.screen.lines))
            self._read()
        return self.screen

    def wait_for(self, text: str) -> Screen:
        """Read until `text` is on the screen."""
        return self.wait_until(lambda screen: any(text in line for line in screen.lines))

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        while self._open:
            assert select.select([self._parent], [], [], 120)[0], "\n".join(self.screen.lines)
            self._read()
        return self.process.wait(timeout=120)

    def _read(self) -> None:
        try:
            data = os.read(self._parent, 65536)
        except OSError:  # the program has closed its side
            data = b""
        self._open = bool(data)
        text = data.decode("utf-8")  # programs write characters of several bytes at once
        self.sent += text
        self.screen.feed(text)


@contextmanager
def terminal(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, columns: int = 100
) -> Iterator[Terminal]:
    """Run `kes` on a terminal."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    unwanted = ("KES", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    clean = {name: value for name, value in os.environ.items() if not any(part in name for part in unwanted)}
    settings = {"TERM": "xterm-256color", "TZ": "UTC", **(environment or {})}
    process = subprocess.Popen(
        [*KES, *arguments], cwd=cwd, env=clean | settings, stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    try:
        yield Terminal(process, parent, columns)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(parent)


def run_on_screen(*arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, code: int = 0) -> Screen:
    """Run `kes` on a terminal to its end, and return the screen."""
    with terminal(*arguments, cwd=cwd, environment=environment) as running:
        assert running.end() == code, running.screen.lines
        return running.screen
