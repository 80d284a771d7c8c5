// Every way that a server may want one to log in, ssh's configuration in its corners, names that only the
// system's name services know, and what is said when nobody is let in.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "clients.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

// A server with something to look at, which was put there by no login.
struct Door {
    Sshd server;
    Site site;
    explicit Door(const Sshd::Options& options) : server(options), site(server) {
        const std::string url = std::exchange(site.url, site.repo.string());
        write_file(site.src / "file", "content");
        site.init_or_fail();
        site.backup_or_fail();
        site.url = url;
        if (server.uid() != getuid()) give_to(site.repo, server.uid());
    }
    Door(const Strings& config, bool with_password, bool interactive = false)
        : Door(options(config, with_password, interactive)) {}
    static Sshd::Options options(const Strings& config, bool with_password, bool interactive) {
        Sshd::Options options;
        options.config = config;
        options.ordinary_account = with_password;
        options.interactive = interactive;
        return options;
    }
    [[nodiscard]] RunOptions with(const Environment& env) const {
        RunOptions options = site.options;
        for (const auto& [name, value] : env) options.env[name] = value;
        return options;
    }
    [[nodiscard]] RunOptions with_password(const std::string& password = account_password) const {
        return with({{"NFREEZE_SSH_PASSWORD", password}});
    }
    Result look(const Strings& flags = {}) const { return look(flags, site.options); }
    Result look(const Strings& flags, const RunOptions& options) const {
        Strings words{"snapshots", site.url};
        words.insert(words.end(), flags.begin(), flags.end());
        return site.nfreeze(words, options);
    }
    [[nodiscard]] std::size_t logged(const std::string& part) const {
        const Strings lines = lines_of(server.log());
        return static_cast<std::size_t>(
            std::ranges::count_if(lines, [&](const std::string& line) { return contains(line, part); }));
    }
    void configure(const std::string& text) const { write_file(site.home / ".ssh/config", text); }
    [[nodiscard]] fs::path key() const { return site.home / ".ssh/id_ed25519"; }
};

bool have_accounts() {
    if (can_mount()) return true;
    skipped("an account with a password: needs root and mount namespaces for a private /etc/shadow");
    return false;
}

// Fresh keys that no server knows, in a directory of their own.
struct Strangers {
    TempDir dir;
    std::vector<fs::path> keys;
    explicit Strangers(int many) {
        for (int i = 0; i < many; ++i) {
            keys.push_back(dir / ("stranger" + std::to_string(i)));
            must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys.back()});
        }
    }
};

std::size_t times(std::string_view text, std::string_view part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
    return found;
}

// A refused login is exit code 6, and says which of the things that can go wrong went wrong.
void check_says(const Result& result, const Strings& named, const Strings& not_named = {}) {
    check_refused(result, named);
    for (const std::string& part : not_named) CHECK_NOT_NAMED(result.err, part);
}
constexpr const char* kGiveAKey = "ive a key with -i";

void write_script(const fs::path& file, const std::string& text) {
    write_file(file, "#!/bin/sh\n" + text);
    chmod(file.c_str(), 0755);
}

} // namespace

TEST_SUITE_BEGIN("logging in");

// ---- sequences --------------------------------------------------------------------------------

TEST_CASE("logging in: by several methods one after the other, in the server's order, on each connection") {
    if (!have_accounts()) return;
    struct Way {
        std::string methods;
        bool interactive, key, password;
    };
    for (const Way& way :
         std::vector<Way>{{"publickey,password", false, true, true},
                          {"password,publickey", false, true, true},
                          {"publickey,keyboard-interactive", true, true, true},
                          {"keyboard-interactive,publickey", true, true, true},
                          {"publickey,password publickey,keyboard-interactive", false, true, true},
                          {"publickey,publickey", false, true, false}}) {
        if (way.interactive && !fs::exists("/etc/pam.d/sshd")) {
            skipped("keyboard-interactive: there is no /etc/pam.d/sshd");
            continue;
        }
        CAPTURE(way.methods);
        const Door door({"AuthenticationMethods " + way.methods}, true, way.interactive);
        REQUIRE(door.server.has_password());
        const RunOptions all =
            door.with(way.password ? Environment{{"NFREEZE_SSH_PASSWORD", account_password}} : Environment{});
        if (!way.password) fs::copy_file(user_key("rsa"), door.site.home / ".ssh/id_rsa");
        CHECK_EXIT(door.look({}, all), 0);
        write_random_file(door.site.src / "large", 40 * MiB, 1);
        CHECK_EXIT(door.site.nfreeze({"backup", "--connections", "3", door.site.src, door.site.url}, all), 0);
        CHECK_MESSAGE(door.logged("Starting session") >= 3, door.server.log());
        CHECK_MESSAGE(door.logged("Failed password") + door.logged("Failed keyboard") == 0,
                      door.server.log());
        // Either alone is not enough, and what is missing is named.
        if (way.password) {
            check_says(door.look(), {way.interactive ? "keyboard-interactive" : "password"});
            check_says(door.look({}, door.with_password("wrong")),
                       {way.interactive ? "keyboard-interactive" : "password"}, {kGiveAKey});
        }
        fs::remove(door.key());
        check_says(door.look({}, all), {"publickey"});
    }
}

