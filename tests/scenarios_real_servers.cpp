// Other people's SSH servers, each on a free port of loopback with keys of its own. What they need is
// installed by `make servers`, which sets NFREEZE_TEST_SERVERS to a directory with npm's modules; without it
// only those run that the other tests need anyway.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "clients.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

bool somebody_listens(int port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    close(fd);
    return connected;
}

// Whether the servers that only `make servers` installs are to be tested, and this one is there.
bool wanted(const std::string& what, bool there) {
    if (std::getenv("NFREEZE_TEST_SERVERS") == nullptr) {
        skipped(what + ": by `make servers`");
        return false;
    }
    if (!there) skipped(what + ": is not installed");
    return there;
}
bool have_module(const std::string& name) {
    return fs::exists("/usr/bin/python3") && run({"/usr/bin/python3", "-c", "import " + name}).code == 0;
}
std::string script(const std::string& name) { return std::string(NFREEZE_TESTS_DIR) + "/servers/" + name; }

// A client and a directory for the server, which knows the client's key (ed25519).
struct Real {
    TempDir dir;
    Site site{Site::Kind::local};
    const int port = free_port();
    const std::string user;
    RunOptions options; // of the server
    std::unique_ptr<Child> child;

    explicit Real(std::string user_name = "somebody") : user(std::move(user_name)) {
        for (const std::string end : {"", ".pub"})
            fs::copy_file(host_key("ed25519").string() + end, host_file().string() + end);
        chmod(host_file().c_str(), 0600);
        write_file(authorized(), public_key_line(user_key("ed25519")) + " somebody\n");
        fs::copy_file(user_key("ed25519"), site.home / ".ssh/id_ed25519");
        write_file(site.home / ".ssh/known_hosts",
                   "[127.0.0.1]:" + std::to_string(port) + " " + public_key_line(host_key("ed25519")) + "\n");
        at(site.repo);
        options.timeout = std::chrono::hours(1);
        options.stdout_to = dir / "log";
        site.options.timeout = std::chrono::minutes(2);
    }
    void at(const fs::path& repository) {
        site.url = "sftp://" + user + "@127.0.0.1:" + std::to_string(port) + "/" + repository.string();
    }
    [[nodiscard]] fs::path host_file() const { return dir / "ssh_host_ed25519_key"; }
    [[nodiscard]] fs::path authorized() const { return dir / "authorized_keys"; }
    [[nodiscard]] std::string port_text() const { return std::to_string(port); }
    [[nodiscard]] std::string log() const { return read_file(dir / "log"); }
    void start(const Strings& argv) {
        child = std::make_unique<Child>(argv, options);
        const bool up =
            wait_until([&] { return somebody_listens(port) || !child->running(); }, milliseconds(30'000));
        REQUIRE_MESSAGE((up && child->running()), log());
    }
    // What it takes to know the throw-away account: for children of `options`.
    void have_account() {
        write_file(dir / "passwd", read_file("/etc/passwd") + account_name +
                                       ":x:54321:54321::" + (dir / "login").string() + ":/bin/sh\n");
        write_file(dir / "shadow", read_file("/etc/shadow") + account_name + ":*:19000:0:99999:7:::\n");
        options.mounts = {{dir / "passwd", "/etc/passwd", ""}, {dir / "shadow", "/etc/shadow", ""}};
        fs::create_directories(dir / "login/.ssh");
        fs::copy_file(authorized(), dir / "login/.ssh/authorized_keys");
        give_to(dir / "login", account_uid);
        give_to(site.repo.parent_path(), account_uid);
        for (const fs::path& path : {dir.path(), site.dir.path()}) chmod(path.c_str(), 0755);
    }
    // All that it is for; then, by `make servers`, more than one connection's worth, and a line that breaks
    // in the middle.
    void check() {
        check_all_verbs(site);
        if (std::getenv("NFREEZE_TEST_SERVERS") == nullptr) return;
        write_random_file(site.src / "larger", 40 * MiB, 7);
        Proxy proxy(port);
        append_file(site.home / ".ssh/known_hosts", "[127.0.0.1]:" + std::to_string(proxy.port()) + " " +
                                                        public_key_line(host_key("ed25519")) + "\n");
        const std::string direct = std::exchange(
            site.url, std::string(site.url).replace(site.url.find(port_text()), port_text().size(),
                                                    std::to_string(proxy.port())));
        proxy.cut_after = 20 * static_cast<std::int64_t>(MiB);
        CHECK_EXIT(site.backup(), 0);
        CHECK(proxy.cuts == 1);
        proxy.cut_after_down =
            static_cast<std::int64_t>(proxy.downstream) + 20 * static_cast<std::int64_t>(MiB);
        remove_tree(site.dest);
        CHECK_EXIT(site.restore(), 0);
        CHECK(proxy.cuts == 2);
        CHECK(compare(site.src, site.dest) == "");
        site.url = direct;
        CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
        if (child) CHECK(child->running());
    }
};

} // namespace

TEST_SUITE_BEGIN("real servers");

TEST_CASE("real servers: rclone serve sftp") {
    if (!have_program("rclone")) return skipped("rclone: is not installed");
    Real real;
    real.start({"rclone", "serve", "sftp", real.site.repo.parent_path(), "--config", "/dev/null", "--addr",
                "127.0.0.1:" + real.port_text(), "--key", real.host_file(), "--authorized-keys",
                real.authorized(), "--dir-cache-time", "1s"});
    real.at("/repo");
    real.check();
}

TEST_CASE("real servers: ProFTPD's mod_sftp") {
    if (!wanted("ProFTPD", have_program("proftpd"))) return;
    if (!is_root()) return skipped("ProFTPD: needs root");
    Real real(account_name);
    real.have_account();
    real.options.mounts.clear();
    write_file(real.dir / "keys",
               must_run({"ssh-keygen", "-e", "-m", "RFC4716", "-f", user_key("ed25519").string() + ".pub"}));
    write_file(real.dir / "users",
               std::string(account_name) + ":x:54321:54321::" + (real.dir / "login").string() + ":/bin/sh\n");
    write_file(real.dir / "groups", std::string(account_name) + ":x:54321:\n");
    const std::string dir = real.dir.path().string() + "/";
    write_file(
        real.dir / "config",
        "LoadModule mod_sftp.c\nServerName test\nServerType standalone\nPort " + real.port_text() +
            "\nDefaultAddress 127.0.0.1\nUseIPv6 off\nUser nobody\nGroup nogroup\nRequireValidShell off\n"
            "AuthOrder mod_auth_file.c\nAuthUserFile " +
            dir + "users\nAuthGroupFile " + dir + "groups\nScoreboardFile " + dir + "scoreboard\nPidFile " +
            dir + "pid\nSystemLog " + dir +
            "log2\nTransferLog NONE\nWtmpLog off\nDelayEngine off\n"
            "SFTPEngine on\nSFTPLog " +
            dir + "log3\nSFTPHostKey " + real.host_file().string() +
            "\nSFTPAuthMethods publickey\nSFTPAuthorizedUserKeys file:" + dir + "keys\n");
    for (const char* name : {"users", "groups", "config"}) chmod((real.dir / name).c_str(), 0600);
    real.start({"proftpd", "--nodaemon", "--config", real.dir / "config"});
    real.check();
}

TEST_CASE("real servers: dropbear, with OpenSSH's sftp-server") {
    if (!wanted("dropbear", have_program("dropbear") && fs::exists("/usr/lib/sftp-server"))) return;
    if (!can_mount()) return skipped("dropbear: an account needs root and mount namespaces");
    Real real(account_name);
    real.have_account();
    must_run(
        {"/usr/lib/dropbear/dropbearconvert", "openssh", "dropbear", real.host_file(), real.dir / "host"});
    real.start({"dropbear", "-F", "-E", "-s", "-p", "127.0.0.1:" + real.port_text(), "-r", real.dir / "host",
                "-P", real.dir / "pid"});
    real.check();
}

TEST_CASE("real servers: paramiko") {
    if (!wanted("paramiko", have_module("paramiko"))) return;
    Real real;
    real.start({"/usr/bin/python3", script("paramiko_server.py"), real.port_text(), real.host_file(),
                real.authorized()});
    real.check();
}

TEST_CASE("real servers: asyncssh") {
    if (!wanted("asyncssh", have_module("asyncssh"))) return;
    Real real;
    real.start({"/usr/bin/python3", script("asyncssh_sftp.py"), real.port_text(), real.host_file(),
                real.authorized()});
    real.check();
}

TEST_CASE("real servers: npm's ssh2, its flags taken by number and by its own table") {
    const char* modules = std::getenv("NFREEZE_TEST_SERVERS");
    if (!wanted("npm's ssh2", modules != nullptr && have_program("node") &&
                                  fs::exists(fs::path(modules) / "node_modules/ssh2")))
        return;
    for (const std::string flags : {"numbers", "words"}) {
        CAPTURE(flags);
        Real real;
        real.options.env["NODE_PATH"] = fs::path(modules) / "node_modules";
        real.start(
            {"node", script("ssh2_server.js"), real.port_text(), real.host_file(), real.authorized(), flags});
        real.check();
    }
}

TEST_CASE("real servers: Erlang's ssh_sftpd") {
    if (!wanted("Erlang's ssh", have_program("escript") && !fs::is_empty("/usr/lib/erlang/lib") &&
                                    run({"sh", "-c", "ls -d /usr/lib/erlang/lib/ssh-*"}).code == 0))
        return;
    Real real;
    real.options.env["HOME"] = real.dir.path().string(); // for its cookie
    real.start({"escript", script("erlang_server.erl"), real.port_text(), real.dir.path()});
    real.check();
}

namespace {
// A directory that rclone mounts elsewhere, for a server that runs outside of it.
struct Mounted {
    TempDir dir, behind;
    std::unique_ptr<Child> child;
    RunOptions options;
    Mounted(const Strings& flags, const fs::path& what) {
        fs::create_directories(there());
        options.timeout = std::chrono::hours(1);
        options.stdout_to = behind / "log";
        Strings argv{"rclone",           "mount",     what,          there(),
                     "--config",         "/dev/null", "--cache-dir", behind / "cache",
                     "--dir-cache-time", "1s"};
        argv.insert(argv.end(), flags.begin(), flags.end());
        child = std::make_unique<Child>(argv, options);
        REQUIRE(wait_until([&] { return is_mounted() || !child->running(); }, milliseconds(20'000)));
    }
    ~Mounted() {
        umount2(there().c_str(), MNT_DETACH);
        child.reset();
    }
    Mounted(const Mounted&) = delete;
    Mounted& operator=(const Mounted&) = delete;
    [[nodiscard]] fs::path there() const { return dir / "mnt"; }
    [[nodiscard]] bool is_mounted() const {
        return contains(read_file("/proc/self/mounts"), " " + there().string() + " fuse");
    }
};
bool have_fuse() {
    if (!is_root() || !have_program("rclone") || !have_program("fusermount3") ||
        access("/dev/fuse", R_OK | W_OK) != 0) {
        skipped("OpenSSH over FUSE: needs root, rclone, fuse3 and /dev/fuse");
        return false;
    }
    return true;
}
} // namespace

TEST_CASE("real servers: OpenSSH serving what rclone mounts") {
    if (!wanted("OpenSSH over rclone mount", true) || !have_fuse()) return;
    for (const Strings& flags : {Strings{"--vfs-cache-mode", "off"},
                                 Strings{"--vfs-cache-mode", "writes", "--vfs-write-back", "0s"}}) {
        CAPTURE(flags[1]);
        const TempDir space;
        const Mounted mounted(flags, space.path());
        if (!mounted.is_mounted())
            return skipped("OpenSSH over rclone mount: it does not mount: " +
                           read_file(mounted.behind / "log"));
        Site site(shared_sshd());
        site.repo = mounted.there() / "repo";
        site.url = site.remote(shared_sshd().port());
        check_all_verbs(site);
    }
}

TEST_CASE(
    "real servers: OpenSSH serving what rclone mounts: that something is lost comes out when it is closed") {
    if (!wanted("OpenSSH over rclone mount", true) || !have_fuse() || !have_python()) return;
    // What rclone mounts is itself behind SFTP, on a server that loses packs at their end.
    Odd odd;
    const TempDir space;
    const std::string remote = ":sftp,host=127.0.0.1,port=" + std::to_string(odd.server.port()) +
                               ",user=" + odd.server.user() + ",key_file=\"" +
                               (odd.site.home / ".ssh/id_ed25519").string() +
                               "\",disable_hashcheck=true:" + space.path().string();
    const Mounted mounted({"--vfs-cache-mode", "off"}, remote);
    if (!mounted.is_mounted())
        return skipped("OpenSSH over rclone mount: it does not mount: " + read_file(mounted.behind / "log"));
    Site site(shared_sshd());
    site.repo = mounted.there() / "repo";
    site.url = site.remote(shared_sshd().port());
    write_random_file(site.src / "large", 3 * MiB, 1);
    site.init_or_fail();
    odd.set({"--answer=close-written@/packs/=failure"});
    odd.server.cut_connections(); // which rclone keeps
    const Result result = site.nfreeze({"backup", "--retry-for", "3", site.src, site.url});
    CHECK_EXIT(result, 1);
    CHECK_NOT_NAMED(result.out, "snapshot ");
    CHECK(odd.count("close-written") > 0);
    odd.set({});
    odd.server.cut_connections();
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
    site.backup_or_fail();
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("real servers: questions by keyboard-interactive are asked in their own words, a code among them") {
    if (!wanted("paramiko", have_module("paramiko"))) return;
    struct Way {
        Strings flags;
        std::vector<Answer> dialog;
    };
    for (const Way& way : std::vector<Way>{
             {{"--ask", "Password: =sesame", "--ask", "Verification code: =123456"},
              {{"assword", "sesame"}, {"Verification code", "123456"}}},
             {{"--rounds", "--ask", "Password: =sesame", "--ask", "+Code from your phone: =42"},
              {{"assword", "sesame"}, {"Code from your phone", "42"}}},
             {{"--then-key", "--ask", "Verification code: =123456"}, {{"Verification code", "123456"}}},
             {{"--rounds", "--ask", "PIN: =1", "--ask", "TAN 17: =2", "--ask", "TAN 18: =3"},
              {{"PIN", "1"}, {"TAN 17", "2"}, {"TAN 18", "3"}}}}) {
        CAPTURE(way.flags[0]);
        CAPTURE(way.flags[1]);
        Real real;
        Strings argv{"/usr/bin/python3", script("paramiko_server.py"),
                     real.port_text(),   real.host_file(),
                     real.authorized(),  "--log",
                     real.dir / "logins"};
        argv.insert(argv.end(), way.flags.begin(), way.flags.end());
        const std::string url = std::exchange(real.site.url, real.site.repo.string());
        write_file(real.site.src / "file", "content");
        real.site.init_or_fail();
        real.site.backup_or_fail();
        real.site.url = url;
        real.start(argv);
        const Result result = real.site.nfreeze({"snapshots", url}, at_terminal(real.site, way.dialog));
        CHECK_EXIT(result, 0);
        CHECK_NOT_NAMED(result.out, "sesame");
        // NFREEZE_SSH_PASSWORD is the answer to the question for the password, and to no other.
        if (contains(way.flags.back(), "123456") && way.dialog.size() == 2) {
            RunOptions given = at_terminal(real.site, {{"Verification code", "123456"}});
            given.env["NFREEZE_SSH_PASSWORD"] = "sesame";
            CHECK_EXIT(real.site.nfreeze({"snapshots", url}, given), 0);
        }
        // Nobody is there: nothing is made up, and what was asked for is named.
        RunOptions alone = real.site.options;
        alone.env["NFREEZE_SSH_PASSWORD"] = "sesame";
        fs::remove(real.dir / "logins");
        const auto first = std::ranges::find_if(way.dialog, [](auto& q) { return q.expect != "assword"; });
        check_refused(real.site.nfreeze({"snapshots", url}, alone), {first->expect});
        CHECK(read_file(real.dir / "logins").find("answers sesame | sesame") == std::string::npos);
    }
}

TEST_SUITE_END();
