"""The load: clients that note, before each request, which generation was acknowledged, and hold the answer against it."""

import array
import asyncio
import bisect
import collections
import dataclasses
import http.client
import select
import threading
import time

from world import HOST

PATIENCE = 30.0  # seconds that a request may take


class InForce:
    """Which generation was acknowledged last, and when each was. Written by the one who rotates, read by the clients."""

    def __init__(self):
        self.generation = 0
        self._generations, self._times = [0], [time.monotonic()]

    def acknowledge(self, generation):
        """From now on, a request that starts must not be carried by an older one."""
        self._generations.append(generation)
        self._times.append(time.monotonic())
        self.generation = generation  # last: who reads it finds the times

    def overdue(self, generation, at):
        """How many seconds before `at` this generation's successor was acknowledged."""
        return at - self._times[bisect.bisect_right(self._generations, generation)]


@dataclasses.dataclass
class Counts:
    """What the clients of one storm saw."""

    requests: int = 0
    failed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    stale: int = 0
    latest: float = 0.0  # of all stale requests, the longest time from acknowledgement to start
    took: array.array = dataclasses.field(default_factory=lambda: array.array("f"))  # seconds, of quick good answers
    resumed: int = 0  # stale requests that were the first on their connection, which had resumed an old session


class Failed(Exception):
    """A request without a whole, good answer; the text is the kind."""


class Client:
    """One client. `path` says what it asks for; without `keep` each request has a connection of its own."""

    def __init__(self, port, path, keep, in_force, counts):
        self.port, self.keep, self.in_force, self.counts = port, keep, in_force, counts
        self.timed = path == "/quick"
        close = "" if keep else "Connection: close\r\n"
        self.request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{close}\r\n".encode()
        self.reader = self.writer = None

    async def run(self, end, pause):
        """Sends one request after the other until `end`; each is counted, whatever comes of it."""
        while time.monotonic() < end:
            self.counts.requests += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.exchange()
            except TimeoutError:
                self._fail("timeout")
            except Failed as failure:
                self._fail(str(failure))
            if not self.keep:
                self._close()
            await asyncio.sleep(pause)
        self._close()

    async def exchange(self):
        if self.writer and self._ended():
            self._close()  # an honest end between two requests: no failure
        used = self.writer is not None
        if not used:
            try:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                raise Failed("refused") from None
        acknowledged, sent = self.in_force.generation, time.monotonic()
        self.writer.write(self.request)
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            begun = getattr(error, "partial", b"")
            raise Failed("truncated" if begun else "closed" if used else "reset") from None
        status, fields = parse(head)
        try:
            body = fields.get("content-length")
            await (self.reader.readexactly(int(body)) if body else self.reader.read())
        except (OSError, asyncio.IncompleteReadError):
            raise Failed("truncated") from None
        if fields.get("connection", "").lower() == "close" or not body:
            self._close()
        if status != 200 or "x-serial" not in fields:
            raise Failed(f"status {status}")
        if self.timed:
            self.counts.took.append(time.monotonic() - sent)
        generation = int(fields["x-serial"], 16) - 1
        if generation < acknowledged:
            self.counts.stale += 1
            self.counts.latest = max(self.counts.latest, self.in_force.overdue(generation, sent))
            self.counts.resumed += fields["x-session"] == "1 r"

    def _ended(self):
        """Whether the other side has closed already. The socket is asked, too: the event loop may not have looked yet."""
        return self.reader.at_eof() or self.writer.is_closing() or ended(self.writer.get_extra_info("socket"))

    def _fail(self, kind):
        self.counts.failed[kind] += 1
        self._close()

    def _close(self):
        if self.writer:
            self.writer.transport.abort()
        self.reader = self.writer = None


def ended(door):
    """Whether an idle connection has been closed by the other side."""
    probe = select.poll()
    probe.register(door.fileno(), select.POLLIN)
    return bool(probe.poll(0))


def parse(head):
    """Status and fields (lower case) of an answer's head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return int(first.split()[1]), fields


def storm(port, in_force, kinds, seconds, pause):
    """Runs the clients, `kinds` being (how many, path, keep), for so many seconds; what they counted."""
    counts = Counts()

    async def everybody():
        end = time.monotonic() + seconds
        clients = [Client(port, path, keep, in_force, counts) for many, path, keep in kinds for _ in range(many)]
        await asyncio.gather(*(client.run(end, pause) for client in clients))

    asyncio.run(everybody())
    return counts


class Rotation:
    """Replaces the certificate every `interval` seconds on a thread of its own, and says when it is acknowledged."""

    def __init__(self, proxy, pairs, in_force, interval, pretend):
        self.proxy, self.pairs, self.in_force = proxy, pairs, in_force
        self.interval, self.pretend = interval, pretend
        self.took, self.failures = [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        for pair in self.pairs:
            begun = time.monotonic()
            try:
                if not self.pretend:
                    self.proxy.rotate(pair)
            except Exception as error:  # whatever it was: counted, shown, and the next is tried
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.in_force.acknowledge(pair.generation)
                self.took.append(time.monotonic() - begun)
            if self._stop.wait(max(0.0, begun + self.interval - time.monotonic())):
                return


def idle_pool(proxy, pair, pretend, seconds):
    """One kept connection, one replacement while it is idle: what the requests after it are carried by, in a few words."""
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)

    def seen():
        if client.sock and ended(client.sock):
            client.close()
        client.request("GET", "/quick", headers={"Host": HOST})
        answer = client.getresponse()
        answer.read()
        return int(answer.headers.get("X-Serial", "0"), 16) - 1

    try:
        seen()
        seen()
        if not pretend:
            proxy.rotate(pair)
        acknowledged = time.monotonic()
        old, failed, answered = None, 0, -1
        while answered < pair.generation and time.monotonic() < acknowledged + seconds:
            try:
                if (answered := seen()) < pair.generation:
                    old = time.monotonic() - acknowledged
                    time.sleep(0.02)
            except (OSError, http.client.HTTPException):
                failed += 1
                client.close()
    finally:
        client.close()
    said = "new" if old is None else f"old for {old:.2f} s" if answered >= pair.generation else f"old, still after {old:.0f} s"
    return said + (f"; {failed} failed" if failed else "")
