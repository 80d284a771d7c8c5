#!/usr/bin/python3
"""Measures nfreeze and its peers on the same inputs, in turn, over one SSH server.

    tests/bench/bench.py [--quick] [--only a,c] [--rounds 3]        (make bench does this)

A throw-away sshd listens on 127.0.0.1. All traffic goes through a proxy of ours, which adds the
round-trip time and counts bytes and connections. For each workload the programs take turns
(A B A B ...); a program that needs long runs once. What is measured is the client alone: wall time,
processor time (ssh's too, where a program starts one), the largest resident set of any one of its
processes. Afterwards come the figures that nfreeze is to reach. All numbers are left in
build/bench.json, from which plot.py draws.

The exit code is 0 even if a figure is missed: this is a ruler. It is 1 if a run failed.
"""

import argparse
import contextlib
import datetime
import getpass
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PASSPHRASE = "six random words of a benchmark"
MB = 1000 * 1000
MIB = 1 << 20
ONE_WAY_MS = 25  # of the workloads at 50 ms
LONGEST_RUN = 1800  # seconds


class Failure(Exception):
    """Something that makes the run worthless; its text is for the user."""


# ---- Sizes -------------------------------------------------------------------------------------


class Full:
    rounds = 3
    long = 60  # a program that needs more seconds for a row runs once
    a_bytes = 1024 * MIB
    b_files = None  # all
    c_files = None
    g_bytes = 1000 * MB
    g_rows = 1000
    h_files = (100_000, 1_000_000)
    j_bytes = 512 * MIB
    slowest_peers = True
    room = 45_000 * MB  # on the disk


class Quick:
    rounds = 1
    long = 10
    a_bytes = 256 * MIB
    b_files = 10_000
    c_files = 1_000
    g_bytes = 100 * MB
    g_rows = 100
    h_files = (5_000, 50_000)
    j_bytes = 128 * MIB
    slowest_peers = False
    room = 8_000 * MB


# ---- Child processes ---------------------------------------------------------------------------


def run(argv, **options):
    """Runs a helper program; what it printed is returned, and shown only if it fails."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        raise Failure(f"{argv[0]} failed ({done.returncode}): {last_lines(done.stderr)}")
    return done.stdout.decode(errors="replace")


def last_lines(output):
    return output.decode(errors="replace").strip()[-2000:]


def stop(process):
    """Ends a process that leads a group of its own, and the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Proxy:
    """tests/bench/proxy.cpp"""

    def __init__(self, program, target_port):
        self.process = subprocess.Popen(
            [program, str(target_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.port = int(self.process.stdout.readline())

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def counts(self):
        """Waits until all connections have ended: up, down, connections."""
        until = time.monotonic() + 20
        while True:
            up, down, connections, still_open = map(int, self.ask("counts").split())
            if still_open == 0:
                return up, down, connections
            if time.monotonic() > until:
                raise Failure("connections are still open long after the client has ended")
            time.sleep(0.01)

    def close(self):
        stop(self.process)


class Server:
    """An sshd with fresh keys, for the user who runs this, and what its clients need."""

    def __init__(self, work, proxy_program):
        self.work = work
        self.dir = os.path.join(work, "server")
        self.home = os.path.join(work, "home")
        self.ssh_config = os.path.join(work, "ssh_config")
        self.user = getpass.getuser()
        self.made_run_sshd = False
        self.process = self.proxy = None
        os.makedirs(os.path.join(self.home, ".ssh"), mode=0o700)
        os.mkdir(self.dir)
        self.key = os.path.join(self.home, ".ssh", "id_ed25519")
        for key in (self.key, os.path.join(self.dir, "host_key")):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "benchmark", "-f", key])
        self.start_sshd()
        self.proxy = Proxy(proxy_program, self.port)
        self.write_client_files()

    def start_sshd(self):
        if os.getuid() == 0 and not os.path.isdir("/run/sshd"):
            os.mkdir("/run/sshd")  # sshd drops privileges into it
            self.made_run_sshd = True
        sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if not sshd:
            raise Failure("sshd was not found: install openssh-server")
        self.port = free_port()
        config = os.path.join(self.dir, "sshd_config")
        write(config, self.sshd_config())
        with open(os.path.join(self.dir, "sshd.log"), "wb") as log:
            self.process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", config], stderr=log, start_new_session=True
            )
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        raise Failure("sshd did not start")

    def sshd_config(self):
        return (
            f"ListenAddress 127.0.0.1\nPort {self.port}\n"
            f"HostKey {self.dir}/host_key\nAuthorizedKeysFile {self.key}.pub\n"
            "PidFile none\nStrictModes no\nLogLevel ERROR\nPrintMotd no\nMaxStartups 100\n"
            f"UsePAM {self.needs_pam()}\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\n"
            f"SetEnv BORG_BASE_DIR={self.dir}/borg\n"  # of borg serve: nothing in the user's home
        )

    def needs_pam(self):
        """Without PAM sshd lets nobody in whose password is locked, not even with a key."""
        if os.getuid() != 0:
            return "no"
        fields = run(["getent", "shadow", self.user]).split(":")
        return "yes" if fields[1].startswith("!") else "no"

    def write_client_files(self):
        with open(os.path.join(self.dir, "host_key.pub")) as file:
            host_key = " ".join(file.read().split()[:2])
        self.known_hosts = os.path.join(self.home, ".ssh", "known_hosts")
        write(self.known_hosts, f"[127.0.0.1]:{self.proxy.port} {host_key}\n")
        write(
            self.ssh_config,
            f"Host bench\nHostName 127.0.0.1\nPort {self.proxy.port}\nUser {self.user}\n"
            f"IdentityFile {self.key}\nIdentitiesOnly yes\nBatchMode yes\n"
            f"UserKnownHostsFile {self.known_hosts}\n",
        )

    def close(self):
        if self.proxy:
            self.proxy.close()
        if self.process:
            stop(self.process)
        if self.made_run_sshd:
            with contextlib.suppress(OSError):
                os.rmdir("/run/sshd")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


