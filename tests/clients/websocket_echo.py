"""A WebSocket server that answers each message with the certificate that it was shown, and the message.

usage: websocket_echo.py plain                      behind a proxy that says the subject in X-Subject
       websocket_echo.py CERT KEY CLIENT_CA         TLS of its own, which demands a client certificate

Prints its port. Ends when standard input does.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.server import serve


def subject(connection):
    tls = connection.transport.get_extra_info("ssl_object")
    if tls is None:
        return connection.request.headers["X-Subject"]
    return ",".join(f"CN={value}" for part in tls.getpeercert()["subject"] for name, value in part if name == "commonName")


async def echo(connection):
    async for message in connection:
        if message == "close":
            await connection.close(4001, "as you say")
            return
        if isinstance(message, str):
            await connection.send(f"{subject(connection)} {message}")
        else:
            await connection.send(message)


async def main():
    context = None
    if sys.argv[1] != "plain":
        cert, key, client_ca = sys.argv[1:]
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        context.load_cert_chain(cert, key)
        context.verify_mode = ssl.CERT_REQUIRED
    async with serve(echo, "127.0.0.1", 0, ssl=context, max_size=2**24) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
