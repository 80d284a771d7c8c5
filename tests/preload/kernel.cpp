// What a kernel does rarely, before a program that is linked with a shared glibc (LD_PRELOAD).
// NFREEZE_TEST_KERNEL holds rules, one a line, of words between commas; NAME is a file's own name, without
// what leads to it:
//
//     twice,NAME                    a listing has it twice
//     called,NAME,OTHER             a listing calls it by another name
//     ns,NAME,N                     nanoseconds of its mtime
//     s,NAME,N                      seconds of its mtime and ctime
//     look,NAME,ERRNO[,TIMES]       stat and its like fail, so many times (always)
//     open,NAME,ERRNO[,TIMES]       open fails
//     read,NAME,ERRNO[,TIMES]       reading fails
//     list,NAME,ERRNO[,TIMES]       listing its attributes fails
//     attribute,ATTRIBUTE,ERRNO[,TIMES]   reading this attribute fails, whichever file's it is
//     hole,NAME                     it is said to be one hole, and to take no blocks
//     lacks,landlock,38             an old kernel: that system call (or seccomp) fails with this error
//     run,NAME,COMMAND              before it is opened for the first time, a shell runs this
//     pause,CALL,MS                 so many milliseconds pass behind each mknodat or symlinkat
//     memory,N[,TIMES]              the Nth allocation of 16 KiB or more finds no memory, nor do those behind
//     it
//
// To the file that NFREEZE_TEST_KERNEL_LOG names it adds "what,NAME" of each rule that was met.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>

extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);

namespace {

struct Rule {
    std::string what, name, value;
    std::atomic<long> times{LONG_MAX};
    std::atomic<bool> met{false};
    [[nodiscard]] int number() const { return std::atoi(value.c_str()); }
    [[nodiscard]] long long large() const { return std::atoll(value.c_str()); }
};

std::string next_word(std::string_view& line) {
    const std::string word(line.substr(0, line.find(',')));
    line.remove_prefix(std::min(line.size(), word.size() + 1));
    return word;
}

std::deque<Rule> read_rules() {
    std::deque<Rule> found;
    const char* given = std::getenv("NFREEZE_TEST_KERNEL");
    for (std::string_view all = given != nullptr ? given : ""; !all.empty();) {
        std::string_view line = all.substr(0, all.find('\n'));
        all.remove_prefix(std::min(all.size(), line.size() + 1));
        Rule& rule = found.emplace_back();
        rule.what = next_word(line);
        rule.name = next_word(line);
        rule.value = rule.what == "run" ? std::string(line) : next_word(line);
        if (rule.what == "run")
            rule.times = 1;
        else if (!line.empty())
            rule.times = std::atol(std::string(line).c_str());
    }
    return found;
}

std::deque<Rule>& rules() {
    static std::deque<Rule> all = read_rules();
    return all;
}

// What has to be had before the program confines itself: a log, and a process that runs commands.
struct Outside {
    pid_t whose = getpid(); // of others that it forks these descriptors are closed
    int log = -1, runner = -1;
    Outside() {
        if (const char* path = std::getenv("NFREEZE_TEST_KERNEL_LOG"))
            log = static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC));
        int ends[2];
        bool runs = false;
        for (const Rule& rule : rules()) runs |= rule.what == "run";
        if (!runs || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return;
        runner = ends[0];
        const pid_t pid = fork();
        close(ends[pid == 0 ? 0 : 1]);
        if (pid != 0) return;
        unsetenv("LD_PRELOAD");
        char command[4096];
        for (ssize_t n = 0; (n = recv(ends[1], command, sizeof command - 1, 0)) > 0;) {
            command[n] = '\0';
            const int status = std::system(command);
            send(ends[1], &status, sizeof status, MSG_NOSIGNAL);
        }
        _exit(0);
    }
    bool ours() const { return getpid() == whose; }
};
Outside& outside() {
    static Outside all;
    return all;
}
__attribute__((constructor)) void begin() { outside(); }

void note(const Rule& rule) {
    const int error = errno; // past our own write()
    const std::string line = rule.what + "," + rule.name + "\n";
    if (outside().ours() && outside().log >= 0) syscall(SYS_write, outside().log, line.data(), line.size());
    errno = error;
}

