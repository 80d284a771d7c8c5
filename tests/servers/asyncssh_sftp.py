#!/usr/bin/env python3
"""An SSH server by asyncssh, which serves SFTP from the disk.     asyncssh_sftp.py PORT HOST_KEY AUTHORIZED_KEYS"""
import asyncio
import sys

import asyncssh


async def main():
    port, host_key, authorized_keys = sys.argv[1:]
    server = await asyncssh.listen('127.0.0.1', int(port), server_host_keys=[host_key], authorized_client_keys=authorized_keys,
                                   sftp_factory=True)
    await server.wait_closed()


asyncio.run(main())
