"""A WebSocket client as its users write it: no proxy, no CA, no certificate in the code.

usage: websocket_talk.py URL

Sends two texts and a large binary message, waits for a ping's answer, and is then told to go. Prints one JSON object:
{texts, bytes, code, reason}.
"""

import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main():
    async with connect(sys.argv[1], max_size=2**24) as socket:
        texts = []
        for text in ["first", "second"]:
            await socket.send(text)
            texts.append(await socket.recv())
        large = os.urandom(3_000_000)
        await socket.send(large)
        same = await socket.recv() == large
        await asyncio.wait_for(await socket.ping(), 20)
        await socket.send("close")
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            told = closed.rcvd
    print(json.dumps({"texts": texts, "bytes": same, "code": told.code, "reason": told.reason}))


asyncio.run(main())
