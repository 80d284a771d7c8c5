// Scratch directories, files and child processes.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pty.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "support.hpp"

extern char** environ;

namespace support {

namespace {

[[noreturn]] void fail(const std::string& what) {
    throw std::runtime_error("test harness: " + what + ": " + std::strerror(errno));
}

// Everything below the directory open as `parent`, by names relative to descriptors: a path longer
// than PATH_MAX can only be walked like this.
void empty_directory(int dir);

void remove_entry(int parent, const char* name) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return;
    static_cast<void>(fchmodat(parent, name, 0700, 0) == 0); // a directory that may not be read or written
    const int dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir >= 0) {
        empty_directory(dir);
        close(dir);
    }
    unlinkat(parent, name, AT_REMOVEDIR);
}

void empty_directory(int dir) {
    Strings names; // all first: removing while reading may skip entries
    DIR* stream = fdopendir(dup(dir));
    if (stream == nullptr) return;
    while (const dirent* entry = readdir(stream)) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(name);
    }
    closedir(stream);
    for (const std::string& name : names) remove_entry(dir, name.c_str());
}

std::string find_program(const std::string& name) {
    if (contains(name, "/")) return name;
    std::istringstream path(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
    for (std::string dir; std::getline(path, dir, ':');) {
        const std::string candidate = dir + "/" + name;
        if (access(candidate.c_str(), X_OK) == 0) return candidate;
    }
    return {};
}

Strings environment_of(const RunOptions& options) {
    Environment env;
    for (char** line = environ; *line != nullptr; ++line) {
        const std::string text = *line;
        const std::size_t equals = text.find('=');
        if (equals != std::string::npos) env[text.substr(0, equals)] = text.substr(equals + 1);
    }
    for (const auto& [name, value] : options.env) env[name] = value;
    for (const std::string& name : options.unset) env.erase(name);
    Strings lines;
    for (const auto& [name, value] : env) lines.push_back(name + "=" + value);
    return lines;
}

std::vector<char*> pointers_to(Strings& strings) {
    std::vector<char*> pointers;
    for (std::string& string : strings) pointers.push_back(string.data());
    pointers.push_back(nullptr);
    return pointers;
}

int memory_file(std::string_view content = {}) {
    const int fd = static_cast<int>(memfd_create("test", MFD_CLOEXEC));
    if (fd < 0) fail("memfd_create");
    fchmod(fd, 0666); // a child of another user may open it again through /dev/stdout
    if (!content.empty() && write(fd, content.data(), content.size()) != static_cast<ssize_t>(content.size()))
        fail("write to a memory file");
    lseek(fd, 0, SEEK_SET);
    return fd;
}

std::string content_of(int fd) {
    std::string text;
    char buffer[65536];
    for (off_t at = 0;;) {
        const ssize_t n = pread(fd, buffer, sizeof buffer, at);
        if (n <= 0) return text;
        text.append(buffer, static_cast<std::size_t>(n));
        at += n;
    }
}

// The child's side of the fork, up to exec: system calls only. A step that fails ends the child
// with 120 and a word on stderr.
[[noreturn]] void give_up(const char* what) {
    dprintf(2, "test harness: %s: %s\n", what, std::strerror(errno));
    _exit(120);
}

void enter_namespaces(const RunOptions& options) {
    if (options.offline && unshare(CLONE_NEWNET) != 0) give_up("unshare network");
    if (options.mounts.empty()) return;
    if (unshare(CLONE_NEWNS) != 0) give_up("unshare mounts");
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) give_up("make mounts private");
    for (const Mount& m : options.mounts) {
        const int done = m.source.empty()
                             ? mount("tmpfs", m.target.c_str(), "tmpfs", 0, m.options.c_str())
                             : mount(m.source.c_str(), m.target.c_str(), nullptr, MS_BIND, nullptr);
        if (done != 0) give_up(m.target.c_str());
    }
}

void become(uid_t uid) {
    if (setgroups(0, nullptr) != 0 || setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0)
        give_up("change user");
}

struct Exec {
    int in, out, err, program; // program: open, because the other user may not reach its path
    const char* path;
    char** argv;
    char** envp;
};

[[noreturn]] void become_program(const Exec& exec, const RunOptions& options) {
    setsid();
    if (options.pty) ioctl(exec.in, TIOCSCTTY, 0);
    dup2(exec.in, 0);
    dup2(exec.out, 1);
    dup2(exec.err, 2);
    // What this process ignores, a program started by a shell does not ignore.
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    enter_namespaces(options);
    if (!options.chroot.empty() && chroot(options.chroot.c_str()) != 0) give_up("chroot");
    const char* cwd = !options.cwd.empty() ? options.cwd.c_str() : options.chroot.empty() ? nullptr : "/";
    if (cwd != nullptr && chdir(cwd) != 0) give_up("chdir");
    if (options.uid) become(*options.uid);
    prctl(PR_SET_PDEATHSIG, SIGKILL); // after the change of user, which clears it
    if (exec.program >= 0)
        syscall(SYS_execveat, exec.program, "", exec.argv, exec.envp, AT_EMPTY_PATH);
    else
        execve(exec.path, exec.argv, exec.envp);
    give_up(exec.path);
}

