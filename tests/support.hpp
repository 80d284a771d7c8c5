// What the scenario tests stand on: scratch directories, child processes with a hard time limit,
// a real sshd on loopback, SSH keys and agents, a TCP proxy that misbehaves on demand, and a site,
// which is one client with one repository. Nothing here knows how nfreeze works inside: the tests
// see what a user sees (arguments, output, exit codes) and what a server sees (files).
#pragma once

#include <doctest/doctest.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "proxy.hpp"

namespace support {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// ---- Tests that cannot run here --------------------------------------------------------------

// Notes that the running test (or a named part of it) cannot run on this machine. The note is
// printed at once and again in a list before the runner's summary, so that it cannot pass unseen.
void skipped(const std::string& reason);

// NFREEZE_TEST_SLOW is set: what takes long is tested as well.
[[nodiscard]] bool slow_tests();
// How many times as long as it should something may take: more than once only under sanitizers.
int slowness();
[[nodiscard]] bool is_root();
[[nodiscard]] bool have_program(const std::string& name);
// Whether this process may give its children private mount points (root with CAP_SYS_ADMIN).
[[nodiscard]] bool can_mount();
// Whether children can be cut off from all networks.
[[nodiscard]] bool can_unshare_network();

// ---- Files -----------------------------------------------------------------------------------

// A fresh directory under $TMPDIR or /var/tmp (not /tmp, which may lack xattrs and room), removed
// at the end with all that is in it: read-only directories and paths longer than PATH_MAX as well.
class TempDir {
  public:
    TempDir();
    explicit TempDir(const fs::path& parent);
    ~TempDir();
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    [[nodiscard]] const fs::path& path() const { return path_; }
    [[nodiscard]] fs::path operator/(const fs::path& name) const { return path_ / name; }

  private:
    fs::path path_;
};

void remove_tree(const fs::path& path);
[[nodiscard]] std::string read_file(const fs::path& path);
// Writes the file in place, making the directories above it.
void write_file(const fs::path& path, std::string_view content);
void append_file(const fs::path& path, std::string_view content);
void copy_tree(const fs::path& from, const fs::path& to); // cp -a
// Gives path and all below it to an account.
void give_to(const fs::path& path, uid_t uid);
[[nodiscard]] std::vector<fs::path> files_below(const fs::path& dir); // sorted, regular files only
[[nodiscard]] std::uint64_t bytes_below(const fs::path& dir);
// One line per entry with type, mode, owner, size, times and inode: equal only if nobody wrote.
[[nodiscard]] std::string fingerprint(const fs::path& dir);
[[nodiscard]] bool contains(std::string_view text, std::string_view part);
[[nodiscard]] Strings lines_of(std::string_view text);
// Waits until everything written so far is more than 2 s old: a younger entry is, by design, read
// again by the next backup.
void settle();
// Polls until the condition holds; false after the limit.
[[nodiscard]] bool wait_until(const std::function<bool()>& condition, milliseconds limit);

// ---- Child processes -------------------------------------------------------------------------

struct Mount {
    std::string source; // bound to target; empty: a tmpfs with these options
    std::string target;
    std::string options;
};

// In a terminal, waits until the output since the last answer contains `expect`, then types
// `answer`.
struct Answer {
    std::string expect;
    std::string answer;
};

struct RunOptions {
    Environment env;   // on top of this process's environment
    Strings unset;     // names taken out of it
    std::string input; // standard input; empty is an empty file
    fs::path cwd;
    milliseconds timeout{60'000}; // then the child's whole process group is killed
    std::optional<uid_t> uid;     // run as this user and its group of the same number
    fs::path chroot;
    std::vector<Mount> mounts; // in a mount namespace of its own
    bool offline = false;      // in a network namespace of its own, with no interface up
    bool pty = false;          // in a terminal of its own
    unsigned short columns = 200;
    std::vector<Answer> dialog; // with pty
    fs::path stdout_to;         // a file for stdout and stderr instead of Result.out and .err
};

struct Result {
    int code = -1; // exit code, or -1 when a signal ended the child
    int signal = 0;
    bool timed_out = false;
    std::string out; // with pty: all that the terminal showed
    std::string err;
    double seconds = 0;
    long peak_kib = 0; // peak resident set size
    Strings argv;
};

[[nodiscard]] std::string describe(const Result& result);

// A running child, in a session of its own (so that it has no terminal but the one it is given).
// Killed with its process group when it goes out of scope, and by the kernel if the tests die.
class Child {
  public:
    explicit Child(const Strings& argv, const RunOptions& options = {});
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    [[nodiscard]] pid_t pid() const { return pid_; }
    void kill(int signal) const; // to the child alone
    [[nodiscard]] bool running();
    // Waits for the end, within the time limit of the options, counted from the start.
    Result wait();
    [[nodiscard]] std::string output_so_far() const;
    [[nodiscard]] std::string errors_so_far() const; // without pty and stdout_to