TEST_CASE("logging in: a sequence typed at a terminal asks for its password once") {
    if (!have_accounts()) return;
    const Door door({"AuthenticationMethods publickey,password"}, true);
    write_random_file(door.site.src / "large", 40 * MiB, 1);
    const Result backup = door.site.nfreeze({"backup", "--connections", "3", door.site.src, door.site.url},
                                            at_terminal(door.site, {{"assword", account_password}}));
    CHECK_EXIT(backup, 0);
    CHECK(times(backup.out, "assword: ") == 1);
}

// ---- which keys, in which order ---------------------------------------------------------------

TEST_CASE("logging in: the key that is named comes before what else the agent has") {
    const Strangers strangers(7); // sshd lets nobody try more than six
    const Agent agent(strangers.keys);
    std::vector<fs::path> with_ours = strangers.keys;
    with_ours.push_back(user_key("ecdsa"));
    const Agent agent_with_ours(with_ours);
    const Door door({}, false);
    const RunOptions crowded = door.with({{"SSH_AUTH_SOCK", agent.socket()}}),
                     with_ours_last = door.with({{"SSH_AUTH_SOCK", agent_with_ours.socket()}});
    CHECK_EXIT(door.look({"-i", user_key("rsa")}, crowded), 0);
    fs::rename(door.key(), door.site.dir / "mine");
    door.configure("IdentityFile " + (door.site.dir / "mine").string() + "\n");
    CHECK_EXIT(door.look({}, crowded), 0);
    // The agent has it, last of all, and the file its public half.
    fs::copy_file(user_key("ecdsa").string() + ".pub", door.site.dir / "named.pub");
    door.configure("IdentityFile " + (door.site.dir / "named").string() + "\n");
    CHECK_EXIT(door.look({}, with_ours_last), 0);
    door.configure("IdentityFile " + (door.site.dir / "named.pub").string() + "\n");
    CHECK_EXIT(door.look({}, with_ours_last), 0);
    door.configure("IdentityFile " + (door.site.dir / "named").string() + "\nIdentitiesOnly yes\n");
    CHECK_EXIT(door.look({}, with_ours_last), 0);
    door.configure("");
    CHECK_EXIT(door.look({"-i", door.site.dir / "named.pub"}, with_ours_last), 0);
    // Nothing names it: then there are too many, and that is said.
    check_says(door.look({}, with_ours_last), {"oo many"}, {kGiveAKey});
}

TEST_CASE("logging in: PubkeyAuthentication no, PreferredAuthentications and their like are kept to") {
    if (!have_accounts()) return;
    const Door door({}, true);
    const auto by = [&](const std::string& config, const std::string& method) {
        CAPTURE(config);
        const std::size_t keys = door.logged("Accepted publickey"),
                          passwords = door.logged("Accepted password"), wrong = door.logged("Failed ");
        door.configure(config + "\n");
        CHECK_EXIT(door.look({}, door.with_password()), 0);
        CHECK(door.logged("Accepted publickey") - keys == (method == "publickey"));
        CHECK(door.logged("Accepted password") - passwords == (method == "password"));
        CHECK(door.logged("Failed ") == wrong);
    };
    by("", "publickey");
    by("PubkeyAuthentication no", "password");
    by("PreferredAuthentications password,publickey", "password");
    by("PreferredAuthentications publickey", "publickey");
    by("PreferredAuthentications keyboard-interactive,password", "password");
    by("PasswordAuthentication no", "publickey");
    const std::size_t before = door.logged("password for");
    door.configure("PasswordAuthentication no\nKbdInteractiveAuthentication no\n");
    fs::remove(door.key());
    CHECK_EXIT(door.look({}, door.with_password()), 6);
    door.configure("PreferredAuthentications publickey\n");
    CHECK_EXIT(door.look({}, door.with_password()), 6);
    CHECK_MESSAGE(door.logged("password for") == before, "it was not to be sent");
}

// ---- certificates -----------------------------------------------------------------------------

