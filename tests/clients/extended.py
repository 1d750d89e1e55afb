"""WebSockets over HTTP/2 (RFC 8441) by `h2` and `wsproto`: `check ADDRESS`. The other end gives back what it gets."""

import os
import socket
import sys

import h2.config
import h2.connection
import h2.events
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage


class Line:
    """An HTTP/2 connection with prior knowledge."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http.initiate_connection()
        self.events = []
        self.wait(lambda event: isinstance(event, h2.events.RemoteSettingsChanged))
        assert self.http.remote_settings.enable_connect_protocol == 1

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def wait(self, is_it):
        """The first event that is it."""
        while True:
            for at, event in enumerate(self.events):
                if is_it(event):
                    return self.events.pop(at)
            self.flush()
            came = self.socket.recv(65536)
            assert came, "the connection ended"
            for event in self.http.receive_data(came):
                if isinstance(event, h2.events.DataReceived):
                    length = event.flow_controlled_length
                    if length:
                        self.http.acknowledge_received_data(length, event.stream_id)
                self.events.append(event)


class WebSocket:
    """A stream of such a connection."""

    def __init__(self, line, authority):
        self.line = line
        self.stream = line.http.get_next_available_stream_id()
        line.http.send_headers(
            self.stream,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":authority", authority),
                (":path", "/chat"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", "chat"),
            ],
        )
        headers = dict(self.wait(h2.events.ResponseReceived).headers)
        assert headers[b":status"] == b"200", headers
        assert headers[b"sec-websocket-protocol"] == b"chat", headers
        assert b"sec-websocket-accept" not in headers, headers
        self.frames = Connection(ConnectionType.CLIENT)
        self.has_ended = False

    def wait(self, *kinds):
        return self.line.wait(
            lambda event: isinstance(event, kinds) and event.stream_id == self.stream
        )

    def send(self, event):
        left = self.frames.send(event)
        while left:
            window = self.line.http.local_flow_control_window(self.stream)
            size = min(window, self.line.http.max_outbound_frame_size, len(left))
            if size == 0:
                self.read()
                continue
            self.line.http.send_data(self.stream, left[:size])
            left = left[size:]
            self.line.flush()

    def read(self):
        """Reads something that belongs to the stream."""
        event = self.line.wait(
            lambda event: isinstance(event, h2.events.WindowUpdated)
            or getattr(event, "stream_id", None) == self.stream
        )
        if isinstance(event, h2.events.DataReceived):
            if event.data:
                self.frames.receive_data(event.data)
        elif isinstance(event, h2.events.StreamEnded):
            self.has_ended = True
        else:
            assert not isinstance(event, h2.events.StreamReset), event

    def receive(self):
        """The next whole message, or another event."""
        message = None
        while True:
            for event in self.frames.events():
                if not isinstance(event, (TextMessage, BytesMessage)):
                    return event
                message = event.data if message is None else message + event.data
                if event.message_finished:
                    return message
            self.read()

    def end(self):
        """Ends the stream, and waits for the other end's."""
        self.line.http.end_stream(self.stream)
        while not self.has_ended:
            self.read()


def check(address):
    line = Line(address)
    first, second = WebSocket(line, address), WebSocket(line, address)
    for text in ["", "x", "ä€😀" * 1000]:
        for one in (first, second):
            one.send(TextMessage(text))
        for one in (first, second):
            assert one.receive() == text
    for length in [0, 1, 125, 126, 65_535, 65_536, 2_000_000]:
        data = os.urandom(length)
        first.send(BytesMessage(data))
        assert first.receive() == data, length
    first.send(Ping(b"there?"))
    assert first.receive() == Pong(b"there?")
    first.send(TextMessage("close 4001 ours"))
    closed = first.receive()
    assert (closed.code, closed.reason) == (4001, "ours"), closed
    first.send(closed.response())
    first.end()
    second.send(TextMessage("still here"))
    assert second.receive() == "still here"
    second.send(CloseConnection(1000, "bye"))
    assert second.receive().code == 1000
    second.end()
    print("all good")


check(sys.argv[2])
