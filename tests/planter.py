#!/usr/bin/python3
"""Puts objects into a local repository that nfreeze itself would not write: for tests.

What needs the master key is sealed as the format wants it, by code that nfreeze.cpp shares nothing with
(see reader.py, whose side of the format this is the other one of): so it is what a program with a fault
would have left behind. The rest is what a server may plant without any key.
"""
import argparse
import hashlib
import hmac
import os
import secrets
import struct
import sys
import time

sys.dont_write_bytecode = True
from reader import (AESGCM, CONTINUED, DATA, DIRECTORY, FILE, KEY, PACK, RECORDS, SEGMENT,  # noqa: E402
                    SYMLINK, TREE, Cursor, Repository, Sealed, hkdf, xxh3_64, zstandard)

ADDED, CONDEMNED, DELETED, SNAPSHOT_ADDED, FORGOTTEN, SUPERSEDED, PARENT, TORN = range(1, 9)


# ---- Encoding ------------------------------------------------------------------------------------

def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def svarint(value):
    value = (value + 2**63 & 2**64 - 1) - 2**63
    return varint(value << 1 if value >= 0 else ~(value << 1))


def string(value):
    return varint(len(value)) + value


def record(kind, body):
    return bytes([kind]) + string(body)


# ---- Objects -------------------------------------------------------------------------------------

def seal(magic, parent_key, frames, seq=0):
    """`frames` are kinds, contents and the lengths and ids of the chunks in them."""
    salt = secrets.token_bytes(32)
    cipher, associated = AESGCM(hkdf(parent_key, salt, b"nfreeze object")), magic + seq.to_bytes(4, "little")

    def sealed(number, plain):
        return cipher.encrypt(number.to_bytes(8, "little") + bytes(4), plain, associated)

    out, table = magic + salt, varint(len(frames))
    for number, (kind, raw, chunks) in enumerate(frames):
        frame = sealed(number, b"\1" + varint(len(raw)) + zstandard.ZstdCompressor(1).compress(raw))
        table += bytes([kind]) + varint(len(frame)) + varint(len(chunks))
        table += b"".join(varint(size) for size, _ in chunks) + b"".join(name for _, name in chunks)
        out += frame
    return out + sealed(2**64 - 1, table) + sealed(2**64 - 2, len(out).to_bytes(8, "little")), salt, table


def store(repository, directory, data, seq=None):
    """As every object comes: named by its hash, not to be changed. Returns its hash."""
    name = hashlib.sha256(data).digest()
    place = os.path.join(repository, directory, ("" if seq is None else "%08x-" % seq) + name.hex())
    with open(place, "wb") as file:
        file.write(data)
    os.chmod(place, 0o400)
    return name


class Unread(Repository):
    """Its keys are known, and nothing of what its index says: millions of records, maybe."""

    def read_index(self):
        pass


class Planter:
    """Who has the key, and so may say what he likes."""

    def __init__(self, path, kind=Repository):
        self.path = path
        self.repository = kind(path, os.environb[b"NFREEZE_PASSWORD"])
        self.segments, self.seq, gone = {}, 0, set()
        for name, content in self.repository.objects("index", self.content, {}):
            self.seq = max(self.seq, int(name[:8], 16))
            self.segments[bytes.fromhex(name[9:])[:16]] = content
        for content in self.segments.values():
            gone |= {body[:16] for kind, body in records_of(content) if kind == SUPERSEDED}
        self.live = {name: content for name, content in self.segments.items() if name not in gone}

    def content(self, name, data):
        segment = Sealed(SEGMENT, self.repository.index_key, data, int(name[:8], 16))
        return b"".join(map(segment.frame, range(len(segment.frames))))

    def write(self, content):
        frames = [(RECORDS, content[at:at + (8 << 20)], []) for at in range(0, len(content), 8 << 20)]
        self.seq += 1
        data = seal(SEGMENT, self.repository.index_key, frames, self.seq)[0]
        return "%08x-%s" % (self.seq, store(self.path, "index", data, self.seq).hex())

    def find(self, prefix):
        return next(each for name, each in self.repository.snapshots.items() if name.hex().startswith(prefix))

    def newest(self):
        return max((snapshot for snapshot in self.repository.snapshots.values() if not snapshot.forgotten),
                   key=lambda snapshot: snapshot.time)

    def raw_snapshot(self, wanted):
        return next(body for content in self.live.values() for kind, body in records_of(content)
                    if kind == SNAPSHOT_ADDED and body[:16] == wanted)

    def pack(self, kind, pieces):
        """One pack with one frame. Returns the ids of the pieces, and the record that lists the pack."""
        ids = [hmac.digest(self.repository.id_key, piece, "sha256")[:16] for piece in pieces]
        chunks = [(len(piece), name) for piece, name in zip(pieces, ids)]
        data, salt, table = seal(PACK, self.repository.pack_key, [(kind, b"".join(pieces), chunks)])
        name = store(self.path, "packs", data)
        return ids, record(ADDED, name + salt + varint(len(data)) + table)


