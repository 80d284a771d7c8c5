#!/usr/bin/python3
"""Reads nfreeze repositories: a second implementation of the format, independent of nfreeze.cpp.

It was written from the comment at the head of nfreeze.cpp, and shares no code with the program. So
it shows that what is described there is what is on the disk, and it is a way to the data should the
program ever be lost. It reads local directories only (copy the repository from the server first, by
sftp or rsync), writes nothing into them, and checks every hash, tag, id and checksum on its way.

Needs Python 3.8 or newer and, by their names in Debian, python3-cryptography, and python3-zstandard
or zstd; with python3-xxhash the checksums of files of several chunks are compared as well.
The passphrase is taken from NFREEZE_PASSWORD, or asked for.
"""
import argparse
import collections
import datetime
import functools
import getpass
import hashlib
import hmac
import os
import re
import stat
import subprocess
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
try:
    import zstandard
except ImportError:
    zstandard = None
try:
    from xxhash import xxh3_64
except ImportError:
    xxh3_64 = None


class Damaged(Exception):
    """Something is not as the format wants it."""


def warn(message):
    warn.count += 1
    print("warning:", message, file=sys.stderr)


warn.count = 0


def text(name):
    """Names are any bytes: what cannot be printed is escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1]
                   for letter in name.decode("utf-8", "backslashreplace"))


def local_time(seconds):
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ")


# ---- Encoding ------------------------------------------------------------------------------------

class Cursor:
    """Integers are little-endian or LEB128; strings have their length before them."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, size):
        if size > len(self.data) - self.at:
            raise Damaged("ends too early")
        self.at += size
        return self.data[self.at - size:self.at]

    def rest(self):
        return self.bytes(len(self.data) - self.at)

    def fixed(self, size):
        return int.from_bytes(self.bytes(size), "little")

    def varint(self):
        value = shift = 0
        while True:
            byte = self.fixed(1)
            value |= (byte & 127) << shift
            shift += 7
            if value >= 1 << 64:
                raise Damaged("a number is too large")
            if byte < 128:
                return value

    def svarint(self):  # 0, -1, 1, -2, ...
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def string(self):
        return self.bytes(self.varint())

    def several(self, read):
        return [read() for _ in range(self.varint())]

    def ids(self):
        return self.several(lambda: self.bytes(16))

    def more(self):
        return self.at < len(self.data)

    def end(self):
        if self.more():
            raise Damaged("bytes are left over")


# ---- Sealed objects ------------------------------------------------------------------------------

DATA, TREE, SNAPSHOT, RECORDS = range(4)
PACK, SEGMENT, KEY = b"nfrzpak\1", b"nfrzseg\1", b"nfrzkey\1"
Frame = collections.namedtuple("Frame", "kind offset size lengths ids")  # of the chunks in it


def hkdf(secret, salt, info):
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def unseal(key, number, sealed, associated):
    """AES-256-GCM; the last 16 bytes are the tag."""
    try:
        return AESGCM(key).decrypt(number.to_bytes(8, "little") + bytes(4), sealed, associated)
    except (InvalidTag, ValueError):
        raise Damaged("does not authenticate") from None


def open_frame(key, number, sealed, associated):
    cursor = Cursor(unseal(key, number, sealed, associated))
    codec, size, raw = cursor.fixed(1), cursor.varint(), cursor.rest()
    if codec == 1 and zstandard:
        raw = zstandard.ZstdDecompressor().decompress(raw, max_output_size=size)
    elif codec == 1:
        raw = subprocess.run(["zstd", "-dc"], input=raw, stdout=subprocess.PIPE, check=True).stdout
    if codec > 1 or len(raw) != size:
        raise Damaged("a frame is not what it says")
    return raw


def read_table(cursor):
    frames, offset = [], 40
    for _ in range(cursor.varint()):
        kind, size, chunks = cursor.fixed(1), cursor.varint(), cursor.varint()
        lengths = [cursor.varint() for _ in range(chunks)]
        frames.append(Frame(kind, offset, size, lengths, [cursor.bytes(16) for _ in range(chunks)]))
        offset += size
    return frames


