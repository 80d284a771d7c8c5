// SSH: keys, a server, an agent; and the site that puts them together.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <list>
#include <sstream>
#include <stdexcept>

#include "support.hpp"

namespace support {

namespace {

// ---- Keys ------------------------------------------------------------------------------------

// Made at the first use and kept for the process, or for all that tests/run.sh starts: an RSA key takes
// a while to find.
fs::path key_dir() {
    if (const char* shared = std::getenv("NFREEZE_TEST_KEYS")) return shared;
    static const TempDir dir;
    return dir.path();
}

// Of a directory, against other processes.
struct Lock {
    explicit Lock(const fs::path& dir) : fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        if (fd < 0 || flock(fd, LOCK_EX) != 0)
            throw std::runtime_error("test harness: cannot lock " + dir.string());
    }
    ~Lock() { close(fd); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    const int fd;
};

fs::path make_key(const std::string& name, const std::string& kind, const std::string& secret) {
    const fs::path file = key_dir() / name;
    const Lock lock(key_dir());
    if (fs::exists(file)) return file;
    Strings argv{"ssh-keygen", "-q", "-t", kind, "-N", secret, "-C", "test", "-f", file};
    if (kind == "rsa") argv.insert(argv.end(), {"-b", "2048"});
    must_run(argv);
    return file;
}

} // namespace

fs::path host_key(const std::string& kind) { return make_key("host_" + kind, kind, ""); }
fs::path user_key(const std::string& kind) { return make_key("user_" + kind, kind, ""); }
fs::path user_key_with_passphrase() { return make_key("user_passphrase", "ed25519", key_passphrase); }

std::string public_key_line(const fs::path& key) {
    std::istringstream words(read_file(key.string() + ".pub"));
    std::string type, blob;
    words >> type >> blob;
    return type + " " + blob;
}

std::string key_fingerprint(const fs::path& key) {
    std::istringstream words(must_run({"ssh-keygen", "-l", "-E", "sha256", "-f", key.string() + ".pub"}));
    std::string bits, print;
    words >> bits >> print;
    return print;
}

void hash_known_hosts(const fs::path& file) {
    must_run({"ssh-keygen", "-H", "-f", file});
    fs::remove(file.string() + ".old"); // the names in clear
}

// ---- sshd ------------------------------------------------------------------------------------

namespace {

constexpr const char* sshd_program = "/usr/sbin/sshd";

// sshd of root refuses to start without this directory, which a machine whose ssh service never ran
// does not have.
void make_privilege_separation_directory() {
    struct Guard {
        bool made = false;
        Guard() : made(is_root() && mkdir("/run/sshd", 0755) == 0) {}
        ~Guard() {
            if (made) rmdir("/run/sshd");
        }
    };
    static const Guard guard;
}

pid_t parent_of(const fs::path& proc) {
    std::ifstream in(proc / "stat");
    std::string text{std::istreambuf_iterator<char>(in), {}};
    const std::size_t name_end = text.rfind(')'); // the name may hold anything, blanks too
    if (name_end == std::string::npos) return -1;
    std::istringstream rest(text.substr(name_end + 1));
    std::string state;
    pid_t parent = -1;
    rest >> state >> parent;
    return state == "Z" ? -1 : parent;
}

std::vector<pid_t> descendants(pid_t ancestor) {
    std::multimap<pid_t, pid_t> children;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") == std::string::npos)
            children.emplace(parent_of(entry.path()), std::stoi(name));
    }
    std::vector<pid_t> found{ancestor};
    for (std::size_t i = 0; i < found.size(); ++i) {
        const auto [first, last] = children.equal_range(found[i]);
        for (auto child = first; child != last; ++child) found.push_back(child->second);
    }
    found.erase(found.begin());
    return found;
}

// Some account of every system that can own files and log in through sshd's own SFTP server. Not
// nobody: sshd takes it for locked where it cannot read /etc/shadow.
const passwd* system_account() {
    for (const char* name : {"games", "backup", "mail", "daemon"})
        if (const passwd* entry = getpwnam(name)) return entry;
    return nullptr;
}

// sha512-crypt of account_password
constexpr const char* account_hash = "$6$nfreezetest$Q7aWvh3PzN9M25.6WAicwmc1G6tHbWp2S/"
                                     "zhBItDz16R7QVDxuw9NIb4YhMxY/hwknVD6EQ7SByL0a4NEbSwe/";

} // namespace

