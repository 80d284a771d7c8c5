#!/usr/bin/python3
"""A user at a terminal who stops, continues and ends what asks for a passphrase, and looks at what is shown.

    terminal.py SCENARIO PASSPHRASE COMMAND...

COMMAND asks for PASSPHRASE and needs it. What is wrong is said, and the exit code is 1.
"""
import os
import pty
import re
import select
import shlex
import signal
import sys
import termios
import time

READY, ENTER = "ready> ", "\r"


class Terminal:
    def __init__(self, command):
        self.child, self.master = pty.fork()
        if self.child == 0:
            os.execvp(command[0], command)
        self.shown, self.seen = "", 0

    def read(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.master], [], [], min(left, 0.05))[0]:
                continue
            try:
                self.shown += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # nobody is there any more
                return

    def wait_for(self, condition, what, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                fail("there was no end to waiting for " + what, self)
            self.read(0.02)

    def expect(self, words):
        """Waits until these are shown, behind what was expected before."""
        self.wait_for(lambda: re.search(words, self.shown[self.seen:]), repr(words))
        self.seen += re.search(words, self.shown[self.seen:]).end()

    def type(self, text):
        os.write(self.master, text.encode())

    def echo(self):
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def takes_lines(self):
        modes = termios.tcgetattr(self.master)
        return bool(modes[3] & termios.ICANON and modes[0] & termios.ICRNL)

    def expect_silence(self):
        self.wait_for(lambda: not self.echo() and self.takes_lines(),
                      "a line that is not shown as it is typed", 5)
        time.sleep(0.1)  # what turns echo off may throw away what was typed ahead, just before or after

    def expect_echo(self):
        self.wait_for(self.echo, "the terminal to show what is typed again", 3)


def fail(what, terminal):
    print("%s; the terminal shows:\n%s" % (what, terminal.shown))
    os.kill(terminal.child, signal.SIGKILL)
    sys.exit(1)


def in_shell(words, editor=False):
    """An interactive shell, which has job control; its line editor sets the terminal as it likes."""
    os.environ["PS1"] = READY
    terminal = Terminal(["bash", "--norc", "--noprofile"] + ([] if editor else ["--noediting"]) + ["-i"])
    terminal.expect(READY)
    terminal.type(words + ENTER)
    return terminal


def give(terminal, passphrase, editor=False):
    terminal.expect_silence()
    terminal.type(passphrase + ENTER)
    terminal.expect(READY)
    if not editor:
        terminal.expect_echo()
    terminal.type("echo code=$?" + ENTER)
    terminal.expect(r"code=\d+\r")
    if "code=0\r" not in terminal.shown:
        fail("the passphrase that was typed did not do", terminal)
    if passphrase in terminal.shown:
        fail("the passphrase is shown", terminal)


def stop(passphrase, command):
    terminal = in_shell(shlex.join(command))
    terminal.expect("assphrase")
    for _ in range(2):
        terminal.expect_silence()
        terminal.type("half of it\x1a")
        terminal.expect("Stopped")
        terminal.expect(READY)
        terminal.expect_echo()
        terminal.type("fg" + ENTER)
    give(terminal, passphrase)


def stop_elsewhere(passphrase, command):
    """Stopped by a signal that nobody typed, as by kill."""
    terminal = in_shell(shlex.join(command))
    terminal.expect("assphrase")
    terminal.expect_silence()
    os.killpg(os.tcgetpgrp(terminal.master), signal.SIGTSTP)
    terminal.expect("Stopped")
    terminal.expect_echo()
    terminal.type("fg" + ENTER)
    give(terminal, passphrase)


def background(passphrase, command):
    for editor in False, True:
        terminal = in_shell(shlex.join(command) + " &", editor)
        terminal.expect(READY)
        terminal.read(0.7)
        terminal.type("echo still $((1 + 1)) there" + ENTER)
        terminal.expect("still 2 there")
        terminal.expect(READY)
        terminal.type("fg" + ENTER)
        give(terminal, passphrase, editor)


def ended(key, signals, passphrase, command):
    """By a key or a signal, in a shell that puts nothing right itself."""
    script = 'trap : INT QUIT TERM HUP; "$@"; echo "code=$?"; sleep 20'
    terminal = Terminal(["sh", "-c", script, "sh"] + command)
    terminal.expect("assphrase")
    terminal.expect_silence()
    terminal.type(passphrase[:3])
    if key:
        terminal.type(key)
    else:
        children = "/proc/%d/task/%d/children" % (terminal.child, terminal.child)
        with open(children, encoding="ascii") as file:
            os.kill(int(file.read().split()[0]), signals)
    terminal.expect("code=")
    terminal.expect_echo()
    os.killpg(terminal.child, signal.SIGKILL)


SCENARIOS = {
    "stop": stop, "stop-elsewhere": stop_elsewhere, "background": background,
    "quit": lambda *rest: ended("\x1c", None, *rest), "interrupt": lambda *rest: ended("\x03", None, *rest),
    "terminate": lambda *rest: ended(None, signal.SIGTERM, *rest),
    "hang-up": lambda *rest: ended(None, signal.SIGHUP, *rest),
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](sys.argv[2], sys.argv[3:])