TEST_CASE("logging in: with a certificate, in a file or by an agent; where that cannot be, it is called by "
          "its name") {
    const TempDir dir;
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir / "ca"});
    const Door door({"TrustedUserCAKeys " + (dir / "ca.pub").string(), "AuthorizedKeysFile none"}, false);
    fs::remove(door.key());
    for (const std::string kind : {"ed25519", "ecdsa", "rsa"}) {
        CAPTURE(kind);
        const fs::path key = dir / kind;
        must_run({"ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key});
        must_run({"ssh-keygen", "-q", "-s", dir / "ca", "-I", "somebody", "-n", door.server.user(),
                  key.string() + ".pub"});
        const auto check = [&](const Result& result) {
            CHECK_MESSAGE((result.code == 0 || (result.code == 6 && contains(result.err, "certificate"))),
                          describe(result));
        };
        check(door.look({"-i", key}));
        const Agent agent(key); // ssh-add takes the certificate that lies beside the key
        check(door.look({}, door.with({{"SSH_AUTH_SOCK", agent.socket()}})));
        door.configure("IdentityFile " + key.string() + "\nCertificateFile " + key.string() + "-cert.pub\n");
        check(door.look());
        fs::rename(key.string() + "-cert.pub", dir / "elsewhere");
        door.configure("IdentityFile " + key.string() + "\nCertificateFile " + (dir / "elsewhere").string() +
                       "\n");
        check(door.look());
        door.configure("");
        // The witness: ssh gets in by it.
        must_run({"sftp", "-q", "-b", "/dev/null", "-o",
                  "UserKnownHostsFile=" + (door.site.home / ".ssh/known_hosts").string(), "-i", key, "-o",
                  "CertificateFile=" + (dir / "elsewhere").string(), "-P", std::to_string(door.server.port()),
                  door.server.user() + "@127.0.0.1"});
        // A key that has no certificate does not get in, and is told nothing of any.
        fs::remove(dir / "elsewhere");
        check_says(door.look({"-i", key}), {door.server.user()}, {"certificate"});
    }
}

TEST_CASE("logging in: a certificate beside a key that is let in by itself does no harm") {
    const TempDir dir;
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir / "ca"});
    const Door door({}, false);
    for (const std::string kind : {"ed25519", "ecdsa", "rsa"}) {
        CAPTURE(kind);
        const fs::path key = dir / ("id_" + kind);
        fs::copy_file(user_key(kind), key);
        fs::copy_file(user_key(kind).string() + ".pub", key.string() + ".pub");
        must_run({"ssh-keygen", "-q", "-s", dir / "ca", "-I", "somebody", "-n", "somebody",
                  key.string() + ".pub"});
        CHECK_EXIT(door.look({"-i", key}), 0);
        const Agent agent(key);
        fs::rename(door.key(), dir / "away");
        CHECK_EXIT(door.look({}, door.with({{"SSH_AUTH_SOCK", agent.socket()}})), 0);
        fs::rename(dir / "away", door.key());
    }
}

TEST_CASE("host keys: a certificate authority is believed, or is said by its name not to be understood") {
    const TempDir dir;
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir / "ca"});
    fs::copy_file(host_key("ed25519").string() + ".pub", dir / "host.pub");
    must_run(
        {"ssh-keygen", "-q", "-h", "-s", dir / "ca", "-I", "a host", "-n", "127.0.0.1", dir / "host.pub"});
    const Door door({"HostCertificate " + (dir / "host-cert.pub").string()}, false);
    const std::string place = "[127.0.0.1]:" + std::to_string(door.server.port());
    const fs::path known = door.site.home / ".ssh/known_hosts";
    const std::string authority = "@cert-authority " + place + " " + public_key_line(dir / "ca") + "\n";
    write_file(known, authority);
    const Result result = door.look();
    CHECK_MESSAGE((result.code == 0 || (result.code == 6 && contains(result.err, "cert-authority"))),
                  describe(result));
    write_file(known, "@cert-authority *.example.org " + public_key_line(dir / "ca") + "\n");
    check_says(door.look(), {"SHA256:"}, {"cert-authority"}); // that is for others
    write_file(known, authority + place + " " + public_key_line(host_key("ed25519")) + "\n");
    CHECK_EXIT(door.look(), 0); // the key itself is known as well
    write_file(known, authority);
    CHECK_EXIT(door.look({"--host-key", key_fingerprint(host_key("ed25519"))}), 0);
}

// ---- names ------------------------------------------------------------------------------------

