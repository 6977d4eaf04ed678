"""Runs a command on a terminal of its own, as a person would, and answers its one question.

    terminal.py QUESTION COMMAND...

The answer is taken from the environment variable ANSWER. Prints all that the terminal showed; the exit code is the
command's.
"""

import os
import pty
import select
import sys
import termios
import time

question, command = sys.argv[1].encode(), sys.argv[2:]
answer = os.environ.pop("ANSWER").encode()
pid, terminal = pty.fork()
if pid == 0:
    os.execv(command[0], command)

shown, answered, deadline = b"", False, time.monotonic() + 30
while True:
    if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
        sys.exit("the command was not done within 30 s; it showed: " + shown.decode(errors="replace"))
    try:
        piece = os.read(terminal, 4096)
    except OSError:  # Linux says EIO once the other side is closed.
        piece = b""
    if not piece:
        break
    shown += piece
    if not answered and question in shown:
        # Nobody types within the instant between the question and the end of the echo.
        while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline:
            time.sleep(0.001)
        os.write(terminal, answer + b"\n")
        answered = True

sys.stdout.write(shown.decode(errors="replace"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
