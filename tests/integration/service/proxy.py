"""A TCP proxy on loopback that can fall silent, lose answers and break connections."""
import contextlib
import select
import socket
import threading

CHUNK_BYTES = 1 << 16


class Proxy:
    """Passes connections on to `target` ("host:port"). While cut, bytes stay where they are, in both directions, and no
    connection ends: what a pulled cable looks like. While answers are lost, what the target sends is thrown away."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.passes = threading.Event()
        self.passes.set()
        self.ended = threading.Event()
        self.lose_answers_after = None  # bytes that a client has sent on one connection
        self.answers_lost = threading.Event()
        self.lock = threading.Lock()
        self.sockets = []  # of every connection, guarded by lock
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.ended.set()
        self.passes.set()
        self.listener.close()
        self.break_connections()
        self.thread.join(10)

    def cut(self):
        self.passes.clear()

    def heal(self):
        self.passes.set()

    def lose_answers(self, after_bytes):
        """On every connection of now and later, once the client has sent that much. Until keep_answers."""
        self.answers_lost.clear()
        self.lose_answers_after = after_bytes

    def keep_answers(self):
        self.lose_answers_after = None

    def break_connections(self):
        with self.lock:
            for one in self.sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self.sockets.clear()

    def accept(self):
        while not self.ended.is_set():
            try:
                if not select.select([self.listener], [], [], 0.2)[0]:
                    continue
                client, _ = self.listener.accept()
            except (OSError, ValueError):
                return  # closed
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        self.passes.wait()
        try:
            server = socket.create_connection(self.target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        with self.lock:
            self.sockets += [client, server]
        sent = [0]  # bytes of the client on this connection
        back = threading.Thread(target=self.pump, daemon=True,
                                args=(server, client, lambda data: self.answer(data, sent)))
        back.start()
        self.pump(client, server, lambda data: self.count(data, sent))
        back.join()
        client.close()
        server.close()

    def count(self, data, sent):
        sent[0] += len(data)
        return data

    def answer(self, data, sent):
        if self.lose_answers_after is None or sent[0] <= self.lose_answers_after:
            return data
        self.answers_lost.set()
        return b""

    def pump(self, source, sink, change):
        try:
            while data := source.recv(CHUNK_BYTES):
                self.passes.wait()
                sink.sendall(change(data))
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
