// An SSH server by npm's ssh2, which serves SFTP from the disk.
//
//     node ssh2_server.js PORT HOST_KEY AUTHORIZED_KEYS [numbers|words]
//
// numbers: the flags of OPEN are taken bit by bit. words: by the library's own table of flags, as its documentation
// has it, which knows new files only together with TRUNC.
'use strict';
const fs = require('fs');
const { Server, utils } = require('ssh2');

const [port, hostKey, authorizedKeys, flagsBy] = process.argv.slice(2);
const { STATUS_CODE: Status, OPEN_MODE: Open } = utils.sftp;
const authorized = fs.readFileSync(authorizedKeys, 'latin1').split('\n').filter(Boolean).map((line) => utils.parseKey(line));

function login(context) {
    const given = context.method === 'publickey' && context.key.data;
    const known = given && authorized.find((key) => key.getPublicSSH().equals(given));
    if (!known || (context.signature && known.verify(context.blob, context.signature, context.hashAlgo) !== true))
        return context.reject(['publickey']);
    return context.accept();
}

function numericFlags(flags) {
    const c = fs.constants;
    const both = Open.READ | Open.WRITE;
    let out = (flags & both) === both ? c.O_RDWR : flags & Open.WRITE ? c.O_WRONLY : c.O_RDONLY;
    for (const [theirs, ours] of [[Open.APPEND, c.O_APPEND], [Open.CREAT, c.O_CREAT], [Open.TRUNC, c.O_TRUNC], [Open.EXCL, c.O_EXCL]])
        if (flags & theirs) out |= ours;
    return out;
}

function serve(sftp) {
    const handles = new Map();
    let last = 0;
    const entry = (handle) => handles.get(handle.toString('latin1'));
    const status = (id) => (error) => {
        const codes = { ENOENT: Status.NO_SUCH_FILE, EACCES: Status.PERMISSION_DENIED, EPERM: Status.PERMISSION_DENIED };
        sftp.status(id, error ? codes[error.code] ?? Status.FAILURE : Status.OK);
    };
    const attributes = (st) => ({ mode: st.mode, uid: st.uid, gid: st.gid, size: st.size, atime: st.atimeMs / 1000 | 0, mtime: st.mtimeMs / 1000 | 0 });
    const newHandle = (id, what) => {
        const name = String(++last);
        handles.set(name, what);
        sftp.handle(id, Buffer.from(name, 'latin1'));
    };
    const look = (how) => (id, path) => fs[how](path, (error, st) => (error ? status(id)(error) : sftp.attrs(id, attributes(st))));
    const change = (id, path, attrs) => {
        try {
            if (attrs.size !== undefined) fs.truncateSync(path, attrs.size);
            if (attrs.mode !== undefined) fs.chmodSync(path, attrs.mode & 0o7777);
            if (attrs.mtime !== undefined) fs.utimesSync(path, attrs.atime, attrs.mtime);
            sftp.status(id, Status.OK);
        } catch (error) { status(id)(error); }
    };

    sftp.on('OPEN', (id, path, flags, attrs) => {
        const how = flagsBy === 'words' ? utils.sftp.flagsToString(flags) : numericFlags(flags);
        if (how === null || how === undefined) return sftp.status(id, Status.FAILURE);
        fs.open(path, how, attrs.mode === undefined ? 0o666 : attrs.mode & 0o7777, (error, fd) => (error ? status(id)(error) : newHandle(id, { path, fd })));
    });
    sftp.on('READ', (id, handle, offset, length) => {
        const buffer = Buffer.alloc(length);
        fs.read(entry(handle).fd, buffer, 0, length, offset, (error, n) => {
            if (error) status(id)(error);
            else if (n === 0) sftp.status(id, Status.EOF);
            else sftp.data(id, buffer.subarray(0, n));
        });
    });
    sftp.on('WRITE', (id, handle, offset, data) => fs.write(entry(handle).fd, data, 0, data.length, offset, status(id)));
    sftp.on('CLOSE', (id, handle) => {
        const what = entry(handle);
        handles.delete(handle.toString('latin1'));
        if (!what) sftp.status(id, Status.FAILURE);
        else if (what.fd === undefined) sftp.status(id, Status.OK);
        else fs.close(what.fd, status(id));
    });
    sftp.on('OPENDIR', (id, path) => fs.readdir(path, (error, names) => (error ? status(id)(error) : newHandle(id, { path, names }))));
    sftp.on('READDIR', (id, handle) => {
        const what = entry(handle);
        const found = what.names.splice(0, 100).flatMap((filename) => {
            const st = fs.lstatSync(`${what.path}/${filename}`, { throwIfNoEntry: false });
            return st ? [{ filename, longname: filename, attrs: attributes(st) }] : [];
        });
        if (found.length === 0) sftp.status(id, Status.EOF);
        else sftp.name(id, found);
    });
    sftp.on('STAT', look('stat'));
    sftp.on('LSTAT', look('lstat'));
    sftp.on('FSTAT', (id, handle) => look('stat')(id, entry(handle).path));
    sftp.on('SETSTAT', change);
    sftp.on('FSETSTAT', (id, handle, attrs) => change(id, entry(handle).path, attrs));
    sftp.on('REMOVE', (id, path) => fs.unlink(path, status(id)));
    sftp.on('MKDIR', (id, path, attrs) => fs.mkdir(path, attrs.mode === undefined ? 0o777 : attrs.mode & 0o7777, status(id)));
    sftp.on('RMDIR', (id, path) => fs.rmdir(path, status(id)));
    sftp.on('RENAME', (id, path, to) => fs.rename(path, to, status(id)));
    sftp.on('REALPATH', (id, path) => fs.realpath(path, (error, real) => (error ? status(id)(error) : sftp.name(id, [{ filename: real, longname: real, attrs: {} }]))));
}

new Server({ hostKeys: [fs.readFileSync(hostKey)] }, (client) => {
    client.on('authentication', login);
    client.on('ready', () => client.on('session', (accept) => accept().on('sftp', (acceptSftp) => serve(acceptSftp()))));
    client.on('error', () => {});
}).listen(Number(port), '127.0.0.1');