TEST_CASE("names: a host that only the system's name services know is found by getent") {
    const Client client;
    client.have_key("ed25519");
    const std::string name = "nas.only-getent.invalid", port = std::to_string(shared_sshd().port());
    write_file(client.known_hosts(),
               "[" + name + "]:" + port + " " + public_key_line(host_key("ed25519")) + "\n");
    write_script(client.dir / "bin/getent",
                 "echo \"$@\" >>" + (client.dir / "asked").string() + "\n[ \"$1 $2\" = 'ahosts " + name +
                     "' ] || exit 2\n"
                     "echo '::2         STREAM " +
                     name + "'\necho '127.0.0.1       STREAM " + name + "'\necho '127.0.0.1       DGRAM'\n");
    RunOptions options = client.options;
    options.env["PATH"] = (client.dir / "bin").string() + ":/usr/bin:/bin";
    const std::string url =
        "sftp://" + shared_sshd().user() + "@" + name + ":" + port + "/" + client.site.repo.string();
    CHECK_EXIT(client.site.nfreeze({"snapshots", url}, options), 0);
    // Who is known to nobody is named; and one that is known without it is not asked for.
    check_refused(client.site.nfreeze({"snapshots", "sftp://nobody-knows-it.invalid/x"}, options),
                  {"nobody-knows-it.invalid"});
    fs::remove(client.dir / "asked");
    write_file(client.known_hosts(), shared_sshd().known_hosts_lines());
    CHECK_EXIT(client.site.nfreeze({"snapshots", client.site.url}, options), 0);
    CHECK((!fs::exists(client.dir / "asked") || !contains(read_file(client.dir / "asked"), "ahosts")));
    // Where neither is, that is no reason to fail otherwise.
    options.env["PATH"] = (client.dir / "empty").string();
    check_refused(client.site.nfreeze({"snapshots", "--known-hosts", client.known_hosts(), url}, options),
                  {name});
}

TEST_CASE(
    "names: an account that only the system's name services know: its name, its owners, and ssh is asked") {
    if (!is_root()) return skipped("an account that /etc/passwd does not know: needs root");
    const TempDir dir;
    Site site(Site::Kind::local);
    const std::string ghost = "ghost", id = "54399", home = site.home.string();
    const std::string line = ghost + ":*:" + id + ":" + id + "::" + home + ":/bin/sh";
    write_script(dir / "bin/getent", "case \"$1 $2\" in 'passwd " + id + "' | 'passwd " + ghost +
                                         "') echo '" + line + "' ;; 'group " + id +
                                         "' | 'group ghosts') echo 'ghosts:*:" + id +
                                         ":' ;; *) exit 2 ;; esac\n");
    const std::string port = std::to_string(shared_sshd().port());
    write_script(dir / "bin/ssh", "[ \"$1\" = -GT ] || exit 1\nprintf 'hostname 127.0.0.1\\nuser " +
                                      shared_sshd().user() + "\\nport " + port +
                                      "\\nidentityfile ~/.ssh/mine\\nuserknownhostsfile " + home +
                                      "/.ssh/known_hosts\\n'\n");
    chmod(dir.path().c_str(), 0755);
    fs::copy_file(user_key("ed25519"), site.home / ".ssh/mine");
    write_file(site.home / ".ssh/known_hosts", shared_sshd().known_hosts_lines());
    write_file(site.src / "file", "content");
    for (const fs::path& path : {site.dir.path(), site.home, site.repo.parent_path(), site.src})
        give_to(path, 54399);
    chmod(site.dir.path().c_str(), 0755);
    RunOptions as_ghost = site.options;
    as_ghost.uid = 54399;
    as_ghost.env["PATH"] = (dir / "bin").string() + ":/usr/bin:/bin";
    as_ghost.unset = {"USER", "LOGNAME"};
    CHECK_EXIT(site.nfreeze({"init", site.url}, as_ghost), 0);
    CHECK_EXIT(site.nfreeze({"backup", site.src, site.url}, as_ghost), 0);
    CHECK_NAMES(site.nfreeze({"snapshots", "--json", site.url}, as_ghost).out, "\"" + ghost + "\"");
    // The owner has a name: where that has another number, it is what counts.
    write_file(site.dir / "passwd", read_file("/etc/passwd") + ghost + ":x:54400:54400::/:/bin/false\n");
    write_file(site.dir / "group", read_file("/etc/group") + "ghosts:x:54401:\n");
    if (can_mount()) {
        RunOptions elsewhere = site.options;
        elsewhere.mounts = {{site.dir / "passwd", "/etc/passwd", ""}, {site.dir / "group", "/etc/group", ""}};
        CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, elsewhere), 0);
        struct stat st {};
        REQUIRE(stat((site.dest / "file").c_str(), &st) == 0);
        CHECK(st.st_uid == 54400);
        CHECK(st.st_gid == 54401);
    } else
        skipped("a restore where the name has another number: needs mount namespaces");
    // The way back: a name that only getent knows here, by another number.
    write_script(dir / "other/getent", "case \"$1 $2\" in 'passwd " + ghost + "') echo '" + ghost +
                                           ":*:54402:54402::/:/bin/sh' ;; 'group ghosts') "
                                           "echo 'ghosts:*:54403:' ;; *) exit 2 ;; esac\n");
    RunOptions by_getent = site.options;
    by_getent.env["PATH"] = (dir / "other").string() + ":/usr/bin:/bin";
    remove_tree(site.dest);
    CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, by_getent), 0);
    struct stat back {};
    REQUIRE(stat((site.dest / "file").c_str(), &back) == 0);
    CHECK(back.st_uid == 54402);
    CHECK(back.st_gid == 54403);
    // ssh's configuration counts for that account, too.
    CHECK_EXIT(site.nfreeze({"init", "alias:" + (site.repo.parent_path() / "by-alias").string()}, as_ghost),
               0);
    CHECK(fs::exists(site.repo.parent_path() / "by-alias/keys"));
}