  private:
    bool reap(bool block);
    void talk(); // pass on what the terminal shows, answer what it asks

    Strings argv_;
    RunOptions options_;
    pid_t pid_ = -1;
    int out_ = -1, err_ = -1, terminal_ = -1;
    bool ended_ = false;
    Clock::time_point started_;
    std::string shown_; // with pty
    std::size_t answered_to_ = 0, next_answer_ = 0;
    Result result_;
};

Result run(const Strings& argv, const RunOptions& options = {});
// Runs a tool of the tests themselves: anything but exit code 0 ends the test.
std::string must_run(const Strings& argv, const RunOptions& options = {});

// The runs of the current test since the last call, for the report of a failed assertion.
[[nodiscard]] std::string take_transcript();
void forget_transcript();

// ---- SSH -------------------------------------------------------------------------------------

// Keys are made once for each process; `kind` is ed25519, ecdsa or rsa.
[[nodiscard]] fs::path host_key(const std::string& kind);
[[nodiscard]] fs::path user_key(const std::string& kind);
[[nodiscard]] fs::path user_key_with_passphrase(); // ed25519, passphrase below
inline constexpr const char* key_passphrase = "key passphrase";
[[nodiscard]] std::string public_key_line(const fs::path& key); // "type base64"
[[nodiscard]] std::string key_fingerprint(const fs::path& key); // "SHA256:..."
void hash_known_hosts(const fs::path& file);                    // as ssh-keygen -H does

// A throw-away account with a password: sshd sees it in a private /etc/passwd and /etc/shadow, the
// machine's own files are not touched.
inline constexpr uid_t account_uid = 54321;
inline constexpr const char* account_name = "freezer";
inline constexpr const char* account_password = "sesame open";

// OpenSSH's server on 127.0.0.1, with a configuration of its own. The login directory is home().
class Sshd {
  public:
    struct Options {
        Strings config; // extra lines; the first mention of a keyword counts
        Strings host_keys{"ed25519", "ecdsa", "rsa"};
        Strings authorized{"ed25519", "ecdsa", "rsa", "passphrase"};
        std::string sftp_arguments; // of internal-sftp, such as -R
        // Logs in as an account that is not root: the throw-away account where possible, else an
        // account of the system, else (when the tests are not run by root) the tester's own.
        bool ordinary_account = false;
        bool interactive = false;  // keyboard-interactive in place of password (needs PAM)
        bool expired = false;      // the throw-away account has to change its password first
        std::vector<Mount> mounts; // seen by the server only
    };
    explicit Sshd(Options options);
    Sshd() : Sshd(Options{}) {}
    ~Sshd();
    Sshd(const Sshd&) = delete;
    Sshd& operator=(const Sshd&) = delete;

    void start();
    void stop();            // with all connections
    void cut_connections(); // the sessions only: the server goes on listening
    [[nodiscard]] bool has_password() const { return throwaway_; }
    [[nodiscard]] int port() const { return port_; }
    [[nodiscard]] pid_t pid() const;
    [[nodiscard]] const std::string& user() const { return user_; }
    [[nodiscard]] uid_t uid() const { return uid_; }
    [[nodiscard]] fs::path home() const { return dir_ / "home"; }
    [[nodiscard]] std::string log() const;
    [[nodiscard]] std::string known_hosts_lines(int port = 0) const;

  private:
    void write_config(const Options& options);
    bool try_start();