// The rule of this kind for this name, if its times are not over yet.
Rule* rule_for(const char* what, std::string_view name) {
    for (Rule& rule : rules())
        if (rule.what == what && rule.name == name && rule.times.fetch_sub(1) > 0) {
            if (!rule.met.exchange(true)) note(rule);
            return &rule;
        }
    return nullptr;
}

bool fails(const char* what, std::string_view name) {
    const Rule* rule = rule_for(what, name);
    if (rule != nullptr) errno = rule->number();
    return rule != nullptr;
}

std::string_view own_name(std::string_view path) {
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
    return path.substr(path.rfind('/') + 1); // npos + 1 is 0
}

// Of what is open, and of "/proc/self/fd/N".
std::string name_of(int fd) {
    char path[PATH_MAX];
    const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
    return n > 0 ? std::string(own_name({path, static_cast<size_t>(n)})) : "";
}
std::string name_of(const char* path) {
    constexpr std::string_view through = "/proc/self/fd/";
    const std::string_view given = path;
    const bool itself = given.starts_with(through) && given.find('/', through.size()) == given.npos;
    return itself ? name_of(std::atoi(path + through.size())) : std::string(own_name(given));
}

template <class F> F real(F, const char* name) {
    const auto found = reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
    if (found == nullptr) std::abort(); // a test without it would prove nothing
    return found;
}
#define REAL(function) (real(&function, #function))

void run_command(const Rule& rule) {
    int status = 0;
    if (send(outside().runner, rule.value.data(), rule.value.size(), MSG_NOSIGNAL) < 0 ||
        recv(outside().runner, &status, sizeof status, 0) <= 0)
        std::abort();
}

bool may_open(const char* path) {
    const std::string name = name_of(path);
    if (const Rule* rule = rule_for("run", name)) run_command(*rule);
    return !fails("open", name);
}

template <class F, class... A> int look(F function, const std::string& name, struct stat* found, A... a) {
    if (fails("look", name)) return -1;
    const int result = function(a...);
    if (result != 0) return result;
    if (const Rule* rule = rule_for("ns", name)) found->st_mtim.tv_nsec = rule->number();
    if (const Rule* rule = rule_for("s", name)) found->st_mtim.tv_sec = found->st_ctim.tv_sec = rule->large();
    if (rule_for("hole", name) != nullptr) found->st_blocks = 0;
    return 0;
}

template <class R, class F, class... A>
R unless(const char* what, const std::string& name, R bad, F function, A... a) {
    return fails(what, name) ? bad : function(a...);
}

int paused(const char* call, int result) {
    if (const Rule* rule = rule_for("pause", call)) {
        const int error = errno;
        usleep(static_cast<useconds_t>(rule->number()) * 1000);
        errno = error;
    }
    return result;
}

// No std::string here, nor anything else that allocates.
bool has_memory(size_t size) {
    static const char* const given = std::getenv("NFREEZE_TEST_KERNEL");
    static const char* const rule = given != nullptr ? std::strstr(given, "memory,") : nullptr;
    if (rule == nullptr || size < 16384) return true;
    static std::atomic<long> left{std::atol(rule + 7)};
    static const char* const comma = std::strchr(rule + 7, ',');
    static const long times = comma != nullptr ? std::atol(comma + 1) : LONG_MAX;
    const long at = --left;
    if (at >= 0 || -at > times) return true;
    errno = ENOMEM;
    return false;
}

} // namespace

