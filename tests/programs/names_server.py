"""A machine's peers, all in one: a DNS server by UDP and TCP, a TLS server and one of plain HTTP.

    names_server.py FOLDER      makes FOLDER/ready when it serves; ends when its parent does

Every name below names.example has the address 192.0.2.N, where its first part ends in the number N, and 2001:db8::N
when it begins with "six". One that begins with "www" has another name, which has the address. One that begins with
"large" is told by TCP alone.
"""

import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading

A, CNAME, AAAA = 1, 5, 28


def written(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def answer(query, by_tcp):
    at, parts = 12, []
    while query[at]:
        parts.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    name = ".".join(parts).lower()
    number = re.fullmatch(r"([a-z]+)(\d+)\.names\.example", name)
    records, flags = [], 0x8180
    if not number:
        flags = 0x8183
    elif number[1].startswith("large") and not by_tcp:
        flags = 0x8380
    else:
        owner, last = b"\xc0\x0c", int(number[2])
        if number[1].startswith("www"):
            other = written("edge.cdn.example")
            records.append(owner + struct.pack(">HHIH", CNAME, 1, 60, len(other)) + other)
            owner = other
        if kind == A and number[1] != "six":
            records.append(owner + struct.pack(">HHIH", A, 1, 60, 4) + socket.inet_aton(f"192.0.2.{last}"))
        if kind == AAAA and number[1] == "six":
            address = socket.inet_pton(socket.AF_INET6, f"2001:db8::{last}")
            records.append(owner + struct.pack(">HHIH", AAAA, 1, 60, 16) + address)
    head = query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
    return head + question + b"".join(records)


def exactly(peer, length):
    got = b""
    while len(got) < length:
        more = peer.recv(length - len(got))
        if not more:
            raise ConnectionError("cut off")
        got += more
    return got


def dns_by_tcp(peer):
    while True:
        query = exactly(peer, struct.unpack(">H", exactly(peer, 2))[0])
        message = answer(query, True)
        peer.sendall(struct.pack(">H", len(message)) + message)


def http(peer):
    while b"\r\n\r\n" not in peer.recv(65536):
        pass
    peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")


def serve(port, handle):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)

    def one(peer):
        try:
            with peer:
                handle(peer)
        except (OSError, ssl.SSLError):
            pass

    def accept():
        while True:
            threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def main():
    folder = sys.argv[1]
    key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "certificate.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=names.example"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    serve(53, dns_by_tcp)
    serve(80, http)
    serve(443, lambda peer: http(context.wrap_socket(peer, server_side=True)))

    def dns(datagrams):
        while True:
            query, sender = datagrams.recvfrom(65536)
            datagrams.sendto(answer(query, False), sender)

    for address in ["192.0.2.53", "127.0.0.53"]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, 53))
        threading.Thread(target=dns, args=(datagrams,), daemon=True).start()
    open(os.path.join(folder, "ready"), "w").close()
    sys.stdin.read()


main()