// ---- ssh's configuration ----------------------------------------------------------------------

TEST_CASE("ssh's configuration: variables and tokens in the names of files") {
    const Door door({}, false);
    const fs::path keys = door.site.dir / "keys";
    fs::create_directory(keys);
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    const std::string host = name, short_host = host.substr(0, host.find('.')),
                      uid = std::to_string(getuid()), user = door.server.user(),
                      port = std::to_string(door.server.port());
    // %C: a hash of %l%h%p%r%j; ssh itself says which.
    fs::rename(door.key(), keys / "key");
    const auto try_name = [&](const std::string& written, const std::string& meant) {
        CAPTURE(written);
        fs::rename(keys / "key", keys / meant);
        door.configure("Host 127.0.0.1\n  HostKeyAlias 127.0.0.1-alias\n  IdentityFile " + keys.string() +
                       "/" + written + "\n");
        write_file(door.site.home / ".ssh/known_hosts",
                   "127.0.0.1-alias " + public_key_line(host_key("ed25519")) + "\n");
        CHECK_EXIT(door.look({}, door.with({{"WHICH_KEY", "chosen"}})), 0);
        fs::rename(keys / meant, keys / "key");
    };
    try_name("a-${WHICH_KEY}-b", "a-chosen-b");
    try_name("%L", short_host);
    try_name("%i", uid);
    try_name("%k", "127.0.0.1-alias");
    try_name("%u-%r-%p", "root-" + user + "-" + port);
    try_name("%%-%h", "%-127.0.0.1");
    try_name("%n", "127.0.0.1");
    const std::string hashed = must_run(
        {"sh", "-c", "printf %s '" + host + "127.0.0.1" + port + user + "' | sha1sum | cut -d' ' -f1"});
    try_name("%C", hashed.substr(0, 40));
    // A variable that is not set: as ssh, no such file; and neither a crash nor another file.
    door.configure("IdentityFile " + keys.string() + "/${NO_SUCH_VARIABLE_HERE}key\n");
    const Result result = door.look();
    CHECK_MESSAGE((result.code == 6 || result.code == 1 || result.code == 2), describe(result));
}

TEST_CASE("ssh's configuration: tokens in ProxyJump and ProxyCommand, and a proxy that passes a descriptor") {
    const Door door({}, false);
    const std::string port = std::to_string(door.server.port()), user = door.server.user();
    const fs::path config = door.site.home / ".ssh/config";
    const std::string common = "Host *\n  User " + user + "\n  Port " + port +
                               "\n  HostName 127.0.0.1\n  IdentityFile " + door.key().string() +
                               "\n  UserKnownHostsFile " + (door.site.home / ".ssh/known_hosts").string() +
                               "\n";
    const auto look = [&](const std::string& host) {
        return door.site.nfreeze({"snapshots", host + ":" + door.site.repo.string()});
    };
    const std::size_t before = door.logged("Accepted publickey");
    door.configure("Host far\n  ProxyJump %r@near\n" + common);
    CHECK_EXIT(look("far"), 0);
    CHECK(door.logged("Accepted publickey") - before == 2);
    door.configure("Host far\n  ProxyJump %r@%n-near\n" + common);
    CHECK_EXIT(look("far"), 0);
    door.configure("Host far\n  ProxyCommand ssh -F " + config.string() + " -l %r -p %p -W %h:%p %n-near\n" +
                   common);
    CHECK_EXIT(look("far"), 0);
    // One that connects, hands the connection over and goes.
    write_file(door.site.dir / "pass.py",
               "import array, socket, sys\n"
               "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
               "socket.fromfd(1, socket.AF_UNIX, socket.SOCK_STREAM).sendmsg([b'x'], "
               "[(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])\n");
    if (!fs::exists("/usr/bin/python3")) return skipped("ProxyUseFdpass: needs /usr/bin/python3");
    door.configure("Host far\n  ProxyCommand /usr/bin/python3 " + (door.site.dir / "pass.py").string() +
                   " %h %p\n  ProxyUseFdpass yes\n" + common);
    CHECK_EXIT(look("far"), 0);
    write_random_file(door.site.src / "large", 40 * MiB, 1);
    CHECK_EXIT(
        door.site.nfreeze({"backup", "--connections", "3", door.site.src, "far:" + door.site.repo.string()}),
        0);
    door.configure("Host far\n  ProxyCommand true\n  ProxyUseFdpass yes\n" + common);
    CHECK_EXIT(look("far"), 6);
}

