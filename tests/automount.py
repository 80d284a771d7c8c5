#!/usr/bin/env python3
"""An automounter: mounts SOURCE at PLACE (bind) as often as somebody goes there and it is not mounted.

    automount.py PLACE SOURCE        prints "ready" when it is, "mounted" each time; SIGTERM ends it

It talks version 5 of the kernel's protocol, of a direct mount (Documentation/filesystems/autofs.rst of Linux).
"""
import ctypes
import fcntl
import os
import signal
import struct
import sys

READY, FAIL, CATATONIC = 0x9360, 0x9361, 0x9362
MS_BIND, MNT_DETACH = 4096, 2
PACKET = struct.Struct('=iiIIQIIIII256s')
SIZE = 304  # of the kernel's packet
MISSING_DIRECT = 5

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags, options):
    if libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, options and options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


place, source = sys.argv[1:]
kernel, ours = os.pipe()
mount('tests', place, 'autofs', 0, f'fd={ours},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct')
os.close(ours)
control = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # of the trigger: to whom it belongs, nothing is mounted


def end(*_):
    libc.umount2(place.encode(), MNT_DETACH)
    fcntl.ioctl(control, CATATONIC, 0)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
while packet := os.read(kernel, SIZE):
    _, kind, token, *_ = PACKET.unpack(packet[:PACKET.size])
    if kind != MISSING_DIRECT:
        fcntl.ioctl(control, FAIL, token)
        continue
    try:
        mount(source, place, None, MS_BIND, None)
        print('mounted', flush=True)
        fcntl.ioctl(control, READY, token)
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        fcntl.ioctl(control, FAIL, token)
