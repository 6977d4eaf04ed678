"""The proxies, each with its own ways of replacing the client certificate it presents, and of saying that it is done.

All do the same work: plain HTTP/1.1 in, one origin over mTLS out, the origin's certificate verified, upstream connections
kept and sessions resumed as they do by default, one worker.
"""

import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time

from world import HOST, Process, as_root, free_port, replace, temporary_paths, until

PATIENCE = 10.0  # seconds that one replacement may take
OLD_WORKERS = 32  # so many that are still finishing requests, and the next reload waits


class Refused(Exception):
    """A replacement that the proxy did not confirm."""


class Proxy:
    """One proxy and one way of rotating. `name` and `way` stand in the table."""

    name = way = ""

    def __init__(self, program, folder, certificates, origin):
        self.program, self.folder, self.certificates, self.origin = program, folder, certificates, origin
        self.port = 0
        self.process = None
        folder.mkdir()

    def start(self, pair):
        """Starts it with this certificate, until it relays a request."""
        self.launch(pair)
        until(f"{self.name} relays a request", self._relays)

    def stop(self):
        if self.process:
            self.process.stop()

    def launch(self, pair):
        """Starts the process; sets `process` and `port`."""
        raise NotImplementedError

    def rotate(self, pair):
        """Replaces the certificate; returns when the proxy says that it is done."""
        raise NotImplementedError

    def _relays(self):
        self.process.check()
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            client.request("GET", "/quick", headers={"Host": HOST})
            return client.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            client.close()

    def settle(self):
        """Waits until few enough workers of earlier reloads are left: they pile up behind long downloads."""
        deadline = time.monotonic() + PATIENCE
        while len(self.process.children()) > OLD_WORKERS:
            if time.monotonic() > deadline:
                raise Refused(f"more than {OLD_WORKERS} workers are left of earlier reloads")
            time.sleep(0.01)


class Egret(Proxy):
    name, way = "egret", "upload through the management API; its answer"
    command = "egret"

    def launch(self, pair):
        self.token = secrets.token_hex(32)
        self.url = f"https://{HOST}:{self.origin.port}"
        (self.folder / "egret.toml").write_text(f"""
            profile = "local"
            data_dir = "data"
            workers = 1
            [management]
            listen = "127.0.0.1:0"
            [[listeners]]
            name = "storm"
            listen = "127.0.0.1:0"
            mode = "sidecar"
            project = "storm"
            origin = "{self.url}"
            [[projects]]
            name = "storm"
            [store]
            backend = "memory"
            [dns]
            hosts = {{ "{HOST}" = ["127.0.0.1"] }}
            """)
        ours = {name: value for name, value in os.environ.items() if not name.startswith("EGRET_")}
        ours |= {"EGRET_TOKEN": self.token, "EGRET_LOG": "error"}
        self.process = Process(self.folder, [self.program, "serve", "--config", "egret.toml"], ours)
        self.port, management = until("egret says where it listens", self._listening)
        self.api = http.client.HTTPConnection("127.0.0.1", management, timeout=PATIENCE)
        self.rotate(pair)

    def _listening(self):
        self.process.check()
        said = self.process.output.read_text()
        proxy = re.search(r"^proxy listening on 127\.0\.0\.1:(\d+) ", said, re.M)
        management = re.search(r"^management listening on http://127\.0\.0\.1:(\d+)$", said, re.M)
        return proxy and management and (int(proxy[1]), int(management[1]))

    def rotate(self, pair):
        ca = self.certificates.ca.read_text()
        body = json.dumps({"cert": pair.cert, "key": pair.key, "ca": ca, "origin": self.url})
        fields = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            self.api.request("POST", "/v1/projects/storm/client-cert", body, fields)
            answer = self.api.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            self.api.close()
            raise
        if answer.status != 200:
            raise Refused(f"{answer.status}: {said[:200]!r}")


