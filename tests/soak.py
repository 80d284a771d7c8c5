#!/usr/bin/env python3
"""Random changes, backups, kills, cut lines, forgets, prunes, checks and restores, compared with a model.

    tests/soak.py MINUTES [--seed N] [--nfreeze build/nfreeze] [--keep]

Two trees are changed at random and backed up into one repository, which is reached as a local directory
or through a real sshd and a proxy that slows and cuts. The model keeps, for each snapshot that was
committed, what the tree held at that moment; every restore must give exactly that. The seed decides
what is done; when a kill strikes, the machine decides as well. Ends with code 1 and all that is needed
to look into it at the first thing that is not as it should be.
"""
import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback


class Wrong(Exception):
    """Something is not as it should be."""


# ---- trees ------------------------------------------------------------------------------------

def manifest(top):
    """All that a restore must bring back, in a form that can be compared: path -> what is there."""
    found, inodes = {}, {}
    def look(path, name):
        st = os.lstat(path)
        what = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns]
        if stat.S_ISREG(st.st_mode):
            with open(path, 'rb') as file:
                what += [st.st_size, hashlib.sha256(file.read()).hexdigest()]
            if st.st_nlink > 1:  # the first of its names stands for the file
                what.append(inodes.setdefault(st.st_ino, name))
        elif stat.S_ISLNK(st.st_mode):
            what[1] = 0
            what.append(os.readlink(path))
        found[name] = tuple(what)
        if stat.S_ISDIR(st.st_mode):
            for entry in sorted(os.listdir(path)):
                look(os.path.join(path, entry), name + b'/' + entry)
    look(top, b'')
    return found


def differences(wanted, got):
    lines = [f'{name!r}: wanted {wanted.get(name)}, got {got.get(name)}'
             for name in sorted(set(wanted) | set(got)) if wanted.get(name) != got.get(name)]
    return '\n'.join(lines[:12] + ([f'and {len(lines) - 12} more'] if len(lines) > 12 else []))


class Tree:
    """A directory that changes at random."""

    def __init__(self, top, rng):
        self.top, self.rng, self.number = top, rng, 0
        os.mkdir(top)
        for _ in range(40):
            self.change()

    def everything(self):
        files, dirs = [], [self.top]
        for base, below, names in os.walk(self.top):
            dirs += [os.path.join(base, d) for d in below if not os.path.islink(os.path.join(base, d))]
            files += [os.path.join(base, n) for n in names]
            files += [os.path.join(base, d) for d in below if os.path.islink(os.path.join(base, d))]
        return sorted(files), sorted(dirs)

    def fresh(self, dirs):
        self.number += 1
        odd = self.rng.choice([b'', b'', b' ', b'\n', b'\xff', '\u00e9'.encode(), b'*[x]', b'\\x41'])
        return os.path.join(self.rng.choice(dirs), b'%d%s' % (self.number, odd))

    def content(self):
        kind = self.rng.randrange(12)
        if kind == 0:
            return b''
        if kind < 5:
            return self.rng.randbytes(self.rng.randrange(1, 3000))
        if kind < 9:
            return b'a line of text %d\n' % self.rng.randrange(5) * self.rng.randrange(1, 3000)
        if kind < 11:
            return self.rng.randbytes(self.rng.randrange(1, 400_000))
        return self.rng.randbytes(self.rng.randrange(1, 3_000_000))

    def write(self, path):
        with open(path, 'wb') as file:
            file.write(self.content())

    def change(self):
        rng = self.rng
        files, dirs = self.everything()
        regular = [f for f in files if stat.S_ISREG(os.lstat(f).st_mode)]
        what = rng.choice(['create'] * 4 + ['modify'] * 3 + ['sneak', 'append', 'rename', 'move', 'delete', 'mkdir', 'rmtree',
                                            'symlink', 'hardlink', 'mode', 'owner', 'touch', 'sparse', 'copy', 'fifo', 'swap'])
        if len(files) > 120:
            what = rng.choice(['delete', 'rmtree'])
        if what == 'create':
            self.write(self.fresh(dirs))
        elif what == 'mkdir':
            os.mkdir(self.fresh(dirs))
        elif what == 'symlink':
            os.symlink(rng.choice([b'nowhere', b'../..', b'/etc', b'x' * 300]), self.fresh(dirs))
        elif what == 'fifo':
            os.mkfifo(self.fresh(dirs))
        elif what == 'sparse':
            with open(self.fresh(dirs), 'wb') as file:
                for _ in range(rng.randrange(4)):
                    file.seek(rng.randrange(8_000_000))
                    file.write(rng.randbytes(rng.randrange(1, 5000)))
                file.truncate(rng.randrange(9_000_000))
        elif what == 'rmtree' and len(dirs) > 3:
            shutil.rmtree(rng.choice(dirs[1:]))
        elif what in ('mode', 'touch') and rng.randrange(3) == 0:
            path = rng.choice(dirs)
            os.chmod(path, rng.choice([0o755, 0o700, 0o1777])) if what == 'mode' else os.utime(path, ns=(0, rng.randrange(2 * 10**18)))
        elif what in ('rename', 'move', 'delete') and files:
            path = rng.choice(files + dirs[1:]) if what != 'delete' else rng.choice(files)
            if what == 'delete':
                os.remove(path)
            else:
                below = [d for d in dirs if d != path and not d.startswith(path + b'/')]
                os.rename(path, self.fresh(below if what == 'move' else [os.path.dirname(path)]))
        elif regular:
            path = rng.choice(regular)
            if what == 'modify':
                self.write(path)
            elif what == 'append':
                with open(path, 'ab') as file:
                    file.write(self.content()[:100_000])
            elif what == 'sneak' and os.path.getsize(path) > 0:  # of the same size, and the time is put back
                before = os.stat(path)
                with open(path, 'r+b') as file:
                    file.seek(rng.randrange(before.st_size))
                    file.write(rng.randbytes(1))
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            elif what == 'hardlink':
                os.link(path, self.fresh(dirs))
            elif what == 'copy':
                shutil.copy2(path, self.fresh(dirs))
            elif what == 'mode':
                os.chmod(path, rng.choice([0o644, 0o600, 0o400, 0o755, 0o4711, 0]))
            elif what == 'owner' and os.geteuid() == 0:
                os.chown(path, rng.randrange(3000), rng.randrange(3000))
            elif what == 'touch':
                os.utime(path, ns=(0, rng.randrange(-10**18, 4 * 10**18)))
            elif what == 'swap':
                other = rng.choice(regular)
                third = self.fresh([self.top])
                os.rename(path, third)
                if other != path:
                    os.rename(other, path)
                    os.rename(third, other)


