"""What every proxy meets in the storm: certificates of a throw-away CA, and an origin that says which one it saw.

Generation *g* is the certificate with the serial *g* + 1. There is one certificate for every replacement, and none comes
twice, so that a serial tells without doubt how old an answer's identity is.
"""

import concurrent.futures
import ctypes
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import time

HOST = "origin.test"


class Broken(Exception):
    """Something of the bench itself does not work: no figure would mean anything."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    generation: int
    cert: str
    key: str


class Certificates:
    """A CA, the origin's pair, and so many client pairs, in files of one folder."""

    def __init__(self, folder, count, openssl):
        self.folder, self.openssl = folder, openssl
        self.ca = folder / "ca.pem"
        self._issue("ca", "storm CA", ["-addext", "keyUsage=critical,keyCertSign,cRLSign"], signed=False)
        names = f"subjectAltName=DNS:{HOST}"
        self._issue("origin", HOST, ["-addext", names, "-addext", "extendedKeyUsage=serverAuth"])
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as several:
            self.pairs = list(several.map(self._client, range(count)))

    def _client(self, generation):
        name = f"client-{generation}"
        use = ["-addext", "extendedKeyUsage=clientAuth", "-set_serial", str(generation + 1)]
        self._issue(name, name, use)
        read = [(self.folder / f"{name}.{end}").read_text() for end in ("pem", "key")]
        return Pair(generation, *read)

    def _issue(self, name, common_name, options, signed=True):
        command = [self.openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "30", "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        if signed:
            command += ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE"]
        done = subprocess.run(command + options, cwd=self.folder, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Broken(f"openssl makes no certificate (3.0 or newer is needed): {done.stderr.strip()}")


def replace(path, text):
    """Puts a file in another's place, in one step."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


def free_port():
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, check, seconds=30.0, every=0.01):
    """Polls until `check` gives something true, and gives that."""
    end = time.monotonic() + seconds
    while True:
        if value := check():
            return value
        if time.monotonic() > end:
            raise Broken(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def _end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: also if the bench is killed outright


class Process:
    """A program of the bench, in a process group of its own; `stop` ends it and its children, each by its pid."""

    def __init__(self, folder, command, environment=None):
        self.output, self.errors = folder / "stdout", folder / "stderr"
        with open(self.output, "wb") as out, open(self.errors, "wb") as err:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=folder,
                start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip
        self.pid = self.child.pid

    def check(self):
        """Raises with what the program said if it has ended."""
        if self.child.poll() is not None:
            said = self.errors.read_text(errors="replace").strip().splitlines()[-5:]
            raise Broken(f"{self.child.args[0]} ended with {self.child.returncode}: {' / '.join(said)}")

    def children(self):
        """Its children, pid -> the title that `ps` shows."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    # The parent follows the name, which is in parentheses and may contain some.
                    parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    if parent == self.pid:
                        found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
                except (OSError, IndexError, ValueError):
                    pass  # it ended while we looked
        return found

    def stop(self):
        """Asks it to end, and makes it after five seconds."""
        if self.child.poll() is not None:
            return
        # A pid of a child cannot be another process's before its parent, still alive, has waited for it; a child that
        # outlives its parent is only signalled if it is still in the session that began here.
        children = self.children()
        self.child.terminate()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for pid in children:
            try:
                if os.getsid(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Origin:
    """nginx that demands a client certificate of the CA and gives tickets; it never closes a connection by itself.

    Each answer has `X-Serial`, of the certificate that the connection authenticated, and `X-Session`: the how many-th
    request of its connection this was, and `r` if that had resumed a session. `/quick` answers at once; `/slow` takes
    about `download` seconds, by the origin's doing.
    """

    RATE = 65536  # bytes a second; nginx lets the first second's worth through at once

    def __init__(self, folder, certificates, nginx, download):
        folder.mkdir()
        (folder / "slow").write_bytes(b"x" * int(self.RATE * (1 + download)))
        self.folder, self.log = folder, folder / "handshakes.log"
        self.port = free_port()
        (folder / "nginx.conf").write_text(self._config(certificates.folder))
        self.process = Process(folder, [nginx, "-p", folder, "-e", "error.log", "-c", "nginx.conf"])
        try:
            until("the origin accepts", self._accepts)
        except BaseException:
            self.process.stop()
            raise

    def _accepts(self):
        self.process.check()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _config(self, pki):
        # One line a connection, not a request: that bounds the log by the handshakes.
        return f"""
            daemon off; worker_processes 1; pid nginx.pid; {as_root()} error_log error.log crit;
            worker_rlimit_nofile 16384;
            events {{ worker_connections 8192; }}
            http {{
              {temporary_paths()}
              log_format handshake "$ssl_client_serial $ssl_session_reused";
              map $connection_requests $first {{ 1 1; default 0; }}
              access_log {self.log} handshake buffer=64k flush=1s if=$first;
              keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on; sendfile on;
              server {{
                listen 127.0.0.1:{self.port} ssl backlog=4096;
                ssl_certificate {pki}/origin.pem; ssl_certificate_key {pki}/origin.key;
                ssl_client_certificate {pki}/ca.pem; ssl_verify_client on;
                ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on; ssl_session_timeout 1h;
                add_header X-Serial $ssl_client_serial;
                add_header X-Session "$connection_requests $ssl_session_reused";
                location = /quick {{ return 200 "seen\n"; }}
                location = /slow {{ limit_rate {self.RATE}; alias {self.folder}/slow; }}
              }}
            }}"""

    def handshakes(self):
        """Ends the origin; of how many connections it wrote down a request, and how many of those resumed a session."""
        self.process.stop()
        lines = self.log.read_text().splitlines()
        return len(lines), sum(line.endswith(" r") for line in lines)


def as_root():
    """The line that nginx wants if root starts it: its workers read our folder, too."""
    return "user root;" if os.geteuid() == 0 else ""


def temporary_paths():
    """Where nginx puts bodies, inside its own folder."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {kind}_temp;" for kind in kinds)