extern "C" {

long syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    long a[6];
    for (long& one : a) one = va_arg(list, long);
    va_end(list);
    const char* called = number == SYS_landlock_create_ruleset ? "landlock"
                         : number == SYS_seccomp               ? "seccomp"
                                                               : nullptr;
    if (called != nullptr && fails("lacks", called)) return -1;
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

struct dirent* readdir(DIR* directory) {
    static thread_local struct {
        DIR* of = nullptr;
        long long entry[sizeof(struct dirent) / sizeof(long long)] = {};
    } again, other;
    if (again.of == directory) {
        again.of = nullptr;
        return reinterpret_cast<struct dirent*>(again.entry);
    }
    struct dirent* const found = REAL(readdir)(directory);
    if (found != nullptr && rule_for("twice", found->d_name) != nullptr) {
        again.of = directory;
        std::memcpy(again.entry, found, found->d_reclen);
    }
    if (const Rule* rule = found != nullptr ? rule_for("called", found->d_name) : nullptr) {
        std::memcpy(other.entry, found, found->d_reclen);
        auto* const renamed = reinterpret_cast<struct dirent*>(other.entry);
        std::strcpy(renamed->d_name, rule->value.c_str());
        return renamed;
    }
    return found;
}

int openat(int directory, const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return may_open(path) ? REAL(openat)(directory, path, flags, mode) : -1;
}
int open(const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return may_open(path) ? REAL(open)(path, flags, mode) : -1;
}
int __openat_2(int directory, const char* path, int flags) { return openat(directory, path, flags); }
int __open_2(const char* path, int flags) { return open(path, flags); }

int fstat(int fd, struct stat* found) noexcept { return look(REAL(fstat), name_of(fd), found, fd, found); }
int stat(const char* path, struct stat* found) noexcept {
    return look(REAL(stat), name_of(path), found, path, found);
}
int lstat(const char* path, struct stat* found) noexcept {
    return look(REAL(lstat), name_of(path), found, path, found);
}
int fstatat(int directory, const char* path, struct stat* found, int flags) noexcept {
    return look(REAL(fstatat), *path != 0 ? name_of(path) : name_of(directory), found, directory, path, found,
                flags);
}
int statx(int directory, const char* path, int flags, unsigned mask, struct statx* found) noexcept {
    const std::string name = *path != 0 ? name_of(path) : name_of(directory);
    const int result = unless("look", name, -1, REAL(statx), directory, path, flags, mask, found);
    if (result != 0) return result;
    if (const Rule* rule = rule_for("ns", name))
        found->stx_mtime.tv_nsec = static_cast<__u32>(rule->number());
    if (const Rule* rule = rule_for("s", name))
        found->stx_mtime.tv_sec = found->stx_ctime.tv_sec = rule->large();
    if (rule_for("hole", name) != nullptr) found->stx_blocks = 0;
    return 0;
}

off_t lseek(int fd, off_t offset, int whence) noexcept {
    if (whence != SEEK_DATA || rule_for("hole", name_of(fd)) == nullptr)
        return REAL(lseek)(fd, offset, whence);
    errno = ENXIO;
    return -1;
}
ssize_t read(int fd, void* to, size_t n) {
    return unless("read", name_of(fd), ssize_t(-1), REAL(read), fd, to, n);
}
ssize_t pread(int fd, void* to, size_t n, off_t at) {
    return unless("read", name_of(fd), ssize_t(-1), REAL(pread), fd, to, n, at);
}

ssize_t flistxattr(int fd, char* to, size_t n) noexcept {
    return unless("list", name_of(fd), ssize_t(-1), REAL(flistxattr), fd, to, n);
}
ssize_t llistxattr(const char* path, char* to, size_t n) noexcept {
    return unless("list", name_of(path), ssize_t(-1), REAL(llistxattr), path, to, n);
}
ssize_t fgetxattr(int fd, const char* name, void* to, size_t n) noexcept {
    return unless("attribute", name, ssize_t(-1), REAL(fgetxattr), fd, name, to, n);
}
ssize_t lgetxattr(const char* path, const char* name, void* to, size_t n) noexcept {
    return unless("attribute", name, ssize_t(-1), REAL(lgetxattr), path, name, to, n);
}
ssize_t getxattr(const char* path, const char* name, void* to, size_t n) noexcept {
    return unless("attribute", name, ssize_t(-1), REAL(getxattr), path, name, to, n);
}

int mknodat(int directory, const char* path, mode_t mode, dev_t device) noexcept {
    return paused("mknodat", REAL(mknodat)(directory, path, mode, device));
}
int symlinkat(const char* target, int directory, const char* path) noexcept {
    return paused("symlinkat", REAL(symlinkat)(target, directory, path));
}

void* malloc(size_t n) noexcept { return has_memory(n) ? __libc_malloc(n) : nullptr; }
void* calloc(size_t n, size_t size) noexcept {
    return has_memory(n * size) ? __libc_calloc(n, size) : nullptr;
}
void* realloc(void* old, size_t n) noexcept { return has_memory(n) ? __libc_realloc(old, n) : nullptr; }

} // extern "C"