TEST_CASE("ssh's configuration: names of files with blanks") {
    const Door door({}, false);
    const fs::path key = door.site.dir / "a b", hosts = door.site.dir / "known c",
                   more = door.site.dir / "more d";
    fs::rename(door.key(), key);
    fs::rename(door.site.home / ".ssh/known_hosts", more);
    write_file(hosts, "");
    door.configure("IdentityFile \"" + key.string() + "\"\nUserKnownHostsFile \"" + hosts.string() + "\" \"" +
                   more.string() + "\"\n");
    CHECK_EXIT(door.look(), 0);
    door.configure("IdentityFile \"" + key.string() + "\"\nUserKnownHostsFile " +
                   (door.site.dir / "none").string() + "\nGlobalKnownHostsFile \"" + more.string() + "\"\n");
    CHECK_EXIT(door.look(), 0);
    door.configure("IdentityFile \"" + key.string() + "\"\nUserKnownHostsFile \"" + hosts.string() + "\" " +
                   (door.site.dir / "none").string() + "\n");
    CHECK_EXIT(door.look({"--accept-new-host-key"}), 0); // it is the first to which it is added
    CHECK_NAMES(read_file(hosts), "[127.0.0.1]");
    CHECK(!fs::exists(door.site.dir / "known"));
}

TEST_CASE("ssh's configuration: a list of known hosts that cannot be read is passed over, or named, and "
          "stops nobody") {
    if (!is_root()) return skipped("an ordinary account and a file that it cannot read: needs root");
    const Door door({}, false);
    const fs::path secret = door.site.dir / "secret";
    write_file(secret, door.server.known_hosts_lines());
    chmod(secret.c_str(), 0000);
    const std::string mine = (door.site.home / ".ssh/known_hosts").string();
    RunOptions ordinary = door.site.options;
    ordinary.uid = account_uid; // who has no name here: ssh is not asked
    give_to(door.site.home, account_uid);
    CHECK_EXIT(door.look({"--known-hosts", mine}, ordinary), 0);
    if (can_mount()) {
        write_file(door.site.dir / "passwd", read_file("/etc/passwd") + account_name +
                                                 ":x:54321:54321::" + door.site.home.string() + ":/bin/sh\n");
        ordinary.mounts = {{door.site.dir / "passwd", "/etc/passwd", ""}};
    }
    chmod(door.site.dir.path().c_str(), 0755);
    door.configure("User " + door.server.user() + "\nUserKnownHostsFile " + mine + " " + secret.string() +
                   "\nGlobalKnownHostsFile " + secret.string() + "\n");
    CHECK_EXIT(door.look({}, ordinary), 0);
    door.configure("User " + door.server.user() + "\nUserKnownHostsFile " + secret.string() + " " + mine +
                   "\n");
    CHECK_EXIT(door.look({}, ordinary), 0);
    door.configure("UserKnownHostsFile " + door.site.home.string() + " " + mine + "\n"); // a directory
    CHECK_EXIT(door.look({}, ordinary), 0);
    // Where none can be read, nothing is known.
    door.configure("UserKnownHostsFile " + secret.string() + "\n");
    if (can_mount()) check_says(door.look({}, ordinary), {"SHA256:"});
}

TEST_CASE("ssh's configuration: StrictHostKeyChecking") {
    const Door door({}, false);
    const fs::path known = door.site.home / ".ssh/known_hosts";
    const std::string place = "[127.0.0.1]:" + std::to_string(door.server.port());
    const auto start = [&](const std::string& strict, const std::string& hosts) {
        door.configure("StrictHostKeyChecking " + strict + "\n");
        write_file(known, hosts);
    };
    const std::string changed = place + " " + public_key_line(user_key("ed25519")) + "\n";
    start("accept-new", "");
    CHECK_EXIT(door.look(), 0);
    CHECK_NAMES(read_file(known), place);
    start("accept-new", changed);
    check_says(door.look(), {"changed"});
    start("no", "");
    CHECK_EXIT(door.look(), 0);
    CHECK_NAMES(read_file(known), place);
    start("no", changed); // what the configuration eases for ssh is not eased for backups
    check_says(door.look(), {"changed"});
    // "yes": nobody is asked.
    start("yes", "");
    check_says(door.look(), {"SHA256:"});
    const Result at = door.look({}, at_terminal(door.site, {{"yes/no", "yes"}}));
    CHECK_EXIT(at, 6);
    CHECK_NOT_NAMED(at.out, "yes/no");
    start("ask", "");
    CHECK_EXIT(door.look({}, at_terminal(door.site, {{"yes/no", "yes"}})), 0);
    // What the command line says comes first.
    start("yes", "");
    CHECK_EXIT(door.look({"--accept-new-host-key"}), 0);
}