Strings transcript;

std::string clipped(const std::string& text) {
    constexpr std::size_t most = 3000;
    if (text.size() <= most) return text;
    return text.substr(0, most / 2) + "\n[... " + std::to_string(text.size() - most) + " bytes ...]\n" +
           text.substr(text.size() - most / 2);
}

} // namespace

bool slow_tests() { return std::getenv("NFREEZE_TEST_SLOW") != nullptr; }
int slowness() {
    return std::getenv("TSAN_OPTIONS") != nullptr ? 5 : 1;
} // tests/sanitized.sh sets it for all sanitizers

bool is_root() { return geteuid() == 0; }

bool have_program(const std::string& name) { return !find_program(name).empty(); }

namespace {

bool can_unshare(const RunOptions& options) {
    Child probe({"true"}, options);
    const bool works = probe.wait().code == 0;
    forget_transcript();
    return works;
}

} // namespace

bool can_mount() {
    static const bool possible = [] {
        const TempDir dir;
        RunOptions options;
        options.mounts = {{"", dir.path(), "size=64k"}};
        return is_root() && can_unshare(options);
    }();
    return possible;
}

bool can_unshare_network() {
    static const bool possible = [] {
        RunOptions options;
        options.offline = true;
        return is_root() && can_unshare(options);
    }();
    return possible;
}

// ---- Files -----------------------------------------------------------------------------------

namespace {

fs::path scratch() {
    const char* base = std::getenv("TMPDIR");
    return base != nullptr && *base != 0 ? base : "/var/tmp";
}

} // namespace

TempDir::TempDir() : TempDir(scratch()) {}

TempDir::TempDir(const fs::path& parent) {
    std::string name = parent / "nfreeze-test.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) fail("mkdtemp " + name);
    chmod(name.c_str(), 0711); // an account of the server's must get to what is inside
    path_ = name;
}

TempDir::~TempDir() { remove_tree(path_); }

void remove_tree(const fs::path& path) { remove_entry(AT_FDCWD, path.c_str()); }

std::string read_file(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) fail("read " + path.string());
    return {std::istreambuf_iterator<char>(in), {}};
}

namespace {

void put(const fs::path& path, std::string_view content, std::ios::openmode mode) {
    fs::create_directories(path.parent_path());
    std::ofstream out(path, std::ios::binary | mode);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    out.close();
    if (!out) fail("write " + path.string());
}

} // namespace

void write_file(const fs::path& path, std::string_view content) { put(path, content, std::ios::trunc); }
void append_file(const fs::path& path, std::string_view content) { put(path, content, std::ios::app); }

void copy_tree(const fs::path& from, const fs::path& to) { must_run({"cp", "-a", from, to}); }

void give_to(const fs::path& path, uid_t uid) {
    if (lchown(path.c_str(), uid, uid) != 0) fail("chown " + path.string());
    if (!fs::is_directory(fs::symlink_status(path))) return;
    for (const auto& entry : fs::recursive_directory_iterator(path))
        if (lchown(entry.path().c_str(), uid, uid) != 0) fail("chown " + entry.path().string());
}

