"""gRPC by Python's `grpcio`: `serve ADDRESS [CERT KEY]`, and `check ADDRESS [CA NAME]` of what such a server
does; with the files of a certificate, over TLS.

Messages are plain bytes, so that no schema has to be compiled.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "test.Echo"


def echo(request, context):
    context.set_trailing_metadata([("x-length", str(len(request)))])
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def join(requests, context):
    return b" ".join(requests)


def answer(requests, context):
    for request in requests:
        yield b"re: " + request


def fail(request, context):
    context.set_trailing_metadata([("x-why", "told")])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 %")


def fail_later(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "lost")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def serve(address, cert=None, key=None):
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Join": grpc.stream_unary_rpc_method_handler(join),
        "Answer": grpc.stream_stream_rpc_method_handler(answer),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLater": grpc.unary_stream_rpc_method_handler(fail_later),
    }
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    if cert:
        credentials = grpc.ssl_server_credentials([(read(key), read(cert))])
        assert server.add_secure_port(address, credentials)
    else:
        assert server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def check(address, authority=None, name=None):
    options = [("grpc.max_receive_message_length", -1)]
    if authority:
        options.append(("grpc.ssl_target_name_override", name))
        credentials = grpc.ssl_channel_credentials(read(authority))
        channel = grpc.secure_channel(address, credentials, options=options)
    else:
        channel = grpc.insecure_channel(address, options=options)

    def method(kind, name):
        return getattr(channel, kind)(f"/{SERVICE}/{name}")

    unary = method("unary_unary", "Echo")
    for length in [0, 1, 100_000, 3_000_000]:
        response, call = unary.with_call(b"x" * length, timeout=20)
        assert response == b"x" * length
        assert ("x-length", str(length)) in [tuple(pair) for pair in call.trailing_metadata()]
    numbers = method("unary_stream", "Count")(b"1000", timeout=20)
    assert [int(number) for number in numbers] == list(range(1000))
    words = [b"a"] * 500
    assert method("stream_unary", "Join")(iter(words), timeout=20) == b" ".join(words)

    # Each answer is there before the next question is asked.
    turn = threading.Semaphore(1)

    def questions():
        for number in range(50):
            assert turn.acquire(timeout=20)
            yield str(number).encode()

    for number, reply in enumerate(method("stream_stream", "Answer")(questions(), timeout=20)):
        assert reply == b"re: %d" % number
        turn.release()
    assert number == 49

    try:
        method("unary_unary", "Fail")(b"", timeout=20)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not now: 100 %", error
        assert ("x-why", "told") in [tuple(pair) for pair in error.trailing_metadata()]
    stream = method("unary_stream", "FailLater")(b"", timeout=20)
    assert next(stream) == b"first"
    try:
        next(stream)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "lost"), error
    # A client that takes no more cancels its stream, and the channel goes on.
    endless = method("unary_stream", "Count")(b"100000000")
    next(endless)
    endless.cancel()
    calls = [unary.future(str(number).encode(), timeout=20) for number in range(300)]
    assert [int(call.result()) for call in calls] == list(range(300))
    print("all good")


{"serve": serve, "check": check}[sys.argv[1]](*sys.argv[2:])