class Nginx(Proxy):
    name, way = "nginx", "files, `nginx -s reload`; the command's end"
    command, package = "nginx", "nginx-light"

    def launch(self, pair):
        self.port = free_port()
        self._write(pair)
        (self.folder / "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; pid nginx.pid; {as_root()} error_log error.log crit;
            worker_rlimit_nofile 16384;
            events {{ worker_connections 8192; }}
            http {{
              {temporary_paths()}
              access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on;
              upstream origin {{
                server 127.0.0.1:{self.origin.port};
                keepalive 256; keepalive_requests 1000000000; keepalive_timeout 3600s;
              }}
              server {{
                listen 127.0.0.1:{self.port} backlog=4096;
                location / {{
                  proxy_pass https://origin; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_set_header Host $host; proxy_read_timeout 600s;
                  proxy_ssl_certificate client.pem; proxy_ssl_certificate_key client.key;
                  proxy_ssl_trusted_certificate {self.certificates.ca}; proxy_ssl_verify on;
                  proxy_ssl_name {HOST}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.2 TLSv1.3;
                }}
              }}
            }}""")
        self.started = [self.program, "-p", self.folder, "-e", "error.log", "-c", "nginx.conf"]
        self.process = Process(self.folder, self.started)

    def _write(self, pair):
        replace(self.folder / "client.pem", pair.cert)
        replace(self.folder / "client.key", pair.key)

    def rotate(self, pair):
        self.settle()
        self._write(pair)
        self.reload()

    def reload(self):
        # As an operator calls it; the command reads and checks the configuration before it signals the master.
        command = [*self.started, "-s", "reload"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode != 0:
            raise Refused(done.stderr.strip()[-200:])


class NginxWorkers(Nginx):
    way = "the same; when every old worker says that it shuts down"

    def reload(self):
        old = set(self.process.children())
        super().reload()
        end = time.monotonic() + PATIENCE
        while True:
            serving = {pid for pid, title in self.process.children().items() if "shutting down" not in title}
            if serving and not serving & old:
                return
            if time.monotonic() > end:
                raise Refused("the old workers go on")
            time.sleep(0.002)


class HaproxyRuntime(Proxy):
    name, way = "HAProxy", "runtime API, `set` and `commit ssl cert`; its answer"
    command = package = "haproxy"
    options = ["-db"]

    def launch(self, pair):
        self.port = free_port()
        self.pem = self.folder / "client.pem"
        self.pem.write_text(pair.cert + pair.key)
        (self.folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 8000
  ssl-server-verify required
  stats socket {self.folder}/stats.sock level admin expose-fd listeners
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  option http-keep-alive
frontend storm
  bind 127.0.0.1:{self.port} backlog 4096
  default_backend origin
backend origin
  http-reuse always
  server origin 127.0.0.1:{self.origin.port} ssl crt {self.pem} ca-file {self.certificates.ca} verify required sni str({HOST}) verifyhost {HOST}
""")
        self.process = Process(self.folder, [self.program, *self.options, "-f", "haproxy.cfg"])

    def rotate(self, pair):
        self.ask("stats.sock", f"set ssl cert {self.pem} <<\n{pair.cert}{pair.key}\n", "ransaction")
        self.ask("stats.sock", f"commit ssl cert {self.pem}\n", "Success!")

    def ask(self, where, command, wanted):
        """One command on one of its sockets; its answer, which has to contain what is wanted."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(PATIENCE)
            door.connect(str(self.folder / where))
            door.sendall(command.encode())
            door.shutdown(socket.SHUT_WR)  # the master's socket waits for more commands otherwise
            said = b""
            while piece := door.recv(65536):
                said += piece
        if wanted not in said.decode():
            raise Refused(f"{command.split()[0]}: {said.decode().strip()[:200]}")
        return said.decode()


class HaproxyReload(HaproxyRuntime):
    way = "file, SIGUSR2 to the master; `show proc` names a new worker"
    options = ["-W", "-S", "unix@master.sock"]

    def rotate(self, pair):
        self.settle()
        before = until("the master answers", self._worker_if_any)
        replace(self.pem, pair.cert + pair.key)
        os.kill(self.process.pid, signal.SIGUSR2)
        end = time.monotonic() + PATIENCE
        while True:
            if (self._worker_if_any() or before) != before:
                return
            if time.monotonic() > end:
                raise Refused("no new worker")
            time.sleep(0.002)

    def _worker_if_any(self):
        try:
            return self._worker()
        except (OSError, Refused):
            return None  # the master starts itself anew, and its socket is away meanwhile

    def _worker(self):
        said = self.ask("master.sock", "show proc\n", "# workers")
        lines = said.split("# workers", 1)[1].split("#", 1)[0].split("\n")
        workers = [line.split()[0] for line in lines if "worker" in line.split()]
        if not workers:
            raise Refused("no worker")
        return workers


class Envoy(Proxy):
    name, way = "Envoy", "SDS file renamed into place; its counter of updates"
    command = "envoy"

    def launch(self, pair):
        self._write(pair)
        (self.folder / "envoy.json").write_text(json.dumps(self._config()))
        command = [self.program, "-c", "envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        self.process = Process(self.folder, [*command, "--admin-address-path", "admin"])
        admin = until("envoy says where its administration listens", self._admin)
        self.admin = http.client.HTTPConnection("127.0.0.1", admin, timeout=PATIENCE)
        self.port = until("envoy says where it listens", self._listening)

    def _admin(self):
        self.process.check()
        path = self.folder / "admin"
        return path.exists() and (said := path.read_text().strip()) and int(said.rsplit(":", 1)[1])

    def _listening(self):
        listeners = json.loads(self._get("/listeners?format=json")).get("listener_statuses")
        return listeners and listeners[0]["local_address"]["socket_address"]["port_value"]

    def _get(self, path):
        try:
            self.admin.request("GET", path)
            return self.admin.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            self.admin.close()
            raise

    def _updates(self):
        counters = self._get("/stats?filter=ssl_context_update_by_sds$")
        return sum(int(line.rsplit(":", 1)[1]) for line in counters.splitlines() if "client_ssl" in line)

    def rotate(self, pair):
        before = self._updates()
        self._write(pair)
        end = time.monotonic() + PATIENCE
        while self._updates() == before:
            if time.monotonic() > end:
                raise Refused("the counter of updates does not move")
            time.sleep(0.002)

    def _write(self, pair):
        both = {"certificate_chain": {"inline_string": pair.cert}, "private_key": {"inline_string": pair.key}}
        kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
        secret = {"@type": kind, "name": "client", "tls_certificate": both}
        replace(self.folder / "sds.json", json.dumps({"resources": [secret]}))

    def _config(self):
        def typed(name, kind, **fields):
            return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields}}

        def at(port):
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        extensions = "envoy.extensions"
        http_manager = f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        router = typed("envoy.filters.http.router", f"{extensions}.filters.http.router.v3.Router")
        route = {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}
        manager = typed(
            "envoy.filters.network.http_connection_manager", http_manager, stat_prefix="storm", codec_type="HTTP1",
            route_config={"virtual_hosts": [{"name": "storm", "domains": ["*"], "routes": [route]}]},
            http_filters=[router],
        )  # fmt: skip
        sds = {"path_config_source": {"path": str(self.folder / "sds.json")}, "resource_api_version": "V3"}
        names = [{"san_type": "DNS", "matcher": {"exact": HOST}}]
        common = {
            "tls_certificate_sds_secret_configs": [{"name": "client", "sds_config": sds}],
            "validation_context": {
                "trusted_ca": {"filename": str(self.certificates.ca)},
                "match_typed_subject_alt_names": names,
            },
        }
        tls = f"{extensions}.transport_sockets.tls.v3.UpstreamTlsContext"
        endpoint = {"endpoint": {"address": at(self.origin.port)}}
        cluster = {
            "name": "origin",
            "type": "STATIC",
            "connect_timeout": "10s",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
            "transport_socket": typed("envoy.transport_sockets.tls", tls, sni=HOST, common_tls_context=common),
        }
        return {
            "node": {"id": "storm", "cluster": "storm"},
            "admin": {"address": at(0)},
            "static_resources": {
                "listeners": [{"name": "storm", "address": at(0), "filter_chains": [{"filters": [manager]}]}],
                "clusters": [cluster],
            },
        }


WAYS = {"egret": [Egret], "nginx": [Nginx, NginxWorkers], "haproxy": [HaproxyRuntime, HaproxyReload], "envoy": [Envoy]}
