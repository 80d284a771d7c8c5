#!/usr/bin/env python3
"""An SSH server by paramiko, which serves SFTP from the disk.

    paramiko_server.py PORT HOST_KEY AUTHORIZED_KEYS [--ask QUESTION=ANSWER ...] [--then-key] [--log FILE]

Without --ask, who has one of the keys is let in. With it, keyboard-interactive asks all of these questions at once
(a question that begins with "+" is shown while it is answered); --then-key: in two rounds, of which the key is the
first.
"""
import argparse
import os
import socket
import threading

import paramiko

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('port', type=int)
parser.add_argument('host_key')
parser.add_argument('authorized_keys')
parser.add_argument('--ask', action='append', default=[])
parser.add_argument('--then-key', action='store_true')
parser.add_argument('--rounds', action='store_true', help='one question at a time')
parser.add_argument('--log')
options = parser.parse_args()
questions = [tuple(text.split('=', 1)) for text in options.ask]


def log(line):
    if options.log:
        with open(options.log, 'a', encoding='utf-8') as file:
            file.write(line + '\n')


class Login(paramiko.ServerInterface):
    def __init__(self):
        self.key_seen = False
        self.answered = 0
        log('connection')

    def get_allowed_auths(self, username):
        if options.then_key and not self.key_seen:
            return 'publickey'
        return 'keyboard-interactive' if questions else 'publickey'

    def check_auth_publickey(self, username, key):
        with open(options.authorized_keys, encoding='ascii') as file:
            known = [line.split()[:2] for line in file]
        if [key.get_name(), key.get_base64()] not in known or (questions and not options.then_key):
            return paramiko.AUTH_FAILED
        self.key_seen = True
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL if questions else paramiko.AUTH_SUCCESSFUL

    def ask(self):
        count = 1 if options.rounds else len(questions)
        return paramiko.InteractiveQuery('', 'Who are you?', *[(q.removeprefix('+'), q.startswith('+'))
                                                               for q, _ in questions[self.answered:self.answered + count]])

    def check_auth_interactive(self, username, submethods):
        if not questions or (options.then_key and not self.key_seen):
            return paramiko.AUTH_FAILED
        self.answered = 0
        return self.ask()

    def check_auth_interactive_response(self, responses):
        wanted = [answer for _, answer in questions][self.answered:self.answered + len(responses)]
        log('answers ' + ' | '.join(responses))
        if responses != wanted:
            return paramiko.AUTH_FAILED
        self.answered += len(responses)
        return paramiko.AUTH_SUCCESSFUL if self.answered == len(questions) else self.ask()

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED


def guarded(f):
    """What the disk refuses is told by its own status."""
    def call(*args):
        try:
            return f(*args)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
    return call


class Files(paramiko.SFTPServerInterface):
    @guarded
    def list_folder(self, path):
        found = []
        for name in os.listdir(path):
            attributes = paramiko.SFTPAttributes.from_stat(os.lstat(os.path.join(path, name)))
            attributes.filename = name
            found.append(attributes)
        return found

    @guarded
    def stat(self, path):
        return paramiko.SFTPAttributes.from_stat(os.stat(path))

    @guarded
    def lstat(self, path):
        return paramiko.SFTPAttributes.from_stat(os.lstat(path))

    @guarded
    def open(self, path, flags, attr):
        mode = attr.st_mode if attr.st_mode is not None else 0o666
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        file = os.fdopen(os.open(path, flags, mode), ('r+b' if flags & os.O_RDWR else 'wb') if writing else 'rb')
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = file
        return handle

    @guarded
    def remove(self, path):
        os.remove(path)
        return paramiko.SFTP_OK

    @guarded
    def rename(self, path, to):
        os.rename(path, to)
        return paramiko.SFTP_OK

    @guarded
    def mkdir(self, path, attr):
        os.mkdir(path, attr.st_mode if attr.st_mode is not None else 0o777)
        return paramiko.SFTP_OK

    @guarded
    def chattr(self, path, attr):
        paramiko.SFTPServer.set_file_attr(path, attr)
        return paramiko.SFTP_OK


def serve(connection):
    transport = paramiko.Transport(connection)
    transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(options.host_key))
    transport.set_subsystem_handler('sftp', paramiko.SFTPServer, Files)
    try:
        transport.start_server(server=Login())
    except (EOFError, paramiko.SSHException):
        transport.close()


listener = socket.create_server(('127.0.0.1', options.port), backlog=20)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
