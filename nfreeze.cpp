// nfreeze: encrypted backups on servers that need not be trusted.
// Copyright (c) 2026 the nfreeze authors. MIT licence, see LICENSE.
//
// ============================================================================
// [SECTION] 0. Promise, threats, format, invariants
// ============================================================================
//
// This file is the whole program. It backs a directory up to any plain SFTP server (or a local
// directory), encrypted before it leaves, and keeps nothing on the client between runs. The
// server needs an SFTP subsystem only: no shell, no program, no rename, no overwrite, no lock.
//
// CONTENTS (search for "[SECTION]"; each section uses only what stands above it)
//    1. Includes, constants, limits          9. Trees
//    2. Errors and messages                 10. Backup
//    3. OS handles                          11. Restore
//    4. Encoding                            12. Looking: snapshots, ls, cat, diff, du
//    5. Crypto and sealed objects           13. Care: check, repair, prune, forget
//    6. The wall: store, processes          14. The wire: SSH, SFTP, who connects
//    7. Chunker and compression             15. Command line
//    8. Repository: index, packs
// Three ways to read: from top to bottom; for what leaves, what is believed, and what the kernel refuses
// whom, 4 to 6 with what is marked in 14 and 15 (CLAIMS, below); for what else is trusted with data and
// secrets, 0, 3, 8 to 11. Section 14 is as untrusted as the server.
//
// PROCESSES (section 6). A wall that a kernel lacks is left out; -v and --version say which ones stand.
//   keeper  this one: files, keys, terminal. Once it has the passphrase it has no socket but those to the
//           others, and starts no program (seccomp). On this machine it changes nothing in a backup and in
//           verbs that look (seccomp, Landlock). In a restore it makes, writes and removes only what lies
//           below DEST, in other verbs what lies below a repository that is here (Landlock, which does not
//           bind modes, owners, times and attributes).
//   wire    libssh2, host keys, what logs in, ciphertext. Forked before the command line is looked at.
//           Before the first byte of the server comes it can no longer open, run, connect or signal
//           anything (seccomp, Landlock).
//   dialer  connects, by the resolver or a proxy command, and to ssh-agent, to which it lets through what
//           lists keys and signs logins as the user; asks getent. It reads nothing that the server says, but
//           what name servers do, and has no secret. It is not confined, as it has to run programs.
//
// CLAIMS. `make audit` lists the lines that hold each, counts them, and runs the tests that show it.
//   C1  Nothing leaves but what was sealed, and names that are hashes (the compiler).
//   C2  Nothing is parsed before it is authenticated, I6 (the compiler).
//   C3  The process with files and keys has no network and runs nothing (the kernel). It can ask the dialer
//       who has an account's number or name, which a directory of accounts may be asked in turn.
//   C4  What the server's bytes touch has no key, file, program or other host (fork and kernel).
//   C5  What comes out of the wire can do no more to the keeper than end the run (formats of fixed shape).
//   C6  A restore writes below DEST only, a backup nowhere (the kernel).
//
// WHO CAN DO WHAT
//   The server (or who took it over, or sits on the wire) may read, alter, delete, reorder, replay,
//   truncate and stall. It never sees a key, a name or a content. It cannot make a restore write
//   anything that was not backed up: all it can do is to make data missing, and that is said.
//   It does learn: number, size (rounded up: to a KiB, and by 6 % at most above 16 KiB) and time of
//   uploads; which stretches of 256 KiB a restore reads; that something was sent again after
//   it deleted a pack. By these it can guess how many pieces and files are new. It cannot
//   tell the size of single files: they ride in packs of 16 MiB (14 to 19).
//   It can withhold the newest segments and so show an older, consistent state (check counts packs that no
//   segment names). No client that remembers nothing can notice; each backup prints the id of its snapshot,
//   which --expect looks for.
//   Code that it smuggles in through libssh2 runs in the wire. It reaches no key of the repository, no
//   passphrase, name or content, and no file, program or other host. It has what logs in: private keys that
//   were named, and signatures of ssh-agent for logins as the same user while the run lasts, also to other
//   hosts, so that a key for backups alone is worth having.
//   To the others it can lie, as the server can, and end the run.
//
//   A client that is taken over holds the passphrase and can read all. On a server that refuses to
//   delete it can destroy nothing: it can mark snapshots as forgotten and packs as condemned, and nothing
//   is lost until somebody who may delete prunes; prune shows what was forgotten and asks.
//
//   Who knows only the passphrase's key object can guess passphrases, at the price of one scrypt each.
//
// OBJECTS. All are created once (CREAT|EXCL, mode 0400), never renamed, overwritten or appended to.
//
//    keys/<sha256>                one for each passphrase
//    index/<seq>-<sha256>         seq: 8 hex digits, 1 + the highest authenticated one read
//    packs/<sha256>
//
// <sha256> is that of the object's bytes (I1). Integers are little-endian or LEB128 ("varint"; signed
// ones zigzag-encoded, "svarint"); "string" and "bytes" are a varint length and that many bytes. A
// length beyond a named limit, an early end and bytes left over are errors. Times are since 1970, UTC.
// AES-256-GCM: keys of 32 bytes, nonces of 12 (a number in 8 bytes and 4 zeros), the tag of 16 behind the
// ciphertext and counted in all sizes here. HKDF gives 32 bytes. A reader stops where the last byte of
// "nfrz..." is not 1 (of a key object: passes it over), or at a record of an unknown type: it is too old.
// What is whole (I1) and does not open is not ours. In index/ it is named, and counts as an upload that was
// cut until a record 8 says so; in keys/ it is named and passed over; in packs/ nobody looks at what no
// segment names, but repair.
//
// Key object, 193 bytes. M, the master key, is 32 random bytes made by `init`.
//      0   8  "nfrzkey" and a byte 1     8   1  log2 of scrypt's N (15 or more; memory 256 MiB at most)
//      9   4  r (8 or more)             13   4  p (1 to 4)
//     17  32  salt                      49 144  AES-256-GCM(key = scrypt(passphrase, salt), nonce 0,
//                                               associated data: bytes 0 to 48) of:
//                                               M 32, time 8 (ns), "user@host" padded with zeros 88
//   The passphrase is taken as the bytes that were given, without the end of the line. The recovery sheet has
//   M in four lines: N (1 to 4), and in hex 8 bytes of M and the first 2 of SHA-256(a byte N, these 8).
//   From M: id, gear, pack and index key = HKDF-SHA-256(M, no salt, "nfreeze id" | "gear" | ...).
//
// Sealed object: the shape of packs and index segments.
//      0   8  "nfrzpak" or "nfrzseg", and a byte 1
//      8  32  salt, random, so that each sealing has a fresh key:
//             key = HKDF-SHA-256(pack key or index key, salt, "nfreeze object")
//     40   n  frames, one behind the other, each AES-256-GCM(key, nonce = its number, from 0) of:
//             codec 1 (0 stored, 1 zstd), varint raw length, and to its end the content so encoded
//      .   n  table, nonce 2^64-1: varint number of frames; for each: kind 1 (0 data, 1 tree,
//             2 snapshot, 3 records), varint sealed length, varint number of chunks, their raw
//             lengths (varints), their ids (16 each); then zeros, so many that the whole has a PADME
//             size (padme(), section 8; a reader takes any number)
//    -24  24  footer, nonce 2^64-2: offset of the table 8
//   Associated data everywhere: the first 8 bytes, then seq (4; 0 for a pack). Chunks lie one behind the
//   other in their raw frame.
//
// Chunk: a piece of a file, cut where its content says so (section 7). id = the first 16 bytes of
//   HMAC-SHA-256(id key, chunk). Chunks that follow each other share frames of about 4 MiB, which are
//   compressed as one; frames share packs of about 16 MiB. Trees and snapshots have packs of their own.
//   Where several packs hold a chunk, any will do.
//
// Segment: its frames hold records (one may begin in a frame and end in the next) of type 1, bytes body:
//     1 pack added: name 32, salt 32, varint size, table as above, without the zeros
//     2 pack condemned: name 32, since 8 (s, server's time; 0: time stamp of the first segment saying so)
//     3 pack deleted: name 32   4 snapshot added: see below   5 snapshot forgotten: id 16 (for good: what
//     --undo takes back is added anew under another id)
//     6 segment superseded: the first 16 bytes of its <sha256>, since 8 (as above)
//     7 parent, 8 torn: the first 16 bytes of the segment's <sha256>
//   The state is the union of all segments that are not superseded, so segments of clients that run
//   side by side merge in any order and nobody needs a lock: a pack counts if one adds it and none deletes
//   it, a snapshot if one adds it and none forgets it; a condemned pack can be read while it is there. A
//   segment that supersedes others carries on what they say, but no more of what was deleted than that.
//   A record that stands in several segments, or several times in one, counts once; a segment with a
//   malformed record counts not at all. Times before the year 2000 are unknown.
//   A parent was live when the segment was written: one that is neither there nor superseded was lost or
//   is withheld. Torn ones were not whole: somebody's upload was cut; if they are whole later, they count.
//
// Snapshot record, one for each SRC: id 16 (random), time 8 (ns), host, user, source path, version
//   (strings); varint number of tags, strings; incomplete 1; varints: files, directories, others, bytes,
//   and against the one before new files, changed files, new bytes; names of users, then of groups: varint
//   number of them, each varint id and string (empty: it had none); varint number of ids of chunks that
//   hold the list of the tree. It also rides as a frame of kind 2 in the last new pack of its tree, so that
//   packs/ is enough to build index/ again, but for snapshots that brought nothing new to their tree.
//
// Tree: records in walk order ('/' sorts before all else), cut between records into chunks that can be
//   read alone. The list of the tree: for each chunk, id 16 and the path of its first record (string).
//   Paths are bytes, relative to SRC, which is "" itself; of a SRC that is no directory, its name.
//   Record: varint flags (type in the lowest 3 bits: 0 file, 1 directory, 2 symlink, 3 fifo, 4 character,
//   5 block; 8 racy, 16 mount point, 32 has attributes, 64 linked, 128 has holes, 256 continued, 512
//   continuation); its path: varint number of bytes to cut off the end of the path before (of a chunk's
//   first record: of the path in the list), string to put there; then: mode without the type, uid, gid
//   (varints), mtime less that of the record before, ctime less mtime (seconds and nanoseconds each by
//   themselves), inode less that of the record before (svarints; modulo 2^64);
//   if linked, varint link group: names with the same group (one for each file system) and inode are one
//   file if their records have the same content, and each has the whole record; if it has attributes, varint
//   number, each name and value (strings);
//   for a symlink, its target (string); for a device, varint st_rdev as Linux has it; for a file, varint
//   size, if it has holes, varint number, each varint distance from the end of the one before and varint
//   length; varint number of chunks, their ids; if there are several, 8 bytes XXH3-64 (seed 0) of the
//   content without holes. A record has 4096 ids at most: if it is continued, which only a file's may be,
//   the next is a continuation of flags, path, number and ids, which may be continued in turn; there is none
//   behind what is not. "The record before" is the last in this chunk that is no continuation; for the first,
//   0.
//
// INVARIANTS, cited where they are kept
//   I1  An object is whole exactly when its bytes hash to its name.
//   I2  Packs are durable (written, fsync@openssh.com where offered, closed without error) before a
//       segment names them.
//   I3  A snapshot is added only together with, or after, all that it needs.
//   I4  A pack is deleted only when it was condemned a grace period ago and, worked out anew, no
//       snapshot needs it.
//   I5  No segment is written whose packs or chunks rely on something condemned.
//   I6  Nothing is parsed, written to disk or acted upon before it is authenticated; nothing but what was
//       sealed and hashes leave. The compiler holds it: what a store gives is Foreign, what it takes is
//       Sealed and Name.
//   I7  A restored file appears under its name only when it is complete and checked; no path or link
//       in a backup can lead a write outside the destination.
//   I8  Secrets are wiped, never in argv or a message, and printed by `key export` only.
//   I9  A file counts as unchanged only if size, mtime, ctime and inode agree, it is not flagged, AND
//       all of its chunks are present now.
//   I10 Absence is never recorded. A pack that is missing does not count in this run, so its chunks are
//       sent again from the files that still hold them; if it comes back, it counts. Only prune and
//       repair record that a pack is gone, repair after it has saved what opens. Verbs that only read
//       never write.
//
// WHY IT IS SO, where there was a choice
//   - Names are hashes of content and objects are never changed, so a torn upload cannot be mistaken for
//     a whole one and no temporary names are needed: the program works on a server that allows nothing
//     but creating files, which keeps backups from whoever takes over the client. Correctness rests
//     neither on EXCL nor on modes: some servers ignore both. Where the outcome of an upload is unknown,
//     it is sealed anew and so has a new name.
//   - Ids are a keyed PRF of 16 bytes: they collide by accident only (10^9 chunks: 2^-68), and half as
//     much is downloaded as with 32. XXH3 is not an identity (crafted inputs collide): it is the
//     checksum that catches our own bugs where a file has several chunks, and lets a disk be compared
//     at the disk's speed.
//   - A tree is cut by the hash of names, between records, and not, like files, by content: a chunk is
//     then readable alone, and a changed file changes one chunk. What lies above a directory appears in
//     none of the chunks within it: to rename or move one of a million files costs two or three chunks
//     and the list. The list of the tree's chunks is
//     itself stored in chunks, not in the snapshot record: every run downloads the index, and
//     unchanged trees of a million files would else add 60 KiB to it each day.
//   - Deleting needs neither locks nor the client's clock. Packs are condemned, and a grace period later,
//     between the server's own time stamps of two segments, deleted. Whoever commits looks at index/ a
//     moment before and copies what it relies on out of packs that were condemned meanwhile (I5), so a
//     snapshot that is committed relies on nothing that was condemned when its writer last looked; and
//     who deletes works out anew what all snapshots need. The records carry their time along when
//     segments merge. A segment that is superseded is deleted only once what supersedes it is an hour
//     old: a listing is not atomic, and one that is under way must not miss both. Packs are removed
//     first and the removal recorded then: that a condemned pack is missing hurts nobody.
//   - Packs and segments share one sealed shape, so that there is one piece of code to trust.
//   - Padding is sealed with the table, so that it needs no rule of its own.

// ============================================================================
// [SECTION] 1. Includes, constants, limits
// ============================================================================
// Every number that bounds something stands here, with its reason.

#include <cryptopp/aes.h>
#include <cryptopp/base64.h>
#include <cryptopp/gcm.h>
#include <cryptopp/hkdf.h>
#include <cryptopp/hmac.h>
#include <cryptopp/misc.h>
#include <cryptopp/sha.h>
#include <libssh2.h>
#include <libssh2_sftp.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#define XXH_STATIC_LINKING_ONLY // for a state that needs no heap
#include <xxhash.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nss.h>
#include <poll.h>
#include <pwd.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cxxopts.hpp>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <iomanip>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#ifndef NFREEZE_VERSION
#define NFREEZE_VERSION "0.1.0"
#endif

namespace {

using Bytes = std::vector<uint8_t>;
using View = std::span<const uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr size_t KiB = 1024, MiB = 1024 * KiB;

// Chunks (section 7). Data cut points lie about 1 MiB apart; a smaller average finds more
// duplicates and costs 16 bytes of index each, which every run downloads.
constexpr size_t kChunkMin = 256 * KiB, kChunkAvg = MiB, kChunkMax = 4 * MiB;
constexpr size_t kTreeMin = 8 * KiB, kTreeMax = 128 * KiB; // a tree chunk ends between records
constexpr size_t kDataFrame = 4 * MiB;   // raw bytes in a frame, at most: zstd gains 4 % over 1 MiB.
constexpr size_t kTreeFrame = MiB;       // One of a tree, which is read for a single file
constexpr size_t kFrameMax = 16 * MiB;   // and what a reader accepts, raw
constexpr size_t kPackTarget = 14 * MiB; // a pack is sent once its frames have this size, so
constexpr size_t kPackMax = 64 * MiB;    // that it ends near 16 MiB; and what a reader accepts
constexpr size_t kFrameChunks = 65536;   // chunks in a frame, at most
constexpr size_t kSegmentMax = 128 * MiB;
constexpr size_t kRecordsMax = 16 * MiB; // records of new packs that wait for a checkpoint
constexpr size_t kMergeMax = 32 * MiB;   // larger segments are left alone: a merge is held in memory
constexpr size_t kKeepRecords = MiB;     // records of a smaller segment are kept for merging
constexpr size_t kReadAlign = 256 * KiB; // the server sees reads on this grid only
constexpr size_t kReadRun = 9 * MiB;     // frames that lie together are read in one go up to this
constexpr size_t kReadGap = 512 * KiB;   // reading through a gap is cheaper than a round trip
constexpr size_t kReadAhead = 64 * MiB;  // raw bytes of frames that are fetched before use
constexpr size_t kPinsMax = 1 << 20;     // chunks that wait for their use: each is an id in memory
constexpr size_t kFilesAhead = 4096;     // files that wait for their chunks: of 16 kB, they fill it
constexpr size_t kIdsPerRecord = 4096;   // a longer file continues in another tree record
constexpr size_t kHolesMax =
    1 << 17; // of a file; beyond that the smallest are stored as zeros: a record must fit a chunk
constexpr size_t kTreePacks = 16; // a tree that lies in more packs is written anew

// Limits on what is read. Not formats: each may grow without a new version.
constexpr size_t kPathMax = MiB, kNameMax = 4096, kXattrMax = MiB;
constexpr size_t kListMax = 1'000'000;         // names in one directory of the repository: 16 TB of packs
constexpr int64_t kTimeMax = int64_t(1) << 40; // seconds since 1970 that a server may name
constexpr int64_t kTimeMin =
    946'684'800;                  // the year 2000: a server that names an earlier one does not know the time
constexpr size_t kTagsMax = 4096; // of a snapshot
constexpr size_t kOwnersMax = 1'000'000;  // users and groups that own something in it
constexpr size_t kXattrsMax = 65536;      // of a file; Linux lists 64 KiB of names
constexpr size_t kTreeListMax = 32 * MiB; // the list of a tree: some 300,000 chunks, 75 million files
constexpr size_t kSegmentsMax =
    200'000; // names in index/: hourly runs leave 88,000 in 10 years where none may be removed
constexpr size_t kKeysMax = 16;          // key objects that are tried, each costs a scrypt
constexpr size_t kKeyFileMax = 64 * KiB; // a password file, a private key
constexpr size_t kHostKeyMax = 16 * KiB; // of a server: RSA has 2 KiB at most

// scrypt (section 5): 2^17, 8, 1 takes 128 MiB and about 0.4 s. The floor stops a server
// from planting cheap key objects to test guesses with; the ceiling, one that exhausts memory.
constexpr unsigned kScryptLogN = 17, kScryptLogNMin = 15;
constexpr uint64_t kScryptMemoryMax = 256 * MiB;
constexpr uint32_t kScryptR = 8, kScryptP = 1, kScryptPMax = 4;

// Transport (sections 6 and 14).
constexpr int kConnections = 6, kConnectionsMax = 16;
constexpr int kTimeout = 60;        // seconds without a byte moved; --timeout
constexpr int kConnectTimeout = 15; // the same at most, for each address that is tried
constexpr int kRetryFor = 15 * 60;  // seconds of reconnecting before giving up; --retry-for
constexpr int kFirstTries =
    4; // of the first connection, which may be to the wrong place, unless --retry-for is given
constexpr int kPasswordTries = 3;             // of a password that is typed
constexpr uint64_t kSessionBytes = 800 * MiB; // then a new session: rekeying mid-write can deadlock
constexpr size_t kWriteWindow = 80 * 30000;   // libssh2 cuts writes into 30,000-byte packets
constexpr size_t kReadBlock = 4 * MiB;
constexpr size_t kHandOver = 256 * KiB; // of what is read, the wire gives so much at a time
constexpr size_t kOneRead = 30000 / 4;  // libssh2 asks ahead for four times as much: no more than one packet

constexpr long kOpenat2 = 437, kFchmodat2 = 452, kSetxattrat = 463, kRemovexattrat = 466,
               kFileSetattr = 469; // numbers of system calls, on all machines

constexpr auto kCheckpoint = std::chrono::seconds(30);
constexpr int64_t kClockSkew =
    120 * INT64_C(1'000'000'000);  // ns by which the clocks of two machines may well differ
constexpr int64_t kSettled = 3600; // seconds: what is so old nobody is still busy with
constexpr auto kListingFresh = std::chrono::seconds(10); // a listing of index/ need not be repeated
// A ctime this fresh may hide a later change (I9): a page that is dirty is written through a mapping without
// a new time until it was written back, after up to 35 s; where data begin and end may be told wrongly until
// then, too.
constexpr int64_t kRacySeconds = 60;
constexpr auto kLeaseBreak =
    std::chrono::seconds(60); // after 45 s the kernel takes a lease from who does not give it back

// ============================================================================
// [SECTION] 2. Errors and messages
// ============================================================================
// An error is one sentence: what was tried, on what, what the system said, the next step.
// It is thrown once and caught in main, or, where one file must not stop the rest, in the
// loop over files. The kind decides the exit code.

enum class Exit : int {
    ok = 0,         // all well
    failed = 1,     // nothing was committed
    usage = 2,      // wrong usage
    partial = 3,    // committed or restored, but some files could not be read or written
    passphrase = 4, // wrong passphrase
    damaged = 5,    // the repository is damaged or was tampered with
    network = 6,    // cannot connect or log in
    interrupted = 130
};

struct Error : std::runtime_error {
    explicit Error(const std::string& what, Exit code = Exit::failed)
        : std::runtime_error(what), exit(code) {}
    Exit exit;
    bool no_room = false;   // a disk of this machine is full, or a quota reached
    bool exhausted = false; // this machine has no more descriptors or memory for us
    bool undone = false;    // an object was refused, and nothing of it is left in the repository
};
struct Usage : Error {
    explicit Usage(const std::string& what) : Error(what, Exit::usage) {}
};
/// Bytes that do not authenticate, do not parse, or are not there although they must be.
struct Corrupt : Error {
    explicit Corrupt(const std::string& what) : Error(what, Exit::damaged) {}
};
/// The server or the way to it failed; a new connection may do better.
struct ConnectionLost : Error {
    explicit ConnectionLost(const std::string& what) : Error(what, Exit::network) {}
};
/// A named object or directory does not exist.
struct NotThere : Error {
    explicit NotThere(const std::string& what) : Error(what) {}
};
/// An SFTP server said no, in words of its own for which servers do not agree on a code.
struct Refused : Error {
    Refused(const std::string& what, bool maybe_later) : Error(what), vague(maybe_later) {}
    bool vague; // not for lack of rights: another form of the request, or a later one, may do
};
struct Interrupted : Error {
    Interrupted() : Error("interrupted", Exit::interrupted) {}
};

/// The parts of a message in a row, as one string.
template <class... A> std::string text(const A&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// Length of the well-formed UTF-8 sequence at the start of `s`; 0 if there is none.
size_t utf8_length(std::string_view s) {
    auto lead = uint8_t(s[0]);
    size_t n = lead < 0x80                   ? 1
               : lead >= 0xc2 && lead < 0xe0 ? 2
               : lead >= 0xe0 && lead < 0xf0 ? 3
               : lead >= 0xf0 && lead < 0xf5 ? 4
                                             : 0;
    if (n == 0 || n > s.size()) return 0;
    uint32_t code = n == 1 ? lead : lead & (0x7fu >> n);
    for (size_t i = 1; i < n; ++i) {
        if ((uint8_t(s[i]) & 0xc0) != 0x80) return 0;
        code = code << 6 | (uint8_t(s[i]) & 0x3f);
    }
    bool overlong = (n == 3 && code < 0x800) || (n == 4 && code < 0x10000);
    return overlong || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff ? 0 : n;
}

/// Length of the first character if it is fit for a terminal as it is; 0 if not.
size_t printable_length(std::string_view s) {
    size_t n = utf8_length(s);
    auto first = uint8_t(s[0]);
    bool control = first < 0x20 || first == 0x7f || (n == 2 && first == 0xc2 && uint8_t(s[1]) < 0xa0);
    return control ? 0 : n;
}

/// A name or a server's words, fit for a terminal: what is not printable UTF-8 becomes \xNN.
std::string show(std::string_view s) {
    std::string out;
    while (!s.empty()) {
        size_t n = printable_length(s);
        if (n == 0 || s.starts_with("\\x")) { // the latter, so that unshow() can tell
            n = std::max<size_t>(utf8_length(s), 1);
            for (char c : s.substr(0, n)) {
                static constexpr char digits[] = "0123456789abcdef";
                out += {'\\', 'x', digits[uint8_t(c) >> 4], digits[uint8_t(c) & 15]};
            }
        } else {
            out += s.substr(0, n);
        }
        s.remove_prefix(n);
    }
    return out;
}

/// The inverse of show() for names typed as `ls` printed them.
std::string unshow(std::string_view s) {
    std::string out;
    for (size_t i = 0; i < s.size(); ++i) {
        unsigned value = 0;
        if (s.substr(i, 2) == "\\x" && i + 4 <= s.size() &&
            std::from_chars(&s[i + 2], &s[i] + 4, value, 16).ptr == &s[i] + 4) {
            out += char(value);
            i += 3;
        } else {
            out += s[i];
        }
    }
    return out;
}

std::string in_quotes(std::string_view name) { return "'" + show(name) + "'"; }

/// As one word of a shell's command line.
std::string for_shell(std::string_view word) {
    std::string out = "'";
    for (char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
    return out + "'";
}

Error system_error(const std::string& tried, std::string_view on, int code = errno) {
    Error e(text("cannot ", tried, " ", in_quotes(on), ": ", std::strerror(code)));
    e.no_room = code == ENOSPC || code == EDQUOT;
    e.exhausted = code == EMFILE || code == ENFILE || code == ENOMEM;
    return e;
}

/// Whether `f` does not fail. A lost connection, damage and a signal are thrown.
template <class F> bool succeeds(F f) {
    try {
        f();
    } catch (const Error& e) {
        if (e.exit != Exit::failed) throw;
        return false;
    }
    return true;
}

/// Things of one sort that are told in one line: how many, and the first of them by name.
struct Some {
    size_t count = 0;
    std::string names;
    void add(const std::string& name) {
        if (++count <= 2) names += (count == 1 ? "" : ", ") + name;
    }
    std::string words(std::string_view one, std::string_view many) const {
        return count == 1 ? text(names, one) : text(count, many, " (", names, count > 2 ? ", ...)" : ")");
    }
};

/// One line of --json: an object with its fields in their order. What is no printable UTF-8 is written as
/// in all that the program prints, \xNN.
class Json {
  public:
    template <class T> Json& add(const char* name, const T& value) {
        line_ += text(line_.empty() ? "{" : ",", '"', name, "\":");
        put(value);
        return *this;
    }
    std::string line() const { return line_ + "}"; }

  private:
    void put(const std::string& value) {
        line_ += '"';
        for (char c : show(value)) {
            if (c == '"' || c == '\\') line_ += '\\';
            line_ += c;
        }
        line_ += '"';
    }
    void put(const std::vector<std::string>& values) {
        char before = '[';
        for (auto& v : values) line_ += std::exchange(before, ','), put(v);
        line_ += values.empty() ? "[]" : "]";
    }
    void put(bool value) { line_ += value ? "true" : "false"; }
    template <class T> void put(const T& number) { line_ += text(+number); }
    std::string line_;
};

/// ISO 8601, in UTC.
std::string json_time(int64_t seconds) {
    time_t t = seconds;
    struct tm parts {};
    gmtime_r(&t, &parts);
    char out[64];
    return {out, strftime(out, sizeof out, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

/// A path that is new (+), gone (-), or differs (M, U).
void print_change(char what, std::string_view path, bool as_json) {
    std::string name(path.empty() ? "." : path);
    std::cout << (as_json ? Json().add("change", std::string(1, what)).add("path", name).line() + '\n'
                          : text(what, ' ', show(name), '\n'));
}

/// Bytes, in two or three digits and a unit.
std::string human_size(uint64_t n) {
    if (n < 1024) return text(n, " B");
    static constexpr const char* units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = double(n);
    size_t unit = 0;
    for (v /= 1024; v >= 1024 && unit < 5; ++unit) v /= 1024;
    return text(std::fixed, std::setprecision(v < 10 ? 1 : 0), v, " ", units[unit]);
}

/// One line to standard error, whole even when threads speak at once. `status`: one that the next takes the
/// place of, on a terminal; an empty one takes it away.
void say(const std::string& line, bool status = false) {
    static std::mutex one_at_a_time;
    static bool drawn = false;
    std::lock_guard lock(one_at_a_time);
    if (drawn) std::cerr << "\r\x1b[K";
    if (status)
        std::cerr << line << std::flush;
    else
        std::cerr << "nfreeze: " << line << std::endl;
    drawn = status && !line.empty();
}

/// How far the line is, in bytes of objects.
struct Traffic {
    std::atomic<uint64_t> up{0}, down{0}; // of the run
    std::atomic<uint64_t> moved{0};       // of this phase, both ways
};
/// Memory that all processes of a run see (section 6). The keeper writes what it was asked by signals and
/// reads only the traffic: the wire may write here, too, and can misstate how far it is.
struct Common {
    std::atomic<int> signal{0};         // which one asked the run to end
    std::atomic<Clock::rep> stop_by{0}; // when transfers that are under way are given up
    Traffic traffic;
};
Common& make_common() {
    void* at = mmap(nullptr, sizeof(Common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    return *new (at) Common;
}

// The only state outside of objects, beside the processes of section 6: which signal asked the run to end,
// and whether SIGUSR1 asked how far it is. The first to end it is noticed at the next call of
// stop_if_asked(), the second ends the process at once.
Common& g_common = make_common();
std::atomic<int> g_signal{0};
std::atomic<bool> g_status_asked{false};
bool g_follows = false; // this is not the keeper: what that was asked counts
void note_signal(int number) { g_signal = number, g_common.signal = number; }
extern "C" void on_signal(int number) {
    if (number == SIGUSR1)
        g_status_asked = true;
    else if (g_signal.exchange(number) != 0)
        _exit(int(Exit::interrupted));
    else
        g_common.signal = number;
}
int signal_seen() { return g_follows ? g_common.signal.load() : g_signal.load(); }
std::atomic<Clock::rep> g_stop_by{0}; // when transfers that are under way are given up
void give_until(Clock::rep time) { g_stop_by = time, g_common.stop_by = time; }
constexpr auto kSignalGrace = std::chrono::seconds(2);
/// Whether a signal came and the time that transfers got to end is over.
bool overdue() {
    if (signal_seen() == 0) return false;
    auto& by = g_follows ? g_common.stop_by : g_stop_by;
    Clock::rep none = 0, now = Clock::now().time_since_epoch().count();
    if (by.compare_exchange_strong(none, now + Clock::duration(kSignalGrace).count()))
        g_common.stop_by = by.load();
    return now > by;
}
void stop_if_asked() {
    if (signal_seen() != 0) throw Interrupted();
}

/// Waits; throws Interrupted when a signal comes.
void pause_for(Clock::duration time) {
    for (auto until = Clock::now() + time; Clock::now() < until;
         std::this_thread::sleep_for(std::chrono::milliseconds(20)))
        stop_if_asked();
}
/// Since the machine started, time in which it was suspended included.
Clock::duration since_boot() {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

/// By this machine's clock, since 1970.
int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
}

/// How long to wait before attempt number `failed` + 1 at something that failed.
Clock::duration backoff(int failed) { return std::chrono::milliseconds(250) * (1 << std::min(failed, 7)); }

// ============================================================================
// [SECTION] 3. OS handles
// ============================================================================
// Trusted with data and secrets that pass through.
// Uses: 2. Provides: Fd, whole reads and writes, random bytes, the terminal, sockets, commands, a pool of
// threads. There is no raw descriptor below this section.

/// Owns a file descriptor; -1 is none. close() reports errors, the destructor does not.
class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    [[nodiscard]] bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

  private:
    int fd_ = -1;
};

View as_bytes(std::string_view s) { return {reinterpret_cast<const uint8_t*>(s.data()), s.size()}; }
std::string last_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

struct CloseDir {
    void operator()(DIR* d) const { closedir(d); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

/// Opens for reading, without changing the time of the last use where that is allowed. None where that fails:
/// errno says why.
Fd open_quietly(int at, const std::string& name, int flags) {
    Fd fd(openat(at, name.c_str(), flags | O_RDONLY | O_CLOEXEC | O_NOATIME));
    return fd || errno != EPERM ? std::move(fd) : Fd(openat(at, name.c_str(), flags | O_RDONLY | O_CLOEXEC));
}
/// The same for a file, without waiting for what is none any more. One that somebody holds a lease on, as
/// Samba does, is given back soon.
Fd open_file(int at, const std::string& name, int flags) {
    for (auto until = Clock::now() + kLeaseBreak;; pause_for(std::chrono::milliseconds(50))) {
        Fd fd = open_quietly(at, name, flags | O_NONBLOCK);
        if (fd || errno != EAGAIN || Clock::now() > until) return fd;
    }
}

/// Opens a directory below `at` without following a link; throws Error.
Fd open_directory(int at, const std::string& name, std::string_view shown) {
    Fd fd = open_quietly(at, name, O_DIRECTORY | O_NOFOLLOW);
    if (!fd) throw system_error("open the directory", shown);
    return fd;
}

/// A name in a directory, with its type (DT_...) as far as the file system tells it there.
struct DirName {
    std::string name;
    unsigned char type;
};
/// All names in an open directory except "." and "..", sorted as bytes; throws Error. A name that was taken
/// away and made again meanwhile may come twice: it is one.
std::vector<DirName> read_directory(int directory, std::string_view shown) {
    Fd copy = open_quietly(directory, ".", O_DIRECTORY);
    if (!copy) throw system_error("list", shown);
    Dir dir(fdopendir(copy.get()));
    if (!dir) throw system_error("list", shown);
    copy.release();
    std::vector<DirName> names;
    for (errno = 0; const dirent* e = readdir(dir.get()); errno = 0) {
        std::string_view name = e->d_name;
        if (name != "." && name != "..") names.push_back({std::string(name), e->d_type});
    }
    if (errno != 0) throw system_error("list", shown);
    std::ranges::sort(names, {}, &DirName::name);
    names.erase(std::unique(names.begin(), names.end(), [](auto& a, auto& b) { return a.name == b.name; }),
                names.end());
    return names;
}

/// Creates a directory and what leads to it; what is there stays. Throws Error.
void make_directories(const std::string& path, mode_t mode) {
    for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
        std::string part = path.substr(0, slash);
        if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST)
            throw system_error("create the directory", part);
        if (slash == std::string::npos) return;
    }
}

/// What a symbolic link says; throws Error.
std::string read_link(int directory, const std::string& name, std::string_view shown) {
    std::array<char, PATH_MAX> target; // the kernel's own limit
    ssize_t n = readlinkat(directory, name.c_str(), target.data(), target.size());
    if (n < 0) throw system_error("read the link", shown);
    return {target.data(), size_t(n)};
}

/// Reads until `into` is full or the file ends; returns the bytes read; throws Error.
size_t read_full(int fd, std::span<uint8_t> into, std::string_view shown) {
    size_t got = 0;
    while (got < into.size()) {
        ssize_t n = ::read(fd, into.data() + got, into.size() - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw system_error("read", shown);
        if (n == 0) break;
        got += size_t(n);
    }
    return got;
}

/// A whole small file; throws Error.
std::string read_small_file(const std::string& path, size_t max) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) throw system_error("open", path);
    std::string out(max + 1, '\0');
    out.resize(read_full(fd.get(), {reinterpret_cast<uint8_t*>(out.data()), out.size()}, path));
    if (out.size() > max) throw Error(text(in_quotes(path), " is longer than ", max, " bytes"));
    return out;
}

/// Of the mount that an open file lies in; empty where /proc is not there.
std::string mount_id(int fd) {
    std::string key, id;
    succeeds([&] {
        std::istringstream lines(read_small_file(text("/proc/self/fdinfo/", fd), MiB));
        while (lines >> key >> id && key != "mnt_id:") {
        }
    });
    return key == "mnt_id:" ? id : "";
}
/// Whether something is mounted at a name, even if it is another part of the same file system. Does not look
/// at what is mounted, which may be on a server that is away.
bool is_mount_point(int directory, const std::string& name) {
    Fd there(openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    return there && mount_id(there.get()) != mount_id(directory);
}

void write_full(int fd, View from, std::string_view shown) {
    while (!from.empty()) {
        ssize_t n = ::write(fd, from.data(), from.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw system_error("write", shown);
        from = from.subspan(size_t(n));
    }
}

/// read_full() of what can wait for ever: in short turns, so that a signal is noticed; throws Interrupted,
/// too.
size_t read_stream(int fd, std::span<uint8_t> into, std::string_view shown) {
    size_t got = 0, n = 1;
    while (got < into.size() && n > 0) {
        for (pollfd p{fd, POLLIN, 0}; poll(&p, 1, 250) <= 0;) stop_if_asked();
        ssize_t some = ::read(fd, into.data() + got, into.size() - got);
        if (some < 0 && errno != EINTR && errno != EAGAIN) throw system_error("read", shown);
        n = some < 0 ? 1 : size_t(some);
        got += some < 0 ? 0 : n;
    }
    return got;
}

/// Random bytes from getrandom(2), which needs no /dev; throws Error.
void fill_random(std::span<uint8_t> out) {
    while (!out.empty()) {
        ssize_t n = getrandom(out.data(), out.size(), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw system_error("get random bytes from", "getrandom");
        out = out.subspan(size_t(n));
    }
}

// ---- the terminal ---------------------------------------------------------------------

/// Wipes a std::string that had to hold a secret on its way into a Secret.
void wipe(std::string& s) {
    CryptoPP::SecureWipeBuffer(reinterpret_cast<uint8_t*>(s.data()), s.size());
    s.clear();
}

/// The terminal while something is typed on it, with or without showing it. Whatever ends or stops the
/// process meanwhile finds it as it was, and what is typed after it goes on is as secret as before.
class Prompt {
  public:
    Prompt(int tty, bool echo) : tty_(tty), echo_(echo) {
        caught_ = 0;
        struct sigaction action {};
        action.sa_handler = [](int number) { caught_ = number; }; // without SA_RESTART: a read ends
        for (size_t i = 0; i < kSignals.size(); ++i) {
            sigaction(kSignals[i], nullptr, &before_[i]);
            if (before_[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
        }
        silence();
    }
    ~Prompt() {
        restore();
        for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
        if (int number = std::exchange(caught_, 0)) raise(number);
    }
    Prompt(const Prompt&) = delete;
    Prompt& operator=(const Prompt&) = delete;
    /// Passes a signal on that came meanwhile; returns whether the process was stopped, and the question is
    /// to be asked again.
    bool pass_on() {
        int number = std::exchange(caught_, 0);
        if (number == 0) return false;
        restore();
        auto at = size_t(std::ranges::find(kSignals, number) - kSignals.begin());
        struct sigaction ours {};
        sigaction(number, &before_[at], &ours);
        raise(number); // stops here, where it stops
        sigaction(number, &ours, nullptr);
        silence();
        return number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
    }

  private:
    static constexpr std::array<int, 7> kSignals{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU};
    void silence() {
        while (tcgetpgrp(tty_) != getpgrp() && tcgetpgrp(tty_) > 0 &&
               g_signal == 0) { // in the background: its settings are somebody else's
            struct sigaction stop {
            }, ours{};
            stop.sa_handler = SIG_DFL;
            sigaction(SIGTTIN, &stop, &ours);
            auto begun = since_boot();
            raise(SIGTTIN);
            bool stopped = since_boot() - begun > std::chrono::milliseconds(1); // an orphan is not
            sigaction(SIGTTIN, &ours, nullptr);
            if (int number = caught_;
                number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT)
                note_signal(number);
            else if (!stopped)
                std::this_thread::sleep_for(std::chrono::milliseconds(200));
        }
        if (changed_ || tcgetattr(tty_, &settings_) != 0) return;
        auto silent = settings_;
        silent.c_lflag |= tcflag_t(ICANON | ISIG);
        silent.c_iflag |= tcflag_t(ICRNL);
        if (!echo_) silent.c_lflag &= ~tcflag_t(ECHO);
        changed_ = tcsetattr(tty_, TCSAFLUSH, &silent) == 0;
    }
    void restore() {
        if (std::exchange(changed_, false)) tcsetattr(tty_, TCSANOW, &settings_);
    }
    int tty_;
    bool echo_, changed_ = false;
    struct termios settings_ {};
    std::array<struct sigaction, kSignals.size()> before_{};
    static inline volatile std::sig_atomic_t caught_ = 0;
};

/// The terminal, opened once, since later nothing may be opened to write. None where there is none.
const Fd& terminal() {
    static const Fd tty(::open("/dev/tty", O_RDWR | O_CLOEXEC));
    return tty;
}

/// Asks on the terminal; throws Error where there is none.
std::string ask(const std::string& question, bool echo) {
    static std::mutex one_at_a_time; // further connections may ask, too
    std::lock_guard lock(one_at_a_time);
    auto& tty = terminal();
    if (!tty) throw Error(text("cannot ask \"", question, "\": there is no terminal"));
    say("", true);
    std::string answer;
    answer.reserve(kNameMax); // so that no copy is left behind where it grew
    char c = 0;
    ssize_t n = 0;
    {
        Prompt prompt(tty.get(), echo);
        write_full(tty.get(), as_bytes(question), "the terminal");
        while (g_signal == 0) {
            pollfd p{tty.get(), POLLIN, 0};
            bool ready = poll(&p, 1, 250) > 0; // the signal may come to another thread
            if (prompt.pass_on()) {
                wipe(answer);
                write_full(tty.get(), as_bytes(question), "the terminal");
            } else if (ready) {
                n = ::read(tty.get(), &c, 1);
                if ((n < 0 && errno != EINTR) || n == 0 || (n == 1 && (c == '\n' || c == '\r'))) break;
                if (n == 1) answer += c;
            }
        }
    }
    if (!echo) write_full(tty.get(), as_bytes("\n"), "the terminal");
    stop_if_asked();
    if (n <= 0 && answer.empty()) throw Error(text("no answer to \"", question, "\""));
    return answer;
}
bool yes(const std::string& answer) {
    return answer == "yes" || answer == "y" || answer == "Y" || answer == "YES" || answer == "Yes";
}

bool have_terminal() { return bool(terminal()) && isatty(0); }

// ---- sockets between our own processes ----------------------------------------------

/// Two ends of a socket; throws Error.
std::pair<Fd, Fd> socket_pair(int type) {
    int ends[2];
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) throw system_error("make", "a socket");
    return {Fd(ends[0]), Fd(ends[1])};
}

// ==> C5
/// How long the process at the other end may take. `asked`: until the run was asked to end, and that is over;
/// `silence`: how long nothing may come over the line meanwhile.
struct Wait {
    bool asked;
    Clock::duration silence;
    static const Wait for_ever, while_wanted;
};
const Wait Wait::for_ever{false, Clock::duration::max()}, Wait::while_wanted{true, Clock::duration::max()};
constexpr auto kOthersGrace = std::chrono::seconds(1); // beyond what it has itself, to say how it ended

/// Whether a socket can go on; waits for that. False where the other end stands still. Throws Interrupted.
bool await_socket(int socket, short events, Wait wait) {
    auto moved = [] { return g_common.traffic.up + g_common.traffic.down; };
    auto since = Clock::now();
    uint64_t before = moved();
    for (pollfd p{socket, events, 0}; poll(&p, 1, 250) <= 0;) {
        if (wait.asked && overdue() &&
            Clock::now().time_since_epoch() > Clock::duration(g_stop_by) + kOthersGrace)
            throw Interrupted();
        if (std::exchange(before, moved()) != before) since = Clock::now();
        if (Clock::now() - since > wait.silence) return false;
    }
    return true;
}
/// Whether all of it went: false where nobody is at the other end any more. Throws Interrupted.
bool send_full(int socket, View from, const Wait& wait) {
    while (!from.empty()) {
        ssize_t n = ::send(socket, from.data(), from.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
        if (n < 0 && errno == EAGAIN && !await_socket(socket, POLLOUT, wait)) return false;
        from = from.subspan(n < 0 ? 0 : size_t(n));
    }
    return true;
}
/// Whether all of it came. Throws Interrupted.
bool receive_full(int socket, std::span<uint8_t> into, const Wait& wait) {
    while (!into.empty()) {
        ssize_t n = ::recv(socket, into.data(), into.size(), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
        if (n < 0 && errno == EAGAIN && !await_socket(socket, POLLIN, wait)) return false;
        into = into.subspan(n < 0 ? 0 : size_t(n));
    }
    return true;
}
// <== C5

constexpr size_t kMessageMax = 64 * KiB; // bytes of a message, and
constexpr size_t kPassedMax = 32;        // descriptors with it

/// One message, and descriptors that the other process gets copies of; returns whether it went.
bool send_message(int socket, View bytes, std::span<const Fd> passed = {}) {
    iovec part{const_cast<uint8_t*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kPassedMax * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!passed.empty()) {
        std::array<int, kPassedMax> numbers{};
        std::ranges::transform(passed, numbers.begin(), &Fd::get);
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(passed.size() * sizeof(int));
        auto* header = CMSG_FIRSTHDR(&message);
        header->cmsg_len = CMSG_LEN(passed.size() * sizeof(int));
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        std::memcpy(CMSG_DATA(header), numbers.data(), passed.size() * sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL) >= 0;
}
struct Message {
    Bytes bytes;
    std::vector<Fd> passed;
};
/// The next message; none at the end, or where it is longer than any of ours. Throws Interrupted.
std::optional<Message> receive_message(int socket, const Wait& wait) {
    Message got{Bytes(kMessageMax), {}};
    iovec part{got.bytes.data(), got.bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kPassedMax * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ssize_t n = -1;
    while ((n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT)) < 0 &&
           (errno == EINTR || errno == EAGAIN))
        await_socket(socket, POLLIN, wait);
    auto* header = n > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= header->cmsg_len; at += sizeof(int)) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
            got.passed.emplace_back(fd);
        }
    if (n <= 0 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) return {};
    got.bytes.resize(size_t(n));
    return got;
}

// ---- commands --------------------------------------------------------------------------

// ==> C4
/// fork(), after which the child does not do as we do when a signal comes: it has the usual ways. -1: errno
/// says why not.
pid_t fork_quietly() {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
        struct sigaction now {};
        if (pid == 0 && sigaction(number, nullptr, &now) == 0 && now.sa_handler != SIG_IGN)
            signal(number, SIG_DFL);
    }
    int why = errno;
    sigprocmask(SIG_SETMASK, &before, nullptr);
    errno = why;
    return pid;
}
// <== C4

/// There is no such program.
struct NoProgram : Error {
    using Error::Error;
};

/// A command whose output is read or, through a socket, that is talked to. It gets none of our secrets (I8),
/// and one that is talked to is not interrupted from the terminal: it carries what we still have to say.
class Command {
  public:
    /// held: it begins with go(). For what needs rights (sudo) that the walls take from what is begun later.
    enum How { read, talk, held };
    /// `name`: for messages, which have none of its arguments (I8). Throws NoProgram, Error.
    Command(const std::vector<std::string>& words, const std::string& name, How how = read) : name_(name) {
        int ends[2];
        if ((how == talk ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)
                         : pipe2(ends, O_CLOEXEC)) != 0)
            throw system_error("make a pipe for", name_);
        output = Fd(ends[0]);
        Fd theirs(ends[1]);
        std::vector<char*> argv, variables;
        for (auto& w : words) argv.push_back(const_cast<char*>(w.c_str()));
        for (char** v = environ; *v; ++v)
            if (!std::string_view(*v).starts_with("NFREEZE_")) variables.push_back(*v);
        argv.push_back(nullptr);
        variables.push_back(nullptr);
        int bad = how == held ? hold(theirs, argv, variables) : spawn(theirs, argv, variables, how == talk);
        if (bad != 0) cannot_run(bad);
    }
    ~Command() {
        output = Fd();
        for (int number : {SIGTERM, SIGKILL}) { // some ignore the first
            if (pid_ > 0) kill(pid_, number);
            for (auto until = Clock::now() + std::chrono::seconds(2);
                 pid_ > 0 && Clock::now() < until && !ended(nullptr);)
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
    }
    Command(const Command&) = delete;
    Command& operator=(const Command&) = delete;
    Fd output;
    /// Throws Error unless it ended well.
    void wait() {
        int status = 0;
        for (output = Fd(); !ended(&status);) pause_for(std::chrono::milliseconds(5));
        if (status != 0)
            throw Error(
                text(in_quotes(name_), WIFEXITED(status) ? " failed with status " : " was ended by signal ",
                     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), ": nothing was changed"));
    }
    /// All that it prints; throws like wait(), and where that is more than `max` bytes.
    std::string all_output(size_t max) {
        std::string out(max + 1, '\0');
        out.resize(read_stream(output.get(), {reinterpret_cast<uint8_t*>(out.data()), out.size()}, name_));
        if (out.size() > max)
            throw Error(text(in_quotes(name_), " prints more than ", max, " bytes: nothing was changed"));
        wait();
        return out;
    }
    /// What it connected to and hands over in place of its output (ssh's ProxyUseFdpass); throws Error.
    Fd passed_descriptor() {
        auto got = receive_message(output.get(), Wait::while_wanted);
        if (!got || got->passed.size() != 1)
            throw Error(text(in_quotes(name_), " passed no connection on"), Exit::network);
        return std::move(got->passed[0]);
    }
    void terminate() {
        if (pid_ > 0) kill(pid_, SIGTERM);
    }
    bool ended(int* status) {
        auto pid = waitpid(pid_, status, WNOHANG);
        if (pid == 0 || (pid < 0 && errno == EINTR)) return false;
        pid_ = 0;
        return true;
    }

    /// Lets one that is held begin; throws like the constructor.
    void go() {
        auto gate = std::exchange(gate_, Fd());
        int bad = 0;
        if (::write(gate.get(), "", 1) != 1) throw system_error("run", name_);
        for (ssize_t n = -1; n < 0;) // ends where the program begins
            if ((n = ::recv(gate.get(), &bad, sizeof bad, 0)) < 0 && errno != EINTR) break;
        if (bad != 0) cannot_run(bad);
    }

  private:
    [[noreturn]] void cannot_run(int bad) {
        if (bad == ENOENT) throw NoProgram(system_error("run", name_, bad).what());
        throw system_error("run", name_, bad);
    }
    int spawn(const Fd& theirs, std::vector<char*>& argv, std::vector<char*>& variables, bool talks) {
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t ignored, blocked;
        sigemptyset(&ignored);
        sigaddset(&ignored, SIGPIPE); // by us, but not by what we run
        sigemptyset(&blocked);
        if (talks) sigaddset(&blocked, SIGINT);
        posix_spawn_file_actions_init(&actions);
        if (talks) posix_spawn_file_actions_adddup2(&actions, theirs.get(), 0);
        posix_spawn_file_actions_adddup2(&actions, theirs.get(), 1);
        posix_spawnattr_init(&attributes);
        posix_spawnattr_setsigdefault(&attributes, &ignored);
        posix_spawnattr_setsigmask(&attributes, &blocked);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
        int bad = posix_spawnp(&pid_, argv[0], &actions, &attributes, argv.data(), variables.data());
        posix_spawn_file_actions_destroy(&actions);
        posix_spawnattr_destroy(&attributes);
        return bad;
    }
    static bool is_there(const std::string& program) {
        const char* given = getenv("PATH");
        std::istringstream directories(given ? given : "/bin:/usr/bin");
        bool found = program.find('/') != program.npos; // then the system says it
        for (std::string d; !found && std::getline(directories, d, ':');)
            found = access(((d.empty() ? "." : d) + "/" + program).c_str(), X_OK) == 0;
        return found;
    }
    /// Before there are threads. Returns what the system says.
    int hold(const Fd& theirs, std::vector<char*>& argv, std::vector<char*>& variables) {
        if (!is_there(argv[0])) return ENOENT;
        auto [ours, its] = socket_pair(SOCK_STREAM);
        pid_ = fork_quietly();
        if (pid_ < 0) return errno;
        if (pid_ > 0) {
            gate_ = std::move(ours);
            return 0;
        }
        char go = 0;
        ours = Fd();
        signal(SIGPIPE, SIG_DFL);
        dup2(theirs.get(), 1);
        if (::read(its.get(), &go, 1) != 1) _exit(0); // it is not wanted
        execvpe(argv[0], argv.data(), variables.data());
        int bad = errno;
        (void)!::write(its.get(), &bad, sizeof bad);
        _exit(127);
    }
    Fd gate_; // of one that is held
    std::string name_;
    pid_t pid_ = 0;
};

/// Runs tasks in the order they were pushed, on a fixed number of threads. push() waits while all of
/// these are busy and `queue_max` tasks are waiting. The first exception of a task is thrown by the
/// next push() or drain(); the tasks behind it are dropped, as are those still waiting at destruction.
class TaskPool {
  public:
    TaskPool(int threads, size_t queue_max) : tasks_max_(size_t(threads) + queue_max) {
        try {
            for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
        } catch (...) { // no memory for another
            stop();
            throw;
        }
    }
    ~TaskPool() { stop(); }
    TaskPool(const TaskPool&) = delete;
    TaskPool& operator=(const TaskPool&) = delete;

    bool full() {
        std::lock_guard lock(mutex_);
        return !has_room();
    }
    /// Throws the exception of a task that failed, if one did.
    void check() {
        std::lock_guard lock(mutex_);
        if (failure_) std::rethrow_exception(failure_);
    }
    void push(std::function<void()> task) {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] { return has_room() || failure_; });
        if (failure_) std::rethrow_exception(failure_);
        queue_.push_back(std::move(task));
        wake_.notify_one();
    }
    /// Waits until all that was pushed has ended.
    void drain() {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] { return (queue_.empty() && running_ == 0) || failure_; });
        if (failure_) std::rethrow_exception(failure_);
    }
    /// Drops what has not begun and waits for what has, whether it fails or not.
    void abandon() {
        std::unique_lock lock(mutex_);
        queue_.clear();
        room_.wait(lock, [&] { return running_ == 0; });
    }

  private:
    void stop() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
            queue_.clear();
        }
        wake_.notify_all();
        for (auto& t : threads_) t.join();
    }
    bool has_room() const { return queue_.size() + size_t(running_) < tasks_max_; }
    void run() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
            if (stopping_) return;
            auto task = std::move(queue_.front());
            queue_.pop_front();
            ++running_;
            lock.unlock();
            std::exception_ptr failed;
            try {
                task();
            } catch (...) {
                failed = std::current_exception();
            }
            task = nullptr; // frees what the task held before anybody is told that it ended
            lock.lock();
            --running_;
            if (failed && !failure_) {
                failure_ = failed;
                queue_.clear();
            }
            room_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable wake_, room_;
    std::deque<std::function<void()>> queue_;
    std::exception_ptr failure_;
    size_t tasks_max_;
    int running_ = 0;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

// ============================================================================
// [SECTION] 4. Encoding
// ============================================================================
// Trusted with data.
// Uses: 2. Provides: Writer, Reader, hex. All integers are little-endian or LEB128. There is
// no pointer arithmetic on foreign bytes below this section: a Reader advances or throws.

class Writer {
  public:
    explicit Writer(size_t expected = 0) { out_.reserve(expected); }
    void u8(uint8_t v) { out_.push_back(v); }
    void u32(uint32_t v) { fixed(v, 4); }
    void u64(uint64_t v) { fixed(v, 8); }
    void varint(uint64_t v) {
        for (; v >= 0x80; v >>= 7) u8(uint8_t(v | 0x80));
        u8(uint8_t(v));
    }
    void zigzag(int64_t v) { varint(uint64_t(v) << 1 ^ uint64_t(v >> 63)); }
    void raw(View v) { out_.insert(out_.end(), v.begin(), v.end()); }
    void bytes(View v) {
        varint(v.size());
        raw(v);
    }
    void string(std::string_view s) { bytes({reinterpret_cast<const uint8_t*>(s.data()), s.size()}); }
    size_t size() const { return out_.size(); }
    View view() const { return out_; }
    Bytes take() { return std::exchange(out_, {}); }

  private:
    void fixed(uint64_t v, int n) {
        for (int i = 0; i < n; ++i) u8(uint8_t(v >> (8 * i)));
    }
    Bytes out_;
};

/// A cursor over bytes it does not own. Each call returns what it read or throws Corrupt.
class Reader {
  public:
    Reader(View in, std::string_view what) : in_(in), what_(what) {}
    uint8_t u8() { return raw(1)[0]; }
    uint32_t u32() { return uint32_t(fixed(4)); }
    uint64_t u64() { return fixed(8); }
    uint64_t varint() {
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            uint8_t b = u8();
            if (shift == 63 && b > 1) break;
            v |= uint64_t(b & 0x7f) << shift;
            if (b < 0x80) return v;
        }
        fail("a number too large");
    }
    int64_t zigzag() {
        uint64_t v = varint();
        return int64_t(v >> 1) ^ -int64_t(v & 1);
    }
    /// A number that must not be above `max`.
    size_t count(size_t max) {
        uint64_t v = varint();
        if (v > max) fail("a length beyond its limit");
        return size_t(v);
    }
    View raw(size_t n) {
        if (n > in_.size()) fail("an early end");
        View v = in_.first(n);
        in_ = in_.subspan(n);
        return v;
    }
    View bytes(size_t max) { return raw(count(max)); }
    std::string string(size_t max) {
        View v = bytes(max);
        return {v.begin(), v.end()};
    }
    template <size_t N> std::array<uint8_t, N> array() {
        std::array<uint8_t, N> a;
        std::ranges::copy(raw(N), a.begin());
        return a;
    }
    bool empty() const { return in_.empty(); }
    size_t left() const { return in_.size(); }
    void end() {
        if (!empty()) fail("bytes behind its end");
    }
    [[noreturn]] void fail(std::string_view why) const { throw Corrupt(text(what_, " holds ", why)); }

  private:
    uint64_t fixed(size_t n) {
        View v = raw(n);
        uint64_t x = 0;
        for (size_t i = 0; i < n; ++i) x |= uint64_t(v[i]) << (8 * i);
        return x;
    }
    View in_;
    std::string_view what_; // for messages: "a segment"
};

using Hash = std::array<uint8_t, 32>; // SHA-256; the name of an object
using Salt = std::array<uint8_t, 32>;
using ShortName = std::array<uint8_t, 16>; // the first half of a Hash
using SnapshotId = std::array<uint8_t, 16>;
using ChunkId = std::array<uint8_t, 16>;

std::string lower(std::string s) {
    for (char& c : s)
        if (c >= 'A' && c <= 'Z') c = char(c + 32);
    return s;
}

std::string hex(View bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (uint8_t b : bytes) out += {digits[b >> 4], digits[b & 15]};
    return out;
}

/// As much of an id as tells snapshots apart.
std::string short_id(View id) { return hex(id.first(4)); }

/// 64 lower-case hex digits, or nothing.
std::optional<Hash> parse_hash(std::string_view s) {
    Hash h;
    if (s.size() != 64) return {};
    for (size_t i = 0; i < 32; ++i) {
        auto digit = [&](char c) {
            return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        };
        int high = digit(s[2 * i]), low = digit(s[2 * i + 1]);
        if (high < 0 || low < 0) return {};
        h[i] = uint8_t(high << 4 | low);
    }
    return h;
}

ShortName short_name(const Hash& h) {
    ShortName s;
    std::copy_n(h.begin(), s.size(), s.begin());
    return s;
}

// ==> C1 C2
/// Where an object lies: a directory, a hash, and in index/ a number. With sealed bytes it is all that a
/// store is ever given; nothing of a file fits into it.
struct Name {
    enum Directory : uint8_t { keys, index, packs } directory = packs;
    Hash hash{};
    uint32_t seq = 0; // in index/ only
    auto operator<=>(const Name&) const = default;
    static const char* path(Directory d) {
        static constexpr const char* paths[] = {"keys", "index", "packs"};
        return paths[d];
    }
    /// In the repository.
    std::string path() const {
        return directory == index
                   ? text("index/", std::hex, std::setw(8), std::setfill('0'), seq, "-", hex(hash))
                   : text(path(directory), "/", hex(hash));
    }
    /// What a listing calls it; nothing where it is none of ours.
    static std::optional<Name> parse(Directory in, std::string_view listed) {
        uint32_t seq = 0;
        if (in == index) {
            if (listed.size() != 73 || listed[8] != '-' ||
                std::from_chars(&listed[0], &listed[8], seq, 16).ptr != &listed[8])
                return {};
            listed.remove_prefix(9);
        }
        auto hash = parse_hash(listed);
        return hash ? std::optional(Name{in, *hash, seq}) : std::nullopt;
    }
};

/// Bytes that a store gave. Whoever has them knows how many they are and nothing else: section 5 alone looks
/// inside, and gives out what a key has authenticated (I6). So whatever is a View or Bytes is not a server's.
class Foreign {
  public:
    Foreign() = default;
    explicit Foreign(Bytes bytes) : bytes_(std::move(bytes)) {}
    size_t size() const { return bytes_.size(); }

  private:
    friend class Keys;
    Bytes bytes_;
};

/// An object that may leave: only section 5 makes one, of ciphertext, and nothing else goes into a store.
class Sealed {
  public:
    const Name& name() const { return name_; }
    View bytes() const { return bytes_; }
    /// Its buffer, for the next one; it is empty then.
    Bytes take() { return std::exchange(bytes_, {}); }

  private:
    friend class Keys;
    Sealed() = default;
    Name name_;
    Bytes bytes_;
};
// <== C1 C2

std::string base64(View data, bool padded) {
    std::string out;
    CryptoPP::StringSource(data.data(), data.size(), true,
                           new CryptoPP::Base64Encoder(new CryptoPP::StringSink(out), false));
    while (!padded && out.ends_with('=')) out.pop_back();
    return out;
}
std::string unbase64(const std::string& s) {
    std::string out;
    CryptoPP::StringSource(s, true, new CryptoPP::Base64Decoder(new CryptoPP::StringSink(out)));
    return out;
}

/// Whether a pattern of `n` parts fits all of `m` things: `any(p)`, whether a part takes any number of them;
/// `one(p, i)`, whether another takes that one. Where it goes on wrongly, the last of the former takes one
/// more: earlier ones need not.
template <class Any, class One> bool fits(size_t n, size_t m, Any any, One one) {
    size_t last = n;
    for (size_t p = 0, i = 0, taken = 0;;) { // `taken`: up to where by `last`
        if (p < n && any(p))
            last = p++, taken = i;
        else if (i == m)
            return p == n;
        else if (p < n && one(p, i))
            ++p, ++i;
        else if (last < n)
            p = last + 1, i = ++taken;
        else
            return false;
    }
}

// ============================================================================
// [SECTION] 5. Crypto and sealed objects
// ============================================================================
// Trusted with secrets, and that nothing else leaves.
// Uses: 3, 4. Provides: Secret, derivation of keys, ids, hashes, and the only ways to seal an object and to
// look into one. Apart from the chunker's table and known_hosts' hashes these are the only uses of keys and
// hashes of the crypto library. Must hold: I6, I8.

// ==> C1 C2
/// Bytes that are wiped when they go and cannot be copied by accident (I8). They are not swapped out where
/// the system allows that; the few pages stay locked, for another secret may lie on them.
class Secret {
  public:
    explicit Secret(size_t size = 32) : data_(size) { (void)mlock(data_.data(), data_.size()); }
    explicit Secret(std::string_view s) : Secret(s.size()) { std::ranges::copy(s, data_.begin()); }
    Secret(Secret&& other) noexcept = default;
    Secret& operator=(Secret&& other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }
    ~Secret() { CryptoPP::SecureWipeBuffer(data_.data(), data_.size()); }
    std::span<uint8_t> span() { return data_; }
    View view() const { return data_; }
    size_t size() const { return data_.size(); }
    const char* chars() const { return reinterpret_cast<const char*>(data_.data()); }
    Secret clone() const { return Secret(std::string_view(chars(), size())); }
    bool operator==(const Secret& o) const {
        return size() == o.size() && CryptoPP::VerifyBufsEqual(data_.data(), o.data_.data(), size());
    }

  private:
    Bytes data_;
};

Secret hkdf(View key, View salt, std::string_view label) {
    Secret out(32);
    CryptoPP::HKDF<CryptoPP::SHA256>().DeriveKey(out.span().data(), out.size(), key.data(), key.size(),
                                                 salt.data(), salt.size(), as_bytes(label).data(),
                                                 label.size());
    return out;
}

struct ScryptCost {
    unsigned log_n = kScryptLogN;
    uint32_t r = kScryptR, p = kScryptP;
    bool acceptable() const {
        return log_n >= kScryptLogNMin && log_n < 31 && r >= kScryptR && p >= 1 && p <= kScryptPMax &&
               uint64_t(r) <= kScryptMemoryMax / 128 >> log_n;
    }
};

/// The key that a passphrase gives; takes 128 * N * r bytes of memory while it runs. By OpenSSL, which
/// is linked for libssh2's sake and takes two thirds of the time.
Secret stretch(const Secret& passphrase, View salt, ScryptCost cost) {
    Secret out(32);
    if (EVP_PBE_scrypt(passphrase.chars(), passphrase.size(), salt.data(), salt.size(),
                       uint64_t(1) << cost.log_n, cost.r, cost.p, 2 * kScryptMemoryMax, out.span().data(),
                       out.size()) != 1)
        throw std::bad_alloc();
    return out;
}

Hash sha256(View data) {
    Hash h;
    CryptoPP::SHA256().CalculateDigest(h.data(), data.data(), data.size());
    return h;
}

/// Chunk ids: the first 16 bytes of HMAC-SHA-256. One object a thread.
class IdHasher {
  public:
    explicit IdHasher(const Secret& key) : mac_(key.view().data(), key.size()) {}
    ChunkId operator()(View data) {
        ChunkId id;
        mac_.Update(data.data(), data.size());
        mac_.TruncatedFinal(id.data(), id.size());
        return id;
    }

  private:
    CryptoPP::HMAC<CryptoPP::SHA256> mac_;
};

constexpr size_t kTag = 16; // bytes that sealing adds

// Nonces are counters: each key seals one object only, so that none repeats.
constexpr uint64_t kNonceTable = ~uint64_t(0), kNonceFooter = ~uint64_t(0) - 1;

std::array<uint8_t, 12> nonce(uint64_t number) {
    std::array<uint8_t, 12> n{};
    for (size_t i = 0; i < 8; ++i) n[i] = uint8_t(number >> (8 * i));
    return n;
}

/// AES-256-GCM under one key with the same associated data throughout. One object a thread.
class Aead {
  public:
    Aead(const Secret& key, View associated)
        : key_(key.clone()), associated_(associated.begin(), associated.end()) {}

    /// Appends the ciphertext of both parts, as of one, and its tag to `out`.
    void seal(uint64_t number, View head, View body, Bytes& out) {
        auto iv = nonce(number);
        if (!sealer_) sealer_.emplace().SetKeyWithIV(key_.view().data(), key_.size(), iv.data(), iv.size());
        size_t at = out.size(), size = head.size() + body.size();
        out.insert(out.end(), head.begin(), head.end());
        out.insert(out.end(), body.begin(), body.end());
        out.resize(at + size + kTag);
        sealer_->EncryptAndAuthenticate(&out[at], &out[at + size], kTag, iv.data(), int(iv.size()),
                                        associated_.data(), associated_.size(), &out[at],
                                        size); // in its place
    }
    void seal(uint64_t number, View plain, Bytes& out) { seal(number, plain, {}, out); }
    /// The plaintext, or nothing where the tag does not match (I6).
    [[nodiscard]] std::optional<Bytes> open(uint64_t number, View sealed) {
        Bytes copy(sealed.begin(), sealed.end());
        auto plain = open_in_place(number, copy);
        if (!plain) return {};
        copy.resize(plain->size());
        return copy;
    }
    /// The same, where the ciphertext is.
    [[nodiscard]] std::optional<View> open_in_place(uint64_t number, std::span<uint8_t> sealed) {
        if (sealed.size() < kTag) return {};
        auto iv = nonce(number);
        if (!opener_) opener_.emplace().SetKeyWithIV(key_.view().data(), key_.size(), iv.data(), iv.size());
        auto plain = sealed.first(sealed.size() - kTag);
        bool good = opener_->DecryptAndVerify(plain.data(), sealed.data() + plain.size(), kTag, iv.data(),
                                              int(iv.size()), associated_.data(), associated_.size(),
                                              plain.data(), plain.size());
        return good ? std::optional<View>(plain) : std::nullopt;
    }

  private:
    using Gcm = CryptoPP::GCM<CryptoPP::AES>;
    Secret key_;
    Bytes associated_;
    std::optional<Gcm::Encryption> sealer_;
    std::optional<Gcm::Decryption> opener_;
};

// ---- sealed objects: the shape that packs and segments share -------------------

enum class Kind : uint8_t { data = 0, tree = 1, snapshot = 2, records = 3 };

struct Chunk {
    ChunkId id;
    uint32_t length; // raw bytes
};
struct FrameInfo {
    Kind kind = Kind::data;
    uint32_t sealed = 0;       // bytes with the tag
    std::vector<Chunk> chunks; // in order; none in a segment
};
using Table = std::vector<FrameInfo>;

void encode_table(Writer& out, const Table& table) {
    out.varint(table.size());
    for (auto& f : table) {
        out.u8(uint8_t(f.kind));
        out.varint(f.sealed);
        out.varint(f.chunks.size());
        for (auto& c : f.chunks) out.varint(c.length);
        for (auto& c : f.chunks) out.raw(c.id);
    }
}

Table decode_table(Reader& in) {
    Table table(in.count(std::min(in.left(), kPackMax / kTag)));
    for (auto& f : table) {
        f.kind = Kind(in.u8());
        if (f.kind > Kind::records) in.fail("an unknown kind of frame");
        f.sealed = uint32_t(in.count(kFrameMax + MiB));
        f.chunks.resize(in.count(in.left() / sizeof(ChunkId)));
        size_t raw = 0;
        for (auto& c : f.chunks) {
            c.length = uint32_t(in.count(kChunkMax));
            if ((raw += c.length) > kFrameMax) in.fail("a frame beyond its limit");
        }
        for (auto& c : f.chunks) c.id = in.array<16>();
    }
    return table;
}

/// What kind of object, and for a segment which number: associated data of all that is sealed.
struct Label {
    std::array<uint8_t, 8> magic; // the last byte is the version
    uint32_t seq = 0;             // of a segment; 0 for a pack
    Bytes associated() const {
        Writer w;
        w.raw(magic);
        w.u32(seq);
        return w.take();
    }
};
constexpr Label kPackLabel{{'n', 'f', 'r', 'z', 'p', 'a', 'k', 1}};
constexpr Label kSegmentLabel{{'n', 'f', 'r', 'z', 's', 'e', 'g', 1}};
Label segment_label(uint32_t seq) { return {kSegmentLabel.magic, seq}; }
constexpr std::array<uint8_t, 8> kKeyMagic{'n', 'f', 'r', 'z', 'k', 'e', 'y', 1};
constexpr size_t kHead = 8 + sizeof(Salt), kFooter = 8 + kTag;

/// magic 8, log2 N 1, r 4, p 4, salt 32; sealed with all before as associated data: master key
/// 32, time of creation 8 (ns), label 88 (user@host, zero-padded); tag 16. 193 bytes.
constexpr size_t kKeyHead = 8 + 1 + 4 + 4 + 32, kKeyLabel = 88,
                 kKeySize = kKeyHead + 32 + 8 + kKeyLabel + kTag;

/// PADME: the next size whose low bits are zero, so that sizes tell O(log log n) bits; whole KiB at least.
size_t padme(size_t n) {
    int e = int(std::bit_width(n | 1)) - 1, s = int(std::bit_width(unsigned(e))), low = std::max(e - s, 10);
    size_t mask = (size_t(1) << low) - 1;
    return (n + mask) & ~mask;
}

/// All keys of a repository, derived from its master key, and the one way between what a store has and what
/// the rest of the program sees: with these what leaves is sealed (I1), and what came is opened (I6). What
/// they are nobody else can see, but for the one that says where files are cut.
class Keys {
  public:
    explicit Keys(const Secret& master)
        : id_(hkdf(master.view(), {}, "nfreeze id")), gear_(hkdf(master.view(), {}, "nfreeze gear")),
          pack_(hkdf(master.view(), {}, "nfreeze pack")), index_(hkdf(master.view(), {}, "nfreeze index")) {}
    IdHasher hasher() const { return IdHasher(id_); }
    const Secret& gear() const { return gear_; }

    /// Whether it is what its name says (I1).
    static bool is_whole(const Foreign& f, const Name& name) { return sha256(f.bytes_) == name.hash; }
    /// What is said before anything can be authenticated: which key opens it. Zeros where it is too short.
    static Salt salt(const Foreign& f) { return first<sizeof(Salt)>(f, 8); }
    /// What was sealed just now, to be opened again.
    static Foreign back(Sealed s) { return Foreign(s.take()); }

    class Sealer;
    class Opener;

    // -- key objects: the master key, sealed with what scrypt makes of a passphrase --

    static Sealed seal_master(const Secret& master, const Secret& passphrase, ScryptCost cost,
                              int64_t time_ns, std::string label);
    /// The cost that a key object asks for; throws Error where it is of another version, Corrupt.
    static ScryptCost key_cost(const Foreign& object);
    /// The master key, or nothing if the passphrase does not open this object; throws Corrupt.
    static std::optional<Secret> open_master(const Foreign& object, const Secret& passphrase);

  private:
    /// The key of one object: no two share one, for each has a salt of its own.
    Aead aead(const Label& label, View salt) const {
        return Aead(hkdf((label.magic == kPackLabel.magic ? pack_ : index_).view(), salt, "nfreeze object"),
                    label.associated());
    }
    /// What this is given is ciphertext.
    static Sealed sealed(Name::Directory directory, uint32_t seq, Bytes bytes) {
        Sealed s;
        s.name_ = {directory, sha256(bytes), seq};
        s.bytes_ = std::move(bytes);
        return s;
    }
    template <size_t N> static std::array<uint8_t, N> first(const Foreign& f, size_t from) {
        std::array<uint8_t, N> a{};
        if (f.size() >= from + N) std::copy_n(f.bytes_.begin() + long(from), N, a.begin());
        return a;
    }
    /// An unknown version stops the run; anything else that is not `magic` is damage.
    static void check_magic(const Foreign& f, const std::array<uint8_t, 8>& magic, std::string_view what) {
        auto found = first<8>(f, 0);
        if (!std::equal(magic.begin(), magic.end() - 1, found.begin()))
            throw Corrupt(text(what, " does not begin as it must"));
        if (found[7] != magic[7])
            throw Error(text(what, " has format version ", int(found[7]), "; this nfreeze knows ",
                             int(magic[7]), ": get a newer one"));
    }
    Secret id_, gear_, pack_, index_;
};

struct SealedObject {
    Sealed sealed;
    Salt salt;
    Table table;
};

/// An object in the making. Frames are sealed as they come, under a fresh salt and so under a fresh
/// key and name: memory holds them once.
class Keys::Sealer {
  public:
    /// The object is made in `buffer`.
    Sealer(const Keys& keys, const Label& label, Bytes buffer = {})
        : label_(label), bytes_(std::move(buffer)) {
        fill_random(salt_);
        aead_.emplace(keys.aead(label, salt_));
        bytes_.assign(label.magic.begin(), label.magic.end());
        bytes_.insert(bytes_.end(), salt_.begin(), salt_.end());
    }
    /// Adds a frame; `info` need not say its sealed length yet.
    void add(FrameInfo info, View head, View body = {}) {
        aead_->seal(table_.size(), head, body, bytes_);
        info.sealed = uint32_t(head.size() + body.size() + kTag);
        chunks_ += info.chunks.size();
        table_.push_back(std::move(info));
    }
    /// Bytes so far, with about what the table will take.
    size_t size() const { return bytes_.size() + chunks_ * 20; }
    /// Once.
    SealedObject finish() {
        Writer tail, footer;
        encode_table(tail, table_);
        footer.u64(bytes_.size());
        Bytes plain = tail.take();
        size_t whole = bytes_.size() + plain.size() + kTag + kFooter;
        plain.resize(plain.size() + padme(whole) - whole); // the padding is sealed with the table
        aead_->seal(kNonceTable, plain, bytes_);
        aead_->seal(kNonceFooter, footer.view(), bytes_);
        auto directory = label_.magic == kPackLabel.magic ? Name::packs : Name::index;
        return {sealed(directory, label_.seq, std::move(bytes_)), salt_, std::move(table_)};
    }

  private:
    Label label_;
    Salt salt_;
    std::optional<Aead> aead_;
    Bytes bytes_;
    Table table_;
    size_t chunks_ = 0;
};

/// Opens parts of one object; nothing comes out of it that was not authenticated (I6). One a thread.
class Keys::Opener {
  public:
    Opener(const Keys& keys, const Label& label, const Salt& salt)
        : label_(label), aead_(keys.aead(label, salt)) {}
    /// `length` bytes from `offset`, of nonce `number`: the plaintext, or nothing where the tag does not
    /// match.
    [[nodiscard]] std::optional<Bytes> open(uint64_t number, const Foreign& f, uint64_t offset,
                                            uint64_t length) {
        if (offset > f.size() || length > f.size() - offset) return {};
        return aead_.open(number, View(f.bytes_).subspan(offset, length));
    }
    /// The same, where the ciphertext is.
    [[nodiscard]] std::optional<View> open_in_place(uint64_t number, Foreign& f, uint64_t offset,
                                                    uint64_t length) {
        if (offset > f.size() || length > f.size() - offset) return {};
        return aead_.open_in_place(number, std::span(f.bytes_).subspan(offset, length));
    }
    /// Of a whole object, whether its end is there, and says that it is the end.
    bool has_end(const Foreign& whole) {
        return whole.size() >= kHead + kFooter && open(kNonceFooter, whole, whole.size() - kFooter, kFooter);
    }
    /// Of a whole object, the table and where it begins; throws Corrupt.
    std::pair<Table, uint64_t> open_table(const Foreign& whole, std::string_view what) {
        check_magic(whole, label_.magic, what);
        auto bad = [&] { return Corrupt(text(what, " does not authenticate")); };
        if (whole.size() < kHead + kTag + kFooter) throw bad();
        auto footer = open(kNonceFooter, whole, whole.size() - kFooter, kFooter);
        if (!footer) throw bad();
        uint64_t table_at = Reader(*footer, what).u64();
        if (table_at < kHead || table_at > whole.size() - kFooter) throw bad();
        auto plain = open(kNonceTable, whole, table_at, whole.size() - kFooter - table_at);
        if (!plain) throw bad();
        Reader in(*plain, what);
        auto table = decode_table(in);
        for (uint8_t zero : in.raw(in.left()))
            if (zero != 0) in.fail("bytes behind its end");
        return {std::move(table), table_at};
    }

  private:
    Label label_;
    Aead aead_;
};
using Sealer = Keys::Sealer;
using Opener = Keys::Opener;

struct OpenedObject {
    Table table;
    std::vector<Bytes> frames; // still compressed
};

/// Opens a whole object that was read; throws Corrupt.
OpenedObject open_object(const Keys& keys, const Label& label, const Foreign& whole, std::string_view what) {
    auto bad = [&] { return Corrupt(text(what, " does not authenticate")); };
    Opener opener(keys, label, Keys::salt(whole));
    auto [table, table_at] = opener.open_table(whole, what);
    OpenedObject o{std::move(table), {}};
    uint64_t at = kHead;
    for (auto& f : o.table) {
        if (f.sealed > table_at - at) throw bad();
        auto frame = opener.open(o.frames.size(), whole, at, f.sealed);
        if (!frame) throw bad();
        o.frames.push_back(std::move(*frame));
        at += f.sealed;
    }
    if (at != table_at) throw bad();
    return o;
}

// ---- key objects ------------------------------------------------------------------

Sealed Keys::seal_master(const Secret& master, const Secret& passphrase, ScryptCost cost, int64_t time_ns,
                         std::string label) {
    Writer head;
    head.raw(kKeyMagic);
    head.u8(uint8_t(cost.log_n));
    head.u32(cost.r);
    head.u32(cost.p);
    Salt salt;
    fill_random(salt);
    head.raw(salt);
    Bytes out = head.take();
    out.reserve(kKeySize); // it is sealed in its place: no copy of the plaintext is left where it grew
    Secret plain(32 + 8 + kKeyLabel);
    Writer rest;
    rest.u64(uint64_t(time_ns));
    label.resize(kKeyLabel);
    rest.raw(as_bytes(label));
    std::ranges::copy(master.view(), plain.span().begin());
    std::ranges::copy(rest.view(), plain.span().begin() + 32);
    Aead(stretch(passphrase, salt, cost), View(out)).seal(0, plain.view(), out);
    return sealed(Name::keys, 0, std::move(out));
}

ScryptCost Keys::key_cost(const Foreign& object) {
    check_magic(object, kKeyMagic, "a key object");
    if (object.size() != kKeySize) throw Corrupt("a key object has the wrong length");
    auto said = first<9>(object, 8);
    Reader in(said, "a key object");
    ScryptCost cost;
    cost.log_n = in.u8();
    cost.r = in.u32();
    cost.p = in.u32();
    if (!cost.acceptable()) throw Corrupt("a key object asks for an unacceptable scrypt cost");
    return cost;
}

std::optional<Secret> Keys::open_master(const Foreign& object, const Secret& passphrase) {
    auto cost = key_cost(object);
    View all = object.bytes_;
    Aead aead(stretch(passphrase, all.subspan(kKeyHead - 32, 32), cost), all.first(kKeyHead));
    auto plain = aead.open(0, all.subspan(kKeyHead));
    if (!plain) return {};
    Secret master(32);
    std::copy_n(plain->begin(), 32, master.span().begin());
    CryptoPP::SecureWipeBuffer(plain->data(), plain->size());
    return master;
}

/// The master key on paper: four lines of 8 bytes, each with 2 of the SHA-256 of its number and them.
/// Owned and wiped by the caller.
std::string recovery_sheet(const Secret& master) {
    std::string sheet;
    sheet.reserve(256); // so that no copy is left behind
    for (size_t line = 0; line < 4; ++line) {
        Secret numbered(11);
        auto bytes = numbered.span();
        bytes[0] = uint8_t(line + 1);
        std::ranges::copy(master.view().subspan(8 * line, 8), bytes.begin() + 1);
        auto check = sha256(bytes.first(9));
        std::copy_n(check.begin(), 2, bytes.begin() + 9);
        sheet += char('1' + line);
        sheet += ' ';
        for (size_t i = 1; i < bytes.size(); ++i) {
            if (i % 2 == 1) sheet += ' ';
            for (int digit : {bytes[i] >> 4, bytes[i] & 15}) sheet += "0123456789abcdef"[digit];
        }
        sheet += '\n';
    }
    return sheet;
}

/// One line of it: its number (1 to 4; 0: it is none of these lines) and 8 bytes of the key. What is no digit
/// counts for nothing. Throws Error where there is a typing error.
std::pair<unsigned, Secret> read_recovery_line(std::string_view line) {
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    if (line.empty() || line[0] < '1' || line[0] > '4') return {0, Secret(0)};
    auto number = unsigned(line[0] - '0');
    Secret digits(20), numbered(11), bytes(8);
    size_t n = 0;
    for (char c : line.substr(1))
        if (std::isxdigit(uint8_t(c)) && n++ < digits.size()) digits.span()[n - 1] = uint8_t(c);
    numbered.span()[0] = uint8_t(number);
    for (size_t i = 0; i < 10 && n == digits.size(); ++i) {
        std::from_chars(digits.chars() + 2 * i, digits.chars() + 2 * i + 2, numbered.span()[i + 1], 16);
    }
    auto check = sha256(numbered.view().first(9));
    if (n != digits.size() || !std::equal(check.begin(), check.begin() + 2, numbered.view().begin() + 9))
        throw Error(
            text("line ", number, " of the recovery sheet is not what was printed: look for a typing error"));
    std::copy_n(numbered.view().begin() + 1, 8, bytes.span().begin());
    return {number, std::move(bytes)};
}
/// The inverse of recovery_sheet(); other lines count for nothing. Throws Error that names a line with a
/// typing error.
Secret read_recovery_sheet(std::string_view sheet) {
    Secret master(32);
    unsigned found = 0;
    for (std::string_view rest = sheet; !rest.empty();) {
        auto line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        auto [number, bytes] = read_recovery_line(line);
        if (number == 0) continue;
        std::ranges::copy(bytes.view(), master.span().begin() + 8 * (number - 1));
        found |= 1u << number;
    }
    if (found != 0b11110)
        throw Error("a recovery sheet has four lines, which begin with 1 to 4 and have 20 more digits each");
    return master;
}
// <== C1 C2

// ============================================================================
// [SECTION] 6. The wall: store, processes
// ============================================================================
// Trusted with secrets, and that nothing else leaves.
// Uses: 2 to 5. Provides: Store; what each process is refused; the processes; what keeper and wire say to
// each other, and the keeper's side of it; last, a store on this machine. Must hold: C1 to C6; objects are
// created once, never changed. What comes from a store is foreign: sizes are checked by the callers, bytes
// are authenticated by section 5.

struct ObjectInfo {
    Name name;
    uint64_t size; // bytes
    int64_t mtime; // seconds, by the server's clock
};
/// What a directory holds, as whoever keeps it calls it: to be shown, or to become a Name.
struct Listed {
    std::string name;
    uint64_t size;
    int64_t mtime;
};
/// A directory of the repository, or nothing for the repository itself.
using Where = std::optional<Name::Directory>;

/// What a create() may throw when nobody knows whether the object is there now. It is never
/// repeated under the same name: the caller seals it anew, which gives it a new name.
struct Uncertain : ConnectionLost {
    using ConnectionLost::ConnectionLost;
    bool all_sent = false; // what was missing is the server's word for it: less at a time would not help
};

/// How far a run is, for whoever shows it. In bytes.
struct Work {
    explicit Work(Traffic& traffic) : up(traffic.up), down(traffic.down), moved(traffic.moved) {}
    std::atomic<uint64_t>&up, &down, &moved;
    std::atomic<const char*> phase{nullptr};              // in words that last; null: nothing that takes long
    std::atomic<uint64_t> files{0}, done{0}, expected{0}; // of this phase; 0 where nobody knows
    std::atomic<uint64_t> fresh{0},
        stored{0};                    // of the run: content that the repository did not have; its objects
    std::atomic<uint64_t> planned{0}; // of `expected`: what it is known for how much has to be moved
    std::atomic<uint64_t> line{0};    // of objects for that, in this phase: all, of which `moved` so far
    std::atomic<bool> settled{false}; // what will be written is counted already
    std::atomic<Clock::time_point> begun{Clock::now()}; // this phase
    void begin(const char* what, uint64_t bytes_expected = 0) {
        files = done = planned = line = moved = 0;
        settled = false;
        expected = bytes_expected;
        begun = Clock::now();
        phase = what;
    }
    /// So many bytes of objects, and no others, are to be read.
    void begin_reading(const char* what, uint64_t bytes) {
        begin(what, bytes);
        planned = line = bytes;
    }
    /// The share of this phase that is over, by what was moved of what has to be; none where that is not
    /// known.
    std::optional<double> share() const {
        double all = double(expected), known = double(planned), to_move = double(line),
               so_far = double(moved);
        if (all <= 0 || known <= 0) return {};
        double rest = std::max(all - known, 0.0) / known;
        return to_move > 0 ? std::min(so_far / (to_move * (1 + rest)), 1.0) : std::min(1 / (1 + rest), 1.0);
    }
    /// A file of so many bytes.
    void did(uint64_t bytes) {
        ++files;
        done += bytes;
    }
    /// Until the next begins, the terminal is somebody else's.
    void pause() {
        phase = nullptr;
        say("", true);
    }
};

// ==> C1 C2
/// Calls may come from many threads.
class Store {
  public:
    /// `traffic`: where another process counts it.
    explicit Store(std::chrono::seconds patience = std::chrono::seconds(kRetryFor),
                   Traffic* traffic = nullptr)
        : retry_for(patience), work(traffic ? *traffic : own_traffic_) {}
    virtual ~Store() = default;
    const Clock::duration retry_for; // what is lost on its way is tried again for so long
    Clock::duration patience{};      // before what somebody may be writing just now is looked at again
    Work work;
    /// All that is in a directory; throws NotThere, Error.
    virtual std::vector<Listed> list_all(Where where) = 0;
    /// Its objects; what else is there counts for nothing.
    virtual std::vector<ObjectInfo> list(Name::Directory directory) {
        std::vector<ObjectInfo> found;
        for (auto& o : list_all(directory))
            if (auto name = Name::parse(directory, o.name)) found.push_back({*name, o.size, o.mtime});
        return found;
    }
    /// `length` bytes from `offset`; throws NotThere, Corrupt if it is shorter, Error.
    virtual Foreign read(const Name& name, uint64_t offset, size_t length) = 0;
    /// Makes an object durable under its name, which is new (I2); throws Uncertain, Error.
    virtual void create(const Sealed& object) = 0;
    virtual void remove(const Name& name) = 0;
    /// What no run does: empties an object by whatever means there are, or gives it another name. For a check
    /// that it is refused.
    virtual void truncate(const Name& name) = 0;
    virtual void rename(const Name& from, const Name& to) = 0;
    /// Creates the repository's directory with what leads to it, or one in it. It may exist.
    virtual void make_directory(Where where) = 0;
    /// Whether somebody waits for an answer from elsewhere.
    virtual bool waiting() { return false; }

  private:
    Traffic own_traffic_;
};
// <== C1 C2

// ---- confinement: what the kernel refuses this process from now on --------------------
// None of it can be taken back, and threads that are made later have it. What a kernel does not offer is left
// out, and said (Walls).

// ==> C3 C4 C6
#if defined NFREEZE_INSTRUMENTED // a sanitizer needs what no other program does: such a binary tests all else
constexpr uint32_t kMachine = 0;
#elif defined __x86_64__
constexpr uint32_t kMachine = AUDIT_ARCH_X86_64;
#elif defined __aarch64__
constexpr uint32_t kMachine = AUDIT_ARCH_AARCH64;
#else
constexpr uint32_t kMachine = 0; // whose numbers nobody has listed: nothing is confined
#endif

/// Which walls stand, for who asks.
struct Walls {
    bool calls = false, files = false; // seccomp; Landlock
    std::string words() const {
        return calls && files ? "seccomp and Landlock"
               : calls        ? "seccomp; this kernel has no Landlock"
               : files        ? "Landlock; this kernel has no seccomp"
                              : "nothing; this kernel has neither seccomp nor Landlock";
    }
};

/// What this kernel, and this program, have for them.
Walls walls_here() {
    const uint32_t action = SECCOMP_RET_ERRNO;
    return {kMachine != 0 && syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0,
            kMachine != 0 && syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) >= 2};
}

/// Says so where a wall that this kernel has cannot be put up, with or without -v.
std::string missing_walls(const Walls& stand) {
    auto here = walls_here();
    return here.calls > stand.calls || here.files > stand.files
               ? text("warning: of the walls that this kernel has, not all could be put up: ", stand.words())
               : "";
}

/// A system call, named by its number. Where `argument` is given, what is said of the call is said of it only
/// where that argument's bits `mask` are `value`.
struct Call {
    long number;
    int argument = -1;
    uint32_t mask = 0, value = 0;
};

/// Has the kernel let `calls` through and refuse all others (`only`), or refuse them and let all others
/// through; in all threads. Returns whether it does.
bool confine_calls(const std::vector<Call>& calls, bool only) {
    constexpr uint32_t yes = SECCOMP_RET_ALLOW, no = SECCOMP_RET_ERRNO | EPERM,
                       unknown = SECCOMP_RET_ERRNO | ENOSYS;
    constexpr uint32_t kOtherNumbers = 0x40000000; // x32
    std::vector<sock_filter> f;
    auto load = [&](size_t at) { f.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, uint32_t(at))); };
    auto skip_unless = [&](int test, uint32_t value, size_t skip) {
        f.push_back(BPF_JUMP(uint16_t(BPF_JMP | test | BPF_K), value, 0, uint8_t(skip)));
    };
    auto end = [&](uint32_t verdict) { f.push_back(BPF_STMT(BPF_RET | BPF_K, verdict)); };
    load(offsetof(seccomp_data, arch));
    f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kMachine, 1, 0));
    end(SECCOMP_RET_KILL_PROCESS); // another machine's numbers mean other calls
    load(offsetof(seccomp_data, nr));
    skip_unless(BPF_JGE, kOtherNumbers, 1);
    end(no);
    for (auto& c : calls) {
        skip_unless(BPF_JEQ, uint32_t(c.number), c.argument < 0 ? 1 : 5);
        if (c.argument >= 0) { // both machines are little-endian: the lower half
            load(offsetof(seccomp_data, args) + sizeof(uint64_t) * size_t(c.argument));
            f.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, c.mask));
            f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, c.value, 0, 1));
            end(only ? yes : no);
            load(offsetof(seccomp_data, nr));
        } else {
            end(only ? yes : no);
        }
    }
    // Their arguments lie in memory, where a filter cannot look: the C library does without them.
    for (long hidden : {long(SYS_clone3), kOpenat2}) skip_unless(BPF_JEQ, uint32_t(hidden), 1), end(unknown);
    end(only ? no : yes);
    sock_fprog program{uint16_t(f.size()), f.data()};
    constexpr unsigned all_threads = 1, no_speculation_wall = 4; // SECCOMP_FILTER_FLAG_TSYNC, _SPEC_ALLOW
    return kMachine != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, all_threads | no_speculation_wall, &program) == 0 ||
            syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, all_threads, &program) == 0);
}
// <== C3 C4 C6

// ==> C4 C6
/// Has the kernel let this thread, and those that it makes, change nothing but what lies below `writable`;
/// `sealed_off`: nor open anything, reach any port or signal others. Returns whether it does (Landlock, from
/// Linux 5.19 on: the one before refuses all links from one directory to another).
bool confine_files(const std::vector<std::string>& writable, bool sealed_off) {
    struct {
        uint64_t files, ports, scopes;
    } handled{}; // as linux/landlock.h has it, which may be older than the kernel
    struct __attribute__((packed)) {
        uint64_t allowed;
        int32_t parent;
    } rule{};
    constexpr uint64_t execute = 1, read = 1 << 2 | 1 << 3, change_files = 1 << 1 | 1 << 14,
                       change_names = 0x3ff0; // directories, names, links
    long abi = kMachine == 0 ? -1 : syscall(SYS_landlock_create_ruleset, nullptr, 0, 1);
    if (abi < 2) return false;
    const uint64_t known = abi < 3 ? 0x3fff : 0x7fff; // 3: truncate
    handled.files = (execute | change_files | change_names | (sealed_off ? read : 0)) & known;
    if (sealed_off && abi >= 4) handled.ports = 1 | 2;  // neither bind nor connect, by TCP
    if (sealed_off && abi >= 6) handled.scopes = 1 | 2; // no abstract socket, no signal to others
    const size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    Fd rules(int(syscall(SYS_landlock_create_ruleset, &handled, size, 0)));
    if (!rules) return false;
    for (auto& path : writable) {
        Fd at(::open(path.c_str(), O_PATH | O_CLOEXEC));
        struct stat st;
        if (!at || fstat(at.get(), &st) != 0) continue; // what is not there cannot be written to
        rule = {(S_ISDIR(st.st_mode) ? change_files | change_names : change_files) & known, at.get()};
        if (syscall(SYS_landlock_add_rule, rules.get(), 1, &rule, 0) != 0) return false;
    }
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_landlock_restrict_self, rules.get(), 0) == 0;
}
// <== C4 C6

// ==> C4
/// Gives up what root may beyond others, which a call that is allowed could ask for.
void drop_rights() {
    struct {
        uint32_t version;
        int pid;
    } header{0x20080522, 0}; // of linux/capability.h: version 3, this process
    std::array<uint32_t, 6> none{};
    syscall(SYS_capset, &header, none.data());
}

/// The wire may move bytes through the sockets that it has, wait, use memory and make threads.
Walls confine_wire() {
    std::vector<Call> calls;
    auto let = [&](std::initializer_list<long> numbers) {
        for (long n : numbers) calls.push_back({n});
    };
    let({SYS_recvfrom, SYS_sendto, SYS_ppoll, SYS_futex, SYS_read, SYS_write, SYS_recvmsg, SYS_sendmsg,
         SYS_readv, SYS_writev, SYS_shutdown, SYS_close});
    let({SYS_munmap, SYS_mremap, SYS_brk, SYS_mlock, SYS_getrandom, SYS_clock_gettime, SYS_gettimeofday,
         SYS_nanosleep, SYS_clock_nanosleep});
    let({SYS_getpid, SYS_gettid, SYS_sched_yield, SYS_sched_getaffinity, SYS_rseq, SYS_rt_sigreturn,
         SYS_rt_sigprocmask, SYS_set_robust_list, SYS_restart_syscall, SYS_exit, SYS_exit_group});
#ifdef SYS_poll // not on every machine
    let({SYS_poll, SYS_time});
#endif
    constexpr uint32_t whole = 0xffffffff;                       // of an argument that is a number
    calls.push_back({SYS_tgkill, 0, whole, uint32_t(getpid())}); // abort() signals itself
    for (int command : {F_GETFD, F_SETFD, F_GETFL, F_SETFL})
        calls.push_back({SYS_fcntl, 1, whole, uint32_t(command)});
    for (int advice : {MADV_DONTNEED, MADV_FREE}) calls.push_back({SYS_madvise, 2, whole, uint32_t(advice)});
    calls.push_back({SYS_clone, 0, CLONE_THREAD, CLONE_THREAD});
    calls.push_back({SYS_mmap, 2, PROT_EXEC, 0});
    calls.push_back({SYS_mprotect, 2, PROT_EXEC, 0});
    drop_rights();
    bool files = confine_files({}, true);
    return {confine_calls(calls, true), files};
}
// <== C4

// ==> C3 C6
/// What the keeper may change on this machine once it has the passphrase.
enum class Writes { nothing, files };

/// The keeper has no network and starts no program; where it changes nothing it cannot open a file to write,
/// make, rename or remove one, or set what is said of one.
bool confine_keeper(Writes writes) {
    std::vector<Call> calls;
    auto refuse = [&](std::initializer_list<long> numbers) {
        for (long n : numbers) calls.push_back({n});
    };
    refuse({SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4,
            SYS_execve, SYS_execveat});
    refuse({SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_io_uring_setup, SYS_io_uring_enter,
            SYS_io_uring_register, SYS_pidfd_getfd, SYS_bpf, SYS_userfaultfd, SYS_add_key, SYS_request_key,
            SYS_keyctl});
    refuse({SYS_mount, SYS_umount2, SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fsconfig, SYS_fsmount,
            SYS_fspick, SYS_mount_setattr, SYS_setns, SYS_unshare, SYS_chroot, SYS_pivot_root,
            SYS_init_module, SYS_finit_module, SYS_kexec_load, SYS_open_by_handle_at});
    calls.push_back({SYS_ioctl, 1, 0xffffffff, TIOCSTI}); // types for the shell
    if (writes == Writes::files) return confine_calls(calls, false);
    for (uint32_t bit : {uint32_t(O_WRONLY), uint32_t(O_RDWR), uint32_t(O_CREAT), uint32_t(O_TRUNC)}) {
        calls.push_back({SYS_openat, 2, bit, bit});
#ifdef SYS_open
        calls.push_back({SYS_open, 1, bit, bit});
#endif
    }
    refuse({SYS_truncate, SYS_unlinkat, SYS_renameat2, SYS_mkdirat, SYS_linkat, SYS_symlinkat, SYS_mknodat,
            SYS_fchmod, SYS_fchmodat, kFchmodat2, SYS_fchown, SYS_fchownat, SYS_utimensat, SYS_setxattr,
            SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr});
    refuse({kSetxattrat, kRemovexattrat, kFileSetattr});
    for (auto sets : {FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR})
        calls.push_back({SYS_ioctl, 1, 0xffffffff, uint32_t(sets)});
#ifdef SYS_renameat // not on the newest machines
    refuse({SYS_renameat});
#endif
#ifdef SYS_unlink // nor these
    refuse({SYS_unlink, SYS_rename, SYS_creat, SYS_mkdir, SYS_rmdir, SYS_link, SYS_symlink, SYS_mknod,
            SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat});
#endif
    return confine_calls(calls, false);
}
// <== C3 C6

// ---- the processes --------------------------------------------------------------------
// The keeper is this one: it has the files, the keys and the terminal, and once it has the passphrase it has
// no network and starts no program. The wire talks to the server: it has what logs in, the host keys and
// ciphertext, and can open nothing. The dialer connects to the server, or runs the proxy command, and hands
// the connection to the wire: it reads nothing that comes over it; it also asks the system who has a number
// or a name. Both are forked before anything is read, so that they have nothing of the keeper's.

[[noreturn]] void run_wire(Fd keeper, Fd dial, Fd agent);   // section 14
[[noreturn]] void run_dialer(Fd keeper, Fd dial, Fd agent); // section 14

// ==> C4
/// Overwrites a variable of the environment (I8).
void wipe_environment(const char* name) {
    if (char* value = getenv(name)) std::memset(value, 0, strlen(value));
}

/// What a process that was just forked does first: it ends with the keeper, leaves signals to it, has no
/// standard streams (`messages`: but for what it has to say), none of the keeper's descriptors but `kept`,
/// and neither the passphrase nor the words of the command line.
void become(const char* name, std::span<const Fd> kept, bool messages, int argc, char** argv) {
    prctl(PR_SET_NAME, name);
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
        struct sigaction action {
        }, before{};
        action.sa_handler = [](int) {}; // what it runs gets the usual one back
        action.sa_flags = SA_RESTART;
        if (sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(number, &action, nullptr);
    }
    for (char** v = environ; *v; ++v) { // the wire needs no other: what may be secret in them is not for it
        std::string_view variable = *v;
        bool needed = messages ? !variable.starts_with("NFREEZE_PASSWORD=")
                               : variable.starts_with("NFREEZE_SSH_PASSWORD=");
        if (!needed) std::memset(*v, 0, variable.size());
    }
    for (int i = 0; i < argc; ++i) std::memset(argv[i], 0, strlen(argv[i]));
    g_follows = true;
    Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!nothing) nothing = Fd(::open("/", O_PATH | O_CLOEXEC)); // nothing can be read or written
    for (int fd : {0, 1, 2})
        if ((fd != 2 || !messages) && dup2(nothing.get(), fd) < 0) _exit(1);
    int last = 2;
    for (auto& fd : kept) last = std::max(last, fd.get());
    for (int fd = 3; fd < last; ++fd)
        if (std::ranges::none_of(kept, [&](auto& k) { return k.get() == fd; })) ::close(fd);
    closefrom(last + 1);
    nothing.release(); // closed with the others
}
// <== C4

// ==> C1
/// How to reach and recognise the server; from the command line and the environment.
struct SshOptions {
    std::string user, host, path; // path: as in Address
    int port = 0;
    std::vector<std::string> identities, certificates; // files
    std::vector<std::string> known_hosts;              // files; the first is where accepted keys are added
    std::string key_alias;                             // the name in these, if not the host's
    std::string agent;                                 // its socket; empty: as SSH_AUTH_SOCK says; "none"
    bool only_identities = false;                      // the agent's other keys are not tried
    std::vector<std::string> proxy; // a command that connects to the server, in place of a socket
    bool proxy_passes = false;      // it hands the connection over
    std::string pinned;             // "SHA256:..." or empty
    bool accept_new = false, ask_unknown = true; // of a host key that nobody knows
    bool try_keys = true, try_passwords = true, password_first = false;
    bool terminal = false; // there is one, to ask on
    int connections = kConnections;
    std::chrono::seconds timeout{kTimeout}, retry_for{kRetryFor};
    bool patient = false;                          // the first connection is tried for retry_for, too
    bool say_walls = false;                        // which ones stand
    uint64_t upload_limit = 0, download_limit = 0; // bytes a second; 0: none

    /// Calls `f` with each of these, for the way to the other processes and back.
    template <class Options, class F> static void each(Options& o, F f) {
        f(o.user), f(o.host), f(o.path), f(o.port), f(o.identities), f(o.certificates), f(o.known_hosts);
        f(o.key_alias), f(o.agent), f(o.only_identities), f(o.proxy), f(o.proxy_passes), f(o.pinned);
        f(o.accept_new), f(o.ask_unknown), f(o.try_keys), f(o.try_passwords), f(o.password_first),
            f(o.terminal);
        f(o.connections), f(o.timeout), f(o.retry_for), f(o.patient), f(o.say_walls), f(o.upload_limit),
            f(o.download_limit);
    }
    Bytes encode() const {
        Writer out;
        each(*this, [&](auto& value) { put(out, value); });
        return out.take();
    }
    static SshOptions decode(View from) {
        SshOptions o;
        Reader in(from, "the way to the server");
        each(o, [&](auto& value) { get(in, value); });
        return o;
    }

  private:
    static void put(Writer& out, const std::string& s) { out.string(s); }
    static void put(Writer& out, const std::vector<std::string>& all) {
        out.varint(all.size());
        for (auto& s : all) put(out, s);
    }
    static void put(Writer& out, std::chrono::seconds time) { out.u64(uint64_t(time.count())); }
    template <class Number> static void put(Writer& out, Number n) { out.u64(uint64_t(n)); }
    static void get(Reader& in, std::string& s) { s = in.string(kMessageMax); }
    static void get(Reader& in, std::vector<std::string>& all) {
        all.resize(in.count(kMessageMax));
        for (auto& s : all) get(in, s);
    }
    static void get(Reader& in, std::chrono::seconds& time) { time = std::chrono::seconds(in.u64()); }
    template <class Number> static void get(Reader& in, Number& n) { n = Number(in.u64()); }
};
// <== C1

// ==> C1 C4
/// The two other processes, which begin with the first of these and end with it.
class Outside {
  public:
    /// To be made before any thread, and before anything is read. `argv` is what they must not have.
    Outside(int argc, char** argv) {
        auto [dial_wire, dial_dialer] = socket_pair(SOCK_SEQPACKET);
        auto [agent_wire, agent_dialer] = socket_pair(SOCK_SEQPACKET);
        auto [to_wire, wire_keeper] = socket_pair(SOCK_SEQPACKET);
        auto [to_dialer, dialer_keeper] = socket_pair(SOCK_SEQPACKET);
        auto start = [&](const char* name, Fd& keeper, Fd& dial, Fd& agent, bool messages, auto run) {
            auto parent = getpid();
            pid_t pid = fork_quietly();
            if (pid < 0) throw system_error("start", "a process");
            if (pid > 0) return pid;
            if (!messages) prctl(PR_SET_PDEATHSIG, SIGKILL);
            std::array kept{std::move(keeper), std::move(dial), std::move(agent)};
            become(name, kept, messages, argc, argv);
            if (getppid() == parent) run(std::move(kept[0]), std::move(kept[1]), std::move(kept[2]));
            _exit(0);
        };
        dialer_pid_ = start("nfreeze-dial", dialer_keeper, dial_dialer, agent_dialer, true, run_dialer);
        start("nfreeze-wire", wire_keeper, dial_wire, agent_wire, false, run_wire);
        wire_ = std::move(to_wire);
        dialer_ = std::move(to_dialer);
    }
    /// The dialer ends its commands first, which takes some that do not listen two seconds.
    ~Outside() {
        wire_ = Fd();
        dialer_ = Fd();
        auto until = Clock::now() + std::chrono::seconds(5);
        while (waitpid(dialer_pid_, nullptr, WNOHANG) == 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            if (Clock::now() > until) kill(dialer_pid_, SIGKILL);
        }
    }
    Outside(const Outside&) = delete;
    Outside& operator=(const Outside&) = delete;

    /// Tells both where the server is. Returns our ends of as many channels to the wire as there may be
    /// connections.
    std::vector<Fd> begin(const SshOptions& options) {
        std::vector<Fd> ours, theirs;
        for (int i = 0; i < options.connections; ++i) {
            auto [a, b] = socket_pair(SOCK_STREAM);
            ours.emplace_back(a.release());
            theirs.emplace_back(b.release());
        }
        auto words = options.encode();
        Writer told;
        told.u8('o');
        told.raw(words);
        if (!send_message(dialer_.get(), told.view()) || !send_message(wire_.get(), words, theirs))
            throw system_error("talk to", "the process that talks to the server");
        wipe_environment("NFREEZE_SSH_PASSWORD"); // the wire has it
        return ours;
    }

    /// Field number `at` of an entry in one of the system's databases of accounts (getent); empty where there
    /// is no such entry, or no getent. Throws Error where nobody is there to ask.
    std::string look_up(const std::string& database, const std::string& key, int at) {
        std::lock_guard lock(mutex_);
        auto question = text('n', database, '\0', at, '\0', key);
        auto found = send_message(dialer_.get(), as_bytes(question))
                         ? receive_message(dialer_.get(), Wait::while_wanted)
                         : std::nullopt;
        if (!found) throw Error("the process that asks for names has ended: run it again");
        return {found->bytes.begin() + 1, found->bytes.end()};
    }

  private:
    Fd wire_, dialer_;
    pid_t dialer_pid_ = 0;
    std::mutex mutex_; // one question at a time
};
std::unique_ptr<Outside> g_outside; // made by main, once
// <== C1 C4

// ==> C5
// ---- host keys --------------------------------------------------------------
// Our own reader of known_hosts: libssh2's knows neither patterns nor @revoked and stops at the
// first line it does not understand.

bool glob_match(std::string_view pattern, std::string_view s) {
    return fits(
        pattern.size(), s.size(), [&](size_t p) { return pattern[p] == '*'; },
        [&](size_t p, size_t i) { return pattern[p] == '?' || pattern[p] == s[i]; });
}

/// Whether the host field of a known_hosts line means `host` ("name" or "[name]:port").
bool host_field_matches(const std::string& field, const std::string& host) {
    if (field.starts_with("|1|")) { // |1|salt|HMAC-SHA1(salt, host)
        size_t bar = field.find('|', 3);
        if (bar == field.npos) return false;
        std::string salt = unbase64(field.substr(3, bar - 3)), want = unbase64(field.substr(bar + 1));
        uint8_t mac[20];
        CryptoPP::HMAC<CryptoPP::SHA1>(as_bytes(salt).data(), salt.size())
            .CalculateDigest(mac, as_bytes(host).data(), host.size());
        return want == std::string_view(reinterpret_cast<char*>(mac), sizeof mac);
    }
    bool matched = false;
    std::istringstream patterns(field);
    for (std::string p; std::getline(patterns, p, ',');) {
        std::transform(p.begin(), p.end(), p.begin(),
                       [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
        if (p.starts_with('!') && glob_match(p.substr(1), host)) return false;
        matched |= glob_match(p, host);
    }
    return matched;
}

struct KnownKey {
    std::string type, blob;  // "ssh-ed25519", the raw key
    bool revoked, authority; // it signs others' keys, which libssh2 does not look at
};

/// All keys that the files know for this host, revoked ones for any host included. Lines that
/// cannot be understood are passed over.
std::vector<KnownKey> known_keys(const std::vector<std::string>& files, const std::string& host) {
    std::vector<KnownKey> keys;
    for (auto& file : files) {
        if (access(file.c_str(), R_OK) != 0) continue;
        std::istringstream lines(read_small_file(file, 16 * MiB));
        for (std::string line; std::getline(lines, line);) {
            std::istringstream words(line);
            std::string marker, field, type, key;
            if (line.starts_with('@')) words >> marker;
            if (!(words >> field >> type >> key) || field.starts_with('#')) continue;
            if (!host_field_matches(field, host)) continue;
            key = unbase64(key);
            if (key.size() > 4 && key.substr(4).starts_with(type))
                keys.push_back({type, key, marker == "@revoked", marker == "@cert-authority"});
        }
    }
    return keys;
}

/// The host name as known_hosts writes it.
std::string known_host_name(const SshOptions& o) {
    std::string host = o.key_alias.empty() ? o.host : o.key_alias;
    std::transform(host.begin(), host.end(), host.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return o.port == 22 || !o.key_alias.empty() ? host : text("[", host, "]:", o.port);
}

void remember_host(const SshOptions& o, const std::string& type, const std::string& blob) {
    std::string line = text(known_host_name(o), " ", type, " ", base64(as_bytes(blob), true), "\n");
    std::string file = o.known_hosts.empty() ? "" : o.known_hosts.front();
    if (size_t slash = file.rfind('/'); slash != file.npos) ::mkdir(file.substr(0, slash).c_str(), 0700);
    Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    char last = '\n';
    if (fd && lseek(fd.get(), -1, SEEK_END) >= 0 && ::read(fd.get(), &last, 1) == 1 && last != '\n')
        line = "\n" + line;
    if (fd)
        write_full(fd.get(), as_bytes(line), file);
    else
        say(text("the host key could not be added to ", in_quotes(file), ": ", std::strerror(errno)));
}

/// Types of host key, in our order.
std::vector<std::string> host_key_types() {
    return {"ssh-ed25519",         "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384",
            "ecdsa-sha2-nistp521", "rsa-sha2-512",        "rsa-sha2-256"};
}
std::string fingerprint(const std::string& blob) { return "SHA256:" + base64(sha256(as_bytes(blob)), false); }

/// Asks about a host that is not known, unless an option says yes already, and remembers it; throws Error
/// where it is not accepted, Corrupt where these are no type and key: a line of theirs could say anything in
/// known_hosts.
void accept_host(const SshOptions& o, const std::string& type, const std::string& blob) {
    auto types = host_key_types();
    if ((type != "ssh-rsa" && std::ranges::count(types, type) == 0) || blob.size() < 4 ||
        !blob.substr(4).starts_with(type))
        throw Corrupt("there is no such key of a host");
    for (auto& k : known_keys(o.known_hosts, known_host_name(o)))
        if (!k.authority && (!k.revoked || k.blob == blob)) throw Corrupt("this host is known");
    if (!o.pinned.empty() || blob.size() > kHostKeyMax) throw Corrupt("this key is not asked about");
    if (!o.accept_new) {
        auto answer = ask(text("The authenticity of host '", known_host_name(o), "' can't be established.\n",
                               type, " key fingerprint is ", fingerprint(blob),
                               ".\nAre you sure you want to continue connecting (yes/no)? "),
                          true);
        if (!yes(answer) && answer != fingerprint(blob))
            throw Error("the host key was not accepted", Exit::network);
    }
    remember_host(o, type, blob);
}
// <== C5

// ---- what keeper and wire say to each other -------------------------------------------
// ==> C1 C2 C5
// There are as many channels (stream sockets) as there may be connections, and each carries one call at a
// time, so nothing is numbered. Integers are little-endian.
//
//   Request, 56 bytes, from the keeper
//      0   1  verb: see Ask               1   1  directory: 0 keys, 1 index, 2 packs, 3 the repository
//      2   2  zeros                       4   4  seq, of a name in index/
//      8  32  hash                       40   8  offset        48   8  length
//     Of a rename, the other hash (32) follows; of a create, once the wire says that it is ready, `length`
//     bytes of the object. A name is all that the wire is told: it makes the path.
//   Part of an answer: kind 1 (see Part), length 4, and so many bytes, 4 MiB + 256 KiB at most. It is
//     done        nothing: the end of the call; all that was asked for has come
//     failed      the end of it, too: fault 1 (see Fault), exit code 1, flags 1, words. Flags: 1 no room,
//                 2 undone, 4 exhausted, 8 all sent
//     ready       nothing
//     data        of a read, its bytes; of a list, 52 for each object: size 8, time 8, seq 4, hash 32;
//                 of names, one: size 8, time 8, and the name as the server has it, of 128 bytes at most
//     note        words for the user
//     ask_host    length 4 of a type of key, the type, the key
//     ask_key     number 1 of an identity
//     ask_password   nothing
//     ask_words   1 byte, whether what is typed may be seen; the server's question
//     The answer to the last four: 1 byte (0 no, 1 yes), length 4, what was typed and a zero, or why not.
// Both sides end where something else comes.

enum class Ask : uint8_t { names, list, read, create, remove, truncate, rename, make_directory };
enum class Part : uint8_t { done, failed, ready, data, note, ask_host, ask_key, ask_password, ask_words };
enum class Fault : uint8_t { error, corrupt, lost, uncertain, not_there, interrupted };
constexpr size_t kPartMax = kReadBlock + 256 * KiB, kListedSize = 52, kShownName = 128;
constexpr uint8_t kNoDirectory = 3;

struct Request {
    static constexpr size_t kSize = 56;
    Ask ask;
    uint8_t directory;
    uint32_t seq = 0;
    Hash hash{};
    uint64_t offset = 0, length = 0;
    Bytes encode() const {
        Writer out(kSize);
        out.u8(uint8_t(ask));
        out.u8(directory);
        for (int i = 0; i < 2; ++i) out.u8(0);
        out.u32(seq);
        out.raw(hash);
        out.u64(offset);
        out.u64(length);
        return out.take();
    }
    /// Throws Corrupt.
    static Request decode(View from) {
        Reader in(from, "a request");
        auto ask = in.u8(), directory = in.u8();
        if (ask > uint8_t(Ask::make_directory) || directory > kNoDirectory) in.fail("what nobody asks for");
        in.raw(2);
        Request r{Ask(ask), directory, in.u32(), in.array<32>(), in.u64(), in.u64()};
        in.end();
        return r;
    }
    Where where() const { return directory == kNoDirectory ? Where{} : Where(Name::Directory(directory)); }
    /// Throws Corrupt.
    Name name() const {
        if (directory == kNoDirectory) throw Corrupt("a request holds no directory");
        return {Name::Directory(directory), hash, seq};
    }
};

/// A repository on a server, by way of the wire. Where that process ends, hangs or lies, what is asked of it
/// fails, and nothing that it says is believed: objects are Foreign, its words are shown as a stranger's.
class WireStore : public Store {
  public:
    /// `channels`: of Outside::begin(). Waits for the first login; throws what that met.
    WireStore(const SshOptions& options, std::vector<Fd> channels)
        : Store(options.retry_for, &g_common.traffic), options_(options), free_(std::move(channels)),
          count_(free_.size()) {
        std::ranges::reverse(free_); // the first says how the login went, and is taken first
        try {
            Lease(*this).answer(Request{Ask::make_directory, kNoDirectory});
        } catch (const NotThere& e) { // that is no answer to a login
            throw Error(e.what(), Exit::network);
        }
    }
    bool waiting() override {
        std::lock_guard lock(mutex_);
        return free_.size() < count_;
    }
    std::vector<Listed> list_all(Where where) override {
        std::vector<Listed> found;
        Lease(*this).call({Ask::names, directory(where)}, [&](View part) {
            Reader in(part, "a list");
            uint64_t size = in.u64(), mtime = in.u64();
            auto name = in.raw(in.left());
            if (name.size() > kShownName || found.size() >= kListMax) in.fail("more than a list may");
            found.push_back({{name.begin(), name.end()}, size, int64_t(mtime)});
        });
        return found;
    }
    std::vector<ObjectInfo> list(Name::Directory in_directory) override {
        std::vector<ObjectInfo> found;
        Lease(*this).call({Ask::list, in_directory}, [&](View part) {
            for (Reader in(part, "a list"); !in.empty();) {
                uint64_t size = in.u64(), mtime = in.u64();
                uint32_t seq = in.u32();
                if (found.size() >= kListMax) in.fail("more than a list may");
                found.push_back({{in_directory, in.array<32>(), seq}, size, int64_t(mtime)});
            }
        });
        return found;
    }
    Foreign read(const Name& name, uint64_t offset, size_t length) override {
        Bytes out(length);
        auto request = about(Ask::read, name);
        request.offset = offset;
        request.length = length;
        Lease(*this).call(request, {}, {}, out);
        return Foreign(std::move(out));
    }
    void create(const Sealed& object) override {
        auto request = about(Ask::create, object.name());
        request.length = object.bytes().size();
        Lease(*this).call(request, {}, object.bytes());
    }
    void remove(const Name& name) override { Lease(*this).call(about(Ask::remove, name)); }
    void truncate(const Name& name) override { Lease(*this).call(about(Ask::truncate, name)); }
    void rename(const Name& from, const Name& to) override {
        Lease(*this).call(about(Ask::rename, from), {}, to.hash);
    }
    void make_directory(Where where) override { Lease(*this).call({Ask::make_directory, directory(where)}); }

  private:
    static uint8_t directory(Where where) { return where ? uint8_t(*where) : kNoDirectory; }
    static Request about(Ask ask, const Name& name) {
        return {ask, uint8_t(name.directory), name.seq, name.hash};
    }
    using Take = std::function<void(View)>;

    /// A channel of one's own for one call. One on which a call did not come to its end is not used again.
    class Lease {
      public:
        explicit Lease(WireStore& store) : store_(store) {
            std::unique_lock lock(store_.mutex_);
            store_.changed_.wait(lock, [&] { return !store_.free_.empty() || store_.count_ == 0; });
            if (store_.count_ == 0) gone();
            channel_ = std::move(store_.free_.back());
            store_.free_.pop_back();
        }
        ~Lease() {
            std::lock_guard lock(store_.mutex_);
            if (ended_)
                store_.free_.push_back(std::move(channel_));
            else
                --store_.count_;
            store_.changed_.notify_all();
        }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;

        /// `take` gets what comes, or `into` is filled with it; `data` is what goes with the request.
        void call(const Request& request, const Take& take = {}, View data = {},
                  std::span<uint8_t> into = {}) {
            send(request.encode());
            if (request.ask == Ask::rename) send(std::exchange(data, {}));
            answer(request, take, data, into);
        }
        /// Whatever comes in answer to a call, until it is done.
        void answer(const Request& request, const Take& take = {}, View data = {},
                    std::span<uint8_t> into = {}) {
            size_t parts = 0;
            for (Bytes body;;) {
                std::array<uint8_t, 5> head;
                receive(head);
                Reader in(head, "an answer");
                auto kind = Part(in.u8());
                size_t size = in.u32();
                if (kind == Part::data && request.ask == Ask::read) { // straight to where it is wanted
                    if (size == 0 || size > into.size()) lie();
                    receive(into.first(size));
                    into = into.subspan(size);
                    continue;
                }
                if (size > (kind == Part::data ? kPartMax : kMessageMax + 3) || ++parts > kListMax) lie();
                body.resize(size);
                receive(body);
                if (kind == Part::done) {
                    if (!into.empty() || !data.empty() || !body.empty()) lie();
                    ended_ = true;
                    return;
                }
                handle(kind, body, take, data);
            }
        }

      private:
        /// A part that is not the end of a call that went well; `data` is sent where the wire is ready for
        /// it.
        void handle(Part kind, View body, const Take& take, View& data) {
            try {
                switch (kind) {
                case Part::failed:
                    fail(body);
                case Part::ready:
                    if (data.empty()) lie();
                    return send(std::exchange(data, {}));
                case Part::data:
                    if (!take || body.empty()) lie();
                    return take(body);
                case Part::note:
                    return say(fit(body));
                case Part::ask_host:
                case Part::ask_key:
                case Part::ask_password:
                case Part::ask_words:
                    return reply(kind, body);
                default:
                    lie();
                }
            } catch (const Corrupt&) {
                if (ended_) throw; // it is what the wire says of the server
                lie();
            }
        }
        [[noreturn]] static void gone() {
            stop_if_asked();
            throw Error("the process that talks to the server has ended, or stands still: run it again",
                        Exit::network);
        }
        [[noreturn]] static void lie() {
            throw Error(
                "the process that talks to the server says what makes no sense, as one would that was "
                "taken over: nothing of it is believed; find out what the server is",
                Exit::network);
        }
        void send(View bytes) {
            if (!send_full(channel_.get(), bytes, patience())) gone();
        }
        void receive(std::span<uint8_t> into) {
            if (!receive_full(channel_.get(), into, patience())) gone();
        }
        /// It reconnects for so long, and then a call may take as long as a server may be silent; some more
        /// for what asks the user (an agent, a proxy command).
        Wait patience() const {
            return {true, store_.retry_for + 4 * store_.options_.timeout + std::chrono::minutes(15)};
        }
        /// Its words, which are fit for a terminal unless it was taken over.
        static std::string fit(View said) {
            std::string words(said.begin(), said.end());
            for (std::string_view rest = words; !rest.empty();) {
                size_t n = printable_length(rest);
                if (n == 0) return show(words);
                rest.remove_prefix(n);
            }
            return words;
        }
        [[noreturn]] void fail(View body) {
            Reader in(body, "an answer");
            auto fault = Fault(in.u8());
            auto exit = Exit(in.u8());
            auto flags = in.u8();
            auto what = fit(in.raw(in.left()));
            if (what.empty()) lie();
            ended_ = true;
            if (fault == Fault::corrupt) throw Corrupt(what);
            if (fault == Fault::lost) throw ConnectionLost(what);
            if (fault == Fault::not_there) throw NotThere(what);
            if (fault == Fault::interrupted) throw Interrupted();
            if (fault == Fault::uncertain) {
                Uncertain uncertain(what);
                uncertain.all_sent = flags & 8;
                throw uncertain;
            }
            Error e(what, exit == Exit::network ? Exit::network : Exit::failed);
            e.no_room = flags & 1;
            e.undone = flags & 2;
            e.exhausted = flags & 4;
            throw e;
        }
        /// Answers a question, in words of ours: the wire cannot ask for anything but what logs in to this
        /// server.
        void reply(Part kind, View body) {
            Reader in(body, "a question");
            std::string typed;
            bool yes = true;
            try {
                auto& o = store_.options_;
                auto whose = text(show(o.user), "@", show(o.host));
                if (kind != Part::ask_host && !o.terminal) throw Error("there is no terminal");
                if (kind == Part::ask_host) {
                    if (store_.asked_about_host_.exchange(true)) in.fail("a question for the second time");
                    auto type = in.raw(in.u32()), blob = in.raw(in.left());
                    accept_host(o, {type.begin(), type.end()}, {blob.begin(), blob.end()});
                } else if (kind == Part::ask_key) {
                    size_t number = in.u8();
                    if (number >= o.identities.size()) in.fail("no such key");
                    typed = ask(text("Enter passphrase for key '", show(o.identities[number]), "': "), false);
                } else if (kind == Part::ask_password) {
                    typed = ask(text(whose, "'s password: "), false);
                } else {
                    bool echo = in.u8() != 0;
                    auto words = in.raw(in.left());
                    typed = ask(text("(", whose, ") ", show(std::string(words.begin(), words.end()))), echo);
                }
            } catch (const Interrupted&) {
                throw;
            } catch (const Corrupt&) {
                throw;
            } catch (const Error& e) {
                yes = false;
                typed = e.what();
            }
            Secret answer(typed.size() + 1);
            std::ranges::copy(typed, answer.span().begin());
            wipe(typed);
            Writer head(5);
            head.u8(yes);
            head.u32(uint32_t(answer.size()));
            send(head.view());
            send(answer.view());
        }
        WireStore& store_;
        Fd channel_;
        bool ended_ = false;
    };

    const SshOptions options_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Fd> free_;
    size_t count_; // of all that are in use or free
    std::atomic<bool> asked_about_host_{false};
};
// <== C1 C2 C5

// ---- what is on this machine --------------------------------------------------------------

/// To be added to an error where so little is free that it may be the reason. Bytes.
std::string space_left(uint64_t free, size_t wanted) {
    return free < wanted + MiB
               ? text("; ", free / KiB, " KiB are free there: make room, the next run goes on from here")
               : "";
}

/// The error of an object that was refused, with `room` as space_left() has it. Where that is silent, as at a
/// quota, no_room still says that there is none.
Error refused(const Error& e, bool undone, const std::string& room) {
    Error out(e.what() + room, e.exit);
    out.no_room = e.no_room && room.empty();
    out.undone = undone;
    return out;
}

/// A directory on this machine.
class LocalStore : public Store {
  public:
    explicit LocalStore(std::string root) : root_(std::move(root)) {}

    std::vector<Listed> list_all(Where where) override {
        Fd fd = open_dir(where, "list");
        std::vector<Listed> found;
        for (auto& [name, type] : read_directory(fd.get(), path(where))) {
            struct stat st;
            if (fstatat(fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
            if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
                throw Error(text(in_quotes(path(where) + "/" + name),
                                 " is a link or a pipe, which no repository has"));
            found.push_back({name, uint64_t(st.st_size), st.st_mtime});
        }
        return found;
    }
    Foreign read(const Name& name, uint64_t offset, size_t length) override {
        Fd fd = open_object(name, "read", O_RDONLY);
        if (lseek(fd.get(), off_t(offset), SEEK_SET) < 0) fail("read", path(name));
        Bytes out(length);
        if (read_full(fd.get(), out, path(name)) != length)
            throw Corrupt(text(in_quotes(path(name)), " is shorter than it was"));
        work.moved += length;
        return Foreign(std::move(out));
    }
    void create(const Sealed& object) override {
        auto& name = object.name();
        View data = object.bytes();
        Fd dir = open_dir(name.directory, "create");
        Fd fd = open_object(name, "create", O_WRONLY | O_CREAT | O_EXCL);
        try {
            write_full(fd.get(), data, path(name));
            if (fsync(fd.get()) != 0 || !fd.close()) throw system_error("write", path(name));
            sync_directory(path(name.directory));
        } catch (const Error& e) {
            bool undone = ::unlinkat(dir.get(), last_name(name.path()).c_str(), 0) == 0;
            struct statvfs there;
            bool known = statvfs(root_.c_str(), &there) == 0;
            throw refused(e, undone, known ? space_left(there.f_bavail * there.f_frsize, data.size()) : "");
        }
        work.moved += data.size();
    }
    void remove(const Name& name) override {
        if (::unlinkat(open_dir(name.directory, "remove").get(), last_name(name.path()).c_str(), 0) != 0)
            fail("remove", path(name));
    }
    void truncate(const Name& name) override {
        (void)!::fchmod(open_object(name, "truncate", O_RDONLY).get(), 0600);
        open_object(name, "truncate", O_WRONLY | O_TRUNC);
    }
    void rename(const Name& from, const Name& to) override {
        Fd a = open_dir(from.directory, "rename"), b = open_dir(to.directory, "rename");
        if (::renameat(a.get(), last_name(from.path()).c_str(), b.get(), last_name(to.path()).c_str()) != 0)
            fail("rename", path(from));
    }
    void make_directory(Where where) override {
        make_directories(path(where), 0700);
        sync_directory(path(where));
    }

  private:
    std::string path(Where where) const { return where ? root_ + "/" + Name::path(*where) : root_; }
    std::string path(const Name& name) const { return root_ + "/" + name.path(); }
    /// No link may stand in place of a directory of the repository, or of an object: others may be able to
    /// write there.
    Fd open_dir(Where where, const char* tried) const {
        Fd fd(::open(path(where).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | (where ? O_NOFOLLOW : 0)));
        struct stat st;
        if (!fd && where && lstat(path(where).c_str(), &st) == 0 && S_ISLNK(st.st_mode))
            throw Error(text("cannot ", tried, " ", in_quotes(path(where)),
                             ": it is a link, which no repository has there"));
        if (!fd) fail(tried, path(where));
        return fd;
    }
    Fd open_object(const Name& name, const char* tried, int flags) const {
        Fd dir = open_dir(name.directory, tried);
        Fd fd(openat(dir.get(), last_name(name.path()).c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                     0400)); // a pipe is not waited for
        struct stat st;
        if (!fd || fstat(fd.get(), &st) != 0) fail(tried, path(name));
        if (!S_ISREG(st.st_mode))
            throw Error(text("cannot ", tried, " ", in_quotes(path(name)), ": it is no file"));
        return fd;
    }
    [[noreturn]] static void fail(const std::string& tried, const std::string& on) {
        auto error = system_error(tried, on);
        if (errno == ENOENT || errno == ENOTDIR) throw NotThere(error.what());
        throw error;
    }
    static void sync_directory(const std::string& dir) {
        Fd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd || (fsync(fd.get()) != 0 && errno != EINVAL)) throw system_error("sync", dir);
    }
    std::string root_;
};

// ---- accounts: first what /etc has, then whatever else the system knows --------------

/// Field number `at` of an entry, as of /etc/passwd. A static program knows of no other directory: getent
/// does.
std::optional<std::string> account(const std::string& database, const std::string& key, int at) {
    if (!g_outside || key.empty() || key.starts_with('-') || key.size() > kNameMax) return {};
    auto found = g_outside->look_up(database, key, at);
    return found.empty() ? std::nullopt : std::optional(found);
}
std::optional<uint32_t> numeric(const std::optional<std::string>& digits) {
    uint32_t n = 0;
    if (!digits) return {};
    auto [end, bad] = std::from_chars(digits->data(), digits->data() + digits->size(), n);
    return bad != std::errc() || end != digits->data() + digits->size() ? std::nullopt : std::optional(n);
}
/// Empty: nobody knows it.
std::string name_of_user(uid_t id) {
    auto* p = getpwuid(id);
    return p ? p->pw_name : account("passwd", text(id), 0).value_or("");
}
std::string name_of_group(gid_t id) {
    auto* g = getgrgid(id);
    return g ? g->gr_name : account("group", text(id), 0).value_or("");
}
std::optional<uint32_t> user_of_name(const std::string& name) {
    auto* p = getpwnam(name.c_str());
    return p ? std::optional(p->pw_uid) : numeric(account("passwd", name, 2));
}
std::optional<uint32_t> group_of_name(const std::string& name) {
    auto* g = getgrnam(name.c_str());
    return g ? std::optional(g->gr_gid) : numeric(account("group", name, 2));
}

// ============================================================================
// [SECTION] 7. Chunker and compression
// ============================================================================
// Trusted with data.
// Uses: 4, 5. Provides: where to cut a file, and frames of compressed bytes. Pure functions.

/// Content-defined cut points: FastCDC's gear hash with two masks, so that lengths gather
/// around the average. The table is secret: known files would else be recognised by the
/// lengths of their chunks (which packs hide as well).
class Chunker {
  public:
    explicit Chunker(const Secret& gear_key) {
        Bytes table(256 * 8);
        CryptoPP::HKDF<CryptoPP::SHA256>().DeriveKey(table.data(), table.size(), gear_key.view().data(),
                                                     gear_key.size(), nullptr, 0, nullptr, 0);
        Reader in(table, "the gear table");
        for (auto& g : gear_) g = in.u64();
    }
    /// The length of the first chunk of `data`; all of it where no cut was found.
    size_t cut(View data) const {
        size_t end = std::min(data.size(), kChunkMax), middle = std::min(end, kChunkAvg);
        if (end <= kChunkMin) return end;
        uint64_t h = 0;
        size_t i = kChunkMin - 64; // the hash forgets a byte after 64 steps
        for (; i < kChunkMin; ++i) h = (h << 1) + gear_[data[i]];
        for (; i < middle; ++i)
            if (((h = (h << 1) + gear_[data[i]]) & kStrict) == 0) return i + 1;
        for (; i < end; ++i)
            if (((h = (h << 1) + gear_[data[i]]) & kLoose) == 0) return i + 1;
        return end;
    }
    /// Whether a tree chunk ends behind the record of `name`, which follows that of `before`: decided by
    /// the names alone (by two: one is often the same in many directories), so that the cut stays where
    /// it is when a file changes or a directory above it is renamed.
    bool cut_tree_after(std::string_view before, std::string_view name) const {
        uint64_t h = 0;
        for (auto part : {before, std::string_view("/"), name})
            for (char c : part) h = (h << 1) + gear_[uint8_t(c)];
        return h >> (64 - kTreeBits) == 0;
    }

  private:
    static constexpr uint64_t kStrict = ~uint64_t(0) << (64 - 22), kLoose = ~uint64_t(0)
                                                                            << (64 - 18); // 2^20 -+ 2 bits
    static constexpr int kTreeBits = 8; // a record in 256; one is about 60 bytes long
    std::array<uint64_t, 256> gear_;
};

enum class Codec : uint8_t { stored = 0, zstd = 1 };
/// Level 2 with a window as large as a frame and a table for it: 2.4 % smaller and a tenth faster than
/// level 3 on frames of 1 MiB (measured over /usr/share).
constexpr int kZstdLevel = 2, kZstdWindowLog = 22, kZstdHashLog = 18;

/// `raw` compressed; nothing where that is not shorter. Valid until the thread's next call.
std::optional<View> shrink(View raw) {
    thread_local std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(),
                                                                              ZSTD_freeCCtx);
    thread_local Bytes packed;
    packed.resize(std::max(packed.size(), ZSTD_compressBound(raw.size())));
    for (auto [parameter, value] : {std::pair{ZSTD_c_compressionLevel, kZstdLevel},
                                    {ZSTD_c_windowLog, kZstdWindowLog},
                                    {ZSTD_c_hashLog, kZstdHashLog}})
        ZSTD_CCtx_setParameter(context.get(), parameter, value);
    size_t n = ZSTD_compress2(context.get(), packed.data(), packed.size(), raw.data(), raw.size());
    return ZSTD_isError(n) || n >= raw.size() ? std::nullopt : std::optional(View(packed).first(n));
}
/// Whether compression pays, by a sample from all over: a tenth of the time of a backup of photographs
/// is saved where they are not tried in full.
bool compressible(View raw) {
    constexpr size_t kPieces = 16, kPiece = 4 * KiB;
    if (raw.size() < 4 * kPieces * kPiece) return true;
    Writer sample(kPieces * kPiece);
    for (size_t i = 0; i < kPieces; ++i)
        sample.raw(raw.subspan(i * ((raw.size() - kPiece) / (kPieces - 1)), kPiece));
    auto shrunk = shrink(sample.view());
    return shrunk && shrunk->size() < kPieces * kPiece * 63 / 64;
}

/// A frame's plaintext in two parts: codec and raw length; bytes.
struct FramePlain {
    Bytes head, body;
};
/// If the bytes of `raw` do not shrink they are stored as they are, and taken: it is empty then.
FramePlain compress(Bytes& raw) {
    auto shrunk = compressible(raw) ? shrink(raw) : std::nullopt;
    Writer head;
    head.u8(uint8_t(shrunk ? Codec::zstd : Codec::stored));
    head.varint(raw.size());
    return {head.take(), shrunk ? Bytes(shrunk->begin(), shrunk->end()) : std::exchange(raw, {})};
}

/// The inverse; at most `max` bytes, whatever the frame says; throws Corrupt.
Bytes decompress(View plain, size_t max) {
    Reader in(plain, "a frame");
    auto codec = Codec(in.u8());
    size_t size = in.count(max);
    View packed = in.raw(in.left());
    if (codec == Codec::stored && packed.size() == size) return Bytes(packed.begin(), packed.end());
    Bytes raw(codec == Codec::zstd ? size : 0);
    size_t got = codec == Codec::zstd ? ZSTD_decompress(raw.data(), raw.size(), packed.data(), packed.size())
                                      : SIZE_MAX;
    if (codec == Codec::zstd && ZSTD_getErrorCode(got) == ZSTD_error_memory_allocation)
        throw std::bad_alloc();
    if (got != raw.size()) in.fail("bytes that do not decompress");
    return raw;
}

// ============================================================================
// [SECTION] 8. Repository: index, packs
// ============================================================================
// Trusted with data and secrets.
// Uses: 3 to 7. Provides: Repository (open, init, commit), Packer (chunks in), ChunkReader
// (chunks out). Must hold: I1 to I6, I10.

// ---- snapshots, as the index lists them -------------------------------------------

using Names = std::map<uint32_t, std::string>; // numeric id to name

struct Counts {
    uint64_t files = 0, directories = 0, others = 0,
             bytes = 0; // in the snapshot; bytes of files. What is shown as files are those and others
    uint64_t new_files = 0, changed_files = 0, new_bytes = 0; // against the one before
};

struct Snapshot {
    SnapshotId id{};
    int64_t time = 0; // ns since 1970, the client's clock, at the start of the run
    std::string host, user, source, version;
    std::vector<std::string> tags;
    bool incomplete = false; // some files could not be read
    Counts counts;
    Names users, groups;
    std::vector<ChunkId> tree; // chunks that hold the list of the tree's chunks (section 9)
};

/// By more than what clocks differ by; `now` in ns since 1970.
bool dated_after(const Snapshot& s, int64_t now) {
    return s.time > std::min(now, INT64_MAX - kClockSkew) + kClockSkew;
}

void encode_names(Writer& out, const Names& names) {
    out.varint(names.size());
    for (auto& [number, name] : names) {
        out.varint(number);
        out.string(name);
    }
}
Names decode_names(Reader& in) {
    Names names;
    for (size_t n = in.count(kOwnersMax); n-- > 0;) {
        auto number = uint32_t(in.count(UINT32_MAX));
        names[number] = in.string(kNameMax);
    }
    return names;
}

Snapshot decode_snapshot(View bytes) {
    Reader in(bytes, "a snapshot record");
    Snapshot s;
    s.id = in.array<16>();
    s.time = int64_t(in.u64());
    s.host = in.string(kNameMax);
    s.user = in.string(kNameMax);
    s.source = in.string(kPathMax);
    s.version = in.string(kNameMax);
    s.tags.resize(in.count(kTagsMax));
    for (auto& t : s.tags) t = in.string(kNameMax);
    s.incomplete = in.u8() != 0;
    auto& c = s.counts;
    for (auto* n :
         {&c.files, &c.directories, &c.others, &c.bytes, &c.new_files, &c.changed_files, &c.new_bytes})
        *n = in.varint();
    s.users = decode_names(in);
    s.groups = decode_names(in);
    s.tree.resize(in.count(in.left() / sizeof(ChunkId)));
    for (auto& id : s.tree) id = in.array<16>();
    in.end();
    return s;
}

/// Throws Error rather than write a record that no reader takes: it would spoil its segment.
Bytes encode_snapshot(const Snapshot& s) {
    Writer out;
    out.raw(s.id);
    out.u64(uint64_t(s.time));
    for (auto* field : {&s.host, &s.user, &s.source, &s.version}) out.string(*field);
    out.varint(s.tags.size());
    for (auto& t : s.tags) out.string(t);
    out.u8(s.incomplete);
    auto& c = s.counts;
    for (uint64_t n : {c.files, c.directories, c.others, c.bytes, c.new_files, c.changed_files, c.new_bytes})
        out.varint(n);
    encode_names(out, s.users);
    encode_names(out, s.groups);
    out.varint(s.tree.size());
    for (auto& id : s.tree) out.raw(id);
    Bytes bytes = out.take();
    try {
        decode_snapshot(bytes);
    } catch (const Corrupt& e) {
        throw Error(text("what describes this snapshot is too long to be read back: ", e.what(),
                         ": nothing was committed"));
    }
    return bytes;
}

// ---- the index in memory ----------------------------------------------------------

constexpr uint32_t kNone = UINT32_MAX;

/// Where a chunk is: 28 bytes, the only thing whose number grows with the repository.
struct Place {
    ChunkId id;
    uint32_t frame = kNone; // number in Index
    uint32_t offset = 0;    // in the raw frame
    uint32_t length : 31 = 0;
    uint32_t relied : 1 = 0; // this run's snapshot needs it (I5)
};
static_assert(sizeof(Place) == 28);

/// A hash table of places by id. Ids are a PRF's output, so their bytes serve as the hash. 256
/// parts grow one by one, by 1.4 at 85 % full: 33 to 46 bytes a chunk, no doubling in between.
class PlaceMap {
  public:
    Place* find(const ChunkId& id) {
        auto& part = parts_[id[0]];
        if (part.slots.empty()) return nullptr;
        Place* slot = probe(part.slots, id);
        return slot->frame == kNone ? nullptr : slot;
    }
    /// The place of this id, an empty one (frame kNone) if it is new. Valid until the next insert.
    Place& insert(const ChunkId& id) {
        auto& part = parts_[id[0]];
        if (part.used + 1 > part.slots.size() * 85 / 100) grow(part.slots);
        Place* slot = probe(part.slots, id);
        if (slot->frame == kNone) {
            slot->id = id;
            ++part.used;
        }
        return *slot;
    }
    template <class F> void each(F f) {
        for (auto& part : parts_)
            for (auto& slot : part.slots)
                if (slot.frame != kNone) f(slot);
    }

  private:
    struct Part {
        std::vector<Place> slots;
        size_t used = 0;
    };
    static Place* probe(std::vector<Place>& slots, const ChunkId& id) {
        uint32_t h;
        std::memcpy(&h, &id[1], sizeof h);
        for (size_t i = size_t(uint64_t(h) * slots.size() >> 32);; i = i + 1 == slots.size() ? 0 : i + 1)
            if (slots[i].frame == kNone || slots[i].id == id) return &slots[i];
    }
    static void grow(std::vector<Place>& slots) {
        std::vector<Place> larger(slots.size() * 14 / 10 + 8);
        for (auto& s : slots)
            if (s.frame != kNone) *probe(larger, s.id) = s;
        slots.swap(larger);
    }
    std::array<Part, 256> parts_;
};

struct PackInfo {
    Hash name{};
    Salt salt{};
    uint64_t size = 0;
    uint32_t seq = 0;     // of the segment that named it: the newest place of a chunk wins
    bool present = false; // in this run's listing with the right size (never recorded, I10)
    bool resized = false; // in it, with another
    bool condemned = false;
    Table table; // only on its way into the index or a segment
};

struct FramePlace {
    uint32_t pack = kNone; // kNone: not sent yet
    uint32_t number = 0;   // in its pack: the nonce
    uint32_t offset = 0;   // in the pack
    uint32_t sealed = 0, raw = 0;
    Kind kind = Kind::data;
};

enum class Record : uint8_t {
    pack_added = 1,
    pack_condemned = 2,
    pack_deleted = 3,
    snapshot_added = 4,
    snapshot_forgotten = 5,
    segment_superseded = 6, // its content is in this segment or one that this supersedes
    segment_parent = 7,     // was live when this segment was written
    segment_torn = 8        // was not whole then: not alarming later, but used if it is whole
};

void put_record(Writer& out, Record type, View body) {
    out.u8(uint8_t(type));
    out.bytes(body);
}

/// A pack that is condemned or a segment that is superseded, and since when: seconds by the server's clock;
/// 0: the time stamp of the segment that says so first.
void put_since(Writer& out, Record type, View name, int64_t since = 0) {
    Writer body;
    body.raw(name);
    body.u64(uint64_t(since));
    put_record(out, type, body.view());
}

Bytes encode_pack(const PackInfo& p) {
    Writer out;
    out.raw(p.name);
    out.raw(p.salt);
    out.varint(p.size);
    encode_table(out, p.table);
    return out.take();
}

PackInfo decode_pack(Reader& in) {
    PackInfo p;
    p.name = in.array<32>();
    p.salt = in.array<32>();
    p.size = in.count(kPackMax);
    p.table = decode_table(in);
    in.end();
    uint64_t frames = 0;
    for (auto& f : p.table) {
        if (f.sealed < kTag || f.chunks.empty()) in.fail("a frame of nothing");
        frames += f.sealed;
    }
    if (kHead + frames > p.size) in.fail("a pack smaller than its frames");
    return p;
}

/// A record of a segment. Which fields count depends on its type.
struct IndexRecord {
    Record type;
    PackInfo pack;
    Snapshot snapshot;
    Hash name{};       // of a pack
    ShortName id{};    // of a snapshot or a segment
    int64_t since = 0; // seconds, by the server's clock; 0: not said
};

/// Throws Corrupt or, for an unknown type, Error.
IndexRecord decode_record(Reader& in) {
    IndexRecord r;
    r.type = Record(in.u8());
    Reader body(in.bytes(kSegmentMax), "a segment's record");
    switch (r.type) {
    case Record::pack_added:
        r.pack = decode_pack(body);
        break;
    case Record::pack_condemned:
    case Record::pack_deleted:
        r.name = body.array<32>();
        break;
    case Record::snapshot_added:
        r.snapshot = decode_snapshot(body.raw(body.left()));
        break;
    case Record::snapshot_forgotten:
    case Record::segment_superseded:
    case Record::segment_parent:
    case Record::segment_torn:
        r.id = body.array<16>();
        break;
    default:
        throw Error(text("the index has a record of type ", int(r.type), ": get a newer nfreeze"));
    }
    if (r.type == Record::pack_condemned || r.type == Record::segment_superseded)
        r.since = int64_t(std::min<uint64_t>(body.u64(), kTimeMax));
    body.end();
    return r;
}

/// Records, each of them once however often it is added: what segments of clients that ran side by side say
/// alike does not grow when it is merged.
class RecordSet {
  public:
    /// Adds the whole records that `records` begins with; returns how many bytes they take. Throws Corrupt
    /// where more would be held than a segment may have.
    size_t add(View records) {
        Reader in(records, "a segment");
        size_t whole = 0;
        for (;; whole = records.size() - in.left()) {
            try {
                in.u8();
                in.bytes(kSegmentMax);
            } catch (const Corrupt&) {
                return whole;
            } // it ends in the middle of one
            add_one(records.subspan(whole, records.size() - in.left() - whole));
        }
    }
    void add(Record type, View body) {
        Writer one;
        put_record(one, type, body);
        add_one(one.view());
    }
    View view() const { return out_.view(); }
    size_t size() const { return out_.size(); }
    Bytes take() { return out_.take(); }

  private:
    void add_one(View record) {
        if (!known_.insert(short_name(sha256(record))).second) return;
        if (out_.size() + record.size() > kSegmentMax)
            throw Corrupt("a segment would hold more than any may");
        out_.raw(record);
    }
    Writer out_;
    std::set<ShortName> known_; // hashes
};

/// The union of all segments that were read: a set that only grows, so that the order of
/// applying them does not matter.
class Index {
  public:
    struct Listed {
        uint64_t size; // bytes
        int64_t mtime; // seconds, by the server's clock
    };
    std::optional<std::map<Hash, Listed>> listed_packs; // this run's listing of packs/
    std::map<SnapshotId, Snapshot> snapshots;
    std::set<SnapshotId> forgotten;
    std::map<Hash, int64_t> condemned;       // since when, in seconds by the server's clock: the time stamp
    std::map<ShortName, int64_t> superseded; // of the oldest segment that is known to have said so
    std::set<Hash> deleted;
    std::set<ShortName> parents, torn;
    static constexpr int64_t kJustNow = INT64_MAX; // by this run, later than any time stamp it has seen

    /// Adds the records of a segment with this time stamp: all of them, or none where one is malformed.
    /// Returns the share of packs and snapshots that were not known. Throws Corrupt or, for an unknown
    /// record, Error.
    double apply(View records, uint32_t seq, int64_t mtime = kJustNow) {
        size_t before = snapshots.size() + packs_.size(), all = 0;
        for (Reader in(records, "a segment"); !in.empty();) decode_record(in);
        for (Reader in(records, "a segment"); !in.empty();) {
            auto r = decode_record(in);
            auto since = r.since ? r.since : mtime;
            if (since < kTimeMin) since = kJustNow; // nobody knows: never long enough ago
            all += r.type == Record::pack_added || r.type == Record::snapshot_added;
            switch (r.type) {
            case Record::pack_added:
                note_listed(r.pack);
                r.pack.seq = seq;
                add_pack(std::move(r.pack), {});
                break;
            case Record::pack_condemned:
                condemn(r.name, since);
                break;
            case Record::pack_deleted:
                remove(r.name);
                break;
            case Record::snapshot_added:
                snapshots.emplace(r.snapshot.id, std::move(r.snapshot));
                break;
            case Record::snapshot_forgotten:
                forgotten.insert(r.id);
                break;
            case Record::segment_superseded:
                note_since(superseded, r.id, since);
                break;
            case Record::segment_parent:
                parents.insert(r.id);
                break;
            case Record::segment_torn:
                torn.insert(r.id);
                break;
            }
        }
        return all == 0 ? 1 : double(snapshots.size() + packs_.size() - before) / double(all);
    }

    /// A frame that is being filled: its chunks count as present from now on.
    uint32_t begin_frame(Kind kind) {
        FramePlace frame;
        frame.kind = kind;
        frames_.push_back(frame);
        return uint32_t(frames_.size() - 1);
    }
    void add_pending(const ChunkId& id, uint32_t frame, uint32_t offset, uint32_t length) {
        put_place(id, frame, offset, length)->relied = 1;
    }
    /// Adds a pack. `frames` are the numbers of its frames if they were begun here.
    void add_pack(PackInfo pack, const std::vector<uint32_t>& frames) {
        if (frames.empty() && !by_name_.emplace(pack.name, packs_.size()).second) return;
        auto number = uint32_t(packs_.size());
        by_name_[pack.name] = number;
        pack.condemned = condemned.contains(pack.name);
        pack.present &= !deleted.contains(pack.name);
        Table table = std::exchange(pack.table, {});
        packs_.push_back(std::move(pack));
        uint32_t offset = kHead;
        for (size_t i = 0; i < table.size(); ++i) {
            auto& info = table[i];
            uint32_t f = frames.empty() ? begin_frame(info.kind) : frames[i];
            frames_[f] = {number, uint32_t(i), offset, info.sealed, 0, info.kind};
            for (auto& c : info.chunks) {
                if (frames.empty()) put_place(c.id, f, frames_[f].raw, c.length);
                frames_[f].raw += c.length;
            }
            offset += info.sealed;
        }
    }
    /// Where packs/ was not listed, reading will tell.
    bool is_listed(const PackInfo& pack) const {
        if (deleted.contains(pack.name)) return false;
        if (!listed_packs || pack.seq == kNone) return true; // what this run sent is there: a listing may lag
        auto listed = listed_packs->find(pack.name);
        return listed != listed_packs->end() && listed->second.size == pack.size;
    }
    template <class Name>
    static void note_since(std::map<Name, int64_t>& names, const Name& name, int64_t since) {
        auto at = names.emplace(name, since).first;
        at->second = std::min(at->second, since);
    }
    void condemn(const Hash& name, int64_t since) {
        note_since(condemned, name, since);
        if (auto p = by_name_.find(name); p != by_name_.end()) packs_[p->second].condemned = true;
    }
    void remove(const Hash& name) {
        deleted.insert(name);
        if (auto p = by_name_.find(name); p != by_name_.end()) packs_[p->second].present = false;
    }
    /// Takes a listing of packs/ as what is there; `more`: beside what is known to be.
    void see(const std::vector<ObjectInfo>& listing, bool more = false) {
        listed_packs.emplace();
        for (auto& p : listing)
            (*listed_packs)[p.name.hash] = {p.size, std::clamp<int64_t>(p.mtime, 0, kTimeMax)};
        for (auto& p : packs_) {
            bool before = more && p.present;
            note_listed(p);
            p.present |= before;
        }
    }
    void note_listed(PackInfo& pack) const {
        pack.present = is_listed(pack);
        pack.resized = !pack.present && listed_packs && listed_packs->contains(pack.name) &&
                       !deleted.contains(pack.name);
    }
    /// Whether all that held a chunk was deleted. That it is absent is another thing (I10).
    bool is_gone(const ChunkId& id) {
        auto gone = [&](const Place& p) {
            return frames_[p.frame].pack != kNone && deleted.contains(pack(frames_[p.frame]).name);
        };
        Place* p = places_.find(id);
        auto [from, to] = more_.equal_range(id);
        return (!p || gone(*p)) && std::all_of(from, to, [&](auto& m) { return gone(m.second); });
    }

    /// Whether a chunk need not be sent: it is in a pack that is there and not condemned, or on
    /// its way. Marks it as relied upon (I5).
    bool rely_on(const ChunkId& id) {
        Place* p = places_.find(id);
        if (!p) return false;
        if (!usable(*p)) {
            auto [from, to] = more_.equal_range(id);
            auto other = std::find_if(from, to, [&](auto& m) { return usable(m.second); });
            if (other == to) return false;
            std::swap(*p, other->second);
        }
        p->relied = 1;
        return true;
    }
    bool relies(const std::vector<ChunkId>& ids) {
        return std::ranges::all_of(ids, [&](auto& id) { return rely_on(id); });
    }

    /// Marks a chunk as relied upon where no other than condemned packs hold it, too: it is copied before
    /// the next segment is written. Returns whether it is there at all.
    bool need(const ChunkId& id) {
        if (rely_on(id)) return true;
        if (places(id).empty()) return false;
        places_.find(id)->relied = 1;
        return true;
    }
    /// About how much of its frame, as it is stored, a chunk takes.
    uint64_t sealed_part(const Place& p) const {
        auto& f = frames_[p.frame];
        return uint64_t(p.length) * f.sealed / std::max(f.raw, 1u) + 1;
    }
    struct Use {
        uint64_t used = 0, all = 0; // bytes of frames
        uint64_t unused() const { return all - std::min(used, all); }
    };
    /// For each pack, how much of it is relied upon: a chunk counts in one of its places.
    std::vector<Use> uses() {
        std::vector<Use> found(packs_.size());
        for (auto& f : frames_)
            if (f.pack != kNone) found[f.pack].all += f.sealed;
        places_.each([&](const Place& p) {
            auto& f = frames_[p.frame];
            if (p.relied && f.pack != kNone) found[f.pack].used += sealed_part(p);
        });
        return found;
    }

    /// All places of a chunk whose packs are there, the best first.
    std::vector<Place> places(const ChunkId& id) {
        return places(id, [](const PackInfo& pack) { return pack.present; });
    }
    /// Where there are none, those whose packs are there, but not as large as they were: their frames may
    /// open.
    std::vector<Place> readable_places(const ChunkId& id) {
        auto found = places(id);
        return found.empty() ? places(id, [](const PackInfo& pack) { return pack.resized; }) : found;
    }
    template <class F> std::vector<Place> places(const ChunkId& id, F counts) {
        std::vector<Place> found;
        if (Place* p = places_.find(id)) found.push_back(*p);
        for (auto [i, to] = more_.equal_range(id); i != to; ++i) found.push_back(i->second);
        std::erase_if(found, [&](auto& p) {
            return frames_[p.frame].pack == kNone || !counts(pack(frames_[p.frame]));
        });
        std::ranges::stable_sort(found, std::greater{}, [&](auto& p) { return newness(p); });
        return found;
    }
    /// For each pack, how many chunks are listed in it.
    std::vector<size_t> chunks_listed() {
        std::vector<size_t> found(packs_.size());
        auto count = [&](const Place& p) {
            if (auto pack = frames_[p.frame].pack; pack != kNone) ++found[pack];
        };
        places_.each(count);
        for (auto& [id, place] : more_) count(place);
        return found;
    }
    bool knows(const ChunkId& id) { return places_.find(id) != nullptr; }
    const PackInfo* find_pack(const Hash& name) const {
        auto at = by_name_.find(name);
        return at == by_name_.end() ? nullptr : &packs_[at->second];
    }
    /// The table of a pack, made again from what is known of its chunks. Looks at all of these.
    Table table_of(const PackInfo& pack) {
        std::map<uint32_t, std::map<uint32_t, Chunk>> found; // by frame and offset
        auto gather = [&](const Place& p) {
            if (frames_[p.frame].pack == size_t(&pack - packs_.data()))
                found[p.frame][p.offset] = {p.id, p.length};
        };
        places_.each(gather);
        for (auto& [id, place] : more_) gather(place);
        Table table;
        for (auto& [number, chunks] : found) {
            auto& f = frames_[number];
            table.resize(std::max<size_t>(table.size(), f.number + 1));
            table[f.number] = {f.kind, f.sealed, {}};
            for (auto& [offset, chunk] : chunks) table[f.number].chunks.push_back(chunk);
        }
        return table;
    }
    const FramePlace& frame(uint32_t number) const { return frames_[number]; }
    const PackInfo& pack(const FramePlace& f) const { return packs_[f.pack]; }
    const std::vector<PackInfo>& packs() const { return packs_; }
    size_t packs_listed() const { return packs_.size() - std::min(deleted.size(), packs_.size()); } // or more

    /// Chunks this run relies on which only condemned packs hold by now, `most` at most, in the order in
    /// which they lie.
    std::vector<Place> relied_but_condemned(size_t most = SIZE_MAX) {
        std::vector<Place> found;
        places_.each([&](Place& p) {
            if (found.size() < most && p.relied && !usable(p) && !rely_on(p.id)) found.push_back(p);
        });
        std::ranges::sort(found, {}, [](auto& p) { return std::pair(p.frame, p.offset); });
        return found;
    }

  private:
    bool usable(const Place& p) const {
        auto& f = frames_[p.frame];
        return f.pack == kNone || (packs_[f.pack].present && !packs_[f.pack].condemned);
    }
    std::pair<uint32_t, uint32_t> newness(const Place& p) const {
        uint32_t pack = frames_[p.frame].pack;
        return {pack == kNone ? kNone : packs_[pack].seq, pack};
    }
    Place* put_place(const ChunkId& id, uint32_t frame, uint32_t offset, uint32_t length) {
        Place& place = places_.insert(id);
        Place fresh{id, frame, offset, length & 0x7fffffffu, place.relied};
        if (place.frame == kNone) {
            place = fresh;
        } else if (newness(fresh) > newness(place)) {
            more_.emplace(id, place);
            place = fresh;
        } else {
            more_.emplace(id, fresh);
        }
        return &place;
    }
    PlaceMap places_;
    std::multimap<ChunkId, Place> more_; // further places of the few chunks that were sent twice
    std::vector<FramePlace> frames_;
    std::vector<PackInfo> packs_;
    std::map<Hash, size_t> by_name_;
};

// ---- the repository ---------------------------------------------------------------

/// Of packs.
Name pack_name(const Hash& hash) { return {Name::packs, hash}; }

class Repository {
  public:
    Store& store;
    const int64_t now =
        now_ns(); // when the run began, by this machine's clock: what "newest" and "from the future" mean
    Keys keys;
    Index index;
    std::set<std::string> damage; // what was lost: the run ends with exit 5
    Some unnamed;                 // packs that were listed and that no segment names
    int64_t unnamed_since = 0;    // seconds, by the server's clock: the oldest of them
    std::set<std::string> doubts; // segments that are not whole and that no other names: the end of an
                                  // interrupted run, or damage. A backup settles it by noting them.

    /// Makes a repository in an empty or new directory, or where one was begun; the key object comes last and
    /// makes it one.
    static void init(Store& store, const Secret& passphrase, ScryptCost cost, int64_t now,
                     const std::string& label) {
        auto names = [&](Where where) {
            std::vector<Listed> found;
            try {
                found = store.list_all(where);
            } catch (const NotThere&) {
            }
            return found;
        };
        auto there = names({});
        for (auto& o : there)
            if (o.name != "index" && o.name != "packs" && o.name != "keys")
                throw Error(text("there is no empty directory: it holds ", in_quotes(o.name),
                                 "; nothing was changed"));
        std::vector<Name> left; // of one that was begun
        for (auto& o : there.empty() ? there : names(Name::index))
            if (auto name = Name::parse(Name::index, o.name))
                left.push_back(*name);
            else
                throw Error(text("there is no empty directory: its index/ holds ", in_quotes(o.name),
                                 "; nothing was changed"));
        for (auto directory : {Name::keys, Name::packs})
            if (!there.empty() && !names(directory).empty())
                throw Error(text("there is a repository already: ", Name::path(directory),
                                 "/ is not empty; nothing was changed"));
        for (auto where : {Where(), Where(Name::index), Where(Name::packs), Where(Name::keys)})
            store.make_directory(where);
        Secret master(32);
        fill_random(master.span());
        Repository r(store, master);
        for (auto& name : left) r.try_remove(name); // no key that would open it was ever made
        r.listed_ = since_boot();                   // nothing is there
        r.commit([] { return Bytes(); });
        auto key = add_key(store, master, passphrase, cost, now, label);
        // Two that are begun at once would lock each other out: whoever sees the other one's key gives up.
        for (auto& o : store.list(Name::keys))
            if (o.name != key) {
                bool gone = r.try_remove(key);
                throw Error(text("another repository is being made there at this moment: ",
                                 gone ? "run it again" : "start anew in another directory"));
            }
        try {
            Repository again(store, master);
            again.load();
        } catch (const Corrupt&) { // somebody else took it for what an init had left that was cut
            r.try_remove(key);     // a key without an index would be in the way
            throw Error("another repository is being made there at this moment: run it again");
        }
    }

    // ---- key objects: each gives the same master key to who knows its passphrase ----

    struct KeyObjects {
        std::vector<ObjectInfo> listed;
        std::vector<std::pair<ObjectInfo, Foreign>> whole; // kKeysMax at most
        Some passed_over;                                  // of the others
        bool some_lost() const { return whole.size() < listed.size(); }
    };
    /// Throws NotThere if there is none, which means that this is no repository.
    static KeyObjects read_keys(Store& store) {
        KeyObjects keys;
        keys.listed = store.list(Name::keys);
        if (keys.listed.empty())
            throw NotThere(
                "it has no key objects; if they were lost, a recovery sheet helps: nfreeze help key");
        std::ranges::stable_sort(keys.listed, {}, &ObjectInfo::mtime); // what somebody planted comes last
        std::exception_ptr newer;
        for (auto& o : keys.listed) {
            Foreign bytes;
            bool good = false;
            try {
                if (o.size == kKeySize && keys.whole.size() < kKeysMax)
                    bytes = store.read(o.name, 0, kKeySize);
                bool whole = bytes.size() > 0 && Keys::is_whole(bytes, o.name); // I1
                if (whole) Keys::key_cost(bytes);
                good = whole;
            } catch (const Corrupt&) {
            } catch (const Error& e) { // of another version, or it cannot be read
                if (e.exit != Exit::failed || e.exhausted) throw;
                if (!newer) newer = std::current_exception();
            }
            if (good)
                keys.whole.emplace_back(o, std::move(bytes));
            else
                keys.passed_over.add(short_id(o.name.hash));
        }
        if (keys.whole.empty() && newer) std::rethrow_exception(newer);
        if (keys.whole.empty()) throw Corrupt("no key object is whole");
        if (keys.passed_over.count > 0)
            say("warning: " + keys.passed_over.words(" in keys/ is no key that can be tried: passed over",
                                                     " in keys/ are no keys that can be tried: passed over"));
        return keys;
    }
    /// The master key. Throws Error (wrong passphrase) or Corrupt.
    static Secret unlock(const KeyObjects& objects, const Secret& passphrase) {
        std::optional<Secret> master;
        for (auto& [info, object] : objects.whole) {
            auto opened = Keys::open_master(object, passphrase);
            if (opened && master && !(*opened == *master))
                throw Corrupt("two key objects open to different master keys");
            if (opened) master = std::move(opened);
        }
        if (!master && objects.some_lost())
            throw Corrupt("the passphrase opens no key object, and one is damaged");
        if (!master) throw Error("wrong passphrase: no key object opens with it", Exit::passphrase);
        return std::move(*master);
    }
    /// Returns the new object's name. `replaces`: another goes as soon as it is there.
    static Name add_key(Store& store, const Secret& master, const Secret& passphrase, ScryptCost cost,
                        int64_t now, const std::string& label, bool replaces = false) {
        auto there = store.list(Name::keys);
        if (std::ranges::count(there, kKeySize, &ObjectInfo::size) >= long(kKeysMax) + replaces)
            throw Error(text("there are ", kKeysMax,
                             " keys already, and no more are tried: remove one first; nothing was changed"));
        std::optional<Name> name;
        int failed = 0;
        for (auto begun = Clock::now(); !name;) {
            auto key = Keys::seal_master(master, passphrase, cost, now, label);
            try {
                store.create(key);
                name = key.name();
            } catch (
                const Uncertain&) { // under a new name, then; the other one opens as well, if it is there
                if (Clock::now() > begun + store.retry_for) throw;
                pause_for(backoff(failed++));
            }
        }
        auto back = Keys::open_master(store.read(*name, 0, kKeySize), passphrase);
        if (!back || !(*back == master)) throw Corrupt("the key object does not read back as it was written");
        return *name;
    }

    /// Throws Corrupt unless this master key opens what is in index/.
    static void try_key(Store& store, const Secret& master) {
        Repository(store, master).load(list(store, false));
    }

    /// Opens a repository. `passphrase` is asked for only once it is sure that there is one. The key
    /// is stretched while index/ and, if asked for, packs/ are listed: at 100 names a round trip that
    /// takes a while in a large repository. Throws NotThere if there is no repository.
    /// `to_repair`: index/ may be lost.
    static std::unique_ptr<Repository> open(Store& store, const std::function<Secret()>& passphrase,
                                            bool list_packs = true, bool to_repair = false) {
        auto objects = read_keys(store);
        if (to_repair)
            for (auto directory : {Name::index, Name::packs}) store.make_directory(directory);
        Secret words = passphrase();
        stop_if_asked();
        store.work.begin("reading the index");
        auto unlocking = std::async(std::launch::async, [&] { return unlock(objects, words); });
        Listing listing;
        std::exception_ptr failed;
        try {
            listing = list(store, list_packs);
        } catch (...) {
            failed = std::current_exception();
        }
        Secret master = unlocking.get();
        stop_if_asked();
        try {
            if (failed) std::rethrow_exception(failed);
        } catch (const NotThere& e) {
            throw Corrupt(text("a part of the repository is lost: ", e.what(), "; see: nfreeze help repair"));
        }
        std::unique_ptr<Repository> r(new Repository(store, master));
        r->load(std::move(listing), to_repair);
        stop_if_asked();
        return r;
    }

    /// Reads the segments that have come since; says what is lost (I10: says, never records).
    void refresh() {
        auto at = since_boot();
        read_segments(store.list(Name::index), at);
    }
    /// Counts packs of segments that came meanwhile as present if they are.
    void find_packs() {
        if (index.listed_packs) index.see(store.list(Name::packs), true);
    }

    /// Makes records part of the index: one new segment, which also takes in the small ones before it
    /// (`merge_all`: all but very large ones). `records` is called once the state of index/ is known as
    /// it was a moment ago, which is nothing beside a grace period (I4); what they name must be durable
    /// (I2, I3) and rely on nothing that is condemned by then (I5). Called again if the outcome of
    /// writing is unknown: until it is written anew much may happen.
    template <class F> void commit(F records, bool merge_all = false) {
        for (std::optional<Clock::time_point> begun;; listed_.reset()) {
            if (!listed_ || since_boot() - *listed_ > listing_lasts) refresh();
            Bytes additions = records(); // which may take hours
            if (!begun) begun = Clock::now();
            bool written = write_segment(additions, *begun, merge_all);
            if (!written || since_boot() - *listed_ >= std::chrono::seconds(kSettled))
                continue; // suspended for days
            if (!merge_all) tidy(*begun);
            return;
        }
    }
    Clock::duration listing_lasts = kListingFresh;

    /// By the server's clock, in seconds: when this run has written a segment and seen it listed, else the
    /// newest time stamp in index/.
    int64_t server_time() const {
        int64_t latest = 0;
        if (auto own = segments_.find(written_); own != segments_.end() && own->second.mtime > 0)
            return own->second.mtime;
        for (auto& [key, s] : segments_) latest = std::max(latest, s.mtime);
        return latest;
    }
    size_t segments() const { return segments_.size(); }
    /// Segments whose content is lost: that others name and that are not there, or are damaged.
    std::vector<ShortName> lost_segments() const {
        auto lost = missing_parents();
        for (auto& [key, s] : segments_)
            if (s.state == Segment::broken && s.was_whole) lost.push_back(short_name(s.name.hash));
        return lost;
    }
    std::vector<ShortName> missing_parents() const {
        std::set<ShortName> whole;
        for (auto& [key, s] : segments_)
            if (s.state == Segment::whole) whole.insert(short_name(s.name.hash));
        std::vector<ShortName> missing;
        for (auto& p : index.parents)
            if (!whole.contains(p) && !index.superseded.contains(p)) missing.push_back(p);
        return missing;
    }

    /// Deletes the segments that were superseded already when this run began, by one that is so old that
    /// no listing which is under way can have missed both. A server that does not let us is left alone.
    void remove_superseded() {
        for (auto& [key, s] : segments_) {
            auto since = index.superseded.find(short_name(s.name.hash));
            if (!s.superseded_at_start || server_time() - since->second < kSettled) continue;
            if (!try_remove(s.name)) return;
            s.superseded_at_start = false;
        }
    }
    /// Deletes what was left of uploads that broke off so long ago (seconds).
    void remove_torn(int64_t age) {
        for (auto& [key, s] : segments_) {
            auto shortened = short_name(s.name.hash);
            bool garbage = s.state == Segment::broken && index.torn.contains(shortened) &&
                           !index.parents.contains(shortened);
            if (garbage && server_time() - s.mtime >= age && !try_remove(s.name)) return;
        }
    }

    /// Sends a new object. Returns false where the outcome is unknown: nothing refers to that name
    /// then, and what the object holds must be sent under another. Throws once that has gone on for
    /// the store's retry_for since `begun`.
    bool create(const Sealed& object, Clock::time_point begun) {
        [[maybe_unused]] const uint64_t before = store.work.up; // clang-tidy sees no way out of the try
        bool all_sent = false;
        try {
            store.create(object);
            store.work.stored += object.bytes().size();
            broken_off_ = 0;
            return true;
        } catch (const Uncertain& uncertain) {
            if (Clock::now() > begun + store.retry_for) throw;
            all_sent = uncertain.all_sent;
        }
        if (store.work.up > before && !all_sent)
            broken_off_ = 0; // it takes what it can: no pause
        else if (broken_off_++ > 0)
            pause_for(backoff(broken_off_));
        return false;
    }
    /// Whether the object is gone now: a server need not let us.
    bool try_remove(const Name& name) {
        try {
            store.remove(name);
        } catch (const NotThere&) {
        } catch (const Error& e) {
            if (e.exit == Exit::interrupted) throw;
            return false;
        }
        return true;
    }

    bool is_from_future(const Snapshot& s) const { return dated_after(s, now); }
    /// The newest of these, which come the latest first; null if there is none. A clock that ran ahead must
    /// not decide for years: what is dated after now is named, and taken only where there is no other.
    const Snapshot* newest(const std::vector<const Snapshot*>& latest_first) {
        for (auto* s : latest_first) {
            if (!is_from_future(*s)) return s;
            warn(text("warning: snapshot ", short_id(s->id),
                      " is dated after now: it does not count as the newest"));
        }
        return latest_first.empty() ? nullptr : latest_first[0];
    }
    /// Says it once.
    void warn(const std::string& what) {
        if (told_.insert(what).second) say(what);
    }

    /// The latest snapshots first: those that count, or those that were forgotten.
    std::vector<const Snapshot*> snapshots(bool forgotten = false) const {
        std::vector<const Snapshot*> all;
        for (auto& [id, s] : index.snapshots)
            if (index.forgotten.contains(id) == forgotten) all.push_back(&s);
        std::ranges::sort(
            all, [](auto* a, auto* b) { return std::tie(b->time, b->id) < std::tie(a->time, a->id); });
        return all;
    }

  private:
    struct Segment {
        Name name;
        uint64_t size = 0;
        enum State : uint8_t { unread, whole, broken } state = unread;
        int64_t mtime = 0;      // seconds, by the server's clock; 0 until it was listed
        bool was_whole = false; // a broken one that is no upload which was cut: its end is there
        bool authentic = false; // whole (I1) and ours
        std::string trouble;    // of a broken one that is
        double fresh = 1;       // the share of it that newer ones do not have
        bool bloated = false;   // it says most of what it says again and again
        bool superseded_at_start = false;
        std::optional<Bytes> records; // kept for merging if not larger than kKeepRecords
    };
    struct Listing {
        Clock::duration at; // by since_boot()
        std::vector<ObjectInfo> index;
        std::optional<std::vector<ObjectInfo>> packs;
    };

    Repository(Store& s, const Secret& master) : store(s), keys(master) {}

    static Listing list(Store& store, bool with_packs) {
        // index/ first: what its segments name was durable before they were (I2), so is in packs/.
        auto at = since_boot();
        Listing l{at, store.list(Name::index), {}};
        if (with_packs) l.packs = store.list(Name::packs);
        return l;
    }

    void load() { load(list(store, true)); }
    void load(Listing listing, bool may_be_lost = false) {
        if (listing.packs) index.see(*listing.packs);
        read_segments(std::move(listing.index), listing.at);
        if (std::ranges::none_of(segments_, [](auto& s) { return s.second.state == Segment::whole; }))
            may_be_lost ? note(damage, "the index is lost")
                        : throw Corrupt("index/ holds no segment that is whole; see: nfreeze help repair");
        for (auto& [key, s] : segments_)
            s.superseded_at_start = index.superseded.contains(short_name(s.name.hash));
        unnamed = {};
        if (index.listed_packs)
            for (auto& [name, listed] : *index.listed_packs)
                if (!index.find_pack(name) && !index.condemned.contains(name) &&
                    !index.deleted.contains(name)) {
                    unnamed.add(hex(name));
                    unnamed_since = std::min(unnamed.count == 1 ? INT64_MAX : unnamed_since, listed.mtime);
                }
        if (index.listed_packs)
            index.listed_packs->clear(); // packs of later segments count as absent, which costs little
    }

    /// Bytes of live segments that others have as well, for each byte that they have not.
    double repeats() const {
        double again = 0, fresh = 0;
        for (auto& [key, s] : segments_)
            if (live(s)) fresh += s.fresh * double(s.size), again += (1 - s.fresh) * double(s.size);
        return again / std::max(fresh, 1.0);
    }
    /// Where clients that ran side by side have left the same many times, and nobody else is at work now, it
    /// is merged.
    void tidy(Clock::time_point begun) {
        if (repeats() < 0.8) return;
        auto known = segments_.size();
        refresh();
        if (segments_.size() == known) write_segment({}, begun, true);
    }

    /// Returns false if nobody knows whether it was written.
    bool write_segment(View additions, Clock::time_point begun, bool merge_all) {
        RecordSet out;
        std::set<ShortName> gone;
        try {
            for (auto* s : choose_merge(additions.size(), merge_all)) {
                merge_records(out, *s);
                gone.insert(short_name(s->name.hash));
            }
            add_news(out, gone, additions);
        } catch (const Corrupt&) { // too much for one segment: then it is written without them
            out = {};
            gone = {};
            add_news(out, gone, additions);
        }
        if (!send_segment(out, begun)) return false;
        for (auto& name : gone) index.superseded.emplace(name, Index::kJustNow);
        return true;
    }

    /// What a segment says beside what it merges: `gone`, which it takes the place of, and what this run
    /// adds.
    void add_news(RecordSet& out, const std::set<ShortName>& gone, View additions) {
        Writer news;
        for (auto& name : gone) put_since(news, Record::segment_superseded, name);
        for (auto& [key, s] : segments_) {
            auto shortened = short_name(s.name.hash);
            if (live(s) && !gone.contains(shortened)) put_record(news, Record::segment_parent, shortened);
            if (s.state == Segment::broken && !s.was_whole && !index.torn.contains(shortened))
                put_record(news, Record::segment_torn, shortened);
        }
        for (auto& name : uncertain_) put_record(news, Record::segment_torn, name);
        out.add(news.view());
        out.add(additions);
    }

    bool live(const Segment& s) const {
        return s.state == Segment::whole && !index.superseded.contains(short_name(s.name.hash));
    }

    void note(std::set<std::string>& where, const std::string& what) {
        where.insert(what);
        warn("warning: " + what);
    }

    /// Reads what is new in a listing of index/, the newest first, so that superseded segments are
    /// not read. A listing is not atomic: what seems lost, or not written to its end, is looked for twice
    /// more.
    void read_segments(std::vector<ObjectInfo> listing, Clock::duration at) {
        for (int round = 0;; ++round) {
            listed_ = at;
            bool vanished = !read_listed(listing);
            bool growing = store.patience > Clock::duration(0) &&
                           std::ranges::any_of(segments_, [&](auto& s) { return is_growing(s.second); });
            if (!vanished && !growing && missing_parents().empty()) break;
            if (round == 2) break;
            if (growing) pause_for(store.patience);
            at = since_boot();
            listing = store.list(Name::index);
        }
        doubts.clear();
        for (auto& p : missing_parents())
            note(damage, text("index segment ", hex(p),
                              " was lost or is withheld by the server: what it listed is unknown"));
        Some torn;
        for (auto& [key, s] : segments_) {
            if (!is_doubtful(s)) continue;
            if (s.was_whole)
                note(damage, s.name.path() + (s.trouble.empty() ? " is damaged: what it listed is unknown"
                                                                : ": " + s.trouble));
            else
                torn.add(s.name.path());
        }
        if (torn.count > 0)
            note(doubts,
                 torn.words(" is not whole: an interrupted upload, or damage; the next backup notes it",
                            " objects of the index are not whole: interrupted uploads, or damage; the next "
                            "backup notes them"));
    }
    bool is_doubtful(const Segment& s) const {
        auto shortened = short_name(s.name.hash);
        return s.state == Segment::broken && !index.superseded.contains(shortened) &&
               !index.torn.contains(shortened) && !index.parents.contains(shortened);
    }
    /// Whether it may be an upload that is under way, if the server's clock is about ours.
    bool is_growing(const Segment& s) const {
        return is_doubtful(s) && !s.was_whole && std::abs(now_ns() / 1'000'000'000 - s.mtime) < 60;
    }
    /// Returns whether every listed segment was still there.
    bool read_listed(const std::vector<ObjectInfo>& listing) {
        std::vector<Segment*> fresh;
        for (auto& o : listing) {
            if (segments_.size() > kSegmentsMax)
                throw Corrupt(text("index/ holds more than ", kSegmentsMax, " names"));
            auto& s = segments_[o.name];
            s.mtime = std::clamp<int64_t>(o.mtime, 0, kTimeMax);
            if (s.state == Segment::whole || (s.state != Segment::unread && s.size == o.size)) continue;
            s.name = o.name;
            s.size = o.size;
            fresh.push_back(&s);
        }
        std::ranges::sort(fresh, std::greater{}, [](auto* s) { return s->name.seq; });
        bool all_there = true;
        for (auto* s : fresh) {
            if (index.superseded.contains(short_name(s->name.hash))) continue;
            try {
                auto records = load_records(*s);
                s->fresh = index.apply(records, s->name.seq, s->mtime);
                s->state = Segment::whole;
                highest_seq_ = std::max(highest_seq_, s->name.seq);
                if (records.size() <= kKeepRecords) s->records = std::move(records);
            } catch (const NotThere&) {
                all_there = false;
            } catch (const Corrupt& e) {
                s->state = Segment::broken;
                if (s->authentic)
                    s->trouble = text("what it says makes no sense (", e.what(), ") and counts for nothing");
            }
        }
        return all_there;
    }

    Bytes load_records(Segment& s) {
        if (s.size > kSegmentMax) throw Corrupt(s.name.path() + " is larger than any segment");
        auto bytes = store.read(s.name, 0, s.size);
        auto label = segment_label(s.name.seq);
        if (!Keys::is_whole(bytes, s.name)) { // I1
            s.was_whole = Opener(keys, label, Keys::salt(bytes)).has_end(bytes);
            throw Corrupt(s.name.path() + " is not whole");
        }
        auto object = open_object(keys, label, bytes, s.name.path());
        s.authentic = s.was_whole = true;
        bytes = {};        // a segment may be large: it is in memory once
        RecordSet records; // merges of side by side clients once wrote the same again and again
        Bytes rest;
        size_t all = 0;
        for (auto& frame : object.frames) {
            auto raw = decompress(std::exchange(frame, {}), kFrameMax);
            all += raw.size();
            if (rest.empty())
                rest = std::move(raw);
            else
                rest.insert(rest.end(), raw.begin(), raw.end());
            if (rest.size() > kSegmentMax) throw Corrupt("a record larger than any segment");
            rest.erase(rest.begin(), rest.begin() + long(records.add(rest)));
        }
        if (!rest.empty()) throw Corrupt("its last record ends early");
        s.bloated = all > 2 * records.size() + MiB;
        return records.take();
    }

    /// The trailing live segments, oldest first, each at most twice as large as all after it: so
    /// that there are O(log n) segments and each record is merged O(log n) times. Clients that run side by
    /// side would all merge the same: the more what is live repeats itself, the fewer of them do.
    std::vector<Segment*> choose_merge(size_t size, bool all_that_fit) {
        std::vector<Segment*> all, chosen;
        for (auto& [key, s] : segments_)
            if (live(s)) all.push_back(&s);
        std::array<uint8_t, 1> chance;
        fill_random(chance);
        bool bloated = std::ranges::any_of(all, &Segment::bloated);
        double share = 1 / (1 + repeats());
        if (!all_that_fit && !bloated && chance[0] >= 256 * share * share) return {};
        all_that_fit |= bloated;
        std::ranges::sort(all, std::greater{}, [](auto* s) { return s->name.seq; });
        size_t sum = std::max<size_t>(size, 4 * KiB);
        for (auto* s : all) {
            if (all_that_fit && sum + s->size > kMergeMax) continue;
            if (!all_that_fit && (s->size > 2 * sum || sum + s->size > kMergeMax)) break;
            sum += s->size;
            chosen.insert(chosen.begin(), s);
        }
        return chosen;
    }

    /// Adds a segment's records but for parents that are superseded by now, packs that were deleted
    /// (their names are carried on) and forgotten snapshots of which nothing is left.
    void merge_records(RecordSet& out, Segment& s) {
        Bytes loaded;
        if (!s.records) loaded = load_records(s);
        for (Reader in(s.records ? *s.records : loaded, "a segment"); !in.empty();) {
            auto type = Record(in.u8());
            View body = in.bytes(kSegmentMax);
            if (type == Record::segment_parent) {
                auto parent = Reader(body, "a parent").array<16>();
                bool known = std::ranges::any_of(segments_, [&](auto& k) {
                    return short_name(k.second.name.hash) == parent && k.second.state == Segment::whole;
                });
                if (known || index.superseded.contains(parent)) continue; // a lost one is carried on
            } else if (type == Record::pack_added || type == Record::pack_condemned) {
                if (index.deleted.contains(Reader(body, "a pack's record").array<32>())) continue;
            } else if (type == Record::snapshot_added) {
                bool was_forgotten = index.forgotten.contains(Reader(body, "a snapshot").array<16>());
                if (was_forgotten && damage.empty() && doubts.empty() &&
                    std::ranges::all_of(decode_snapshot(body).tree,
                                        [&](auto& id) { return index.is_gone(id); }))
                    continue;
            }
            // The oldest time that is known, so that clients which merge side by side write the same.
            if (type == Record::pack_condemned)
                add_since(out, type, index.condemned, Reader(body, "a pack's record").array<32>());
            else if (type == Record::segment_superseded)
                add_since(out, type, index.superseded, Reader(body, "a segment's name").array<16>());
            else
                out.add(type, body);
        }
    }
    template <class Name>
    static void add_since(RecordSet& out, Record type, const std::map<Name, int64_t>& times,
                          const Name& name) {
        auto since = times.at(name);
        Writer record;
        put_since(record, type, name, since == Index::kJustNow ? 0 : since);
        out.add(record.view());
    }

    bool send_segment(RecordSet& records, Clock::time_point begun) {
        Sealer sealer(keys, segment_label(highest_seq_ + 1));
        for (View rest = records.view(); !rest.empty();) {
            View part = rest.first(std::min(rest.size(), kFrameMax / 2));
            Bytes raw(part.begin(), part.end());
            auto [head, body] = compress(raw);
            sealer.add({.kind = Kind::records, .chunks = {}}, head, body);
            rest = rest.subspan(part.size());
        }
        auto object = sealer.finish().sealed;
        Segment done;
        done.name = object.name();
        done.size = object.bytes().size();
        if (done.size > kSegmentMax)
            throw Error("a segment of the index would be larger than what can be read back");
        if (segments_.size() >= kSegmentsMax)
            throw Error(text("index/ holds ", kSegmentsMax,
                             " segments, and no reader takes more: let one that may delete run there"));
        // If the outcome is unknown it stays, and counts if it turns up whole: somebody may have read
        // it, and take what it merged for superseded. The next segment says that it need not be whole.
        auto shortened = short_name(done.name.hash);
        uncertain_.insert(shortened);
        index.torn.insert(shortened);
        if (!create(object, begun)) return false;
        uncertain_.erase(shortened);
        index.torn.erase(shortened);
        written_ = done.name;
        done.state = Segment::whole;
        if (records.size() <= kKeepRecords) done.records = records.take();
        highest_seq_ = done.name.seq;
        segments_[done.name] = std::move(done);
        return true;
    }

    std::map<Name, Segment> segments_; // by name and number, which a server may make up
    uint32_t highest_seq_ = 0;         // among those that authenticated
    Name written_;                     // the last one that this run wrote
    std::set<ShortName> uncertain_;    // segments that this run sent without learning whether they are there
    std::optional<Clock::duration> listed_; // when index/ was, by since_boot()
    std::set<std::string> told_;            // warnings
    std::atomic<int> broken_off_{0};        // uploads one after the other of which nothing was taken
};

// ---- chunks out --------------------------------------------------------------------

/// Fetches frames ahead of their use. One thread, the planner, pins frames in the order in which
/// they will be needed; frames that lie together become one read. Any thread gets and unpins.
/// Pinned frames may take `budget` raw bytes; the planner waits for more until some are unpinned.
class ChunkReader {
    using RawFrame = std::shared_ptr<const Bytes>; // null: does not open

  public:
    /// A chunk's bytes, which live as long as this.
    struct Chunk {
        RawFrame frame;
        View bytes;
        operator View() const { return bytes; }
    };
    ChunkReader(Repository& repo, TaskPool& wire, size_t budget)
        : repo_(repo), wire_(wire), budget_(budget) {}
    /// What is pinned counts as planned, for who watches: as read only, or as written again, too.
    enum Shown { not_here, reads, copies } shown = not_here;
    ~ChunkReader() { give_up(); }

    /// Announces that `id` will be read. Throws Corrupt if it has no place. Planner only.
    Place pin(const ChunkId& id) {
        auto places = repo_.index.readable_places(id);
        if (places.empty()) throw Corrupt("a part of it is in no pack that is there");
        uint32_t frame = places[0].frame;
        std::unique_lock lock(mutex_);
        wait_until(lock, [&] { return pins_ < kPinsMax; });
        if (!slots_[frame].data.valid()) {
            lock.unlock();
            flush_unless_adjacent(frame);
            lock.lock();
            if (pinned_ + raw(frame) > budget_) // for half of it, or single frames would be read from now on
                wait_until(lock, [&] { return pinned_ == 0 || pinned_ + raw(frame) <= budget_ / 2; });
            begin_read(frame);
        }
        ++pins_;
        if (slots_[frame].pins++ == 0) {
            pinned_ += raw(frame);
            std::erase(idle_, frame);
        }
        changed_.notify_all();
        if (shown != not_here) repo_.store.work.planned += places[0].length;
        if (shown == copies) repo_.store.work.line += repo_.index.sealed_part(places[0]);
        return places[0];
    }
    /// Whether a planner that unpins as well can pin more without waiting for itself.
    bool has_room() {
        std::lock_guard lock(mutex_);
        return pinned_ + kFrameMax <= budget_ && pins_ < kPinsMax;
    }
    /// Sends what pin() has gathered. Planner only, before it waits for anything.
    void flush() {
        if (run_.frames.empty()) return;
        auto run = std::make_shared<Run>(std::move(run_));
        run_ = {};
        auto [begin, end] = run->aligned();
        repo_.store.work.line += end - begin;
        wire_.push([&repo = repo_, run] { fetch(repo, *run); }); // may outlive this reader
    }
    /// The chunk's bytes, checked against its id, from whichever place opens. The chunk must have
    /// been pinned. Waits for the network. Throws Corrupt.
    Chunk get(const ChunkId& id, const Place& place, IdHasher& hasher) {
        std::string why;
        try {
            if (auto chunk = cut(wait_for(place.frame), place, id, hasher)) return *chunk;
            why = "a part of it is not what it was when it was stored";
        } catch (const Corrupt& e) {
            why = e.what();
        }
        std::unique_lock lock(mutex_);
        auto places = repo_.index.places(id);
        lock.unlock();
        for (auto& other : places) {
            if (other.frame == place.frame) continue;
            try {
                Run one;
                one.add(repo_.index, other.frame);
                auto frame = read_run(repo_, one).at(0);
                if (frame)
                    if (auto chunk = cut(frame, other, id, hasher)) return *chunk;
            } catch (const Corrupt&) {
            }
        }
        throw Corrupt(why);
    }
    /// Takes back one pin(), for which it waits if need be. The last frames stay for a while.
    void unpin(uint32_t frame) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return aborted_ || slots_[frame].pins > 0; });
        if (aborted_) return;
        if (--pins_ == kPinsMax - 1) changed_.notify_all();
        if (--slots_[frame].pins > 0) return;
        pinned_ -= raw(frame);
        idle_.push_back(frame);
        size_t idle = 0;
        for (uint32_t f : idle_) idle += raw(f);
        for (; idle > budget_ / 2; idle_.pop_front()) {
            idle -= raw(idle_.front());
            slots_.erase(idle_.front());
        }
        changed_.notify_all();
    }
    /// Calls `f(number, bytes)` for each chunk in its order. Planner only, of a reader that does nothing
    /// else. Throws Corrupt.
    template <class F> void read_all(const std::vector<ChunkId>& ids, IdHasher& hasher, F f) {
        std::deque<Place> pinned;
        try {
            for (size_t next = 0, i = 0; i < ids.size(); ++i) {
                stop_if_asked();
                while (next < ids.size() && (pinned.empty() || has_room()))
                    pinned.push_back(pin(ids[next++]));
                flush();
                f(i, get(ids[i], pinned.front(), hasher));
                unpin(pinned.front().frame);
                pinned.pop_front();
            }
        } catch (...) {
            for (auto& place : pinned) unpin(place.frame);
            throw;
        }
    }
    /// pin, flush, get, unpin: for a reader that looks at one chunk at a time. Planner only.
    Chunk read(const ChunkId& id, IdHasher& hasher) {
        auto place = pin(id);
        flush();
        try {
            auto chunk = get(id, place, hasher);
            unpin(place.frame);
            return chunk;
        } catch (...) {
            unpin(place.frame);
            throw;
        }
    }
    /// abort(), also for those who wait for what was gathered and not sent. Planner only, when it ends early.
    void give_up() {
        abort();
        run_ = {};
    }
    /// Wakes everybody else who waits, with Interrupted.
    void abort() {
        std::lock_guard lock(mutex_);
        aborted_ = true;
        changed_.notify_all();
    }

  private:
    struct Slot {
        int pins = 0;
        std::shared_future<RawFrame> data;
    };
    /// Frames of one pack that are read in one go.
    struct Run {
        uint32_t pack = kNone;
        Hash name{}; // of the pack, copied: the index may grow while others read
        Salt salt{};
        uint64_t size = 0, begin = 0, end = 0;
        std::vector<std::pair<uint32_t, FramePlace>> frames;
        std::vector<std::promise<RawFrame>> promises;
        void add(const Index& index, uint32_t number) {
            auto& f = index.frame(number);
            if (frames.empty()) {
                begin = f.offset;
                pack = f.pack;
                name = index.pack(f).name;
                salt = index.pack(f).salt;
                size = index.pack(f).size;
            }
            end = f.offset + f.sealed;
            frames.emplace_back(number, f);
        }
        /// What is read, on the grid. No pack is smaller than its frames: decode_pack().
        std::pair<uint64_t, uint64_t> aligned() const {
            return {begin / kReadAlign * kReadAlign,
                    std::min<uint64_t>((end + kReadAlign - 1) / kReadAlign * kReadAlign, size)};
        }
    };

    size_t raw(uint32_t frame) const { return repo_.index.frame(frame).raw; }

    void flush_unless_adjacent(uint32_t frame) {
        auto& f = repo_.index.frame(frame);
        bool adjacent = !run_.frames.empty() && f.pack == run_.pack && f.offset >= run_.end &&
                        f.offset - run_.end <= kReadGap && f.offset + f.sealed - run_.begin <= kReadRun;
        if (!adjacent) flush();
    }
    /// Waits until there is `room`; what the others wait for is under way by then.
    template <class F> void wait_until(std::unique_lock<std::mutex>& lock, F room) {
        if (!aborted_ && !room()) {
            lock.unlock();
            flush();
            lock.lock();
            changed_.wait(lock, [&] { return aborted_ || room(); });
        }
        if (aborted_) throw Interrupted();
    }
    void begin_read(uint32_t frame) {
        run_.add(repo_.index, frame);
        run_.promises.emplace_back();
        slots_[frame].data = run_.promises.back().get_future().share();
    }
    RawFrame wait_for(uint32_t frame) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return aborted_ || slots_[frame].data.valid(); });
        if (aborted_) throw Interrupted();
        auto data = slots_[frame].data;
        lock.unlock();
        try {
            if (auto bytes = data.get()) return bytes;
        } catch (const std::future_error&) {
            throw Interrupted();
        } // it was given up
        throw Corrupt("a part of it does not authenticate");
    }
    static std::optional<Chunk> cut(const RawFrame& frame, const Place& p, const ChunkId& id,
                                    IdHasher& hasher) {
        if (size_t(p.offset) + p.length > frame->size()) return {};
        View bytes = View(*frame).subspan(p.offset, p.length);
        if (hasher(bytes) != id) return {};
        return Chunk{frame, bytes};
    }

    static void fetch(Repository& repo, Run& run) {
        try {
            auto frames = read_run(repo, run);
            for (size_t i = 0; i < frames.size(); ++i) run.promises[i].set_value(frames[i]);
        } catch (...) {
            for (auto& p : run.promises) p.set_exception(std::current_exception());
        }
    }
    /// The frames of a run, null where one does not open. Reads are aligned, so that the server
    /// does not learn where frames begin.
    static std::vector<RawFrame> read_run(Repository& repo, const Run& run) {
        auto name = pack_name(run.name);
        auto [begin, end] = run.aligned();
        Foreign sealed;
        try {
            try {
                sealed = repo.store.read(name, begin, size_t(end - begin));
            } catch (const Corrupt&) { // it ends early, but perhaps behind these frames
                if (end <= run.end) throw;
                sealed = repo.store.read(name, begin, size_t(run.end - begin));
            }
        } catch (const Error& e) {
            if (e.exit != Exit::failed || e.exhausted) throw; // the connection, a signal, this machine
            throw Corrupt(e.what());
        }
        Opener opener(repo.keys, kPackLabel, run.salt);
        std::vector<RawFrame> frames;
        for (auto& [number, f] : run.frames) {
            auto plain = opener.open_in_place(f.number, sealed, f.offset - begin, f.sealed);
            try {
                frames.push_back(plain ? std::make_shared<const Bytes>(decompress(*plain, f.raw))
                                       : nullptr); // no bombs
            } catch (const Corrupt&) {
                frames.push_back(nullptr);
            }
        }
        return frames;
    }

    Repository& repo_;
    TaskPool& wire_;
    size_t budget_, pinned_ = 0; // raw bytes
    size_t pins_ = 0;            // chunks
    Run run_;                    // planner only
    std::mutex mutex_;
    std::condition_variable changed_;
    std::unordered_map<uint32_t, Slot> slots_;
    std::deque<uint32_t> idle_; // unpinned frames, the oldest first
    bool aborted_ = false;
};

// ---- chunks in ---------------------------------------------------------------------

/// Turns chunks into frames, frames into packs, packs into durable objects. Called by one thread;
/// compression and sending go on in others. Memory: at most (connections + 1) packs of data, and two
/// frames for each processor.
class Packer {
  public:
    Packer(Repository& repo, int connections, std::chrono::seconds checkpoint_every)
        : repo_(repo), hasher_(repo.keys.hasher()), checkpoint_every_(checkpoint_every),
          wire_(connections, 0), crunch_(processors(), size_t(processors())) {}

    uint64_t new_bytes = 0; // raw bytes of chunks that the repository did not have
    bool dry_run = false;   // count them and send nothing

    /// Stores a chunk unless it is there; `force` stores it anyway. Returns its id.
    ChunkId put(Kind kind, View data, bool force = false) {
        ChunkId id = hasher_(data);
        if (!force && repo_.index.rely_on(id)) return id;
        new_bytes += data.size();
        repo_.store.work.fresh += data.size();
        append(kind, id, data);
        return id;
    }

    /// Waits until every chunk is in a durable pack. A snapshot's record goes into the last pack of
    /// its tree, if the tree brought any chunk.
    void flush(const Snapshot* with = nullptr) {
        if (with && wrote_tree_) {
            auto record = encode_snapshot(*with);
            append(Kind::snapshot, hasher_(record), record);
        }
        for (auto& s : streams_) end_frame(s);
        crunch_.drain();
        for (auto& s : streams_)
            if (s.pack) send_later(std::exchange(s.pack, nullptr));
        wire_.drain();
        collect();
    }

    /// Every so often: makes what is durable part of the index, so that a run that is killed loses
    /// only what went up since.
    void maybe_checkpoint() {
        collect();
        if (checkpoint_due()) checkpoint({});
    }
    /// Throws what went wrong in another thread, or with the index.
    void check() {
        wire_.check();
        crunch_.check();
        if (commit_failed_) std::rethrow_exception(commit_failed_);
    }

    /// Writes a segment that lists the packs sent since the last one, and `additions`. Where what
    /// this run relies on was condemned meanwhile, its chunks are copied first (I5).
    void checkpoint(View additions) {
        collect();
        last_checkpoint_ = Clock::now();
        if (records_.size() == 0 && additions.empty() && repo_.index.relied_but_condemned(1).empty()) return;
        commit([&] {
            while (rescue()) repo_.refresh();
            return additions;
        });
    }

    /// After an interruption, or where an object was refused, as by a full disk: gives up what is not sent,
    /// keeps what is durable (I2). Packs alone rely on nothing. Where the refused object is still there, so
    /// would be a segment.
    void salvage(const Error& why) {
        if (why.exit != Exit::interrupted && !why.undone) return;
        crunch_.abandon();
        wire_.abandon();
        give_until((Clock::now() + kCheckpointGrace).time_since_epoch().count());
        collect();
        try {
            if (records_.size() > 0) commit([] { return View(); });
        } catch (const Error&) {
            if (why.exit == Exit::interrupted) throw; // else the first error tells more
        }
    }

  private:
    struct Pack {
        Sealer sealer;
        std::vector<uint32_t> frames; // their numbers in the index
        void add(uint32_t number, FrameInfo info, View head, View body = {}) {
            sealer.add(std::move(info), head, body);
            frames.push_back(number);
        }
    };
    std::shared_ptr<Pack> new_pack() {
        return std::make_shared<Pack>(Pack{Sealer(repo_.keys, kPackLabel, packs_.take()), {}});
    }
    struct Frame {
        uint32_t number = kNone; // in the index; kNone: not begun
        FrameInfo info;
        Bytes raw; // until it is compressed
        FramePlain plain;
    };
    /// Buffers that are used again: the system clears each page of a new one, which costs as much as
    /// encrypting what goes into it.
    class Buffers {
      public:
        explicit Buffers(size_t size) : size_(size) {}
        Bytes take() {
            std::lock_guard lock(mutex_);
            Bytes buffer;
            if (!spare_.empty()) {
                buffer = std::move(spare_.back());
                spare_.pop_back();
            }
            buffer.clear();
            buffer.reserve(size_);
            return buffer;
        }
        void give_back(Bytes buffer) {
            std::lock_guard lock(mutex_);
            if (buffer.capacity() >= size_) spare_.push_back(std::move(buffer));
        }

      private:
        size_t size_; // bytes, at least
        std::mutex mutex_;
        std::vector<Bytes> spare_;
    };
    struct Stream {
        Frame open;
        uint64_t ended = 0; // frames handed to the compressing threads
        std::mutex mutex;   // guards what these fill:
        uint64_t packed = 0;
        std::map<uint64_t, Frame> early; // compressed, but one before it is not
        std::shared_ptr<Pack> pack;      // none: not begun
    };
    bool checkpoint_due() const {
        return Clock::now() - last_checkpoint_ >= checkpoint_every_ || records_.size() > kRecordsMax;
    }
    static size_t frame_max(Kind kind) { return kind == Kind::data ? kDataFrame : kTreeFrame; }
    static int processors() { return std::clamp(int(std::thread::hardware_concurrency()), 1, 16); }

    void append(Kind kind, const ChunkId& id, View data) {
        if (data.size() > kChunkMax)
            throw Error(text("a chunk of ", data.size(), " bytes is beyond what can be read back"));
        auto& s = streams_[kind != Kind::data];
        wrote_tree_ |= kind == Kind::tree;
        auto& frame = s.open;
        bool full =
            frame.raw.size() + data.size() > frame_max(kind) || frame.info.chunks.size() >= kFrameChunks;
        if (full || frame.info.kind != kind) end_frame(s);
        if (frame.number == kNone) {
            if (repo_.index.packs_listed() >= kListMax)
                throw Error(text("the repository has ", kListMax,
                                 " packs, and no reader takes more: forget and prune, or begin another"));
            frame.number = repo_.index.begin_frame(kind);
            frame.info.kind = kind;
            frame.raw = frames_.take();
        }
        repo_.index.add_pending(id, frame.number, uint32_t(frame.raw.size()), uint32_t(data.size()));
        if (dry_run) return;
        frame.info.chunks.push_back({id, uint32_t(data.size())});
        frame.raw.insert(frame.raw.end(), data.begin(), data.end());
    }

    void end_frame(Stream& s) {
        if (s.open.number == kNone) return;
        auto frame = std::make_shared<Frame>(std::exchange(s.open, {}));
        crunch_.push([this, &s, frame, place = s.ended++] {
            frame->plain = compress(frame->raw);
            frames_.give_back(std::move(frame->raw));
            put_in_pack(s, place, std::move(*frame));
        });
    }
    /// Frames are compressed side by side but lie in packs in their order, so that neighbours are
    /// read in one go.
    void put_in_pack(Stream& s, uint64_t place, Frame compressed) {
        std::lock_guard lock(s.mutex); // held while a full pack waits: so at most one does
        s.early.emplace(place, std::move(compressed));
        for (auto next = s.early.begin(); next != s.early.end() && next->first == s.packed;
             next = s.early.erase(next), ++s.packed) {
            auto& frame = next->second;
            if (!s.pack) s.pack = new_pack();
            if (!repo_.store.work.settled)
                repo_.store.work.line += frame.plain.head.size() + frame.plain.body.size() + kTag;
            s.pack->add(frame.number, std::move(frame.info), frame.plain.head, frame.plain.body);
            frames_.give_back(std::move(frame.plain.body));
            if (s.pack->sealer.size() >= kPackTarget) send_later(std::exchange(s.pack, nullptr));
        }
    }

    void send_later(const std::shared_ptr<Pack>& pack) {
        wire_.push([this, pack] { send(pack); });
    }
    /// Makes a pack durable. One whose upload broke off is sent anew in two halves, so that a
    /// connection that never lasts for a whole pack gets there, too.
    void send(const std::shared_ptr<Pack>& whole) {
        std::vector<std::shared_ptr<Pack>> left{whole};
        for (auto begun = Clock::now(); !left.empty();) {
            auto pack = std::move(left.back());
            left.pop_back();
            auto object = pack->sealer.finish();
            if (repo_.create(object.sealed, begun)) {
                sent(object, *pack);
                packs_.give_back(object.sealed.take());
                continue;
            }
            repo_.try_remove(object.sealed.name()); // as far as it got
            auto frames = open_object(repo_.keys, kPackLabel, Keys::back(std::move(object.sealed)),
                                      "a pack just sealed")
                              .frames;
            size_t middle = frames.size() / 2;
            for (auto [from, upto] : {std::pair(middle, frames.size()), std::pair(size_t(0), middle)}) {
                if (from == upto) continue;
                left.push_back(new_pack());
                for (size_t i = from; i < upto; ++i)
                    left.back()->add(pack->frames[i], std::move(object.table[i]), frames[i]);
            }
        }
    }
    void sent(SealedObject& object, Pack& pack) {
        PackInfo done;
        done.name = object.sealed.name().hash;
        done.salt = object.salt;
        done.size = object.sealed.bytes().size();
        done.present = true;
        done.seq = kNone;
        done.table = std::move(object.table);
        std::lock_guard lock(sent_mutex_);
        sent_.emplace_back(std::move(done), std::move(pack.frames));
    }

    template <class F> void commit(F additions) {
        try {
            repo_.commit([&] {
                View more = additions(); // which may send packs first
                Bytes all(records_.view().begin(), records_.view().end());
                all.insert(all.end(), more.begin(), more.end());
                return all;
            });
        } catch (...) {
            commit_failed_ = std::current_exception();
            throw;
        }
        records_.take();
        last_checkpoint_ = Clock::now();
    }

    /// Takes the durable packs into the index and into the records of the next segment.
    void collect() {
        std::lock_guard lock(sent_mutex_);
        for (auto& [pack, frames] : sent_) {
            repo_.index.add_pack(pack, frames);
            put_record(records_, Record::pack_added, encode_pack(pack));
        }
        sent_.clear();
    }

    /// Copies chunks that this run relies on out of packs condemned meanwhile; whether there were any.
    bool rescue() {
        if (repo_.index.relied_but_condemned(1).empty()) return false;
        repo_.find_packs(); // somebody may have copied it already
        auto endangered = repo_.index.relied_but_condemned(kPinsMax);
        if (endangered.empty()) return false;
        std::vector<ChunkId> ids;
        for (auto& place : endangered) ids.push_back(place.id);
        ChunkReader reader(repo_, wire_, kReadAhead);
        reader.shown = ChunkReader::copies;
        try {
            reader.read_all(ids, hasher_, [&](size_t i, View chunk) {
                put(repo_.index.frame(endangered[i].frame).kind, chunk, true);
                repo_.store.work.done += chunk.size();
                collect();
                if (checkpoint_due()) commit([] { return View(); }); // packs alone rely on nothing
            });
        } catch (const Corrupt& e) {
            throw Error(text(
                "something that this run relies on was deleted meanwhile or is damaged (", e.what(),
                "), and nothing was committed; run it again, and if that fails: nfreeze check --read-data"));
        } catch (const Interrupted&) {
            wire_.check(); // another task of the pool may have failed, which dropped ours
            throw;
        }
        flush();
        return true;
    }

    static constexpr auto kCheckpointGrace = std::chrono::milliseconds(2500);
    Repository& repo_;
    IdHasher hasher_;
    std::chrono::seconds checkpoint_every_;
    Clock::time_point last_checkpoint_ = Clock::now();
    bool wrote_tree_ = false;
    std::exception_ptr commit_failed_;
    std::array<Stream, 2> streams_; // data, metadata: reading a tree takes a few long reads
    std::mutex sent_mutex_;
    std::vector<std::pair<PackInfo, std::vector<uint32_t>>> sent_;
    Writer records_;
    Buffers frames_{kDataFrame}, packs_{kPackTarget + kDataFrame + MiB};
    TaskPool wire_; // destroyed after crunch_, which pushes to it
    TaskPool crunch_;
};

// ============================================================================
// [SECTION] 9. Trees
// ============================================================================
// Trusted with data.
// Uses: 4, 7, 8. Provides: Entry, TreeWriter, TreeReader. A tree is a stream of records in walk
// order, cut between records into chunks that can each be read alone; the list of these chunks,
// each with the first path in it, is stored in chunks too, whose ids the snapshot names.

enum class Type : uint8_t { file = 0, directory = 1, symlink = 2, fifo = 3, character = 4, block = 5 };

/// Since 1970. Not one number of nanoseconds: file systems go beyond the years 1677 to 2262.
struct Time {
    int64_t seconds = 0;
    uint32_t ns = 0;
    bool operator==(const Time&) const = default;
};

struct Extent {
    uint64_t offset, length;
    bool operator==(const Extent&) const = default;
};

struct Entry {
    std::string path; // relative to the source, no slash at its ends; the source itself is ""
    Type type = Type::file;
    bool racy = false;        // its ctime was too fresh to be trusted next time (I9)
    bool mount_point = false; // another file system was mounted here
    uint32_t mode = 0;        // permission bits with setuid, setgid, sticky
    uint32_t uid = 0, gid = 0;
    Time mtime, ctime;
    uint64_t inode = 0;
    uint64_t link_group = 0; // with the inode it tells which files are hard links; 0: not linked
    uint64_t size = 0;       // of a file, holes included
    uint64_t device = 0;     // of a device node
    std::string target;      // of a symlink
    std::vector<std::pair<std::string, std::string>> xattrs;
    uint64_t checksum = 0;       // XXH3-64 of a file's bytes without its holes, if it has several chunks
    std::vector<Extent> holes;   // ascending
    std::vector<ChunkId> chunks; // of a file's bytes without its holes

    /// Whether a user would call both the same: in all but what identifies the inode.
    bool looks_like(const Entry& o) const {
        auto visible = [](const Entry& e) {
            return std::tie(e.type, e.mode, e.uid, e.gid, e.mtime, e.size, e.device, e.target, e.xattrs,
                            e.chunks);
        };
        return visible(*this) == visible(o);
    }
};

/// 'M' where content or type differ, 'U' where only the rest does (mode, owner, time, attributes), or ' '.
char difference(const Entry& a, const Entry& b) {
    auto content = [](const Entry& e) {
        return std::tie(e.type, e.size, e.device, e.target, e.chunks, e.holes);
    };
    return content(a) != content(b) ? 'M' : a.looks_like(b) ? ' ' : 'U';
}

/// Walk order: as bytes, but a slash comes before everything, so that a directory's content
/// follows it at once.
std::strong_ordering compare_paths(std::string_view a, std::string_view b) {
    auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    if (x == a.end() || y == b.end()) return a.size() <=> b.size();
    auto rank = [](char c) { return c == '/' ? 0 : uint8_t(c); };
    return rank(*x) <=> rank(*y);
}
bool path_before(std::string_view a, std::string_view b) { return compare_paths(a, b) < 0; }

/// Whether `path` is `top` or below it; everything is below "".
bool is_within(std::string_view path, std::string_view top) {
    return top.empty() || (path.starts_with(top) && (path.size() == top.size() || path[top.size()] == '/'));
}

/// Slashes at the ends, doubled ones and "." taken away.
std::string plain_path(const std::string& path) {
    std::string out;
    std::istringstream parts(path);
    for (std::string part; std::getline(parts, part, '/');)
        if (!part.empty() && part != ".") out += (out.empty() ? "" : "/") + part;
    return out;
}

/// A path that names something below the source and nothing else (I7).
bool is_safe_path(std::string_view path) {
    if (path.empty()) return true;
    for (size_t at = 0; at <= path.size();) {
        size_t slash = std::min(path.find('/', at), path.size());
        auto part = path.substr(at, slash - at);
        if (part.empty() || part == "." || part == ".." || part.find('\0') != part.npos) return false;
        at = slash + 1;
    }
    return true;
}

namespace tree_flags { // beside the type in the lowest three bits
constexpr unsigned racy = 8, mount = 16, xattrs = 32, linked = 64, holes = 128, continued = 256,
                   continuation = 512, all = 1023;
}

/// Encodes and decodes records; both sides keep the record before, which the next one is relative
/// to. reset() at the start of a chunk.
class TreeCodec {
  public:
    /// At the start of a chunk, whose first path the list of chunks tells.
    void reset(const std::string& first) {
        before_ = {};
        before_.path = first;
    }

    void encode(Writer& out, const Entry& e) {
        size_t done = std::min(e.chunks.size(), kIdsPerRecord);
        namespace f = tree_flags;
        out.varint(unsigned(e.type) | (e.racy ? f::racy : 0) | (e.mount_point ? f::mount : 0) |
                   (e.xattrs.empty() ? 0 : f::xattrs) | (e.link_group ? f::linked : 0) |
                   (e.holes.empty() ? 0 : f::holes) | (done < e.chunks.size() ? f::continued : 0));
        encode_path(out, e.path);
        out.varint(e.mode);
        out.varint(e.uid);
        out.varint(e.gid);
        encode_time(out, e.mtime, before_.mtime);
        encode_time(out, e.ctime, e.mtime);
        out.zigzag(int64_t(e.inode - before_.inode));
        if (e.link_group) out.varint(e.link_group);
        if (!e.xattrs.empty()) {
            out.varint(e.xattrs.size());
            for (auto& [name, value] : e.xattrs) {
                out.string(name);
                out.string(value);
            }
        }
        if (e.type == Type::symlink) out.string(e.target);
        if (e.type == Type::character || e.type == Type::block) out.varint(e.device);
        if (e.type == Type::file) encode_content(out, e, done);
        before_.mtime = e.mtime;
        before_.inode = e.inode;
    }
    /// The ids that did not fit; call until it returns false.
    bool encode_more(Writer& out, const Entry& e, size_t& done) {
        if (done >= e.chunks.size()) return false;
        size_t n = std::min(e.chunks.size() - done, kIdsPerRecord);
        out.varint(tree_flags::continuation | (done + n < e.chunks.size() ? tree_flags::continued : 0));
        encode_path(out, e.path);
        encode_ids(out, e, done, n);
        done += n;
        return true;
    }

    /// Decodes one record into `e`, which a continuation extends. Returns whether it is complete.
    bool decode(Reader& in, Entry& e) {
        namespace f = tree_flags;
        auto flags = unsigned(in.count(f::all));
        bool more = flags & f::continued;
        std::string path = decode_path(in);
        if (flags & f::continuation) {
            // What it continues may not have been read: after seek(), or where that was damaged.
            Entry orphan;
            bool ours = path == e.path;
            if (ours && !std::exchange(continued_, more)) in.fail("more of what is complete");
            decode_ids(in, ours ? e : orphan);
            return ours && !more;
        }
        e = {};
        e.path = std::move(path);
        e.type = Type(flags & 7);
        if (e.type > Type::block) in.fail("an unknown type of file");
        if (more && e.type != Type::file) in.fail("chunks of what is no file");
        continued_ = more;
        e.racy = flags & f::racy;
        e.mount_point = flags & f::mount;
        e.mode = uint32_t(in.count(07777));
        e.uid = uint32_t(in.count(UINT32_MAX));
        e.gid = uint32_t(in.count(UINT32_MAX));
        e.mtime = decode_time(in, before_.mtime);
        e.ctime = decode_time(in, e.mtime);
        e.inode = before_.inode + uint64_t(in.zigzag());
        if (flags & f::linked) e.link_group = in.varint();
        if (flags & f::xattrs) {
            e.xattrs.resize(in.count(kXattrsMax));
            for (auto& [name, value] : e.xattrs) {
                name = in.string(kNameMax);
                value = in.string(kXattrMax);
            }
        }
        if (e.type == Type::symlink) e.target = in.string(kPathMax);
        if (e.type == Type::character || e.type == Type::block) e.device = in.varint();
        if (e.type == Type::file) decode_content(in, e, flags & f::holes);
        before_.mtime = e.mtime;
        before_.inode = e.inode;
        return !more;
    }

  private:
    void encode_path(Writer& out, const std::string& path) {
        auto shared = size_t(std::ranges::mismatch(path, before_.path).in1 - path.begin());
        out.varint(before_.path.size() - shared);
        out.string(std::string_view(path).substr(shared));
        before_.path = path;
    }
    std::string decode_path(Reader& in) {
        std::string path = before_.path.substr(0, before_.path.size() - in.count(before_.path.size()));
        path += in.string(kPathMax);
        if (path.size() > kPathMax || !is_safe_path(path)) in.fail("a path that no backup can hold");
        return before_.path = path;
    }
    static void encode_time(Writer& out, const Time& t, const Time& base) {
        out.zigzag(int64_t(uint64_t(t.seconds) - uint64_t(base.seconds)));
        out.zigzag(int64_t(t.ns) - int64_t(base.ns));
    }
    static Time decode_time(Reader& in, const Time& base) {
        Time t;
        t.seconds = int64_t(uint64_t(base.seconds) + uint64_t(in.zigzag()));
        uint64_t ns = base.ns + uint64_t(in.zigzag());
        if (ns >= 1'000'000'000) in.fail("an impossible time");
        t.ns = uint32_t(ns);
        return t;
    }
    static void encode_ids(Writer& out, const Entry& e, size_t from, size_t n) {
        out.varint(n);
        for (size_t i = from; i < from + n; ++i) out.raw(e.chunks[i]);
    }
    static void decode_ids(Reader& in, Entry& e) {
        size_t n = in.count(std::min(kIdsPerRecord, in.left() / sizeof(ChunkId)));
        for (; n > 0; --n) e.chunks.push_back(in.array<16>());
    }
    static void encode_content(Writer& out, const Entry& e, size_t ids) {
        out.varint(e.size);
        if (!e.holes.empty()) {
            out.varint(e.holes.size());
            uint64_t at = 0;
            for (auto& h : e.holes) {
                out.varint(h.offset - at);
                out.varint(h.length);
                at = h.offset + h.length;
            }
        }
        encode_ids(out, e, 0, ids);
        if (e.chunks.size() > 1) out.u64(e.checksum);
    }
    static void decode_content(Reader& in, Entry& e, bool with_holes) {
        e.size = in.count(INT64_MAX);
        if (with_holes) {
            e.holes.resize(in.count(in.left()));
            uint64_t at = 0;
            for (auto& h : e.holes) {
                h.offset = at + in.count(e.size - at);
                h.length = in.count(e.size - h.offset);
                at = h.offset + h.length;
            }
        }
        decode_ids(in, e);
        if (e.chunks.size() > 1) e.checksum = in.u64();
    }

    Entry before_;           // path, mtime and inode only
    bool continued_ = false; // the record before is, if it was decoded
};

/// The order of a tree, for who writes it and who reads it.
class TreeOrder {
  public:
    /// Why this entry cannot follow those before; null where it can.
    const char* fault(const Entry& e) const {
        if (any_ && !path_before(last_, e.path)) return "entries out of order";
        if (any_ && !directory_ && is_within(e.path, last_)) return "something within what is no directory";
        return nullptr;
    }
    void passed(const Entry& e) {
        last_ = e.path;
        directory_ = e.type == Type::directory;
        any_ = true;
    }

  private:
    std::string last_;
    bool any_ = false, directory_ = false;
};

class TreeWriter {
  public:
    /// `anew`: store every chunk even if the repository has it, so that they lie together again.
    TreeWriter(Packer& packer, const Chunker& chunker, bool anew)
        : packer_(packer), chunker_(chunker), anew_(anew) {}

    /// Throws Error, and adds nothing, where no reader would take the entry.
    void add(const Entry& e) {
        auto name = last_name(e.path);
        check(e);
        begin(e.path);
        codec_.encode(chunk_, e);
        order_.passed(e);
        for (size_t done = std::min(e.chunks.size(), kIdsPerRecord);;) {
            maybe_end(name);
            if (done >= e.chunks.size()) break;
            begin(e.path);
            codec_.encode_more(chunk_, e, done);
        }
        name_before_ = name;
    }
    /// Ids of the chunks that hold the list of chunks.
    std::vector<ChunkId> finish() {
        end();
        std::vector<ChunkId> ids;
        Writer list;
        size_t before = 0;
        for (auto& [id, path] : list_) {
            list.raw(id);
            list.string(path);
            if (before + list.size() > kTreeListMax)
                throw Error("there are too many files for one snapshot: back up parts of them; nothing was "
                            "committed");
            if (list.size() < kTreeFrame) continue;
            before += list.size();
            ids.push_back(packer_.put(Kind::tree, list.take()));
        }
        if (list.size() > 0) ids.push_back(packer_.put(Kind::tree, list.take()));
        return ids;
    }

  private:
    /// Nothing is written but what a reader takes.
    void check(const Entry& e) {
        auto refuse = [&](const std::string& why) {
            throw Error(text("cannot store ", in_quotes(e.path),
                             ": no reader would take its record, which holds ", why));
        };
        if (auto* why = order_.fault(e)) refuse(why);
        Writer alone;
        TreeCodec writer, reader;
        writer.encode(alone, e);
        if (alone.size() > kChunkMax) refuse("too much");
        if (chunk_.size() + alone.size() > kChunkMax) end();
        try {
            Reader in(alone.view(), "it");
            reader.decode(in, read_back_);
        } catch (const Corrupt& error) {
            refuse(error.what());
        }
    }
    void begin(const std::string& path) {
        if (chunk_.size() > 0) return;
        first_ = path;
        codec_.reset(path);
    }
    void maybe_end(const std::string& name) {
        if (chunk_.size() >= kTreeMax ||
            (chunk_.size() >= kTreeMin && chunker_.cut_tree_after(name_before_, name)))
            end();
    }
    void end() {
        if (chunk_.size() > 0) list_.emplace_back(packer_.put(Kind::tree, chunk_.take(), anew_), first_);
    }
    Packer& packer_;
    const Chunker& chunker_;
    bool anew_;
    TreeCodec codec_;
    TreeOrder order_;
    Entry read_back_;
    Writer chunk_;
    std::string first_, name_before_;
    std::vector<std::pair<ChunkId, std::string>> list_;
};

/// Reads a snapshot's entries in order. A chunk that cannot be read is reported and passed over:
/// the ones behind it can be read without it.
class TreeReader {
  public:
    TreeReader(Repository& repo, TaskPool& wire, const Snapshot& snapshot)
        : repo_(repo), chunks_(repo, wire, kReadAhead / 3), hasher_(repo.keys.hasher()) {
        size_t size = 0;
        for (auto& id : snapshot.tree) {
            auto chunk = chunks_.read(id, hasher_);
            if ((size += chunk.bytes.size()) > kTreeListMax)
                throw Corrupt("the list of a tree's chunks is beyond its limit");
            for (Reader in(chunk, "the list of a tree's chunks"); !in.empty();) {
                auto listed = in.array<16>();
                list_.push_back({listed, in.string(kPathMax), {}});
                if (list_.size() > 1 && path_before(list_.back().first, list_[list_.size() - 2].first))
                    in.fail("parts out of order");
            }
        }
    }

    std::function<void(const std::string&)> on_damage; // what cannot be read, in words
    std::function<void(const ChunkId&)> on_chunk;      // one was read, whose entries come now

    /// Passes over chunks, before anything was read.
    template <class F> void leave_out(F f) {
        std::erase_if(list_, [&](auto& listed) { return f(listed.id); });
    }

    /// The next entry, or null at the end. Valid until the next call.
    const Entry* next() {
        for (;;) {
            if (!in_ || in_->empty()) {
                if (load_chunk()) continue;
                if (std::exchange(unfinished_, false)) lost_rest_of(entry_.path);
                return nullptr;
            }
            try {
                auto begun = unfinished_ ? entry_.path : "";
                bool whole = codec_.decode(*in_, entry_);
                if (std::exchange(unfinished_, !whole && !entry_.path.empty()) && entry_.path != begun)
                    lost_rest_of(begun);
                if (!whole) continue;
                if (auto* fault = order_.fault(entry_)) in_->fail(fault);
            } catch (const Corrupt& e) {
                skip_chunk(e.what());
                continue;
            }
            order_.passed(entry_);
            return &entry_;
        }
    }
    /// Goes on so that the next entry is the first whose path is not before `path`, or an earlier
    /// one in the same chunk. Never goes back.
    void seek(const std::string& path) {
        auto after = std::partition_point(list_.begin(), list_.end(),
                                          [&](auto& c) { return path_before(c.first, path); });
        size_t target = after == list_.begin() ? 0 : size_t(after - list_.begin()) - 1;
        if (target < next_chunk_) return;
        drop_pins();
        next_chunk_ = pinned_upto_ = target;
        in_.reset();
        unfinished_ = false;
        entry_ = {}; // so that nothing continues it
    }
    /// Announces that nothing behind `path`, or, if `below`, behind what is in it, will be read for now.
    void read_ahead_to(const std::string& path, bool below) {
        auto end = std::partition_point(list_.begin(), list_.end(), [&](auto& c) {
            return path_before(c.first, path) || (below ? is_within(c.first, path) : c.first == path);
        });
        ahead_upto_ = size_t(end - list_.begin());
    }
    /// Packs that the tree lies in, and their number if it lay in as few as possible.
    std::pair<size_t, size_t> spread() {
        std::set<uint32_t> packs;
        size_t sealed = 0;
        std::set<uint32_t> frames;
        for (auto& c : list_)
            for (auto& p : repo_.index.places(c.id)) {
                packs.insert(repo_.index.frame(p.frame).pack);
                if (frames.insert(p.frame).second) sealed += repo_.index.frame(p.frame).sealed;
                break;
            }
        return {packs.size(), sealed / kPackTarget + 1};
    }

  private:
    struct Listed {
        ChunkId id;
        std::string first; // path of its first record
        std::optional<Place> place;
    };
    bool load_chunk() {
        if (next_chunk_ >= list_.size()) return false;
        stop_if_asked();
        size_t upto = std::min({list_.size(), ahead_upto_, next_chunk_ + kChunksAhead});
        while (pinned_upto_ == next_chunk_ || (pinned_upto_ < upto && chunks_.has_room())) {
            try {
                list_[pinned_upto_].place = chunks_.pin(list_[pinned_upto_].id);
            } catch (const Corrupt&) {
            }
            ++pinned_upto_;
        }
        chunks_.flush();
        auto& listed = list_[next_chunk_++];
        codec_.reset(listed.first);
        in_.reset();
        try {
            if (!listed.place) throw Corrupt("it is in no pack that is there");
            chunk_ = chunks_.get(listed.id, *listed.place, hasher_);
            in_.emplace(chunk_, "a tree");
            if (on_chunk) on_chunk(listed.id);
        } catch (const Corrupt& e) {
            skip_chunk(e.what());
        }
        if (listed.place) chunks_.unpin(listed.place->frame);
        return true;
    }
    void drop_pins() {
        for (; next_chunk_ < pinned_upto_; ++next_chunk_)
            if (list_[next_chunk_].place) chunks_.unpin(list_[next_chunk_].place->frame);
    }
    void lost_rest_of(const std::string& path) {
        if (on_damage)
            on_damage(
                text("the record of ", in_quotes(path), " is not whole: where its content lies is lost"));
    }
    void skip_chunk(const std::string& why) {
        in_.reset();
        unfinished_ = false;
        entry_ = {}; // so that nothing continues it
        std::string upto =
            next_chunk_ < list_.size() ? "up to " + in_quotes(list_[next_chunk_].first) : "up to the end";
        if (on_damage)
            on_damage(text("the list of files from ", in_quotes(list_[next_chunk_ - 1].first), " ", upto,
                           " cannot be read: ", why));
    }
    static constexpr size_t kChunksAhead = 256; // about 6 MiB: several reads under way at once

    Repository& repo_;
    ChunkReader chunks_;
    IdHasher hasher_;
    std::vector<Listed> list_;
    size_t next_chunk_ = 0, pinned_upto_ = 0, ahead_upto_ = SIZE_MAX;
    ChunkReader::Chunk chunk_;
    std::optional<Reader> in_;
    TreeCodec codec_;
    Entry entry_;
    bool unfinished_ = false; // it is continued, and its continuation has not come yet
    TreeOrder order_;
};

// ============================================================================
// [SECTION] 10. Backup
// ============================================================================
// Trusted with data.
// Uses: 3, 7, 8, 9. Provides: what a backup takes; Backup. The disk and the tree of the snapshot before are
// walked side by side in the same order; a new tree comes out. Must hold: I2, I3, I5, I9.

/// Some file systems count the nanoseconds of times before 1970 downwards, or beyond a second.
Time to_time(const struct timespec& t) {
    constexpr int64_t kSecond = 1'000'000'000;
    int64_t ns = t.tv_nsec % kSecond, carried = t.tv_nsec / kSecond - (ns < 0);
    return {int64_t(t.tv_sec) + carried, uint32_t(ns < 0 ? ns + kSecond : ns)};
}

/// "/proc/self/fd/N/name": for calls that take no directory handle.
std::string proc_path(int directory, const std::string& name) {
    return text("/proc/self/fd/", directory, name.empty() ? "" : "/", name);
}

using Xattrs = std::vector<std::pair<std::string, std::string>>;

/// All extended attributes, ACLs among them, through a descriptor or, where that is -1, a path, at whose end
/// links are followed if `follow`; none where the file system has none. One that cannot be read is told to
/// `lost`, and the others are read.
template <class Lost>
Xattrs read_xattrs(int fd, const std::string& path, std::string_view shown, bool follow, Lost lost) {
    auto list = [&](char* to, size_t n) {
        return fd >= 0  ? flistxattr(fd, to, n)
               : follow ? listxattr(path.c_str(), to, n)
                        : llistxattr(path.c_str(), to, n);
    };
    auto get = [&](const char* name, char* to, size_t n) {
        return fd >= 0  ? fgetxattr(fd, name, to, n)
               : follow ? getxattr(path.c_str(), name, to, n)
                        : lgetxattr(path.c_str(), name, to, n);
    };
    Xattrs found;
    ssize_t size = list(nullptr, 0);
    if (size == 0 || (size < 0 && (errno == ENOTSUP || errno == ENOENT))) return found; // ENOENT: no /proc
    std::string names(size > 0 ? size_t(size) : 0, '\0');
    if (size < 0 || (size = list(names.data(), names.size())) < 0)
        return lost(system_error("list the attributes of", shown)), found;
    names.resize(size_t(size));
    size_t total = 0;
    for (size_t at = 0; at < names.size(); at += strlen(&names[at]) + 1) {
        const char* name = &names[at];
        ssize_t n = get(name, nullptr, 0);
        std::string value(n > 0 ? size_t(n) : 0, '\0');
        if (n > 0) n = get(name, value.data(), value.size());
        if (n < 0 && (errno == ENODATA || errno == ENOTSUP)) continue;
        if (n < 0) {
            lost(system_error(text("read the attribute ", show(name), " of"), shown));
            continue;
        }
        value.resize(size_t(n));
        if ((total += value.size()) > kXattrMax)
            return lost(Error(text("the attributes of ", in_quotes(shown), " are larger than ", kXattrMax,
                                   " bytes"))),
                   found;
        found.emplace_back(name, std::move(value));
    }
    std::ranges::sort(found);
    return found;
}

bool is_acl(std::string_view attribute) {
    return attribute == "system.posix_acl_access" || attribute == "system.posix_acl_default";
}
/// An ACL as the kernel gives it, with other numbers for the users and groups that it names: `id(is_group,
/// number)`. What is not of that form stays as it is.
template <class F> std::string with_acl_ids(const std::string& acl, F id) {
    constexpr unsigned kUser = 2,
                       kGroup =
                           8; // linux/posix_acl_xattr.h: version 4, then for each tag 2, rights 2, number 4
    if (acl.size() % 8 != 4) return acl;
    Reader in(as_bytes(acl), "an ACL");
    Writer out(acl.size());
    for (out.raw(in.raw(4)); !in.empty();) {
        auto head = in.raw(4);
        auto number = in.u32();
        unsigned tag = head[0] | unsigned(head[1]) << 8;
        out.raw(head);
        out.u32(tag == kUser || tag == kGroup ? id(tag == kGroup, number) : number);
    }
    return {out.view().begin(), out.view().end()};
}

/// Whether a file system holds nothing but what the kernel says about itself, from the numbers of
/// linux/magic.h. What is mounted below a source is left out: it may have no end.
bool is_made_up(int fd) {
    struct statfs there;
    if (fstatfs(fd, &there) != 0) return false;
    for (unsigned long type :
         {0x9fa0ul, 0x62656572ul, 0x27e0ebul, 0x63677270ul, 0x1cd1ul, 0x64626720ul, 0x74726163ul,
          0x73636673ul, 0x6165676cul, 0xcafe4a11ul, 0x62656570ul, 0x65735543ul, 0x19800202ul, 0x42494e4dul,
          0xf97cff8cul, 0xde5e81e4ul, 0x6e736673ul, 0x67596969ul})
        if ((unsigned long)(there.f_type) == type) return true;
    return false; // proc sysfs cgroup(2) devpts debugfs tracefs securityfs pstore bpf configfs fusectl mqueue
                  // binfmt selinux efivarfs nsfs rpc_pipefs
}

/// Patterns as in a .gitignore file that lies in the source: the last one that matches decides.
class Patterns {
  public:
    /// One line; empty ones and comments count for nothing.
    void add(std::string line) {
        size_t end = 0; // of what is no space, or an escaped one
        for (size_t i = 0; i < line.size(); ++i)
            if (line[i] != ' ') end = std::min(i += line[i] == '\\', line.size() - 1) + 1;
        line.resize(end);
        if (line.empty() || line[0] == '#') return;
        Pattern p;
        if ((p.negated = line[0] == '!')) line.erase(0, 1);
        if ((p.only_directories = line.ends_with('/'))) line.pop_back();
        bool anchored = line.find('/') != line.npos;
        if (line.starts_with('/')) line.erase(0, 1);
        if (line.empty()) return;
        if (!anchored) p.names.push_back("**"); // at any depth
        std::ranges::move(split(line + "/"),
                          std::back_inserter(p.names)); // so that an empty name at the end counts
        if (p.names.back() == "**")
            p.names.insert(p.names.end() - 1, "*"); // all that is in a directory, but not that
        patterns_.push_back(std::move(p));
    }
    /// Whether this path is left out; what is in a directory that is left out is not asked for.
    bool exclude(std::string_view path, bool directory) const {
        if (patterns_.empty()) return false;
        auto path_names = split(path);
        auto matches = [&](const std::vector<std::string>& names) {
            return fits(
                names.size(), path_names.size(), [&](size_t p) { return names[p] == "**"; },
                [&](size_t p, size_t i) { return fnmatch(names[p].c_str(), path_names[i].c_str(), 0) == 0; });
        };
        for (auto p = patterns_.rbegin(); p != patterns_.rend(); ++p)
            if ((directory || !p->only_directories) && matches(p->names)) return !p->negated;
        return false;
    }

  private:
    struct Pattern {
        bool negated = false, only_directories = false;
        std::vector<std::string> names; // "**": any number of them
    };
    static std::vector<std::string> split(std::string_view path) {
        std::vector<std::string> names;
        for (size_t slash; !path.empty(); path.remove_prefix(std::min(slash + 1, path.size())))
            names.emplace_back(path.substr(0, slash = std::min(path.find('/'), path.size())));
        return names;
    }
    std::vector<Pattern> patterns_;
};

/// Which files of the source a backup takes.
struct Selection {
    Patterns patterns;
    std::optional<std::set<std::string>> only; // these paths, what is in them, and what leads to them
    bool skip_caches = false;                  // what is in directories with a CACHEDIR.TAG
    std::vector<std::string> skip_if_present;  // what is in directories that have such a name
    uint64_t largest = UINT64_MAX;             // bytes of a file
    bool one_file_system = false;
    bool copy_links = false; // take what they lead to, in their place

    /// What the type alone tells, before the file is looked at: that may take for ever, on a server that is
    /// away.
    bool may_take(const std::string& path, unsigned char type) const {
        if (type == DT_LNK && copy_links) return true;
        if (type == DT_UNKNOWN) return !patterns.exclude(path, true) || !patterns.exclude(path, false);
        return type != DT_SOCK && !patterns.exclude(path, type == DT_DIR) && is_selected(path);
    }
    bool takes(const std::string& path, const struct stat& st) const {
        return !patterns.exclude(path, S_ISDIR(st.st_mode)) &&
               (!S_ISREG(st.st_mode) || uint64_t(st.st_size) <= largest) && is_selected(path);
    }
    bool is_selected(const std::string& path) const {
        if (!only) return true;
        for (size_t slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1))
            if (only->contains(path.substr(0, slash))) return true;
        auto next = only->lower_bound(path + "/");
        return only->contains(path) || (next != only->end() && next->starts_with(path + "/"));
    }
    /// The one name that is taken of a directory which says that its content is not worth keeping.
    std::optional<std::string> marker(int directory, const std::vector<DirName>& names) const {
        auto has = [&](const std::string& name) {
            return std::ranges::binary_search(names, name, {}, &DirName::name);
        };
        for (auto& name : skip_if_present)
            if (has(name)) return name;
        if (!skip_caches || !has("CACHEDIR.TAG")) return {};
        constexpr std::string_view signature =
            "Signature: 8a477f597d28d172789f06886806bc55"; // bford.info/cachedir
        std::array<uint8_t, signature.size()> begins{};
        Fd tag(openat(directory, "CACHEDIR.TAG", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
        bool same = tag && ::read(tag.get(), begins.data(), begins.size()) == ssize_t(begins.size()) &&
                    std::ranges::equal(begins, as_bytes(signature));
        return same ? std::optional<std::string>("CACHEDIR.TAG") : std::nullopt;
    }
};

/// Whether this is the name of what a restore that was killed has left.
bool is_leftover(std::string_view name) {
    return name.size() == 25 && name.starts_with(".nfreeze-") &&
           name.find_first_not_of("0123456789abcdef", 9) == name.npos;
}

/// What is backed up in place of a file on the disk.
struct Stream {
    std::string name; // in the snapshot
    int fd = 0;
    std::function<void()> ended; // called when it was read; throws if it was not whole
    bool may_be_empty = false;
};

struct BackupOptions {
    Selection selection;
    bool allow_shrink = false; // commit although most of the source seems to be gone
    bool dry_run = false;      // read, compare, send nothing
    bool checksum = false;     // trust content alone
    bool ignore_inode = false; // for network mounts, where they change
    bool ignore_ctime = false;
    bool verbose = false, json = false;
    const Snapshot* against = nullptr; // compare with this one, not with the newest of the same source
    std::chrono::seconds checkpoint = kCheckpoint;
    int64_t racy = kRacySeconds;
    bool count_ahead = false; // what a first backup will have read, for who watches
    int connections = kConnections;
    std::optional<std::pair<dev_t, ino_t>> skip; // the repository's own directory
};

struct BackupResult {
    Snapshot snapshot;
    uint64_t unchanged = 0, gone = 0, bytes_read = 0, new_bytes = 0;
    uint64_t unreadable = 0; // files and directories that could not be read
    std::string refused;     // why nothing was committed, if so
};

class Backup {
  public:
    Backup(Repository& repo, const BackupOptions& options)
        : repo_(repo), options_(options), chunker_(repo.keys.gear()), tree_wire_(2, 4),
          packer_(repo, options.connections, options.checkpoint), buffer_(2 * kChunkMax) {
        packer_.dry_run = options.dry_run;
    }
    ~Backup() {
        stop_counting_ = true;
        if (counter_) counter_->join();
    }
    Backup(const Backup&) = delete;
    Backup& operator=(const Backup&) = delete;

    /// Backs `source` up, a directory or one file, or, if given, a stream that goes by that name;
    /// `record` brings host, user, tags and so on. Where it is interrupted, or the server full, what was sent
    /// is kept.
    BackupResult run(const std::string& source, Snapshot record, const Stream* stream = nullptr) {
        result_.snapshot = std::move(record);
        auto& s = result_.snapshot;
        fill_random(s.id);
        s.time = now_ns();
        s.source = source;
        try {
            open_previous();
            tree_.emplace(packer_, chunker_, rewrite_tree_);
            if (stream)
                take(*stream);
            else
                walk(source);
            pass_previous_until({});
            repo_.store.work.phase = "finishing";
            s.tree = tree_->finish();
            s.incomplete = result_.unreadable > 0;
            s.counts.new_bytes = result_.new_bytes = packer_.new_bytes;
            if (!options_.allow_shrink) result_.refused = shrunk();
            if (options_.dry_run) return std::move(result_);
            bool commit = result_.refused.empty();
            packer_.flush(commit ? &s : nullptr); // I2: all of it is durable
            Writer added;
            if (commit) put_record(added, Record::snapshot_added, encode_snapshot(s));
            packer_.checkpoint(added.view()); // I3: only now
        } catch (const Error& e) {
            packer_.salvage(e);
            throw;
        }
        repo_.remove_superseded();
        return std::move(result_);
    }

  private:
    /// One directory on the way from the source to where the walk is.
    struct Level {
        Fd fd;
        std::string path;
        dev_t device;
        std::vector<DirName> names; // sorted; its files, of which `next` is the next
        size_t next = 0;
        std::vector<DirName> listed_again; // since a name was not found
    };

    /// A file with several names, until all of them were met.
    struct Linked {
        Entry entry;
        nlink_t left;
    };

    // ---- the snapshot before, read alongside ----

    void open_previous() {
        auto& mine = result_.snapshot;
        auto all = repo_.snapshots();
        std::erase_if(all, [&](auto* s) { return s->host != mine.host || s->source != mine.source; });
        if (options_.against) all = {options_.against};
        auto* newest = repo_.newest(all);
        repo_.store.work.begin("backing up", newest ? newest->counts.bytes : 0);
        if (!newest && options_.count_ahead)
            counter_.emplace([this, source = mine.source] {
                try {
                    count_ahead(source);
                } catch (const std::exception&) {
                } // then there is no per cent
            });
        if (!newest) return;
        std::erase_if(all, [](auto* s) { return s->incomplete; });
        complete_before_ = repo_.newest(all);
        trust_xattrs_ = newest->user == mine.user;
        try {
            previous_.emplace(repo_, tree_wire_, *newest);
        } catch (const Corrupt& e) {
            if (options_.against) throw;
            say(text("warning: the snapshot before cannot be compared with: ", e.what()));
            return;
        }
        previous_->on_damage = [this](const std::string& what) {
            if (options_.against) throw Corrupt(what);
            say("warning: " + what + "; its files are read again");
        };
        auto [packs, least] = previous_->spread();
        rewrite_tree_ = packs > kTreePacks && packs > 4 * least;
        before_ = previous_->next();
    }
    /// Moves the previous tree to `path` (empty optional: to its end), counting what is gone. Returns
    /// the entry of this path, if it had one.
    const Entry* pass_previous_until(std::optional<std::string_view> path) {
        for (; before_; before_ = previous_->next()) {
            if (path) {
                auto order = compare_paths(before_->path, *path);
                if (order > 0) return nullptr;
                if (order == 0) {
                    met_ = true;
                    return before_;
                }
            }
            if (std::exchange(met_, false)) continue;
            if (before_->type != Type::directory) ++result_.gone;
            tell('-', before_->path);
        }
        return nullptr;
    }
    /// Why the source looks like a disk that is not mounted or was emptied; nothing if it does not.
    std::string shrunk() const {
        auto& now = result_.snapshot.counts;
        if (!unmounted_.empty())
            return text("another file system was mounted at ", in_quotes(unmounted_), " and is not now");
        if (now.files + now.others == 0 && now.directories <= 1) return "the source is empty";
        if (!complete_before_) return {};
        auto& then = complete_before_->counts;
        auto lost = now.files < then.files - then.files / 2 ? std::pair(now.files, then.files)
                                                            : std::pair(now.bytes, then.bytes);
        if (lost.first >= lost.second - lost.second / 2) return {};
        return text("the source holds ", lost.first, " of ", lost.second,
                    lost.second == then.files ? " files" : " bytes", " that the snapshot before had");
    }
    void tell(char what, std::string_view path) {
        if (options_.verbose) print_change(what, path, options_.json);
    }

    /// Beside the walk, for its display alone: how many bytes there are. What it cannot see counts for
    /// nothing.
    void count_ahead(const std::string& source) {
        std::atomic<uint64_t> sum{0};
        struct stat st;
        auto count = [&](auto& self, Fd fd, const std::string& path, dev_t device) -> void {
            succeeds([&] {
                for (auto& [name, type] : read_directory(fd.get(), path)) {
                    if (stop_counting_) return;
                    auto inner = path.empty() ? name : path + "/" + name;
                    if (!options_.selection.may_take(inner, type) ||
                        fstatat(fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
                        !options_.selection.takes(inner, st))
                        continue;
                    if (S_ISREG(st.st_mode))
                        sum += std::min<uint64_t>(uint64_t(st.st_size), uint64_t(st.st_blocks) * 512);
                    if (!S_ISDIR(st.st_mode) || (st.st_dev != device && options_.selection.one_file_system))
                        continue;
                    Fd below(openat(fd.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
                    if (below && fstat(below.get(), &st) == 0 &&
                        (st.st_dev == device || !options_.selection.one_file_system) &&
                        !is_made_up(below.get()))
                        self(self, std::move(below), inner, st.st_dev);
                }
            });
        };
        Fd top(::open(source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (top && fstat(top.get(), &st) == 0)
            count(count, std::move(top), "", st.st_dev);
        else if (lstat(source.c_str(), &st) == 0)
            sum = uint64_t(st.st_size);
        if (!stop_counting_) repo_.store.work.expected = sum.load();
    }
    // ---- the walk ----

    void walk(const std::string& source) {
        struct stat st, up;
        if (lstat(source.c_str(), &st) != 0) throw system_error("back up", source);
        if (!S_ISDIR(st.st_mode)) {
            size_t slash = source.rfind('/');
            Level parent{.fd = open_directory(AT_FDCWD, source.substr(0, slash + 1), source),
                         .path = "",
                         .device = st.st_dev,
                         .names = {},
                         .listed_again = {}};
            if (is_made_up(parent.fd.get()))
                throw Error(text("cannot back up ", in_quotes(source),
                                 ": there is nothing but what the kernel makes up"));
            visit(parent, {source.substr(slash + 1), DT_UNKNOWN});
            if (result_.snapshot.counts.files + result_.snapshot.counts.others == 0)
                throw Error(text("cannot back up ", in_quotes(source)));
            return;
        }
        Fd root = open_directory(AT_FDCWD, source, source); // which may have it mounted
        if (fstat(root.get(), &st) != 0) throw system_error("back up", source);
        if (is_made_up(root.get()))
            throw Error(text("cannot back up ", in_quotes(source),
                             ": there is nothing but what the kernel makes up"));
        bool mount_point = lstat((source + "/..").c_str(), &up) == 0 && up.st_dev != st.st_dev;
        top_ = Fd(fcntl(root.get(), F_DUPFD_CLOEXEC, 3));
        std::vector<Level> stack;
        stack.push_back(enter(std::move(root), "", st, mount_point, source));
        while (!stack.empty()) {
            stop_if_asked();
            auto& level = stack.back();
            if (level.next == level.names.size()) {
                stack.pop_back();
                open_directories_.pop_back();
                continue;
            }
            auto name = std::move(level.names[level.next++]);
            if (auto below = visit(level, name)) stack.push_back(std::move(*below));
            packer_.maybe_checkpoint();
        }
        if (options_.selection.only)
            for (auto& path : *options_.selection.only)
                if (!taken_.contains(path))
                    unreadable(Error(
                        text("nothing was stored for ", in_quotes(path), ", which --files-from names")));
    }

    /// Stores one name of a directory. Returns a directory to go into. A file that cannot be read is
    /// named and counted; it stops nothing.
    std::optional<Level> visit(Level& level, const DirName& listed) {
        auto& name = listed.name;
        std::string path = level.path.empty() ? name : level.path + "/" + name;
        if (is_leftover(name) || !options_.selection.may_take(path, listed.type)) return {};
        for (int attempt = 1;; ++attempt) try {
                if (path.size() > kPathMax)
                    throw Error(text("the path ", in_quotes(path.substr(0, 100)), "... is longer than ",
                                     kPathMax, " bytes"));
                struct stat st;
                look_at(level, name, path, st);
                if (S_ISLNK(st.st_mode) && options_.selection.copy_links) follow_link(level, name, st);
                if (S_ISSOCK(st.st_mode) || !options_.selection.takes(path, st)) return {};
                if (S_ISDIR(st.st_mode)) return visit_directory(level, name, path, st);
                if (S_ISREG(st.st_mode))
                    visit_file(level, name, path, st);
                else
                    visit_special(level, name, path, st);
                return {};
            } catch (const Vanished&) { // whoever rotates files takes names away, and gives them again
                try {
                    if (is_gone(level, name, path)) return {};
                } catch (const Error& e) {
                    return unreadable(e), std::nullopt;
                }
                if (attempt < 3) continue;
                return unreadable(system_error("find, although its directory lists it,", path, ENOENT)),
                       std::nullopt;
            } catch (const Error& e) {
                packer_.check(); // a full server is not the file's fault
                if (e.exit != Exit::failed) throw;
                unreadable(e);
                return {};
            }
    }
    /// There is no such name, although it was listed.
    struct Vanished {};
    /// Throws Vanished, Error.
    void look_at(const Level& level, const std::string& name, const std::string& path,
                 struct stat& st) const {
        if (fstatat(level.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return;
        auto error = system_error("look at", path);
        if (errno == ENOENT) throw Vanished();
        if (options_.selection.one_file_system && is_mount_point(level.fd.get(), name))
            throw Vanished(); // whatever is wrong with it
        throw error;
    }
    /// Whether a directory does not list a name any more, or it is a mount that is left out. Looks again only
    /// where the last look had the name: many may go at once.
    bool is_gone(Level& level, const std::string& name, const std::string& path) const {
        auto has = [&] { return std::ranges::binary_search(level.listed_again, name, {}, &DirName::name); };
        if (level.listed_again.empty() || has()) level.listed_again = read_directory(level.fd.get(), path);
        return !has() || (options_.selection.one_file_system && is_mount_point(level.fd.get(), name));
    }
    /// `st` becomes that of what a link leads to, unless that is nothing, or a directory that the walk
    /// is in.
    void follow_link(const Level& level, const std::string& name, struct stat& st) const {
        struct stat target;
        if (fstatat(level.fd.get(), name.c_str(), &target, 0) != 0) return;
        if (!S_ISDIR(target.st_mode) ||
            std::ranges::count(open_directories_, std::pair(target.st_dev, target.st_ino)) == 0)
            st = target;
    }
    /// For openat(): names that are links were looked at and are not followed, but with --copy-links.
    int no_follow() const { return options_.selection.copy_links ? 0 : O_NOFOLLOW; }

    void unreadable(const Error& e) {
        if (e.exhausted) throw Error(e); // that is nothing about the file
        ++result_.unreadable;
        say(e.what());
    }

    std::optional<Level> visit_directory(Level& level, const std::string& name, const std::string& path,
                                         const struct stat& st) {
        if (options_.skip == std::pair(st.st_dev, st.st_ino)) return {};
        Fd fd = open_quietly(level.fd.get(), name, O_DIRECTORY | no_follow());
        if (!fd && errno == ENOENT) throw Vanished();
        if (!fd) unreadable(system_error("open the directory", path)); // it is stored all the same, empty
        struct stat opened = st;                                       // to open it may have it mounted
        if (fd && fstat(fd.get(), &opened) != 0) throw system_error("look at", path);
        bool other = opened.st_dev != level.device,
             leave_out = other && (options_.selection.one_file_system || (fd && is_made_up(fd.get())));
        return enter(std::move(fd), path, opened, other, path, leave_out);
    }

    /// Stores a directory's own entry and lists it.
    Level enter(Fd fd, const std::string& path, const struct stat& st, bool mounted, std::string_view shown,
                bool leave_out = false) {
        Level level{.fd = std::move(fd), .path = path, .device = st.st_dev, .names = {}, .listed_again = {}};
        open_directories_.emplace_back(st.st_dev, st.st_ino);
        const Entry* before = pass_previous_until(path);
        Entry e = describe(path, st);
        e.mount_point = mounted && !leave_out; // only what was stored can be missed
        if (before && before->mount_point && !mounted && unmounted_.empty()) unmounted_ = shown;
        if (level.fd) add_xattrs(e, before, level.fd.get(), "");
        char change = before ? difference(e, *before) : '+';
        store(e);
        ++result_.snapshot.counts.directories;
        if (change != ' ') tell(change, path);
        if (!level.fd || leave_out) return level;
        try {
            level.names = read_directory(level.fd.get(), shown);
            if (auto marker = options_.selection.marker(level.fd.get(), level.names))
                level.names = {{*marker, DT_UNKNOWN}};
        } catch (const Error& error) {
            unreadable(error);
        }
        return level;
    }

    void visit_special(Level& level, const std::string& name, const std::string& path,
                       const struct stat& st) {
        const Entry* before = pass_previous_until(path);
        Entry e = describe(path, st);
        if (e.type == Type::symlink) {
            e.target = read_link(level.fd.get(), name, path);
        }
        add_xattrs(e, before, -1, proc_path(level.fd.get(), name));
        store(e);
        ++result_.snapshot.counts.others;
        repo_.store.work.did(0);
        count_change(e, before);
    }
    /// Makes an entry part of the tree; throws Error where that cannot be.
    void store(const Entry& e) {
        tree_->add(e);
        if (options_.selection.only && options_.selection.only->contains(e.path)) taken_.insert(e.path);
    }

    void visit_file(Level& level, const std::string& name, const std::string& path, struct stat st) {
        const Entry* before = pass_previous_until(path);
        Entry e = describe(path, st);
        const Entry* linked = first_name_of(e, st);
        bool unchanged =
            !linked && before && is_unchanged(e, *before) && repo_.index.relies(before->chunks); // I9
        if (linked) { // all names of a file have the same record
            bool same = linked->ctime == e.ctime;
            e = *linked;
            e.path = path;
            e.racy |= !same;
        } else if (unchanged) {
            copy_content(e, *before);
            e.racy = false;
            add_xattrs(e, before, -1, proc_path(level.fd.get(), name));
        } else {
            Fd fd = open_file(level.fd.get(), name, no_follow());
            if (!fd && errno == ENOENT) throw Vanished();
            if (!fd) throw system_error("open", path);
            read_file(fd.get(), e, st);
        }
        store(e);
        ++result_.snapshot.counts.files;
        result_.snapshot.counts.bytes += e.size;
        repo_.store.work.did(unchanged ? e.size : 0); // what is read was counted as it came
        if (unchanged) repo_.store.work.planned += e.size;
        if (e.link_group) remember_link(e, st);
        count_change(e, before);
    }
    /// The record of a file that was met under another name, if that still is the same file.
    const Entry* first_name_of(const Entry& e, const struct stat& st) const {
        auto met = linked_.find({st.st_dev, st.st_ino});
        if (met == linked_.end()) return nullptr;
        auto& first = met->second.entry;
        if (first.ctime == e.ctime && first.size == e.size) return &first;
        struct stat there; // it changed meanwhile, or is another file with the number of one that was deleted
        bool same = top_ && fstatat(top_.get(), first.path.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                    there.st_dev == st.st_dev && there.st_ino == st.st_ino;
        if (same)
            say(text("warning: ", in_quotes(e.path), " changed since it was read as ", in_quotes(first.path),
                     ": it is stored as it was then"));
        return same ? &first : nullptr;
    }
    void count_change(const Entry& e, const Entry* before) {
        char change = before ? difference(e, *before) : '+';
        bool fresh = !before || before->type != e.type;
        ++(fresh           ? result_.snapshot.counts.new_files
           : change == ' ' ? result_.unchanged
                           : result_.snapshot.counts.changed_files);
        if (change != ' ') tell(change, e.path);
    }

    // ---- one entry ----

    Entry describe(const std::string& path, const struct stat& st) {
        Entry e;
        e.path = path;
        e.type = S_ISREG(st.st_mode)    ? Type::file
                 : S_ISDIR(st.st_mode)  ? Type::directory
                 : S_ISLNK(st.st_mode)  ? Type::symlink
                 : S_ISFIFO(st.st_mode) ? Type::fifo
                 : S_ISCHR(st.st_mode)  ? Type::character
                                        : Type::block;
        take_stat(e, st);
        name_owner(result_.snapshot.users, st.st_uid, name_of_user);
        name_owner(result_.snapshot.groups, st.st_gid, name_of_group);
        return e;
    }
    void take_stat(Entry& e, const struct stat& st) {
        e.mode = st.st_mode & 07777;
        e.uid = st.st_uid;
        e.gid = st.st_gid;
        e.mtime = to_time(st.st_mtim);
        e.ctime = to_time(st.st_ctim);
        e.inode = st.st_ino;
        if (e.type == Type::file) e.size = uint64_t(st.st_size);
        if (e.type == Type::character || e.type == Type::block) e.device = st.st_rdev;
        e.link_group = st.st_nlink > 1 && e.type != Type::directory ? device_number(st.st_dev) : 0;
        int64_t now = now_ns(),
                then = now / 1'000'000'000 - options_.racy; // later where another clock set it
        e.racy = e.ctime.seconds > then || (e.ctime.seconds == then && now % 1'000'000'000 < e.ctime.ns);
    }
    /// 1 for the first file system met, 2 for the next: unlike st_dev, the same after a reboot.
    uint64_t device_number(dev_t device) {
        auto found = std::ranges::find(devices_, device);
        if (found == devices_.end()) found = devices_.insert(found, device);
        return uint64_t(found - devices_.begin()) + 1;
    }
    template <class Id, class LookUp> static void name_owner(Names& names, Id id, LookUp look_up) {
        auto [at, fresh] = names.try_emplace(id);
        if (fresh) at->second = look_up(id);
    }

    /// I9, but for the chunks.
    bool is_unchanged(const Entry& now, const Entry& before) const {
        return !options_.checksum && before.type == Type::file && !before.racy && now.size == before.size &&
               now.mtime == before.mtime && (options_.ignore_ctime || now.ctime == before.ctime) &&
               (options_.ignore_inode || now.inode == before.inode);
    }
    static void copy_content(Entry& to, const Entry& from) {
        to.size = from.size;
        to.checksum = from.checksum;
        to.holes = from.holes;
        to.chunks = from.chunks;
    }
    /// Attributes change the ctime: where it is the same they are not read again, if who read them then saw
    /// as much as we do. Those that cannot be read are missing from what is stored, and are asked for the
    /// next time.
    void add_xattrs(Entry& e, const Entry* before, int fd, const std::string& path) {
        bool same = before && before->type == e.type && !before->racy && !options_.checksum &&
                    !options_.ignore_ctime && trust_xattrs_ && before->ctime == e.ctime &&
                    (options_.ignore_inode || before->inode == e.inode);
        bool lost = false;
        e.xattrs =
            same ? before->xattrs
                 : read_xattrs(fd, path, e.path, options_.selection.copy_links && e.type != Type::symlink,
                               [&](const Error& error) {
                                   unreadable(error);
                                   lost = true;
                               });
        e.racy |= lost;
        for (auto& [name, value] : e.xattrs)
            if (is_acl(name))
                with_acl_ids(value, [&](bool group, uint32_t id) {
                    group ? name_owner(result_.snapshot.groups, id, name_of_group)
                          : name_owner(result_.snapshot.users, id, name_of_user);
                    return id;
                });
    }
    /// Keeps the content of a file with several links until all of them were met.
    void remember_link(const Entry& e, const struct stat& st) {
        auto [at, fresh] = linked_.try_emplace({st.st_dev, st.st_ino}, Linked{e, 0});
        if (fresh) at->second.left = st.st_nlink;
        if (--at->second.left == 0) linked_.erase(at);
    }

    // ---- the content of a file ----

    void take(const Stream& stream) {
        struct stat st {};
        st.st_mode = S_IFREG | 0600;
        st.st_uid = geteuid();
        st.st_gid = getegid();
        clock_gettime(CLOCK_REALTIME, &st.st_mtim);
        st.st_ctim = st.st_mtim;
        for (size_t slash = stream.name.find('/'); slash != stream.name.npos;
             slash = stream.name.find('/', slash + 1)) {
            auto above = st; // a directory that is nowhere, for ls to go into
            above.st_mode = S_IFDIR | 0700;
            tree_->add(describe(stream.name.substr(0, slash), above));
            ++result_.snapshot.counts.directories;
        }
        const Entry* before = pass_previous_until(stream.name);
        Entry e = describe(stream.name, st);
        e.racy = true;
        read_content(stream.fd, e, nullptr);
        if (stream.ended) stream.ended();
        if (e.size == 0 && !stream.may_be_empty)
            throw Error(text("there was nothing to read for ", in_quotes(stream.name),
                             ": nothing was committed; if that is right, say --allow-empty"));
        ++result_.snapshot.counts.files;
        result_.snapshot.counts.bytes += e.size;
        count_change(e, before);
        tree_->add(e);
    }

    /// Reads a file, once more if it changed meanwhile.
    void read_file(int fd, Entry& e, struct stat& st) {
        for (int attempt = 1;; ++attempt) {
            if (fstat(fd, &st) != 0) throw system_error("look at", e.path);
            if (!S_ISREG(st.st_mode)) throw Error(text(in_quotes(e.path), " is no longer a file"));
            take_stat(e, st);
            add_xattrs(e, nullptr, fd, "");
            e.chunks.clear();
            read_content(fd, e, &st);
            struct stat after;
            if (fstat(fd, &after) != 0) throw system_error("look at", e.path);
            if (to_time(after.st_ctim) == e.ctime && to_time(after.st_mtim) == e.mtime &&
                after.st_size == st.st_size)
                break;
            if (attempt == 2) {
                say(text("warning: ", in_quotes(e.path),
                         " changed while it was read, twice; it is stored as it was read"));
                e.racy = true;
                break;
            }
        }
    }

    /// `st` is null for a stream, which has no holes and no offsets.
    void read_content(int fd, Entry& e, const struct stat* st) {
        if (st) e.holes = find_holes(fd, *st);
        XXH3_state_t checksum;
        XXH3_64bits_reset(&checksum);
        size_t have = 0;
        uint64_t total = 0, at = 0;
        auto hole = e.holes.begin();
        for (bool ended = false; !ended;) {
            if (hole != e.holes.end() && at == hole->offset) {
                at += hole->length;
                ++hole;
                continue;
            }
            uint64_t upto =
                hole != e.holes.end() ? hole->offset : UINT64_MAX; // to the end, wherever it is now
            size_t want = size_t(std::min<uint64_t>(buffer_.size() - have, upto - at));
            std::span<uint8_t> into(buffer_.data() + have, want);
            size_t n = st ? read_at(fd, at, into, e.path) : read_stream(fd, into, e.path);
            XXH3_64bits_update(&checksum, buffer_.data() + have, n);
            have += n;
            at += n;
            total += n;
            repo_.store.work.done += n;
            repo_.store.work.planned += n;
            ended = n < want;
            if (ended && hole != e.holes.end()) e.holes.erase(hole, e.holes.end()); // it was truncated
            if (ended || have >= kChunkMax)
                have = put_chunks(e, have, ended); // many small pieces are not searched again and again
            packer_.maybe_checkpoint();
            stop_if_asked();
        }
        e.size = at;
        e.checksum = e.chunks.size() > 1 ? XXH3_64bits_digest(&checksum) : 0;
        result_.bytes_read += total;
    }
    static size_t read_at(int fd, uint64_t offset, std::span<uint8_t> into, std::string_view shown) {
        if (lseek(fd, off_t(offset), SEEK_SET) < 0) throw system_error("read", shown);
        return read_full(fd, into, shown);
    }
    /// Stores the chunks at the start of the buffer that are certain; moves the rest to its front.
    size_t put_chunks(Entry& e, size_t have, bool ended) {
        View rest(buffer_.data(), have);
        while (!rest.empty()) {
            size_t n = chunker_.cut(rest);
            if (n == rest.size() && n < kChunkMax && !ended) break;
            e.chunks.push_back(packer_.put(Kind::data, rest.first(n)));
            rest = rest.subspan(n);
        }
        std::copy(rest.begin(), rest.end(), buffer_.begin());
        return rest.size();
    }
    /// The holes of a sparse file; none where it has as many blocks as bytes.
    static std::vector<Extent> find_holes(int fd, const struct stat& st) {
        std::vector<Extent> holes;
        if (int64_t(st.st_blocks) * 512 >= st.st_size) return holes;
        for (off_t at = 0; at < st.st_size;) {
            off_t data = lseek(fd, at, SEEK_DATA);
            if (data < 0 && errno != ENXIO) return {};
            if (data < 0 || data > st.st_size) data = st.st_size;
            if (data > at) holes.push_back({uint64_t(at), uint64_t(data - at)});
            if (data == st.st_size) break;
            at = lseek(fd, data, SEEK_HOLE);
            if (at < 0) return {};
        }
        if (holes.size() > kHolesMax) { // the largest stay
            std::ranges::nth_element(holes, holes.begin() + kHolesMax, std::greater{}, &Extent::length);
            holes.resize(kHolesMax);
            std::ranges::sort(holes, {}, &Extent::offset);
        }
        return holes;
    }

    Repository& repo_;
    BackupOptions options_;
    Chunker chunker_;
    TaskPool tree_wire_; // reads the previous tree
    Packer packer_;
    Bytes buffer_;
    std::optional<TreeWriter> tree_;
    std::optional<TreeReader> previous_;
    const Snapshot* complete_before_ = nullptr; // the newest one, owned by the index
    std::string unmounted_;                     // a directory that was a mount point then
    const Entry* before_ = nullptr;             // where the previous tree is
    bool met_ = false;                          // the disk has before_, too
    bool trust_xattrs_ = true;                  // they were read by the same user, who sees as many
    Fd top_;                                    // the source, if it is a directory
    std::atomic<bool> stop_counting_{false};
    std::optional<std::thread> counter_;
    std::set<std::string> taken_; // of the paths that --files-from names
    bool rewrite_tree_ = false;
    std::vector<dev_t> devices_;
    std::vector<std::pair<dev_t, ino_t>> open_directories_; // from the source to where the walk is
    std::map<std::pair<dev_t, ino_t>, Linked> linked_;
    BackupResult result_;
};

/// Calls `f(entry, inside)` for every entry at or below one of `tops` (all, if there are none), and
/// with inside = false for the directories that lead there. Reads only the parts of the tree that it
/// needs. Returns the tops that were not found.
template <class F>
std::vector<std::string> for_selected(TreeReader& tree, std::vector<std::string> tops, F f) {
    struct Wanted {
        bool top, found = false;
    };
    auto order = [](const std::string& a, const std::string& b) { return path_before(a, b); };
    std::map<std::string, Wanted, decltype(order)> wanted(order);
    if (tops.empty()) tops.push_back("");
    std::ranges::sort(tops, order);
    for (auto& top : tops) {
        for (size_t slash = top.find('/'); !top.empty() && slash != top.npos;
             slash = top.find('/', slash + 1))
            wanted.try_emplace(top.substr(0, slash), Wanted{false});
        if (!top.empty()) wanted.try_emplace("", Wanted{false});
        wanted[top].top = true;
    }
    const Entry* e = nullptr;
    for (auto& [path, w] : wanted) {
        tree.read_ahead_to(path, w.top);
        if (!e || path_before(e->path, path)) tree.seek(path), e = tree.next();
        while (e && path_before(e->path, path)) e = tree.next();
        for (; e && (w.top ? is_within(e->path, path) : e->path == path); e = tree.next()) {
            f(*e, w.top);
            if (auto also = wanted.find(e->path); also != wanted.end()) also->second.found = true;
            w.found = true;
        }
    }
    std::vector<std::string> missing;
    for (auto& [path, w] : wanted)
        if (w.top && !w.found && !path.empty()) missing.push_back(path);
    return missing;
}

bool is_pattern(const std::string& name) { return name.find_first_of("*?[") != name.npos; }

/// Calls `f(entry, inside)` for what is at or below some paths, or matches one of them as a pattern of
/// .gitignore would (`with_content`: and what is in it), and with inside = false for the directories that
/// lead there. Returns the names that were not found.
template <class F>
std::vector<std::string> for_named(TreeReader& tree, const std::vector<std::string>& names, bool with_content,
                                   F f) {
    std::vector<std::string> paths;
    for (auto& name : names) paths.push_back(plain_path(name));
    std::vector<Patterns> patterns(names.size());
    std::vector<bool> found(names.size());
    for (size_t i = 0; i < names.size(); ++i)
        if (is_pattern(names[i])) patterns[i].add(names[i]);
    if (std::ranges::none_of(names, is_pattern)) {
        auto missing = for_selected(tree, paths, f);
        for (size_t i = 0; i < names.size(); ++i) found[i] = std::ranges::count(missing, paths[i]) == 0;
    } else {
        std::vector<Entry> above;          // directories that the walk is in and that were not told yet
        std::optional<std::string> inside; // a directory that is wanted
        while (auto* e = tree.next()) {
            bool wanted = with_content && inside && is_within(e->path, *inside);
            for (size_t i = 0; i < names.size() && !e->path.empty(); ++i)
                if (is_within(e->path, paths[i]) || patterns[i].exclude(e->path, e->type == Type::directory))
                    wanted = found[i] = true;
            while (!above.empty() && !is_within(e->path, above.back().path)) above.pop_back();
            if (!wanted && e->type == Type::directory) above.push_back(*e);
            if (!wanted) continue;
            if (e->type == Type::directory && !(inside && is_within(e->path, *inside))) inside = e->path;
            for (auto& directory : above) f(directory, false);
            above.clear();
            f(*e, true);
        }
    }
    std::vector<std::string> missing;
    for (size_t i = 0; i < names.size(); ++i)
        if (!found[i]) missing.push_back(names[i]);
    return missing;
}

// ============================================================================
// [SECTION] 11. Restore
// ============================================================================
// Trusted with data.
// Uses: 3, 8, 9. Provides: Restore. Every name is used relative to an open directory and never
// through a link. Must hold: I6, I7, I10.

struct RestoreOptions {
    bool overwrite = false;    // replace files that differ
    bool remove = false;       // remove what the snapshot does not have
    bool allow_shrink = false; // even if that is most of what is there
    bool dry_run = false;
    bool verbose = false, json = false;
    int connections = kConnections;
    std::optional<std::pair<dev_t, ino_t>> skip; // the repository's own directory, never removed
    std::vector<std::string> paths;              // what to restore, or patterns; all if empty
};

struct RestoreResult {
    std::atomic<uint64_t> restored{0}, in_place{0}, bytes{0}, removed{0};
    std::atomic<uint64_t> kept{0};    // conflicts, named
    std::atomic<uint64_t> failed{0};  // could not be written, named
    std::atomic<uint64_t> damaged{0}; // could not be read from the repository, named
    std::atomic<uint64_t> no_owner{0}, no_device{0}, no_xattr{0}; // for lack of rights
    bool deletion_refused = false;    // for most would have gone, or not all was restored
    std::vector<std::string> missing; // paths that the snapshot does not have
};

class Restore {
  public:
    Restore(Repository& repo, const Snapshot& snapshot, const RestoreOptions& options)
        : repo_(repo), snapshot_(snapshot), options_(options), wire_(options.connections, 64),
          chunks_(repo, wire_, kReadAhead),
          writers_(std::clamp(int(std::thread::hardware_concurrency()), 2, 8), kFilesAhead) {}
    ~Restore() { chunks_.give_up(); }

    /// Makes `destination` what the snapshot is. Throws Error where nothing could be done.
    void run(const std::string& destination, RestoreResult& result) {
        result_ = &result;
        repo_.store.work.begin("restoring", options_.paths.empty() ? snapshot_.counts.bytes : 0);
        if (snapshot_.incomplete)
            say("the snapshot is incomplete: some files could not be read when it was made");
        if (options_.remove && snapshot_.incomplete) {
            say("files that it lacks may be those that could not be read, so nothing is deleted");
            options_.remove = false;
        }
        open_root(destination);
        TreeReader tree(repo_, wire_, snapshot_);
        tree.on_damage = [&](const std::string& what) {
            say(what);
            tree_damaged_ = true;
            ++result_->damaged;
        };
        try {
            result.missing =
                for_named(tree, options_.paths.empty() ? std::vector<std::string>{""} : options_.paths, true,
                          [&](const Entry& e, bool inside) {
                              stop_if_asked();
                              place(e, inside);
                          });
            chunks_.flush();
            writers_.drain();
            stack_.clear();
            if (may_remove()) remove_doomed(destination);
        } catch (const Interrupted&) {
            tree_damaged_ = true; // the list was not read to its end: nothing is removed
            chunks_.give_up();
            writers_.abandon();
            if (lost_) std::rethrow_exception(lost_); // a writer failed and woke us up
            throw;
        } catch (...) {
            tree_damaged_ = true;
            throw;
        }
        stack_.clear();
    }

  private:
    /// A directory below the destination. It gets its metadata when nobody uses it any more: the
    /// walk, the files on their way into it, the directories in it.
    struct Directory {
        Directory(Restore& r, std::shared_ptr<Directory> up, std::string p)
            : restore(r), parent(std::move(up)), path(std::move(p)) {
            ++r.open_;
        }
        ~Directory() {
            restore.finish_directory(*this);
            --restore.open_;
        }
        Directory(const Directory&) = delete;
        Directory& operator=(const Directory&) = delete;
        /// Notes what this run has put here, or found to be right.
        void own(ino_t inode) {
            std::lock_guard lock(mutex);
            placed.insert(inode);
        }
        bool owns(ino_t inode) {
            std::lock_guard lock(mutex);
            return placed.contains(inode);
        }
        Restore& restore;
        std::shared_ptr<Directory> parent;
        std::string path;
        Fd fd; // none in a dry run where it does not exist
        dev_t device = 0;
        bool blocked = false;        // something else is in its place: nothing goes into it
        bool exposed = false;        // somebody else may change names in it
        bool touched_later = false;  // when its time was set already
        std::optional<Entry> entry;  // its metadata, if it is to be set
        std::optional<mode_t> mode;  // to be set again, where we could not have worked with it
        bool whole = false;          // all its names are selected: others may be removed
        std::set<std::string> names; // that the snapshot has, if others are to be removed
        std::mutex mutex;            // guards
        std::set<ino_t> placed;      // on the same file system
    };
    using DirectoryPtr = std::shared_ptr<Directory>;

    static std::string parent_of(const std::string& path) {
        return path.substr(0, std::min(path.rfind('/'), path.size()));
    }

    // ---- directories ----

    void open_root(const std::string& destination) {
        auto root = std::make_shared<Directory>(*this, nullptr, "");
        if (!options_.dry_run) make_directories(destination, 0777);
        root->fd = Fd(::open(destination.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root->fd && !options_.dry_run) throw system_error("open the directory", destination);
        if (root->fd) mount_ = mount_id(root->fd.get());
        look_into(*root, false);
        stack_.push_back(std::move(root));
    }

    /// The directory that holds `path`, from the stack of those the walk is in. One whose entry was
    /// lost with a damaged part of the tree is made for the sake of what is in it.
    DirectoryPtr directory_for(const std::string& path) {
        std::string parent = path.find('/') == path.npos ? "" : parent_of(path);
        while (!is_within(parent, stack_.back()->path)) stack_.pop_back();
        while (stack_.back()->path != parent) {
            size_t from = stack_.back()->path.empty() ? 0 : stack_.back()->path.size() + 1;
            std::string next = parent.substr(0, parent.find('/', from));
            enter(nullptr, next, false);
        }
        return stack_.back();
    }

    /// Opens or creates a directory and puts it on the stack.
    void enter(const Entry* e, const std::string& path, bool whole) {
        if (open_ >= open_max_) { // each that files are on their way into holds a descriptor
            chunks_.flush();
            writers_.drain();
        }
        auto up = stack_.back();
        auto dir = std::make_shared<Directory>(*this, up, path);
        dir->blocked = up->blocked;
        dir->whole = whole;
        bool created = false;
        if (!up->blocked && up->fd) {
            auto name = last_name(path);
            auto open = [&] {
                return Fd(
                    openat(up->fd.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            };
            created = !options_.dry_run && mkdirat(up->fd.get(), name.c_str(), 0700) == 0;
            int refused = errno; // why it was not made, where there is nothing to open
            dir->fd = open();
            if (!dir->fd && errno == EACCES && !options_.dry_run && !up->exposed &&
                fchmodat(up->fd.get(), name.c_str(), 0700, 0) == 0)
                dir->fd = open();
            bool other = !dir->fd && (errno == ENOTDIR || errno == ELOOP);
            if (other && options_.overwrite && !options_.dry_run &&
                unlinkat(up->fd.get(), name.c_str(), 0) == 0 &&
                mkdirat(up->fd.get(), name.c_str(), 0700) == 0) {
                created = true;
                dir->fd = open();
            }
            if (!dir->fd && !(options_.dry_run && (errno == ENOENT || (other && options_.overwrite)))) {
                dir->blocked = true;
                auto error =
                    system_error("create or open the directory", path, errno == ENOENT ? refused : errno);
                if (ends_all(error)) throw error;
                if (other)
                    keep(path, "is no directory here");
                else
                    fail(error);
            }
        }
        if (dir->fd && !look_into(*dir, created)) dir->blocked = true;
        if (e && !dir->blocked && (created || whole)) dir->entry = *e;
        stack_.push_back(std::move(dir));
    }
    /// Makes an open directory fit for us to work in. Returns false where it is one that this run has placed
    /// already, under another name.
    bool look_into(Directory& d, bool created) {
        struct stat st;
        if (!d.fd || fstat(d.fd.get(), &st) != 0) return true;
        d.device = st.st_dev;
        d.exposed = st.st_uid != geteuid() || (st.st_mode & 022) != 0;
        if (d.parent && !d.parent->fd) return true;
        if (d.parent && st.st_dev == d.parent->device) {
            if (d.parent->owns(st.st_ino)) return fail(indistinct(d.path)), false;
            d.parent->own(st.st_ino);
        }
        if (created || options_.dry_run) return true;
        if (geteuid() != 0 && st.st_uid == geteuid() && (st.st_mode & 0700) != 0700 &&
            fchmod(d.fd.get(), (st.st_mode & 07777) | 0700) == 0)
            d.mode = st.st_mode & 07777;
        remove_leftovers(d);
        return true;
    }
    /// Takes away what a restore that was killed has left. One that is running holds a lock on what it
    /// writes.
    static void remove_leftovers(Directory& d) {
        for (auto& [name, type] : read_directory(d.fd.get(), d.path)) {
            if (!is_leftover(name)) continue;
            Fd fd(openat(d.fd.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
            struct stat st;
            if (fd && fstat(fd.get(), &st) == 0 && S_ISREG(st.st_mode) &&
                flock(fd.get(), LOCK_EX | LOCK_NB) == 0)
                unlinkat(d.fd.get(), name.c_str(), 0);
        }
    }

    /// Called by whoever uses the directory last, in whatever thread.
    void finish_directory(Directory& d) noexcept {
        if (!d.fd) return;
        try {
            if (options_.remove && d.whole && !tree_damaged_) find_others(d);
            if (options_.dry_run) return;
            if (d.entry)
                set_metadata(d.fd.get(), -1, "", *d.entry);
            else if (d.mode && fchmod(d.fd.get(), *d.mode) != 0)
                fail(system_error("set the mode of", d.path));
        } catch (const Error& e) {
            fail(e);
        } catch (const std::exception& e) {
            fail(Error(e.what()));
        }
    }

    // ---- deleting ----

    /// What is to be removed of a directory, in the end, and what its metadata is then.
    struct Doomed {
        std::string path;
        std::vector<std::string> names;
        std::optional<Entry> entry;
    };
    /// The one place that decides what goes: what the snapshot does not have, and nothing that this run
    /// placed or found to be right (some file systems do not keep names as they are given), nor what no
    /// snapshot can have.
    void find_others(Directory& d) {
        Doomed doomed{d.path, {}, d.entry};
        std::vector<std::pair<std::string, ino_t>> others;
        struct stat st;
        for (auto& [name, type] : read_directory(d.fd.get(), d.path))
            if (!d.names.contains(name) && fstatat(d.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                !d.owns(st.st_ino) && may_go(d.fd.get(), name, st, d.device))
                others.emplace_back(name, st.st_ino);
        if (!others.empty() && mount_id(d.fd.get()) != mount_)
            return say(
                text("nothing is deleted in ", in_quotes(d.path), ": something else is mounted there"));
        std::set<ino_t> meant; // by the snapshot's names, whatever they are called here
        if (!others.empty())
            for (auto& name : d.names)
                if (fstatat(d.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) meant.insert(st.st_ino);
        for (auto& [name, inode] : others)
            if (!meant.contains(inode)) doomed.names.push_back(name);
        if (doomed.names.empty() && !d.touched_later) return;
        std::lock_guard lock(words_mutex_);
        doomed_.push_back(std::move(doomed));
    }
    /// Neither what is mounted, nor a socket, nor the repository.
    bool may_go(int directory, const std::string& name, const struct stat& st, dev_t device) const {
        return st.st_dev == device && !S_ISSOCK(st.st_mode) &&
               options_.skip != std::pair(st.st_dev, st.st_ino) && !is_mount_point(directory, name);
    }
    /// Whether all is so that something may be removed; says it if not.
    bool may_remove() {
        if (doomed_.empty()) return false;
        bool others =
            std::ranges::any_of(doomed_, [](auto& d) { return !d.names.empty(); }) || !late_.empty();
        if (tree_damaged_ ||
            result_->failed + result_->damaged + result_->kept + result_->missing.size() > 0) {
            if (others) say("nothing was deleted, for not all could be restored");
            result_->deletion_refused = others;
            return false;
        }
        return true;
    }
    void remove_doomed(const std::string& destination) {
        uint64_t going = 0, staying = result_->in_place + replaced_;
        for (auto& d : doomed_)
            if (Fd fd = directory_at(destination, d.path))
                for (auto& name : d.names) going += count_files(fd.get(), name, d.path);
        if (going > staying && !options_.allow_shrink) {
            say(text("nothing was deleted: ", going, " of ", going + staying, " files that ",
                     in_quotes(destination), " holds would go; if that is right, say --allow-shrink"));
            result_->deletion_refused = true;
            return;
        }
        std::vector<std::pair<std::string, mode_t>> closed;
        for (auto& d : doomed_) {
            Fd fd = directory_at(destination, d.path);
            struct stat st; // it may be closed again already
            if (fd && !options_.dry_run && fstat(fd.get(), &st) == 0 && st.st_uid == geteuid() &&
                (st.st_mode & 0700) != 0700) {
                (void)!fchmod(fd.get(), (st.st_mode & 07777) | 0700);
                closed.emplace_back(d.path, st.st_mode & 07777);
            }
            for (auto& name : d.names) {
                auto path = d.path.empty() ? name : d.path + "/" + name;
                if (options_.dry_run || options_.verbose) tell('-', path);
                if (options_.dry_run || (fd && remove_tree(fd.get(), name, path))) ++result_->removed;
            }
        }
        place_late(destination);
        for (auto& [path, mode] : closed)
            if (Fd fd = directory_at(destination, path); fd && fchmod(fd.get(), mode) != 0)
                fail(system_error("set the mode of", path));
        for (auto& d : doomed_)
            if (Fd fd = directory_at(destination, d.path); fd && d.entry && !options_.dry_run)
                set_metadata(fd.get(), -1, "", *d.entry);
    }
    /// Files in whose place there was a directory.
    void place_late(const std::string& destination) {
        auto late = std::exchange(late_, {});
        if (options_.dry_run) std::ranges::for_each(late, [&](auto& e) { would_restore(e); });
        if (late.empty() || options_.dry_run) return;
        options_.remove = false;
        open_root(destination);
        for (auto& e : late) {
            stop_if_asked();
            place(e, true);
        }
        chunks_.flush();
        writers_.drain();
        stack_.clear();
    }
    /// A directory below the destination, without following a link; none where it cannot be opened.
    static Fd directory_at(const std::string& destination, const std::string& path) {
        Fd at(::open(destination.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        for (size_t from = 0; at && from < path.size();) {
            size_t slash = std::min(path.find('/', from), path.size());
            at = Fd(openat(at.get(), path.substr(from, slash - from).c_str(),
                           O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            from = slash + 1;
        }
        return at;
    }
    /// All that is no directory at or below a name, on the same file system.
    uint64_t count_files(int directory, const std::string& name, const std::string& path) const {
        struct stat here, st;
        if (fstat(directory, &here) != 0 || fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            !may_go(directory, name, st, here.st_dev))
            return 0;
        if (!S_ISDIR(st.st_mode)) return 1;
        uint64_t sum = 0;
        Fd inner(openat(directory, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (inner)
            for (auto& [child, type] : read_directory(inner.get(), path + "/" + name))
                sum += count_files(inner.get(), child, path + "/" + name);
        return sum;
    }
    /// Returns whether all of it went. What cannot be removed is named and counted, and the rest goes.
    bool remove_tree(int directory, const std::string& name, const std::string& path) {
        try {
            struct stat here, st;
            if (fstat(directory, &here) != 0 ||
                fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
                throw system_error("remove", path);
            if (!may_go(directory, name, st, here.st_dev)) return false;
            if (!S_ISDIR(st.st_mode)) {
                if (unlinkat(directory, name.c_str(), 0) != 0) throw system_error("remove", path);
                return true;
            }
            if (st.st_uid == geteuid() && (st.st_mode & 0700) != 0700)
                (void)!fchmodat(directory, name.c_str(), (st.st_mode & 07777) | 0700, 0);
            Fd inner = open_directory(directory, name, path);
            bool all = true;
            for (auto& [child, type] : read_directory(inner.get(), path))
                all &= remove_tree(inner.get(), child, path + "/" + child);
            if (all && unlinkat(directory, name.c_str(), AT_REMOVEDIR) != 0)
                throw system_error("remove", path);
            return all;
        } catch (const Error& e) {
            if (ends_all(e)) throw;
            fail(e);
            return false;
        }
    }

    // ---- one entry ----

    void place(const Entry& e, bool inside) {
        if (e.path.empty()) {
            stack_.front()->whole = inside && e.type == Type::directory;
            if (inside && !options_.dry_run) stack_.front()->entry = e;
            return;
        }
        auto dir = directory_for(e.path);
        if (options_.remove && dir->whole) dir->names.insert(last_name(e.path));
        if (e.type == Type::directory) return enter(&e, e.path, inside);
        if (dir->blocked || !inside) return;
        try {
            place_content(dir, e);
        } catch (const Corrupt& error) {
            ++result_->damaged;
            say(text("cannot restore ", in_quotes(e.path), ": ", error.what()));
        } catch (const Error& error) {
            if (ends_all(error)) throw;
            fail(error);
        }
    }

    void place_content(const DirectoryPtr& dir, const Entry& e) {
        for (auto& id : e.chunks)
            if (repo_.index.readable_places(id).empty())
                throw Corrupt("a part of it is in no pack that is there");
        auto here = look_here(*dir, e);
        repo_.store.work.planned += e.size;
        if (here == Here::done) return;
        if (options_.dry_run) return would_restore(e);
        bool replace = here == Here::replace || options_.overwrite;
        if (e.link_group && place_link(*dir, e, replace)) return;
        if (e.link_group) {
            std::lock_guard lock(words_mutex_);
            first_links_[{e.link_group, e.inode}] = {e, {}};
        }
        if (e.type != Type::file) return make_special(*dir, e, replace);
        // The planner pins the chunks of a file after its writer was queued: a file larger than the
        // read-ahead is written while its later parts are still being asked for.
        auto entry = std::make_shared<Entry>(e);
        if (writers_.full()) chunks_.flush();
        writers_.push([this, dir, entry, replace] { write_in_thread(*dir, *entry, replace); });
        for (auto& id : e.chunks) chunks_.pin(id);
    }

    /// What there is where an entry is to be: nothing; what it is to be, or something that is kept, so that
    /// nothing is left to do; or what is to be replaced.
    enum class Here { nothing, done, replace };

    Here look_here(Directory& dir, const Entry& e) {
        auto name = last_name(e.path);
        struct stat st;
        if (!dir.fd || fstatat(dir.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
            return Here::nothing;
        auto first = e.link_group ? first_links_.find({e.link_group, e.inode}) : first_links_.end();
        bool further = first != first_links_.end() && difference(first->second.entry, e) != 'M';
        if (further) settle_writers();
        if (further && first->second.is(st)) return in_place(dir, e, st);
        auto claim = claimed_.find({st.st_dev, st.st_ino});
        bool its_own = e.link_group && claim != claimed_.end() &&
                       claim->second == std::pair(e.link_group, e.inode); // a further name of it
        if (!its_own && st.st_nlink == 1 && dir.owns(st.st_ino)) throw indistinct(e.path);
        Fd fd;
        bool same = is_same(dir.fd.get(), name, st, e, fd);
        if (same && st.st_nlink > 1) { // one file here need not be one in the snapshot
            auto mine = std::pair(e.link_group, e.link_group ? e.inode : ++alone_);
            same = claimed_.try_emplace({st.st_dev, st.st_ino}, mine).first->second == mine;
        }
        if (same && further && (options_.overwrite || first->second.written))
            return place_link(dir, e, true) ? Here::done : Here::replace;
        if (same) {
            // Only what is ours to give is given other rights: who else has the file open, or another name of
            // it, keeps them.
            bool ours = e.type == Type::file && st.st_nlink == 1 &&
                        st.st_uid == (geteuid() == 0 ? owner_of(e).id : geteuid());
            bool right = is_right(fd.get(), dir.fd.get(), name, st, e);
            if (!right && !ours) return ++replaced_, Here::replace;
            if (!right && !options_.dry_run) set_metadata(fd.get(), dir.fd.get(), name, e);
            if (e.link_group && !further) {
                std::lock_guard lock(words_mutex_);
                first_links_[{e.link_group, e.inode}] = {e, std::pair(st.st_dev, st.st_ino)};
            }
            return in_place(dir, e, st);
        }
        if (S_ISDIR(st.st_mode) && options_.overwrite && options_.remove && dir.whole) {
            late_.push_back(e);
            dir.names.erase(name);
            dir.touched_later = true;
            return Here::done;
        }
        if (options_.overwrite && !S_ISDIR(st.st_mode)) return ++replaced_, Here::replace;
        keep(e.path, S_ISDIR(st.st_mode) ? "is a directory here" : "differs here");
        dir.own(st.st_ino);
        return Here::done;
    }
    Here in_place(Directory& dir, const Entry& e, const struct stat& st) {
        dir.own(st.st_ino);
        ++result_->in_place;
        repo_.store.work.did(e.size);
        return Here::done;
    }
    static Error indistinct(const std::string& path) {
        return Error(text("cannot create ", in_quotes(path),
                          ": the file system there takes its name for one that was restored already"));
    }
    /// What is on its way gets there.
    void settle_writers() {
        chunks_.flush();
        writers_.drain();
    }

    /// Whether what has this name is what `e` says. Leaves a file open.
    bool is_same(int directory, const std::string& name, const struct stat& st, const Entry& e, Fd& fd) {
        switch (e.type) {
        case Type::file:
            if (!S_ISREG(st.st_mode) || uint64_t(st.st_size) != e.size) return false;
            fd = open_file(directory, name, O_NOFOLLOW);
            return fd && same_content(fd.get(), e);
        case Type::symlink:
            return S_ISLNK(st.st_mode) && read_link(directory, name, e.path) == e.target;
        case Type::fifo:
            return S_ISFIFO(st.st_mode);
        case Type::character:
            return S_ISCHR(st.st_mode) && st.st_rdev == e.device;
        case Type::block:
            return S_ISBLK(st.st_mode) && st.st_rdev == e.device;
        case Type::directory:
            break;
        }
        return false;
    }
    /// Compares a file on the disk with the checksum, at the disk's speed, or with its only chunk.
    bool same_content(int fd, const Entry& e) {
        XXH3_state_t checksum;
        XXH3_64bits_reset(&checksum);
        Bytes only;
        Bytes buffer(MiB);
        uint64_t at = 0;
        auto scan = [&](uint64_t upto, bool hole) {
            if (hole && upto > at) {
                off_t data = lseek(fd, off_t(at), SEEK_DATA);
                if (data < 0 || uint64_t(data) >= upto) at = upto;
            }
            while (at < upto) {
                std::span<uint8_t> part(buffer.data(), size_t(std::min<uint64_t>(buffer.size(), upto - at)));
                ssize_t n = pread(fd, part.data(), part.size(), off_t(at));
                if (n <= 0) return false;
                part = part.first(size_t(n));
                bool other = hole ? std::ranges::any_of(part, [](uint8_t b) { return b != 0; })
                                  : only.size() > kChunkMax;
                if (other) return false;
                if (!hole && e.chunks.size() > 1)
                    XXH3_64bits_update(&checksum, part.data(), part.size());
                else if (!hole)
                    only.insert(only.end(), part.begin(), part.end());
                at += uint64_t(n);
            }
            return true;
        };
        for (auto& h : e.holes)
            if (!scan(h.offset, false) || !scan(h.offset + h.length, true)) return false;
        if (!scan(e.size, false)) return false;
        if (e.chunks.size() > 1) return XXH3_64bits_digest(&checksum) == e.checksum;
        return e.chunks.empty() ? only.empty() : repo_.keys.hasher()(only) == e.chunks[0];
    }

    /// The first name of a file that has several, and which file here it is, once it is there.
    struct First {
        Entry entry;
        std::optional<std::pair<dev_t, ino_t>> placed;
        bool written = false; // by this run
        bool is(const struct stat& st) const { return placed == std::pair(st.st_dev, st.st_ino); }
    };
    /// Makes a further name of a file that was restored before. Whether that was possible: the first may have
    /// failed, and what was there before be there still (I7).
    bool place_link(Directory& dir, const Entry& e, bool replace) {
        auto first = first_links_.find({e.link_group, e.inode});
        if (first == first_links_.end() || difference(first->second.entry, e) == 'M') return false;
        settle_writers(); // the first name may still be on its way
        if (options_.dry_run) return would_restore(e), true;
        if (!first->second.placed) return false;
        try {
            Fd at(fcntl(stack_.front()->fd.get(), F_DUPFD_CLOEXEC, 0));
            auto& path = first->second.entry.path;
            for (size_t from = 0, slash; (slash = path.find('/', from)) != path.npos; from = slash + 1)
                at = open_directory(at.get(), path.substr(from, slash - from), path);
            Temporary temporary(dir.fd.get());
            struct stat st;
            if (linkat(at.get(), last_name(path).c_str(), dir.fd.get(), temporary.name.c_str(), 0) != 0) {
                if (errno != ENOENT)
                    fail(system_error("make it another name of " + in_quotes(path) +
                                          ", so it is a file of its own:",
                                      e.path));
                return false;
            }
            if (fstatat(dir.fd.get(), temporary.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
                !first->second.is(st))
                return false;
            publish(temporary, dir, e, st, replace);
        } catch (const Error& error) {
            if (ends_all(error)) throw;
            return false;
        }
        ++result_->restored;
        repo_.store.work.did(e.size);
        tell_new(e);
        return true;
    }

    void make_special(Directory& dir, const Entry& e, bool replace) {
        // By name alone can its metadata be set: where others may change names, in a directory of our own.
        std::optional<Temporary> own;
        Fd inner;
        if (dir.exposed) {
            own.emplace(dir.fd.get(), AT_REMOVEDIR);
            if (mkdirat(dir.fd.get(), own->name.c_str(), 0700) != 0) throw system_error("create", e.path);
            inner = open_directory(dir.fd.get(), own->name, e.path);
            struct stat st;
            if (fstat(inner.get(), &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 077) != 0)
                throw Error(text("cannot create ", in_quotes(e.path), ": somebody else is at work there"));
        }
        int at = inner ? inner.get() : dir.fd.get();
        Temporary temporary(at);
        mode_t kind = e.type == Type::fifo ? S_IFIFO : e.type == Type::character ? S_IFCHR : S_IFBLK;
        int made = e.type == Type::symlink
                       ? symlinkat(e.target.c_str(), at, temporary.name.c_str())
                       : mknodat(at, temporary.name.c_str(), kind | (e.mode & 0777), dev_t(e.device));
        bool device = e.type == Type::character || e.type == Type::block;
        if (made != 0 && errno == EPERM && device && geteuid() != 0) {
            ++result_->no_device;
            return say(text(in_quotes(e.path), " is a device, which only root can create: it is left out"));
        }
        struct stat st;
        if (made != 0 || fstatat(at, temporary.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
            throw system_error("create", e.path);
        set_metadata(-1, at, temporary.name, e);
        publish(temporary, dir, e, st, replace);
        ++result_->restored;
        tell_new(e);
    }

    // ---- writing ----

    /// A name that is taken away again unless it was published (I7).
    struct Temporary {
        explicit Temporary(int d, int remove_flags = 0) : directory(d), flags(remove_flags) {
            std::array<uint8_t, 8> r;
            fill_random(r);
            name = ".nfreeze-" + hex(r); // as is_leftover() has it
        }
        ~Temporary() {
            if (!name.empty()) unlinkat(directory, name.c_str(), flags);
        }
        Temporary(const Temporary&) = delete;
        Temporary& operator=(const Temporary&) = delete;
        int directory, flags;
        std::string name;
    };
    /// `st`: of what is published.
    void publish(Temporary& temporary, Directory& dir, const Entry& e, const struct stat& st, bool replace) {
        auto name = last_name(e.path);
        std::lock_guard lock(dir.mutex);
        struct stat there;
        auto is_ours = [&] {
            return fstatat(dir.fd.get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                   there.st_ino != st.st_ino && there.st_nlink == 1 && dir.placed.contains(there.st_ino);
        };
        if (replace && is_ours()) throw indistinct(e.path);
        int bad = renameat2(temporary.directory, temporary.name.c_str(), dir.fd.get(), name.c_str(),
                            replace ? 0 : RENAME_NOREPLACE);
        if (bad && errno == EINVAL) {
            if (is_ours()) throw indistinct(e.path);
            bad = renameat(temporary.directory, temporary.name.c_str(), dir.fd.get(), name.c_str());
        }
        if (bad && errno == EEXIST && is_ours()) throw indistinct(e.path);
        if (bad) throw system_error("create", e.path);
        dir.placed.insert(st.st_ino);
        if (e.link_group) {
            std::lock_guard links(words_mutex_);
            if (auto first = first_links_.find({e.link_group, e.inode}); first != first_links_.end()) {
                first->second.placed = std::pair(st.st_dev, st.st_ino);
                first->second.written = true;
            }
        }
        // Renaming one name of a file onto another of the same file does nothing: the temporary
        // one is then still to be removed, which the destructor does.
        if (e.link_group == 0) temporary.name.clear();
    }

    void write_in_thread(Directory& dir, const Entry& e, bool replace) {
        size_t used = 0; // chunks that were unpinned
        try {
            write_file(dir, e, used, replace);
            ++result_->restored;
            repo_.store.work.did(0); // its bytes were counted as they came
            result_->bytes += e.size;
            tell_new(e);
        } catch (const Corrupt& error) {
            ++result_->damaged;
            say(text("cannot restore ", in_quotes(e.path), ": ", error.what()));
        } catch (const Error& error) {
            if (ends_all(error)) give_up(error.exit != Exit::interrupted);
            fail(error);
        } catch (...) {
            give_up(true);
        } // no memory
        for (; used < e.chunks.size(); ++used)
            chunks_.unpin(repo_.index.readable_places(e.chunks[used]).front().frame);
    }
    /// Ends the run with the exception that is being handled, if it `counts`; wakes the planner, who may wait
    /// for room.
    [[noreturn]] void give_up(bool counts) {
        {
            std::lock_guard lock(words_mutex_);
            if (!lost_ && counts) lost_ = std::current_exception();
        }
        chunks_.abort();
        throw;
    }

    void write_file(Directory& dir, const Entry& e, size_t& used, bool replace) {
        Temporary temporary(dir.fd.get());
        Fd fd(openat(dir.fd.get(), temporary.name.c_str(),
                     O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        struct stat st;
        if (!fd || fstat(fd.get(), &st) != 0) throw system_error("create", e.path);
        flock(fd.get(), LOCK_EX | LOCK_NB); // remove_leftovers() asks for it
        auto hasher = repo_.keys.hasher();
        XXH3_state_t checksum;
        XXH3_64bits_reset(&checksum);
        uint64_t at = 0;
        auto hole = e.holes.begin();
        for (auto& id : e.chunks) {
            auto place = repo_.index.readable_places(id).front();
            auto chunk = chunks_.get(id, place, hasher);
            chunks_.unpin(place.frame);
            ++used;
            repo_.store.work.done += chunk.bytes.size();
            XXH3_64bits_update(&checksum, chunk.bytes.data(), chunk.bytes.size());
            for (View rest = chunk; !rest.empty();) {
                for (; hole != e.holes.end() && hole->offset == at; ++hole) at += hole->length;
                uint64_t room = (hole != e.holes.end() ? hole->offset : e.size) - at;
                if (room == 0) throw Corrupt("it has more content than its size");
                View part = rest.first(size_t(std::min<uint64_t>(rest.size(), room)));
                if (lseek(fd.get(), off_t(at), SEEK_SET) < 0) throw system_error("write", e.path);
                write_full(fd.get(), part, e.path);
                at += part.size();
                rest = rest.subspan(part.size());
            }
        }
        for (; hole != e.holes.end() && hole->offset == at; ++hole) at += hole->length;
        if (at != e.size) throw Corrupt("it has less content than its size");
        if (e.chunks.size() > 1 && XXH3_64bits_digest(&checksum) != e.checksum)
            throw Corrupt("its checksum does not match");
        if (!e.holes.empty() && ftruncate(fd.get(), off_t(e.size)) != 0) throw system_error("write", e.path);
        set_metadata(fd.get(), dir.fd.get(), temporary.name, e);
        if (!fd.close()) throw system_error("write", e.path);
        publish(temporary, dir, e, st, replace); // I7: only now, complete and checked
    }

    // ---- metadata ----

    /// Sets owner, attributes, mode and times, as far as they differ: through `fd`, or by name where that is
    /// -1. What cannot be set is named and counted; the content is restored all the same.
    void set_metadata(int fd, int directory, const std::string& name, const Entry& e) {
        struct stat st;
        auto look = [&] {
            return (fd >= 0 ? fstat(fd, &st) : fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW)) ==
                   0;
        };
        if (!look()) return fail(system_error("look at", e.path));
        bool owned = set_owner(fd, directory, name, st, e);
        set_xattrs(fd, fd >= 0 ? "" : proc_path(directory, name), e);
        if (e.type != Type::symlink) {
            mode_t mode = owned ? e.mode : e.mode & ~mode_t(06000); // not setuid for somebody else
            int bad = look() && (st.st_mode & 07777) == mode ? 0
                      : fd >= 0                              ? fchmod(fd, mode)
                                                             : fchmodat(directory, name.c_str(), mode, 0);
            if (bad) fail(system_error("set the mode of", e.path));
        }
        if (to_time(st.st_mtim) == e.mtime) return;
        struct timespec times[2] = {{0, UTIME_OMIT}, {time_t(e.mtime.seconds), long(e.mtime.ns)}};
        int bad =
            fd >= 0 ? futimens(fd, times) : utimensat(directory, name.c_str(), times, AT_SYMLINK_NOFOLLOW);
        if (bad) fail(system_error("set the time of", e.path));
    }
    /// Whether set_metadata() would have nothing to do, as far as we have the rights.
    bool is_right(int fd, int directory, const std::string& name, const struct stat& st, const Entry& e) {
        auto [uid, user_known] = owner_of(e);
        auto [gid, group_known] = group_of(e);
        bool owned = geteuid() != 0 || (st.st_uid == uid && st.st_gid == gid);
        if ((e.mode & 06000) && e.type == Type::file && !(user_known && group_known))
            return false; // which is said each time
        mode_t mode = (st.st_uid == uid && st.st_gid == gid && user_known && group_known)
                          ? e.mode
                          : e.mode & ~mode_t(06000);
        if (!owned || to_time(st.st_mtim) != e.mtime ||
            (e.type != Type::symlink && (st.st_mode & 07777) != mode))
            return false;
        bool all_read = true;
        auto have = read_xattrs(fd, fd >= 0 ? "" : proc_path(directory, name), e.path, false,
                                [&](const Error&) { all_read = false; });
        auto ours = [](auto& x) { return !is_labels_own(x.first); };
        auto want = local_xattrs(e);
        std::erase_if(have, std::not_fn(ours));
        std::erase_if(want, std::not_fn(ours));
        if (geteuid() != 0)
            std::erase_if(want, [&](auto& x) { return !x.first.starts_with("user.") && !is_acl(x.first); });
        return all_read && have == want;
    }
    /// What the system itself gives to files; whether a file may run with more rights is none of that.
    static bool is_labels_own(std::string_view attribute) {
        return attribute.starts_with("security.") && attribute != "security.capability";
    }

    /// A number here, and whether it is known to be the one that was meant: names count, where there was one.
    struct LocalId {
        uint32_t id;
        bool known;
    };
    LocalId owner_of(const Entry& e) { return local_id(users_, snapshot_.users, e.uid, user_of_name); }
    LocalId group_of(const Entry& e) { return local_id(groups_, snapshot_.groups, e.gid, group_of_name); }
    template <class LookUp>
    LocalId local_id(std::map<uint32_t, LocalId>& cache, const Names& names, uint32_t id, LookUp look_up) {
        std::lock_guard lock(names_mutex_);
        if (auto known = cache.find(id); known != cache.end()) return known->second;
        auto name = names.find(id);
        bool named = name != names.end() && !name->second.empty();
        auto found = named ? look_up(name->second) : std::optional(id);
        return cache[id] = {found.value_or(id), found.has_value()};
    }

    /// Returns whether the file has the owner and group now that it is to have, so that it may run with their
    /// rights.
    bool set_owner(int fd, int directory, const std::string& name, const struct stat& st, const Entry& e) {
        auto [uid, user_known] = owner_of(e);
        auto [gid, group_known] = group_of(e);
        if ((e.mode & 06000) && e.type == Type::file && !(user_known && group_known))
            fail(Error(text(in_quotes(e.path), " is to run with the rights of somebody who has no name here: "
                                               "it gets no more than its mode")));
        auto change = [&](uid_t u, gid_t g) {
            return fd >= 0 ? fchown(fd, u, g) : fchownat(directory, name.c_str(), u, g, AT_SYMLINK_NOFOLLOW);
        };
        if ((st.st_uid == uid && st.st_gid == gid) || change(uid, gid) == 0) return user_known && group_known;
        if (geteuid() == 0) return fail(system_error("set the owner of", e.path)), false;
        bool group = change(uid_t(-1), gid) == 0;
        ++result_->no_owner;
        return group && st.st_uid == uid && user_known && group_known;
    }

    /// The attributes with the numbers that users and groups have here.
    Xattrs local_xattrs(const Entry& e) {
        auto all = e.xattrs;
        for (auto& [name, value] : all)
            if (is_acl(name))
                value = with_acl_ids(value, [&](bool group, uint32_t id) {
                    return group ? local_id(groups_, snapshot_.groups, id, group_of_name).id
                                 : local_id(users_, snapshot_.users, id, user_of_name).id;
                });
        return all;
    }
    void set_xattrs(int fd, const std::string& path, const Entry& e) {
        auto want = local_xattrs(e);
        auto have = read_xattrs(fd, path, e.path, false, [&](const Error& error) { fail(error); });
        auto refused = [&](const std::string& name, int why) {
            bool rights = geteuid() != 0 && (why == EPERM || why == EACCES ||
                                             (why == ENOTSUP && !name.starts_with("user.") && !is_acl(name)));
            if (rights || is_labels_own(name))
                ++result_->no_xattr;
            else
                fail(system_error(text("set the attribute ", show(name), " of"), e.path, why));
        };
        for (auto& old : have) // a directory's default ACL may have given it some
            if (!is_labels_own(old.first) &&
                std::ranges::none_of(want, [&](auto& x) { return x.first == old.first; }) &&
                (fd >= 0 ? fremovexattr(fd, old.first.c_str())
                         : lremovexattr(path.c_str(), old.first.c_str())) != 0)
                refused(old.first, errno);
        for (auto& x : want) {
            if (std::ranges::count(have, x) > 0) continue;
            auto& [name, value] = x;
            if ((fd >= 0 ? fsetxattr(fd, name.c_str(), value.data(), value.size(), 0)
                         : lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0)) != 0)
                refused(name, errno);
        }
    }

    // ---- words ----

    void tell(char change, const std::string& path) {
        std::lock_guard lock(words_mutex_);
        if (options_.dry_run && !options_.json)
            std::cout << (change == '+' ? "would restore " : "would delete ") << show(path) << '\n';
        else
            print_change(change, path, options_.json);
    }
    void tell_new(const Entry& e) {
        if (options_.verbose) tell('+', e.path);
    }
    void would_restore(const Entry& e) {
        tell('+', e.path);
        ++result_->restored;
        result_->bytes += e.size;
    }
    void keep(const std::string& path, const char* why) {
        ++result_->kept;
        say(text(in_quotes(path), " ", why, ": it is kept"));
    }
    /// Whether more than one file cannot be restored. On a full disk all that follows would be fetched for
    /// nothing.
    static bool ends_all(const Error& e) { return e.exit != Exit::failed || e.no_room || e.exhausted; }
    void fail(const Error& e) {
        ++result_->failed;
        say(e.what());
    }

    /// So many directories may be open at once: a quarter of what this process may have.
    static int64_t open_directories_max() {
        struct rlimit files;
        return getrlimit(RLIMIT_NOFILE, &files) == 0
                   ? int64_t(std::clamp<rlim_t>(files.rlim_cur / 4, 16, 1024))
                   : 16;
    }

    Repository& repo_;
    const Snapshot& snapshot_;
    RestoreOptions options_;
    RestoreResult* result_ = nullptr;
    std::exception_ptr lost_; // what ended the first writer that gave up
    std::atomic<bool> tree_damaged_{false};
    std::atomic<int64_t> open_{0}; // directories
    const int64_t open_max_ = open_directories_max();
    uint64_t replaced_ = 0;                                      // files here that differed
    std::map<std::pair<uint64_t, uint64_t>, First> first_links_; // (group, inode)
    std::map<std::pair<dev_t, ino_t>, std::pair<uint64_t, uint64_t>>
        claimed_;        // which of these a file here is
    uint64_t alone_ = 0; // files of one name
    std::string mount_;  // that DEST lies in
    std::vector<Doomed> doomed_;
    std::vector<Entry> late_;
    std::mutex names_mutex_, words_mutex_;
    std::map<uint32_t, LocalId> users_, groups_; // number there, number here
    std::vector<DirectoryPtr> stack_;
    TaskPool wire_;
    ChunkReader chunks_;
    TaskPool writers_;
};

// ============================================================================
// [SECTION] 12. Looking: snapshots, ls, cat, diff, du
// ============================================================================
// Trusted with data.
// Uses: 8, 9. Provides: tables and lists on standard output. Must hold: I10.

std::string local_time(time_t seconds, const char* format) {
    struct tm parts {};
    localtime_r(&seconds, &parts);
    char out[64];
    return {out, strftime(out, sizeof out, format, &parts)};
}

std::string date_time(int64_t ns) { return local_time(time_t(ns / 1'000'000'000), "%Y-%m-%d %H:%M:%S"); }

/// Columns as wide as their widest cell; those in `right` are aligned to the right.
void print_table(const std::vector<std::vector<std::string>>& rows, const std::set<size_t>& right) {
    std::vector<size_t> width;
    auto columns = [](std::string_view s) {
        return size_t(std::ranges::count_if(s, [](char c) { return (uint8_t(c) & 0xc0) != 0x80; }));
    };
    for (auto& row : rows)
        for (size_t i = 0; i < row.size(); ++i) {
            width.resize(std::max(width.size(), row.size()));
            width[i] = std::max(width[i], columns(row[i]));
        }
    for (auto& row : rows) {
        std::string line;
        for (size_t i = 0; i < row.size(); ++i) {
            std::string pad(width[i] - columns(row[i]), ' ');
            if (i > 0) line += "  ";
            line += right.contains(i) ? pad + row[i] : i + 1 < row.size() ? row[i] + pad : row[i];
        }
        std::cout << line << '\n';
    }
}

/// `list`: what these have in common, if there are several lists; `reasons`: words about some of them.
void print_snapshots(const std::vector<const Snapshot*>& snapshots, bool as_json,
                     const std::string& list = "",
                     const std::map<SnapshotId, std::vector<std::string>>& reasons = {}) {
    if (as_json) {
        for (auto i = snapshots.rbegin(); i != snapshots.rend(); ++i) {
            auto& [id, time, host, user, source, version, tags, incomplete, c, users, groups, tree] = **i;
            Json json;
            if (!list.empty()) json.add("list", list);
            json.add("id", hex(id))
                .add("time", json_time(time / 1'000'000'000))
                .add("host", host)
                .add("user", user)
                .add("source", source);
            json.add("tags", tags)
                .add("incomplete", incomplete)
                .add("files", c.files + c.others)
                .add("directories", c.directories)
                .add("others", c.others);
            json.add("bytes", c.bytes)
                .add("new_files", c.new_files)
                .add("changed_files", c.changed_files)
                .add("new_bytes", c.new_bytes);
            json.add("version", version);
            if (auto why = reasons.find(id); why != reasons.end()) json.add("reasons", why->second);
            std::cout << json.line() << '\n';
        }
        return;
    }
    if (!list.empty()) std::cout << list << ": " << snapshots.size() << '\n';
    std::vector<std::vector<std::string>> rows{{"ID", "TIME", "HOST", "SOURCE", "FILES", "SIZE", ""}};
    for (auto i = snapshots.rbegin(); i != snapshots.rend(); ++i) {
        auto& s = **i;
        std::string notes = s.incomplete ? "incomplete" : "";
        for (auto& t : s.tags) notes += (notes.empty() ? "" : " ") + show(t);
        if (auto why = reasons.find(s.id); why != reasons.end())
            for (auto& r : why->second) notes += (notes.empty() ? "" : ", ") + r;
        rows.push_back({short_id(s.id), date_time(s.time), show(s.host), show(s.source),
                        text(s.counts.files + s.counts.others), human_size(s.counts.bytes), notes});
    }
    if (rows.size() > 1 || list.empty()) print_table(rows, {4, 5});
}

/// Which snapshots are meant; what is empty does not count.
struct Choice {
    std::string id;     // its first digits, or "latest"
    std::string source; // "path" or "host:path"
    std::string host, tag;
    int64_t upto = INT64_MAX; // ns since 1970: not newer than this

    bool meets(const Snapshot& s) const {
        auto typed = source.substr(
            0, std::max<size_t>(source.find_last_not_of('/') + 1, 1)); // as a shell completes it
        auto names_source = [&](const std::string& full) {
            return full == source || full == typed || show(full) == typed;
        };
        return (!one() || hex(s.id).starts_with(id)) &&
               (source.empty() || names_source(s.source) || names_source(s.host + ":" + s.source)) &&
               (host.empty() || s.host == host) && (tag.empty() || std::ranges::count(s.tags, tag) > 0) &&
               s.time <= upto;
    }
    bool one() const { return !id.empty() && id != "latest"; }
    bool everything() const {
        return !one() && source.empty() && host.empty() && tag.empty() && upto == INT64_MAX;
    }
};

/// Seconds: 12h, 3d, 2w, 0.
std::optional<int64_t> parse_age(const std::string& s) {
    int64_t n = -1, unit = 0;
    auto end = std::from_chars(s.data(), s.data() + s.size(), n).ptr;
    for (auto [letter, seconds] : {std::pair{'h', 3600}, {'d', 86400}, {'w', 604800}})
        if (end + 1 == s.data() + s.size() && *end == letter) unit = seconds;
    if (n < 0 || n > 1'000'000 || (unit == 0 && s != "0")) return {};
    return n * unit;
}

/// A point in time: "2026-11-20" (its end, or its beginning), "2026-11-20 14:00", or an age such as 3d,
/// 12h, 2w. In ns since 1970; throws Usage.
int64_t parse_time(const std::string& s, bool its_end = true) {
    struct tm parts {};
    bool utc = s.ends_with('Z'); // as --json prints them
    auto ns = [&] {
        return std::clamp<int64_t>(utc ? timegm(&parts) : mktime(&parts), 0,
                                   INT64_MAX / 1'000'000'000 - 100) *
               1'000'000'000;
    };
    for (auto [format, rest] : {std::pair{"%Y-%m-%d", 86399},
                                {"%Y-%m-%d %H:%M", 59},
                                {"%Y-%m-%d %H:%M:%S", 0},
                                {"%Y-%m-%dT%H:%M:%SZ", 0},
                                {"%Y-%m-%dT%H:%M:%S", 0}}) {
        parts = {};
        const char* end = strptime(s.c_str(), format, &parts);
        if (!end || *end) continue;
        parts.tm_isdst = -1;
        auto same_day = parts;
        utc ? timegm(&same_day) : mktime(&same_day);
        if (same_day.tm_mday != parts.tm_mday || same_day.tm_mon != parts.tm_mon)
            throw Usage(text("there is no day ", in_quotes(s)));
        if (!its_end) return ns();
        if (rest == 86399) { // a day may have 23 or 25 hours
            parts.tm_mday += 1;
            return ns() - 1;
        }
        return ns() + (rest + 1) * INT64_C(1'000'000'000) - 1;
    }
    if (auto age = parse_age(s)) return now_ns() - std::min(*age, now_ns() / 1'000'000'000) * 1'000'000'000;
    throw Usage(text("a time is given as 2026-11-20, \"2026-11-20 14:00\", or an age as 12h, 3d, 2w, not ",
                     in_quotes(s)));
}

/// The snapshots that are meant, the newest first.
std::vector<const Snapshot*> chosen_snapshots(const Repository& repo, const Choice& choice,
                                              bool forgotten = false) {
    auto all = repo.snapshots(forgotten);
    std::erase_if(all, [&](auto* s) { return !choice.meets(*s); });
    return all;
}

/// The newest of them. Throws Usage that lists the choice where there is one.
const Snapshot& choose_snapshot(Repository& repo, const Choice& choice) {
    auto all = chosen_snapshots(repo, choice);
    if (all.empty())
        throw Error(choice.everything() ? "the repository holds no snapshot yet"
                                        : text("the repository holds no snapshot ",
                                               choice.one() ? in_quotes(choice.id) : "that was asked for",
                                               choice.source.empty() ? "" : " of " + show(choice.source),
                                               "; see: nfreeze snapshots"),
                    repo.damage.empty() && repo.doubts.empty() ? Exit::failed : Exit::damaged);
    if (choice.one()) {
        if (all.size() > 1)
            throw Usage(text(all.size(), " snapshots begin with ", show(choice.id), ": give more digits"));
        return *all[0];
    }
    std::set<std::string> sources;
    for (auto* s : all) sources.insert(show(s->host) + ":" + show(s->source));
    if (sources.size() > 1) {
        std::string list;
        for (auto& s : sources) list += "\n  --source " + for_shell(s);
        throw Usage("the repository holds several sources; choose one:" + list);
    }
    return *repo.newest(all);
}

struct ListOptions {
    bool details = false, recursive = false, json = false;
    std::vector<std::string> names; // paths or patterns
};

std::string mode_string(const Entry& e) {
    std::string s(1, "-dlpcb"[size_t(e.type)]);
    for (int shift : {6, 3, 0})
        for (int bit : {2, 1, 0}) s += e.mode >> (shift + bit) & 1 ? "rwx"[2 - bit] : '-';
    auto special = [&](unsigned mask, size_t at, char c) {
        if (e.mode & mask) s[at] = s[at] == 'x' ? c : char(c - 32);
    };
    special(04000, 3, 's');
    special(02000, 6, 's');
    special(01000, 9, 't');
    return s + (e.xattrs.empty() ? "" : "+");
}

class Lister {
  public:
    Lister(Repository& repo, const Snapshot& snapshot, const ListOptions& options)
        : repo_(repo), snapshot_(snapshot), options_(options), wire_(2, 8) {}

    /// Prints what is asked for, paths relative to the source. Returns names that are not there.
    std::vector<std::string> run(bool& damaged) {
        std::vector<std::string> missing;
        if (std::ranges::any_of(options_.names, is_pattern)) {
            auto tree = open(damaged);
            missing = for_named(*tree, options_.names, false, [&](const Entry& e, bool inside) {
                if (inside) print(e);
            });
        } else {
            auto tops = options_.names;
            if (tops.empty()) tops.push_back("");
            for (auto& top : tops) top = plain_path(top);
            std::ranges::sort(tops, path_before);
            for (auto& top : tops)
                if (!list(top, damaged)) missing.push_back(top);
        }
        print_table(rows_, {3});
        return missing;
    }

  private:
    /// A directory's content, or a file itself; skips what lies deeper unless all is asked for.
    bool list(const std::string& top, bool& damaged) {
        auto reader = open(damaged);
        auto& tree = *reader;
        tree.seek(top);
        bool found = false;
        for (const Entry* e = tree.next(); e; e = tree.next()) {
            if (path_before(e->path, top)) continue;
            if (!is_within(e->path, top)) break;
            found = true;
            if (e->path == top && e->type == Type::directory) continue;
            auto below = std::string_view(e->path).substr(e->path == top || top.empty() ? 0 : top.size() + 1);
            if (!options_.recursive && e->path != top && below.find('/') != below.npos) continue;
            print(*e);
            if (e->type == Type::directory && !options_.recursive)
                tree.seek(e->path + '\x01'); // behind all in it
        }
        return found;
    }
    std::unique_ptr<TreeReader> open(bool& damaged) {
        auto tree = std::make_unique<TreeReader>(repo_, wire_, snapshot_);
        tree->on_damage = [&](const std::string& what) {
            say(what);
            damaged = true;
        };
        return tree;
    }
    void print(const Entry& e) {
        if (options_.json) {
            static constexpr const char* types[] = {"file", "directory", "symlink",
                                                    "fifo", "character", "block"};
            Json json;
            json.add("path", e.path)
                .add("type", std::string(types[size_t(e.type)]))
                .add("mode", text(std::oct, e.mode));
            json.add("uid", e.uid).add("gid", e.gid);
            json.add("user", owner(snapshot_.users, e.uid))
                .add("group", owner(snapshot_.groups, e.gid))
                .add("size", e.size);
            std::cout << json.add("mtime", json_time(e.mtime.seconds)).add("target", e.target).line() << '\n';
            return;
        }
        if (!options_.details) {
            std::cout << show(e.path) << '\n';
            return;
        }
        std::string size = e.type == Type::character || e.type == Type::block
                               ? text(major(dev_t(e.device)), ",", minor(dev_t(e.device)))
                           : e.type == Type::symlink ? text(e.target.size())
                                                     : text(e.size);
        rows_.push_back({mode_string(e), owner(snapshot_.users, e.uid), owner(snapshot_.groups, e.gid), size,
                         local_time(e.mtime.seconds, "%Y-%m-%d %H:%M"),
                         show(e.path) + (e.type == Type::symlink ? " -> " + show(e.target) : "")});
        if (rows_.size() < 10000) return; // aligned in blocks, so that memory stays bounded
        print_table(rows_, {3});
        rows_.clear();
    }
    static std::string owner(const Names& names, uint32_t id) {
        auto at = names.find(id);
        return at == names.end() || at->second.empty() ? text(id) : show(at->second);
    }
    Repository& repo_;
    const Snapshot& snapshot_;
    ListOptions options_;
    TaskPool wire_;
    std::vector<std::vector<std::string>> rows_;
};

struct Version {
    const Snapshot* first; // that has it
    Entry entry;
};
/// Every content that files at, below or matching `names` ever had, the oldest first, by path. Names
/// that no snapshot has stay in `names`.
std::map<std::string, std::vector<Version>> find_versions(Repository& repo,
                                                          const std::vector<const Snapshot*>& snapshots,
                                                          std::vector<std::string>& names, bool& damaged) {
    TaskPool wire(2, 8);
    auto wanted = names;
    std::map<std::string, std::vector<Version>> found;
    for (auto s = snapshots.rbegin(); s != snapshots.rend(); ++s) {
        stop_if_asked();
        try {
            TreeReader tree(repo, wire, **s);
            tree.on_damage = [](auto& what) { throw Corrupt(what); };
            auto missing = for_named(tree, wanted, false, [&](const Entry& e, bool inside) {
                if (!inside || e.type == Type::directory) return;
                auto& versions = found[e.path];
                if (versions.empty() || difference(e, versions.back().entry) == 'M')
                    versions.push_back({*s, e});
            });
            std::erase_if(names, [&](auto& name) { return std::ranges::count(missing, name) == 0; });
        } catch (const Corrupt& e) {
            say(text("snapshot ", short_id((*s)->id), ": ", e.what()));
            damaged = true;
        }
    }
    return found;
}

struct Space {
    uint64_t files = 0, bytes = 0;
};
/// What each directory (or file) right below `top` holds of a snapshot, of files that changed since then.
std::map<std::string, Space> disk_usage(Repository& repo, const Snapshot& snapshot, const std::string& top,
                                        int64_t since_s, bool& damaged) {
    TaskPool wire(2, 8);
    TreeReader tree(repo, wire, snapshot);
    tree.on_damage = [&](auto& what) {
        say(what);
        damaged = true;
    };
    std::map<std::string, Space> found;
    auto missing = for_selected(tree, {top}, [&](const Entry& e, bool inside) {
        if (!inside || e.type == Type::directory || std::max(e.mtime.seconds, e.ctime.seconds) < since_s)
            return;
        auto end = e.path == top ? e.path.size() : e.path.find('/', top.empty() ? 0 : top.size() + 1);
        auto& usage = found[e.path.substr(0, end) + (end == e.path.npos || end == e.path.size() ? "" : "/")];
        ++usage.files;
        usage.bytes += e.size;
    });
    if (!missing.empty())
        throw Error(text("the snapshot has no ", in_quotes(top)), damaged ? Exit::damaged : Exit::failed);
    return found;
}

/// For each snapshot the stored bytes that no other one needs: what a prune frees if it alone is forgotten.
/// Memory: about 64 bytes for each chunk.
std::map<SnapshotId, uint64_t> unique_bytes(Repository& repo, const std::vector<const Snapshot*>& snapshots,
                                            bool& damaged) {
    static const Snapshot several{};
    std::map<ChunkId, const Snapshot*> owners; // of chunks, or `several`
    auto own = [&](const ChunkId& id, const Snapshot* owner) {
        auto& o = owners[id];
        o = !o || o == owner ? owner : &several;
        return o;
    };
    std::set<ChunkId> done; // parts of several trees, which need not be read again
    TaskPool wire(2, 8);
    for (bool parts : {true, false}) // who has which part of a tree, then what is in these
        for (auto* s : snapshots) {
            stop_if_asked();
            try {
                TreeReader tree(repo, wire, *s);
                if (parts) {
                    for (auto& id : s->tree) own(id, s);
                    tree.leave_out([&](auto& id) { return own(id, s), true; });
                    continue;
                }
                const Snapshot* owner = s;
                tree.leave_out([&](auto& id) { return owners[id] == &several && !done.insert(id).second; });
                tree.on_damage = [](auto& what) { throw Corrupt(what); };
                tree.on_chunk = [&](auto& id) { owner = owners[id]; };
                while (auto* e = tree.next())
                    for (auto& id : e->chunks) own(id, owner);
            } catch (const Corrupt& e) {
                say(text("snapshot ", short_id(s->id), ": ", e.what()));
                damaged = true;
            }
        }
    std::map<SnapshotId, uint64_t> unique;
    for (auto& [id, owner] : owners) {
        auto places = repo.index.places(id);
        if (owner == &several || places.empty()) continue;
        auto& f = repo.index.frame(places[0].frame);
        unique[owner->id] += uint64_t(places[0].length) * f.sealed / std::max(f.raw, 1u);
    }
    return unique;
}

/// Prints what differs between two snapshots: '+' new, '-' gone, else difference(). Returns whether
/// both could be read whole.
bool print_difference(Repository& repo, const Snapshot& from, const Snapshot& to, bool as_json) {
    TaskPool wire(kConnections, 8);
    TreeReader before(repo, wire, from), after(repo, wire, to);
    bool whole = true;
    before.on_damage = after.on_damage = [&](auto& what) {
        say(what);
        whole = false;
    };
    auto* a = before.next();
    auto* b = after.next();
    while (a || b) {
        stop_if_asked();
        auto order = !a   ? std::strong_ordering::greater
                     : !b ? std::strong_ordering::less
                          : compare_paths(a->path, b->path);
        auto& path = order > 0 ? b->path : a->path;
        char mark = order < 0 ? '-' : order > 0 ? '+' : difference(*a, *b);
        if (mark != ' ') print_change(mark, path, as_json);
        bool next_a = order <= 0, next_b = order >= 0;
        if (next_a) a = before.next();
        if (next_b) b = after.next();
    }
    return whole;
}

/// Writes a file of a snapshot to standard output. Throws Error.
void print_file(Repository& repo, const Snapshot& snapshot, const std::string& path) {
    TaskPool wire(kConnections, 8);
    TreeReader tree(repo, wire, snapshot);
    bool damaged = false;
    tree.on_damage = [&](auto& what) {
        say(what);
        damaged = true;
    };
    std::optional<Entry> found;
    for_selected(tree, {path}, [&](const Entry& e, bool) {
        if (e.path == path) found = e;
    });
    if (!found)
        throw Error(text("the snapshot has no ", in_quotes(path)), damaged ? Exit::damaged : Exit::failed);
    if (found->type != Type::file) throw Error(text(in_quotes(path), " is not a file"));
    ChunkReader chunks(repo, wire, kReadAhead);
    auto hasher = repo.keys.hasher();
    const Bytes zeros(MiB);
    uint64_t at = 0;
    auto hole = found->holes.begin();
    auto fill_hole = [&] {
        for (; hole != found->holes.end() && hole->offset == at; ++hole)
            for (uint64_t left = hole->length, n; left > 0; left -= n, at += n) {
                n = std::min<uint64_t>(left, zeros.size());
                write_full(1, View(zeros).first(size_t(n)), "standard output");
            }
    };
    chunks.read_all(found->chunks, hasher, [&](size_t, View rest) {
        while (!rest.empty()) {
            fill_hole();
            uint64_t room = (hole != found->holes.end() ? hole->offset : found->size) - at;
            View part = rest.first(size_t(std::min<uint64_t>(rest.size(), room)));
            if (part.empty()) throw Corrupt(text(in_quotes(path), " has more content than its size"));
            write_full(1, part, "standard output");
            at += part.size();
            rest = rest.subspan(part.size());
        }
    });
    fill_hole();
    if (at != found->size) throw Corrupt(text(in_quotes(path), " has less content than its size"));
}

// ============================================================================
// [SECTION] 13. Care: check, repair, prune, forget
// ============================================================================
// Trusted with data.
// Uses: 8, 9, 10, 12. Provides: whether everything is there and what it was; saving what can be had;
// which snapshots may go; making room. Must hold: I4, I5, I10: a check writes nothing, forgetting deletes
// nothing.

/// How much of the packs a check reads: all, a share or a number of bytes by chance, one of several
/// parts, which together are all, those that are not older, those of this run, or some files by chance.
struct Sample {
    double share = 1;
    uint64_t bytes = UINT64_MAX;
    uint64_t part = 0, parts = 1;
    int64_t newer = INT64_MAX; // seconds of age
    bool of_this_run = false;
    uint64_t files = 0; // these are read, not packs
    static constexpr uint64_t kAllFiles = UINT64_MAX;

    std::vector<const PackInfo*> of(Repository& repo) const {
        std::set<Hash> old;
        if (newer != INT64_MAX)
            for (auto& p : repo.store.list(Name::packs))
                if (repo.server_time() - std::clamp<int64_t>(p.mtime, 0, kTimeMax) > newer)
                    old.insert(p.name.hash);
        std::vector<const PackInfo*> chosen;
        uint64_t all = 0;
        for (auto& p : repo.index.packs()) {
            uint64_t number = 0;
            std::memcpy(&number, p.name.data(), sizeof number);
            if (!p.present || number % parts != part || (of_this_run && p.seq != kNone) ||
                old.contains(p.name))
                continue;
            chosen.push_back(&p);
            all += p.size;
        }
        std::ranges::shuffle(chosen, std::mt19937(std::random_device()()));
        uint64_t sum = 0, limit = std::min(bytes, uint64_t(double(all) * share));
        auto end =
            std::ranges::find_if(chosen, [&](auto* p) { return std::exchange(sum, sum + p->size) >= limit; });
        chosen.erase(end, chosen.end());
        return chosen;
    }
};

/// Reads the trees of several snapshots, each part that they share once.
class TreeWalk {
  public:
    TreeWalk(Repository& repo, TaskPool& wire) : repo_(repo), wire_(wire) {}

    /// Calls `part` with the id of each chunk that the tree or its list lies in, `entry` with each entry,
    /// which returns false for one that is to come again with another snapshot, and `damage` with what
    /// cannot be read, in words.
    void run(const Snapshot& snapshot, const std::function<void(const ChunkId&)>& part,
             const std::function<bool(const Entry&)>& entry,
             const std::function<void(const std::string&)>& damage) {
        std::vector<ChunkId> whole,
            since; // parts of this tree; those since the entry before, its own included
        std::set<ChunkId> again;
        bool damaged = false;
        stop_if_asked();
        try {
            std::ranges::for_each(snapshot.tree, part);
            TreeReader tree(repo_, wire_, snapshot);
            tree.leave_out([&](auto& id) {
                part(id);
                return done_.contains(id);
            });
            tree.on_damage = [&](auto& what) {
                damage(what);
                damaged = true;
            };
            tree.on_chunk = [&](auto& id) {
                whole.push_back(id);
                since.push_back(id);
            };
            while (auto* e = tree.next()) {
                stop_if_asked();
                repo_.store.work.did(0);
                // A file that continues in another part must be read with that.
                if (!entry(*e) || e->chunks.size() > kIdsPerRecord) again.insert(since.begin(), since.end());
                since.erase(since.begin(), since.end() - 1);
            }
        } catch (const Corrupt& e) {
            damage(text("the list of files cannot be read: ", e.what()));
            damaged = true;
        }
        if (damaged) return;
        for (auto& id : whole)
            if (!again.contains(id)) done_.insert(id);
    }

  private:
    Repository& repo_;
    TaskPool& wire_;
    std::set<ChunkId> done_;
};

/// A pack's bytes. Throws Corrupt where the server does not give them.
Foreign read_pack(Repository& repo, const PackInfo& p) {
    try {
        return repo.store.read(pack_name(p.name), 0, p.size);
    } catch (const Error& e) {
        if (e.exit != Exit::failed || e.exhausted) throw;
        throw Corrupt(e.what());
    }
}

/// Calls `f(frame, chunk, bytes)` for every chunk of a frame that opens, checked against its id. Returns
/// how many chunks cannot be had.
template <class F>
size_t open_frames(Repository& repo, const Table& table, const Salt& salt, const Foreign& bytes, F f) {
    Opener opener(repo.keys, kPackLabel, salt);
    auto hasher = repo.keys.hasher();
    size_t at = kHead, lost = 0;
    for (size_t i = 0; i < table.size(); at += table[i++].sealed) {
        auto plain = opener.open(i, bytes, at, table[i].sealed);
        Bytes raw;
        try {
            if (plain) raw = decompress(std::move(*plain), kFrameMax);
        } catch (const Corrupt&) {
        }
        View rest = raw;
        for (auto& c : table[i].chunks) {
            View chunk = rest.first(std::min<size_t>(c.length, rest.size()));
            rest = rest.subspan(chunk.size());
            if (chunk.size() == c.length && hasher(chunk) == c.id)
                f(table[i], c, chunk);
            else
                ++lost;
        }
    }
    return lost;
}

/// The same for a whole pack. Returns its table; throws Corrupt unless all of it is what it was.
template <class F> Table open_pack(Repository& repo, const PackInfo& p, const Foreign& bytes, F f) {
    auto name = pack_name(p.name);
    if (!Keys::is_whole(bytes, name))
        throw Corrupt(name.path() + " is not what it was when it was stored"); // I1
    auto salt = Keys::salt(bytes);
    auto table = Opener(repo.keys, kPackLabel, salt).open_table(bytes, name.path()).first;
    if (open_frames(repo, table, salt, bytes, f) > 0)
        throw Corrupt(name.path() + " holds a chunk that is not what its id says");
    return table;
}

struct CheckResult {
    uint64_t snapshots = 0, files = 0, packs_read = 0, bytes_read = 0;
    std::atomic<uint64_t> errors{0};
};

class Check {
  public:
    /// Memory: two packs for each connection, of which it uses four at most.
    Check(Repository& repo, int connections)
        : repo_(repo), tree_wire_(2, 8), wire_(std::min(connections, 4), 0) {}

    /// Names everything that is wrong; `sample`: what to read of the packs, nothing if null.
    void run(const Sample* sample, bool quiet, CheckResult& result) {
        result_ = &result;
        wanted_files_ = sample ? sample->files : 0;
        if (sample && wanted_files_ == 0) read_packs(sample->of(repo_), quiet);
        if (sample && sample->of_this_run) return;
        repo_.store.work.begin("looking at the snapshots");
        for (auto* s : repo_.snapshots()) check_tree(*s);
        repo_.store.work.pause();
        read_files(quiet);
        for (auto& p : repo_.index.packs())
            if (!p.present && !p.condemned && !repo_.index.deleted.contains(p.name))
                say(text(pack_name(p.name).path(), " is missing or has another size than it had",
                         result.errors > 0 ? "" : "; nothing needs it any more"));
        if (auto& u = repo_.unnamed; u.count > 0)
            say(text(u.count, u.count == 1 ? " pack" : " packs", " that no segment of the index names, ",
                     (repo_.server_time() - repo_.unnamed_since) / 3600,
                     " hours old: of a run that is not over or was interrupted, or the newest of the index "
                     "is gone; repair takes in what is whole"));
    }

  private:
    void wrong(const std::string& what) {
        ++result_->errors;
        say(what);
    }

    void read_packs(const std::vector<const PackInfo*>& packs, bool quiet) {
        uint64_t sum = 0;
        for (auto* p : packs) sum += p->size;
        if (!quiet) std::cout << "reading " << packs.size() << " packs, " << human_size(sum) << std::endl;
        repo_.store.work.begin_reading("reading packs", sum);
        listed_ = repo_.index.chunks_listed();
        for (auto* p : packs) {
            stop_if_asked();
            wire_.push([this, p] {
                Foreign bytes;
                try {
                    bytes = read_pack(repo_, *p);
                    auto own = open_pack(repo_, *p, bytes, [](auto&, auto&, auto) {});
                    if (!is_listed(*p, own))
                        wrong(pack_name(p->name).path() +
                              " is not as the index has it: move index/ away, then see: nfreeze help repair");
                } catch (const Corrupt& e) {
                    wrong(e.what());
                    mark(*p, bytes);
                }
                repo_.store.work.done += p->size;
            });
        }
        wire_.drain();
        result_->packs_read = packs.size();
        result_->bytes_read = sum;
    }
    /// Notes what does not open (I1) of a damaged pack. Looks at the whole index.
    void mark(const PackInfo& pack, const Foreign& bytes) {
        std::lock_guard lock(mutex_);
        auto table = repo_.index.table_of(pack);
        std::set<ChunkId> good;
        open_frames(repo_, table, pack.salt, bytes, [&](auto&, auto& c, View) { good.insert(c.id); });
        for (auto& f : table)
            for (auto& c : f.chunks)
                for (auto& p : repo_.index.places(c.id))
                    if (!good.contains(c.id) && &repo_.index.pack(repo_.index.frame(p.frame)) == &pack)
                        bad_.insert(p.frame);
    }
    /// Whether the index has just the chunks of a pack's own table, where they are.
    bool is_listed(const PackInfo& pack, const Table& own) {
        size_t chunks = 0;
        for (size_t number = 0; number < own.size(); ++number) {
            uint32_t offset = 0;
            for (auto& c : own[number].chunks) {
                auto is_here = [&](auto& p) {
                    auto& f = repo_.index.frame(p.frame);
                    return &repo_.index.pack(f) == &pack && f.number == number && p.offset == offset &&
                           p.length == c.length;
                };
                if (std::ranges::none_of(repo_.index.places(c.id), is_here)) return false;
                offset += c.length;
                ++chunks;
            }
        }
        return chunks == listed_[size_t(&pack - repo_.index.packs().data())];
    }
    /// A choice by chance of the files that come by (Vitter's algorithm R).
    void maybe_choose(const Entry& e, const std::string& where) {
        if (wanted_files_ == 0 || e.chunks.empty()) return;
        if (chosen_files_.size() < wanted_files_)
            chosen_files_.emplace_back(e, where);
        else if (auto at = chance_() % ++files_seen_; at < wanted_files_)
            chosen_files_[at] = {e, where};
        files_seen_ = std::max(files_seen_, chosen_files_.size());
    }
    void read_files(bool quiet) {
        uint64_t sum = 0;
        for (auto& [e, where] : chosen_files_) sum += e.size;
        if (!quiet && !chosen_files_.empty())
            std::cout << "reading " << chosen_files_.size() << " files, " << human_size(sum) << std::endl;
        ChunkReader chunks(repo_, tree_wire_, kReadAhead);
        auto hasher = repo_.keys.hasher();
        repo_.store.work.begin("reading files", sum);
        chunks.shown = ChunkReader::reads;
        for (auto& [e, where] : chosen_files_) {
            try {
                XXH3_state_t checksum;
                XXH3_64bits_reset(&checksum);
                chunks.read_all(e.chunks, hasher, [&](size_t, View chunk) {
                    XXH3_64bits_update(&checksum, chunk.data(), chunk.size());
                });
                if (e.chunks.size() > 1 && XXH3_64bits_digest(&checksum) != e.checksum)
                    throw Corrupt("its checksum does not match");
            } catch (const Corrupt& error) {
                wrong(text(in_quotes(e.path), " cannot be read", where, ": ", error.what()));
            }
            repo_.store.work.done += e.size;
            result_->bytes_read += e.size;
        }
    }

    bool has_its_size(const Entry& e) {
        uint64_t size = 0;
        for (auto& id : e.chunks) size += repo_.index.places(id)[0].length;
        for (auto& h : e.holes) size += h.length;
        return e.type != Type::file || size == e.size;
    }
    /// Whether a chunk has a place that is not known to be bad.
    bool is_there(const ChunkId& id) {
        return std::ranges::any_of(repo_.index.places(id), [&](auto& p) { return !bad_.contains(p.frame); });
    }

    /// Names the files of a snapshot that cannot be restored.
    void check_tree(const Snapshot& snapshot) {
        ++result_->snapshots;
        auto in_snapshot = text(" (snapshot ", short_id(snapshot.id), ")");
        walk_.run(
            snapshot, [](auto&) {},
            [&](const Entry& e) {
                ++result_->files;
                bool good = std::ranges::all_of(e.chunks, [&](auto& id) { return is_there(id); });
                if (!good)
                    wrong(text("a part of ", in_quotes(e.path), " is lost or damaged", in_snapshot));
                else if (!has_its_size(e))
                    wrong(text(in_quotes(e.path), " has content of another size than its own", in_snapshot));
                else
                    maybe_choose(e, in_snapshot);
                return good;
            },
            [&](auto& what) { wrong(what + in_snapshot); });
    }

    Repository& repo_;
    CheckResult* result_ = nullptr;
    std::mutex mutex_;
    std::set<uint32_t> bad_;     // frames
    std::vector<size_t> listed_; // how many chunks, for each pack
    uint64_t wanted_files_ = 0, files_seen_ = 0;
    std::vector<std::pair<Entry, std::string>> chosen_files_; // with the snapshot, in words
    std::mt19937_64 chance_{std::random_device()()};
    TaskPool tree_wire_, wire_;
    TreeWalk walk_{repo_, tree_wire_};
};

/// Which snapshots a forget keeps: the newest of each of so many hours, days and so on that have any.
struct Keep {
    struct Rule {
        const char *option, *period; // as strftime writes it: equal for snapshots of the same period
        int number = 0;
    };
    std::vector<Rule> rules{{"keep-last", nullptr},     {"keep-hourly", "%Y-%m-%d %H %z"},
                            {"keep-daily", "%Y-%m-%d"}, {"keep-weekly", "%G-%V"},
                            {"keep-monthly", "%Y-%m"},  {"keep-yearly", "%Y"}};
    int64_t since = INT64_MAX; // ns since 1970: all that are not older
    std::vector<std::string> tags;

    bool any() const {
        return since != INT64_MAX || !tags.empty() ||
               std::ranges::any_of(rules, [](auto& r) { return r.number > 0; });
    }
    using Reasons = std::map<SnapshotId, std::vector<std::string>>;
    /// `group`: the snapshots of one host and source, the newest first; those from the future stay, and
    /// count for no rule: a clock that was wrong once must not let the others go. Nor does the newest ever
    /// go. Returns which are kept, and why.
    Reasons chosen(const std::vector<const Snapshot*>& group, int64_t now) const {
        Reasons kept;
        bool newest = true;
        for (auto* s : group) {
            if (dated_after(*s, now))
                kept[s->id].push_back("dated after now");
            else if (std::exchange(newest, false))
                kept[s->id].push_back("newest");
            if (s->time >= since) kept[s->id].push_back("keep-within");
            if (std::ranges::any_of(tags, [&](auto& t) { return std::ranges::count(s->tags, t) > 0; }))
                kept[s->id].push_back("keep-tag");
        }
        for (auto& rule : rules) {
            std::string last;
            int left = rule.number;
            for (auto* s : group) {
                if (dated_after(*s, now)) continue;
                auto period =
                    rule.period ? local_time(time_t(s->time / 1'000'000'000), rule.period) : hex(s->id);
                if (left > 0 && period != std::exchange(last, period)) {
                    kept[s->id].push_back(rule.option);
                    --left;
                }
            }
        }
        return kept;
    }
};

struct RepairResult {
    uint64_t read = 0, adopted = 0, snapshots = 0, damaged = 0; // packs
    uint64_t unreadable = 0;      // packs of which nobody can tell what was in them
    uint64_t saved = 0, lost = 0; // chunks
};

/// Reads all packs. Those that a damaged index does not name are listed anew, with the snapshots that ride
/// in them; every chunk that can be had of a damaged pack is stored again, and the pack counts no more:
/// what is lost is sent again by the next backup of what still has it. Deletes nothing.
class Repair {
  public:
    Repair(Repository& repo, int connections)
        : repo_(repo), packer_(repo, connections, kCheckpoint), wire_(std::min(connections, 4), 0) {}

    RepairResult run() {
        index_damaged_ = !repo_.damage.empty() || !repo_.doubts.empty();
        repo_.store.work.begin("reading packs");
        auto listing = repo_.store.list(Name::packs);
        repo_.index.see(listing);
        for (auto& listed : listing) {
            auto& name = listed.name.hash;
            std::unique_lock lock(mutex_);
            if (repo_.index.deleted.contains(name)) {
                deleted_.push_back(listed);
                continue;
            }
            auto* known = repo_.index.find_pack(name);
            if (!known && repo_.index.condemned.contains(name)) continue; // somebody is about to delete it
            PackInfo pack = known ? *known : PackInfo{};
            lock.unlock();
            pack.name = name;
            ++result_.read;
            for (auto* sum : {&repo_.store.work.expected, &repo_.store.work.planned, &repo_.store.work.line})
                *sum += listed.size;
            wire_.push([this, pack, listed_size = listed.size, is_known = known != nullptr] {
                read(pack, listed_size, is_known);
                repo_.store.work.done += listed_size;
            });
        }
        wire_.drain();
        rescue_deleted();
        packer_.flush();
        commit();
        return result_;
    }

  private:
    /// Where something is missing, what a prune or repair recorded as deleted and is there all the same
    /// serves again.
    void rescue_deleted() {
        if (deleted_.empty() || !something_missing()) return;
        for (auto& o : deleted_) {
            stop_if_asked();
            PackInfo pack;
            pack.name = o.name.hash;
            pack.size = std::min<uint64_t>(o.size, kPackMax);
            try {
                auto bytes = read_pack(repo_, pack);
                open_pack(repo_, pack, bytes, [&](const FrameInfo& f, const Chunk& c, View chunk) {
                    if (f.kind == Kind::snapshot || repo_.index.rely_on(c.id)) return;
                    packer_.put(f.kind, chunk);
                    ++result_.saved;
                });
            } catch (const Corrupt&) {
            } // it counts for nothing as it is
        }
    }
    bool something_missing() {
        bool missing = false;
        TreeWalk walk(repo_, wire_);
        for (auto* s : repo_.snapshots())
            walk.run(
                *s, [](auto&) {},
                [&](const Entry& e) {
                    missing |= std::ranges::any_of(e.chunks,
                                                   [&](auto& id) { return repo_.index.places(id).empty(); });
                    return true;
                },
                [&](auto&) { missing = true; });
        return missing;
    }
    /// `listed_size`: bytes, by a listing, which may be wrong; a known pack is as large as it was.
    void read(PackInfo pack, uint64_t listed_size, bool known) {
        stop_if_asked();
        if (!known) pack.size = listed_size;
        std::vector<Bytes> snapshots;
        auto look = [&](const FrameInfo& f, const Chunk&, View bytes) {
            if (f.kind == Kind::snapshot) snapshots.emplace_back(bytes.begin(), bytes.end());
        };
        Foreign bytes;
        for (int attempt = 1;; ++attempt) {
            try {
                bytes = repo_.store.read(pack_name(pack.name), 0, std::min<uint64_t>(pack.size, kPackMax));
                pack.table = open_pack(repo_, pack, bytes, look);
                break;
            } catch (const Corrupt& e) {
                snapshots.clear();
                if (attempt == 1 && bytes.size() == 0)
                    pack.size = listed_size; // it has lost its end, or the listing is wrong
                if (attempt == 1) continue;  // it may have been the way, not the disk
                say(e.what());
                if (!known || bytes.size() > 0) return save(pack, known, bytes);
                std::lock_guard lock(mutex_);
                ++result_.unreadable;
                return;
            } catch (const Error& e) {
                if (e.exit != Exit::failed || e.exhausted) throw;
                if (attempt == 1) continue;
                say(text(e.what(), "; what is in it is unknown, so nothing was changed about it"));
                std::lock_guard lock(mutex_);
                ++result_.unreadable;
                return;
            }
        }
        std::lock_guard lock(mutex_);
        if (known) return;
        pack.salt = Keys::salt(bytes);
        pack.size = bytes.size(); // what hashes to its name, whatever the server lists
        pack.present = true;
        put_record(records_, Record::pack_added, encode_pack(pack));
        repo_.index.add_pack(std::move(pack), {});
        ++result_.adopted;
        for (auto& s : snapshots) adopt(s);
        if (records_.size() > kRecordsMax) packer_.checkpoint(records_.take());
    }
    /// Stores again what opens of a damaged pack.
    void save(const PackInfo& pack, bool known, const Foreign& bytes) {
        std::lock_guard lock(mutex_);
        Table table;
        Salt salt = pack.salt;
        try {
            if (known) {
                table = repo_.index.table_of(*repo_.index.find_pack(pack.name));
            } else {
                salt = Keys::salt(bytes);
                table =
                    Opener(repo_.keys, kPackLabel, salt).open_table(bytes, pack_name(pack.name).path()).first;
            }
        } catch (const Error&) {
        } // without a table nothing of it can be found, whatever its version seems to be
        result_.unreadable +=
            table.empty() &&
            !Keys::is_whole(bytes, pack_name(pack.name)); // one that is whole (I1) never was a pack
        result_.lost +=
            open_frames(repo_, table, salt, bytes, [&](const FrameInfo& f, const Chunk&, View chunk) {
                if (f.kind == Kind::snapshot && !known) adopt(chunk);
                packer_.put(f.kind, chunk, true);
                ++result_.saved;
            });
        ++result_.damaged;
        if (known) gone_.push_back(pack.name); // any other may be one that somebody is still sending
    }
    void adopt(View record) {
        Snapshot s;
        try {
            s = decode_snapshot(record);
        } catch (const Corrupt& e) {
            return say(e.what());
        }
        if (repo_.index.forgotten.contains(s.id) || !repo_.index.snapshots.emplace(s.id, s).second) return;
        adopted_.push_back(s);
        ++result_.snapshots;
    }
    /// Snapshots come last (I3), and only now, when what opened of them is durable, do damaged packs count
    /// no more (I10). What the index has lost is accepted as lost.
    void commit() {
        for (auto& s : adopted_) put_record(records_, Record::snapshot_added, encode_snapshot(s));
        for (auto& name : repo_.lost_segments()) {
            put_since(records_, Record::segment_superseded, name);
            repo_.index.superseded.emplace(name, Index::kJustNow);
        }
        for (auto& name : gone_) {
            put_since(records_, Record::pack_condemned, name);
            put_record(records_, Record::pack_deleted,
                       name); // nobody looks for anything there; prune removes it
            repo_.index.condemn(name, Index::kJustNow);
            repo_.index.remove(name);
        }
        packer_.checkpoint(records_.view());
        if (index_damaged_ && records_.size() == 0)
            repo_.commit([] { return Bytes(); }); // notes what is torn; a segment in any case
        repo_.damage.clear();
        repo_.doubts.clear();
    }

    Repository& repo_;
    std::mutex mutex_; // guards all but the store
    RepairResult result_;
    bool index_damaged_ = false;
    Writer records_; // of packs that are listed anew
    std::vector<Snapshot> adopted_;
    std::vector<Hash> gone_;          // damaged packs
    std::vector<ObjectInfo> deleted_; // that are there although they were recorded as deleted
    Packer packer_;
    TaskPool wire_; // goes first: its tasks use all the others
};

struct PruneOptions {
    double max_unused = 0.1;   // share of what is needed that may stay unused rather than be copied, and
    uint64_t unused_bytes = 0; // bytes that may
    uint64_t max_repack = UINT64_MAX; // bytes to copy, at most
    int64_t grace = 3 * 24 * 3600;    // seconds between condemning and deleting
    int64_t now = 0; // seconds, by our clock, for what a plan shows as due; 0: the server's alone counts
    Clock::duration patience =
        std::chrono::seconds(1); // before it looks again at a segment that is not whole
    int connections = kConnections;
};

/// Makes room, in two steps that are usually two runs. Packs are condemned: what is worth keeping in them
/// is copied to new ones first, and nobody relies on them from then on, but all may still be read. A grace
/// period later they are deleted (I4). No locks: a backup that relied on one when it was condemned
/// notices before it commits (I5), if only its last look at index/ and the end of its commit are not
/// a grace period apart; and what snapshots need is worked out anew before anything is deleted.
class Prune {
  public:
    struct Sum {
        uint64_t packs = 0, bytes = 0;
        void add(uint64_t size) {
            ++packs;
            bytes += size;
        }
    };
    struct Plan {
        Sum all, condemn, waiting, due, young;
        uint64_t used = 0, copy = 0; // bytes
        bool empty() const { return condemn.packs + due.packs + waiting.packs + copy == 0; }
    };

    Prune(Repository& repo, const PruneOptions& options)
        : repo_(repo), options_(options), wire_(options.connections, 64),
          packer_(repo, options.connections, kCheckpoint) {}

    /// Works out what is needed and what is not. Throws Error where that cannot be known.
    Plan plan() {
        look();
        Plan plan;
        for (auto& [name, pack] : listed()) plan.all.add(pack.size);
        for (auto& place : repo_.index.relied_but_condemned()) plan.copy += place.length;
        choose(plan);
        auto due_by =
            std::max(repo_.server_time(),
                     options_.now); // what the server's clock says by now it tells when something is written
        for (auto& [name, pack] : listed())
            if (is_doomed(name)) (is_due(name, due_by) ? plan.due : plan.waiting).add(pack.size);
        for (auto& name : unrecorded()) (is_due(name, due_by) ? plan.due : plan.waiting).add(0);
        for (auto& [name, since] : repo_.index.condemned)
            if (is_due(name, due_by)) planned_.insert(name);
        repo_.store.work.pause();
        return plan;
    }

    /// Does it: condemns, and deletes what was condemned a grace period ago. Returns what was deleted.
    Sum run() {
        try {
            Writer records;
            for (auto& name : chosen_) {
                repo_.index.condemn(name, Index::kJustNow);
                put_since(records, Record::pack_condemned, name);
            }
            copy(records.view());
            if (chosen_.empty())
                repo_.commit([] { return Bytes(); }); // so that the server says what time it is
            for (int round = 0; look(); ++round) {
                if (round == kRounds)
                    throw Error("others condemn what is copied as fast as it is copied; nothing was deleted");
                copy({});
            }
        } catch (const Error& e) {
            packer_.salvage(e);
            throw;
        }
        return remove_due();
    }

  private:
    /// What the snapshots need of condemned packs is stored anew (I5), and these records are committed.
    void copy(View records) {
        uint64_t bytes = 0;
        for (auto& place : repo_.index.relied_but_condemned()) bytes += place.length;
        repo_.store.work.begin("copying what is needed", bytes);
        repo_.store.work.settled = true;
        packer_.checkpoint(records);
    }
    /// Looks at the repository until it stands still, and marks what the snapshots need. Returns whether
    /// some of that must be copied first.
    bool look() {
        repo_.store.work.begin("looking at what snapshots need");
        size_t before = 0;
        for (int round = 0; before != repo_.segments() || (!repo_.doubts.empty() && round < 4); ++round) {
            if (round > 0 && !repo_.doubts.empty())
                pause_for(options_.patience); // somebody may be writing it
            before = repo_.segments();
            repo_.refresh();
        }
        if (!repo_.damage.empty() || !repo_.doubts.empty())
            throw Error("cannot tell what is needed while a part of the index is not there or not whole; "
                        "nothing was changed. If "
                        "something else is running, try again later; if a run was interrupted, a backup "
                        "settles it; else see: nfreeze help repair",
                        Exit::damaged);
        if (repo_.index.listed_packs)
            repo_.index.listed_packs->clear(); // a server may list a million names: one list at a time
        repo_.index.see(repo_.store.list(Name::packs));
        now_ = std::max(repo_.server_time(), now_ns() / 1'000'000'000);
        auto hasher = repo_.keys.hasher();
        for (auto* s : repo_.snapshots()) {
            if (!seen_.insert(s->id).second) continue;
            auto missing = [&](const std::string& what) {
                throw Error(text("snapshot ", short_id(s->id), " is damaged (", what,
                                 "): run a backup, which sends again what is still on "
                                 "the disk, then check; or forget it. Nothing was deleted"),
                            Exit::damaged);
            };
            auto need = [&](const ChunkId& id) {
                if (!repo_.index.need(id)) missing("a part of it is in no pack that is there");
            };
            repo_.index.need(hasher(encode_snapshot(*s))); // if it was stored with the tree: repair reads it
            walk_.run(
                *s, need, [&](const Entry& e) { return std::ranges::for_each(e.chunks, need), true; },
                missing);
        }
        return !repo_.index.relied_but_condemned(1).empty();
    }

    /// Chooses what to condemn: packs that nothing needs, and the emptiest others until little enough is
    /// unused; small ones, once there are many; packs that no segment names. Not what came lately.
    void choose(Plan& plan) {
        auto uses = repo_.index.uses();
        auto& packs = repo_.index.packs();
        std::vector<size_t> partly;
        uint64_t unused = 0, small = 0;
        auto condemn = [&](const Hash& name, uint64_t size) {
            chosen_.push_back(name);
            plan.condemn.add(size);
        };
        auto is_small = [&](size_t i) { return packs[i].size < kPackTarget / 4; };
        for (size_t i = 0; i < packs.size(); ++i) {
            auto& p = packs[i];
            plan.used += uses[i].used;
            if (p.condemned || repo_.index.deleted.contains(p.name)) continue;
            if (is_young(p.name, options_.grace)) {
                if (uses[i].used == 0) plan.young.add(p.size);
                continue;
            }
            if (uses[i].used == 0) {
                condemn(p.name, p.size);
                continue;
            }
            partly.push_back(i);
            unused += uses[i].unused();
            small += is_small(i);
        }
        std::ranges::sort(partly, {}, [&](size_t i) { return double(uses[i].used) / double(uses[i].all); });
        for (size_t i : partly) {
            bool too_much =
                double(unused) > options_.max_unused * double(plan.used) + double(options_.unused_bytes) &&
                uses[i].unused() > uses[i].all / 20;
            if (!too_much && !(small > kSmallPacks && is_small(i))) continue;
            if (plan.copy + uses[i].used > options_.max_repack) continue;
            plan.copy += uses[i].used;
            unused -= uses[i].unused();
            condemn(packs[i].name, packs[i].size);
        }
        size_t strangers = 0;
        for (auto& [name, pack] : listed())
            if (!repo_.index.find_pack(name) && !is_doomed(name) && !is_young(name, kSettled) &&
                ++strangers <= kStrangersMax)
                condemn(name, pack.size);
    }
    /// Whether a backup that is still running, or was interrupted and will go on, may have stored it. To
    /// condemn it would be safe, so any clock will do, but it would be sent again.
    bool is_young(const Hash& name, int64_t age) const {
        auto at = listed().find(name);
        return options_.grace > 0 && at != listed().end() && now_ - at->second.mtime < age;
    }

    const std::map<Hash, Index::Listed>& listed() const { return *repo_.index.listed_packs; }
    /// What a prune that was interrupted has deleted.
    std::vector<Hash> unrecorded() const {
        std::vector<Hash> names;
        for (auto& [name, since] : repo_.index.condemned)
            if (!listed().contains(name) && !repo_.index.deleted.contains(name)) names.push_back(name);
        return names;
    }
    bool is_doomed(const Hash& name) const {
        return repo_.index.condemned.contains(name) || repo_.index.deleted.contains(name);
    }
    /// At a time by the server's clock, or in a plan by ours if that is ahead. One whose time nobody knows
    /// never is.
    bool is_due(const Hash& name, int64_t now) const {
        auto at = repo_.index.condemned.find(name);
        if (at == repo_.index.condemned.end()) return true; // deleted long ago, and back
        return options_.grace == 0 || (at->second != Index::kJustNow && now - at->second >= options_.grace);
    }
    /// What the plan did not show does not go.
    bool goes(const Hash& name) const {
        return is_due(name, repo_.server_time()) &&
               (options_.grace == 0 || options_.now == 0 || !repo_.index.condemned.contains(name) ||
                planned_.contains(name));
    }

    /// Deletes (I4), then records it, so that the index gets smaller, too: whoever relied on one of these
    /// packs knows that it was condemned.
    Sum remove_due() {
        repo_.store.work.begin("deleting");
        Sum sum;
        Writer records;
        std::vector<Hash> due;
        for (auto& [name, pack] : listed())
            if (is_doomed(name) && goes(name)) due.push_back(name);
        std::ranges::copy_if(unrecorded(), std::back_inserter(due), [&](auto& name) { return goes(name); });
        for (auto& name : due) {
            if (auto at = listed().find(name); at != listed().end()) {
                sum.add(at->second.size);
                wire_.push([this, name = pack_name(name)] { remove(name); });
            }
            put_record(records, Record::pack_deleted, name);
        }
        wire_.drain();
        if (due.empty()) return sum;
        for (auto& name : due) repo_.index.remove(name);
        repo_.commit([&] { return Bytes(records.view().begin(), records.view().end()); }, true);
        repo_.remove_superseded();
        repo_.remove_torn(options_.grace);
        return sum;
    }
    void remove(const Name& name) {
        stop_if_asked();
        try {
            repo_.store.remove(name);
        } catch (const NotThere&) {
        } catch (const Error& e) {
            if (e.exit != Exit::failed) throw;
            throw Error(text(e.what(), ": packs are condemned but the server lets this account delete "
                                       "nothing (append-only?); prune with one that may"));
        }
    }

    static constexpr int kRounds = 10;
    static constexpr size_t kStrangersMax = 100'000; // condemned at once: more than interrupted runs leave,
                                                     // the server planted; the next prune goes on
    static constexpr uint64_t kSmallPacks = 64;      // a listing tells of 100 packs in a round trip
    Repository& repo_;
    PruneOptions options_;
    TaskPool wire_;
    Packer packer_;
    TreeWalk walk_{repo_, wire_};
    std::set<SnapshotId> seen_;
    std::set<Hash> planned_; // to be deleted
    int64_t now_ = 0;        // seconds since 1970
    std::vector<Hash> chosen_;
};

/// Marks snapshots as forgotten: they are listed no more, and nothing is deleted.
void forget(Repository& repo, const std::vector<const Snapshot*>& gone) {
    Writer records;
    for (auto* s : gone) put_record(records, Record::snapshot_forgotten, s->id);
    repo.commit([bytes = records.take()] { return bytes; });
    for (auto* s : gone) repo.index.forgotten.insert(s->id);
}

/// Takes a forgotten snapshot back, under a new id: what segments say is only ever added to. What was
/// condemned meanwhile is copied (I5). Throws Error where something of it was deleted already.
SnapshotId unforget(Repository& repo, Snapshot s, int connections) {
    auto missing = [&](const std::string& what) {
        throw Error(text("snapshot ", short_id(s.id),
                         " cannot be taken back: a part of it was deleted already (", what, ")"));
    };
    auto need = [&](const ChunkId& id) {
        if (!repo.index.need(id)) missing("it is in no pack that is there");
    };
    // The same id each time, until that is forgotten in turn.
    auto id = s.id;
    for (auto hasher = repo.keys.hasher(); repo.index.forgotten.contains(id);) id = hasher(id);
    if (repo.index.snapshots.contains(id)) return id; // it was taken back already
    TaskPool wire(connections, 64);
    TreeWalk(repo, wire)
        .run(
            s, need, [&](const Entry& e) { return std::ranges::for_each(e.chunks, need), true; }, missing);
    s.id = id;
    Writer record;
    put_record(record, Record::snapshot_added, encode_snapshot(s));
    Packer(repo, connections, kCheckpoint).checkpoint(record.view());
    return s.id;
}

/// Calls `f` for each entry of a snapshot that the patterns do not match, nor what is above it. Returns the
/// number of the others; throws Corrupt unless all of the tree can be read.
template <class F>
uint64_t for_not_matching(Repository& repo, const Snapshot& snapshot, const Patterns& patterns, F f) {
    TaskPool wire(2, 8);
    TreeReader tree(repo, wire, snapshot);
    tree.on_damage = [&](auto& what) {
        throw Corrupt(text("snapshot ", short_id(snapshot.id), " stays as it is: ", what));
    };
    uint64_t matching = 0;
    std::optional<std::string> top;
    while (auto* e = tree.next()) {
        stop_if_asked();
        bool below = top && is_within(e->path, *top);
        if (!below && (e->path.empty() || !patterns.exclude(e->path, e->type == Type::directory))) {
            f(*e);
            continue;
        }
        if (!below) top = e->path;
        ++matching;
    }
    return matching;
}

/// Takes what the patterns match out of snapshots: writes their trees anew, and forgets the old ones.
void forget_paths(Repository& repo, const std::vector<const Snapshot*>& snapshots, const Patterns& patterns,
                  int connections) {
    Chunker chunker(repo.keys.gear());
    Packer packer(repo, connections, kCheckpoint);
    Writer records;
    for (auto* old : snapshots) {
        TreeWriter tree(packer, chunker, false);
        Snapshot fresh = *old;
        fill_random(fresh.id);
        auto& c = fresh.counts = {};
        for_not_matching(repo, *old, patterns, [&](const Entry& e) {
            for (auto& id : e.chunks) repo.index.need(id); // I5
            tree.add(e);
            ++(e.type == Type::directory ? c.directories : e.type == Type::file ? c.files : c.others);
            if (e.type == Type::file) c.bytes += e.size;
            packer.maybe_checkpoint();
        });
        fresh.tree = tree.finish();
        packer.flush(&fresh);
        put_record(records, Record::snapshot_added, encode_snapshot(fresh));
        put_record(records, Record::snapshot_forgotten, old->id);
    }
    packer.checkpoint(records.view()); // I3
}

// ============================================================================
// [SECTION] 14. The wire: SSH, SFTP, who connects
// ============================================================================
// Trusted with what logs in to the server, and else with neither data nor secrets.
// Uses: 2 to 6. Provides: the two other processes. All of it runs there but the reading of addresses.

// ---- where a repository is, and how to get in -----------------------------

struct Address {
    std::string user, host, path; // host empty: a local path; path "" is the login directory
    int port = 0;                 // 0: not given
    bool remote() const { return !host.empty(); }
};

/// `[user@]host:path` (a colon before the first slash), `sftp://[user@]host[:port]/path`, or a
/// local path; throws Usage.
Address parse_address(const std::string& given) {
    Address a;
    std::string_view s = given;
    bool url = s.starts_with("sftp://");
    auto scheme = s.substr(0, std::min(s.find("://"), s.size()));
    if ((!url && scheme.size() < s.size() && scheme.find_first_of("/.@") == s.npos) ||
        s.starts_with("sftp:") != url)
        throw Usage(text("a repository is given as user@host:path, sftp://user@host:port/path, or a local "
                         "directory, not as ",
                         s.substr(0, s.find(':') + 1), "..."));
    if (url) s.remove_prefix(7);
    size_t slash = s.find('/'), bracket = s.starts_with('[') || s.find("@[") < slash ? s.find(']') : 0;
    size_t colon = bracket == s.npos ? s.npos : s.find(':', bracket);
    if (!url && (colon == s.npos || colon > slash)) {
        a.path = given;
        return a;
    }
    std::string_view login = s.substr(0, url ? slash : colon);
    a.path = std::string(url ? (slash == s.npos ? "" : s.substr(slash + 1)) : s.substr(colon + 1));
    if (size_t at = login.rfind('@'); at != login.npos) {
        a.user = std::string(login.substr(0, at));
        if (url && a.user.find(':') != a.user.npos)
            throw Usage("a password in an address could be seen by others: set NFREEZE_SSH_PASSWORD, or be "
                        "asked for it");
        login.remove_prefix(at + 1);
    }
    if (size_t c = login.rfind(':'); url && c != login.npos && login.find(']', c) == login.npos) {
        auto digits = login.substr(c + 1);
        auto [end, bad] = std::from_chars(digits.begin(), digits.end(), a.port);
        if (bad != std::errc() || end != digits.end() || a.port < 1 || a.port > 65535)
            throw Usage(text("the port in ", in_quotes(given), " is not a number from 1 to 65535"));
        login = login.substr(0, c);
    }
    if (login.starts_with('[') && login.ends_with(']')) login = login.substr(1, login.size() - 2);
    a.host = std::string(login);
    if (a.host.empty() || a.host.starts_with('-'))
        throw Usage(text("there is no host name in ", in_quotes(given)));
    if (a.path == "~")
        a.path = "";
    else if (a.path.starts_with("~/"))
        a.path.erase(0, 2);
    else if (a.path.starts_with('~'))
        throw Usage(text("of ", in_quotes(given),
                         ", only the server knows where that user's files are: give the whole path"));
    return a;
}

/// Keeps all connections together to so many bytes a second; 0: no limit.
class Throttle {
  public:
    explicit Throttle(uint64_t rate) : rate_(rate) {}
    /// How much of `size` to move at once.
    size_t piece(size_t size) const {
        return rate_ ? std::min<size_t>(size, size_t(std::max<uint64_t>(rate_ / 16, 4 * KiB))) : size;
    }
    /// Waits until so much may have been moved. What is under way when a signal comes may end in time.
    void moved(size_t bytes) {
        if (rate_ == 0) return;
        std::unique_lock lock(mutex_);
        free_ = std::max(free_, Clock::now()) + std::chrono::nanoseconds(bytes * 1'000'000'000 / rate_);
        auto until = free_;
        lock.unlock();
        while (Clock::now() < until && signal_seen() == 0)
            std::this_thread::sleep_for(
                std::min<Clock::duration>(until - Clock::now(), std::chrono::milliseconds(50)));
    }

  private:
    uint64_t rate_;
    std::mutex mutex_;
    Clock::time_point free_{}; // when what was moved so far is paid for
};

/// No server answers, or none with SFTP: the network, the name or the port may be wrong.
struct Unreachable : ConnectionLost {
    using ConnectionLost::ConnectionLost;
};

// ---- host keys --------------------------------------------------------------

/// Throws unless the server's key is pinned, known, or accepted now by `accept`, which throws. `accepted`
/// remembers the answer for further connections of the same run.
void check_host_key(const SshOptions& o, const std::vector<KnownKey>& known, const std::string& type,
                    const std::string& blob, std::string& accepted, const std::function<void()>& accept) {
    std::string print = fingerprint(blob);
    auto refuse = [&](const std::string& why) {
        throw Error(text(why, " (", type, " ", print, ")"), Exit::network);
    };
    bool any = false, same = false, authority = false;
    for (auto& k : known) {
        authority |= k.authority;
        if (k.authority) continue;
        if (k.revoked && k.blob == blob) refuse(text("the key of ", show(o.host), " is marked as revoked"));
        any |= !k.revoked;
        same |= k.blob == blob;
    }
    if (!o.pinned.empty() && print != o.pinned)
        refuse(text("the key of ", show(o.host), " is not the one given with --host-key"));
    if (same || !o.pinned.empty()) return;
    if (any)
        refuse(text("the key of ", known_host_name(o),
                    " has changed: somebody may be listening in, or the server was "
                    "set up anew; if you know that it was, remove its old key with: ssh-keygen -R '",
                    known_host_name(o), "'"));
    if (accepted == blob) return;
    if (!o.accept_new && (!o.terminal || !o.ask_unknown))
        refuse(text(
            "the key of ", known_host_name(o), " is not known",
            authority ? " (its certificate and the @cert-authority in known_hosts cannot be used here)" : "",
            ": compare this fingerprint with the server's and give it as --host-key, or connect once "
            "with ssh"));
    try {
        accept();
    } catch (const Interrupted&) {
        throw;
    } catch (const Error& e) {
        refuse(e.what());
    }
    accepted = blob;
}

// ---- what a connection needs that is not the server's ----------------------------------

/// A private key, read before anything is heard from the server.
struct KeyFile {
    std::string name;
    std::optional<Secret> content;         // none: it is not there, or `trouble` says why it can't be read
    std::string trouble;                   //
    std::vector<std::string> public_parts; // of it and of its certificate, raw, where they lie beside it
    std::vector<size_t> certificates;      // that may go with it
};
struct Certificate {
    std::string name, content;
};
struct Login {
    std::vector<KnownKey> known; // host keys
    std::vector<KeyFile> keys;
    std::vector<Certificate> certificates;
    Fd dial, agent; // to the dialer: for connections to the server, and what is asked of the agent
    std::mutex asking_agent;
};

// The channel whose call a thread of the wire works on: there go its words and questions. The keeper composes
// these.
thread_local int t_channel = -1;

void send_part(Part kind, View body) {
    Writer head(5);
    head.u8(uint8_t(kind));
    head.u32(uint32_t(body.size()));
    if (!send_full(t_channel, head.view(), Wait::for_ever) || !send_full(t_channel, body, Wait::for_ever))
        _exit(0); // there is no keeper any more
}
void tell(const std::string& words) { send_part(Part::note, as_bytes(words)); }
/// What the user typed, with a zero at its end; throws Error with why there is nothing.
Secret question(Part kind, View about) {
    send_part(kind, about);
    std::array<uint8_t, 5> head;
    if (!receive_full(t_channel, head, Wait::for_ever)) _exit(0);
    Reader in(head, "an answer");
    bool yes = in.u8() != 0;
    Secret answer(in.u32());
    if (!receive_full(t_channel, answer.span(), Wait::for_ever)) _exit(0);
    if (!yes) throw Error(answer.chars(), Exit::network);
    return answer;
}

/// A connection that the dialer makes. Throws Unreachable, Error, Interrupted.
Fd ask_dialer(const Fd& dialer) {
    if (!send_message(dialer.get(), as_bytes("c"))) _exit(0);
    auto got = receive_message(dialer.get(), Wait::while_wanted);
    if (!got) _exit(0);
    if (!got->passed.empty()) return std::move(got->passed[0]);
    std::string why(got->bytes.begin() + 1, got->bytes.end());
    if (got->bytes[0] == 'i') throw Interrupted();
    if (got->bytes[0] == 'u') throw Unreachable(why);
    throw Error(why, got->bytes[0] == 'n' ? Exit::network : Exit::failed);
}

// SSH's own way to write numbers and strings.
void put_number(Writer& out, size_t n) {
    for (int shift : {24, 16, 8, 0}) out.u8(uint8_t(n >> shift));
}
void put_string(Writer& out, View s) {
    put_number(out, s.size());
    out.raw(s);
}
uint32_t number(View v) { return uint32_t(v[0]) << 24 | uint32_t(v[1]) << 16 | uint32_t(v[2]) << 8 | v[3]; }
std::string string(Reader& in) {
    auto s = in.raw(number(in.raw(4)));
    return {s.begin(), s.end()};
}
constexpr uint8_t kListKeys = 11, kKeys = 12, kSign = 13, kSigned = 14; // messages to and from an agent

/// What a login signs (RFC 4252, section 7), by whom it is.
struct ToSign {
    std::string user, service, method, algorithm;
    explicit ToSign(View data) {
        Reader in(data, "what is to be signed");
        string(in);                             // the session's id
        if (in.u8() != 50) in.fail("no login"); // SSH_MSG_USERAUTH_REQUEST
        user = string(in);
        service = string(in);
        method = string(in);
        in.u8();
        algorithm = string(in);
        string(in); // the key
        in.end();
    }
};

/// The user's ssh-agent. Calls may come from many threads.
class Agent {
  public:
    struct Key {
        std::string blob, comment;
    };
    explicit Agent(Login& login) : login_(login) { list(); }
    const std::vector<Key>& keys() const { return keys_; }
    /// The signature by a key of what a login signs, in the form that libssh2 wants; throws Corrupt, which
    /// the caller must not let through libssh2.
    Bytes sign(const std::string& key, View data) {
        auto method = ToSign(data).algorithm, plain = plain_method(method);
        Writer request;
        request.u8(kSign);
        put_string(request, as_bytes(key));
        put_string(request, data);
        put_number(request, plain == "rsa-sha2-512" ? 4 : plain == "rsa-sha2-256" ? 2 : 0);
        Bytes answer = ask(request.view());
        Reader in(answer, "the agent's answer");
        if (in.u8() != kSigned) in.fail("no signature");
        in.raw(4);
        if (auto by = string(in); by != method && by != plain) in.fail("a signature of another kind");
        auto signature = string(in);
        return {signature.begin(), signature.end()};
    }

  private:
    void list() {
        try {
            Bytes answer = ask(View(&kListKeys, 1));
            Reader in(answer, "the agent's list");
            if (in.u8() != kKeys) return;
            for (auto left = number(in.raw(4)); left-- > 0;) {
                auto blob = string(in);
                keys_.push_back({blob, string(in)});
            }
        } catch (const Corrupt&) {
            keys_.clear();
        }
    }
    /// By the dialer, which lets through what lists keys and signs logins. Throws Corrupt where there is no
    /// answer.
    Bytes ask(View request) {
        std::lock_guard lock(login_.asking_agent); // answers are not numbered
        if (!send_message(login_.agent.get(), request)) _exit(0);
        auto got = receive_message(login_.agent.get(), Wait::while_wanted);
        if (!got) _exit(0);
        return std::move(got->bytes);
    }
    /// Of an algorithm with a certificate, that which signs.
    static std::string plain_method(const std::string& method) {
        return method.substr(0, method.find("-cert-v01@openssh.com"));
    }
    Login& login_;
    std::vector<Key> keys_;
};

// ---- one SSH connection with one SFTP channel -----------------------------------
// libssh2 runs non-blocking under our own poll: its blocking mode can neither be interrupted
// nor tell a slow transfer from a stalled one. A session belongs to one thread at a time.

/// What the first login of a run has learned. Each further connection has its own copy, so that
/// several can be made at once: nothing is asked twice.
struct LoginMemory {
    std::string accepted_host_key;  // blob
    std::string pinned_type;        // of the key that --host-key names
    std::vector<std::string> steps; // that worked, in their order: "agent key N", "password", a key file
    std::map<std::string, std::shared_ptr<const Secret>> secrets; // passphrases of key files, the password
};

class Session {
  public:
    /// Calls `f` until it is done; returns its result if that is not negative, throws otherwise.
    template <class F> auto call(const std::string& tried, F f) {
        moved_at_ = Clock::now();
        for (;; in_vain_ = 0) {
            auto result = f();
            if (result >= 0) return result;
            if (result != LIBSSH2_ERROR_EAGAIN) fail(tried);
            wait(tried);
        }
    }
    template <class F> auto pointer_call(const std::string& tried, F f) {
        moved_at_ = Clock::now();
        for (;; in_vain_ = 0) {
            if (auto pointer = f()) return pointer;
            if (libssh2_session_last_errno(session_.get()) != LIBSSH2_ERROR_EAGAIN) fail(tried);
            wait(tried);
        }
    }

    /// Connects and logs in; throws ConnectionLost when the network failed, Error (exit 6) when the
    /// server or the user said no.
    Session(const SshOptions& options, Login& login, LoginMemory& memory)
        : options_(options), login_(login), timeout_(options.timeout) {
        auto& known = login_.known;
        // A pinned key may be of any of the server's types: each is asked for alone, until it is found.
        auto types = options_.pinned.empty() ? std::vector{host_key_order(known)} : host_key_types();
        if (!memory.pinned_type.empty()) types = {memory.pinned_type};
        std::exception_ptr refused;
        bool mismatch = false;
        for (auto& type : types) {
            session_.reset(); // before its socket goes
            socket_ = ask_dialer(login_.dial);
            session_.reset(libssh2_session_init_ex(nullptr, nullptr, nullptr, this));
            if (!session_) throw std::bad_alloc();
            libssh2_session_set_blocking(session_.get(), 0);
            libssh2_session_set_read_timeout(session_.get(), long(options_.timeout.count()));
            libssh2_session_callback_set2(session_.get(), LIBSSH2_CALLBACK_RECV,
                                          reinterpret_cast<libssh2_cb_generic*>(receive));
            libssh2_session_callback_set2(session_.get(), LIBSSH2_CALLBACK_DISCONNECT,
                                          reinterpret_cast<libssh2_cb_generic*>(part));
            libssh2_session_callback_set2(session_.get(), LIBSSH2_CALLBACK_SEND,
                                          reinterpret_cast<libssh2_cb_generic*>(transmit));
            try {
                handshake(memory, known, type);
                if (types.size() > 1) memory.pinned_type = type;
                refused = nullptr;
                break;
            } catch (
                const Error& e) { // the server has no such key, or it is another; the first of these is told
                bool other = !dynamic_cast<const ConnectionLost*>(&e);
                if (!refused || (other && !mismatch)) refused = std::current_exception();
                mismatch |= other;
            }
        }
        if (refused) std::rethrow_exception(refused);
        broken_ = false;
        log_in(memory);
        no_sftp_ = true;
        try {
            sftp_ = pointer_call("start SFTP", [&] { return libssh2_sftp_init(session_.get()); });
        } catch (const Unreachable&) {
            throw;
        } catch (const ConnectionLost& e) {
            auto hint = what_came_instead();
            if (hint.empty() && gone_) throw; // a line that was cut
            throw Unreachable(e.what() + hint);
        }
        no_sftp_ = false;
    }
    ~Session() {
        // The socket goes first: without it libssh2's own farewell cannot wait for the server.
        shutdown(socket_.get(), SHUT_RDWR);
        collect_closed();
        if (sftp_) libssh2_sftp_shutdown(sftp_);
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    LIBSSH2_SFTP* sftp() { return sftp_; }
    uint64_t moved() const { return moved_; } // bytes of content, for recycling
    void count(size_t bytes) { moved_ += bytes; }
    bool broken() const { return broken_; }
    bool confused() const { return confused_; } // what the server answered makes no sense to libssh2
    /// Whether the server ended the session while it was idle: it is broken then.
    bool ended() {
        pollfd p{socket_.get(), POLLIN, 0};
        if (poll(&p, 1, 0) > 0)
            broken_ |= libssh2_channel_wait_eof(libssh2_sftp_get_channel(sftp_)) != LIBSSH2_ERROR_EAGAIN;
        return broken_;
    }

    /// Closes what was only read, without waiting for the answer: that is collected later, which saves
    /// a round trip. Only the request must be out before anything else is sent.
    void close_later(LIBSSH2_SFTP_HANDLE* handle) {
        collect_closed();
        while (libssh2_sftp_close_handle(handle) == LIBSSH2_ERROR_EAGAIN) {
            if (!(libssh2_session_block_directions(session_.get()) & LIBSSH2_SESSION_BLOCK_OUTBOUND)) {
                closing_.push_back(handle);
                return;
            }
            wait("close");
        }
    }
    /// Frees a handle and what was under way through it (2.4 MB in the middle of a pack) when the connection
    /// is lost: without a socket libssh2 waits for nothing.
    void drop(LIBSSH2_SFTP_HANDLE* handle) {
        shutdown(socket_.get(), SHUT_RDWR);
        for (int i = 0; i < 100 && libssh2_sftp_close_handle(handle) == LIBSSH2_ERROR_EAGAIN; ++i) {
        }
    }
    /// Marks the connection as broken if a pipelined call failed: what else was under way would have to
    /// be waited for, and libssh2 then waits for ever.
    template <class N> N spoil_if_failed(N result) {
        broken_ |= result < 0 && result != LIBSSH2_ERROR_EAGAIN;
        return result;
    }

  private:
    struct FreeSession {
        void operator()(LIBSSH2_SESSION* s) const { libssh2_session_free(s); }
    };
    /// libssh2's way to the socket. Where the server ends the session in the middle of an answer, libssh2
    /// asks for the rest again and again, without a pause, until its own time-out; after so many times the
    /// connection is lost.
    static ssize_t receive(libssh2_socket_t socket, void* into, size_t size, int flags, void** abstract) {
        auto& session = *static_cast<Session*>(*abstract);
        ssize_t n = recv(socket, into, size, flags);
        session.heard_ |= n > 0;
        session.gone_ |= n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
        if (n > 0) session.moved_at_ = Clock::now();
        if (n > 0 && session.greeting_.size() < 4 * KiB)
            session.greeting_.append(static_cast<char*>(into), size_t(n));
        if (n >= 0)
            session.in_vain_ = 0;
        else if (errno == EAGAIN || errno == EINTR)
            return ++session.in_vain_ > 1000 ? -ECONNRESET : -EAGAIN;
        return n >= 0 ? n : -errno;
    }

    /// What the server says as it ends the connection.
    static void part(LIBSSH2_SESSION*, int, const char* words, int size, const char*, int, void** abstract) {
        if (words && size > 0)
            static_cast<Session*>(*abstract)->farewell_.assign(words, size_t(std::min(size, 200)));
    }
    static ssize_t transmit(libssh2_socket_t socket, const void* from, size_t size, int flags,
                            void** abstract) {
        ssize_t n = send(socket, from, size, flags | MSG_NOSIGNAL);
        if (n > 0) static_cast<Session*>(*abstract)->moved_at_ = Clock::now();
        return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
    }

    [[noreturn]] void fail(const std::string& tried) {
        bool answered = sftp_ && libssh2_session_last_errno(session_.get()) == LIBSSH2_ERROR_SFTP_PROTOCOL;
        if (answered && libssh2_sftp_last_error(sftp_) != LIBSSH2_FX_OK) { // else the answer makes no sense
            static constexpr const char* said[] = {"no error",
                                                   "end of file",
                                                   "no such file",
                                                   "permission denied",
                                                   "failure (full, over quota, or forbidden)",
                                                   "bad message",
                                                   "no connection",
                                                   "connection lost",
                                                   "the operation is not supported",
                                                   "invalid handle",
                                                   "no such path",
                                                   "the file exists already",
                                                   "write-protected",
                                                   "no media",
                                                   "no space on the file system",
                                                   "quota exceeded"};
            auto status = libssh2_sftp_last_error(sftp_);
            auto why = text("cannot ", tried, " on ", show(options_.host), ": ",
                            status < std::size(said) ? said[status] : "an unknown error");
            if (status == LIBSSH2_FX_NO_SUCH_FILE || status == LIBSSH2_FX_NO_SUCH_PATH) throw NotThere(why);
            bool clear = status == LIBSSH2_FX_PERMISSION_DENIED ||
                         (status >= LIBSSH2_FX_FILE_ALREADY_EXISTS && status <= LIBSSH2_FX_QUOTA_EXCEEDED);
            throw Refused(why, !clear);
        }
        confused_ = sftp_ && libssh2_session_last_errno(session_.get()) == LIBSSH2_ERROR_SFTP_PROTOCOL;
        char* message = nullptr;
        int length = 0, code = libssh2_session_last_error(session_.get(), &message, &length, 0);
        auto why = text("cannot ", tried, " on ", show(options_.host), ": ",
                        message && length ? show({message, size_t(length)}) : "the connection was lost", " (",
                        code, ")");
        broken_ = true;
        throw ConnectionLost(why);
    }

    void collect_closed() {
        std::erase_if(closing_,
                      [](auto* handle) { return libssh2_sftp_close_handle(handle) != LIBSSH2_ERROR_EAGAIN; });
    }

    /// Waits until the socket can go on; throws ConnectionLost after timeout_ without a byte.
    void wait(const std::string& tried) {
        // libssh2 would go on waiting; libssh2_channel_eof() says no while answers are queued that it does
        // not read.
        if (sftp_ && libssh2_channel_wait_closed(libssh2_sftp_get_channel(sftp_)) != LIBSSH2_ERROR_INVAL) {
            broken_ = true;
            throw ConnectionLost(
                text("cannot ", tried, " on ", show(options_.host), ": the server ended the session"));
        }
        if (Clock::now() > moved_at_ + timeout_)
            stalled(tried); // a socket may be ready for what libssh2 does not do
        int directions = libssh2_session_block_directions(session_.get());
        short events = short(POLLIN | (directions & LIBSSH2_SESSION_BLOCK_OUTBOUND ? POLLOUT : 0));
        poll_socket(events, tried);
    }
    void poll_socket(short events, const std::string& tried) {
        auto deadline = Clock::now() + timeout_;
        for (;;) {
            if (overdue()) {
                broken_ = true;
                throw Interrupted();
            }
            pollfd p{socket_.get(), events, 0};
            int n = poll(&p, 1, 250); // short, so that a signal to another thread is noticed
            if (n > 0) return;
            if (n < 0 && errno != EINTR) throw system_error("wait for", "the network");
            if (Clock::now() > deadline) stalled(tried);
        }
    }
    [[noreturn]] void stalled(const std::string& tried) {
        broken_ = true;
        auto why = text("cannot ", tried, " on ", show(options_.host), ": nothing moved for ",
                        timeout_.count(), " s");
        if (heard_ && !no_sftp_) throw ConnectionLost(why);
        throw Unreachable(why);
    }

    /// Types of host key, those already known for this host first: a server that has several then shows one
    /// that we can recognise.
    static std::string host_key_order(const std::vector<KnownKey>& known) {
        std::string first, rest;
        for (const auto& t : host_key_types()) {
            bool have = std::ranges::any_of(known, [&](auto& k) {
                return !k.revoked && !k.authority &&
                       (k.type == t || (k.type == "ssh-rsa" && t.starts_with("rsa-")));
            });
            ((have ? first : rest) += t) += ',';
        }
        first += rest;
        first.pop_back();
        return first;
    }

    /// The order was measured, for both ends: AES-GCM costs least where the processor has instructions for
    /// it, and most where it has none.
    static const char* ciphers() {
#if defined __x86_64__
        const bool has_aes = __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined __aarch64__
        const bool has_aes = getauxval(AT_HWCAP) & HWCAP_AES;
#else
        const bool has_aes = false;
#endif
        return has_aes
                   ? "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,"
                     "aes256-ctr"
                   : "chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr,aes256-gcm@openssh.com,"
                     "aes128-gcm@openssh.com";
    }
    static constexpr const char* kMacs =
        "hmac-sha2-256-etm@openssh.com,hmac-sha2-256,hmac-sha2-512-etm@openssh.com,hmac-sha2-512";

    void handshake(LoginMemory& memory, const std::vector<KnownKey>& known, const std::string& types) {
        auto* s = session_.get();
        libssh2_session_method_pref(s, LIBSSH2_METHOD_HOSTKEY, types.c_str());
        for (int m : {LIBSSH2_METHOD_CRYPT_CS, LIBSSH2_METHOD_CRYPT_SC})
            libssh2_session_method_pref(s, m, ciphers());
        for (int m : {LIBSSH2_METHOD_MAC_CS, LIBSSH2_METHOD_MAC_SC}) libssh2_session_method_pref(s, m, kMacs);
        try {
            call("agree on encryption", [&] { return libssh2_session_handshake(s, socket_.get()); });
        } catch (const ConnectionLost&) {
            if (auto why = nothing_in_common(); !why.empty())
                throw Error(text("cannot agree on encryption with ", show(options_.host), ": the ", why,
                                 ", and none of these can be used here"),
                            Exit::network);
            throw;
        }
        size_t length = 0;
        int kind = 0;
        const char* key = libssh2_session_hostkey(s, &length, &kind);
        if (!key) throw ConnectionLost(text(show(options_.host), " sent no host key"));
        std::string blob(key, length);
        const char* name = libssh2_session_methods(s, LIBSSH2_METHOD_HOSTKEY);
        std::string type = std::string(name).starts_with("rsa-") ? "ssh-rsa" : name;
        check_host_key(options_, known, type, blob, memory.accepted_host_key, [&] {
            Writer about;
            about.u32(uint32_t(type.size()));
            about.raw(as_bytes(type));
            about.raw(as_bytes(blob));
            question(Part::ask_host, about.view());
        });
    }

    /// What a server says that begins no SFTP, in words: its login shell may print something, the subsystem
    /// end at once.
    std::string what_came_instead() {
        auto code = libssh2_session_last_errno(session_.get());
        if (code != LIBSSH2_ERROR_CHANNEL_CLOSED && code != LIBSSH2_ERROR_CHANNEL_PACKET_EXCEEDED)
            return ""; // the line is another matter
        std::string said(200, '\0');
        try {
            auto* channel =
                pointer_call("look", [&] { return libssh2_channel_open_session(session_.get()); });
            call("look", [&] { return libssh2_channel_subsystem(channel, "sftp"); });
            timeout_ = std::min(timeout_, std::chrono::seconds(3));
            auto n = call("look", [&]() -> ssize_t {
                for (int stream : {0, SSH_EXTENDED_DATA_STDERR}) // whichever comes first
                    if (auto got = libssh2_channel_read_ex(channel, stream, said.data(), said.size());
                        got != 0 && got != LIBSSH2_ERROR_EAGAIN)
                        return got;
                return libssh2_channel_eof(channel) ? 0 : LIBSSH2_ERROR_EAGAIN;
            });
            said.resize(size_t(n));
        } catch (const Interrupted&) {
            throw;
        } catch (const Error&) {
            return code == LIBSSH2_ERROR_CHANNEL_CLOSED
                       ? "; its SFTP server ends at once, as where a password has expired or the account has "
                         "no shell: try ssh, or ask who runs it"
                       : "; what came is no SFTP: the login shell there must print nothing";
        }
        if (said.empty())
            return "; its SFTP server ends at once, as where a password has expired or the account has no "
                   "shell: try ssh, or ask who runs it";
        return text("; before any SFTP came ", in_quotes(said.substr(0, said.find_first_of("\r\n"))),
                    ": the login shell there must print nothing");
    }

    /// The algorithms of a kind that a server offers in its first packet and that we do not have, in words;
    /// empty where there is something in common, or that packet is not to be understood.
    std::string nothing_in_common() const {
        try {
            auto banner = greeting_.find("SSH-"), end = greeting_.find('\n', banner);
            Reader in(as_bytes(std::string_view(greeting_).substr(end == greeting_.npos ? greeting_.size()
                                                                                        : end + 1)),
                      "a greeting");
            in.raw(5);
            if (in.u8() != 20) return ""; // SSH_MSG_KEXINIT, then a cookie of 16 bytes
            in.raw(16);
            for (auto [what, method] : {std::pair{"ways to exchange keys", LIBSSH2_METHOD_KEX},
                                        {"host keys", LIBSSH2_METHOD_HOSTKEY},
                                        {"ciphers", LIBSSH2_METHOD_CRYPT_CS},
                                        {"ciphers", LIBSSH2_METHOD_CRYPT_SC},
                                        {"MACs", LIBSSH2_METHOD_MAC_CS}}) {
                auto size = in.raw(4);
                auto names = in.raw(size_t(size[2]) << 8 | size[3]);
                std::string offered(names.begin(), names.end()), name;
                std::string wanted = method == LIBSSH2_METHOD_CRYPT_CS || method == LIBSSH2_METHOD_CRYPT_SC
                                         ? ciphers()
                                     : method == LIBSSH2_METHOD_MAC_CS ? kMacs
                                                                       : "";
                const char** ours = nullptr;
                int count =
                    wanted.empty() ? libssh2_session_supported_algs(session_.get(), method, &ours) : 0;
                for (int i = 0; i < count; ++i) wanted += std::string(",") + ours[i];
                if (count > 0) libssh2_free(session_.get(), static_cast<void*>(ours));
                bool common = false;
                for (std::istringstream list(offered); std::getline(list, name, ',');)
                    common |= offers(wanted, name);
                if (!common) return text(what, " that it offers are ", show(offered));
            }
        } catch (const Corrupt&) {
        }
        return "";
    }

    // -- logging in: keys that are named, the agent's others, key files, password; as often as the server
    // wants another --

    /// Ways to log in that the server still accepts; empty once it asks for nothing more.
    std::string ask_methods() {
        const char* offered = nullptr;
        while (!(offered = libssh2_userauth_list(session_.get(), options_.user.c_str(),
                                                 unsigned(options_.user.size())))) {
            if (libssh2_userauth_authenticated(session_.get())) return "";
            if (libssh2_session_last_errno(session_.get()) != LIBSSH2_ERROR_EAGAIN)
                sent_away(), fail("log in");
            wait("log in");
        }
        return offered;
    }

    void log_in(LoginMemory& memory) {
        std::vector<std::string> steps;
        for (auto methods = ask_methods(); !methods.empty();) {
            auto before = methods;
            std::string step = take_step(methods, memory, steps);
            if (libssh2_userauth_authenticated(session_.get())) methods.clear();
            if (!step.empty()) steps.push_back(step);
            if (step.empty() || steps.size() > 8)
                throw Error(text("cannot log in to ", show(options_.host), " as ", in_quotes(options_.user),
                                 ": the server accepts ", show(before),
                                 tried_.empty()
                                     ? "; nothing was tried. Give a key with -i, or start ssh-agent"
                                     : "; tried: " + show(tried_)),
                            Exit::network);
        }
        memory.steps = steps;
    }

    /// One way to log in after the other, until one takes us a step further: its name. `methods` is then what
    /// the server accepts next.
    std::string take_step(std::string& methods, LoginMemory& memory, const std::vector<std::string>& taken) {
        std::string step;
        auto attempt = [&](const std::string& name, auto f) {
            bool again = memory.steps.empty()
                             ? std::ranges::count(taken, name) > 0
                             : taken.size() >= memory.steps.size() || memory.steps[taken.size()] != name;
            if (!step.empty() || again) return;
            maybe_partly_ = false;
            auto before = methods;
            bool good = f();
            if (!good && maybe_partly_) methods = ask_methods(); // which the server counts as an attempt
            if (good || methods != before || maybe_partly_) step = name; // another key may be wanted as well
        };
        auto with_password = [&] { // by questions where the plain one was not asked for, or was not enough
            for (auto* way : {"password", "keyboard-interactive"})
                if (bool plain = *way == 'p';
                    options_.try_passwords && step.empty() && offers(methods, way)) {
                    if (!plain && offers(methods, "password") && std::ranges::count(taken, "password") == 0)
                        continue; // it would be the same again
                    attempt(way, [&] { return try_password(plain, methods, memory); });
                }
        };
        if (options_.password_first) with_password();
        if (options_.try_keys && methods.find("publickey") != methods.npos) try_keys(memory, attempt);
        if (!options_.password_first) with_password();
        return step;
    }

    /// Whether an attempt to log in succeeded; a refusal is no error, a lost connection is. `what` is named
    /// as tried.
    template <class F> bool accepted(const std::string& what, F f) {
        for (;;) {
            int result = f();
            if (result == 0) return true;
            if (result == LIBSSH2_ERROR_EAGAIN) {
                wait("log in");
                continue;
            }
            char* message = nullptr;
            libssh2_session_last_error(session_.get(), &message, nullptr, 0);
            bool unsent = result == LIBSSH2_ERROR_FILE || result == LIBSSH2_ERROR_KEYFILE_AUTH_FAILED ||
                          result == LIBSSH2_ERROR_METHOD_NOT_SUPPORTED;
            const char* why = result == LIBSSH2_ERROR_PASSWORD_EXPIRED ? "it has expired: change it with ssh"
                              : unsent                                 ? message
                                                                       : "refused";
            tried_ += text(tried_.empty() ? "" : ", ", what, " (", why ? why : "refused", ")");
            char c; // libssh2 calls it a refusal, too, when the connection breaks before the answer
            auto n = recv(socket_.get(), &c, 1, MSG_PEEK | MSG_DONTWAIT);
            bool ended = n == 0 || (n < 0 && errno != EAGAIN);
            sent_away();
            if (ended || result == LIBSSH2_ERROR_SOCKET_DISCONNECT || result == LIBSSH2_ERROR_SOCKET_SEND ||
                result == LIBSSH2_ERROR_SOCKET_RECV || result == LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE)
                fail("log in");
            // A key whose signature was asked for and not enough, or a password that was not: there may be
            // more to do.
            maybe_partly_ = result == LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED;
            return false;
        }
    }
    /// Throws what the server said if it ended the connection, as after too many attempts: to try again would
    /// not help.
    void sent_away() const {
        if (farewell_.empty()) return;
        throw Error(text("cannot log in to ", show(options_.host), " as ", in_quotes(options_.user),
                         ": the server ended the connection: ", in_quotes(farewell_),
                         "; tried: ", show(tried_)),
                    Exit::network);
    }
    static bool offers(const std::string& methods, const std::string& way) {
        return ("," + methods + ",").find("," + way + ",") != methods.npos;
    }

    template <class Attempt> void try_keys(LoginMemory& memory, Attempt attempt) {
        std::optional<Agent> agent;
        if (options_.agent != "none") agent.emplace(login_);
        const auto keys = agent ? agent->keys() : std::vector<Agent::Key>{};
        auto by_agent = [&](const Agent::Key& k) {
            auto name =
                text(k.blob.substr(0, 64).find("-cert-v01@") != k.blob.npos ? "the agent's certificate "
                                                                            : "the agent's key ",
                     k.comment);
            attempt(name + base64(sha256(as_bytes(k.blob)), false), [&] {
                Signer signer{*agent, k.blob};
                void* abstract = &signer;
                return accepted(name, [&] {
                    return libssh2_userauth_publickey(session_.get(), options_.user.c_str(),
                                                      as_bytes(k.blob).data(), k.blob.size(), sign,
                                                      &abstract);
                });
            });
        };
        std::vector<bool> named(keys.size());
        for (auto& file : login_.keys)
            for (size_t i = 0; i < keys.size(); ++i)
                if (!named[i] && std::ranges::count(file.public_parts, keys[i].blob) > 0)
                    named[i] = true, by_agent(keys[i]);
        auto files = [&](bool usual) {
            for (auto& file : login_.keys)
                if (usual == is_usual(file.name) && (file.content || !file.trouble.empty()))
                    attempt(file.name, [&] { return try_key_file(file, memory); });
        };
        files(false);
        for (size_t i = 0; i < keys.size() && !options_.only_identities; ++i)
            if (!named[i]) by_agent(keys[i]);
        files(true);
    }
    struct Signer {
        Agent& agent;
        const std::string& key;
    };
    /// For libssh2, through which no exception may pass, and which frees the signature.
    static int sign(LIBSSH2_SESSION*, unsigned char** signature, size_t* size, const unsigned char* data,
                    size_t data_size, void** abstract) {
        auto& by = *static_cast<Signer*>(*abstract);
        try {
            Bytes made = by.agent.sign(by.key, {data, data_size});
            *size = made.size();
            *signature = static_cast<unsigned char*>(malloc(made.size() + 1));
            if (!*signature) return LIBSSH2_ERROR_ALLOC;
            std::ranges::copy(made, *signature);
            return 0;
        } catch (const Error&) {
            return LIBSSH2_ERROR_AGENT_PROTOCOL;
        }
    }
    /// Whether a key file has one of the names that ssh looks for unasked: those come last.
    static bool is_usual(const std::string& file) {
        auto name = last_name(file);
        return name == "id_ed25519" || name == "id_ecdsa" || name == "id_rsa" || name == "id_dsa" ||
               name == "id_ecdsa_sk" || name == "id_ed25519_sk" || name == "id_xmss";
    }

    bool try_key_file(const KeyFile& file, LoginMemory& memory) {
        if (!file.content) {
            tried_ += text(tried_.empty() ? "" : ", ", file.trouble);
            return false;
        }
        auto with = [&](const char* passphrase) {
            auto one = [&](const std::string& name, const std::string& certificate) {
                return accepted(name, [&] {
                    return libssh2_userauth_publickey_frommemory(
                        session_.get(), options_.user.c_str(), options_.user.size(),
                        certificate.empty() ? nullptr : certificate.data(), certificate.size(),
                        file.content->chars(), file.content->size(), passphrase);
                });
            };
            for (size_t at : file.certificates)
                if (auto& c = login_.certificates[at]; one("the certificate " + c.name, c.content))
                    return true;
            return one(file.name, "");
        };
        if (!is_encrypted(*file.content)) return with(nullptr);
        auto known = memory.secrets.find(file.name);
        for (int attempt = 1; known == memory.secrets.end() && attempt <= kPasswordTries; ++attempt) {
            if (!options_.terminal) {
                tried_ +=
                    text(tried_.empty() ? "" : ", ", file.name,
                         " (it has a passphrase, and there is no terminal to ask for it: use ssh-agent)");
                return false;
            }
            auto number = uint8_t(&file - login_.keys.data());
            known = memory.secrets
                        .emplace(file.name, std::make_shared<Secret>(question(Part::ask_key, {&number, 1})))
                        .first;
            auto before = tried_;
            if (with(known->second->chars())) return true;
            if (maybe_partly_) return false; // it did open, and was refused or is not enough
            memory.secrets.erase(known);
            known = memory.secrets.end();
            if (attempt < kPasswordTries)
                tried_ = before;
            else
                tried_ = before + text(before.empty() ? "" : ", ", file.name, " (wrong passphrase)");
        }
        return known != memory.secrets.end() && with(known->second->chars());
    }
    static bool is_encrypted(const Secret& file) {
        std::string_view key(file.chars(), file.size());
        size_t begin = key.find("BEGIN OPENSSH PRIVATE KEY-----");
        if (begin == key.npos) return key.find("ENCRYPTED") != key.npos;
        auto body = unbase64(std::string(key.substr(begin + 30, 80))); // "openssh-key-v1\0", then the cipher
        return body.size() > 23 && body.substr(19, 4) != "none";
    }

    /// `plain`: the server takes a password as such; else it asks questions, of which it may be one.
    /// `methods` becomes what the server accepts next, where it was asked.
    bool try_password(bool plain, std::string& methods, LoginMemory& memory) {
        const bool once = getenv("NFREEZE_SSH_PASSWORD") || !options_.terminal;
        memory_ = &memory;
        auto* s = session_.get();
        auto& user = options_.user;
        for (int attempt = 1; attempt <= (once ? 1 : kPasswordTries); ++attempt) {
            asked_ = false;
            bool good = false;
            if (plain) {
                if (!password()) return false;
                good = accepted("password", [&] {
                    return libssh2_userauth_password_ex(s, user.c_str(), unsigned(user.size()), password(),
                                                        unsigned(strlen(password())), nullptr);
                });
            } else {
                good = accepted("password (keyboard-interactive)", [&] {
                    return libssh2_userauth_keyboard_interactive_ex(s, user.c_str(), unsigned(user.size()),
                                                                    answer_questions);
                });
            }
            if (trouble_) std::rethrow_exception(std::exchange(trouble_, nullptr));
            if (good) return true;
            if (attempt < kPasswordTries) { // the server counts the question as an attempt
                auto next = ask_methods();
                if (std::exchange(methods, next) != next) return false; // it was right, and is not enough
            }
            memory.secrets.erase("password");
        }
        return false;
    }
    /// The password of the account, from the environment or the terminal; null where there is neither. Owned
    /// by memory_.
    const char* password() {
        auto known = memory_->secrets.find("password");
        if (known == memory_->secrets.end()) {
            const char* given = getenv("NFREEZE_SSH_PASSWORD");
            if (!given && !options_.terminal) return nullptr;
            auto typed =
                given ? Secret(std::string_view(given, strlen(given) + 1)) : question(Part::ask_password, {});
            known = memory_->secrets.emplace("password", std::make_shared<Secret>(std::move(typed))).first;
        }
        return known->second->chars();
    }
    /// The first question without echo that speaks of a password is answered with it, each other one by who
    /// sits at the terminal. libssh2 frees the answers, and no exception may pass through it.
    static void answer_questions(const char*, int, const char*, int, int count,
                                 const LIBSSH2_USERAUTH_KBDINT_PROMPT* prompts,
                                 LIBSSH2_USERAUTH_KBDINT_RESPONSE* answers, void** abstract) {
        auto& self = *static_cast<Session*>(*abstract);
        for (int i = 0; i < count; ++i) {
            std::string words(reinterpret_cast<const char*>(prompts[i].text), prompts[i].length);
            Secret typed(0);
            try {
                bool its_password = !prompts[i].echo && words.find("assword") != words.npos &&
                                    !std::exchange(self.asked_, true);
                if (const char* known = its_password ? self.password() : nullptr) {
                    typed = Secret(std::string_view(known, strlen(known) + 1));
                } else if (self.options_.terminal) {
                    Writer about;
                    about.u8(prompts[i].echo != 0);
                    about.raw(as_bytes(words));
                    typed = question(Part::ask_words, about.view());
                } else {
                    throw Error(text("cannot log in to ", show(self.options_.host), " as ",
                                     in_quotes(self.options_.user),
                                     ": the server asks (keyboard-interactive, for a password or the like) ",
                                     in_quotes(words), ", and there is no terminal to answer on"),
                                Exit::network);
                }
            } catch (...) {
                self.trouble_ = std::current_exception();
            }
            answers[i].text = strdup(typed.size() > 0 ? typed.chars() : "");
            answers[i].length = unsigned(answers[i].text ? strlen(answers[i].text) : 0);
        }
    }

    const SshOptions& options_;
    Login& login_;
    Fd socket_;
    std::unique_ptr<LIBSSH2_SESSION, FreeSession> session_;
    LIBSSH2_SFTP* sftp_ = nullptr;              // freed by the destructor, before session_
    std::vector<LIBSSH2_SFTP_HANDLE*> closing_; // freed by libssh2 when their answers come
    LoginMemory* memory_ = nullptr;             // while logging in
    std::string tried_;                         // ways to log in, with what became of them
    bool maybe_partly_ = false;  // the last way was refused, but may have been right and not enough
    bool asked_ = false;         // the server has asked for the password
    std::exception_ptr trouble_; // of a question that could not be answered
    uint64_t moved_ = 0;
    bool heard_ = false;   // whether the server ever said anything
    bool gone_ = false;    // whether the line has ended
    std::string farewell_; // why it ended the connection, in its words
    std::string greeting_; // the first it said, which is not encrypted
    bool no_sftp_ = false; // whether it may be that it has none
    bool confused_ = false;
    Clock::time_point moved_at_ = Clock::now(); // when a byte last came or went, or was to
    int in_vain_ = 0; // reads from the socket that got nothing, since something else happened
    std::chrono::seconds timeout_;
    bool broken_ = false; // libssh2's state is undefined after a failure: nothing may be sent any more
};

/// Memory whose begin comes again behind its end, so that a window that slides over it lies in one piece. To
/// be made before the wire is confined; throws Error.
class Ring {
  public:
    Ring() {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        size_ = (2 * kWriteWindow + page - 1) / page * page;
        void* at = mmap(nullptr, 2 * size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw system_error("get", "memory");
        at_ = static_cast<uint8_t*>(at);
        int fixed = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
        if (mmap(at_, size_, PROT_READ | PROT_WRITE, fixed, -1, 0) != at_ || // of a size of 0: once more
            mremap(at_, 0, size_, MREMAP_MAYMOVE | MREMAP_FIXED, at_ + size_) != at_ + size_)
            throw system_error("get", "memory");
    }
    ~Ring() {
        if (at_) munmap(at_, 2 * size_);
    }
    Ring(Ring&& other) noexcept : at_(std::exchange(other.at_, nullptr)), size_(other.size_) {}
    Ring& operator=(Ring&&) = delete;
    size_t size() const { return size_; }
    /// From a place that is counted on and on.
    std::span<uint8_t> from(uint64_t place) const { return {at_ + place % size_, size_}; }

  private:
    uint8_t* at_ = nullptr;
    size_t size_ = 0; // bytes, whole pages
};
thread_local const Ring* t_ring = nullptr; // of the channel whose call a thread works on

/// The bytes of an object on their way from the keeper to the server: a window of them at a time.
class Incoming {
  public:
    /// Says that we are ready for `size` bytes.
    explicit Incoming(uint64_t size) : size_(size) { send_part(Part::ready, {}); }
    ~Incoming() {
        while (came_ < size_) used_ = came_, fill(); // what the server did not want
    }
    Incoming(const Incoming&) = delete;
    Incoming& operator=(const Incoming&) = delete;
    /// The next `size` bytes, which are not used up.
    View ahead(size_t size) {
        while (came_ - used_ < size) fill();
        return t_ring->from(used_).first(size);
    }
    void used(size_t n) { used_ += n; }

  private:
    void fill() {
        auto room = size_t(std::min<uint64_t>(size_ - came_, t_ring->size() - (came_ - used_)));
        ssize_t n = ::recv(t_channel, t_ring->from(came_).data(), room, 0);
        if (n == 0 || (n < 0 && errno != EINTR)) _exit(0); // there is no keeper any more
        came_ += n > 0 ? size_t(n) : 0;
    }
    uint64_t size_, came_ = 0, used_ = 0;
};

/// An SFTP server. Connections are made when there is work for them, up to a number, and each
/// serves one call at a time; a lost one is replaced.
class SftpStore {
    // -- the pool of connections --

    /// A connection of one's own for one call; a broken one does not go back.
    class Lease {
      public:
        explicit Lease(SftpStore& store) : store_(store), session_(store.acquire()) {}
        ~Lease() { store_.give_back(std::move(session_)); }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        Session& operator*() { return *session_; }

      private:
        SftpStore& store_;
        std::unique_ptr<Session> session_;
    };

    /// Runs a call that may be repeated on another connection if one is lost: with growing pauses unless
    /// something came through meanwhile.
    template <class F> auto with_session(F f) {
        auto give_up = Clock::now() + options_.retry_for;
        for (int failed = 0;; ++failed) {
            uint64_t before = traffic_.up + traffic_.down;
            try {
                Lease lease(*this);
                return f(*lease);
            } catch (const ConnectionLost&) {
                if (Clock::now() > give_up) throw;
                drop_idle(); // a router that forgot this one forgot the others, too
            }
            if (traffic_.up + traffic_.down > before) failed = 0;
            if (failed > 0) pause_for(backoff(failed));
        }
    }

    /// One that is idle and was not ended meanwhile, or else a new one: a create() that meets a dead one
    /// would not know what became of the object.
    std::unique_ptr<Session> acquire() {
        for (;;) {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return !idle_.empty() || open_ < limit_; });
            if (idle_.empty()) {
                ++open_;
                lock.unlock();
                return connect();
            }
            auto session = std::move(idle_.back());
            idle_.pop_back();
            lock.unlock();
            if (!session->ended()) return session;
            give_back(std::move(session));
        }
    }

    /// A new connection, counted in open_ already. If others are up, a refusal lowers the limit and
    /// we wait for one of them; else we try again with growing pauses. The very first is not tried for
    /// long, and once only where none answers.
    std::unique_ptr<Session> connect() {
        auto give_up = Clock::now() + options_.retry_for;
        for (int failed = 0;; ++failed) {
            try {
                LoginMemory memory = memory_;
                auto session = std::make_unique<Session>(options_, login_, memory);
                if (!reached_) memory_ = std::move(memory), reached_ = true; // by the constructor, alone
                said_ = false;
                return session;
            } catch (const Error& error) {
                std::unique_lock lock(mutex_);
                bool others = open_ > 1,
                     hopeless = !dynamic_cast<const ConnectionLost*>(&error) || Clock::now() > give_up;
                if (!reached_ && !options_.patient)
                    hopeless |= failed + 1 >= kFirstTries || dynamic_cast<const Unreachable*>(&error);
                if (others || hopeless) --open_;
                changed_.notify_all();
                if (others && error.exit != Exit::interrupted)
                    limit_ = open_;
                else if (hopeless)
                    throw;
                lock.unlock();
                if (others) return acquire();
                if (!said_.exchange(true)) tell(text(error.what(), "; trying again"));
            }
            try {
                pause_for(backoff(failed));
            } catch (const Interrupted&) {
                std::lock_guard lock(mutex_);
                --open_;
                changed_.notify_all();
                throw;
            }
        }
    }

    void drop_idle() {
        std::vector<std::unique_ptr<Session>> dropped;
        std::lock_guard lock(mutex_);
        dropped.swap(idle_);
        open_ -= int(dropped.size());
        changed_.notify_all();
    }
    void give_back(std::unique_ptr<Session> session) {
        bool good = !session->broken() && session->moved() < kSessionBytes;
        if (!good) session.reset();
        std::lock_guard lock(mutex_);
        if (good)
            idle_.push_back(std::move(session));
        else if (--open_ == 0)
            limit_ = options_.connections;
        changed_.notify_all();
    }

  public:
    /// Makes the first connection; throws what that meets.
    SftpStore(const SshOptions& options, Login& login)
        : options_(options), login_(login), root_(options.path), upload_(options_.upload_limit),
          download_(options_.download_limit), limit_(options_.connections) {
        idle_.push_back(connect());
        with_session([&](Session& s) { resolve_root(s); });
    }

    std::vector<Listed> list(Where where) {
        const auto dir = path(where);
        std::vector<size_t> unsized; // their numbers
        auto found = with_session([&](Session& s) {
            unsized.clear();
            auto handle = open_existing(s, dir, "list", 0, LIBSSH2_SFTP_OPENDIR);
            std::vector<Listed> found;
            std::array<char, 4096> name;
            LIBSSH2_SFTP_ATTRIBUTES attrs;
            const auto tried = "list " + show(dir);
            for (size_t names = 0;;) {
                auto n = s.call(tried, [&] {
                    return libssh2_sftp_readdir_ex(handle.get(), name.data(), name.size(), nullptr, 0,
                                                   &attrs);
                });
                if (n == 0) break;
                if (++names > kListMax)
                    throw Corrupt(text(show(dir), " holds more than ", kListMax, " names"));
                std::string_view found_name(name.data(), size_t(n));
                if (found_name == "." || found_name == "..") continue;
                found.push_back({std::string(found_name.substr(0, kShownName)), 0, 0});
                auto& o = found.back();
                if (!take_attributes(o, attrs) && (o.name.size() == 64 || o.name.size() == 73))
                    unsized.push_back(found.size() - 1);
            }
            return found;
        });
        // Some servers list names alone: each is asked for.
        for (size_t at : unsized)
            with_session([&](Session& s) {
                LIBSSH2_SFTP_ATTRIBUTES attrs{};
                if (look_at(s, dir + "/" + found[at].name, attrs) && !take_attributes(found[at], attrs))
                    throw Error(text(show(options_.host), " does not tell how large ", show(dir), "/",
                                     show(found[at].name), " is"));
            });
        return found;
    }

    /// `take` gets the bytes as they come.
    template <class F> void read(const Name& name, uint64_t offset, uint64_t length, F take) {
        static thread_local Bytes part; // kept: to get so much memory anew costs as much as to fill it
        uint64_t got = 0;               // what came before a connection was lost need not come again
        size_t filled = 0;
        with_session([&](Session& s) {
            auto handle = open_existing(s, path(name), "read", LIBSSH2_FXF_READ, LIBSSH2_SFTP_OPENFILE);
            libssh2_sftp_seek64(handle.get(), offset + got);
            while (got < length) {
                // libssh2 asks ahead for four times the buffer's size: so that it asks for no more
                // than what is wanted, the buffer is a quarter of the rest. A server that gives less than
                // it is asked for is asked for one packet at a time: libssh2 loses its place where more are
                // under way.
                auto rest = size_t(std::min<uint64_t>(kReadBlock, (length - got + 3) / 4));
                size_t block = download_.piece(std::min(reads_short_ ? kOneRead : kReadBlock, rest));
                if (part.size() < filled + block) part.resize(filled + block);
                try {
                    auto n = s.call("read " + show(path(name)), [&] {
                        return s.spoil_if_failed(
                            libssh2_sftp_read(handle.get(), reinterpret_cast<char*>(&part[filled]), block));
                    });
                    if (n == 0) throw Corrupt(text(show(path(name)), " is shorter than it was"));
                    got += size_t(n);
                    filled += size_t(n);
                    s.count(size_t(n));
                    traffic_.down += size_t(n);
                    traffic_.moved += size_t(n);
                    if (filled >= kHandOver || got == length)
                        take(View(part).first(std::exchange(filled, 0)));
                    download_.moved(size_t(n));
                } catch (const ConnectionLost&) {
                    reads_short_ = reads_short_ || s.confused();
                    throw;
                }
            }
        });
    }

    /// An object whose `length` bytes come over the channel once we are ready.
    void create(const Name& name, uint64_t length) {
        struct Moved { // what was moved of an object that is not there in the end has to be moved again
            Traffic& traffic;
            uint64_t bytes = 0;
            ~Moved() { traffic.moved -= bytes; }
        } moved{traffic_};
        try {
            Lease lease(*this);
            Session& s = *lease;
            Incoming data(length);
            auto handle = open_new(s, path(name));
            // A window that slides over the whole object keeps the pipeline full: libssh2 sends what
            // is new in it and returns when the first packet is acknowledged.
            while (moved.bytes < length) {
                View window =
                    data.ahead(upload_.piece(size_t(std::min<uint64_t>(kWriteWindow, length - moved.bytes))));
                auto n = s.call("write " + show(path(name)), [&] {
                    return s.spoil_if_failed(libssh2_sftp_write(
                        handle.get(), reinterpret_cast<const char*>(window.data()), window.size()));
                });
                data.used(size_t(n));
                s.count(size_t(n));
                traffic_.up += size_t(n);
                traffic_.moved += size_t(n);
                moved.bytes += size_t(n);
                upload_.moved(size_t(n));
            }
            // Both answers count (I2): of some file systems, closing alone tells that nothing was kept.
            sync(s, handle);
            handle.close();
            moved.bytes = 0;
        } catch (const ConnectionLost& lost) {
            drop_idle();
            Uncertain uncertain(lost.what());
            uncertain.all_sent = moved.bytes == length;
            throw uncertain;
        } catch (const Error& e) { // full, or forbidden: what was begun is taken away, if we may
            if (e.exit != Exit::failed) throw;
            bool undone = false;
            try {
                remove(name);
                undone = true;
            } catch (const NotThere&) {
                undone = true;
            } catch (const Error&) {
            }
            std::string room;
            try {
                room = space_left(free_space(), length);
            } catch (const Error&) {
            } // not every server tells
            throw refused(e, undone, room);
        }
    }

    void remove(const Name& name) {
        with_session([&](Session& s) {
            auto p = path(name);
            auto unlink = [&] {
                s.call("remove " + show(p),
                       [&] { return libssh2_sftp_unlink_ex(s.sftp(), p.c_str(), unsigned(p.size())); });
            };
            try {
                unlink();
            } catch (const Refused& refused) { // Windows removes nothing that is read-only
                LIBSSH2_SFTP_ATTRIBUTES attrs;
                if (!look_at(s, p, attrs)) throw NotThere(refused.what());
                if (!succeeds(
                        [&] { change(s, p, LIBSSH2_SFTP_ATTR_PERMISSIONS, LIBSSH2_SFTP_S_IFREG | 0600); }))
                    throw;
                unlink();
            }
        });
    }

    void truncate(const Name& name) {
        with_session([&](Session& s) {
            auto p = path(name);
            auto open = [&] {
                Handle(s, p, "truncate", LIBSSH2_FXF_WRITE | LIBSSH2_FXF_TRUNC, 0, LIBSSH2_SFTP_OPENFILE)
                    .close();
            };
            succeeds([&] { change(s, p, LIBSSH2_SFTP_ATTR_PERMISSIONS, LIBSSH2_SFTP_S_IFREG | 0600); });
            if (!succeeds([&] { change(s, p, LIBSSH2_SFTP_ATTR_SIZE, 0); })) open();
        });
    }
    void rename(const Name& from, const Name& to) {
        with_session([&](Session& s) {
            auto a = path(from), b = path(to);
            auto posix = [&] {
                return libssh2_sftp_posix_rename_ex(s.sftp(), a.c_str(), a.size(), b.c_str(), b.size());
            };
            auto plain = [&] {
                return libssh2_sftp_rename_ex(s.sftp(), a.c_str(), unsigned(a.size()), b.c_str(),
                                              unsigned(b.size()), LIBSSH2_SFTP_RENAME_NATIVE);
            };
            bool renamed = false; // a positive result says that the server does not offer it
            succeeds([&] { renamed = s.call("rename " + show(a), posix) == 0; });
            if (!renamed) s.call("rename " + show(a), plain);
        });
    }
    void make_directory(Where where) {
        with_session([&](Session& s) { make_path(s, path(where)); });
    }

  private:
    /// An open remote file or directory. close() waits and reports errors; the destructor does not.
    class Handle {
      public:
        Handle(Session& s, const std::string& path, const std::string& verb, unsigned long flags, long mode,
               int kind)
            : session_(s), tried_(verb + " " + show(path)) {
            handle_ = s.pointer_call(tried_, [&] {
                return libssh2_sftp_open_ex(s.sftp(), path.c_str(), unsigned(path.size()), flags, mode, kind);
            });
        }
        Handle(Handle&& other) noexcept
            : session_(other.session_), tried_(std::move(other.tried_)),
              handle_(std::exchange(other.handle_, nullptr)) {}
        Handle& operator=(Handle&&) = delete;
        ~Handle() {
            try {
                if (handle_) session_.broken() ? session_.drop(handle_) : session_.close_later(handle_);
            } catch (const Error&) {
            }
        }
        void close() {
            if (auto* h = std::exchange(handle_, nullptr))
                session_.call(tried_, [&] { return libssh2_sftp_close_handle(h); });
        }
        LIBSSH2_SFTP_HANDLE* get() { return handle_; }

      private:
        Session& session_;
        std::string tried_;
        LIBSSH2_SFTP_HANDLE* handle_;
    };

    std::string path(Where where) const { return where ? root_ + "/" + Name::path(*where) : root_; }
    std::string path(const Name& name) const { return root_ + "/" + name.path(); }

    /// Whether there is something of this name, as far as the server tells.
    static bool look_at(Session& s, const std::string& p, LIBSSH2_SFTP_ATTRIBUTES& attrs) {
        unsigned long said = LIBSSH2_FX_OK;
        int refused = s.call("look at " + show(p), [&] {
            int r = libssh2_sftp_stat_ex(s.sftp(), p.c_str(), unsigned(p.size()), LIBSSH2_SFTP_STAT, &attrs);
            if (r == LIBSSH2_ERROR_SFTP_PROTOCOL) said = libssh2_sftp_last_error(s.sftp());
            return r == LIBSSH2_ERROR_SFTP_PROTOCOL ? 1 : r;
        });
        if (refused) attrs.flags = 0;
        return !refused || said == LIBSSH2_FX_OP_UNSUPPORTED || said == LIBSSH2_FX_NO_CONNECTION ||
               said == LIBSSH2_FX_CONNECTION_LOST;
    }
    /// Returns whether the size is among them.
    static bool take_attributes(Listed& o, const LIBSSH2_SFTP_ATTRIBUTES& attrs) {
        if (attrs.flags & LIBSSH2_SFTP_ATTR_SIZE) o.size = attrs.filesize;
        if (attrs.flags & LIBSSH2_SFTP_ATTR_ACMODTIME) o.mtime = int64_t(attrs.mtime);
        return attrs.flags & LIBSSH2_SFTP_ATTR_SIZE;
    }
    /// Sets the mode, or the size to 0.
    static void change(Session& s, const std::string& p, unsigned long what, unsigned long mode = 0) {
        LIBSSH2_SFTP_ATTRIBUTES attrs{};
        attrs.flags = what;
        attrs.permissions = mode;
        s.call("change " + show(p), [&] {
            return libssh2_sftp_stat_ex(s.sftp(), p.c_str(), unsigned(p.size()), LIBSSH2_SFTP_SETSTAT,
                                        &attrs);
        });
    }
    /// For some servers, that a name does not exist is a failure like any other: who looks is told
    /// (NotThere).
    static Handle open_existing(Session& s, const std::string& p, const char* verb, unsigned long flags,
                                int kind) {
        try {
            return Handle(s, p, verb, flags, 0, kind);
        } catch (const Refused& refused) {
            LIBSSH2_SFTP_ATTRIBUTES attrs;
            if (look_at(s, p, attrs)) throw;
            throw NotThere(refused.what());
        }
    }
    /// Creates an object in one of the ways that servers understand, which is the same from then on. Where
    /// none will do it may be that something there is locked for a moment.
    Handle open_new(Session& s, const std::string& p) {
        constexpr unsigned long forms[] = {LIBSSH2_FXF_EXCL, LIBSSH2_FXF_EXCL | LIBSSH2_FXF_TRUNC,
                                           LIBSSH2_FXF_TRUNC};
        for (int round = 0;; ++round)
            for (size_t form = form_;; ++form) try {
                    Handle handle(s, p, "create", LIBSSH2_FXF_WRITE | LIBSSH2_FXF_CREAT | forms[form], 0400,
                                  LIBSSH2_SFTP_OPENFILE);
                    form_ = form;
                    form_works_ = true;
                    return handle;
                } catch (const Refused& refused) {
                    LIBSSH2_SFTP_ATTRIBUTES attrs;
                    if (!refused.vague || (form == 0 && look_at(s, p, attrs))) throw;
                    if (!form_works_ && form + 1 < std::size(forms)) continue;
                    if (round == kLockedTries) throw;
                    pause_for(backoff(round));
                    break;
                }
    }

    /// Some servers resolve relative paths differently from call to call: ask once, then be absolute.
    void resolve_root(Session& s) {
        if (root_.starts_with('/')) return;
        std::array<char, 4096> home;
        try {
            auto n = s.call("find the login directory", [&] {
                return libssh2_sftp_symlink_ex(s.sftp(), ".", 1, home.data(), unsigned(home.size()),
                                               LIBSSH2_SFTP_REALPATH);
            });
            std::string base(home.data(), size_t(n));
            root_ = root_.empty() ? base : base + (base.ends_with('/') ? "" : "/") + root_;
        } catch (const ConnectionLost&) {
            throw;
        } catch (const Error&) {
            if (root_.empty()) root_ = ".";
        }
    }

    /// Bytes; throws where the server does not tell.
    uint64_t free_space() {
        return with_session([&](Session& s) {
            LIBSSH2_SFTP_STATVFS there{};
            s.call("ask for free space",
                   [&] { return libssh2_sftp_statvfs(s.sftp(), root_.c_str(), root_.size(), &there); });
            return there.f_bavail > UINT64_MAX / std::max<uint64_t>(there.f_frsize, 1)
                       ? UINT64_MAX
                       : there.f_bavail * there.f_frsize;
        });
    }

    void make_path(Session& s, const std::string& dir) {
        auto make = [&] {
            s.call("create the directory " + show(dir),
                   [&] { return libssh2_sftp_mkdir_ex(s.sftp(), dir.c_str(), unsigned(dir.size()), 0700); });
        };
        try {
            make();
        } catch (const ConnectionLost&) {
            throw;
        } catch (const Error&) { // it exists already, or what leads to it does not: servers do not agree on
                                 // how to say so
            LIBSSH2_SFTP_ATTRIBUTES attrs;
            if (look_at(s, dir, attrs)) return;
            size_t slash = dir.rfind('/');
            if (slash == dir.npos || slash == 0 || look_at(s, dir.substr(0, slash), attrs)) throw;
            make_path(s, dir.substr(0, slash));
            make();
        }
    }

    /// Makes what was written durable where the server offers that. A refusal is an error, but that it is not
    /// supported.
    void sync(Session& s, Handle& handle) {
        if (!can_sync_) return;
        int refused = s.call("write to disk", [&] {
            int r = libssh2_sftp_fsync(handle.get());
            auto why = r == LIBSSH2_ERROR_SFTP_PROTOCOL ? libssh2_sftp_last_error(s.sftp()) : LIBSSH2_FX_OK;
            return why == LIBSSH2_FX_OP_UNSUPPORTED || why == LIBSSH2_FX_BAD_MESSAGE
                       ? 1
                       : r; // the latter: a file system that cannot
        });
        if (refused) can_sync_ = false;
    }

    const SshOptions& options_;
    Login& login_;
    Traffic& traffic_ = g_common.traffic;
    std::string root_;
    Throttle upload_, download_;
    LoginMemory memory_; // unchanged once the constructor has logged in, as is
    bool reached_ = false;
    std::atomic<bool> said_{false}; // that the server is away
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::unique_ptr<Session>> idle_;
    int open_ = 1, limit_;             // the first is made by the constructor
    std::atomic<bool> can_sync_{true}; // until the server says no
    static constexpr int kLockedTries = 3;
    std::atomic<size_t> form_{0};          // in which objects are created
    std::atomic<bool> form_works_{false};  // it did
    std::atomic<bool> reads_short_{false}; // the server gives less than it is asked for
};

// ---- the wire ----------------------------------------------------------------------------

/// Reads what logs in and the host keys that are known.
void gather_login(const SshOptions& o, Login& login) {
    login.known = known_keys(o.known_hosts, known_host_name(o));
    auto public_part = [](const std::string& file) { // in FILE.pub, or in FILE if it ends so
        std::string type, key, path = file.ends_with(".pub") ? file : file + ".pub";
        if (access(path.c_str(), R_OK) == 0)
            succeeds([&] { std::istringstream(read_small_file(path, kKeyFileMax)) >> type >> key; });
        return unbase64(key);
    };
    auto add_certificate = [&](const std::string& name) {
        return access(name.c_str(), R_OK) == 0 && succeeds([&] {
                   login.certificates.push_back({name, read_small_file(name, kKeyFileMax)});
               });
    };
    for (auto& name : o.certificates) add_certificate(name);
    const size_t given = login.certificates.size();
    for (auto& file : o.identities) {
        KeyFile key{file, {}, "", {}, {}};
        for (auto& part : {public_part(file), public_part(file + "-cert")})
            if (!part.empty()) key.public_parts.push_back(part);
        if (!file.ends_with(".pub") && access(file.c_str(), F_OK) == 0) {
            try {
                auto content = read_small_file(file, kKeyFileMax);
                key.content.emplace(content);
                wipe(content);
            } catch (const Error& e) {
                key.trouble = e.what();
            }
            if (add_certificate(file + "-cert.pub"))
                key.certificates.push_back(login.certificates.size() - 1);
            for (size_t i = 0; i < given; ++i) key.certificates.push_back(i);
        }
        login.keys.push_back(std::move(key));
    }
}

void send_failure(const Error& e) {
    auto* uncertain = dynamic_cast<const Uncertain*>(&e);
    auto is = [&]<class Kind>(const Kind*) { return dynamic_cast<const Kind*>(&e) != nullptr; };
    auto fault = uncertain                                         ? Fault::uncertain
                 : is(static_cast<const NotThere*>(nullptr))       ? Fault::not_there
                 : is(static_cast<const Corrupt*>(nullptr))        ? Fault::corrupt
                 : is(static_cast<const Interrupted*>(nullptr))    ? Fault::interrupted
                 : is(static_cast<const ConnectionLost*>(nullptr)) ? Fault::lost
                                                                   : Fault::error;
    Writer out;
    out.u8(uint8_t(fault));
    out.u8(uint8_t(e.exit));
    out.u8(uint8_t(e.no_room | e.undone << 1 | e.exhausted << 2 | (uncertain && uncertain->all_sent) << 3));
    out.raw(as_bytes(std::string_view(e.what()).substr(0, kMessageMax)));
    send_part(Part::failed, out.view());
}

/// Does one thing that the keeper asks for.
void serve(const Request& r, SftpStore& store) {
    switch (r.ask) {
    case Ask::names:
        for (auto& o : store.list(r.where())) {
            Writer out;
            out.u64(o.size);
            out.u64(uint64_t(o.mtime));
            out.raw(as_bytes(o.name));
            send_part(Part::data, out.view());
        }
        return;
    case Ask::list: {
        Writer out(MiB);
        auto directory = r.name().directory;
        for (auto& o : store.list(directory)) {
            auto name = Name::parse(directory, o.name);
            if (!name) continue;
            out.u64(o.size);
            out.u64(uint64_t(o.mtime));
            out.u32(name->seq);
            out.raw(name->hash);
            if (out.size() > MiB - kListedSize) send_part(Part::data, out.take());
        }
        if (out.size() > 0) send_part(Part::data, out.view());
        return;
    }
    case Ask::read:
        return store.read(r.name(), r.offset, r.length, [](View part) { send_part(Part::data, part); });
    case Ask::create:
        return store.create(r.name(), r.length);
    case Ask::remove:
        return store.remove(r.name());
    case Ask::truncate:
        return store.truncate(r.name());
    case Ask::rename: {
        auto to = r.name();
        if (!receive_full(t_channel, to.hash, Wait::for_ever)) _exit(0);
        return store.rename(r.name(), to);
    }
    case Ask::make_directory:
        return store.make_directory(r.where());
    }
}

/// Serves a channel until it is closed.
void serve_channel(int channel, const Ring& ring, SftpStore& store) {
    t_channel = channel;
    t_ring = &ring;
    for (std::array<uint8_t, Request::kSize> asked; receive_full(channel, asked, Wait::for_ever);) {
        try {
            serve(Request::decode(asked), store);
            send_part(Part::done, {});
        } catch (const Error& e) {
            send_failure(e);
        } catch (const std::exception& e) { // no memory
            send_failure(Error(e.what()));
        }
    }
}

// ==> C4
[[noreturn]] void run_wire(Fd keeper, Fd dial, Fd agent) {
    auto told = receive_message(keeper.get(), Wait::for_ever);
    if (!told || told->passed.empty()) _exit(0); // the repository is on this machine
    t_channel = told->passed[0].get();
    try {
        auto options = SshOptions::decode(told->bytes);
        Login login;
        login.dial = std::move(dial);
        login.agent = std::move(agent);
        gather_login(options, login);
        if (libssh2_init(LIBSSH2_INIT_NO_CRYPTO) != 0) throw Error("libssh2 does not start");
        std::vector<Ring> rings(told->passed.size());
        auto walls = confine_wire(); // before the first byte of the server
        if (options.say_walls) tell("the process that talks to the server is confined by " + walls.words());
        SftpStore store(options, login);
        for (size_t i = 1; i < told->passed.size(); ++i)
            std::thread(serve_channel, told->passed[i].get(), std::cref(rings[i]), std::ref(store)).detach();
        send_part(Part::done, {}); // it is logged in
        std::thread(serve_channel, t_channel, std::cref(rings[0]), std::ref(store)).detach();
        receive_message(keeper.get(), Wait::for_ever); // until the keeper ends: nothing more comes
        _exit(0);
    } catch (const Error& e) {
        send_failure(e);
    } catch (const std::exception& e) {
        send_failure(Error(e.what()));
    }
    _exit(0);
}
// <== C4

// ---- the dialer ------------------------------------------------------------------------

/// Lines of the system's own getent: its libraries know directories and names of which a static program knows
/// nothing. None where there is no such entry, or no getent.
std::vector<std::string> getent(const std::string& database, const std::string& key) {
    std::vector<std::string> lines;
    succeeds([&] {
        if (key.empty() || key.starts_with('-')) return;
        std::istringstream out(Command({"getent", database, key}, "getent").all_output(kMessageMax / 2));
        for (std::string line; std::getline(out, line);) lines.push_back(line);
    });
    return lines;
}

/// Connects to the server, by whatever address answers first. Throws Unreachable, Interrupted.
class Dial {
  public:
    explicit Dial(const SshOptions& options) : options_(options) {}
    Fd connect() {
        for (auto& host : addresses())
            if (connect_to(host)) return std::move(socket_);
        throw Unreachable(why_);
    }

  private:
    /// The host as it was given, or the addresses that only the system's own resolver knows (mDNS, its own
    /// name).
    std::vector<std::string> addresses() const {
        addrinfo* found = nullptr;
        int bad = getaddrinfo(options_.host.c_str(), nullptr, nullptr, &found);
        if (found) freeaddrinfo(found);
        std::vector<std::string> hosts;
        if (!bad) return {options_.host};
        for (auto& line : getent("ahosts", options_.host))
            if (line.find(" STREAM") != line.npos) hosts.push_back(line.substr(0, line.find(' ')));
        if (hosts.empty())
            throw Unreachable(
                text("cannot find the host ", in_quotes(options_.host), ": ", gai_strerror(bad)));
        return hosts;
    }
    bool connect_to(const std::string& host) {
        addrinfo hints{}, *found = nullptr;
        hints.ai_socktype = SOCK_STREAM;
        int bad = getaddrinfo(host.c_str(), std::to_string(options_.port).c_str(), &hints, &found);
        std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, freeaddrinfo);
        if (bad) why_ = text("cannot find the host ", in_quotes(host), ": ", gai_strerror(bad));
        for (auto* a = list.get(); a; a = a->ai_next) {
            socket_ = Fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            if (socket_ && (::connect(socket_.get(), a->ai_addr, a->ai_addrlen) == 0 || finish())) {
                int stall_ms = int(std::chrono::milliseconds(options_.timeout).count());
                auto set = [&](int level, int name, int value) {
                    setsockopt(socket_.get(), level, name, &value, sizeof value);
                };
                set(IPPROTO_TCP, TCP_NODELAY, 1);
                set(IPPROTO_TCP, TCP_USER_TIMEOUT, stall_ms);
                set(SOL_SOCKET, SO_KEEPALIVE, 1); // so that no router on the way forgets one that is idle
                set(IPPROTO_TCP, TCP_KEEPIDLE, 45);
                set(IPPROTO_TCP, TCP_KEEPINTVL, 15);
                return true;
            }
            why_ = text("cannot connect to ", show(options_.host), " port ", options_.port, ": ",
                        std::strerror(errno));
        }
        return false;
    }
    bool finish() {
        if (errno != EINPROGRESS) return false;
        int error = ETIMEDOUT;
        auto until = Clock::now() + std::min(options_.timeout, std::chrono::seconds(kConnectTimeout));
        for (pollfd p{socket_.get(), POLLOUT, 0}; Clock::now() < until;) {
            stop_if_asked();
            if (poll(&p, 1, 250) <= 0) continue; // short, so that a signal is noticed
            socklen_t size = sizeof error;
            getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
            break;
        }
        errno = error;
        return error == 0;
    }
    const SshOptions& options_;
    Fd socket_;
    std::string why_;
};

/// What the others ask of it. Each thing that may take long has a thread of its own; nothing is waited for at
/// the end but the commands.
class Dialer {
  public:
    Dialer(Fd keeper, Fd dial, Fd agent)
        : keeper_(std::move(keeper)), dial_(std::move(dial)), agent_(std::move(agent)) {}
    void run() {
        std::array<pollfd, 3> sockets{
            {{keeper_.get(), POLLIN, 0}, {dial_.get(), POLLIN, 0}, {agent_.get(), POLLIN, 0}}};
        for (;;) {
            if (poll(sockets.data(), sockets.size(), -1) <= 0) continue;
            for (auto& s : sockets) {
                if (s.revents == 0) continue;
                auto asked = receive_message(s.fd, Wait::for_ever);
                if (!asked && s.fd == keeper_.get()) end();
                if (!asked) s.fd = -1; // the wire is gone: the keeper says so
                if (asked) serve(s.fd, std::move(asked->bytes));
            }
        }
    }

  private:
    void serve(int from, Bytes asked) {
        if (from == keeper_.get() && asked[0] == 'o') {
            if (!std::exchange(told_, true)) options_ = SshOptions::decode(View(asked).subspan(1)); // once
        } else if (from == keeper_.get()) {
            begin(from, [this, asked] { look_up({asked.begin() + 1, asked.end()}); });
        } else if (from == agent_.get()) {
            begin(from, [this, asked] { ask_agent(asked); });
        } else {
            begin(from, [this, from] {
                answer(from, [&] { return options_.proxy.empty() ? Dial(options_).connect() : run_proxy(); });
            });
        }
    }
    /// In a thread of its own; as many at a time as anybody needs.
    void begin(int from, std::function<void()> task) {
        try {
            if (++busy_ > 4 * kConnectionsMax) throw Error("too much is asked at once");
            std::thread([this, task = std::move(task)] {
                try {
                    task();
                } catch (const std::exception&) { // who asked sees that there is no answer
                    _exit(1);
                }
                --busy_;
            }).detach();
        } catch (const std::exception& e) {
            --busy_;
            send_message(from, as_bytes(from == keeper_.get() ? "n" : text('e', e.what())));
        }
    }
    /// `question`: a database of accounts, a zero, the number of a field, a zero, a key.
    void look_up(const std::string& question) {
        std::istringstream words(question);
        std::string database, at, key, field, found = "n";
        std::getline(words, database, '\0');
        std::getline(words, at, '\0');
        std::getline(words, key);
        try {
            auto lines = database == "passwd" || database == "group" ? getent(database, key)
                                                                     : std::vector<std::string>{};
            std::istringstream fields(lines.empty() ? "" : lines[0]);
            for (int i = std::atoi(at.c_str()); i >= 0; --i)
                if (!std::getline(fields, field, ':')) field.clear();
            found += field.substr(0, kMessageMax / 2);
        } catch (const Interrupted&) { // nobody waits for it any more
        }
        send_message(keeper_.get(), as_bytes(found));
    }
    template <class F> static void answer(int to, F connect) {
        auto say_no = [&](char kind, const std::string& why) {
            send_message(to, as_bytes(kind + why.substr(0, kMessageMax / 2)));
        };
        try {
            Fd connected = connect();
            send_message(to, as_bytes("c"), {&connected, 1});
        } catch (const Interrupted&) {
            say_no('i', "");
        } catch (const Unreachable& e) {
            say_no('u', e.what());
        } catch (const Error& e) {
            say_no(e.exit == Exit::network ? 'n' : 'e', e.what());
        } catch (const std::exception& e) {
            say_no('e', e.what());
        }
    }
    Fd run_proxy() {
        auto proxy = std::make_shared<Command>(options_.proxy, "the proxy command", Command::talk);
        {
            std::lock_guard lock(mutex_);
            std::erase_if(proxies_,
                          [](auto& p) { return p->ended(nullptr); }); // of connections that are over
            proxies_.push_back(proxy);
        }
        Fd connected = options_.proxy_passes ? proxy->passed_descriptor() : std::move(proxy->output);
        if (fcntl(connected.get(), F_SETFL, O_NONBLOCK) != 0)
            throw system_error("talk to", "the proxy command");
        return connected;
    }
    /// Lets through what lists keys, and what signs a login as the user that was named. An answer of no bytes
    /// says that there is none.
    void ask_agent(const Bytes& asked) {
        Bytes answer(1);
        try {
            bool wanted = asked[0] == kListKeys && asked.size() == 1;
            if (asked[0] == kSign) {
                Reader in(asked, "a request to the agent");
                in.u8();
                string(in); // the key
                auto data = string(in);
                ToSign login(as_bytes(data));
                wanted = login.user == options_.user && login.service == "ssh-connection" &&
                         login.method == "publickey";
            }
            if (!wanted || !options_.try_keys || options_.agent == "none") throw Error("nobody asks that");
            Fd agent = connect_agent();
            Writer framed(4 + asked.size());
            put_string(framed, asked);
            std::array<uint8_t, 4> size;
            if (!send_full(agent.get(), framed.view(), Wait::while_wanted) ||
                !receive_full(agent.get(), size, Wait::while_wanted) || number(size) == 0 ||
                number(size) > kMessageMax)
                throw Error("the agent does not answer");
            Bytes got(number(size));
            if (receive_full(agent.get(), got, Wait::while_wanted)) answer = got;
        } catch (const Error&) {
        }
        send_message(agent_.get(), answer);
    }
    Fd connect_agent() const {
        const char* usual = getenv("SSH_AUTH_SOCK");
        auto path = !options_.agent.empty() ? options_.agent : usual ? usual : "";
        sockaddr_un at{};
        at.sun_family = AF_UNIX;
        if (path.empty() || path.size() >= sizeof at.sun_path) throw Error("there is no agent");
        path.copy(at.sun_path, path.size());
        Fd agent(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (!agent || ::connect(agent.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0)
            throw system_error("connect to", path);
        return agent;
    }
    /// Other threads may be at work to the last.
    [[noreturn]] void end() {
        std::lock_guard lock(mutex_);
        for (auto& p : proxies_) p->terminate(); // all at once: each may take a while
        proxies_.clear();
        _exit(0);
    }
    Fd keeper_, dial_, agent_;
    SshOptions options_;
    bool told_ = false;
    std::atomic<int> busy_{0};
    std::mutex mutex_;
    std::list<std::shared_ptr<Command>> proxies_;
};

[[noreturn]] void run_dialer(Fd keeper, Fd dial, Fd agent) {
    wipe_environment("NFREEZE_SSH_PASSWORD");
    try {
        Dialer(std::move(keeper), std::move(dial), std::move(agent)).run();
    } catch (const std::exception&) {
    }
    _exit(1);
}

// ============================================================================
// [SECTION] 15. Command line
// ============================================================================
// Trusted with data and secrets.
// Uses: everything. Provides: main. One table of options serves the parser and the help.

constexpr const char* kHelp = R"(
REPO is [user@]host:path, sftp://[user@]host[:port]/path (//path from the root),
or a local directory. Where it is left out, or "", NFREEZE_REPOSITORY is used.

The passphrase comes from --password-file, --password-command, NFREEZE_PASSWORD,
or is asked for. A server's password: NFREEZE_SSH_PASSWORD, or it is asked for.

Exit codes: 0 all well; 1 failed, nothing committed; 2 wrong usage; 3 committed or
restored, but some files could not be read or written; 4 wrong passphrase; 5 the
repository is damaged or was tampered with; 6 cannot connect or log in;
130 interrupted.
)";

struct Option {
    // verbs: space-separated, "" for all; name as cxxopts has it; argument: none if empty, [optional, or with
    // ... to be repeated
    const char *verbs, *name, *argument, *help;
};
constexpr Option kOptions[] = {
    {"", "h,help", "", "print what there is to say about this verb"},
    {"", "i,identity", "FILE...", "log in with this private key"},
    {"", "p,port", "PORT", "the server's port (22)"},
    {"", "F,ssh-config", "FILE", "ssh's configuration, instead of ~/.ssh/config"},
    {"", "known-hosts", "FILE", "instead of ~/.ssh/known_hosts"},
    {"", "host-key", "FINGERPRINT", "accept this host key and no other"},
    {"", "accept-new-host-key", "", "accept and remember the key of an unknown host"},
    {"", "password-file", "FILE", "its first line is the passphrase"},
    {"", "password-command", "CMD", "the first line it prints is the passphrase"},
    {"", "connections", "N", "connections to the server, at most (6)"},
    {"", "limit-upload", "KIB", "send no more than so many KiB a second"},
    {"", "limit-download", "KIB", "fetch no more than so many KiB a second"},
    {"", "timeout", "SECONDS", "a connection on which nothing moves for so long is lost (60)"},
    {"", "retry-for", "SECONDS", "go on trying to reach a server that was lost (900)"},
    {"", "expect", "ID", "fail where the history shown lacks this snapshot"},
    {"backup restore snapshots ls diff du key check repair forget prune", "json", "",
     "print objects, one a line, instead of words"},
    {"backup restore check repair prune", "progress", "",
     "say every second how far it is (on a terminal it is shown anyway)"},
    {"", "q,quiet", "", "print nothing but warnings and errors"},
    {"", "v,verbose", "", "name each file that is new (+), changed (M; U: metadata only) or gone (-)"},
    {"backup", "exclude", "PATTERN...", "leave out what matches, as in .gitignore; the last match wins"},
    {"backup", "exclude-from", "FILE...", "the same, one pattern a line"},
    {"backup", "exclude-caches", "", "leave out what is in directories with a CACHEDIR.TAG"},
    {"backup", "exclude-if-present", "NAME...", "leave out what is in directories that have this name"},
    {"backup", "exclude-larger-than", "SIZE", "leave out larger files (bytes, or 10K, 10M, 10G)"},
    {"backup", "one-file-system", "", "leave out what is on other file systems"},
    {"backup", "files-from", "FILE...", "take only these paths of SRC, one a line"},
    {"backup", "from0", "", "the paths in that file end with NUL"},
    {"backup", "stdin-name", "NAME", "store standard input as a file of this name (no SRC)"},
    {"backup", "stdin-from-command", "", "store what the command behind -- prints; nothing if it fails"},
    {"backup", "allow-empty", "", "store it even if it is empty"},
    {"backup", "allow-shrink", "", "commit although most of SRC is gone, or a disk is not mounted"},
    {"restore", "allow-shrink", "", "with --delete: although most of what DEST holds goes"},
    {"backup", "n,dry-run", "", "send nothing; with -v, list what would be stored"},
    {"backup", "verify", "[AMOUNT]", "read back what was stored: all, or 10%, 500M"},
    {"backup", "copy-links", "", "store what symbolic links lead to in their place"},
    {"backup", "checksum", "", "read every file, trust content alone"},
    {"backup", "ignore-inode", "", "do not compare inode numbers (network mounts)"},
    {"backup", "ignore-ctime", "", "do not compare the time of the last status change"},
    {"restore ls cat du", "snapshot", "ID", "this snapshot (the first digits do), not the newest"},
    {"restore ls cat du", "at", "TIME", "the newest of then: 2026-11-20, \"2026-11-20 14:00\", 3d"},
    {"restore ls cat du snapshots forget", "source", "PATH",
     "the snapshots of this source, as PATH or HOST:PATH"},
    {"restore ls cat du snapshots forget", "host", "NAME", "the snapshots of this machine"},
    {"restore ls cat du snapshots forget", "tag", "TAG", "the snapshots with this tag"},
    {"backup", "host", "NAME", "the machine's name in the snapshot"},
    {"backup", "tag", "TAG...", "a word to find the snapshot by; may be repeated"},
    {"restore", "all-versions", "", "every version of PATHs, each in a directory named after its time"},
    {"restore", "overwrite", "", "replace files that differ"},
    {"restore", "delete", "", "remove what the snapshot does not have"},
    {"restore", "n,dry-run", "", "say what would happen, change nothing"},
    {"snapshots", "forgotten", "", "those that were forgotten and not pruned yet"},
    {"key", "new-password-file", "FILE", "its first line is the new passphrase"},
    {"check", "read-data", "[AMOUNT]",
     "read the packs, too: all, or 10%, 500M, 3/7 (the third seventh), newer:7d; or files:200, files:all"},
    {"check", "append-only", "", "try whether the server lets objects be changed or removed"},
    {"forget", "keep-last", "N", "keep the newest N of each host and source"},
    {"forget", "keep-hourly", "N", "keep the newest of each of N hours that have any"},
    {"forget", "keep-daily", "N", "of N days"},
    {"forget", "keep-weekly", "N", "of N weeks"},
    {"forget", "keep-monthly", "N", "of N months"},
    {"forget", "keep-yearly", "N", "of N years"},
    {"forget", "keep-within", "AGE", "keep all that are not older (12h, 30d, 8w)"},
    {"forget", "keep-tag", "TAG...", "keep all with this tag"},
    {"prune", "max-unused", "AMOUNT", "let so much stay unused rather than copy what is beside it (10%)"},
    {"prune", "max-repack", "SIZE", "copy no more than this in one run"},
    {"prune", "grace", "AGE", "between condemning and deleting (3d)"},
    {"prune", "now", "", "do not wait: for you who know that nothing else runs"},
    {"forget", "path", "PATTERN...",
     "take only what matches (as in .gitignore) out of the snapshots that would go"},
    {"forget", "purge", "", "with --path: out of all snapshots"},
    {"forget", "undo", "", "take the snapshots of these IDs back"},
    {"forget prune key", "yes", "", "do not ask"},
    {"forget prune", "n,dry-run", "", "say what would go, change nothing"},
    {"diff", "dir", "DIR",
     "compare this directory's content with the backup; only the list of files is downloaded"},
    {"du", "newer", "TIME", "only files that changed since then"},
    {"du", "unique", "", "what each snapshot holds that no other one does"},
    {"ls", "a,all", "", "every version of PATHs, with the snapshot that first had it"},
    {"ls", "l,long", "", "mode, owner, size and time too"},
    {"ls", "R,recursive", "", "everything below, too"},
};

bool has_word(std::string_view words, std::string_view word) {
    return (" " + std::string(words) + " ").find(" " + std::string(word) + " ") != std::string::npos;
}

std::string environment(const char* name) {
    const char* value = getenv(name);
    return value ? value : "";
}

/// A command line, taken apart. Whatever is given must mean something: a flag has no value, an option neither
/// an empty one nor two.
class Arguments {
  public:
    Arguments(std::string verb, int argc, char** argv) : verb_(std::move(verb)) {
        cxxopts::Options parser("nfreeze");
        auto add = parser.add_options();
        std::vector<const Option*> options;
        for (auto& o : kOptions)
            if (!*o.verbs || has_word(o.verbs, verb_)) options.push_back(&o);
        for (auto* o : options) {
            auto value = cxxopts::value<std::string>();
            if (!*o->argument || *o->argument == '[') value->implicit_value(kNothing);
            add(o->name, o->help, value);
        }
        parser.allow_unrecognised_options(); // operands: as a declared list they would be cut at commas
        try {
            parsed_ = parser.parse(argc, argv);
        } catch (const cxxopts::exceptions::exception& e) {
            throw wrong(e.what());
        }
        operands_ = parsed_.unmatched();
        auto dashes =
            std::min(size_t(std::find(argv, argv + argc, std::string_view("--")) - argv) + 1, size_t(argc));
        behind_dashes = size_t(argc) - dashes; // no options there
        for (size_t i = 0; i + behind_dashes < operands_.size(); ++i)
            if (operands_[i].size() > 1 && operands_[i][0] == '-')
                throw wrong(text("unknown option ", in_quotes(operands_[i])));
        for (auto* o : options) check(*o);
    }
    size_t behind_dashes = 0; // of the operands, the last so many
    const std::string& verb() const { return verb_; }
    bool flag(const char* name) const { return parsed_.count(name) > 0; }
    /// All options of these names with their values, in their order.
    std::vector<std::pair<std::string, std::string>> all(std::string_view names) const {
        std::vector<std::pair<std::string, std::string>> found;
        for (auto& o : parsed_.arguments())
            if (has_word(names, o.key())) found.emplace_back(o.key(), o.value());
        return found;
    }
    /// Of an option that may go without a value, "" if it does.
    std::string value(const char* name, const std::string& otherwise = "") const {
        auto given = flag(name) ? parsed_[name].as<std::string>() : otherwise;
        return given == kNothing ? "" : given;
    }
    int number(const char* name, int otherwise, int min, int max) const {
        if (!flag(name)) return otherwise;
        auto s = value(name);
        int n = 0;
        if (std::from_chars(s.data(), s.data() + s.size(), n).ptr != s.data() + s.size() || n < min ||
            n > max)
            throw Usage(text("--", name, " wants a number from ", min, " to ", max, ", not ", in_quotes(s)));
        return n;
    }
    const std::vector<std::string>& operands() const { return operands_; }
    Usage wrong(const std::string& what) const { return Usage(text(what, "; see: nfreeze help ", verb_)); }

  private:
    static constexpr const char* kNothing = "\n"; // in place of a value
    void check(const Option& o) const {
        std::string name = o.name;
        if (name[1] == ',') name.erase(0, 2);
        auto given = all(name);
        std::string_view argument = o.argument;
        for (auto& [key, value] : given) {
            if (argument.empty() && value != kNothing) throw wrong(text("--", name, " takes no value"));
            if (value.empty()) throw wrong(text("the value of --", name, " is empty"));
        }
        if (given.size() > 1 && !argument.empty() && !argument.ends_with("..."))
            throw wrong(text("--", name, " is given twice"));
    }
    std::string verb_;
    cxxopts::ParseResult parsed_;
    std::vector<std::string> operands_;
};

// ---- the passphrase -----------------------------------------------------------------

std::string first_line(std::string s) {
    size_t begin = s.starts_with("\xef\xbb\xbf") ? 3 : 0,
           end = s.find_first_of("\r\n"); // some editors begin with a mark
    std::string line = s.substr(begin, end == s.npos ? end : end - begin);
    wipe(s);
    return line;
}

std::string ask_passphrase(const std::string& question, bool twice) {
    auto s = ask(question, false);
    if (!twice || s.empty()) return s;
    auto again = ask("The same again: ", false);
    bool same = s == again;
    wipe(again);
    if (!same) throw Error("the two passphrases differ; nothing was changed");
    return s;
}

/// The passphrase, from where the user put it; never empty. `twice`: one that is typed is asked for again.
Secret get_passphrase(const Arguments& args, bool twice) {
    std::string s, from;
    if (args.flag("password-file")) {
        from = text("in ", in_quotes(args.value("password-file")));
        struct stat st;
        if (stat(args.value("password-file").c_str(), &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0044))
            say(text("warning: others can read ", in_quotes(args.value("password-file")), ": chmod 600 it"));
        s = first_line(read_small_file(args.value("password-file"), kKeyFileMax));
    } else if (args.flag("password-command")) {
        from = "from the password command";
        s = first_line(Command({"/bin/sh", "-c", args.value("password-command")}, "the password command")
                           .all_output(kKeyFileMax));
    } else if (getenv("NFREEZE_PASSWORD")) {
        from = "in NFREEZE_PASSWORD";
        s = first_line(environment("NFREEZE_PASSWORD"));
    } else {
        from = "given";
        if (!terminal())
            throw Error("there is no terminal to ask for the passphrase on: give --password-file or "
                        "--password-command, or set NFREEZE_PASSWORD");
        s = ask_passphrase("Passphrase of the repository: ", twice);
    }
    if (s.empty()) throw Error(text("the passphrase ", from, " is empty, which protects nothing"));
    Secret secret(s);
    wipe(s);
    return secret;
}

// ---- reaching the repository ----------------------------------------------------------

std::string user_name() {
    auto name = name_of_user(geteuid());
    return name.empty() ? environment("USER") : name;
}
/// The home directory that the system knows; empty where it knows none.
std::string registered_home() {
    auto* p = getpwuid(geteuid());
    return p ? p->pw_dir : account("passwd", text(geteuid()), 5).value_or("");
}
std::string home_directory() {
    if (auto home = environment("HOME"); !home.empty()) return home;
    auto home = registered_home();
    return home.empty() ? "/" : home;
}
std::string host_name() {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return name;
}

/// Fills in what ssh itself would use for this host, out of its own configuration (`config`: -F FILE). Where
/// there is no ssh, nothing is changed.
void ask_ssh(SshOptions& o, const std::string& config) {
    auto alias = o.host, home = home_directory(), known_home = registered_home();
    std::vector<std::string> with_config, words{"ssh", "-GT"};
    if (known_home.empty()) return; // ssh refuses to serve nobody
    if (!config.empty())
        with_config = {"-F", config};
    else if (home != known_home)
        with_config = {"-F", access((home + "/.ssh/config").c_str(), R_OK) == 0
                                 ? home + "/.ssh/config"
                                 : "none"}; // ssh does not look at HOME
    words.insert(words.end(), with_config.begin(), with_config.end());
    if (!o.user.empty()) words.insert(words.end(), {"-l", o.user});
    if (o.port) words.insert(words.end(), {"-p", std::to_string(o.port)});
    words.push_back(alias);
    std::multimap<std::string, std::string> said;
    try {
        std::istringstream lines(Command(words, "ssh -G").all_output(MiB));
        for (std::string key, value; lines >> key && std::getline(lines >> std::ws, value);)
            said.emplace(key, value);
    } catch (const NoProgram&) {
        return;
    }
    auto one = [&](const char* key) { return said.contains(key) ? said.find(key)->second : ""; };
    o.host = one("hostname");
    o.user = one("user");
    o.port = std::atoi(one("port").c_str());
    auto port = std::to_string(o.port), here = host_name(), hops = one("proxyjump"),
         its_key = one("hostkeyalias");
    if (hops == "none") hops.clear();
    std::array<uint8_t, 20> of_all;
    auto all = here + o.host + port + o.user + hops;
    CryptoPP::SHA1().CalculateDigest(of_all.data(), as_bytes(all).data(), all.size());
    const std::map<char, std::string> tokens{{'d', home},
                                             {'h', o.host},
                                             {'l', here},
                                             {'n', alias},
                                             {'p', port},
                                             {'r', o.user},
                                             {'u', user_name()},
                                             {'L', here.substr(0, here.find('.'))},
                                             {'i', text(geteuid())},
                                             {'k', its_key.empty() ? alias : its_key},
                                             {'C', hex(of_all)},
                                             {'j', hops}};
    auto expand = [&](const std::string& from) {
        std::string to;
        for (size_t i = 0; i < from.size(); ++i) {
            if (auto end = from.find('}', i); from.compare(i, 2, "${") == 0 && end != from.npos) {
                to += environment(from.substr(i + 2, end - i - 2).c_str());
                i = end;
                continue;
            }
            auto token =
                from[i] == '%' && i + 1 < from.size() ? tokens.find(from[++i]) : tokens.end(); // %% is %
            to += token == tokens.end() ? std::string(1, from[i]) : token->second;
        }
        return to.starts_with("~/") ? home + to.substr(1) : to;
    };
    for (auto [at, end] = said.equal_range("identityfile"); at != end; ++at)
        o.identities.push_back(expand(at->second));
    for (auto [at, end] = said.equal_range("certificatefile"); at != end; ++at)
        if (at->second != "none") o.certificates.push_back(expand(at->second));
    auto files_of = [&](const char* key) { // names are not quoted: where blanks are in one, the longest that
                                           // is there is meant
        auto theirs = known_home + "/.ssh/";
        for (std::string rest = one(key); !rest.empty();) {
            auto resolved = [&](size_t end) {
                auto file = rest.substr(0, end);
                return file.starts_with(theirs) ? home + "/.ssh/" + file.substr(theirs.size()) : expand(file);
            };
            size_t end = rest.size();
            while (end != rest.npos && access(resolved(end).c_str(), F_OK) != 0)
                end = end == 0 ? rest.npos : rest.rfind(' ', end - 1);
            if (end == rest.npos) end = std::min(rest.find(' '), rest.size());
            o.known_hosts.push_back(resolved(end));
            rest.erase(0, std::min(end + 1, rest.size()));
        }
    };
    if (o.known_hosts.empty()) files_of("userknownhostsfile");
    files_of("globalknownhostsfile");
    o.key_alias = its_key;
    auto strict = one("stricthostkeychecking"), preferred = one("preferredauthentications");
    o.accept_new |= has_word("no off false accept-new", strict);
    o.ask_unknown = !has_word("yes true", strict);
    auto wants = [&](const char* method, const char* option) {
        return !has_word("no false", one(option)) &&
               (preferred.empty() || preferred.find(method) != preferred.npos);
    };
    o.try_keys = wants("publickey", "pubkeyauthentication");
    o.try_passwords = wants("password", "passwordauthentication") ||
                      wants("keyboard-interactive", "kbdinteractiveauthentication");
    auto first = preferred.substr(0, preferred.find("publickey"));
    o.password_first = first.size() < preferred.size() && (first.find("password") != first.npos ||
                                                           first.find("keyboard-interactive") != first.npos);
    o.proxy_passes = one("proxyusefdpass") == "yes";
    o.only_identities = one("identitiesonly") == "yes";
    if (auto agent = one("identityagent"); agent != "SSH_AUTH_SOCK")
        o.agent = agent.starts_with('$') ? environment(&agent[1]) : expand(agent);
    if (auto command = one("proxycommand"); !command.empty())
        o.proxy = {"/bin/sh", "-c", "exec " + expand(command)};
    if (!hops.empty()) { // the last one connects, by way of those before it
        hops = expand(hops);
        auto comma = hops.rfind(',');
        o.proxy = {"ssh"};
        o.proxy.insert(o.proxy.end(), with_config.begin(), with_config.end());
        if (comma != hops.npos) o.proxy.insert(o.proxy.end(), {"-J", hops.substr(0, comma)});
        o.proxy.insert(o.proxy.end(), {"-W", text('[', o.host, "]:", o.port),
                                       "ssh://" + hops.substr(comma + 1)}); // npos + 1 is 0
    }
}

std::unique_ptr<Store> open_store(const Address& a, const Arguments& args) {
    SshOptions o; // what is wrong with the options is wrong for a local repository, too
    o.connections = args.number("connections", kConnections, 1, kConnectionsMax);
    o.upload_limit = KiB * uint64_t(args.number("limit-upload", 0, 1, INT_MAX));
    o.download_limit = KiB * uint64_t(args.number("limit-download", 0, 1, INT_MAX));
    o.timeout = std::chrono::seconds(args.number("timeout", kTimeout, 1, 3600));
    o.retry_for = std::chrono::seconds(args.number("retry-for", kRetryFor, 0, 7 * 86400));
    o.patient = args.flag("retry-for");
    if (!a.remote()) return std::make_unique<LocalStore>(a.path);
    o.path = a.path;
    o.terminal = have_terminal();
    o.say_walls = args.flag("verbose");
    o.host = a.host;
    o.user = a.user;
    o.port = a.port;
    for (auto& [option, file] : args.all("identity")) {
        if (access(file.c_str(), R_OK) != 0) throw system_error("read the identity file", file);
        o.identities.push_back(file);
    }
    if (args.flag("known-hosts")) o.known_hosts.push_back(args.value("known-hosts"));
    auto given = std::pair(o.identities.size(), o.known_hosts.size());
    ask_ssh(o, args.value("ssh-config"));
    auto ssh = home_directory() + "/.ssh/";
    if (o.user.empty()) o.user = user_name();
    if (!o.port) o.port = 22;
    if (o.identities.size() == given.first)
        for (auto* name : {"id_ed25519", "id_ecdsa", "id_rsa"}) o.identities.push_back(ssh + name);
    if (o.known_hosts.size() == given.second)
        o.known_hosts.insert(o.known_hosts.end(), {ssh + "known_hosts", "/etc/ssh/ssh_known_hosts"});
    o.pinned = args.value("host-key");
    if (!o.pinned.empty() && !o.pinned.starts_with("SHA256:"))
        throw Usage("--host-key wants a fingerprint that begins with SHA256:");
    while (o.pinned.ends_with('=')) o.pinned.pop_back();
    o.accept_new |= args.flag("accept-new-host-key");
    std::erase_if(o.known_hosts, [](auto& file) {
        if (access(file.c_str(), F_OK) != 0) return false;
        try {
            read_small_file(file, 16 * MiB);
            return false;
        } catch (const Error& e) {
            return say(text("warning: these known hosts are passed over: ", e.what())), true;
        }
    });
    return std::make_unique<WireStore>(o, g_outside->begin(o));
}

/// Shows how far a run is: four times a second on a terminal, in a line that is redrawn; with --progress once
/// a second, as a line or an object of its own; and whenever SIGUSR1 asks.
class Progress {
  public:
    enum Style { silent, redrawn, lines, objects };
    Progress(Store& store, Style style) : store_(store), style_(style), thread_([this] { run(); }) {}
    ~Progress() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        thread_.join();
        say("", true);
    }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

  private:
    void run() {
        std::unique_lock lock(mutex_);
        for (unsigned turn = 1;
             !wake_.wait_for(lock, std::chrono::milliseconds(250), [&] { return stopping_; }); ++turn) {
            if (std::exchange(phase_begun_, work_.begun.load()) != work_.begun.load() || work_.moved == 0)
                first_moved_ = Clock::now();
            if (turn % 4 == 0) measure();
            if (g_status_asked.exchange(false)) say(line());
            if (turn < 4 || !work_.phase) continue;
            struct winsize window {};
            if (style_ == redrawn && ioctl(2, TIOCGWINSZ, &window) == 0)
                say(line(window.ws_col > 1 ? window.ws_col - 1u : 79), true);
            if (turn % 4 != 0) continue;
            if (style_ == lines) say(line());
            if (style_ == objects) std::cout << object().line() + '\n' << std::flush;
        }
    }
    Json object() const {
        Json json;
        json.add("progress", true)
            .add("phase", phase())
            .add("files", work_.files.load())
            .add("bytes", work_.done.load());
        json.add("bytes_expected", work_.expected.load())
            .add("bytes_new", work_.fresh.load())
            .add("bytes_uploaded", sent());
        if (auto share = work_.share()) json.add("percent", uint64_t(*share * 100));
        if (auto left = seconds_left()) json.add("seconds_left", *left);
        return json;
    }
    /// From how fast it went in this phase since anything moved.
    std::optional<uint64_t> seconds_left() const {
        auto share = work_.share();
        auto since =
            std::chrono::duration<double>(Clock::now() - (work_.line > 0 ? first_moved_ : work_.begun.load()))
                .count();
        if (!share || *share <= 0 || since < 1 || work_.moved + work_.done == 0) return {};
        return uint64_t(since * (1 - *share) / *share);
    }
    /// Once a second: how fast the line is, of late.
    void measure() {
        auto now = Clock::now();
        double seconds = std::chrono::duration<double>(now - std::exchange(measured_, now)).count();
        uint64_t moved = work_.up + work_.down, fresh = moved - std::exchange(moved_, moved),
                 done = work_.done + work_.files;
        double rate = double(fresh) / seconds;
        rate_ = rate_ > 0 ? 0.7 * rate_ + 0.3 * rate : rate;
        if (std::exchange(done_, done) != done || fresh > 0) last_moved_ = now;
    }
    uint64_t sent() const {
        return std::max(work_.up.load(), work_.stored.load());
    } // nothing goes over a line to a local repository
    std::string phase() const {
        const char* phase = work_.phase;
        return phase ? phase : "starting";
    }
    /// What matters most comes first, and what does not fit into `width` characters is left out.
    std::string line(size_t width = SIZE_MAX) const {
        auto words = phase().substr(0, width);
        auto add = [&](const std::string& part) {
            if (words.size() + 2 + part.size() <= width) words += ", " + part;
        };
        auto now = Clock::now();
        uint64_t files = work_.files, done = work_.done, all = work_.expected, up = sent();
        if (auto still = now - last_moved_; still > std::chrono::seconds(5))
            add(text("waiting for ", store_.waiting() ? "the server" : "what it reads", " (",
                     still / std::chrono::seconds(1), " s)"));
        if (auto share = work_.share()) add(text(uint64_t(*share * 100), " %"));
        if (auto left = seconds_left().value_or(0); left >= 1)
            add(left < 120 ? text(left, " s left") : text(left / 60, " min left"));
        if (files > 0) add(text(files, " files"));
        if (done > 0) add(human_size(done) + (all >= done ? " of " + human_size(all) : ""));
        if (up > 0) add("sent " + human_size(up));
        if (work_.line > work_.moved + MiB && up > 0) add(human_size(work_.line - work_.moved) + " to send");
        if (rate_ >= 1) add(human_size(uint64_t(rate_)) + "/s");
        if (work_.fresh > 0) add(human_size(work_.fresh) + " new");
        return words;
    }
    Store& store_;
    const Work& work_ = store_.work;
    const Style style_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool stopping_ = false;
    Clock::time_point measured_ = Clock::now(), last_moved_ = measured_;
    Clock::time_point phase_begun_{}, first_moved_ = measured_; // in this phase
    uint64_t moved_ = 0, done_ = 0;
    double rate_ = 0; // bytes a second
    std::thread thread_;
};

/// What a verb works on.
struct Job {
    Arguments args;
    std::string repo_name;
    std::vector<std::string> operands; // without REPO
    std::unique_ptr<Store> store;
    std::unique_ptr<Repository> repo;
    std::optional<Progress> progress;

  private:
    std::optional<Secret> words_; // the passphrase, while it is needed
    Walls walls_;
    bool confined_ = false;

  public:
    static constexpr size_t kLast = SIZE_MAX;
    /// `position` is REPO's among the operands, of which there are at least `least` with it.
    Job(const Arguments& arguments, size_t position, size_t least, size_t most)
        : args(arguments), operands(args.operands()) {
        if (position == kLast) position = std::max(operands.size(), least) - 1;
        auto usual = environment("NFREEZE_REPOSITORY");
        // Where it is set, REPO may be left out: what stands in its place is REPO if it can be one.
        bool given =
            position < operands.size() && (operands[position].empty() || usual.empty() ||
                                           args.verb() == "init" || may_be_repository(operands[position]));
        if (!given && !usual.empty() && operands.size() < most)
            operands.insert(operands.begin() + long(std::min(position, operands.size())), "");
        if (operands.size() < least) {
            auto word = missing_word(operands.size());
            const char* unset = word == "REPO" ? " and NFREEZE_REPOSITORY is not set"
                                               : " (or REPO, if NFREEZE_REPOSITORY is not set)";
            throw args.wrong(text(word, " is missing", usual.empty() ? unset : ""));
        }
        if (operands.size() > most) throw args.wrong("there are too many words");
        repo_name = operands[position].empty() ? usual : operands[position];
        operands.erase(operands.begin() + long(position));
        if (repo_name.empty()) throw args.wrong("REPO is missing and NFREEZE_REPOSITORY is not set");
        if (std::ranges::count(operands, "") > 0)
            throw args.wrong("one of the words is empty, which means nothing");
    }
    static bool may_be_repository(const std::string& word) {
        size_t colon = word.find(':');
        return (colon != word.npos && colon < word.find('/')) || access((word + "/keys").c_str(), F_OK) == 0;
    }
    /// What the verb's operand number `at` is called.
    std::string missing_word(size_t at) const;
    bool quiet() const { return args.flag("quiet"); }
    bool json() const { return args.flag("json"); }
    /// What came of it: in words unless --quiet, or as an object with --json.
    void report(const std::string& words, const Json& object) const {
        say("", true); // the two streams may be one terminal
        if (json())
            std::cout << object.line() << std::endl;
        else if (!quiet())
            std::cout << words << std::endl;
    }
    int connections() const { return args.number("connections", kConnections, 1, kConnectionsMax); }

    Choice choice() const {
        return {lower(args.value("snapshot")), args.value("source"), args.value("host"), args.value("tag"),
                args.flag("at") ? parse_time(args.value("at")) : INT64_MAX};
    }

    void open_store() {
        if (store) return; // before there were secrets
        auto address = parse_address(repo_name);
        if (int given = args.number("port", 0, 1, 65535)) address.port = given;
        if (address.remote() && progress_style() == Progress::redrawn)
            say("connecting to " + show(address.host), true);
        store = ::open_store(address, args);
        store->patience = std::chrono::milliseconds(500);
        say("", true);
    }
    // ==> C3 C6
    /// The passphrase, which is asked for once: from then on this process has no network, and starts no
    /// program.
    const Secret& passphrase(bool twice = false) {
        if (words_) return *words_;
        auto words = get_passphrase(args, twice);
        confine(twice);
        words_.emplace(std::move(words));
        return *words_;
    }
    /// Puts the keeper behind its walls, before it has a secret of the repository.
    /// `makes`: the repository, whose directory could not be made any more.
    void confine(bool makes = false) {
        if (std::exchange(confined_, true)) return;
        (void)terminal(); // nothing can be opened to write later
        auto address = parse_address(repo_name);
        const bool restores = args.verb() == "restore",
                   writes = !address.remote() &&
                            has_word("init backup key check forget prune repair", args.verb());
        if (writes && makes) store->make_directory({}); // only what is there can be written below
        walls_.calls = confine_keeper(restores || writes ? Writes::files : Writes::nothing);
        if (!restores) confine_writing(writes ? address.path : "");
        if (!progress) progress.emplace(*store, progress_style());
    }
    /// From now on this process changes nothing but what lies below `path`; nothing at all where that is
    /// empty.
    void confine_writing(const std::string& path) {
        bool shown = progress.has_value();
        progress.reset(); // its thread would not be bound
        walls_.files = confine_files(path.empty() ? std::vector<std::string>{} : std::vector{path}, false);
        if (shown) progress.emplace(*store, progress_style());
        if (args.flag("verbose"))
            say(text("this process, with files and keys, is confined by ", walls_.words()));
        if (auto missing = missing_walls(walls_); !missing.empty()) say(missing);
    }
    // <== C3 C6

    Progress::Style progress_style() const {
        return args.flag("progress") ? (json() ? Progress::objects : Progress::lines)
               : isatty(2) && !quiet() && !json() && !args.flag("verbose") ? Progress::redrawn
                                                                           : Progress::silent;
    }
    void open(bool list_packs = true, bool to_repair = false) {
        open_store();
        try {
            repo = Repository::open(
                *store, [&] { return passphrase().clone(); }, list_packs, to_repair);
        } catch (const NotThere& e) {
            no_keys(e);
        }
        if (args.verb() != "key") words_.reset(); // which asks for it again
        store->work.pause();
        if (!args.flag("expect")) return;
        // Forgotten ones count: what is expected is that nothing was withheld, nor an old state shown.
        auto id = lower(args.value("expect"));
        if (id.size() < 8 || id.find_first_not_of("0123456789abcdef") != id.npos)
            throw Usage("--expect wants at least 8 digits of a snapshot's id");
        auto begins = [&](const SnapshotId& known) { return hex(known).starts_with(id); };
        bool known = std::ranges::any_of(repo->index.snapshots, [&](auto& s) { return begins(s.first); }) ||
                     std::ranges::any_of(repo->index.forgotten, begins);
        if (!known)
            throw Corrupt(text("the history that the server shows has no snapshot ", in_quotes(id),
                               ": it is an older one, or a part is withheld"));
    }
    /// Says what that means.
    [[noreturn]] void no_keys(const NotThere& e) const {
        bool rest = false;
        succeeds([&] {
            rest = std::ranges::any_of(store->list_all({}),
                                       [](auto& o) { return o.name == "index" || o.name == "packs"; });
        });
        if (rest && verb_needs_keys())
            throw Error(text("the keys of ", in_quotes(repo_name), " are lost (", e.what(),
                             "): a recovery sheet opens it again, see: nfreeze help key"));
        throw NotThere(text(in_quotes(repo_name), " is no repository (", e.what(),
                            "); make one with: nfreeze init ", show(repo_name)));
    }
    /// An init that broke off has made an index and no key: a backup offers to make the repository.
    bool verb_needs_keys() const { return args.verb() != "backup" || !store->list(Name::packs).empty(); }
    /// Cheaper keys than the default are for tests and for very small machines.
    static ScryptCost scrypt_cost() {
        ScryptCost cost;
        if (auto n = environment("NFREEZE_SCRYPT_LOGN"); !n.empty())
            cost.log_n = unsigned(std::atoi(n.c_str()));
        if (!cost.acceptable())
            throw Usage(text("NFREEZE_SCRYPT_LOGN wants a number from ", kScryptLogNMin, " to 18"));
        return cost;
    }
    static std::string label() { return user_name() + "@" + host_name(); }
    void init() {
        auto cost = scrypt_cost();
        Repository::init(*store, passphrase(true), cost, now_ns(), label());
    }
    /// Where the repository lies, if on this machine.
    std::optional<std::pair<dev_t, ino_t>> own_directory() const {
        struct stat st;
        auto address = parse_address(repo_name);
        if (address.remote() || stat(address.path.c_str(), &st) != 0) return {};
        return std::pair(st.st_dev, st.st_ino);
    }
    /// Throws Usage if `path`, which need not be there, is the repository or lies in it: --delete would take
    /// it away, and what is backed up would grow by itself.
    void check_outside(const std::string& path, const char* what) const {
        auto own = own_directory();
        std::string at = path;
        auto parent = [](const std::string& of) {
            size_t slash = of.rfind('/', of.find_last_not_of('/'));
            return slash == of.npos ? "." : slash == 0 ? "/" : of.substr(0, slash);
        };
        auto resolved = [](const std::string& of) {
            std::unique_ptr<char, decltype(&free)> real(realpath(of.c_str(), nullptr), free);
            return std::string(real ? real.get() : "");
        };
        while (own && resolved(at).empty() && at != "." && at != "/") at = parent(at);
        struct stat st;
        for (std::string above = resolved(at); own && !above.empty();
             above = above == "/" ? "" : parent(above))
            if (stat(above.c_str(), &st) == 0 && *own == std::pair(st.st_dev, st.st_ino))
                throw Usage(text(what, " ", in_quotes(path), " is the repository, or lies in it"));
    }
    /// The exit code of a verb that only reads: what is lost or doubtful may hide newer snapshots.
    Exit verdict() const { return repo->damage.empty() && repo->doubts.empty() ? Exit::ok : Exit::damaged; }
};

/// The worse of two exit codes.
Exit worse(Exit a, Exit b) {
    auto severity = [](Exit e) {
        return e == Exit::ok ? 0 : e == Exit::partial ? 1 : e == Exit::failed ? 2 : 3;
    };
    return severity(a) < severity(b) ? b : a;
}

// ---- the verbs --------------------------------------------------------------------------

Exit verb_init(const Arguments& args) {
    Job job(args, 0, 1, 1);
    job.open_store();
    job.init();
    if (!job.quiet())
        std::cout << "created the repository " << show(job.repo_name)
                  << "\nWithout its passphrase nobody can read it: keep that in a safe place, too.\n";
    return Exit::ok;
}

/// Opens the repository for a backup; where there is none, offers to make it.
void open_for_backup(Job& job) {
    try {
        job.open();
    } catch (const NotThere&) {
        bool empty = false;
        try {
            empty = job.store->list_all({}).empty();
        } catch (const NotThere&) {
            empty = true;
        }
        if (!empty || !have_terminal()) throw;
        if (!yes(ask(text("There is no repository at ", show(job.repo_name), " yet. Make one (yes/no)? "),
                     true)))
            throw;
        job.init();
        job.open();
    }
}

void report_backup(const Job& job, const BackupResult& r, uint64_t uploaded, Clock::time_point begun,
                   bool dry_run) {
    auto& c = r.snapshot.counts;
    auto bytes = [](uint64_t n) { return isatty(1) ? human_size(n) : text(n); };
    double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    Json json;
    json.add("snapshot", dry_run ? "" : hex(r.snapshot.id))
        .add("source", r.snapshot.source)
        .add("incomplete", r.snapshot.incomplete);
    json.add("new", c.new_files)
        .add("changed", c.changed_files)
        .add("unchanged", r.unchanged)
        .add("gone", r.gone)
        .add("unreadable", r.unreadable);
    json.add("bytes_read", r.bytes_read)
        .add("bytes_new", r.new_bytes)
        .add("bytes_uploaded", uploaded)
        .add("seconds", seconds);
    job.report(text("files: ", c.new_files, " new, ", c.changed_files, " changed, ", r.unchanged,
                    " unchanged, ", r.gone, " gone\nbytes: ", bytes(r.bytes_read), " read, ",
                    bytes(r.new_bytes), " new, ", bytes(uploaded), " uploaded\ntime: ", std::fixed,
                    std::setprecision(3), seconds, " s\n",
                    dry_run ? "dry run: nothing was sent" : "snapshot " + hex(r.snapshot.id),
                    r.snapshot.incomplete ? " (incomplete)" : ""),
               json);
}

uint64_t parse_size(const std::string& s) {
    uint64_t n = 0;
    auto end = std::from_chars(s.data(), s.data() + s.size(), n).ptr;
    std::string_view unit(end, size_t(s.data() + s.size() - end));
    size_t shift = unit.empty() ? 0 : 10 + 10 * std::min<size_t>(std::string_view("KMGT").find(unit[0]), 4);
    if (s.empty() || end == s.data() || unit.size() > 1 || shift > 40 || n > UINT64_MAX >> shift)
        throw Usage(text("a size is given as 500, 10K, 10M, 10G or 10T, not ", in_quotes(s)));
    return n << shift;
}

Selection parse_selection(const Arguments& args) {
    Selection selection;
    auto lines_of = [](const std::string& file, char end) {
        std::vector<std::string> lines;
        auto content = read_small_file(file, 64 * MiB);
        std::istringstream in(content.starts_with("\xef\xbb\xbf") ? content.substr(3) : content);
        for (std::string line; std::getline(in, line, end); lines.push_back(line))
            if (end == '\n' && line.ends_with('\r')) line.pop_back(); // of other systems
        return lines;
    };
    for (auto& [option, value] : args.all("exclude exclude-from"))
        for (auto& line : option == "exclude" ? std::vector{value} : lines_of(value, '\n'))
            selection.patterns.add(line);
    for (auto& [option, value] : args.all("exclude-if-present")) selection.skip_if_present.push_back(value);
    for (auto& [option, value] : args.all("files-from")) {
        if (!selection.only) selection.only.emplace();
        for (auto& line : lines_of(value, args.flag("from0") ? '\0' : '\n'))
            if (!line.empty()) selection.only->insert(plain_path(line));
    }
    if (selection.only && selection.only->contains("")) selection.only.reset(); // all of it
    selection.skip_caches = args.flag("exclude-caches");
    selection.one_file_system = args.flag("one-file-system");
    selection.copy_links = args.flag("copy-links");
    if (args.flag("exclude-larger-than")) selection.largest = parse_size(args.value("exclude-larger-than"));
    return selection;
}

BackupOptions parse_backup_options(const Job& job) {
    BackupOptions o;
    o.selection = parse_selection(job.args);
    o.allow_shrink = job.args.flag("allow-shrink");
    o.dry_run = job.args.flag("dry-run");
    o.checksum = job.args.flag("checksum");
    o.ignore_inode = job.args.flag("ignore-inode");
    o.ignore_ctime = job.args.flag("ignore-ctime");
    o.verbose = job.args.flag("verbose");
    o.json = job.json();
    o.connections = job.connections();
    o.count_ahead = job.progress_style() != Progress::silent;
    if (auto s = environment("NFREEZE_CHECKPOINT_SECONDS"); !s.empty())
        o.checkpoint = std::chrono::seconds(std::atoi(s.c_str()));
    if (auto s = environment("NFREEZE_RACY_SECONDS"); !s.empty()) o.racy = std::atoi(s.c_str());
    o.skip = job.own_directory();
    return o;
}

Sample parse_sample(const std::string& s) {
    Sample sample;
    if (s.empty()) return sample;
    uint64_t n = 0, of = 0;
    if (s.starts_with("newer:")) {
        auto age = parse_age(s.substr(6));
        if (!age) throw Usage(text("an age is given as newer:7d, not ", in_quotes(s)));
        sample.newer = *age;
        return sample;
    }
    if (s.starts_with("files:")) {
        sample.files = s == "files:all" ? Sample::kAllFiles : parse_size(s.substr(6));
        if (sample.files == Sample::kAllFiles) return sample;
        if (sample.files < 1 || sample.files > 1'000'000)
            throw Usage("between 1 and 1000000 files can be read");
        return sample;
    }
    auto end = s.data() + s.size(), at = std::from_chars(s.data(), end, n).ptr;
    if (at + 1 == end && *at == '%' && n <= 100) {
        sample.share = double(n) / 100;
    } else if (at != end && *at == '/') {
        if (std::from_chars(at + 1, end, of).ptr != end || n < 1 || n > of)
            throw Usage(text("a part is given as 3/7, not ", in_quotes(s)));
        sample.part = n - 1;
        sample.parts = of;
    } else {
        sample.bytes = parse_size(s);
    }
    return sample;
}

/// What --verify asks for, if it is given.
std::optional<Sample> parse_verify(const Job& job) {
    if (!job.args.flag("verify")) return {};
    auto sample = parse_sample(job.args.value("verify"));
    if (sample.files > 0 || sample.newer != INT64_MAX)
        throw Usage("--verify wants an amount, such as 10% or 500M");
    sample.of_this_run = true;
    return sample;
}

/// Reads back what this run has stored, or so much of it.
Exit verify(const Job& job, const Sample& sample) {
    CheckResult r;
    Check(*job.repo, job.connections()).run(&sample, true, r);
    job.report(text("verified: ", r.packs_read, " packs, ", human_size(r.bytes_read), "; errors: ", r.errors),
               Json()
                   .add("packs_read", r.packs_read)
                   .add("bytes_read", r.bytes_read)
                   .add("errors", uint64_t(r.errors)));
    return r.errors > 0 ? Exit::damaged : Exit::ok;
}

/// Backs up one source, or the stream in its place, and says what came of it.
Exit back_up(Job& job, const std::string& source, const Stream* stream) {
    auto begun = Clock::now();
    uint64_t uploaded = job.store->work.stored;
    Snapshot record;
    record.host = job.args.value("host", host_name());
    record.user = user_name();
    record.version = NFREEZE_VERSION;
    for (auto& [option, tag] : job.args.all("tag")) record.tags.push_back(tag);
    auto o = parse_backup_options(job);
    auto result = Backup(*job.repo, o).run(source, record, stream);
    if (!result.refused.empty()) {
        say(text("cannot back up ", in_quotes(source), ": ", result.refused,
                 ": nothing was committed; if that is right, say --allow-shrink"));
        return Exit::failed;
    }
    report_backup(job, result, job.store->work.stored - uploaded, begun, o.dry_run);
    if (!job.repo->damage.empty()) return Exit::damaged;
    return result.snapshot.incomplete ? Exit::partial : Exit::ok;
}

Exit verb_backup_stream(const Arguments& args) {
    Job job(args, 0, 1, SIZE_MAX);
    Stream stream;
    stream.name = plain_path(job.args.value("stdin-name"));
    if (stream.name.empty() || !is_safe_path(stream.name))
        throw Usage("--stdin-name wants the name of a file");
    stream.may_be_empty = job.args.flag("allow-empty");
    auto sample = parse_verify(job);
    bool command = job.args.flag("stdin-from-command");
    if (job.operands.size() != job.args.behind_dashes || command == job.operands.empty())
        throw Usage(
            "with --stdin-name there is no SRC; with --stdin-from-command a command follows behind --");
    std::optional<Command> running;
    if (command) running.emplace(job.operands, job.operands[0], Command::held);
    open_for_backup(job);
    if (command) {
        running->go();
        stream.fd = running->output.get();
        stream.ended = [&] { running->wait(); };
    }
    auto code = back_up(job, stream.name, &stream);
    return sample ? worse(code, verify(job, *sample)) : code;
}

Exit verb_backup(const Arguments& args) {
    if (args.flag("stdin-name")) return verb_backup_stream(args);
    Job job(args, Job::kLast, 2, SIZE_MAX);
    auto worst = Exit::ok;
    std::vector<std::string> sources;
    for (auto& operand : job.operands) {
        std::unique_ptr<char, decltype(&free)> source(realpath(operand.c_str(), nullptr), free);
        auto missing = system_error("back up", operand);
        if (!source && job.operands.size() == 1) throw missing;
        if (source) job.check_outside(source.get(), "SRC");
        if (source)
            sources.push_back(source.get());
        else
            say(missing.what()), worst = Exit::failed; // the others are backed up
    }
    parse_backup_options(job); // what is wrong with them is said before anything is asked
    auto sample = parse_verify(job);
    open_for_backup(job);
    for (auto& source : sources) {
        try {
            worst = worse(worst, back_up(job, source, nullptr));
        } catch (const Error& e) {
            if (e.exit != Exit::failed || e.no_room || e.exhausted || sources.size() == 1) throw;
            say(e.what()); // the others may do better
            worst = worse(worst, e.exit);
        }
    }
    return sample ? worse(worst, verify(job, *sample)) : worst;
}

/// A path as the user typed it or as `ls` printed it, in the form the tree has.
std::string clean_path(const std::string& typed) { return plain_path(unshow(typed)); }

RestoreOptions parse_restore_options(const Job& job) {
    RestoreOptions o;
    o.overwrite = job.args.flag("overwrite");
    o.remove = job.args.flag("delete");
    o.allow_shrink = job.args.flag("allow-shrink");
    o.dry_run = job.args.flag("dry-run");
    o.verbose = job.args.flag("verbose");
    o.json = job.json();
    o.connections = job.connections();
    o.skip = job.own_directory();
    for (size_t i = 1; i < job.operands.size(); ++i) o.paths.push_back(unshow(job.operands[i]));
    return o;
}

/// Restores a snapshot, or a part of it, and says what came of it.
Exit restore(const Job& job, const Snapshot& snapshot, const RestoreOptions& o, const std::string& dest) {
    RestoreResult r;
    Restore(*job.repo, snapshot, o).run(dest, r);
    for (auto& path : r.missing) say(text("the snapshot has no ", in_quotes(path)));
    uint64_t failed = r.failed + r.damaged;
    Json json;
    json.add("snapshot", hex(snapshot.id)).add("dest", dest).add("restored", uint64_t(r.restored));
    json.add("bytes", uint64_t(r.bytes)).add("in_place", uint64_t(r.in_place));
    json.add("kept", uint64_t(r.kept))
        .add("deleted", uint64_t(r.removed))
        .add("failed", failed)
        .add("missing", r.missing);
    json.add("incomplete", snapshot.incomplete).add("deletion_refused", r.deletion_refused);
    json.add("owners_not_set", uint64_t(r.no_owner))
        .add("devices_left_out", uint64_t(r.no_device))
        .add("attributes_not_set", uint64_t(r.no_xattr));
    std::string no_rights;
    if (r.no_owner + r.no_device + r.no_xattr > 0)
        no_rights = text("for lack of rights or of support by the file system, not set: ", r.no_owner,
                         " owners, ", r.no_device, " devices, ", r.no_xattr, " attributes\n");
    job.report(text(o.dry_run ? "would be restored: " : "restored: ", r.restored, " files, ",
                    human_size(r.bytes), "; in place: ", r.in_place, "; kept: ", r.kept, "; deleted: ",
                    r.removed, "; failed: ", failed, '\n', no_rights, "snapshot ", hex(snapshot.id), " of ",
                    show(snapshot.host), ':', show(snapshot.source), ", ", date_time(snapshot.time)),
               json);
    if (r.damaged > 0) return Exit::damaged;
    if (job.verdict() != Exit::ok) return job.verdict();
    if (r.kept + r.failed > 0 || !r.missing.empty() || r.deletion_refused)
        return r.restored + r.in_place == 0 && !r.missing.empty() ? Exit::failed : Exit::partial;
    return Exit::ok;
}

// ==> C6
/// Makes DEST: nothing can be written but below it from then on.
void prepare_destination(Job& job, const RestoreOptions& o) {
    if (!o.dry_run) make_directories(job.operands[0], 0777);
    job.confine_writing(o.dry_run ? "" : job.operands[0]);
}
// <== C6

/// Restores every version of some paths, each into a directory named after the time of the first snapshot
/// that has it.
Exit restore_all_versions(Job& job) {
    auto o = parse_restore_options(job);
    if (o.paths.empty()) throw Usage("--all-versions wants a PATH");
    bool damaged = false;
    std::vector<std::string> missing;
    for (size_t i = 1; i < job.operands.size(); ++i) missing.push_back(unshow(job.operands[i]));
    std::map<const Snapshot*, std::vector<std::string>> wanted;
    for (auto& [path, versions] :
         find_versions(*job.repo, chosen_snapshots(*job.repo, job.choice()), missing, damaged))
        for (auto& v : versions) wanted[v.first].push_back(path);
    for (auto& name : missing) say(text("no snapshot has ", in_quotes(name)));
    auto worst = worse(damaged ? Exit::damaged : missing.empty() ? Exit::ok : Exit::failed, job.verdict());
    prepare_destination(job, o);
    for (auto& [snapshot, paths] : wanted) {
        o.paths = paths;
        auto name =
            local_time(snapshot->time / 1'000'000'000, "%Y-%m-%d_%H.%M.%S") + "_" + short_id(snapshot->id);
        worst = worse(worst, restore(job, *snapshot, o, job.operands[0] + "/" + name));
    }
    return worst;
}

Exit verb_restore(const Arguments& args) {
    Job job(args, 0, 2, SIZE_MAX);
    if (job.operands[0] == "latest" && access("latest", F_OK) != 0)
        throw Usage("DEST is missing: the newest snapshot is restored unless --snapshot says which; a "
                    "directory of that name is ./latest");
    job.check_outside(job.operands[0], "DEST");
    job.open();
    if (job.args.flag("all-versions")) return restore_all_versions(job);
    auto& snapshot = choose_snapshot(*job.repo, job.choice());
    std::unique_ptr<char, decltype(&free)> dest(realpath(job.operands[0].c_str(), nullptr), free);
    if (dest && std::string_view(dest.get()) == "/" && snapshot.source != "/" && job.args.flag("delete"))
        throw Usage("--delete would empty this machine: DEST is /, and the snapshot is not of /");
    auto o = parse_restore_options(job);
    prepare_destination(job, o);
    return restore(job, snapshot, o, job.operands[0]);
}

Exit verb_snapshots(const Arguments& args) {
    Job job(args, 0, 1, 1);
    job.open(false);
    print_snapshots(chosen_snapshots(*job.repo, job.choice(), job.args.flag("forgotten")), job.json());
    return job.verdict();
}

/// Every version of some paths, with the snapshot that first had it.
void print_versions(const Job& job, std::vector<std::string>& names, bool& damaged) {
    std::vector<std::vector<std::string>> rows;
    for (auto& [path, versions] :
         find_versions(*job.repo, chosen_snapshots(*job.repo, job.choice()), names, damaged))
        for (auto& [first, e] : versions) {
            auto id = hex(first->id);
            rows.push_back({id.substr(0, 8), date_time(first->time), text(e.size),
                            local_time(e.mtime.seconds, "%Y-%m-%d %H:%M:%S"), show(path)});
            if (job.json())
                std::cout << Json()
                                 .add("path", path)
                                 .add("snapshot", id)
                                 .add("time", json_time(first->time / 1'000'000'000))
                                 .add("size", e.size)
                                 .add("mtime", json_time(e.mtime.seconds))
                                 .line()
                          << '\n';
        }
    if (!job.json()) print_table(rows, {2});
}

Exit verb_ls(const Arguments& args) {
    Job job(args, 0, 1, SIZE_MAX);
    job.open(false);
    ListOptions o;
    o.details = job.args.flag("long");
    o.recursive = job.args.flag("recursive");
    o.json = job.json();
    for (auto& name : job.operands) o.names.push_back(unshow(name));
    bool damaged = false;
    std::vector<std::string> missing = o.names;
    if (job.args.flag("all"))
        print_versions(job, missing, damaged);
    else
        missing = Lister(*job.repo, choose_snapshot(*job.repo, job.choice()), o).run(damaged);
    for (auto& path : missing) say(text("the snapshot has no ", in_quotes(path)));
    return damaged                     ? Exit::damaged
           : job.verdict() != Exit::ok ? job.verdict()
           : missing.empty()           ? Exit::ok
                                       : Exit::failed;
}

Exit verb_diff(const Arguments& args) {
    Job job(args, 0, 2, 3);
    bool disk = job.args.flag("dir");
    if (disk && job.operands.size() > 1) throw Usage("with --dir one ID is given; see: nfreeze help diff");
    job.open(disk);
    auto one = [&](const std::string& id) -> const Snapshot& {
        return choose_snapshot(*job.repo, {lower(id), "", "", "", INT64_MAX});
    };
    auto& from = one(job.operands[0]);
    if (disk) { // a backup that compares content and sends nothing
        BackupOptions o;
        o.against = &from;
        o.dry_run = o.checksum = o.verbose = true;
        o.json = job.json();
        o.skip = job.own_directory();
        std::unique_ptr<char, decltype(&free)> dir(realpath(job.args.value("dir").c_str(), nullptr), free);
        if (!dir) throw system_error("compare with", job.args.value("dir"));
        auto r = Backup(*job.repo, o).run(dir.get(), {});
        return r.unreadable > 0 ? Exit::partial : job.verdict();
    }
    Choice newest{"", from.source, from.host, "", INT64_MAX}; // of the same source
    auto& to = job.operands.size() > 1 ? one(job.operands[1]) : choose_snapshot(*job.repo, newest);
    return print_difference(*job.repo, from, to, job.json()) ? job.verdict() : Exit::damaged;
}

/// Rows of a name and a size, the largest first, with a bar.
void print_sizes(const Job& job, const char* what, const std::map<std::string, Space>& sizes) {
    std::vector<std::pair<std::string, Space>> sorted(sizes.begin(), sizes.end());
    std::ranges::stable_sort(sorted, std::greater{}, [](auto& p) { return p.second.bytes; });
    std::vector<std::vector<std::string>> rows;
    for (auto& [name, usage] : sorted) {
        if (job.json())
            std::cout << Json().add(what, name).add("files", usage.files).add("bytes", usage.bytes).line()
                      << '\n';
        double share = sorted[0].second.bytes ? double(usage.bytes) / double(sorted[0].second.bytes) : 0;
        rows.push_back({human_size(usage.bytes), std::string(size_t(share * 20 + 0.5), '#'), show(name)});
    }
    if (!job.json()) print_table(rows, {0});
}

Exit verb_du(const Arguments& args) {
    Job job(args, 0, 1, 2);
    job.open(false);
    bool damaged = false;
    if (job.args.flag("unique")) {
        auto all = chosen_snapshots(*job.repo, job.choice());
        std::map<std::string, Space> sizes;
        auto unique = unique_bytes(*job.repo, job.repo->snapshots(), damaged);
        for (auto* s : all) {
            auto words = text(short_id(s->id), "  ", date_time(s->time), "  ", s->host, ":", s->source);
            sizes[job.json() ? hex(s->id) : words] = {s->counts.files + s->counts.others, unique[s->id]};
        }
        print_sizes(job, "snapshot", sizes);
    } else {
        int64_t since =
            job.args.flag("newer") ? parse_time(job.args.value("newer"), false) / 1'000'000'000 : INT64_MIN;
        auto top = job.operands.empty() ? "" : clean_path(job.operands[0]);
        print_sizes(job, "path",
                    disk_usage(*job.repo, choose_snapshot(*job.repo, job.choice()), top, since, damaged));
    }
    return damaged ? Exit::damaged : job.verdict();
}

/// Asks on a terminal; elsewhere only --yes will do.
void confirm(const Job& job, const std::string& question) {
    if (job.args.flag("yes")) return;
    if (!have_terminal())
        throw Usage(
            "this asks on a terminal only: say --yes elsewhere, or --dry-run to see what would happen");
    if (!yes(ask(question + " (yes/no)? ", true))) throw Error("nothing was changed");
}

Secret new_passphrase(const Arguments& args) {
    std::string s;
    if (args.flag("new-password-file")) {
        s = first_line(read_small_file(args.value("new-password-file"), kKeyFileMax));
    } else if (!terminal()) {
        throw Error("there is no terminal to ask for the new passphrase on: give --new-password-file");
    } else {
        s = ask_passphrase("New passphrase: ", true);
    }
    if (s.empty()) throw Error("the new passphrase is empty, which protects nothing");
    Secret secret(s);
    wipe(s);
    return secret;
}

/// The lines of a recovery sheet, asked for one by one. Owned and wiped by the caller.
std::string typed_sheet() {
    std::string sheet;
    sheet.reserve(kNameMax);
    for (int line = 1; line <= 4;) {
        auto typed = ask(text("line ", line, ": "), true);
        if (!typed.starts_with(char('0' + line))) typed.insert(0, text(line, " "));
        try {
            read_recovery_line(typed);
            sheet += typed + '\n';
            ++line;
        } catch (const Error& e) {
            say(e.what());
        }
        wipe(typed);
    }
    return sheet;
}

/// Makes a key object with a new passphrase from a recovery sheet, without any of those that are there.
Exit import_key(Job& job) {
    job.open_store();
    job.confine();
    std::string content;
    content.reserve(kKeyFileMax); // so that no copy is left behind where it grew
    if (job.operands[1] == "-" && isatty(0))
        content = typed_sheet();
    else
        content = read_small_file(job.operands[1] == "-" ? "/dev/stdin" : job.operands[1], kKeyFileMax);
    Secret sheet(content);
    wipe(content);
    auto master = read_recovery_sheet({sheet.chars(), sheet.size()});
    try {
        Repository::try_key(*job.store, master);
    } catch (const Corrupt&) {
        throw Error("this recovery sheet is not of this repository, or its index is lost", Exit::passphrase);
    }
    job.store->make_directory(Name::keys);
    auto name = Repository::add_key(*job.store, master, new_passphrase(job.args), Job::scrypt_cost(),
                                    now_ns(), Job::label());
    job.report("added the key " + short_id(name.hash), Json().add("added", hex(name.hash)));
    return Exit::ok;
}

Exit verb_key(const Arguments& args) {
    Job job(args, 1, 2, 3);
    auto& action = job.operands[0];
    if (!has_word("list add remove passwd export import", action) ||
        has_word("remove import", action) != (job.operands.size() == 2))
        throw Usage("give list, add, passwd, export, remove with an ID, or import with a FILE; see: nfreeze "
                    "help key");
    if (action == "import") return import_key(job);
    job.args.flag("expect") ? job.open(false) : job.open_store();
    Repository::KeyObjects keys;
    try {
        keys = Repository::read_keys(*job.store);
    } catch (const NotThere& e) {
        job.no_keys(e);
    }
    auto& passphrase = job.passphrase();
    auto master = Repository::unlock(keys, passphrase);
    auto remove = [&](const ObjectInfo& o) {
        job.store->remove(o.name);
        job.report("removed the key " + short_id(o.name.hash), Json().add("removed", hex(o.name.hash)));
    };
    if (action == "export") { // the only way out for a secret (I8)
        auto sheet = recovery_sheet(master);
        std::cout << "Recovery sheet of the nfreeze repository " << show(job.repo_name) << "\n\n"
                  << std::flush;
        write_full(1, as_bytes(sheet), "standard output");
        wipe(sheet);
        std::cout << "\nWho has this can read all backups in it. To open it with a new passphrase:\n"
                     "  nfreeze key import REPO FILE   (or - and type the four lines)"
                  << std::endl;
    } else if (action == "list") {
        std::vector<std::vector<std::string>> rows{{"ID", "TIME", ""}};
        for (auto& [o, bytes] : keys.whole) {
            bool opens = Keys::open_master(bytes, passphrase).has_value();
            rows.push_back({short_id(o.name.hash), local_time(o.mtime, "%Y-%m-%d %H:%M:%S"),
                            opens ? "this passphrase" : ""});
            if (job.json())
                std::cout << Json()
                                 .add("id", hex(o.name.hash))
                                 .add("time", json_time(o.mtime))
                                 .add("opens", opens)
                                 .line()
                          << '\n';
        }
        if (!job.json()) print_table(rows, {});
    } else if (action == "remove") {
        auto begins = [&](const ObjectInfo& o) { return hex(o.name.hash).starts_with(job.operands[1]); };
        std::set<Name> in_use;
        for (auto& [o, bytes] : keys.whole)
            if (begins(o) && Keys::open_master(bytes, passphrase)) in_use.insert(o.name);
        std::erase_if(keys.listed, [&](auto& o) { return !begins(o); });
        if (keys.listed.size() != 1)
            throw Usage(text(keys.listed.size(), " keys begin with ", in_quotes(job.operands[1]),
                             "; see: nfreeze key list"));
        std::erase_if(keys.whole, [&](auto& k) { return k.first.name == keys.listed[0].name; });
        if (keys.whole.empty())
            throw Error(
                "this is the last key: without it nobody could read the repository; nothing was changed");
        if (in_use.contains(keys.listed[0].name))
            confirm(job, "That is the key of the passphrase that was given. Remove it");
        remove(keys.listed[0]);
    } else {
        auto name = Repository::add_key(*job.store, master, new_passphrase(job.args), Job::scrypt_cost(),
                                        now_ns(), Job::label(), action == "passwd");
        job.report("added the key " + short_id(name.hash), Json().add("added", hex(name.hash)));
        for (auto& [o, bytes] : keys.whole)
            if (action == "passwd" && Keys::open_master(bytes, passphrase)) remove(o);
    }
    return Exit::ok;
}

Exit verb_cat(const Arguments& args) {
    Job job(args, 0, 2, 2);
    job.open();
    print_file(*job.repo, choose_snapshot(*job.repo, job.choice()), clean_path(job.operands[0]));
    return job.verdict();
}

/// Tries on an object of its own what ransomware would do. Returns whether the server refused all of it.
bool is_append_only(const Job& job) {
    auto& store = *job.store;
    auto junk = Sealer(job.repo->keys, kPackLabel).finish().sealed;
    auto name = junk.name(), other = pack_name(sha256(name.hash));
    store.create(junk);
    bool refused = true;
    auto attempt = [&](const char* what, auto f) {
        bool done = succeeds(f);
        job.report(text(done ? "the server let an object be " : "refused: an object cannot be ", what),
                   Json().add("attempt", std::string(what)).add("refused", !done));
        refused &= !done;
        return done;
    };
    attempt("truncated", [&] { store.truncate(name); });
    bool renamed = attempt("renamed", [&] { store.rename(name, other); });
    attempt("removed", [&] { store.remove(renamed ? other : name); });
    return refused;
}

Exit verb_check(const Arguments& args) {
    Job job(args, 0, 1, 1);
    if (job.args.flag("append-only")) {
        job.open(false);
        bool refused = is_append_only(job);
        if (refused || job.json())
            job.report("the server is append-only: who takes over this machine cannot destroy what is there",
                       Json().add("append_only", refused));
        if (!refused) say("the server is NOT append-only");
        return refused ? Exit::ok : Exit::failed;
    }
    bool read = job.args.flag("read-data");
    auto sample = parse_sample(job.args.value("read-data"));
    job.open();
    CheckResult r;
    Check(*job.repo, job.connections()).run(read ? &sample : nullptr, job.quiet() || job.json(), r);
    auto packs = job.repo->index.packs().size();
    Json json;
    json.add("snapshots", r.snapshots).add("packs", packs).add("packs_read", r.packs_read);
    json.add("bytes_read", r.bytes_read).add("errors", uint64_t(r.errors));
    auto contents = !read ? std::string("contents were not read (--read-data)")
                          : text(sample.files ? "files" : text(r.packs_read, " of them"), " read (",
                                 human_size(r.bytes_read), ")");
    job.report(
        text("checked: ", r.snapshots, " snapshots, ", packs, " packs, ", contents, "; errors: ", r.errors),
        json);
    return r.errors > 0 ? Exit::damaged : job.verdict();
}

Exit verb_repair(const Arguments& args) {
    Job job(args, 0, 1, 1);
    job.open(false, true); // packs/ is listed by the repair
    auto r = Repair(*job.repo, job.connections()).run();
    job.repo->index.see(job.store->list(Name::packs));
    CheckResult left;
    Check(*job.repo, job.connections()).run(nullptr, true, left);
    Json json;
    json.add("packs_read", r.read)
        .add("packs_adopted", r.adopted)
        .add("snapshots_adopted", r.snapshots)
        .add("packs_damaged", r.damaged);
    json.add("packs_unreadable", r.unreadable)
        .add("chunks_saved", r.saved)
        .add("chunks_lost", r.lost)
        .add("errors_left", uint64_t(left.errors));
    job.report(text("read: ", r.read, " packs; listed anew: ", r.adopted, ", with ", r.snapshots,
                    " snapshots\ndamaged: ", r.damaged, " packs; of the chunks in them ", r.saved,
                    " were saved, ", r.lost, " cannot be had",
                    r.unreadable == 0 ? ""
                                      : text("\nwhat was in ", r.unreadable,
                                             " of these packs nobody can tell: "
                                             "snapshots may have been among it"),
                    left.errors == 0 ? ""
                                     : text("\nlost: ", left.errors,
                                            " files, named above. A backup sends again "
                                            "what is still on the disk; the rest can be forgotten")),
               json);
    return left.errors + r.unreadable > 0 ? Exit::damaged : Exit::ok;
}

Keep parse_keep(const Arguments& args) {
    Keep keep;
    for (auto& rule : keep.rules) rule.number = args.number(rule.option, 0, 1, INT_MAX);
    if (args.flag("keep-within")) {
        if (!parse_age(args.value("keep-within")))
            throw Usage(text("--keep-within wants an age such as 12h, 30d or 8w, not ",
                             in_quotes(args.value("keep-within"))));
        keep.since = parse_time(args.value("keep-within"));
    }
    for (auto& [option, tag] : args.all("keep-tag")) keep.tags.push_back(tag);
    return keep;
}

/// The snapshots whose ids begin so, each of them one.
std::vector<const Snapshot*> find_snapshots(const std::vector<const Snapshot*>& all,
                                            const std::vector<std::string>& ids) {
    std::vector<const Snapshot*> found;
    for (auto& id : ids) {
        size_t before = found.size();
        std::ranges::copy_if(all, std::back_inserter(found),
                             [&](auto* s) { return hex(s->id).starts_with(lower(id)); });
        if (found.size() - before != 1)
            throw Usage(text(found.size() - before, " snapshots begin with ", in_quotes(id),
                             "; see: nfreeze snapshots"));
    }
    return found;
}

/// What the rules drop, by host and source, and why the others stay; says which snapshots are from the
/// future.
std::vector<const Snapshot*> dropped(const Repository& repo, const std::vector<const Snapshot*>& all,
                                     const Keep& keep, Keep::Reasons& reasons) {
    std::map<std::pair<std::string, std::string>, std::vector<const Snapshot*>> groups;
    for (auto* s : all) groups[{s->host, s->source}].push_back(s);
    std::vector<const Snapshot*> gone;
    for (auto& [name, group] : groups) {
        auto kept = keep.chosen(group, repo.now);
        for (auto* s : group) {
            if (repo.is_from_future(*s))
                say(text("snapshot ", short_id(s->id), " is from the future and is kept; a clock was wrong"));
            if (!kept.contains(s->id)) gone.push_back(s);
        }
        reasons.merge(kept);
    }
    return gone;
}

/// Takes what matches --path out of these snapshots.
Exit forget_by_path(Job& job, std::vector<const Snapshot*> from) {
    Patterns patterns;
    for (auto& [option, pattern] : job.args.all("path")) patterns.add(pattern);
    auto verdict = job.verdict();
    std::erase_if(from, [&](auto* s) {
        uint64_t entries = 0;
        try {
            entries = for_not_matching(*job.repo, *s, patterns, [](auto&) {});
        } catch (const Corrupt& e) {
            say(e.what());
            verdict = Exit::damaged;
        }
        if (entries > 0)
            job.report(
                text(entries, entries == 1 ? " entry goes from " : " entries go from ", short_id(s->id)),
                Json().add("snapshot", hex(s->id)).add("entries", entries));
        return entries == 0;
    });
    if (from.empty() && verdict == Exit::ok && job.args.flag("purge"))
        throw Error("no snapshot has anything that matches (patterns are relative to SRC, as in .gitignore): "
                    "nothing was changed");
    if (!job.quiet()) print_snapshots(from, job.json(), "written anew");
    if (from.empty() || job.args.flag("dry-run")) return verdict;
    confirm(job, text("Change ", from.size(), " snapshots"));
    forget_paths(*job.repo, from, patterns, job.connections());
    return verdict;
}

Exit verb_forget(const Arguments& args) {
    Job job(args, 0, 1, SIZE_MAX);
    auto keep = parse_keep(job.args);
    bool purge = job.args.flag("purge"), by_path = job.args.flag("path");
    if (int(keep.any()) + int(!job.operands.empty()) + int(purge) != 1 || (purge && !by_path))
        throw Usage("give either rules (--keep-...), or the IDs of snapshots, or --purge with --path; see: "
                    "nfreeze help forget");
    job.open(by_path || job.args.flag("undo"));
    if (job.args.flag("undo")) {
        for (auto* s : find_snapshots(job.repo->snapshots(true), job.operands)) {
            if (job.args.flag("dry-run")) continue; // that it can be found is all that can be said
            auto id = hex(unforget(*job.repo, *s, job.connections()));
            job.report("snapshot " + id, Json().add("snapshot", id));
        }
        return job.verdict();
    }
    auto all = chosen_snapshots(*job.repo, job.choice());
    Keep::Reasons reasons;
    auto gone = purge        ? all
                : keep.any() ? dropped(*job.repo, all, keep, reasons)
                             : find_snapshots(all, job.operands);
    if (by_path) return forget_by_path(job, gone);
    std::erase_if(all, [&](auto* s) { return std::ranges::count(gone, s) > 0; });
    if (!job.quiet()) {
        print_snapshots(all, job.json(), "stay", reasons);
        print_snapshots(gone, job.json(), "go");
    }
    if (gone.empty() || job.args.flag("dry-run")) return job.verdict();
    confirm(job, text("Forget ", gone.size(), " snapshots"));
    forget(*job.repo, gone);
    return job.verdict();
}

PruneOptions parse_prune_options(const Job& job) {
    PruneOptions o;
    auto amount = job.args.value("max-unused", "10%");
    if (amount.ends_with('%')) {
        auto last = amount.data() + amount.size() - 1;
        unsigned percent = 0;
        if (amount.size() < 2 || std::from_chars(amount.data(), last, percent).ptr != last || percent > 100)
            throw Usage(text("--max-unused wants a share such as 10%, or a size, not ", in_quotes(amount)));
        o.max_unused = percent / 100.0;
    } else {
        if (amount != "0" && amount.find_first_of("KMGT") == amount.npos) // a share, or how many bytes?
            throw Usage(text("--max-unused wants a share such as 10%, a size such as 500M, or 0, not ",
                             in_quotes(amount)));
        o.max_unused = 0;
        o.unused_bytes = parse_size(amount);
    }
    if (job.args.flag("max-repack")) o.max_repack = parse_size(job.args.value("max-repack"));
    if (job.args.flag("grace")) {
        auto grace = parse_age(job.args.value("grace"));
        if (!grace || *grace == 0)
            throw Usage("--grace wants an age such as 12h or 3d; to wait for nothing, say --now");
        o.grace = *grace;
    }
    if (job.args.flag("now")) o.grace = 0;
    o.now = now_ns() / 1'000'000'000;
    o.connections = job.connections();
    return o;
}

Exit verb_prune(const Arguments& args) {
    Job job(args, 0, 1, 1);
    auto o = parse_prune_options(job);
    job.open(false); // packs/ is listed when the plan is made
    Prune prune(*job.repo, o);
    auto plan = prune.plan();
    auto sum = [](const Prune::Sum& s) {
        return text(s.packs, s.packs == 1 ? " pack, " : " packs, ", human_size(s.bytes));
    };
    if (auto forgotten = job.repo->snapshots(true); !forgotten.empty() && !job.quiet())
        print_snapshots(forgotten, job.json(), "forgotten");
    Json json;
    json.add("packs", plan.all.packs)
        .add("bytes", plan.all.bytes)
        .add("bytes_needed", plan.used)
        .add("packs_to_condemn", plan.condemn.packs);
    json.add("bytes_to_condemn", plan.condemn.bytes)
        .add("bytes_to_copy", plan.copy)
        .add("bytes_young", plan.young.bytes);
    json.add("bytes_condemned", plan.waiting.bytes).add("bytes_due", plan.due.bytes);
    if (plan.empty())
        job.report(text("there: ", sum(plan.all), "; needed: ", human_size(plan.used), "; nothing to do",
                        plan.young.packs ? text("; not needed, but too young: ", sum(plan.young)) : ""),
                   json);
    else
        job.report(text("there: ", sum(plan.all), "; needed: ", human_size(plan.used), "\nto condemn: ",
                        sum(plan.condemn), "; worth keeping in them, to copy: ", human_size(plan.copy),
                        "; not needed, but too young: ", sum(plan.young), "\ncondemned before: ",
                        sum(plan.waiting), "; long enough ago to be deleted: ", sum(plan.due)),
                   json);
    if (plan.empty() || job.args.flag("dry-run")) return job.verdict();
    confirm(job, "Go on");
    auto deleted = prune.run();
    auto all = plan.condemn.bytes + plan.waiting.bytes + plan.due.bytes,
         left = all - std::min(all, deleted.bytes);
    std::string later = left == 0 ? ""
                                  : text("; a prune in ", o.grace / 3600, " hours or later deletes another ",
                                         human_size(left));
    job.report(text("deleted: ", sum(deleted), later), Json()
                                                           .add("packs_deleted", deleted.packs)
                                                           .add("bytes_deleted", deleted.bytes)
                                                           .add("bytes_left", left));
    return job.verdict();
}

struct Verb {
    const char *name, *operands, *brief, *summary;
    Exit (*run)(const Arguments&);
};
constexpr Verb kVerbs[] = {
    {"init", "REPO", "make a repository", "Makes a repository in a new or empty directory.", verb_init},
    {"backup", "SRC... REPO", "back directories (or files) up",
     "Backs up directories or files, each as a snapshot; only what is new is sent.", verb_backup},
    {"restore", "REPO DEST [PATH...]", "make DEST what SRC was",
     "Makes DEST what SRC was, or only PATHs in it (as ls prints them).", verb_restore},
    {"snapshots", "REPO", "list the backups", "Lists the backups in a repository, the newest last.",
     verb_snapshots},
    {"ls", "REPO [PATH...]", "list the files of a backup",
     "Lists the files of a backup, or of directories in it, or those that match patterns such as *.jpg.",
     verb_ls},
    {"cat", "REPO PATH", "print a file of a backup", "Prints a file of a backup.", verb_cat},
    {"diff", "REPO ID [ID]", "what differs between two backups, or a backup and a disk",
     "Prints what differs between two backups, one and the newest of the same source, or one and a "
     "directory.",
     verb_diff},
    {"du", "REPO [PATH]", "what takes the space",
     "Prints what each directory of a backup holds, the largest first.", verb_du},
    {"key", "ACTION REPO [ID|FILE]", "its passphrases, and a recovery sheet",
     "ACTION is list, add, remove ID, passwd (change the passphrase that is given), export (print a "
     "recovery\n"
     "sheet), or import FILE (make a new passphrase from one).",
     verb_key},
    {"check", "REPO", "look whether all is there and sound",
     "Looks whether all that the backups need is there, and names the files that are damaged.", verb_check},
    {"repair", "REPO", "save what can be had of a damaged repository",
     "Rebuilds a damaged index from the packs and saves what can be had of damaged packs; deletes nothing.",
     verb_repair},
    {"forget", "REPO [ID...]", "take snapshots off the list",
     "Takes snapshots off the list, by rules or by ID; deletes nothing, and --undo takes them back.",
     verb_forget},
    {"prune", "REPO", "delete what no snapshot needs",
     "Deletes what no snapshot needs, in two steps some days apart.", verb_prune},
};

std::string Job::missing_word(size_t at) const {
    auto* verb = std::ranges::find(kVerbs, args.verb(), &Verb::name);
    std::istringstream words(verb == std::end(kVerbs) ? "" : verb->operands);
    std::string word;
    for (size_t i = 0; i <= at; ++i) words >> word;
    word.erase(std::min(word.find("..."), word.size()));
    return word;
}

void print_help(const std::string& verb) {
    if (verb.empty()) {
        std::cout << "nfreeze keeps encrypted backups on servers that need not be trusted.\n\n" << std::left;
        for (auto& v : kVerbs)
            std::cout << "  nfreeze " << std::setw(10) << v.name << std::setw(22) << v.operands << v.brief
                      << '\n';
        std::cout << "  nfreeze help [VERB]                     this text, or a verb's options\n" << kHelp;
        return;
    }
    for (auto& v : kVerbs) {
        if (v.name != verb) continue;
        std::cout << "nfreeze " << v.name << " [options] " << v.operands << "\n" << v.summary << "\n\n";
        for (auto& o : kOptions) {
            if (*o.verbs && !has_word(o.verbs, verb)) continue;
            std::string name = o.name;
            name = name[1] == ',' ? "-" + name.substr(0, 1) + ", --" + name.substr(2) : "    --" + name;
            if (*o.argument) name += *o.argument == '[' ? text("[=", o.argument + 1) : text(" ", o.argument);
            std::cout << "  " << std::left << std::setw(32) << name << o.help << '\n';
        }
        return;
    }
    throw Usage(text("there is no verb ", in_quotes(verb), "; see: nfreeze help"));
}

/// The exit code of a run: worse where what it said did not get out.
Exit printed(Exit code, Exit otherwise) {
    if (std::cout.flush()) return code;
    say("what came of it could not be written to standard output");
    return worse(code, otherwise);
}

Exit run_command(int argc, char** argv) {
    std::string verb = argc > 1 ? argv[1] : "";
    if (verb.empty())
        throw Usage(
            "nothing to do. To begin:\n  nfreeze init user@host:path\n  nfreeze backup DIR user@host:path\n"
            "  nfreeze restore user@host:path DEST\nAll else: nfreeze help");
    if (verb == "--version") {
        std::cout << "nfreeze " NFREEZE_VERSION " (format 1, libssh2 " << libssh2_version(0)
                  << "; confined by " << walls_here().words() << ")\n";
        return printed(Exit::ok, Exit::failed);
    }
    if (verb == "help" || verb == "--help" || verb == "-h") {
        print_help(argc > 2 ? argv[2] : "");
        return printed(Exit::ok, Exit::failed);
    }
    bool prints = has_word("snapshots ls cat diff du key", verb); // and does little else
    if (prints && verb != "key") signal(SIGPIPE, SIG_DFL);        // who reads no more ends them, as is usual
    auto known = std::ranges::find(kVerbs, verb, &Verb::name);
    if (known == std::end(kVerbs))
        throw Usage(text("there is no verb ", in_quotes(verb), "; see: nfreeze help"));
    g_outside = std::make_unique<Outside>(argc - 1, argv + 1);
    Arguments args(verb, argc - 1, argv + 1);
    if (args.flag("help")) {
        print_help(verb);
        return printed(Exit::ok, Exit::failed);
    }
    if (prints && ::write(1, "", 0) != 0)
        throw Error("there is no standard output to print to; nothing was done");
    bool does = has_word("init backup restore forget prune repair", verb) && !args.flag("dry-run");
    return printed(known->run(args), does ? Exit::partial : Exit::failed);
}

/// What must be so before anything else runs.
void prepare_process() {
    // What is opened must not become standard input, output or error: what is meant for these would go there.
    // There may be no /dev; nothing can be read from this one, or written to it.
    for (int fd : {0, 1, 2})
        if (fcntl(fd, F_GETFD) < 0) (void)!::open("/", O_PATH);
    struct sigaction action {
    }, before{};
    action.sa_handler = on_signal;
    for (int s : {SIGINT, SIGTERM, SIGHUP, SIGUSR1})
        if (sigaction(s, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(s, &action, nullptr);              // nohup ignores some
    for (int s : {SIGPIPE, SIGXFSZ}) signal(s, SIG_IGN); // both are errors of a write
    prctl(PR_SET_DUMPABLE, 0); // I8: no core, and no other program of the same user may look inside
    // A static program must not load the host's name-service modules: they may be of another glibc.
    for (auto [database, sources] :
         {std::pair{"hosts", "files dns"}, {"passwd", "files"}, {"group", "files"}, {"services", "files"}})
        __nss_configure_lookup(database, sources);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { // one descriptor a level of directories
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    // One heap for all threads, for one each would take more memory. What is larger than most frames
    // goes back to the system: kept, it would leave gaps (251 MB at worst in place of 146).
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, int(4 * MiB));
    mallopt(M_TRIM_THRESHOLD, int(64 * MiB));
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
}

} // namespace

#ifndef NFREEZE_NO_MAIN
int main(int argc, char** argv) {
    try {
        prepare_process();
        return int(run_command(argc, argv));
    } catch (const Interrupted&) {
        bool sends = argc > 1 && has_word("backup prune repair", argv[1]),
             restores = argc > 1 && has_word("restore", argv[1]);
        say(sends      ? "interrupted; what was sent is kept, and the next run goes on from there"
            : restores ? "interrupted; what was restored stays, and the next run goes on from there"
                       : "interrupted");
        return int(Exit::interrupted);
    } catch (const Error& e) {
        say(text(e.what(), e.no_room ? "; make room, and run it again" : ""));
        return int(e.exit);
    } catch (const std::bad_alloc&) {
        say("out of memory");
    } catch (const std::exception& e) {
        say(text("unexpected: ", e.what()));
    }
    return int(Exit::failed);
}
#endif
