#!/usr/bin/env python3
"""A file system (FUSE) that shows a directory, with oddities that others have.

    odd_filesystem.py DIRECTORY MOUNTPOINT [SWITCH...]
    odd_filesystem.py --try          ends well if there is what it needs

    fold                     names that differ in case only are one, and keep the case they were made with
    lower | strip | decompose   names are changed: to lower case, without dots and blanks at their ends, to NFD
    untyped                  listings do not tell what is a directory
    refuse:OPERATION[:NAME]=ERRNO   an operation fails, for a file or (getxattr, setxattr) an attribute of that name;
                             * in NAME stands for anything; the operation "name" is whatever makes this name
"""
import errno
import fnmatch
import os
import stat
import sys
import time
import unicodedata

try:
    from fuse import FUSE, FuseOSError, Operations, fuse_get_context
except ImportError:
    from fusepy import FUSE, FuseOSError, Operations, fuse_get_context

CHANGES = {
    'lower': str.lower,
    'strip': lambda name: name.rstrip('. ') or name,
    'decompose': lambda name: unicodedata.normalize('NFD', name),
}
STAT = ('st_atime', 'st_ctime', 'st_gid', 'st_mode', 'st_mtime', 'st_nlink', 'st_size', 'st_uid', 'st_ino', 'st_blocks', 'st_rdev')


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class Odd(Operations):
    use_ns = True
    flag_utime_omit_ok = 1

    def __init__(self, root, switches):
        self.root = root
        self.fold = 'fold' in switches
        self.untyped = 'untyped' in switches
        self.changes = [CHANGES[switch] for switch in switches if switch in CHANGES]
        self.refusals = []
        for switch in switches:
            if switch.startswith('refuse:'):
                what, code = switch[7:].rsplit('=', 1)
                operation, _, name = what.partition(':')
                self.refusals.append((operation, name or '*', getattr(errno, code)))

    def refuse(self, operation, name):
        for refused, pattern, code in self.refusals:
            if refused == operation and fnmatch.fnmatchcase(os.path.basename(name), pattern):
                raise FuseOSError(code)

    def behind(self, path):
        at = self.root
        for name in path.split('/'):
            if not name:
                continue
            for change in self.changes:
                name = change(name)
            if self.fold and not os.path.lexists(os.path.join(at, name)):
                try:
                    same = [other for other in os.listdir(at) if other.lower() == name.lower()]
                except OSError:
                    same = []
                name = same[0] if same else name
            at = os.path.join(at, name)
        return at

    def __call__(self, operation, path, *args):
        if operation not in ('getxattr', 'setxattr', 'removexattr'):
            self.refuse(operation, path)
        if operation in ('mknod', 'mkdir', 'symlink', 'link', 'create'):
            self.refuse('name', path)
        return super().__call__(operation, path, *args)

    def getattr(self, path, fh=None):
        st = os.lstat(self.behind(path))
        found = {key: getattr(st, key) for key in STAT}
        for key in ('st_atime', 'st_mtime', 'st_ctime'):
            found[key] = getattr(st, key + '_ns')
        return found

    def readdir(self, path, fh):
        for name in '.', '..':
            yield name, {'st_mode': stat.S_IFDIR}, 0
        for entry in os.scandir(self.behind(path)):
            st = entry.stat(follow_symlinks=False)
            yield entry.name, {'st_mode': 0 if self.untyped else st.st_mode, 'st_ino': st.st_ino}, 0

    def readlink(self, path):
        return os.readlink(self.behind(path))

    def belongs(self, path):
        uid, gid, _ = fuse_get_context()
        os.lchown(path, uid, gid)

    def mknod(self, path, mode, dev):
        os.mknod(self.behind(path), mode, dev)
        self.belongs(self.behind(path))

    def mkdir(self, path, mode):
        os.mkdir(self.behind(path), mode)
        self.belongs(self.behind(path))

    def symlink(self, path, target):
        os.symlink(target, self.behind(path))
        self.belongs(self.behind(path))

    def link(self, path, first):
        os.link(self.behind(first), self.behind(path), follow_symlinks=False)

    def unlink(self, path):
        os.unlink(self.behind(path))

    def rmdir(self, path):
        os.rmdir(self.behind(path))

    def rename(self, old, new):
        self.refuse('name', new)
        os.rename(self.behind(old), self.behind(new))

    def chmod(self, path, mode):
        os.chmod(self.behind(path), mode)

    def chown(self, path, uid, gid):
        os.lchown(self.behind(path), uid, gid)

    def utimens(self, path, times=None):
        st = os.lstat(self.behind(path))
        now = {UTIME_NOW: time.time_ns()}
        times = times or (UTIME_NOW, UTIME_NOW)
        os.utime(self.behind(path), follow_symlinks=False,
                 ns=tuple(old if t == UTIME_OMIT else now.get(t, t) for t, old in zip(times, (st.st_atime_ns, st.st_mtime_ns))))

    def open(self, path, flags):
        return os.open(self.behind(path), flags & ~os.O_NOFOLLOW)

    def create(self, path, mode, fi=None):
        fd = os.open(self.behind(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self.belongs(self.behind(path))
        return fd

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self.behind(path), length)

    def flush(self, path, fh):
        return 0

    def release(self, path, fh):
        os.close(fh)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def statfs(self, path):
        st = os.statvfs(self.behind(path))
        return {key: getattr(st, key) for key in dir(st) if key.startswith('f_') and key != 'f_fsid'}

    def getxattr(self, path, name, position=0):
        self.refuse('getxattr', name)
        return os.getxattr(self.behind(path), name, follow_symlinks=False)

    def setxattr(self, path, name, value, options, position=0):
        self.refuse('setxattr', name)
        os.setxattr(self.behind(path), name, value, options, follow_symlinks=False)

    def removexattr(self, path, name):
        self.refuse('removexattr', name)
        os.removexattr(self.behind(path), name, follow_symlinks=False)

    def listxattr(self, path):
        return os.listxattr(self.behind(path), follow_symlinks=False)


if __name__ == '__main__':
    if sys.argv[1:] == ['--try']:
        sys.exit(0)
    directory, mountpoint, *switches = sys.argv[1:]
    FUSE(Odd(directory, switches), mountpoint, foreground=True, nothreads=True, allow_other=True, default_permissions=True,
         use_ino=True, readdir_ino=True, dev=True, suid=True, attr_timeout=0, entry_timeout=0, fsname='odd')
