"""Clients that do by themselves what a C library or a TLS library does elsewhere.

    names_client.py resolve     asks the DNS by each system call that can bring its answer, and connects to what it said
    names_client.py split       writes the first message of TLS in pieces, by each system call that can
"""

import ctypes
import os
import socket
import ssl
import struct
import sys

SERVER = ("192.0.2.53", 53)


def query(name):
    parts = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + parts + b"\0" + struct.pack(">HH", 1, 1)


def fetch(address):
    with socket.create_connection((address, 80)) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\nHost: not-this.example\r\n\r\n")
        while peer.recv(4096):
            pass


def by_datagram(name, connected, receive, server=SERVER):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        if connected:
            asker.connect(server)
            asker.send(query(name))
        else:
            asker.sendto(query(name), server)
        message = receive(asker)
    return socket.inet_ntoa(message[-4:])


def readv(asker):
    first, second = bytearray(20), bytearray(1000)
    length = os.readv(asker.fileno(), [first, second])
    return bytes(first + second)[:length]


def recvmmsg(asker):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    class Header(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("name_length", ctypes.c_uint),
            ("vector", ctypes.POINTER(Vector)),
            ("vectors", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_length", ctypes.c_size_t),
            ("flags", ctypes.c_int),
        ]

    class Message(ctypes.Structure):
        _fields_ = [("header", Header), ("length", ctypes.c_uint)]

    data, sender = ctypes.create_string_buffer(1000), ctypes.create_string_buffer(28)
    vector = Vector(ctypes.addressof(data), 1000)
    message = Message(Header(ctypes.addressof(sender), 28, ctypes.pointer(vector), 1))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.recvmmsg(asker.fileno(), ctypes.byref(message), 1, 0, None) == 1, ctypes.get_errno()
    return data.raw[: message.length]


def by_connection(name):
    with socket.create_connection(SERVER) as asker:
        message = query(name)
        asker.sendall(struct.pack(">H", len(message)) + message)
        length = struct.unpack(">H", os.read(asker.fileno(), 2))[0]
        first = asker.recv(10)
        message = first + asker.recv(length - len(first), socket.MSG_WAITALL)
    return socket.inet_ntoa(message[-4:])


def resolve():
    ways = [
        (True, lambda asker: asker.recv(1000)),
        (True, lambda asker: os.read(asker.fileno(), 1000)),
        (True, readv),
        (False, lambda asker: asker.recvfrom(1000)[0]),
        (False, lambda asker: asker.recvmsg(1000)[0]),
        (False, recvmmsg),
        (True, recvmmsg),
    ]
    for number, (connected, receive) in enumerate(ways, 20):
        fetch(by_datagram(f"www{number}.names.example", connected, receive))
    fetch(by_connection("www27.names.example"))
    stub = ("127.0.0.53", 53)  # as systemd-resolved has it
    fetch(by_datagram("www28.names.example", False, ways[3][1], stub))


def hello(name, long):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if long:  # more than two KiB
        context.set_alpn_protocols([f"{number:250}" for number in range(10)])
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def split():
    ways = [
        lambda peer, first, second: (peer.send(first), peer.send(second)),
        lambda peer, first, second: (os.write(peer.fileno(), first), os.write(peer.fileno(), second)),
        lambda peer, first, second: os.writev(peer.fileno(), [first[:3], first[3:], second]),
        lambda peer, first, second: (peer.sendmsg([first[:1], first[1:]]), peer.sendmsg([second])),
        lambda peer, first, second: (peer.send(first[:1]), peer.send(first[1:2]), peer.send(first[2:] + second)),
        lambda peer, first, second: [peer.send(bytes([byte])) for byte in first + second],
        lambda peer, first, second: peer.sendall(first + second),
    ]
    for number, send in enumerate(ways, 30):
        message = hello(f"split{number}.example", number == 36)
        assert (len(message) > 2500) == (number == 36), len(message)
        for address in [f"192.0.2.{number}", f"2001:db8::{number}"]:
            with socket.create_connection((address, 443)) as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                at = message.index(b"split") + 2  # in the name itself
                send(peer, message[:at], message[at:])
                peer.recv(1)


{"resolve": resolve, "split": split}[sys.argv[1]]()
