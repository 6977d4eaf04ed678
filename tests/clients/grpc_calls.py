"""gRPC as its users write it: no proxy, no CA, no certificate in the code.

usage: grpc_calls.py secure|insecure HOST:PORT CALL

  unary, refused, server_stream, client_stream, both    one call of that kind
  deadline       a call that is never answered in the time that the client gives it
  cancel         a call that the client cancels after the first message
  many           200 calls at once on one channel
  steady         eight callers, one call after the other for six seconds, every fourth one a stream of messages

Prints one JSON object: {messages, before, after, status, details}: metadata before and after the answer, the name of
the status code.
"""

import json
import sys
import threading
import time

import grpc

kind, target, call = sys.argv[1:]
channel = (
    grpc.secure_channel(target, grpc.ssl_channel_credentials()) if kind == "secure" else grpc.insecure_channel(target)
)
METADATA = (("x-order", "17"), ("x-bytes-bin", b"\x01\xfe"))


def metadata(pairs):
    return {key: value if isinstance(value, str) else value.hex() for key, value in pairs or ()}


def report(call, messages):
    code = call.code()
    return {
        "messages": [message.decode() for message in messages],
        "before": metadata(call.initial_metadata()),
        "after": metadata(call.trailing_metadata()),
        "status": code.name,
        "details": call.details(),
    }


def one(method):
    try:
        answer, finished = method.with_call(b"one", metadata=METADATA, timeout=30)
        return report(finished, [answer])
    except grpc.RpcError as error:
        return report(error, [])


def unary():
    return one(channel.unary_unary("/partner.Orders/Unary"))


def refused():
    return one(channel.unary_unary("/partner.Orders/Refused"))


def client_stream():
    method = channel.stream_unary("/partner.Orders/ClientStream")
    answer, finished = method.with_call(iter([b"one", b"two", b"three"]), timeout=30)
    return report(finished, [answer])


def stream(answers):
    messages = []
    try:
        for message in answers:
            messages.append(message)
    except grpc.RpcError:
        pass
    return report(answers, messages)


def server_stream():
    return stream(channel.unary_stream("/partner.Orders/ServerStream")(b"5", timeout=30))


def both():
    """Each message is sent only when the one before was answered: neither side may be held back."""
    answered = threading.Semaphore(1)

    def requests():
        for number in range(20):
            assert answered.acquire(timeout=30)
            yield b"%d" % number

    messages = []
    answers = channel.stream_stream("/partner.Orders/Both")(requests(), timeout=60)
    for message in answers:
        messages.append(message)
        answered.release()
    return report(answers, messages)


def deadline():
    return stream(channel.unary_stream("/partner.Orders/Endless")(b"wait", timeout=1.5))


def cancel():
    answers = channel.unary_stream("/partner.Orders/Endless")(b"wait")
    first = next(answers)
    answers.cancel()
    return report(answers, [first])


def many():
    method = channel.unary_unary("/partner.Orders/Unary")
    running = [method.future(b"%d" % number, timeout=60) for number in range(200)]
    messages = [call.result() for call in running]
    return report(running[-1], messages)


def steady():
    unary = channel.unary_unary("/partner.Orders/Unary")
    stream = channel.unary_stream("/partner.Orders/ServerStream")
    until = time.monotonic() + 6
    answered, failed = [], []

    def calls():
        number = 0
        while time.monotonic() < until:
            number += 1
            try:
                if number % 4:
                    unary(b"steady", timeout=30)
                else:
                    assert len(list(stream(b"50", timeout=30))) == 50
                answered.append(number)
            except grpc.RpcError as error:
                failed.append(f"{error.code()} {error.details()}")

    callers = [threading.Thread(target=calls) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return {"answered": len(answered), "failed": failed}


with channel:
    print(json.dumps(globals()[call]()))
