#!/usr/bin/env python3
"""Records the first flight of a client: record.py OUT COMMAND..., where {port} stands for a port on the loopback that
is listened at. Of an HTTP client the head is kept, of a TLS client the first flight."""
import socket, subprocess, sys, threading

def listen(server, out):
    with server.accept()[0] as peer:
        peer.settimeout(5)
        got = peer.recv(65536)
        if got[:1] == b"\x16":
            while True:  # whole records of type 22 up to the length that the hello says
                need, at, body = None, 0, b""
                while len(got) >= at + 5:
                    size = int.from_bytes(got[at + 3:at + 5], "big")
                    body += got[at + 5:at + 5 + size]
                    at += 5 + size
                if len(body) >= 4 and len(body) >= 4 + int.from_bytes(body[1:4], "big") and len(got) >= at:
                    break
                got += peer.recv(65536)
        else:
            while b"\r\n\r\n" not in got:
                got += peer.recv(65536)
            got = got[:got.index(b"\r\n\r\n") + 4]
        open(out, "wb").write(got)

server = socket.create_server(("127.0.0.1", 0))
port = str(server.getsockname()[1])
thread = threading.Thread(target=listen, args=(server, sys.argv[1]))
thread.start()
child = subprocess.run([word.replace("{port}", port) for word in sys.argv[2:]], stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60)
thread.join(10)
server.close()