class Sealed:
    """A whole pack or segment."""

    def __init__(self, magic, parent_key, data, seq=0):
        if len(data) < 64 or data[:8] != magic:
            raise Damaged("is something else")
        self.data, self.salt, self.associated = data, data[8:40], magic + seq.to_bytes(4, "little")
        self.key = hkdf(parent_key, self.salt, b"nfreeze object")
        table_at = int.from_bytes(unseal(self.key, 2**64 - 2, data[-24:], self.associated), "little")
        cursor = Cursor(unseal(self.key, 2**64 - 1, data[table_at:-24], self.associated))
        self.frames = read_table(cursor)
        if any(cursor.rest()):
            raise Damaged("bytes are left over")
        if table_at != 40 + sum(frame.size for frame in self.frames):
            raise Damaged("the frames do not end where the table begins")

    def frame(self, number):
        frame = self.frames[number]
        sealed = self.data[frame.offset:frame.offset + frame.size]
        return open_frame(self.key, number, sealed, self.associated)


# ---- The repository ------------------------------------------------------------------------------

class Pack:
    def __init__(self, salt, size, frames):
        self.salt, self.size, self.frames, self.condemned = salt, size, frames, False


class Snapshot:
    def __init__(self, data):
        cursor = Cursor(data)
        self.id, self.time = cursor.bytes(16), cursor.fixed(8)
        self.host, self.user, self.source, self.version = (cursor.string() for _ in range(4))
        self.tags, self.incomplete = cursor.several(cursor.string), cursor.fixed(1)
        # files, directories, others; bytes; new files, changed files; new bytes
        self.counts = [cursor.varint() for _ in range(7)]
        self.users = dict(cursor.several(lambda: (cursor.varint(), cursor.string())))
        self.groups = dict(cursor.several(lambda: (cursor.varint(), cursor.string())))
        self.list = cursor.ids()
        self.forgotten = False
        cursor.end()

    def __str__(self):
        return " ".join([self.id.hex(), local_time(self.time // 10**9),
                         text(self.host) + ":" + text(self.source)]
                        + ["#" + text(tag) for tag in self.tags]
                        + ["(incomplete)"] * self.incomplete + ["(forgotten)"] * self.forgotten)


class Repository:
    def __init__(self, path, passphrase, without_index=False):
        self.path, self.packs, self.snapshots = path, {}, {}
        master = self.open_key(passphrase)
        self.id_key, self.pack_key, self.index_key = (
            hkdf(master, None, b"nfreeze " + name) for name in (b"id", b"pack", b"index"))
        if without_index:
            self.read_packs()
        else:
            self.read_index()
        # A chunk may be in several packs; any will do, but what is condemned goes first.
        self.chunks, self.there = {}, set(self.names("packs"))
        for name, pack in sorted(self.packs.items(), key=lambda item: not item[1].condemned):
            for number, frame in enumerate(pack.frames if name in self.there else []):
                start = 0
                for size, chunk in zip(frame.lengths, frame.ids):
                    self.chunks[chunk] = name, number, start, size
                    start += size

    def names(self, directory):
        found = sorted(os.listdir(os.path.join(self.path, directory)))
        wanted = r"[0-9a-f]{8}-[0-9a-f]{64}" if directory == "index" else r"[0-9a-f]{64}"
        return [name for name in found if re.fullmatch(wanted, name)]

    def objects(self, directory, understand, broken=None):
        """The name of each object, and what `understand` makes of its name and bytes."""
        for name in self.names(directory):
            with open(os.path.join(self.path, directory, name), "rb") as file:
                data = file.read()
            try:
                if hashlib.sha256(data).hexdigest() != name[-64:]:
                    raise Damaged("is not whole")
                yield name, understand(name, data)
            except Damaged as error:
                if broken is None:
                    warn("%s/%s: %s" % (directory, name, error))
                else:
                    broken[name] = error

    def open_key(self, passphrase):
        def master_key(_, data):
            cursor = Cursor(data)
            magic, log_n, r, p, salt = (cursor.bytes(8), cursor.fixed(1), cursor.fixed(4),
                                        cursor.fixed(4), cursor.bytes(32))
            if len(data) != 193 or magic != KEY or 128 * r << log_n > 1 << 30 or p > 16:
                raise Damaged("is something else")
            key = Scrypt(salt=salt, length=32, n=1 << log_n, r=r, p=p).derive(passphrase)
            try:
                return unseal(key, 0, data[49:], data[:49])[:32]
            except Damaged:
                return None  # another passphrase's

        for _, master in self.objects("keys", master_key):
            if master:
                return master
        raise Damaged("no key object opens with this passphrase")

    def read_index(self):
        def records(name, data):
            segment = Sealed(SEGMENT, self.index_key, data, int(name[:8], 16))
            # A record may begin in one frame and end in the next.
            cursor = Cursor(b"".join(map(segment.frame, range(len(segment.frames)))))
            found = collections.defaultdict(list)  # bodies by type
            while cursor.more():
                found[cursor.fixed(1)].append(Cursor(cursor.string()))
            if found.keys() - set(range(1, 9)):
                raise Damaged("has records that a later version wrote")
            return found

        broken = {}
        segments = {bytes.fromhex(name[9:])[:16]: found
                    for name, found in self.objects("index", records, broken)}
        superseded = {body.bytes(16) for found in segments.values() for body in found[6]}
        live = [found for segment, found in segments.items() if segment not in superseded]
        condemned, deleted, forgotten, parents, torn = (
            {body.bytes(size) for found in live for body in found[kind]}
            for kind, size in ((2, 32), (3, 32), (5, 16), (7, 16), (8, 16)))
        for name, error in broken.items():
            if bytes.fromhex(name[9:])[:16] not in torn:
                warn("index/%s: %s" % (name, error))
        for lost in parents - superseded - segments.keys():
            warn("segment %s... of the index was lost or is withheld" % lost.hex())
        for found in live:
            for body in found[1]:
                name, salt, size, frames = (body.bytes(32), body.bytes(32), body.varint(),
                                            read_table(body))
                body.end()
                if name not in deleted:
                    self.packs[name.hex()] = Pack(salt, size, frames)
                    self.packs[name.hex()].condemned = name in condemned
            for body in found[4]:
                snapshot = Snapshot(body.rest())
                snapshot.forgotten = snapshot.id in forgotten
                self.snapshots[snapshot.id] = snapshot

    def read_packs(self):
        """Each pack has its table; snapshots are where their trees are."""
        for name, pack in self.objects("packs", lambda _, data: Sealed(PACK, self.pack_key, data)):
            self.packs[name] = Pack(pack.salt, len(pack.data), pack.frames)
            for number, frame in enumerate(pack.frames):
                if frame.kind == SNAPSHOT:
                    snapshot = Snapshot(pack.frame(number))
                    self.snapshots[snapshot.id] = snapshot

    @functools.lru_cache(maxsize=16)  # neighbours share frames
    def frame(self, name, number):
        pack = self.packs[name]
        frame = pack.frames[number]
        with open(os.path.join(self.path, "packs", name), "rb") as file:
            file.seek(frame.offset)
            sealed = file.read(frame.size)
        key = hkdf(self.pack_key, pack.salt, b"nfreeze object")
        return open_frame(key, number, sealed, PACK + bytes(4))

    def chunk(self, chunk):
        if chunk not in self.chunks:
            raise Damaged("chunk %s is in no pack" % chunk.hex())
        name, number, start, size = self.chunks[chunk]
        data = self.frame(name, number)[start:start + size]
        if hmac.digest(self.id_key, data, "sha256")[:16] != chunk:
            raise Damaged("chunk %s is not what its id says" % chunk.hex())
        return data

    def entries(self, snapshot):
        """What a snapshot's tree consists of, in walk order."""
        tree, entry, more = Cursor(b"".join(map(self.chunk, snapshot.list))), None, False
        while tree.more():
            chunk, path = tree.bytes(16), tree.string()
            try:
                cursor, before = Cursor(self.chunk(chunk)), None
            except Damaged as error:
                warn("what begins with %s is missing: %s" % (text(path), error))
                continue
            while cursor.more():
                flags, cut = cursor.varint(), cursor.varint()
                path = path[:max(0, len(path) - cut)] + cursor.string()
                if flags & CONTINUATION:
                    chunks = cursor.ids()
                    if entry and entry.path == path:
                        entry.chunks += chunks
                    more = flags & CONTINUED
                    continue
                if more:
                    warn("%s: the rest of it is missing" % text(entry.path))
                if entry:
                    yield entry
                entry = before = Entry(flags, path, cursor, before)
                more = flags & CONTINUED
        if more:
            warn("%s: the rest of it is missing" % text(entry.path))
        if entry:
            yield entry

    def check(self):
        """Every pack as a whole, each frame and chunk in it; then, that no tree lacks a chunk."""
        for name in self.packs.keys() - self.there:
            warn("packs/%s is missing" % name)
        for name, pack in self.objects("packs", lambda _, data: Sealed(PACK, self.pack_key, data)):
            known = self.packs.get(name)
            if known and (known.salt, known.size, known.frames) != (
                    pack.salt, len(pack.data), pack.frames):
                warn("packs/%s is not as the index has it" % name)
            for number, frame in enumerate(pack.frames):
                cursor = Cursor(pack.frame(number))
                for chunk, size in zip(frame.ids, frame.lengths):
                    if hmac.digest(self.id_key, cursor.bytes(size), "sha256")[:16] != chunk:
                        warn("packs/%s: chunk %s is not what its id says" % (name, chunk.hex()))
        for snapshot in self.snapshots.values():
            for entry in self.entries(snapshot) if not snapshot.forgotten else ():
                if not self.chunks.keys() >= set(entry.chunks):
                    warn("%s: %s: chunks are missing" % (snapshot.id.hex(), text(entry.path)))


# ---- Trees ---------------------------------------------------------------------------------------

FILE, DIRECTORY, SYMLINK, FIFO, CHARACTER, BLOCK = range(6)
TYPE_BITS = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK
ATTRIBUTES, LINKED, HOLES, CONTINUED, CONTINUATION = 32, 64, 128, 256, 512


class Entry:
    def __init__(self, flags, path, cursor, before):
        self.path, self.type = path, flags & 7
        # Only the source itself has the path "".
        if self.type > BLOCK or b"\0" in path or path and {b"", b".", b".."} & set(path.split(b"/")):
            raise Damaged("an impossible entry: " + text(path))
        self.mode, self.uid, self.gid = (cursor.varint() for _ in range(3))
        # Differences are modulo 2^64.
        self.seconds = cursor.svarint() + (before.seconds if before else 0) + 2**63 & 2**64 - 1
        self.seconds -= 2**63
        self.nanoseconds = cursor.svarint() + (before.nanoseconds if before else 0)
        cursor.svarint(), cursor.svarint()  # ctime less mtime, which no restore can set
        self.inode = cursor.svarint() + (before.inode if before else 0) & 2**64 - 1
        # Names with the same inode on the same file system are one file.
        self.link = (cursor.varint(), self.inode) if flags & LINKED else None
        self.attributes = (cursor.several(lambda: (cursor.string(), cursor.string()))
                           if flags & ATTRIBUTES else [])
        self.target = cursor.string() if self.type == SYMLINK else b""
        self.device = cursor.varint() if self.type in (CHARACTER, BLOCK) else 0
        self.size, self.holes, self.chunks, self.checksum = 0, [], [], None
        if self.type == FILE:
            self.size = cursor.varint()
            if flags & HOLES:
                self.holes = cursor.several(lambda: (cursor.varint(), cursor.varint()))
            self.chunks = cursor.ids()
            if len(self.chunks) > 1:
                self.checksum = cursor.fixed(8)

    def line(self, snapshot):
        return "%s %-8s %-8s %12d %s %s" % (
            stat.filemode(TYPE_BITS[self.type] | self.mode),
            text(snapshot.users.get(self.uid, b"")) or self.uid,
            text(snapshot.groups.get(self.gid, b"")) or self.gid, self.size,
            local_time(self.seconds),
            (text(self.path) or ".") + (" -> " + text(self.target) if self.target else ""))

    def is_wanted(self, paths):
        """Below a path that is asked for, or a directory above one."""
        return not paths or any(
            (self.path + b"/").startswith(path + b"/") or self.type == DIRECTORY
            and (not self.path or path.startswith(self.path + b"/")) for path in paths)


class Restore:
    def __init__(self, repository, destination):
        os.mkdir(destination, 0o700)  # a new one: nothing is ever replaced
        self.root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
        self.repository, self.links, self.directories = repository, {}, []
        self.opened = [([], self.root), ([], self.root)]

    def place(self, path, slot=0):
        """Where an entry goes: a name in a directory that is reached without following a link."""
        *above, name = path.split(b"/")
        known, directory = self.opened[slot]
        if above != known:
            if directory != self.root:
                os.close(directory)
            self.opened[slot], directory = ([], self.root), os.dup(self.root)
            for part in above:
                outer = directory
                try:
                    directory = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
                finally:
                    os.close(outer)
            self.opened[slot] = above, directory
        return b"/proc/self/fd/%d/%s" % (directory, name or b".")

    def all(self, entries):
        for entry in entries:
            self.attempt(entry, self.make, entry)
        for entry in reversed(self.directories):  # what is put into one changes its time
            self.set_metadata(entry)

    @staticmethod
    def attempt(entry, function, *arguments, **options):
        try:
            function(*arguments, **options)
        except (Damaged, OSError) as error:
            warn("%s: %s: %s" % (text(entry.path), function.__name__, error))

    def make(self, entry):
        place = self.place(entry.path)
        if entry.link in self.links:
            return os.link(self.place(self.links[entry.link], 1), place, follow_symlinks=False)
        if entry.type == DIRECTORY:
            if entry.path:
                os.mkdir(place, 0o700)
            return self.directories.append(entry)
        if entry.type == FILE:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    self.fill(file, entry)
            except (Damaged, OSError):
                os.unlink(place)
                raise
        elif entry.type == SYMLINK:
            os.symlink(entry.target, place)
        else:
            os.mknod(place, TYPE_BITS[entry.type] | 0o600, entry.device)
        self.set_metadata(entry)
        if entry.link:
            self.links[entry.link] = entry.path

    def fill(self, file, entry):
        """The chunks are the content without its holes."""
        ranges, at = [], 0
        for distance, length in entry.holes:
            ranges.append((at, distance))
            at += distance + length
        ranges.append((at, entry.size - at))
        ranges = [(start, length) for start, length in reversed(ranges) if length]
        checksum = xxh3_64() if xxh3_64 else None
        for chunk in entry.chunks:
            data = self.repository.chunk(chunk)
            if checksum:
                checksum.update(data)
            while data:
                if not ranges:
                    raise Damaged("the content is longer than the file")
                start, length = ranges.pop()
                file.seek(start)
                file.write(data[:length])
                if length > len(data):
                    ranges.append((start + len(data), length - len(data)))
                data = data[length:]
        if ranges:
            raise Damaged("the content is shorter than the file")
        if checksum and entry.checksum not in (None, checksum.intdigest()):
            raise Damaged("the content has another checksum")
        file.truncate(entry.size)

    def set_metadata(self, entry):
        """The owner first: changing it takes away what is set after it."""
        place = self.place(entry.path)
        if os.geteuid() == 0:
            self.attempt(entry, os.chown, place, entry.uid, entry.gid, follow_symlinks=False)
        for name, value in entry.attributes:  # while we may write
            self.attempt(entry, os.setxattr, place, name, value, follow_symlinks=False)
        if entry.type != SYMLINK:
            self.attempt(entry, os.chmod, place, entry.mode)
        time = entry.seconds * 10**9 + entry.nanoseconds
        self.attempt(entry, os.utime, place, ns=(time, time), follow_symlinks=False)


# ---- Command line --------------------------------------------------------------------------------

def choose(snapshots, prefix):
    found = [snapshot for snapshot in snapshots if snapshot.id.hex().startswith(prefix or "")
             and (prefix or not snapshot.forgotten)]
    if not found or prefix and len(found) > 1:
        raise Damaged("%d snapshots match" % len(found))
    return found[-1]


def show(lines):
    for line in lines:
        print(line)


def run(arguments):
    passphrase = os.environb.get(b"NFREEZE_PASSWORD") or os.fsencode(getpass.getpass("passphrase: "))
    repository = Repository(arguments.repository, passphrase, arguments.without_index)
    snapshots = sorted(repository.snapshots.values(), key=lambda snapshot: snapshot.time)
    if arguments.verb == "check":
        return repository.check()
    if arguments.verb == "snapshots":
        return show(snapshots)
    snapshot = choose(snapshots, arguments.snapshot)
    paths = [os.fsencode(path).strip(b"/") for path in arguments.path]
    entries = (entry for entry in repository.entries(snapshot) if entry.is_wanted(paths))
    if arguments.verb == "ls":
        return show(entry.line(snapshot) for entry in entries)
    if not xxh3_64:
        print("no python3-xxhash: checksums of whole files are not compared", file=sys.stderr)
    return Restore(repository, arguments.destination).all(entries)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["snapshots", "ls", "restore", "check"])
    parser.add_argument("repository", help="a local directory")
    parser.add_argument("destination", nargs="?", help="for restore: a directory, which is made")
    parser.add_argument("--snapshot", metavar="ID", help="this one (its first digits), not the newest")
    parser.add_argument("--path", action="append", default=[], help="only this, and what is below it")
    parser.add_argument("--without-index", action="store_true", help="go by packs/ alone")
    arguments = parser.parse_args()
    if (arguments.destination is not None) != (arguments.verb == "restore"):
        parser.error("restore needs a destination, the others have none")
    try:
        run(arguments)
    except (Damaged, OSError) as error:
        warn(error)
    sys.exit(1 if warn.count else 0)


if __name__ == "__main__":
    main()