# ---- a server, and a line to it that is slow and breaks -----------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Server:
    """OpenSSH's server on loopback, with keys of its own."""

    def __init__(self, base):
        self.dir = os.path.join(base, 'sshd')
        os.mkdir(self.dir)
        if os.geteuid() == 0:
            os.makedirs('/run/sshd', exist_ok=True)
        for key in ('host', 'user'):
            subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', f'{self.dir}/{key}'], check=True)
        self.port = free_port()
        with open(f'{self.dir}/config', 'w') as file:
            file.write(f'Port {self.port}\nListenAddress 127.0.0.1\nPidFile none\nHostKey {self.dir}/host\nStrictModes no\nUsePAM no\n'
                       f'PermitRootLogin yes\nAuthorizedKeysFile {self.dir}/user.pub\nMaxStartups 100\nSubsystem sftp internal-sftp\n')
        self.log = open(f'{self.dir}/log', 'wb')
        self.process = subprocess.Popen([shutil.which('sshd') or '/usr/sbin/sshd', '-D', '-e', '-f', f'{self.dir}/config'],
                                        stderr=self.log, start_new_session=True)
        for _ in range(500):
            try:
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit('sshd does not start; see ' + self.dir)

    def known_hosts(self, port):
        with open(f'{self.dir}/host.pub') as file:
            return f'[127.0.0.1]:{port} {file.read()}'

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Proxy:
    """Forwards to a port. Breaks all connections each time when so many more bytes went up."""

    def __init__(self, target):
        self.target, self.rate, self.cut_every, self.up, self.cuts = target, 0, 0, 0, 0
        self.lock, self.pairs = threading.Lock(), []
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=50)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(('127.0.0.1', self.target))
            except OSError:
                client.close()
                continue
            with self.lock:
                self.pairs.append((client, server))
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.forward, args=pair, daemon=True).start()

    def forward(self, source, sink, up):
        try:
            while data := source.recv(32768):
                if up and self.counts(len(data)):
                    sink.sendall(data[:len(data) // 2])
                    self.cut()
                    return
                if up and self.rate:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def counts(self, size):
        with self.lock:
            self.up += size
            if not self.cut_every or self.up < self.cut_every:
                return False
            self.up = 0
            return True

    def cut(self):
        with self.lock:
            self.cuts += 1
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                    s.close()
                except OSError:
                    pass


# ---- what is done --------------------------------------------------------------------------------

class Soak:
    def __init__(self, base, nfreeze, rng):
        self.rng, self.nfreeze, self.base = rng, nfreeze, base
        self.repo, self.dest = f'{base}/server/repo', f'{base}/dest'
        os.makedirs(f'{base}/server')
        os.makedirs(f'{base}/home/.ssh', 0o700)
        self.server = Server(base)
        self.proxy = Proxy(self.server.port)
        shutil.copy(f'{base}/sshd/user', f'{base}/home/.ssh/id_ed25519')
        with open(f'{base}/home/.ssh/known_hosts', 'w') as file:
            file.write(self.server.known_hosts(self.proxy.port))
        self.env = {'HOME': f'{base}/home', 'PATH': os.environ['PATH'], 'NFREEZE_PASSWORD': 'soak', 'NFREEZE_SCRYPT_LOGN': '15',
                    'NFREEZE_CHECKPOINT_SECONDS': '1', 'TZ': 'UTC'}
        self.env.update({k: v for k, v in os.environ.items() if k.endswith('SAN_OPTIONS')})
        user = subprocess.run(['id', '-un'], check=True, capture_output=True, text=True).stdout.strip()
        self.remote = f'sftp://{user}@127.0.0.1:{self.proxy.port}/{self.repo}'
        self.trees = [Tree(os.fsencode(f'{base}/tree{n}'), rng) for n in range(2)]
        self.live = {}        # id -> manifest, of all snapshots that are listed
        self.forgotten = {}   # those that nothing was deleted of yet
        self.whole = True     # no run was interrupted since the last backup that ended well
        self.counts = collections.Counter()
        self.faults = collections.Counter()
        self.history = []
        self.lasts = 0.3      # seconds, about, of a backup
        self.ok(['init', self.repo])

    # ---- runs

    def start(self, arguments):
        self.history.append(' '.join(arguments))
        return subprocess.Popen([self.nfreeze, *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)

    def end(self, process, arguments, limit=300):
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Wrong(f'{arguments} takes longer than {limit} s\n{out.decode()}{err.decode()}')
        self.history.append(f'   -> {process.returncode}')
        return process.returncode, out.decode(), err.decode()

    def ok(self, arguments, codes=(0,)):
        code, out, err = self.end(self.start(arguments), arguments)
        if code not in codes:
            raise Wrong(f'{arguments}: exit code {code}\n{out}{err}')
        return out

    def url(self):
        """The same repository, by one way or the other."""
        self.proxy.rate = self.rng.choice([0, 0, 4_000_000])
        return self.rng.choice([self.repo, self.remote])

    def codes(self):
        """What may be said beside a right result: half a segment of a run that was killed counts as damage until the next backup."""
        return (0,) if self.whole else (0, 5)

    def listed(self):
        out = self.ok(['snapshots', '--json', self.repo], self.codes())
        return {s['id']: s for s in map(json.loads, out.splitlines())}

    def compare_list(self):
        found = set(self.listed())
        if found != set(self.live):
            raise Wrong(f'the list of snapshots lacks {set(self.live) - found} and has {found - set(self.live)} too many')

    def committed(self, tree, code, out, err):
        """What a backup that was let alone has done."""
        if code != 0:
            raise Wrong(f'a backup ended with exit code {code}: {out}{err}')
        snapshot = json.loads(out.splitlines()[-1])['snapshot']
        self.live[snapshot] = manifest(tree.top)
        return snapshot

    def adopt(self, sources):
        """After runs that were killed: what they may have committed is what their trees hold."""
        for id, snapshot in self.listed().items():
            if id not in self.live:
                tree = [t for t in sources if os.fsdecode(t.top) == snapshot['source']]
                if not tree:
                    raise Wrong(f'there is a snapshot {id} that nobody made')
                self.live[id] = manifest(tree[0].top)
                self.counts['committed by a run that was killed'] += 1

    def strike(self, process, how):
        time.sleep(self.rng.random() * self.lasts * 1.3)
        if process.poll() is None:
            self.faults['kill -9' if how == signal.SIGKILL else 'SIGINT'] += 1
            process.send_signal(how)
            self.whole = False

    # ---- actions

    def arguments_of_backup(self, tree, url):
        more = self.rng.choice([[], [], [], ['--checksum'], ['--ignore-inode'], ['--connections', '1']])
        return ['backup', '--json', '--allow-shrink', *more, os.fsdecode(tree.top), url]

    def backup(self):
        tree, begun = self.rng.choice(self.trees), time.monotonic()
        arguments = self.arguments_of_backup(tree, self.url())
        code, out, err = self.end(self.start(arguments), arguments)
        self.committed(tree, code, out, err)
        self.lasts = 0.7 * self.lasts + 0.3 * (time.monotonic() - begun)
        self.whole = True

    def killed_backup(self):
        tree = self.rng.choice(self.trees)
        arguments = self.arguments_of_backup(tree, self.url())
        process = self.start(arguments)
        self.strike(process, self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
        code, _, err = self.end(process, arguments)
        if code not in (0, 130, -9):
            raise Wrong(f'{arguments}: exit code {code}\n{err}')
        self.adopt([tree])

    def cut_backup(self):
        """The line breaks again and again, and the backup comes to its end all the same."""
        tree = self.rng.choice(self.trees)
        self.url()
        arguments = self.arguments_of_backup(tree, self.remote)
        before = self.proxy.cuts
        self.proxy.up = 0
        # Rarer each time, so that it does end: what a connection costs to set up goes through as well.
        self.proxy.cut_every = self.rng.randrange(20_000, 1_000_000)
        process = self.start(arguments)
        while process.poll() is None:
            if self.proxy.cuts - before >= 6:
                self.proxy.cut_every = 0
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
        self.proxy.cut_every = 0
        cuts = self.proxy.cuts - before
        self.faults['cuts'] += cuts
        code, out, err = self.end(process, arguments)
        if code == 6 and cuts:  # nobody answered the first time: that is said at once
            self.counts['not connected'] += 1
            self.whole = False
            self.adopt([tree])
            return
        self.committed(tree, code, out, err)
        self.whole = True

    def two_backups(self):
        arguments = [self.arguments_of_backup(t, self.url()) for t in self.trees]
        processes = [self.start(a) for a in arguments]
        victim = self.rng.choice([None, 0, 1])
        if victim is not None:
            self.strike(processes[victim], signal.SIGKILL)
        for n, (process, a) in enumerate(zip(processes, arguments)):
            code, out, err = self.end(process, a)
            if n != victim or code == 0:
                self.committed(self.trees[n], code, out, err)
            elif code != -9:
                raise Wrong(f'{a}: exit code {code}\n{err}')
        self.adopt(self.trees)

    def forget(self):
        if len(self.live) < 3:
            return
        ids = self.rng.sample(sorted(self.live), self.rng.randrange(1, len(self.live) // 2 + 1))
        self.ok(['forget', '--yes', self.url(), *ids], self.codes())
        for id in ids:
            self.forgotten[id] = self.live.pop(id)

    def undo(self):
        if not self.forgotten:
            return
        id = self.rng.choice(sorted(self.forgotten))
        self.ok(['forget', '--undo', '--yes', self.url(), id], self.codes())
        fresh = set(self.listed()) - set(self.live)  # it comes back under another id
        if len(fresh) != 1:
            raise Wrong(f'{id} was taken back, and new in the list are {fresh}')
        self.live[fresh.pop()] = self.forgotten.pop(id)

    def age(self):
        """Days pass on the server."""
        for base, _, names in os.walk(self.repo):
            for name in names:
                path = os.path.join(base, name)
                st = os.lstat(path)
                os.utime(path, (st.st_atime, st.st_mtime - self.rng.choice([3600, 86_400, 4 * 86_400])))

    def prune(self):
        url = self.url()
        now = self.rng.randrange(3) == 0
        if self.rng.randrange(2):
            self.age()
        arguments = ['prune', '--yes', *(['--now'] if now else self.rng.choice([[], ['--grace', '1h'], ['--max-unused', '0%']])), url]
        process = self.start(arguments)
        kill = self.rng.randrange(3) == 0
        beside = None
        if kill:
            self.strike(process, signal.SIGKILL)
        elif not now and self.rng.randrange(2):  # a backup beside it
            tree = self.rng.choice(self.trees)
            beside = (tree, self.arguments_of_backup(tree, self.url()))
            backup = self.start(beside[1])
        code, out, err = self.end(process, arguments)
        if code not in ((0, -9) if kill else (0,)):
            if not (self.whole is False and code in (1, 5)):  # what a kill left is settled by a backup
                raise Wrong(f'{arguments}: exit code {code}\n{out}{err}')
            self.counts['prune refused for now'] += 1
        if beside:
            code, out, err = self.end(backup, beside[1])
            self.committed(beside[0], code, out, err)
            self.whole = True
        self.forgotten.clear()  # some of their content may be gone

    def check(self):
        if not self.whole:
            self.backup()
        self.ok(['check', *self.rng.choice([[], ['--read-data'], ['--read-data=20%']]), self.url()])

    def restore(self):
        if not self.live:
            return
        id = self.rng.choice(sorted(self.live))
        arguments = ['restore', '--overwrite', '--delete', '--allow-shrink', '--snapshot', id, self.url(), self.dest]
        if self.rng.randrange(2):
            shutil.rmtree(self.dest, ignore_errors=True)
        if self.rng.randrange(4) == 0:  # killed, then once more
            process = self.start(arguments)
            whole = self.whole
            self.strike(process, signal.SIGKILL)
            self.whole = whole
            self.end(process, arguments)
        codes = self.codes()
        code, out, err = self.end(self.start(arguments), arguments)
        if code not in codes:
            raise Wrong(f'{arguments}: exit code {code}\n{out}{err}')
        if wrong := differences(self.live[id], manifest(os.fsencode(self.dest))):
            raise Wrong(f'{arguments}: not what was backed up\n{wrong}')
        self.counts['snapshots compared'] += 1

    def round(self):
        for tree in self.trees:
            if self.rng.randrange(3):
                for _ in range(self.rng.randrange(1, 15)):
                    tree.change()
        action = self.rng.choice([self.backup] * 4 + [self.killed_backup] * 5 + [self.cut_backup] * 3 + [self.two_backups] * 2 +
                                 [self.forget, self.forget, self.undo, self.prune, self.prune, self.prune, self.check] + [self.restore] * 4)
        self.history.append(f'# {action.__name__}')
        action()
        self.compare_list()
        self.counts[action.__name__] += 1
        self.counts['rounds'] += 1
        if len(self.live) > 25:
            self.forget()

    def finish(self):
        """Everything that should be there, is."""
        self.backup()
        self.ok(['check', '--read-data', self.repo])
        for id in self.live:
            shutil.rmtree(self.dest, ignore_errors=True)
            self.ok(['restore', '--snapshot', id, self.repo, self.dest])
            if wrong := differences(self.live[id], manifest(os.fsencode(self.dest))):
                raise Wrong(f'at the end, {id} is not what was backed up\n{wrong}')
            self.counts['snapshots compared'] += 1

    def figures(self):
        all = {**self.counts, **self.faults}
        return ', '.join(f'{all[name]} {name}' for name in ['rounds'] + sorted(set(all) - {'rounds'}) if name in all)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('minutes', type=float)
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument('--nfreeze', default=os.path.join(os.path.dirname(__file__), '../build/nfreeze'))
    parser.add_argument('--keep', action='store_true', help='leave the directory there')
    args = parser.parse_args()
    base = tempfile.mkdtemp(prefix='nfreeze-soak.', dir=os.environ.get('TMPDIR', '/var/tmp'))
    print(f'seed {args.seed}, in {base}', flush=True)
    soak = Soak(base, os.path.realpath(args.nfreeze), random.Random(args.seed))
    begun = said = time.monotonic()
    failed = None
    try:
        while time.monotonic() - begun < args.minutes * 60:
            soak.round()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f'{int((said - begun) / 60)} min: {soak.figures()}', flush=True)
        soak.finish()
    except Exception as wrong:
        failed = wrong if isinstance(wrong, Wrong) else traceback.format_exc()
    finally:
        soak.server.stop()
    print(f'seed {args.seed}, {(time.monotonic() - begun) / 60:.1f} min: {soak.figures()}')
    if failed:
        print('the last runs:\n' + '\n'.join(soak.history[-25:]))
        print(f'WRONG: {failed}\nwhat is left: {base}')
        return 1
    if not args.keep:
        shutil.rmtree(base)
    print('All was as it should be.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