std::vector<fs::path> files_below(const fs::path& dir) {
    std::vector<fs::path> files;
    if (!fs::exists(dir)) return files;
    for (const auto& entry : fs::recursive_directory_iterator(dir))
        if (entry.is_regular_file() && !entry.is_symlink()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
}

std::uint64_t bytes_below(const fs::path& dir) {
    std::uint64_t sum = 0;
    for (const fs::path& file : files_below(dir)) sum += fs::file_size(file);
    return sum;
}

std::string fingerprint(const fs::path& dir) {
    return must_run({"find", dir, "-printf", "%P %y %m %U %G %s %T@ %C@ %i\\n"});
}

bool contains(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
}

Strings lines_of(std::string_view text) {
    Strings lines;
    std::istringstream in{std::string(text)};
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

void settle() { std::this_thread::sleep_for(milliseconds(2100)); }

bool wait_until(const std::function<bool()>& condition, milliseconds limit) {
    const auto end = Clock::now() + limit;
    while (!condition()) {
        if (Clock::now() > end) return false;
        std::this_thread::sleep_for(milliseconds(2));
    }
    return true;
}

// ---- Child processes -------------------------------------------------------------------------

Child::Child(const Strings& argv, const RunOptions& options) : argv_(argv), options_(options) {
    const std::string path = options.chroot.empty() ? find_program(argv.at(0)) : argv.at(0);
    if (path.empty()) throw std::runtime_error("test harness: no program " + argv[0]);
    Strings arguments = argv, env = environment_of(options);
    std::vector<char*> argv_pointers = pointers_to(arguments), env_pointers = pointers_to(env);

    int in = -1, slave = -1;
    if (options.pty) {
        winsize size{};
        size.ws_row = 40;
        size.ws_col = options.columns;
        if (openpty(&terminal_, &slave, nullptr, nullptr, &size) != 0) fail("openpty");
        fcntl(terminal_, F_SETFD, FD_CLOEXEC);
        fcntl(slave, F_SETFD, FD_CLOEXEC);
        fcntl(terminal_, F_SETFL, O_NONBLOCK);
        if (options.uid && fchown(slave, *options.uid, static_cast<gid_t>(-1)) != 0)
            fail("chown of the terminal");
        in = slave;
    } else {
        in = memory_file(options.input);
        out_ = options.stdout_to.empty()
                   ? memory_file()
                   : open(options.stdout_to.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        err_ = options.stdout_to.empty() ? memory_file() : dup(out_);
    }
    const int program = options.uid && options.chroot.empty() ? open(path.c_str(), O_PATH | O_CLOEXEC) : -1;
    const Exec exec{in,           options.pty ? slave : out_, options.pty ? slave : err_, program,
                    path.c_str(), argv_pointers.data(),       env_pointers.data()};
    started_ = Clock::now();
    pid_ = fork();
    if (pid_ < 0) fail("fork");
    if (pid_ == 0) become_program(exec, options);
    close(in);
    if (program >= 0) close(program);
}

Child::~Child() {
    if (!ended_) {
        ::kill(-pid_, SIGKILL);
        ::kill(pid_, SIGKILL); // had it not yet come to setsid
        reap(true);
    }
    for (const int fd : {out_, err_, terminal_})
        if (fd >= 0) close(fd);
}

void Child::kill(int signal) const {
    if (!ended_) ::kill(pid_, signal);
}

bool Child::running() {
    talk();
    return !reap(false);
}

bool Child::reap(bool block) {
    if (ended_) return true;
    int status = 0;
    rusage usage{};
    if (wait4(pid_, &status, block ? 0 : WNOHANG, &usage) != pid_) return false;
    ended_ = true;
    result_.seconds = std::chrono::duration<double>(Clock::now() - started_).count();
    result_.peak_kib = usage.ru_maxrss;
    if (WIFEXITED(status)) result_.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result_.signal = WTERMSIG(status);
    return true;
}

void Child::talk() {
    if (terminal_ < 0) return;
    char buffer[4096];
    ssize_t n;
    while ((n = read(terminal_, buffer, sizeof buffer)) > 0)
        shown_.append(buffer, static_cast<std::size_t>(n));
    if (next_answer_ == options_.dialog.size()) return;
    const Answer& next = options_.dialog[next_answer_];
    const std::size_t at = shown_.find(next.expect, answered_to_);
    if (at == std::string::npos) return;
    // A program may show its prompt and then throw typed-ahead input away as it turns echo off.
    std::this_thread::sleep_for(milliseconds(50));
    const std::string typed = next.answer + "\n";
    if (write(terminal_, typed.data(), typed.size()) < 0) return;
    answered_to_ = at + next.expect.size();
    ++next_answer_;
}

Result Child::wait() {
    while (!reap(false)) {
        talk();
        if (Clock::now() - started_ > options_.timeout) {
            result_.timed_out = true;
            ::kill(-pid_, SIGKILL);
            reap(true);
        }
        std::this_thread::sleep_for(milliseconds(2));
    }
    talk();
    result_.argv = argv_;
    result_.out = output_so_far();
    if (err_ >= 0 && options_.stdout_to.empty()) result_.err = content_of(err_);
    transcript.push_back(describe(result_));
    return result_;
}

std::string Child::output_so_far() const {
    if (terminal_ >= 0) return shown_;
    return options_.stdout_to.empty() ? content_of(out_) : read_file(options_.stdout_to);
}

std::string Child::errors_so_far() const { return content_of(err_); }

std::string describe(const Result& result) {
    std::string text = "$";
    for (const std::string& argument : result.argv) text += " " + argument;
    text += "\n";
    if (!result.out.empty()) text += "stdout: " + clipped(result.out) + "\n";
    if (!result.err.empty()) text += "stderr: " + clipped(result.err) + "\n";
    text += result.timed_out     ? "killed after its time limit"
            : result.signal != 0 ? "ended by signal " + std::to_string(result.signal)
                                 : "exit code " + std::to_string(result.code);
    char tail[80];
    std::snprintf(tail, sizeof tail, ", %.2f s, peak %ld KiB", result.seconds, result.peak_kib);
    return text + tail;
}

Result run(const Strings& argv, const RunOptions& options) { return Child(argv, options).wait(); }

std::string must_run(const Strings& argv, const RunOptions& options) {
    Child child(argv, options);
    Result result = child.wait();
    REQUIRE_MESSAGE(result.code == 0, describe(result));
    if (!transcript.empty()) transcript.pop_back(); // a tool of the tests: of no interest when it works
    return std::move(result.out);
}

std::string take_transcript() {
    std::string text;
    for (const std::string& entry : transcript) text += entry + "\n";
    transcript.clear();
    return text;
}

void forget_transcript() { transcript.clear(); }

} // namespace support