    TempDir dir_;
    std::string user_;
    uid_t uid_ = 0;
    bool throwaway_ = false;
    int port_ = 0;
    RunOptions run_;
    std::unique_ptr<Child> child_;
};

// OpenSSH's SFTP server as a program of its own, where there is one.
[[nodiscard]] std::optional<fs::path> sftp_server();

// A server on which nothing can be changed or removed, for an account that is not root: one line of
// sshd_config.
[[nodiscard]] Sshd::Options append_only();

// One server for all tests that need nothing special, started at the first call.
[[nodiscard]] Sshd& shared_sshd();

class Agent {
  public:
    explicit Agent(const fs::path& key);
    explicit Agent(const std::vector<fs::path>& keys); // in this order
    [[nodiscard]] std::string socket() const { return dir_ / "agent"; }

  private:
    TempDir dir_;
    std::unique_ptr<Child> child_;
};

// ---- A site: one client, one repository -------------------------------------------------------

struct Summary {
    std::uint64_t fresh = 0, changed = 0, unchanged = 0, gone = 0; // files
    std::uint64_t read = 0, fresh_bytes = 0, uploaded = 0;         // bytes
    std::string snapshot;                                          // 32 hex digits
    bool incomplete = false;
};
// The last lines of a backup's output; a line that is missing ends the test.
[[nodiscard]] Summary summary_of(const Result& result);

inline constexpr const char* passphrase = "correct horse battery staple";

// A client with a home directory of its own (key and known_hosts in ~/.ssh), a place for a source
// and a repository, behind sshd or in a local directory.
class Site {
  public:
    enum class Kind { ssh, local };
    explicit Site(Kind kind = Kind::ssh);
    explicit Site(Sshd& server, int port = 0); // port: of a proxy in front of the server

    TempDir dir;
    fs::path src, dest, repo, home;
    std::string url;    // what the command line calls the repository
    RunOptions options; // of every run

    Result nfreeze(const Strings& arguments) const { return nfreeze(arguments, options); }
    Result nfreeze(const Strings& arguments, const RunOptions& with) const;
    Result init() const { return nfreeze({"init", url}); }
    Result backup(const Strings& flags = {}) const;
    Result restore(const Strings& flags = {}, const Strings& paths = {}) const;
    [[nodiscard]] std::string remote(int port) const; // the repository's address through this port

    void init_or_fail() const; // for tests of something else
    Summary backup_or_fail(const Strings& flags = {}) const;
    void restore_or_fail(const Strings& flags = {}) const;
    [[nodiscard]] std::uint64_t repository_bytes() const { return bytes_below(repo); }

  private:
    void prepare();
    Sshd* server_ = nullptr;
};

[[nodiscard]] const std::string& nfreeze_binary();

// The server's hand: objects are read-only, it is not bound by that.
[[nodiscard]] std::vector<fs::path> packs_of(const Site& site);
void flip_byte(const fs::path& object, std::size_t at);

} // namespace support

// What the failing run printed comes from the transcript (see main.cpp), so tests need not repeat
// it. Each argument is evaluated once, here, so that it may be a run: in the words of a message it would be
// run once more, and an assertion within it would wait for itself.
#define REQUIRE_EXIT(result, wanted)                                                                         \
    do {                                                                                                     \
        const support::Result& exit_of_ = (result);                                                          \
        REQUIRE_MESSAGE(exit_of_.code == (wanted), support::describe(exit_of_));                             \
    } while (false)
#define CHECK_EXIT(result, wanted)                                                                           \
    do {                                                                                                     \
        const support::Result& exit_of_ = (result);                                                          \
        CHECK_MESSAGE(exit_of_.code == (wanted), support::describe(exit_of_));                               \
    } while (false)
// The output names it: shows both where it does not.
#define CHECK_NAMES(text, part)                                                                              \
    do {                                                                                                     \
        const std::string all_of_{text}, part_of_{part};                                                     \
        CHECK_MESSAGE(support::contains(all_of_, part_of_), "'" << part_of_ << "' is not in: " << all_of_);  \
    } while (false)
#define CHECK_NOT_NAMED(text, part)                                                                          \
    do {                                                                                                     \
        const std::string all_of_{text}, part_of_{part};                                                     \
        CHECK_MESSAGE(!support::contains(all_of_, part_of_), "'" << part_of_ << "' is in: " << all_of_);     \
    } while (false)