// ---- what is said -----------------------------------------------------------------------------

TEST_CASE("refused: a login shell that prints, a subsystem that ends, and none at all: each is named, soon") {
    const auto look = [](const std::string& subsystem) {
        CAPTURE(subsystem);
        const Door door({"Subsystem sftp " + subsystem}, false);
        const Result result = door.look();
        CHECK(result.seconds < 10 * slowness());
        CHECK_NOT_NAMED(result.err, "nothing moved");
        return result;
    };
    const std::string real = sftp_server() ? sftp_server()->string() : "/bin/false";
    const std::string greeting = "echo Welcome to this machine; exec " + real;
    CHECK_NAMES(look(greeting).err, "Welcome to this machine");
    check_says(look(greeting), {"shell"});
    check_says(look("echo Last login: today; sleep 1; exec " + real), {"shell", "Last login"});
    check_says(look("yes Welcome"), {"shell"});
    check_says(look("printf '\\033[31mred\\007'; exec " + real), {"shell"}, {"\033", "\007"});
    check_says(look("/bin/true"), {"SFTP"});
    check_says(look("/bin/false"), {"SFTP"});
    check_says(look("/no/such/program"), {"SFTP"});
    check_says(look("echo This account is not available >&2; exit 1"),
               {"SFTP", "shell"}); // sshd passes no words on
    check_says(look("kill -9 $$"), {"SFTP"});
    const Door none({"Subsystem other /bin/true"}, false);
    check_says(none.look(), {"SFTP"});
}

TEST_CASE("refused: an expired password") {
    if (!have_accounts()) return;
    for (const bool interactive : {false, true}) {
        if (interactive && !fs::exists("/etc/pam.d/sshd")) continue;
        CAPTURE(interactive);
        Sshd::Options options;
        options.ordinary_account = options.expired = true;
        options.interactive = interactive;
        const Door door(options);
        fs::remove(door.key());
        const Result result = door.look({}, door.with_password());
        check_says(result, {"password"}, {"nothing moved", kGiveAKey});
        CHECK_MESSAGE((contains(result.err, "xpired") || contains(result.err, "change")), result.err);
        CHECK(result.seconds < 10 * slowness());
    }
}

TEST_CASE(
    "refused: a wrong passphrase, a key that cannot be read, one that is none: each is said for what it is") {
    const Door door({"PasswordAuthentication no"}, false);
    fs::remove(door.key());
    fs::copy_file(user_key_with_passphrase(), door.site.dir / "locked");
    const Result wrong = door.look(
        {"-i", door.site.dir / "locked"},
        at_terminal(door.site, {{"assphrase", "wrong"}, {"assphrase", "wrong"}, {"assphrase", "wrong"}}));
    CHECK_EXIT(wrong, 6);
    CHECK(times(wrong.out, "passphrase") == 4); // three questions and the message
    CHECK_NAMES(wrong.out.substr(std::min(wrong.out.size(), wrong.out.rfind("nfreeze: "))), "locked");
    CHECK_NOT_NAMED(wrong.out, kGiveAKey);
    // The third time one is right; ssh asks three times.
    CHECK_EXIT(
        door.look({"-i", door.site.dir / "locked"}, at_terminal(door.site, {{"assphrase", "wrong"},
                                                                            {"assphrase", "wrong"},
                                                                            {"assphrase", key_passphrase}})),
        0);
    // Nobody is there to be asked.
    check_says(door.look({"-i", door.site.dir / "locked"}), {"passphrase", "locked"}, {kGiveAKey});
    write_file(door.site.dir / "garbage",
               "-----BEGIN OPENSSH PRIVATE KEY-----\nxxxx\n-----END OPENSSH PRIVATE KEY-----\n");
    check_says(door.look({"-i", door.site.dir / "garbage"}), {"garbage"}, {kGiveAKey});
    write_file(door.site.dir / "text", "no key at all\n");
    check_says(door.look({"-i", door.site.dir / "text"}), {"text"}, {kGiveAKey});
    write_file(door.site.home / ".ssh/id_ed25519", "no key at all\n"); // the same by its default name
    check_says(door.look(), {"id_ed25519"});
    // ... which does not keep another from being tried.
    fs::copy_file(user_key("rsa"), door.site.home / ".ssh/id_rsa");
    CHECK_EXIT(door.look(), 0);
}