Sshd::Sshd(Options options) {
    make_privilege_separation_directory();
    run_.timeout = std::chrono::hours(1);
    run_.stdout_to = dir_ / "log";
    run_.mounts = options.mounts;
    fs::create_directory(home());
    const passwd* self = getpwuid(getuid());
    user_ = self != nullptr ? self->pw_name : "root";
    uid_ = getuid();
    if (options.ordinary_account && is_root()) {
        throwaway_ = can_mount();
        if (throwaway_) {
            user_ = account_name;
            uid_ = account_uid;
            write_file(dir_ / "passwd", read_file("/etc/passwd") + user_ +
                                            ":x:54321:54321::" + home().string() + ":/usr/sbin/nologin\n");
            write_file(dir_ / "shadow", read_file("/etc/shadow") + user_ + ":" + account_hash +
                                            (options.expired ? ":0" : ":19000") + ":0:99999:7:::\n");
            chmod((dir_ / "shadow").c_str(), 0600);
            run_.mounts.push_back({dir_ / "passwd", "/etc/passwd", ""});
            run_.mounts.push_back({dir_ / "shadow", "/etc/shadow", ""});
        } else if (const passwd* account = system_account()) {
            user_ = account->pw_name;
            uid_ = account->pw_uid;
            run_.uid = uid_; // the whole server, which then lets in nobody else
        }
    }
    if (options.interactive && throwaway_) {
        write_file(dir_ / "pam", "auth required pam_unix.so\naccount required pam_unix.so\nsession "
                                 "required pam_permit.so\n");
        run_.mounts.push_back({dir_ / "pam", "/etc/pam.d/sshd", ""});
    }
    write_config(options);
    if (uid_ != getuid()) give_to(throwaway_ ? home() : dir_.path(), uid_);
    start();
}

Sshd::~Sshd() {
    try {
        stop();
    } catch (const std::exception&) { // the kernel ends it with us
    }
}

void Sshd::write_config(const Options& options) {
    std::string authorized;
    for (const std::string& kind : options.authorized)
        authorized +=
            public_key_line(kind == "passphrase" ? user_key_with_passphrase() : user_key(kind)) + "\n";
    write_file(dir_ / "authorized_keys", authorized);

    std::string text;
    for (const std::string& line : options.config) text += line + "\n";
    for (const std::string& kind : options.host_keys) {
        const fs::path own = dir_ / ("host_" + kind); // a copy: the server's user must own it
        fs::copy_file(host_key(kind), own);
        fs::copy_file(host_key(kind).string() + ".pub", own.string() + ".pub");
        chmod(own.c_str(), 0600);
        text += "HostKey " + own.string() + "\n";
    }
    const std::string interactive = options.interactive ? "yes" : "no";
    text += "ListenAddress 127.0.0.1\nPidFile none\nStrictModes no\nPermitRootLogin yes\nLogLevel "
            "VERBOSE\n"
            "MaxStartups 100\nPrintMotd no\nAuthorizedKeysFile " +
            (dir_ / "authorized_keys").string() + "\nUsePAM " + interactive +
            "\nKbdInteractiveAuthentication " + interactive + "\nPasswordAuthentication " +
            (options.interactive ? "no" : "yes") + "\n";
    // Unlike other keywords, this one may not be given twice.
    if (!contains(text, "Subsystem"))
        text += "Subsystem sftp internal-sftp -d " + home().string() + " " + options.sftp_arguments + "\n";
    const fs::path file = dir_ / "sshd_config";
    write_file(file, text);
    // Where sshd knows the penalties for failed logins (9.8 and later), they would hit our next
    // test.
    const std::string calm = "PerSourcePenalties no\n";
    write_file(dir_ / "probe", calm + text);
    RunOptions quiet;
    if (run({sshd_program, "-t", "-f", dir_ / "probe"}, quiet).code == 0) write_file(file, calm + text);
    forget_transcript();
}