# ---- The programs ------------------------------------------------------------------------------


class Tool:
    """One program with one repository: a fresh directory on the server, and one for the client."""

    name = ""
    shares = None  # the name of the program whose repository this one uses

    def __init__(self, server, directory, nfreeze):
        self.server, self.nfreeze = server, nfreeze
        self.repo = os.path.join(directory, "repo")
        self.client = os.path.join(directory, "client")
        self.archives = 0
        os.makedirs(self.client, exist_ok=True)

    def environment(self):
        """As little of the user's as possible, so that no setting of his changes a number."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": self.server.home,
            "LC_ALL": "C.UTF-8",
            "TMPDIR": self.client,
        } | self.settings()

    def settings(self):
        return {}

    def init(self):
        """A list of commands that make the repository; they are not timed."""
        return []

    def backup(self, source):
        """The command; it runs in the directory of `source`."""
        raise NotImplementedError

    def restore(self, source, dest):
        """The command; it runs in `dest`."""
        raise NotImplementedError

    def restored(self, source, dest):
        return os.path.join(dest, os.path.basename(source))

    def ssh(self):
        return f"ssh -F {self.server.ssh_config}"


class Nfreeze(Tool):
    name = "nfreeze"

    def settings(self):
        return {"NFREEZE_PASSWORD": PASSPHRASE}

    def url(self):
        return f"sftp://{self.server.user}@127.0.0.1:{self.server.proxy.port}/{self.repo}"

    def init(self):
        return [[self.nfreeze, "init", "-q", self.url()]]

    def backup(self, source):
        return [self.nfreeze, "backup", "-q", source, self.url()]

    def restore(self, source, dest):
        return [self.nfreeze, "restore", "-q", self.url(), dest]

    def restore_one(self, path, dest):
        return [self.nfreeze, "restore", "-q", self.url(), dest, path]

    def restored(self, source, dest):
        return dest if os.path.isdir(source) else super().restored(source, dest)

    def look(self):
        """What downloads the index and nothing else."""
        return [self.nfreeze, "snapshots", "-q", self.url()]


class Restic(Tool):
    name = "restic"
    more = []

    def settings(self):
        return {"RESTIC_PASSWORD": PASSPHRASE, "RESTIC_CACHE_DIR": self.client + "/cache"}

    def command(self, *words):
        login = f"sftp.command={self.ssh()} bench -s sftp"
        return ["restic", "-q", "-r", f"sftp:bench:{self.repo}", "-o", login, *self.more, *words]

    def init(self):
        return [self.command("init")]

    def backup(self, source):
        return self.command("backup", os.path.basename(source))

    def restore(self, source, dest):
        return self.command("restore", "latest", "--target", dest)


class ResticNoCache(Restic):
    name = "restic --no-cache"
    shares = "restic"
    more = ["--no-cache"]


class Borg(Tool):
    name = "borg"

    def settings(self):
        return {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": self.client,
            "BORG_RSH": self.ssh(),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }

    def url(self, archive=""):
        return f"ssh://bench{self.repo}" + archive

    def init(self):
        return [["borg", "init", "-e", "repokey", self.url()]]

    def backup(self, source):
        self.archives += 1
        return ["borg", "create", self.url(f"::{self.archives}"), os.path.basename(source)]

    def restore(self, source, dest):
        return ["borg", "extract", self.url(f"::{self.archives}")]


class Rclone(Tool):
    name = "rclone crypt"

    def settings(self):
        return {
            "RCLONE_CONFIG": self.client + "/rclone.conf",  # which is not there
            "RCLONE_CACHE_DIR": self.client,
            "RCLONE_CONFIG_SERVER_TYPE": "sftp",
            "RCLONE_CONFIG_SERVER_HOST": "127.0.0.1",
            "RCLONE_CONFIG_SERVER_PORT": str(self.server.proxy.port),
            "RCLONE_CONFIG_SERVER_USER": self.server.user,
            "RCLONE_CONFIG_SERVER_KEY_FILE": self.server.key,
            "RCLONE_CONFIG_SERVER_KNOWN_HOSTS_FILE": self.server.known_hosts,
            "RCLONE_CONFIG_CRYPT_TYPE": "crypt",
            "RCLONE_CONFIG_CRYPT_REMOTE": "server:" + self.repo,
            "RCLONE_CONFIG_CRYPT_PASSWORD": run(["rclone", "obscure", PASSPHRASE]).strip(),
        }

    def backup(self, source):
        return ["rclone", "-q", "copyto", source, "crypt:" + os.path.basename(source)]

    def restore(self, source, dest):
        target = self.restored(source, dest)
        return ["rclone", "-q", "copyto", "crypt:" + os.path.basename(source), target]


class Sftp(Tool):
    name = "sftp"

    def command(self, line):
        batch = self.client + "/batch"
        write(batch, line + "\n")
        return ["sftp", "-q", "-b", batch, "-F", self.server.ssh_config, "bench"]

    def init(self):
        return [self.command(f"mkdir {self.repo}")]

    def backup(self, source):
        name = os.path.basename(source)
        return self.command(f"put {'-r ' * os.path.isdir(source)}{source} {self.repo}/{name}")

    def restore(self, source, dest):
        name = os.path.basename(source)
        return self.command(f"get {'-r ' * os.path.isdir(source)}{self.repo}/{name} {dest}/{name}")


# ---- Measuring ---------------------------------------------------------------------------------


class Bench:
    """Where things lie, and what was measured: rows[row][program] is a list of samples."""

    def __init__(self, work, server, sizes, options):
        self.work, self.server, self.sizes = work, server, sizes
        self.nfreeze = options.nfreeze
        self.measure = options.build + "/nfreeze_bench_measure"
        self.rows, self.inputs = {}, {}
        spread(work)

    def fresh(self, name):
        """A new directory."""
        return tempfile.mkdtemp(prefix=name.replace(" ", "-") + ".", dir=self.work)

    def make_room(self):
        """Removes the large files of a workload that is over. The small ones stay to the end: where
        many files were deleted lately, ext4 needs ten times as long for new ones."""
        run(["find", self.work, "-type", "f", "-size", "+1024k", "-delete"])
        os.sync()

    def timed(self, argv, environment, cwd, delay_ms):
        """Runs a client and measures it. measure.cpp starts it: Python's own size would be the
        least that a child of it can show."""
        proxy, figures = self.server.proxy, os.path.join(self.work, "measured")
        os.sync()
        proxy.ask(f"delay {delay_ms}")
        proxy.ask("reset")
        process = subprocess.Popen(
            [self.measure, figures, *argv],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output = finished(process, argv)
        up, down, connections = proxy.counts()
        if process.returncode != 0:
            raise Failure(f"{' '.join(argv)} failed ({process.returncode}): {last_lines(output)}")
        with open(figures) as file:
            wall, cpu, resident = map(float, file.read().split())
        return {
            "wall": wall,
            "cpu": cpu,
            "memory": resident * 1024,
            "up": up,
            "down": down,
            "connections": connections,
        }


def spread(directory):
    """Asks ext4 to put the directories in this one far apart on the disk, by a hash of their names,
    so that none gets the place of files deleted lately. Other file systems do not know the flag."""
    subprocess.run(["chattr", "+T", directory], stderr=subprocess.DEVNULL, check=False)


def finished(process, argv):
    try:
        return process.communicate(timeout=LONGEST_RUN)[0]
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(argv)} took more than {LONGEST_RUN} s") from None
    finally:
        if process.returncode is None:
            stop(process)


class Workload:
    """The rows about one input. Each program has a repository for each round."""

    def __init__(self, bench, source, delay_ms=0):
        self.bench, self.source, self.delay_ms = bench, source, delay_ms
        self.tools, self.checked = {}, set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bench.make_room()

    def in_turn(self, row, tools, action):
        """action(tool) gives a sample, or None if there is nothing to measure."""
        samples = self.bench.rows.setdefault(row, {})
        for number in range(self.bench.sizes.rounds):
            for tool in tools:
                have = samples.setdefault(tool.name, [])
                if have and have[0]["wall"] > self.bench.sizes.long:
                    continue
                sample = action(tool, number)
                if sample:
                    have.append(sample)
        for tool in tools:
            print(line_of(row, tool.name, samples[tool.name]), flush=True)

    def run(self, tool, argv, cwd):
        return self.bench.timed(argv, tool.environment(), cwd, self.delay_ms)

    def back_up(self, tool):
        warm(self.source)
        argv = tool.backup(self.source)
        sample = self.run(tool, argv, os.path.dirname(self.source))
        return sample | {"stored": bytes_below(tool.repo)}

    def make(self, kind, number):
        tool = kind(self.bench.server, self.bench.fresh(kind.name), self.bench.nfreeze)
        self.bench.server.proxy.ask("delay 0")
        for argv in tool.init():
            run(argv, env=tool.environment(), stdin=subprocess.DEVNULL)
        self.tools[kind.name, number] = tool
        return tool

    def existing(self, kind, number):
        """The program's repository of this round. None: it was too slow to make one in it."""
        tool = self.tools.get((kind.shares or kind.name, number))
        if tool and kind.shares:
            tool = kind(self.bench.server, os.path.dirname(tool.repo), self.bench.nfreeze)
        return tool

    def first(self, row, kinds):
        self.in_turn(row, kinds, lambda kind, number: self.back_up(self.make(kind, number)))

    def again(self, row, kinds):
        def action(kind, number):
            tool = self.existing(kind, number)
            return tool and self.back_up(tool)

        self.in_turn(row, kinds, action)

    def restore(self, row, kinds):
        def action(kind, number):
            tool = self.existing(kind, number)
            return tool and self.restore_whole(tool)

        self.in_turn(row, kinds, action)

    def restore_one(self, row, kinds, path):
        """One file of the tree, by its path in it."""

        def action(kind, number):
            tool = self.existing(kind, number)
            return tool and self.restore_one_file(tool, path)

        self.in_turn(row, kinds, action)

    def look(self, row, kinds):
        def action(kind, number):
            tool = self.existing(kind, number)
            return tool and self.run(tool, tool.look(), self.bench.fresh("looked"))

        self.in_turn(row, kinds, action)

    def destination(self, tool):
        """A fresh directory; and the repository is in the server's memory, whoever it is."""
        warm(tool.repo)
        return self.bench.fresh("restored")

    def restore_one_file(self, tool, path):
        dest = self.destination(tool)
        sample = self.run(tool, tool.restore_one(path, dest), dest)
        run(["cmp", os.path.join(self.source, path), os.path.join(dest, path)])
        return sample

    def restore_whole(self, tool):
        dest = self.destination(tool)
        sample = self.run(tool, tool.restore(self.source, dest), dest)
        if tool.name not in self.checked:  # a wrong result must not be a fast one
            run(["diff", "-rq", "--no-dereference", self.source, tool.restored(self.source, dest)])
            self.checked.add(tool.name)
        return sample


