#!/usr/bin/env python3
"""An SFTP server (version 3) that can be told to answer as servers do that are not OpenSSH's.

For sshd's Subsystem: it speaks on its standard input and output, and serves what lies on the disk.

    sftp_server.py [SWITCHES]         see sftp_server.py --help
    sftp_server.py @FILE              the same from a file, one to a line, read anew for each session

A rule, --answer WHAT[@PART]=STATUS[*TIMES], answers each request that is WHAT, and whose path has PART in it, by
STATUS (a name of STATUSES, a number, or "end": the session ends there) in place of doing it: the first TIMES
times, or always. WHAT is the name of an operation (open, close, read, write, lstat, fstat, setstat, fsetstat,
opendir, readdir, remove, mkdir, rmdir, realpath, stat, rename, fsync, statvfs, posix-rename; init: before the
first answer), or what it amounts to:

    create, excl, excl-without-trunc  an open with such flags
    open-missing, opendir-missing, mkdir-missing, stat-missing
                                      of something that is not there, or of which what is above is not
    mkdir-existing                    of something that is there
    close-written                     of a file that was opened for writing: it vanishes
    remove-read-only                  of a file that nobody may write to
    second-handle                     an open or opendir while another handle is open

--state DIR keeps the counts of TIMES from session to session, and DIR/log, which has a line for each session
("session") and request ("create /path").
"""
import argparse
import contextlib
import errno
import fcntl
import os
import random
import re
import stat
import struct
import sys
import time

STATUSES = ('ok', 'eof', 'no-such-file', 'permission-denied', 'failure', 'bad-message', 'no-connection', 'connection-lost', 'unsupported',
            'invalid-handle', 'no-such-path', 'exists', 'write-protect', 'no-media', 'no-space', 'quota', 'unknown-principal', 'lock-conflict',
            'dir-not-empty', 'not-a-directory', 'invalid-filename', 'link-loop', 'cannot-delete', 'invalid-parameter')
REQUESTS = {1: 'init', 3: 'open', 4: 'close', 5: 'read', 6: 'write', 7: 'lstat', 8: 'fstat', 9: 'setstat', 10: 'fsetstat', 11: 'opendir',
            12: 'readdir', 13: 'remove', 14: 'mkdir', 15: 'rmdir', 16: 'realpath', 17: 'stat', 18: 'rename', 200: 'extended'}
VERSION, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201
READ, WRITE, APPEND, CREAT, TRUNC, EXCL = 1, 2, 4, 8, 16, 32
ERRORS = {errno.ENOENT: 'no-such-file', errno.ENOTDIR: 'no-such-file', errno.EACCES: 'permission-denied', errno.EPERM: 'permission-denied'}


def number_of(status):
    return STATUSES.index(status) if status in STATUSES else int(status)


def parse():
    # The text above is the manual, its first line too.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars='@')
    parser.add_argument('--answer', action='append', default=[], metavar='RULE', help='see above; may be repeated')
    parser.add_argument('--state', metavar='DIR')
    parser.add_argument('--extensions', default='fsync@openssh.com,posix-rename@openssh.com,statvfs@openssh.com', metavar='NAMES',
                        help='offered; a request for another ends the session')
    parser.add_argument('--short-reads', metavar='N', help='no more than N bytes to a READ; "random": as it falls')
    parser.add_argument('--no-sizes', action='store_true', help='none in listings')
    parser.add_argument('--no-times', action='store_true', help='none in listings')
    parser.add_argument('--late', type=float, default=0, metavar='SECONDS', help='before anything is said')
    parser.add_argument('--slow', type=float, default=0, metavar='SECONDS', help='before each answer')
    parser.add_argument('--junk', default='', metavar='TEXT', help='printed before anything else, as by a login shell')
    parser.add_argument('--most-bytes', type=float, default=float('inf'), metavar='N', help='of content; then the session ends')
    parser.add_argument('--most-requests', type=float, default=float('inf'), metavar='N', help='then the session ends')
    return parser.parse_args()


class End(Exception):
    """The session ends without another word."""


class Refused(Exception):
    """Answered by this status."""


class Body:
    """What is in a packet, taken from its beginning on."""

    def __init__(self, data):
        self.data = data

    def number(self, kind='>I'):
        size = struct.calcsize(kind)
        value, = struct.unpack_from(kind, self.data)
        self.data = self.data[size:]
        return value

    def string(self):
        n = self.number()
        value, self.data = self.data[:n], self.data[n:]
        return value

    def attributes(self):
        flags, found = self.number(), {}
        if flags & 1:
            found['size'] = self.number('>Q')
        if flags & 2:
            found['owner'] = self.number(), self.number()
        if flags & 4:
            found['mode'] = self.number() & 0o7777
        if flags & 8:
            found['times'] = self.number(), self.number()
        return found


def string(value):
    return struct.pack('>I', len(value)) + value


