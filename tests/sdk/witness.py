"""What stands around the SDK in cloudflare_sdk.py: a proxy between it and egret that reads every answer and can lose
one, requests to the origin through egret's listeners, and the lines that say what was found. As witness.mjs."""

import json
import re
import subprocess
import threading
import traceback
from datetime import datetime, timezone
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cloudflare import APIStatusError


class Pair:
    """A certificate with its key, as files of the folder; what it should be described as is asked of openssl."""

    def __init__(self, folder, name):
        self.path = Path(folder, f"{name}.crt")
        self.certificate = self.path.read_bytes().decode()
        self.key = self.path.with_suffix(".key").read_bytes().decode()
        self.subject = f"CN={name}"

    def _x509(self, *options):
        command = ["openssl", "x509", "-noout", "-in", self.path, *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().partition("=")[2]

    @property
    def material(self):
        return {"certificate": self.certificate, "private_key": self.key}

    def described(self):
        ends = datetime.strptime(self._x509("-enddate"), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
        return {
            "serial_number": str(int(self._x509("-serial"), 16)),
            "issuer": self._x509("-issuer", "-nameopt", "RFC2253"),
            "expires_on": ends,
        }


class Witness:
    """Stands between the SDK and egret. Sees to it that whatever egret answers has the envelope, and no key."""

    def __init__(self, egret):
        self.egret = urlsplit(egret)
        self.requests = []
        self.faults = []
        self.lost = []  # how the answers to the next POSTs are lost: "502" or "reset"
        witness = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                witness.passed(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def passed(self, request):
        sent = request.rfile.read(int(request.headers.get("content-length", 0)))
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        upstream = HTTPConnection(self.egret.hostname, self.egret.port, timeout=30)
        upstream.request(request.command, request.path, body=sent or None, headers={**headers, "Connection": "close"})
        answer = upstream.getresponse()
        status, kind, body = answer.status, answer.getheader("content-type"), answer.read()
        upstream.close()
        text = body.decode()
        self.requests.append({
            "method": request.command, "status": status, "body": text, "agent": request.headers["user-agent"],
            "retry": int(request.headers.get("x-stainless-retry-count", 0)),
        })
        if wrong := envelope_fault(status, kind, text):
            self.faults.append(f"{request.command} {request.path}: {wrong}: {text[:200]}")
        how = self.lost.pop(0) if request.command == "POST" and self.lost else None
        request.close_connection = how is not None
        if how == "reset":
            return
        if how == "502":
            status, kind, body = 502, "text/html", b"<h1>bad gateway</h1>"
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


def envelope_fault(status, kind, text):
    if not (kind or "").startswith("application/json"):
        return f"content type {kind}"
    if re.search(r'-----BEGIN [A-Z ]*PRIVATE KEY|"private_key"\s*:', text):
        return "a private key"
    body = json.loads(text)
    if body["success"] is not (status == 200):
        return f"status {status} with success {body['success']}"
    if not isinstance(body["errors"], list) or not isinstance(body["messages"], list) or "result" not in body:
        return "not the envelope"
    if body["success"]:
        return "success with errors" if body["errors"] else ""
    complete = all(isinstance(one["code"], int) and one["code"] >= 1000 and one["message"] for one in body["errors"])
    return "" if complete and body["errors"] and body["result"] is None else "an error without code and message"


class Report:
    """Prints what each check found, and counts what went wrong."""

    def __init__(self, witness):
        self.witness = witness
        self.wrong = 0

    def say(self, what, wrong="", **more):
        self.wrong += bool(wrong)
        line = {"ok": not wrong, "what": what}
        print(json.dumps({**line, "wrong": wrong, **more} if wrong else line, default=str), flush=True)

    def check(self, what, call, wrong=lambda _: ""):
        """`wrong(result)` says what is wrong with what the call gave, or nothing. Gives the result."""
        result = None
        try:
            result = call()
            found = wrong(result)
        except Exception:
            found = traceback.format_exc()[-500:]
        self.say(what, found, result=result)
        return result

    def refused(self, what, call, kind, code, says="", pointer=None):
        """The call must fail with this exception of the SDK, this code, and a message that has these words; after one
        request."""
        before = len(self.witness.requests)
        try:
            result = call()
        except Exception as error:
            requests = len(self.witness.requests) - before
            self.say(what, refusal_fault(error, requests, kind, code, says, pointer), error=str(error)[:300])
        else:
            self.say(what, f"succeeded with {result}")


def refusal_fault(error, requests, kind, code, says, pointer):
    if type(error) is not kind or not isinstance(error, APIStatusError):
        return f"{type(error).__name__}, not {kind.__name__}"
    if requests != 1:
        return f"{requests} requests"
    first = error.errors[0]
    if first.code != code:
        return f"code {first.code}, not {code}"
    if says not in first.message:
        return f"the message does not say {says}"
    if pointer and first.source.pointer != pointer:
        return f"not at {pointer}"
    # The SDK puts the whole body into its message, and that goes into logs.
    return "the error repeats what was sent" if re.search(r"[A-Za-z0-9+/]{48}", str(error)) else ""


def ask(proxy, host, port):
    """One request to `host` through a forward listener of egret; what the origin saw, or what egret answered."""
    authority = f"{host}:{port}"
    address, door = proxy.split(":")
    connection = HTTPConnection(address, int(door), timeout=30)
    try:
        connection.request("GET", f"https://{authority}/", headers={"Host": authority})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    body = json.loads(text)
    return {"status": answer.status, "subject": body.get("subject"), "code": body.get("code"), "text": text}
