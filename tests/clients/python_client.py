"""Python's HTTP clients behind one line protocol.

usage: python_client.py urllib|requests|http.client

Standard input, one JSON object per line: {url, proxy?, ca?, absolute?, method?, headers?, body?}.
Standard output, one line each: {status, headers, body} or {error}.
Connections are kept as the library itself keeps them, for as long as this process lives.
"""

import functools
import http.client
import json
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request


@functools.cache
def context(ca):
    return ssl.create_default_context(cafile=ca)


def by_urllib(job):
    handlers = [urllib.request.ProxyHandler({"http": job["proxy"], "https": job["proxy"]} if job.get("proxy") else {})]
    if job.get("ca"):
        handlers.append(urllib.request.HTTPSHandler(context=context(job["ca"])))
    request = urllib.request.Request(job["url"], method=job.get("method", "GET"), headers=job.get("headers", {}))
    if job.get("body") is not None:
        request.data = job["body"].encode()
    try:
        answer = urllib.request.build_opener(*handlers).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers.items(), answer.read()


sessions = {}


def by_requests(job):
    import requests

    session = sessions.setdefault((job.get("proxy"), job.get("ca")), requests.Session())
    session.trust_env = False
    answer = session.request(
        job.get("method", "GET"),
        job["url"],
        headers=job.get("headers"),
        data=job.get("body"),
        proxies={"http": job["proxy"], "https": job["proxy"]} if job.get("proxy") else None,
        verify=job.get("ca") or True,
        timeout=30,
        allow_redirects=False,
    )
    return answer.status_code, answer.headers.items(), answer.content


def by_http_client(job):
    """The absolute form for any scheme, as old applications send it; without a proxy the origin form."""
    url = urllib.parse.urlsplit(job["url"])
    peer = urllib.parse.urlsplit(job["proxy"]) if job.get("proxy") else url
    connection = http.client.HTTPConnection(peer.hostname, peer.port, timeout=30)
    target = job["url"] if job.get("proxy") else url.path or "/"
    try:
        connection.request(
            job.get("method", "GET"), target, job.get("body"), {"Host": url.netloc, **job.get("headers", {})}
        )
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


CLIENTS = {"urllib": by_urllib, "requests": by_requests, "http.client": by_http_client}


def main():
    client = CLIENTS[sys.argv[1]]
    for line in sys.stdin:
        try:
            status, headers, body = client(json.loads(line))
            answer = {
                "status": status,
                "headers": {name.lower(): value for name, value in headers},
                "body": body.decode("utf-8", "replace"),
            }
        except Exception as error:  # the test judges it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