def attributes(st, sizes=True, times=True):
    flags = 2 | 4 | (1 if sizes else 0) | (8 if times else 0)
    out = struct.pack('>I', flags) + (struct.pack('>Q', st.st_size) if sizes else b'') + struct.pack('>III', st.st_uid, st.st_gid, st.st_mode)
    return out + (struct.pack('>II', int(st.st_atime), int(st.st_mtime)) if times else b'')


class Rules:
    """How often each rule may still answer, over all sessions."""

    def __init__(self, rules, state):
        pattern = re.compile(r'([a-z-]+)(?:@([^=]*))?=([a-z0-9-]+)(?:\*(\d+))?')
        self.rules = []
        for number, rule in enumerate(rules):
            matched = pattern.fullmatch(rule)
            if matched is None:
                sys.exit(f'sftp_server.py: not a rule: {rule}')
            what, part, status, times = matched.groups()
            self.rules.append((what, (part or '').encode(), status, times and int(times), number))
        self.state = state

    def look_up(self, kinds, path):
        for what, part, status, times, number in self.rules:
            if what in kinds and part in path and (times is None or self.count(number) <= times):
                return status
        return None

    def count(self, number):
        fd = os.open(os.path.join(self.state, f'rule-{number}'), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with contextlib.closing(os.fdopen(fd, 'r+b')) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b'x')
            file.flush()
            return os.fstat(fd).st_size


