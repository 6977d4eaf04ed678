"""Python's HTTP clients as their users write them: no proxy, no CA, no certificate in the code.

usage: fetch.py urllib|requests|httpx|httpx-async|aiohttp|aiohttp-plain URL

Prints the body. Anything but success is an exception, and so a non-zero exit code.
"""

import asyncio
import sys


def by_urllib(url):
    import urllib.request

    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def by_requests(url):
    import requests

    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    return answer.text


def by_httpx(url):
    import httpx

    return httpx.get(url, timeout=30).raise_for_status().text


def by_httpx_async(url):
    import httpx

    async def get():
        async with httpx.AsyncClient(timeout=30) as client:
            return (await client.get(url)).raise_for_status().text

    return asyncio.run(get())


def by_aiohttp(url, trust_env=True):
    import aiohttp

    async def get():
        async with aiohttp.ClientSession(trust_env=trust_env, raise_for_status=True) as session:
            async with session.get(url) as answer:
                return await answer.text()

    return asyncio.run(get())


CLIENTS = {
    "urllib": by_urllib,
    "requests": by_requests,
    "httpx": by_httpx,
    "httpx-async": by_httpx_async,
    "aiohttp": by_aiohttp,
    "aiohttp-plain": lambda url: by_aiohttp(url, trust_env=False),
}

if __name__ == "__main__":
    print(CLIENTS[sys.argv[1]](sys.argv[2]))