def records_of(content):
    at, end = 0, len(content)
    while at < end:
        kind, size, shift, at = content[at], 0, 0, at + 1
        while at < end:  # as Cursor does, but there may be millions
            size |= (content[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if content[at - 1] < 128:
                break
        if at + size > end:
            return  # planted, too
        yield kind, content[at:at + size]
        at += size


# ---- What is planted -----------------------------------------------------------------------------

def noise(path, arguments):
    """Objects with right names that nobody who has a key has written."""
    for number in range(int(arguments[1])):
        data = secrets.token_bytes(int(arguments[2]))
        store(path, arguments[0], data, 1000 + number if arguments[0] == "index" else None)


def keys(path, arguments):
    """Key objects of another version (1 byte of the magic) or cost (log2 of scrypt's N)."""
    for _ in range(int(arguments[2])):
        version, cost = (int(arguments[1]), 15) if arguments[0] == "version" else (1, int(arguments[1]))
        data = KEY[:7] + bytes([version, cost]) + struct.pack("<II", 8, 1) + secrets.token_bytes(176)
        assert len(data) == 193
        store(path, "keys", data)


def blow_up(planter, stay):
    """All that is live is said again and again; the segments that said it go unless they are to stay."""
    content = b"".join(planter.live.values())
    head = b"".join(record(SUPERSEDED, name + bytes(8)) for name in planter.live)
    before = [] if stay == ["beside"] else planter.repository.names("index")
    planter.write(head + content * ((130 << 20) // len(content) + 1))
    for name in before:
        os.unlink(os.path.join(planter.path, "index", name))


def stats(planter, _):
    """Live segments: how many records they have, how many differ, and how many bytes these segments are."""
    records = [each for content in planter.live.values() for each in records_of(content)
               if each[0] not in (SUPERSEDED, PARENT, TORN)]
    names = {name[9:][:32]: name for name in planter.repository.names("index")}
    places = [os.path.join(planter.path, "index", names[name.hex()]) for name in planter.live]
    print("segments %d records %d distinct %d bytes %d content %d" % (
        len(planter.live), len(records), len(set(records)), sum(map(os.path.getsize, places)),
        sum(map(len, planter.live.values()))))


def snapshot(planter, arguments):
    """One that exists, under another id and of another time (seconds from now)."""
    source = planter.find(arguments[1]) if arguments[1:] else planter.newest()
    raw = Cursor(planter.raw_snapshot(source.id))
    raw.bytes(24)
    fresh = secrets.token_bytes(16)
    moment = time.time_ns() + int(arguments[0]) * 10**9
    planter.write(record(SNAPSHOT_ADDED, fresh + moment.to_bytes(8, "little") + raw.rest()))
    print(fresh.hex())


def say(planter, arguments):
    """condemned or deleted, of all packs or of one; condemned since when."""
    kind = {"condemned": CONDEMNED, "deleted": DELETED}[arguments[0]]
    tail = int(arguments[2]).to_bytes(8, "little") if kind == CONDEMNED else b""
    wanted = [name for name in planter.repository.packs if arguments[1] in ("all", name)]
    print(planter.write(b"".join(record(kind, bytes.fromhex(name) + tail) for name in wanted)))


def malformed(planter, arguments):
    """A segment that forgets a snapshot, and whose next record ends too late or has too much in it."""
    wrong = {"early": bytes([FORGOTTEN]) + varint(16) + bytes(7), "long": record(FORGOTTEN, bytes(17)),
             "snapshot": record(SNAPSHOT_ADDED, bytes(40) + b"\xff" * 9)}[arguments[1]]
    print(planter.write(record(FORGOTTEN, planter.find(arguments[0]).id) + wrong))


def tree(planter, arguments):
    """A snapshot of a file "good" and a file "bad"; what is bad about it is said."""
    kind = arguments[0]
    pieces = [secrets.token_bytes(300_000) for _ in range(3)]
    chunks, listed = planter.pack(DATA, pieces)
    checksum = xxh3_64(b"".join(pieces)).intdigest()
    size, now = sum(map(len, pieces)), time.time_ns()
    before = (0, 0, 0)

    def entry(flags, path, inode, rest):
        nonlocal before
        seconds, nanoseconds = divmod(now, 10**9)
        mode = 0o755 if flags & 7 == DIRECTORY else 0o644
        out = varint(flags) + path + varint(mode) + varint(0) + varint(0)
        out += svarint(seconds - before[0]) + svarint(nanoseconds - before[1]) + svarint(0) + svarint(0)
        out += svarint(inode - before[2])
        before = seconds, nanoseconds, inode
        return out + rest

    def content(length, ids, total):
        return varint(length) + varint(len(ids)) + b"".join(ids) + total.to_bytes(8, "little")

    bad = {"size": content(size + 1, chunks, checksum), "checksum": content(size, chunks, checksum ^ 1),
           "no-continuation": content(size, chunks, checksum),
           "symlink-continued": string(b"good")}[kind]
    flags = {"no-continuation": FILE | CONTINUED, "symlink-continued": SYMLINK | CONTINUED}.get(kind, FILE)
    records = [entry(DIRECTORY, varint(0) + string(b""), 2, b""),
               entry(flags, varint(0) + string(b"bad"), 3, bad),
               entry(FILE, varint(3) + string(b"good"), 4, content(size, chunks, checksum))]
    if kind == "no-continuation" and arguments[1:] == ["last"]:
        del records[2:]
    ids, tree_listed = planter.pack(TREE, [b"".join(records)])
    list_ids, list_listed = planter.pack(TREE, [ids[0] + string(b"")])
    fresh = secrets.token_bytes(16)
    made = fresh + now.to_bytes(8, "little")
    made += b"".join(map(string, (b"host", b"root", b"/planted", b"0")))
    made += varint(0) + b"\0" + b"".join(map(varint, (len(records) - 1, 1, 0, 2 * size, 2, 0, size)))
    made += varint(0) + varint(0) + varint(1) + list_ids[0]
    planter.write(listed + tree_listed + list_listed + record(SNAPSHOT_ADDED, made))
    print(fresh.hex())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    without_key = {"noise": noise, "keys": keys}
    with_key = {"blow-up": blow_up, "stats": stats, "snapshot": snapshot, "say": say,
                "malformed": malformed, "tree": tree}
    parser.add_argument("repository", help="a local directory")
    parser.add_argument("what", choices=[*without_key, *with_key])
    parser.add_argument("more", nargs="*")
    arguments = parser.parse_args()
    if arguments.what in without_key:
        without_key[arguments.what](arguments.repository, arguments.more)
    else:
        kind = Unread if arguments.what in ("blow-up", "stats") else Repository
        with_key[arguments.what](Planter(arguments.repository, kind), arguments.more)


if __name__ == "__main__":
    main()