TEST_CASE("refused: a default key that may not be read is named") {
    if (!is_root()) return skipped("an ordinary account and a file that it cannot read: needs root");
    const Door door({}, false);
    give_to(door.site.home, account_uid);
    chmod(door.site.dir.path().c_str(), 0755);
    give_to(door.key(), 0);
    chmod(door.key().c_str(), 0600);
    RunOptions ordinary = door.site.options;
    ordinary.uid = account_uid;
    check_says(door.look({}, ordinary), {"id_ed25519", "ermission denied"}, {kGiveAKey});
}

TEST_CASE(
    "refused: a wrong password is sent once, is named, and one that is typed may be typed three times") {
    if (!have_accounts()) return;
    for (const bool interactive : {false, true}) {
        if (interactive && !fs::exists("/etc/pam.d/sshd")) continue;
        CAPTURE(interactive);
        // Both methods are offered where there is PAM.
        const Door door(interactive ? Strings{"PasswordAuthentication yes"} : Strings{}, true, interactive);
        fs::remove(door.key());
        const auto sent = [&] {
            return door.logged("Failed password") + door.logged("Failed keyboard-interactive");
        };
        check_says(door.look({}, door.with_password("wrong")), {"password"}, {kGiveAKey});
        CHECK_MESSAGE(sent() == 1, door.server.log());
        // Typed: the third one is right.
        const Result third = door.look(
            {}, at_terminal(door.site,
                            {{"assword", "wrong"}, {"assword", "wrong too"}, {"assword", account_password}}));
        CHECK_EXIT(third, 0);
        CHECK(sent() == 3);
        // Three wrong ones are enough.
        const Result never = door.look(
            {}, at_terminal(
                    door.site,
                    {{"assword", "a"}, {"assword", "b"}, {"assword", "c"}, {"assword", account_password}}));
        CHECK_EXIT(never, 6);
        CHECK(sent() == 6);
        CHECK_NOT_NAMED(never.out, kGiveAKey);
        // None is given and nobody can be asked: then none was tried.
        const Result none = door.look();
        check_refused(none, {"password"});
        const std::size_t tried = none.err.find("tried");
        if (tried != none.err.npos)
            CHECK_NOT_NAMED(none.err.substr(tried, none.err.find('.', tried) - tried), "password");
        CHECK(sent() == 6);
    }
}

TEST_CASE("refused: too many failures") {
    const Strangers strangers(4);
    const Agent agent(strangers.keys);
    const Door door({"MaxAuthTries 2"}, false);
    fs::remove(door.key());
    const Result result = door.look({}, door.with({{"SSH_AUTH_SOCK", agent.socket()}}));
    check_says(result, {"oo many"}, {kGiveAKey, "trying again"});
    CHECK_MESSAGE(door.logged("Connection from") == 1,
                  door.server.log()); // it would not end otherwise next time
}

TEST_CASE("refused: no algorithm in common: what the server offers is named") {
    for (const auto& [config, named] : std::vector<std::pair<Strings, Strings>>{
             {{"Ciphers 3des-cbc"}, {"3des-cbc"}},
             {{"Ciphers aes128-ctr", "MACs umac-64@openssh.com"}, {"umac-64@openssh.com"}},
             {{"KexAlgorithms sntrup761x25519-sha512@openssh.com"},
              {"sntrup761x25519-sha512@openssh.com"}}}) {
        const auto captured = config[0];
        CAPTURE(captured);
        const Door door(config, false);
        const Result result = door.look();
        check_says(result, named, {kGiveAKey, "trying again"});
        CHECK(result.seconds < 5 * slowness());
    }
    // A host key of a type that we do not take, beside one that we do: no reason for a refusal.
    const Door both({"KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256"}, false);
    CHECK_EXIT(both.look(), 0);
}

TEST_CASE("refused: a jump host asks for its password at each connection, so once where there is one") {
    if (!have_accounts()) return;
    const Door jump({}, true), door({}, false);
    const std::string known = (door.site.home / ".ssh/known_hosts").string();
    append_file(known, jump.server.known_hosts_lines());
    door.configure("Host jump\n  HostName 127.0.0.1\n  Port " + std::to_string(jump.server.port()) +
                   "\n  User " + account_name + "\n  PubkeyAuthentication no\n  UserKnownHostsFile " + known +
                   "\nHost behind\n  HostName 127.0.0.1\n  Port " + std::to_string(door.server.port()) +
                   "\n  User " + door.server.user() + "\n  IdentityFile " + door.key().string() +
                   "\n  UserKnownHostsFile " + known + "\n  ProxyJump jump\n");
    write_random_file(door.site.src / "large", 60 * MiB, 1);
    const Result backup = door.site.nfreeze(
        {"backup", "--connections", "1", door.site.src, "behind:" + door.site.repo.string()},
        at_terminal(door.site, {{"assword", account_password}}));
    CHECK_EXIT(backup, 0);
    CHECK_MESSAGE(times(backup.out, "assword:") == 1, backup.out);
}

TEST_SUITE_END();
