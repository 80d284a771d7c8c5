#include "mounts.hpp"

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace support {

bool all_file_systems() { return std::getenv("NFREEZE_TEST_FILESYSTEMS") != nullptr; }

bool may_mount() {
    static const bool possible = is_root() && unshare(CLONE_NEWNS) == 0 &&
                                 ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    if (!possible) skipped("file systems of its own: needs root and mount namespaces");
    return possible;
}

bool may_fuse() {
    if (!may_mount()) return false;
    static const bool possible =
        access("/dev/fuse", R_OK | W_OK) == 0 && have_program("python3") &&
        run({"python3", fs::path(NFREEZE_TESTS_DIR) / "odd_filesystem.py", "--try"}).code == 0;
    if (!possible) skipped("FUSE: needs /dev/fuse and python3-fusepy");
    return possible;
}

bool may_automount() {
    if (!may_mount()) return false;
    static const bool possible =
        contains(read_file("/proc/filesystems"), "\tautofs\n") && have_program("python3");
    if (!possible) skipped("automounts: needs autofs in the kernel and python3");
    return possible;
}

void unmount(const fs::path& path) { umount2(path.c_str(), MNT_DETACH); }

Mounted::Mounted(const std::string& type, const std::string& source, const std::string& options,
                 const fs::path& where) {
    if (where.empty()) own_ = std::make_unique<TempDir>();
    path_ = own_ ? own_->path() : where;
    fs::create_directories(path_);
    const bool bind = type == "bind";
    if (::mount(source.c_str(), path_.c_str(), bind ? nullptr : type.c_str(), bind ? MS_BIND : 0,
                options.c_str()) != 0)
        throw std::runtime_error("test harness: mount " + type + ": " + std::strerror(errno));
}
Mounted::~Mounted() { unmount(path_); }

LoopDisk::LoopDisk(const Strings& mkfs, const std::string& size, const Strings& mount)
    : path_(dir_ / "disk") {
    must_run({"truncate", "-s", size, dir_ / "image"});
    Strings make = mkfs, go = mount;
    make.push_back(dir_ / "image");
    go.insert(go.end(), {dir_ / "image", path_});
    fs::create_directory(path_);
    must_run(make);
    must_run(go);
}
LoopDisk::~LoopDisk() { unmount(path_); }

namespace {

dev_t device_of(const fs::path& path) {
    struct stat st {};
    return lstat(path.c_str(), &st) == 0 ? st.st_dev : 0;
}

std::unique_ptr<Child> helper(const std::string& script, const Strings& arguments) {
    Strings argv{"python3", fs::path(NFREEZE_TESTS_DIR) / script};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    RunOptions options;
    options.timeout = std::chrono::hours(1);
    return std::make_unique<Child>(argv, options);
}

} // namespace

OddFilesystem::OddFilesystem(const Strings& switches, const fs::path& where)
    : path_(where.empty() ? dir_ / "odd" : where) {
    fs::create_directories(path_);
    fs::create_directory(behind());
    const dev_t before = device_of(path_);
    Strings arguments{behind(), path_};
    arguments.insert(arguments.end(), switches.begin(), switches.end());
    server_ = helper("odd_filesystem.py", arguments);
    REQUIRE(
        wait_until([&] { return device_of(path_) != before || !server_->running(); }, milliseconds(20'000)));
    REQUIRE_MESSAGE(server_->running(), server_->errors_so_far());
}
OddFilesystem::~OddFilesystem() { unmount(path_); }

void OddFilesystem::die() {
    server_->kill(SIGKILL);
    static_cast<void>(server_->wait());
    REQUIRE(wait_until(
        [&] {
            struct stat st {};
            return stat(path_.c_str(), &st) != 0 && errno == ENOTCONN;
        },
        milliseconds(5'000)));
}

Automount::Automount(const fs::path& where, const fs::path& source) : where_(where) {
    fs::create_directories(where_);
    daemon_ = helper("automount.py", {where_, source});
    REQUIRE(wait_until([&] { return contains(daemon_->output_so_far(), "ready") || !daemon_->running(); },
                       milliseconds(10'000)));
    REQUIRE_MESSAGE(daemon_->running(), daemon_->errors_so_far());
}
Automount::~Automount() {
    expire();
    daemon_->kill(SIGTERM); // it takes the trigger away
    static_cast<void>(daemon_->wait());
    unmount(where_);
}
bool Automount::triggered() const {
    const std::string line = " " + where_.string() + " ", mounts = read_file("/proc/self/mountinfo");
    return mounts.find(line) != mounts.rfind(line); // the trigger, and what lies on it
}
void Automount::expire() const {
    if (triggered()) unmount(where_);
}

bool may_preload() {
    const bool possible = slowness() == 1;
    if (!possible) skipped("another kernel: sanitizers want to come first");
    return possible;
}

Result with_kernel(RunOptions options, const Strings& rules, const Strings& arguments) {
    const TempDir dir;
    write_file(dir / "log", "");
    fs::permissions(dir / "log", fs::perms(0666)); // for another account, too
    std::string& lines = options.env["NFREEZE_TEST_KERNEL"];
    for (const std::string& rule : rules) lines += rule + "\n";
    options.env["NFREEZE_TEST_KERNEL_LOG"] = dir / "log";
    options.env["LD_PRELOAD"] = NFREEZE_KERNEL;
    Strings argv{NFREEZE_DYNAMIC};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    Result result = run(argv, options);
    const std::string met = "\n" + read_file(dir / "log");
    for (const std::string& rule : rules) {
        const std::string what = rule.substr(0, rule.find(',', rule.find(',') + 1));
        const bool was = rule.starts_with("memory,") || contains(met, "\n" + what + "\n");
        CHECK_MESSAGE(was, "the program never came to where this kernel is odd: " << rule);
    }
    return result;
}

Result with_limit(const RunOptions& options, const std::string& limit, const Strings& arguments) {
    Strings argv{"sh", "-c", "ulimit " + limit + " && exec \"$0\" \"$@\"", nfreeze_binary()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return run(argv, options);
}

std::optional<std::uint64_t> json_number(std::string_view text, const std::string& name) {
    const std::string field = "\"" + name + "\":";
    const std::size_t at = text.find(field);
    if (at == std::string_view::npos) return {};
    return std::strtoull(std::string(text.substr(at + field.size(), 24)).c_str(), nullptr, 10);
}

} // namespace support