class Server:
    def __init__(self, options):
        self.options = options
        self.rules = Rules(options.answer, options.state)
        self.offered = [name.encode() for name in options.extensions.split(',') if name]
        self.handles = {}  # name: (path, descriptor or names still to be listed, whether it is for writing)
        self.last_handle = self.moved = self.requests = 0
        self.random = random.Random(os.getpid())
        self.log_file = options.state and open(os.path.join(options.state, 'log'), 'ab', buffering=0)
        self.log(b'session')

    def log(self, line):
        if self.log_file:
            self.log_file.write(line + b'\n')

    def send(self, kind, body):
        sys.stdout.buffer.write(struct.pack('>IB', len(body) + 1, kind) + body)
        sys.stdout.buffer.flush()

    def status(self, number, status):
        self.send(STATUS, struct.pack('>II', number, number_of(status)) + string(status.encode()) + string(b''))

    def names(self, number, found):
        self.send(NAME, struct.pack('>II', number, len(found)) + b''.join(string(name) + string(b'') + attrs for name, attrs in found))

    def new_handle(self, number, *what):
        self.last_handle += 1
        name = b'%d' % self.last_handle
        self.handles[name] = what
        self.send(HANDLE, struct.pack('>I', number) + string(name))

    def ask_rules(self, kinds, path=b''):
        """Refuses what a rule refuses, before it is done."""
        self.log(kinds[-1].encode() + b' ' + path)
        status = self.rules.look_up(kinds, path)
        if status == 'end':
            raise End
        if status is not None:
            raise Refused(status)

    def count(self, size):
        self.moved += size
        if self.moved > self.options.most_bytes:
            raise End

    # One method for each request: it answers, or leaves it to serve() by an exception, or by returning: OK.

    def do_open(self, number, body):
        path, flags, attrs = body.string(), body.number(), body.attributes()
        there = os.path.lexists(path)
        kinds = ['open'] + ['create'] * bool(flags & CREAT) + ['excl'] * bool(flags & EXCL)
        kinds += ['excl-without-trunc'] * bool(flags & EXCL and not flags & TRUNC)
        kinds += ['open-missing'] * (not there and not flags & CREAT) + ['second-handle'] * bool(self.handles)
        kinds.append("create" if flags & CREAT else "open")
        self.ask_rules(kinds, path)
        mode = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}[flags & (READ | WRITE)]
        for flag, also in ((APPEND, os.O_APPEND), (CREAT, os.O_CREAT), (TRUNC, os.O_TRUNC), (EXCL, os.O_EXCL)):
            mode |= also if flags & flag else 0
        self.new_handle(number, path, os.open(path, mode, attrs.get('mode', 0o666)), bool(flags & WRITE))
        return True

    def do_close(self, number, body):
        path, what, written = self.handles.pop(body.string())
        if isinstance(what, int):
            os.close(what)
        try:
            self.ask_rules(['close', 'close-written' if written else 'close'], path)
        except Refused:
            if written:
                os.unlink(path)
            raise

    def do_read(self, number, body):
        path, fd, _ = self.handles[body.string()]
        offset, length = body.number('>Q'), body.number()
        self.ask_rules(['read'], path)
        most = self.options.short_reads
        most = length if most is None else self.random.randint(1, max(1, length)) if most == 'random' else int(most)
        data = os.pread(fd, min(length, most), offset)
        if not data:
            raise Refused('eof')
        self.count(len(data))
        self.send(DATA, struct.pack('>I', number) + string(data))
        return True

    def do_write(self, number, body):
        path, fd, _ = self.handles[body.string()]
        offset, data = body.number('>Q'), body.string()
        self.ask_rules(['write'], path)
        self.count(len(data))
        os.pwrite(fd, data, offset)

    def answer_stat(self, number, name, look, path):
        self.ask_rules([name] + ['stat-missing'] * (not os.path.lexists(path)) + [name], path)
        self.send(ATTRS, struct.pack('>I', number) + attributes(look(path)))
        return True

    def do_stat(self, number, body):
        return self.answer_stat(number, 'stat', os.stat, body.string())

    def do_lstat(self, number, body):
        return self.answer_stat(number, 'lstat', os.lstat, body.string())

    def do_fstat(self, number, body):
        return self.answer_stat(number, 'fstat', os.stat, self.handles[body.string()][0])

    def change(self, name, path, attrs):
        self.ask_rules([name], path)
        if 'size' in attrs:
            os.truncate(path, attrs['size'])
        if 'mode' in attrs:
            os.chmod(path, attrs['mode'])
        if 'times' in attrs:
            os.utime(path, attrs['times'])

    def do_setstat(self, number, body):
        self.change('setstat', body.string(), body.attributes())

    def do_fsetstat(self, number, body):
        self.change('fsetstat', self.handles[body.string()][0], body.attributes())

    def do_opendir(self, number, body):
        path = body.string()
        kinds = ['opendir-missing'] * (not os.path.lexists(path)) + ['second-handle'] * bool(self.handles)
        self.ask_rules(kinds + ['opendir'], path)
        self.new_handle(number, path, [b'.', b'..'] + os.listdir(path), False)
        return True

    def do_readdir(self, number, body):
        path, names, _ = self.handles[body.string()]
        self.ask_rules(['readdir'], path)
        if not names:
            raise Refused('eof')
        found = []
        for name in names[:100]:
            with contextlib.suppress(FileNotFoundError):
                st = os.lstat(os.path.join(path, name))
                found.append((name, attributes(st, not self.options.no_sizes, not self.options.no_times)))
        del names[:100]
        self.names(number, found)
        return True

    def do_remove(self, number, body):
        path = body.string()
        read_only = os.path.lexists(path) and not os.lstat(path).st_mode & stat.S_IWUSR
        self.ask_rules(['remove-read-only'] * read_only + ['remove'], path)
        os.unlink(path)

    def do_mkdir(self, number, body):
        path, attrs = body.string(), body.attributes()
        kinds = ['mkdir-missing'] * (not os.path.isdir(os.path.dirname(path))) + ['mkdir-existing'] * os.path.lexists(path)
        self.ask_rules(kinds + ['mkdir'], path)
        os.mkdir(path, attrs.get('mode', 0o777))

    def do_rmdir(self, number, body):
        path = body.string()
        self.ask_rules(['rmdir'], path)
        os.rmdir(path)

    def do_realpath(self, number, body):
        path = body.string()
        self.ask_rules(['realpath'], path)
        self.names(number, [(os.path.realpath(path), struct.pack('>I', 0))])
        return True

    def do_rename(self, number, body):
        path, to = body.string(), body.string()
        self.ask_rules(['rename'], path)
        os.link(path, to)  # which does not replace what is there
        os.unlink(path)

    def do_extended(self, number, body):
        name = body.string()
        short = name.split(b'@')[0].decode('ascii')
        path = body.string()
        path = self.handles[path][0] if short == 'fsync' else path
        if name not in self.offered:
            self.log(b'not-offered ' + name)
            raise End
        self.ask_rules([short], path)
        if short == 'fsync':
            return None
        if short == 'posix-rename':
            os.rename(path, body.string())
            return None
        there = os.statvfs(path)
        self.send(EXTENDED_REPLY, struct.pack('>I11Q', number, there.f_bsize, there.f_frsize, there.f_blocks, there.f_bfree, there.f_bavail,
                                              there.f_files, there.f_ffree, there.f_favail, 0, 0, there.f_namemax))
        return True

    def serve(self, kind, body):
        name = REQUESTS.get(kind, 'unknown')
        if name == 'init':
            self.ask_rules(['init'])
            self.send(VERSION, struct.pack('>I', 3) + b''.join(string(name) + string(b'1') for name in self.offered))
            return
        self.requests += 1
        if self.requests > self.options.most_requests:
            raise End
        time.sleep(self.options.slow)
        number = body.number()
        try:
            method = getattr(self, 'do_' + name, None)
            if method is None:
                raise Refused('unsupported')
            if not method(number, body):
                self.status(number, 'ok')
        except Refused as refused:
            self.status(number, str(refused))
        except OSError as error:
            self.status(number, ERRORS.get(error.errno, 'failure'))


def main():
    options = parse()
    sys.stdout.write(options.junk)
    sys.stdout.flush()
    time.sleep(options.late)
    server = Server(options)
    while True:
        head = sys.stdin.buffer.read(5)
        if len(head) < 5:
            return
        length, kind = struct.unpack('>IB', head)
        server.serve(kind, Body(sys.stdin.buffer.read(length - 1)))


if __name__ == '__main__':
    with contextlib.suppress(BrokenPipeError, End):
        main()
