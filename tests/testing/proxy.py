"""A proxy between two programs that can stop forwarding without closing anything, as a network that is cut does."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards TCP connections to `target` ("host:port"). After `cut` nothing passes, in either direction, and whoever connects
    gets no answer; after `heal` everything that was held back is delivered."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.flowing = threading.Event()
        self.flowing.set()
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self._start(self._accept)

    def cut(self):
        self.flowing.clear()

    def heal(self):
        self.flowing.set()

    def close(self):
        self.heal()
        for connection in [self.listener, *self.sockets]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _start(self, function, *arguments):
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self.listener.accept()
                self.sockets.append(near)
                self._start(self._connect, near)

    def _connect(self, near):
        self.flowing.wait()
        try:
            far = socket.create_connection(self.target)
        except OSError:
            return near.close()
        self.sockets.append(far)
        self._start(self._pump, near, far)
        self._start(self._pump, far, near)

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.flowing.wait()
                sink.sendall(data)
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
