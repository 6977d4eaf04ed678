"""A gRPC origin that demands a client certificate and writes down what it received.

usage: grpc_origin.py CERT KEY CLIENT_CA RECORD [AGE]

Prints its port. RECORD gets one JSON object per line: {call, peer, subject, metadata, messages, deadline, ended}.
After AGE milliseconds (and up to a tenth more or less) a connection gets a GOAWAY, and what runs on it may finish.
`ended` is "answered", or "gone" if the client was gone before; `deadline` are the seconds that the client gave, or null.
Ends when standard input does.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

cert, key, client_ca, record, *age = sys.argv[1:]
writing = threading.Lock()


class Call:
    """What is known of one call, written down when it is over."""

    def __init__(self, name, context):
        self.context = context
        self.gone = threading.Event()
        self.seen = {
            "call": name,
            "peer": context.peer(),
            "subject": [value.decode() for value in context.auth_context().get("x509_common_name", [])],
            "metadata": [[key, value if isinstance(value, str) else value.hex()] for key, value in context.invocation_metadata()],
            "messages": [],
            # Without one it is the end of time.
            "deadline": remaining if (remaining := context.time_remaining() or 0) < 1e9 else None,
            "ended": "gone",
        }
        if not context.add_callback(self.over):
            self.over()

    def over(self):
        self.gone.set()
        with writing, open(record, "a") as file:
            file.write(json.dumps(self.seen) + "\n")

    def take(self, message):
        self.seen["messages"].append(message.decode())
        return message

    def answered(self):
        self.seen["ended"] = "answered"

    def subject(self):
        return ",".join(self.seen["subject"]).encode()


def unary(message, context):
    call = Call("unary", context)
    call.take(message)
    context.send_initial_metadata((("before", "the answer"),))
    context.set_trailing_metadata((("after", "the answer"), ("bytes-bin", b"\x00\xff")))
    call.answered()
    return call.subject()


def refused(message, context):
    call = Call("refused", context)
    call.take(message)
    call.answered()
    context.set_trailing_metadata((("reason", "none today"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today, für niemanden")


def server_stream(message, context):
    call = Call("server_stream", context)
    call.take(message)
    for number in range(int(message)):
        yield b"%d %s" % (number, call.subject())
    context.set_trailing_metadata((("after", "the stream"),))
    call.answered()


def client_stream(messages, context):
    call = Call("client_stream", context)
    for message in messages:
        call.take(message)
    call.answered()
    return call.subject()


def both(messages, context):
    """Answers each message before it takes the next."""
    call = Call("both", context)
    for message in messages:
        yield call.take(message) + b" " + call.subject()
    context.set_trailing_metadata((("after", "both streams"),))
    call.answered()


def endless(message, context):
    """One message, and then nothing until the client is gone."""
    call = Call("endless", context)
    call.take(message)
    yield call.subject()
    call.gone.wait(60)


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Refused": grpc.unary_unary_rpc_method_handler(refused),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
}


def read(path):
    with open(path, "rb") as file:
        return file.read()


options = [("grpc.max_connection_age_ms", int(value)) for value in age]
server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("partner.Orders", HANDLERS),))
credentials = grpc.ssl_server_credentials([(read(key), read(cert))], read(client_ca), require_client_auth=True)
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
