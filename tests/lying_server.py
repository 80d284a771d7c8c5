#!/usr/bin/env python3
"""An SFTP server (version 3, which makes new files and changes none) that tells the truth but for one kind of lie.

    lying_server.py FILE             for sshd's Subsystem; FILE holds the name of the lie, or nothing

What it serves is what lies on the disk, under absolute paths.
"""
import os
import random
import struct
import sys
import time

INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, OPENDIR, READDIR, REALPATH, STAT, EXTENDED = 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 17, 200
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
OK, EOF, NO_SUCH_FILE, FAILURE, UNSUPPORTED = 0, 1, 2, 4, 8


def string(value):
    return struct.pack('>I', len(value)) + value


def attributes(st, size=None):
    return struct.pack('>IQIIIII', 1 | 2 | 4 | 8, st.st_size if size is None else size, st.st_uid, st.st_gid, st.st_mode, int(st.st_atime), int(st.st_mtime))


class Server:
    def __init__(self, lie):
        self.lie = lie
        self.handles = {}
        self.number = 0
        self.random = random.Random(1)

    def send(self, kind, body):
        packet = struct.pack('>IB', len(body) + 1, kind) + body
        sys.stdout.buffer.write(packet)
        sys.stdout.buffer.flush()

    def reply(self, number, kind, body):
        if self.lie == 'other-number' and kind == DATA:
            number += 1000
        if self.lie == 'noise' and kind == DATA:
            sys.stdout.buffer.write(self.random.randbytes(100_000))
            sys.stdout.buffer.flush()
            return
        if self.lie == 'endless-packet' and kind == DATA:
            sys.stdout.buffer.write(struct.pack('>IB', 0xffffffff, DATA) + b'x' * 100_000)
            sys.stdout.buffer.flush()
            return
        self.send(kind, struct.pack('>I', number) + body)

    def status(self, number, code):
        self.reply(number, STATUS, struct.pack('>I', code) + string(b'') + string(b''))

    def handle(self, number, thing):
        self.number += 1
        name = b'%d' % self.number
        self.handles[name] = thing
        self.reply(number, HANDLE, string(name))

    def names(self, number, names):
        body = b''.join(string(name) + string(b'') + attrs for name, attrs in names)
        self.reply(number, NAME, struct.pack('>I', len(names)) + body)

    def list(self, number, path):
        in_packs = os.path.basename(path) == b'packs'
        endless = {'endless-names': b'x', 'endless-dots': b'.', 'endless-long-names': b'f' * 73}
        if in_packs and self.lie in endless:
            name = endless[self.lie]
            many = (string(name) + string(b'') + struct.pack('>I', 0)) * 1000
            self.reply(number, NAME, struct.pack('>I', 1000) + many)
            return
        names = self.handles[path + b'/']
        self.handles[path + b'/'] = []
        if not names:
            self.status(number, EOF)
            return
        found = []
        for name in names:
            st = os.lstat(os.path.join(path, name))
            # As large as it was, although it is not; or, of packs alone, of one size or another.
            sizes = {'larger': st.st_size + 1000}
            if in_packs:
                sizes.update({'packs-larger': st.st_size + 1000, 'packs-smaller': st.st_size // 2,
                              'packs-empty': 0, 'packs-huge': 1 << 40,
                              'packs-one-less': st.st_size - 1, 'packs-one-more': st.st_size + 1})
            found.append((name, attributes(st, sizes.get(self.lie))))
        if self.lie == 'names':
            plain = struct.pack('>I', 0)
            found += [(odd, plain) for odd in (b'../../outside', b'/etc/passwd', b'a\0b', b'\x1b[31m\x07', b'\xff' * 300, b'y' * 4000, b'..', b'.')]
        if self.lie == 'too-long-a-name':
            found.append((b'z' * 100_000, struct.pack('>I', 0)))
        if self.lie == 'more-names-than-there-are':
            self.reply(number, NAME, struct.pack('>I', 0xffffffff) + b''.join(string(n) + string(b'') + a for n, a in found))
            return
        self.names(number, found)

    def read(self, number, path, offset, length):
        with open(path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            data = file.read(length)
        in_packs = b'/packs/' in path
        if self.lie == 'short' and in_packs and offset + length > size // 2:
            data = data[:max(0, size // 2 - offset)]
        if self.lie == 'longer-than-asked' and data:
            data += b'x' * 100_000
        if self.lie == 'wrong-length' and data:
            self.reply(number, DATA, struct.pack('>I', 0xfffffff0) + data)
        elif self.lie == 'empty-data':
            self.reply(number, DATA, string(b''))
        elif self.lie == 'unknown-status':
            self.status(number, 4_000_000_000)
        elif not data:
            self.status(number, EOF)
        else:
            self.reply(number, DATA, string(data))

    def serve(self, kind, body):
        def text():
            nonlocal body
            n, = struct.unpack_from('>I', body)
            value, body = body[4:4 + n], body[4 + n:]
            return value
        if kind == INIT:
            self.send(VERSION, struct.pack('>I', 3))
            return
        number, = struct.unpack_from('>I', body)
        body = body[4:]
        try:
            if kind == REALPATH:
                self.names(number, [(os.path.realpath(text()), struct.pack('>I', 0))])
            elif kind == OPENDIR:
                path = text().rstrip(b'/')
                self.handles[path + b'/'] = os.listdir(path)
                self.handle(number, path)
            elif kind == READDIR:
                self.list(number, self.handles[text()])
            elif kind == OPEN:
                path = text()
                if struct.unpack_from('>I', body)[0] != 1:
                    open(path, 'xb').close()
                os.stat(path)
                self.handle(number, path)
            elif kind == WRITE:
                path = self.handles[text()]
                offset, = struct.unpack_from('>Q', body)
                body = body[8:]
                with open(path, 'r+b') as file:
                    file.seek(offset)
                    file.write(text())
                self.status(number, OK)
            elif kind == EXTENDED and self.lie == 'slow-to-say-no':
                time.sleep(1)
                self.status(number, UNSUPPORTED)
            elif kind == READ:
                path = self.handles[text()]
                self.read(number, path, *struct.unpack('>QI', body))
            elif kind == CLOSE:
                self.handles.pop(text(), None)
                self.status(number, OK)
            elif kind in (STAT, LSTAT):
                self.reply(number, ATTRS, attributes(os.stat(text())))
            elif kind == FSTAT:
                self.reply(number, ATTRS, attributes(os.stat(self.handles[text()])))
            else:
                self.status(number, UNSUPPORTED)
        except FileNotFoundError:
            self.status(number, NO_SUCH_FILE)
        except OSError:
            self.status(number, FAILURE)


def main():
    with open(sys.argv[1], encoding='ascii') as file:
        server = Server(file.read().strip())
    while True:
        head = sys.stdin.buffer.read(5)
        if len(head) < 5:
            return
        length, kind = struct.unpack('>IB', head)
        server.serve(kind, sys.stdin.buffer.read(length - 1))


try:
    main()
except BrokenPipeError:
    pass