std::optional<fs::path> sftp_server() {
    for (const char* path : {"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server",
                             "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server"})
        if (fs::exists(path)) return path;
    return {};
}

pid_t Sshd::pid() const { return child_ ? child_->pid() : -1; }

bool Sshd::try_start() {
    child_ = std::make_unique<Child>(
        Strings{sshd_program, "-D", "-e", "-f", dir_ / "sshd_config", "-p", std::to_string(port_)}, run_);
    const std::string listening = "listening on 127.0.0.1 port " + std::to_string(port_);
    const std::size_t old = fs::exists(run_.stdout_to) ? read_file(run_.stdout_to).size() : 0;
    return wait_until(
               [&] {
                   return contains(log().substr(std::min(old, log().size())), listening) ||
                          !child_->running();
               },
               milliseconds(10'000)) &&
           child_->running();
}

void Sshd::start() {
    if (child_) return;
    const bool again = port_ != 0; // a server that comes back keeps its port
    for (int attempt = 0; attempt < 5; ++attempt) {
        if (!again) port_ = free_port(); // somebody else may take it first
        if (try_start()) return;
        child_.reset();
    }
    throw std::runtime_error("test harness: sshd does not start: " + log());
}

void Sshd::cut_connections() {
    for (;;) {
        const std::vector<pid_t> sessions = descendants(pid());
        if (sessions.empty()) return;
        for (const pid_t session : sessions) ::kill(session, SIGKILL);
        std::this_thread::sleep_for(milliseconds(5));
    }
}

void Sshd::stop() {
    if (!child_) return;
    // The sessions are process groups of their own. The listener is stopped first: it must not
    // start another one meanwhile, and they must not lose their parent, by which they are found.
    child_->kill(SIGSTOP);
    for (const pid_t session : descendants(pid())) ::kill(session, SIGKILL);
    child_.reset();
}

std::string Sshd::log() const {
    return fs::exists(run_.stdout_to) ? read_file(run_.stdout_to) : std::string();
}

std::string Sshd::known_hosts_lines(int port) const {
    std::string text;
    for (const std::string kind : {"ed25519", "ecdsa", "rsa"})
        text += "[127.0.0.1]:" + std::to_string(port != 0 ? port : port_) + " " +
                public_key_line(host_key(kind)) + "\n";
    return text;
}

Sshd::Options append_only() {
    Sshd::Options options;
    options.ordinary_account = true;
    options.config = {
        "ForceCommand internal-sftp -P "
        "remove,rmdir,rename,posix-rename,setstat,fsetstat,lsetstat,hardlink,symlink,copy-data"};
    return options;
}

Sshd& shared_sshd() {
    static Sshd server;
    server.start();
    return server;
}

Agent::Agent(const fs::path& key) : Agent(std::vector{key}) {}

Agent::Agent(const std::vector<fs::path>& keys) {
    RunOptions options;
    options.timeout = std::chrono::hours(1);
    child_ = std::make_unique<Child>(Strings{"ssh-agent", "-D", "-a", socket()}, options);
    RunOptions with_agent;
    with_agent.env = {{"SSH_AUTH_SOCK", socket()}};
    // The socket is there before anybody listens to it.
    for (const fs::path& key : keys)
        REQUIRE(wait_until(
            [&] {
                return run({"ssh-add", "-q", key}, with_agent).code == 0;
            },
            milliseconds(5000)));
}

// ---- Site ------------------------------------------------------------------------------------

const std::string& nfreeze_binary() {
    static const std::string path = fs::absolute(NFREEZE_BINARY);
    return path;
}

Site::Site(Kind kind) {
    if (kind == Kind::ssh) server_ = &shared_sshd();
    prepare();
    url = kind == Kind::ssh ? remote(server_->port()) : repo.string();
}

Site::Site(Sshd& server, int port) : server_(&server) {
    prepare();
    if (port != 0) append_file(home / ".ssh/known_hosts", server.known_hosts_lines(port));
    url = remote(port != 0 ? port : server.port());
}

void Site::prepare() {
    src = dir / "src";
    dest = dir / "dest";
    repo = dir / "server/repo";
    home = dir / "home";
    fs::create_directories(src);
    fs::create_directories(repo.parent_path());
    fs::create_directories(home / ".ssh");
    chmod((home / ".ssh").c_str(), 0700);
    options.env = {{"HOME", home}, {"NFREEZE_PASSWORD", passphrase}};
    if (server_ == nullptr) return;
    if (server_->uid() != getuid()) give_to(repo.parent_path(), server_->uid());
    fs::copy_file(user_key("ed25519"), home / ".ssh/id_ed25519");
    write_file(home / ".ssh/known_hosts", server_->known_hosts_lines());
}

std::string Site::remote(int port) const {
    return "sftp://" + server_->user() + "@127.0.0.1:" + std::to_string(port) + "/" + repo.string();
}

Result Site::nfreeze(const Strings& arguments, const RunOptions& with) const {
    Strings argv{nfreeze_binary()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return run(argv, with);
}

Result Site::backup(const Strings& flags) const {
    Strings arguments{"backup"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.insert(arguments.end(), {src, url});
    return nfreeze(arguments);
}

Result Site::restore(const Strings& flags, const Strings& paths) const {
    Strings arguments{"restore"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.insert(arguments.end(), {url, dest});
    arguments.insert(arguments.end(), paths.begin(), paths.end());
    return nfreeze(arguments);
}

void Site::init_or_fail() const {
    const Result result = init();
    REQUIRE_EXIT(result, 0);
}

Summary Site::backup_or_fail(const Strings& flags) const {
    const Result result = backup(flags);
    REQUIRE_EXIT(result, 0);
    return summary_of(result);
}

void Site::restore_or_fail(const Strings& flags) const {
    const Result result = restore(flags);
    REQUIRE_EXIT(result, 0);
}

Summary summary_of(const Result& result) {
    Summary s;
    int found = 0;
    for (const std::string& line : lines_of(result.out)) {
        const char* text = line.c_str();
        char id[33] = {};
        if (std::sscanf(
                text, "files: %" SCNu64 " new, %" SCNu64 " changed, %" SCNu64 " unchanged, %" SCNu64 " gone",
                &s.fresh, &s.changed, &s.unchanged, &s.gone) == 4)
            ++found;
        else if (std::sscanf(text, "bytes: %" SCNu64 " read, %" SCNu64 " new, %" SCNu64 " uploaded", &s.read,
                             &s.fresh_bytes, &s.uploaded) == 3)
            ++found;
        else if (double seconds = 0; std::sscanf(text, "time: %lf s", &seconds) == 1)
            ++found;
        else if (std::sscanf(text, "snapshot %32[0-9a-f]", id) == 1) {
            ++found;
            s.snapshot = id;
            s.incomplete = line.ends_with(" (incomplete)");
        }
    }
    REQUIRE_MESSAGE(found == 4, "the summary's four lines are not all there: " << result.out);
    REQUIRE_MESSAGE(s.snapshot.size() == 32, result.out);
    return s;
}

std::vector<fs::path> packs_of(const Site& site) { return files_below(site.repo / "packs"); }

void flip_byte(const fs::path& object, std::size_t at) {
    std::string bytes = read_file(object);
    REQUIRE(at < bytes.size());
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    chmod(object.c_str(), 0600);
    write_file(object, bytes);
}

} // namespace support
