#!/usr/bin/env python3
"""asyncssh's SFTP server on 127.0.0.1, which lets in everybody who has a key: all files, under absolute paths.

    asyncssh_server.py

Prints its port and its host key's line as one line.
"""
import asyncio

import asyncssh


class Server(asyncssh.SSHServer):
    def public_key_auth_supported(self):
        return True

    def validate_public_key(self, username, key):
        return True


async def main():
    key = asyncssh.generate_private_key('ssh-ed25519')
    server = await asyncssh.listen('127.0.0.1', 0, server_factory=Server, server_host_keys=[key], sftp_factory=True)
    print(server.sockets[0].getsockname()[1], key.export_public_key().decode().strip(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