def warm(path):
    """Reads all of it once, so that everybody finds it in memory."""
    run(["find", path, "-type", "f", "-exec", "sh", "-c", 'cat "$@" >/dev/null', "sh", "{}", "+"])


def bytes_below(path):
    return sum(
        os.lstat(os.path.join(directory, name)).st_size
        for directory, _, names in os.walk(path)
        for name in names
    )


def remove(path):
    if os.path.lexists(path):
        run(["chmod", "-R", "u+rwX", path])  # copied trees can hold read-only directories
        run(["rm", "-rf", path])


# ---- Inputs ------------------------------------------------------------------------------------


def random_file(bench, name, size):
    path = os.path.join(bench.fresh(name), "random")
    with open(path, "wb") as file:
        for done in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - done)))
    bench.inputs[name] = f"{size / MIB:.0f} MiB of random bytes"
    return path


def copied_tree(bench, name, origin, most):
    """A copy of a tree, or of so many of its files, evenly chosen."""
    path = os.path.join(bench.fresh(name), os.path.basename(origin))
    os.mkdir(path)
    if most is None:
        run(["cp", "-a", origin + "/.", path])
    else:
        names = sorted(files_below(origin))
        chosen = [names[len(names) * i // most] for i in range(min(most, len(names)))]
        run(
            ["sh", "-c", 'tar -C "$1" --null -T - -cf - | tar -C "$2" -xf -', "sh", origin, path],
            input="\0".join(chosen).encode(errors="surrogateescape"),
        )
    files = len(files_below(path))
    bench.inputs[name] = f"{files:,} files of {origin}, {bytes_below(path) / MB:.0f} MB"
    return path


def files_below(path):
    """All that is not a directory, as paths below it."""
    return [
        os.path.relpath(os.path.join(directory, name), path)
        for directory, _, names in os.walk(path)
        for name in names
    ]


def small_files(bench, name, count):
    """So many files of up to 200 bytes, 1,000 to a directory."""
    path = os.path.join(bench.fresh(name), "small")
    chance = random.Random(count)
    text = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz      \n", k=MIB)).encode()
    for first in range(0, count, 1000):
        directory = os.path.join(path, f"{first // 1000:04}")
        os.makedirs(directory)
        for number in range(first, min(first + 1000, count)):
            begin, size = chance.randrange(MIB - 200), chance.randrange(201)
            file = os.open(f"{directory}/{number:07}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(file, text[begin : begin + size])
            os.close(file)
    bench.inputs[name] = f"{count:,} files, {bytes_below(path) / MB:.0f} MB"
    return path


FIRST_NAMES = "Ada Ben Cleo Dora Emil Fay Gus Hana Ida Jon Kim Lea Max Nia Otto Pia".split()
LAST_NAMES = "Adler Brown Costa Dubois Evans Fischer Garcia Haas Ito Jensen Kowalski Lopez".split()
STATES = "new paid packed shipped delivered delivered delivered returned".split()
NOTES = ["", "", "", "please ring twice", "gift wrap, no invoice", "leave it at the door", "urgent"]


def sql_row(number, version):
    """A row of a dump: some of it repeats, some counts up, some is random."""
    chance = hashlib.blake2b(b"%d %d" % (number, version), digest_size=16).digest()
    first = FIRST_NAMES[chance[0] % len(FIRST_NAMES)]
    last = LAST_NAMES[chance[1] % len(LAST_NAMES)]
    customer = chance[2] << 8 | chance[3]
    ordered = datetime.datetime(2020, 1, 1) + number * datetime.timedelta(seconds=17)
    return (
        f"INSERT INTO orders VALUES ({number},{customer},'{first} {last}',"
        f"'{first.lower()}.{last.lower()}{customer}@example.org','{ordered}',"
        f"{chance[4] << 8 | chance[5]}.{chance[6] % 100:02},'{STATES[chance[7] % len(STATES)]}',"
        f"'{NOTES[chance[8] % len(NOTES)]}','{chance[9:].hex()}');\n"
    )


def sql_dump(bench, name, size):
    """The file, and how many rows it has."""
    path = os.path.join(bench.fresh(name), "dump.sql")
    rows = 0
    with open(path, "w") as file:
        while file.tell() < size:
            file.write("".join(sql_row(rows + i, 0) for i in range(1000)))
            rows += 1000
    bench.inputs[name] = f"a dump of {rows:,} rows, {os.path.getsize(path) / MB:.0f} MB"
    return path, rows


def change_rows(path, changed):
    """As a new dump of a changed table would be: everything is written again."""
    with open(path) as old, open(path + ".new", "w") as new:
        for number, row in enumerate(old):
            new.write(sql_row(number, 1) if number in changed else row)
    os.replace(path + ".new", path)
    settle()


def change_files(path, part):
    """Adds a line to some of the files."""
    files = [os.path.join(path, name) for name in sorted(files_below(path))]
    regular = [file for file in files if os.path.isfile(file) and not os.path.islink(file)]
    for file in random.Random(1).sample(regular, max(1, int(len(regular) * part))):
        with open(file, "ab") as changed:
            changed.write(b"A line that was not here before.\n")
    settle()


def rename_largest(path):
    """Renames the directory in `path` that has most bytes."""
    directories = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    largest = max(directories, key=bytes_below)
    os.rename(largest, largest + "-renamed")
    settle()


def settle():
    """A file younger than two seconds may be read again by any program that is careful."""
    time.sleep(2.5)


# ---- Workloads ---------------------------------------------------------------------------------


def workload_a(bench, _):
    source = random_file(bench, "a", bench.sizes.a_bytes)
    with Workload(bench, source) as work:
        work.first("(a) first", [Nfreeze, Sftp, Restic, Borg, Rclone])
        work.restore("(a) restore", [Nfreeze, Sftp, Restic])


def workload_b(bench, letters):
    source = copied_tree(bench, "b", "/usr/share", bench.sizes.b_files)
    with Workload(bench, source) as work:
        peers = [Restic, Borg, Sftp] if "b" in letters else [Restic]
        work.first("(b) first", [Nfreeze, *peers])
        if "d" in letters:
            work.again("(d) unchanged", [Nfreeze, Restic])
        if "b" in letters:
            work.restore("(b) restore", [Nfreeze, Restic])
        if "e" in letters:
            change_files(source, 0.01)
            work.again("(e) 1 % changed", [Nfreeze, Restic])
        if "f" in letters:
            rename_largest(source)
            work.again("(f) renamed", [Nfreeze, Restic])


def workload_c(bench, _):
    source = copied_tree(bench, "c", "/usr/include", bench.sizes.c_files)
    no_cache = [ResticNoCache] if bench.sizes.slowest_peers else []
    with Workload(bench, source, ONE_WAY_MS) as work:
        work.first("(c) first", [Nfreeze, Restic, Borg])
        work.again("(c) unchanged", [Nfreeze, Borg, Restic, *no_cache])
        work.restore("(c) restore", [Nfreeze, Borg, *no_cache])


def workload_g(bench, _):
    source, rows = sql_dump(bench, "g", bench.sizes.g_bytes)
    count = bench.sizes.g_rows
    with Workload(bench, source) as work:
        work.first("(g) first", [Nfreeze, Restic])
        change_rows(source, range(rows // 2, rows // 2 + count))
        work.again("(g) cluster", [Nfreeze, Restic])
        change_rows(source, set(random.Random(2).sample(range(rows), count)))
        work.again("(g) scattered", [Nfreeze, Restic])


def workload_h(bench, _):
    fewer, more = bench.sizes.h_files
    for count in (fewer, more):
        source = small_files(bench, f"h {count}", count)
        with Workload(bench, source) as work:
            peers = [Restic] if bench.sizes.slowest_peers and count == fewer else []
            work.first(h_row("first", count), [Nfreeze, *peers])
            work.again(h_row("unchanged", count), [Nfreeze, *peers])
            if count == more:
                work.delay_ms = ONE_WAY_MS
                work.look("(h) index", [Nfreeze])
                work.restore_one("(h) one file", [Nfreeze], f"{count // 2000:04}/{count // 2:07}")


def h_row(what, count):
    return f"(h) {what}, {count:,}"


def workload_j(bench, _):
    source = random_file(bench, "j", bench.sizes.j_bytes)
    with Workload(bench, source, ONE_WAY_MS) as work:
        work.first("(j) up", [Nfreeze, Sftp])
        work.restore("(j) down", [Nfreeze, Sftp])


WORKLOADS = {
    "a": workload_a,
    "bdef": workload_b,
    "c": workload_c,
    "g": workload_g,
    "h": workload_h,
    "j": workload_j,
}


# ---- Figures -----------------------------------------------------------------------------------

# row, what, peer, bound: nfreeze's median is to be at most so many times the peer's.
RATIOS = [
    ("(a) first", "wall", "sftp", 1.0),
    ("(a) first", "wall", "restic", 1.0),
    ("(a) first", "wall", "borg", 1.0),
    ("(a) first", "wall", "rclone crypt", 1.0),
    ("(a) restore", "wall", "sftp", 1.0),
    ("(b) first", "wall", "restic", 0.3),
    ("(b) first", "wall", "sftp", 0.08),
    ("(b) first", "stored", "restic", 0.9),
    ("(d) unchanged", "wall", "restic", 0.4),
    ("(b) restore", "wall", "restic", 0.35),
    ("(c) first", "wall", "restic", 0.2),
    ("(c) first", "wall", "borg", 1.0),
    ("(c) unchanged", "wall", "restic --no-cache", 0.03),
    ("(c) unchanged", "wall", "borg", 1.0),
    ("(c) restore", "wall", "restic --no-cache", 0.03),
    ("(c) restore", "wall", "borg", 1.0),
    ("(e) 1 % changed", "up", "restic", 1.0),
    ("(e) 1 % changed", "wall", "restic", 1.0),
    ("(f) renamed", "up", "restic", 1.0),
    ("(f) renamed", "wall", "restic", 1.0),
    ("(g) cluster", "up", "restic", 1.0),
    ("(g) cluster", "wall", "restic", 1.0),
    ("(g) scattered", "up", "restic", 1.0),
    ("(g) scattered", "wall", "restic", 1.0),
    ("(j) up", "wall", "sftp", 0.4),
    ("(j) down", "wall", "sftp", 0.4),
]


def median(samples, what):
    return statistics.median(sample[what] for sample in samples)


def ratio(rows, row, what, peer, bound):
    """None if it was not measured. Ratios of the rounds lie around the ratio of the medians."""
    ours, theirs = (rows.get(row, {}).get(name) for name in ("nfreeze", peer))
    if not ours or not theirs:
        return None
    pairs = [
        ours[min(i, len(ours) - 1)][what] / theirs[min(i, len(theirs) - 1)][what]
        for i in range(max(len(ours), len(theirs)))
    ]
    value = median(ours, what) / median(theirs, what)
    text = f"{value:.3f} ({min(pairs):.3f} .. {max(pairs):.3f})"
    return figure(f"{row}: {what}, x {peer}", value, bound, text)


def figure(name, value, bound, text):
    return {"name": name, "value": value, "bound": bound, "text": text, "ok": value <= bound}


def absolute(name, value, bound, digits):
    return figure(name, value, bound, f"{value:.{digits}f}")


def memory_of(rows, row):
    value = max(sample["memory"] for sample in rows[row]["nfreeze"]) / MB
    bound = 300 if row.startswith("(h)") else 200
    return absolute(f"{row}: peak memory, MB", value, bound, 0)


def small_file_figures(rows, counts):
    fewer, more = counts
    if h_row("first", more) not in rows:
        return []
    found = []
    for what in ("first", "unchanged"):
        found.append(growth(rows, what, fewer, more))
    for count in counts:
        down = median(rows[h_row("unchanged", count)]["nfreeze"], "down")
        found.append(absolute(f"{h_row('unchanged', count)}: bytes down/file", down / count, 72, 1))
    one = rows["(h) one file"]["nfreeze"]
    found.append(absolute("(h) one file: s", median(one, "wall"), 3, 2))
    if down > 20 * MB:  # less is too small beside the least that is fetched anyhow
        index = median(rows["(h) index"]["nfreeze"], "down")  # which everybody downloads
        part = (median(one, "down") - index) / (down - index)
        found.append(absolute("(h) one file: down, x the whole tree", part, 0.5, 3))
    return found


def growth(rows, what, fewer, more):
    """Linear time: by the number of the files, and a fifth of it more for the chance."""
    times = [median(rows[h_row(what, count)]["nfreeze"], "wall") for count in (fewer, more)]
    name = f"(h) {what}: wall, {more:,} to {fewer:,} files"
    return absolute(name, times[1] / times[0], 1.2 * more / fewer, 2)


def figures_of(rows, sizes):
    found = [ratio(rows, *one) for one in RATIOS]
    found += small_file_figures(rows, sizes.h_files)
    for row, samples in rows.items():
        peer = "restic" if "restic" in samples else "restic --no-cache"
        found.append(ratio(rows, row, "cpu", peer, 1.0))
    found += [memory_of(rows, row) for row in rows]
    return [one for one in found if one]


# ---- Reporting ---------------------------------------------------------------------------------

HEADING = (
    f"{'workload':<24} {'program':<18} {'wall s: min/median/max':>23} {'cpu s':>7} {'MB RAM':>6} "
    f"{'MB up':>8} {'MB down':>8} {'conn':>4} {'MB stored':>9}"
)


def line_of(row, program, samples):
    if not samples:
        return f"{row:<24} {program:<18} (too slow before)"
    walls = sorted(sample["wall"] for sample in samples)
    wall = f"{walls[0]:.2f}/{statistics.median(walls):.2f}/{walls[-1]:.2f}"
    stored = f"{median(samples, 'stored') / MB:.1f}" if "stored" in samples[0] else ""
    return (
        f"{row:<24} {program:<18} {wall:>23} {median(samples, 'cpu'):>7.2f} "
        f"{max(sample['memory'] for sample in samples) / MB:>6.0f} "
        f"{median(samples, 'up') / MB:>8.2f} {median(samples, 'down') / MB:>8.2f} "
        f"{median(samples, 'connections'):>4.0f} {stored:>9}"
    )


def print_figures(figures):
    print(f"\n{'figure':<50} {'value':>24}  bound")
    for one in figures:
        verdict = "ok" if one["ok"] else "MISSED"
        print(f"{one['name']:<50} {one['text']:>24}  <= {one['bound']:<6g} {verdict}")


def machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    with open("/etc/os-release") as file:
        system = re.search(r'PRETTY_NAME="?([^"\n]*)', file.read())
    return {
        "cpu": model[1] if model else os.uname().machine,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": os.uname().release,
        "system": system[1] if system else "",
    }


def versions():
    ssh = subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, check=True).stderr.decode()
    return {
        "nfreeze": run(["git", "-C", ROOT, "describe", "--always", "--dirty"]).strip(),
        "restic": run(["restic", "version"]).split()[1],
        "borg": run(["borg", "--version"]).split()[1],
        "rclone": run(["rclone", "version"]).split()[1].lstrip("v"),
        "OpenSSH": re.match(r"OpenSSH_([^ ,]*)", ssh)[1],
    }


# ---- The whole ---------------------------------------------------------------------------------


def measure(work, options, sizes):
    server = Server(work, options.build + "/nfreeze_bench_proxy")
    try:
        bench = Bench(work, server, sizes, options)
        print(HEADING)
        for letters, workload in WORKLOADS.items():
            chosen = set(letters) & options.only
            if chosen:
                workload(bench, chosen)
        return bench
    finally:
        server.close()


def report(options, bench):
    figures = figures_of(bench.rows, bench.sizes)
    print_figures(figures)
    result = {
        "date": datetime.date.today().isoformat(),
        "quick": options.quick,
        "machine": machine(),
        "versions": versions(),
        "inputs": bench.inputs,
        "rows": bench.rows,
        "figures": figures,
    }
    with open(options.json, "w") as file:
        json.dump(result, file, indent=1)
    print(f"\nAll numbers are in {os.path.relpath(options.json)}")


def options_of(argv):
    parser = argparse.ArgumentParser(description="Measures nfreeze and its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer rounds")
    parser.add_argument("--only", default="", help="a,c: these workloads, with their restores")
    parser.add_argument("--rounds", type=int, help="how often each program runs")
    parser.add_argument("--build", default=ROOT + "/build", help="where the binaries are")
    parser.add_argument("--nfreeze", help="another nfreeze than the one of the build")
    parser.add_argument("--json", help="where the numbers go; bench.json of the build")
    options = parser.parse_args(argv)
    known = set("".join(WORKLOADS))
    options.only = set(options.only.replace(",", "").replace(" ", "")) or known
    if options.only - known:
        parser.error(f"--only takes letters of {''.join(sorted(known))}")
    options.build = os.path.abspath(options.build)
    options.nfreeze = os.path.abspath(options.nfreeze or options.build + "/nfreeze")
    options.json = options.json or options.build + "/bench.json"
    return options


def interrupted(number, _):
    signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up takes a moment
    sys.exit(128 + number)


def main():
    options = options_of(sys.argv[1:])
    sizes = Quick if options.quick else Full
    if options.rounds:
        sizes.rounds = options.rounds
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    parent = os.environ.get("TMPDIR", "/var/tmp")
    if shutil.disk_usage(parent).free < sizes.room:
        sys.exit(f"{parent} has less than {sizes.room // MB:,} MB free: set TMPDIR")
    work = tempfile.mkdtemp(prefix="nfreeze-bench.", dir=parent)
    try:
        bench = measure(work, options, sizes)
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    finally:
        remove(work)
    report(options, bench)


if __name__ == "__main__":
    main()
