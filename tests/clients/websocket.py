"""WebSockets by Python's `websockets`: `serve ADDRESS PORT`, and `check URL` of what such a server does."""

import os
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve


def handle(socket):
    for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            socket.close(int(code), reason)
            return
        socket.send(message)


def check(url):
    with connect(url, max_size=None, subprotocols=["chat"], compression="deflate") as socket:
        assert socket.subprotocol == "chat", socket.subprotocol
        for text in ["", "x", "ä€😀" * 1000]:
            socket.send(text)
            assert socket.recv(timeout=20) == text
        for length in [0, 1, 125, 126, 65_535, 65_536, 5_000_000]:
            data = os.urandom(length)
            socket.send(data)
            assert socket.recv(timeout=20) == data, length
        socket.send([b"in ", b"several ", b"frames"])
        assert socket.recv(timeout=20) == b"in several frames"
        assert socket.ping(b"there?").wait(20)
    assert socket.close_code == 1000, socket.close_code
    for code, reason in [(1000, "bye"), (1011, "it broke"), (4001, "ours")]:
        with connect(url, subprotocols=["chat"]) as socket:
            socket.send(f"close {code} {reason}")
            try:
                socket.recv(timeout=20)
                raise AssertionError("not closed")
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (code, reason), closed
    socket = connect(url, subprotocols=["chat"])
    socket.close(4002, "theirs")
    assert (socket.close_code, socket.close_reason) == (4002, "theirs")

    def talk(number):
        with connect(url, subprotocols=["chat"]) as socket:
            for step in range(50):
                socket.send(f"{number} {step}")
                assert socket.recv(timeout=20) == f"{number} {step}"
        done.append(number)

    done = []
    threads = [threading.Thread(target=talk, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(threads), done
    print("all good")


if sys.argv[1] == "serve":
    with serve(handle, sys.argv[2], int(sys.argv[3]), max_size=None, subprotocols=["chat"]) as server:
        server.serve_forever()
else:
    check(sys.argv[2])
