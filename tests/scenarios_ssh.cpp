// Logging in, recognising the server, and lines that slow down, break or are shared.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "clients.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

std::string line_for(const std::string& host, const fs::path& key) {
    return host + " " + public_key_line(key) + "\n";
}
std::string here() { return "[127.0.0.1]:" + std::to_string(shared_sshd().port()); }

} // namespace

TEST_SUITE_BEGIN("logging in");

TEST_CASE("ssh's configuration: an alias, a key's name, a jump host and a proxy command") {
    Client client;
    client.have_key("ed25519");
    const std::string port = std::to_string(shared_sshd().port());
    const fs::path key = client.dir / "elsewhere";
    fs::rename(client.home / ".ssh/id_ed25519", key);
    fs::copy_file(user_key("ed25519").string() + ".pub", key.string() + ".pub");
    fs::rename(client.known_hosts(), client.dir / "hosts");
    const std::string common = "  User " + shared_sshd().user() + "\n  Port " + port +
                               "\n  HostName 127.0.0.1\n  IdentityFile " + key.string() +
                               "\n  UserKnownHostsFile " + (client.dir / "hosts").string() + "\n";
    const fs::path config = client.home / ".ssh/config";
    const std::string jump = "  ProxyJump door\n",
                      proxy = "  ProxyCommand ssh -F " + config.string() + " -W %h:%p door\n";
    write_file(config, "Host door\n" + common + "Host behind\n" + common + jump + "Host through\n" + common +
                           proxy + "Host other\n" + common + "  HostKeyAlias no-such-name\n");
    const std::string path = client.site.repo.string();
    const auto look = [&](const std::string& host, const Strings& more = {}) {
        Strings words{"snapshots", host + ":" + path};
        words.insert(words.end(), more.begin(), more.end());
        return client.site.nfreeze(words, client.options);
    };
    const std::string wanted = client.look({"-i", key, "--known-hosts", client.dir / "hosts"}).out;
    CHECK(lines_of(wanted).size() == 2);
    for (const std::string host : {"door", "behind", "through"}) {
        const Result result = look(host);
        CHECK_EXIT(result, 0);
        CHECK(result.out == wanted);
    }
    check_refused(look("other"), {"no-such-name", "not known"});
    fs::rename(config, client.dir / "config");
    check_refused(look("door"), {"door"}); // nobody knows it any more
    CHECK(look("door", {"-F", client.dir / "config"}).out == wanted);
    CHECK_EXIT(look("door", {"-F", client.dir / "no such file"}), 1);
    // What the command line says comes first.
    check_refused(look("door", {"-F", client.dir / "config", "-p", std::to_string(free_port())}),
                  {"cannot connect"});
}

TEST_CASE("ssh's configuration: IdentitiesOnly keeps the agent's other keys out, IdentityAgent names it") {
    Client client;
    const Agent agent(user_key("ecdsa"));
    client.options.env["SSH_AUTH_SOCK"] = agent.socket();
    write_file(client.home / ".ssh/config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/mine\n");
    check_refused(client.look(), {"cannot log in"});
    fs::copy_file(user_key("ecdsa").string() + ".pub", client.home / ".ssh/mine.pub");
    CHECK_EXIT(client.look(), 0);
    client.options.env.erase("SSH_AUTH_SOCK");
    check_refused(client.look(), {"cannot log in"});
    write_file(client.home / ".ssh/config", "IdentityAgent " + agent.socket() + "\n");
    CHECK_EXIT(client.look(), 0);
    write_file(client.home / ".ssh/config", "IdentityAgent none\n");
    client.options.env["SSH_AUTH_SOCK"] = agent.socket();
    check_refused(client.look(), {"cannot log in"});
}

TEST_CASE("ssh's configuration: where there is no ssh, its defaults do") {
    Client client;
    client.have_key("ed25519");
    client.options.env["PATH"] = client.dir / "empty";
    CHECK_EXIT(client.look(), 0);
}

TEST_CASE("logging in: Ed25519, ECDSA and RSA keys, by their default names and by -i") {
    for (const std::string kind : {"ed25519", "ecdsa", "rsa"}) {
        Client by_name;
        by_name.have_key(kind);
        const Result found = by_name.look();
        CHECK_EXIT(found, 0);
        Client by_option;
        const Result given = by_option.look({"-i", user_key(kind)});
        CHECK_EXIT(given, 0);
    }
}

TEST_CASE("logging in: a key with a passphrase is asked for once, at a terminal only") {
    Client client;
    client.have_key("passphrase");
    const Result asked = client.look_at_terminal({}, {{"assphrase for key", key_passphrase}});
    CHECK_EXIT(asked, 0);
    CHECK_NOT_NAMED(asked.out, key_passphrase);
    const Result alone = client.look();
    check_refused(alone, {"127.0.0.1", shared_sshd().user()});
    const Result by_option =
        client.look_at_terminal({"-i", user_key_with_passphrase()}, {{"assphrase for key", key_passphrase}});
    CHECK_EXIT(by_option, 0);
}

TEST_CASE("logging in: several connections ask for the key's passphrase once") {
    Ready site;
    write_random_file(site.src / "large", 40 * MiB, 1);
    fs::remove(site.home / ".ssh/id_ed25519");
    fs::copy_file(user_key_with_passphrase(), site.home / ".ssh/id_ed25519");
    const Result backup = site.nfreeze({"backup", site.src, site.url},
                                       at_terminal(site, {{"assphrase for key", key_passphrase}}));
    CHECK_EXIT(backup, 0);
    const std::size_t asked = backup.out.find("assphrase for key");
    CHECK(backup.out.find("assphrase for key", asked + 1) == std::string::npos);
}

TEST_CASE("logging in: the agent's keys, also one whose file has a passphrase") {
    for (const std::string kind : {"ed25519", "rsa"}) {
        Agent agent(user_key(kind));
        Client client;
        client.options.env["SSH_AUTH_SOCK"] = agent.socket();
        const Result result = client.look();
        CHECK_EXIT(result, 0);
        client.options.env["SSH_AUTH_SOCK"] = agent.socket() + ".gone";
        check_refused(client.look(), {"127.0.0.1"});
        client.have_key("ecdsa"); // an agent that is not there does not stop a key that is
        const Result without = client.look();
        CHECK_EXIT(without, 0);
    }
}

TEST_CASE("logging in: a login that is refused names user, host and what to do, exit code 6") {
    Client client;
    check_refused(client.look(), {shared_sshd().user(), "127.0.0.1", "-i"});
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", client.dir / "stranger"});
    check_refused(client.look({"-i", client.dir / "stranger"}), {shared_sshd().user(), "127.0.0.1"});
    const Result missing = client.look({"-i", client.dir / "no such key"});
    CHECK((missing.code == 1 || missing.code == 2 || missing.code == 6));
    CHECK_NAMES(missing.err, "no such key");
}

TEST_CASE("logging in: by password, from the environment or typed, and by keyboard-interactive") {
    if (!can_mount())
        return skipped("an account with a password: needs root and mount namespaces for a private "
                       "/etc/shadow");
    for (const bool interactive : {false, true}) {
        if (interactive && !fs::exists("/etc/pam.d/sshd")) {
            skipped("keyboard-interactive: there is no /etc/pam.d/sshd");
            continue;
        }
        CAPTURE(interactive);
        Sshd::Options options;
        options.ordinary_account = true;
        options.interactive = interactive;
        Sshd server(options);
        REQUIRE(server.has_password());
        Ready site(server);
        site.forget_key();
        RunOptions with_password = site.options;
        with_password.env["NFREEZE_SSH_PASSWORD"] = account_password;
        const Result given = site.look({}, with_password);
        CHECK_EXIT(given, 0);
        CHECK_MESSAGE(
            contains(server.log(), interactive ? "Accepted keyboard-interactive" : "Accepted password"),
            server.log());
        with_password.env["NFREEZE_SSH_PASSWORD"] = "wrong";
        const Result wrong = site.look({}, with_password);
        check_refused(wrong, {"127.0.0.1", account_name});
        CHECK_NOT_NAMED(wrong.err, "wrong,");
        const Result typed = site.look({}, at_terminal(site, {{"assword", account_password}}));
        CHECK_EXIT(typed, 0);
        CHECK_NOT_NAMED(typed.out, account_password);
        check_refused(site.look(), {"127.0.0.1", account_name}); // nowhere to ask
        // A whole backup over several connections, asked for once.
        write_random_file(site.src / "large", 40 * MiB, 1);
        const Result backup =
            site.nfreeze({"backup", site.src, site.url}, at_terminal(site, {{"assword", account_password}}));
        CHECK_EXIT(backup, 0);
    }
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("host keys");

TEST_CASE("host keys: known_hosts in clear and hashed, for each type of key, also where the server "
          "prefers another") {
    for (const std::string kind : {"ed25519", "ecdsa", "rsa"}) {
        Client client;
        client.have_key("ed25519");
        write_file(client.known_hosts(), "# a comment\n\nsomething that is no key\n" +
                                             line_for("other.example", host_key("ed25519")) +
                                             line_for("!" + here() + ",*", host_key(kind)) +
                                             line_for("a.example," + here(), host_key(kind)));
        const Result clear = client.look();
        CHECK_EXIT(clear, 0);
        write_file(client.known_hosts(),
                   line_for("other.example", host_key("ed25519")) + line_for(here(), host_key(kind)));
        hash_known_hosts(client.known_hosts());
        REQUIRE(!contains(read_file(client.known_hosts()), "127.0.0.1"));
        const Result hashed = client.look();
        CHECK_EXIT(hashed, 0);
    }
}

TEST_CASE("host keys: an entry for another port or host does not count, --known-hosts names "
          "another file") {
    Client client;
    client.have_key("ed25519");
    write_file(client.known_hosts(),
               line_for("127.0.0.1", host_key("ed25519")) + line_for("[127.0.0.1]:1", host_key("ed25519")) +
                   line_for("[127.0.0.2]:" + std::to_string(shared_sshd().port()), host_key("ed25519")));
    check_refused(client.look(), {"127.0.0.1"});
    write_file(client.dir / "elsewhere", shared_sshd().known_hosts_lines());
    const Result elsewhere = client.look({"--known-hosts", client.dir / "elsewhere"});
    CHECK_EXIT(elsewhere, 0);
}

TEST_CASE("host keys: an unknown host is refused without a terminal, with its fingerprint") {
    Client client;
    client.have_key("ed25519");
    fs::remove(client.known_hosts());
    const Result result = client.look();
    check_refused(result, {"127.0.0.1", "SHA256:"});
    CHECK_MESSAGE((contains(result.err, key_fingerprint(host_key("ed25519"))) ||
                   contains(result.err, key_fingerprint(host_key("ecdsa"))) ||
                   contains(result.err, key_fingerprint(host_key("rsa")))),
                  result.err);
    CHECK(!fs::exists(client.known_hosts()));
}

TEST_CASE("host keys: at a terminal an unknown host is asked about as ssh does, and remembered if "
          "accepted") {
    Client client;
    client.have_key("ed25519");
    write_file(client.known_hosts(),
               line_for("other.example", host_key("rsa")).substr(0, 20)); // ends without a newline
    const std::string print = key_fingerprint(host_key("ed25519"));
    const Result no = client.look_at_terminal({}, {{"yes/no", "no"}});
    CHECK_EXIT(no, 6);
    CHECK_NAMES(no.out, print);
    CHECK_NAMES(no.out, "authenticity of host");
    CHECK_NOT_NAMED(read_file(client.known_hosts()), "127.0.0.1");
    const Result yes = client.look_at_terminal({}, {{"yes/no", "yes"}});
    CHECK_EXIT(yes, 0);
    const Result known_now = client.look();
    CHECK_EXIT(known_now, 0);
    must_run({"ssh-keygen", "-F", here(), "-f", client.known_hosts()}); // ssh finds it, too
}

TEST_CASE("host keys: --accept-new-host-key accepts and remembers an unknown host, never a changed one") {
    Client client;
    client.have_key("ed25519");
    fs::remove_all(client.home / ".ssh/known_hosts");
    const Result accepted = client.look({"--accept-new-host-key"});
    CHECK_EXIT(accepted, 0);
    const Result known_now = client.look();
    CHECK_EXIT(known_now, 0);

    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", client.dir / "other"});
    write_file(client.known_hosts(), line_for(here(), client.dir / "other"));
    const std::string before = read_file(client.known_hosts());
    check_refused(client.look(), {"127.0.0.1", "changed"});
    check_refused(client.look({"--accept-new-host-key"}), {"127.0.0.1", "changed"});
    const Result at_terminal = client.look_at_terminal({}, {{"yes/no", "yes"}});
    CHECK_EXIT(at_terminal, 6);
    CHECK_NOT_NAMED(at_terminal.out, "yes/no");
    hash_known_hosts(client.known_hosts());
    check_refused(client.look({"--accept-new-host-key"}), {"changed"});
    write_file(client.known_hosts(), before);
}

TEST_CASE("host keys: a revoked key is refused, even where it is known as well") {
    Client client;
    client.have_key("ed25519");
    std::string revoked;
    for (const std::string kind : {"ed25519", "ecdsa", "rsa"})
        revoked += "@revoked " + line_for("*", host_key(kind));
    write_file(client.known_hosts(), shared_sshd().known_hosts_lines() + revoked);
    check_refused(client.look(), {"127.0.0.1", "revoked"});
    check_refused(client.look({"--accept-new-host-key"}), {"revoked"});
    write_file(client.known_hosts(), revoked);
    check_refused(client.look({"--accept-new-host-key"}), {"revoked"});
}

TEST_CASE("host keys: a pinned key is the only one accepted, whatever known_hosts says") {
    Client client;
    client.have_key("ed25519");
    fs::remove(client.known_hosts());
    const std::string print = key_fingerprint(host_key("ed25519"));
    const Result right = client.look({"--host-key", print});
    CHECK_EXIT(right, 0);
    CHECK(!fs::exists(client.known_hosts()));
    write_file(client.known_hosts(), shared_sshd().known_hosts_lines());
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", client.dir / "other"});
    check_refused(client.look({"--host-key", key_fingerprint(client.dir / "other")}), {"127.0.0.1", print});
}

TEST_CASE("host keys: a pinned key is found where the server has several types of key") {
    Client client;
    client.have_key("ed25519");
    fs::remove(client.known_hosts());
    for (const std::string kind : {"ecdsa", "rsa"}) {
        const Result result = client.look({"--host-key", key_fingerprint(host_key(kind))});
        CHECK_EXIT(result, 0);
    }
}

TEST_CASE("host keys: /etc/ssh/ssh_known_hosts counts as well") {
    if (!can_mount()) return skipped("another /etc/ssh for one run: needs root and mount namespaces");
    Client client;
    client.have_key("ed25519");
    fs::remove(client.known_hosts());
    write_file(client.dir / "etc-ssh/ssh_known_hosts", shared_sshd().known_hosts_lines());
    client.options.mounts = {{client.dir / "etc-ssh", "/etc/ssh", ""}};
    const Result result = client.look();
    CHECK_EXIT(result, 0);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("servers");

TEST_CASE("servers: hardened ones that allow a single modern choice of each kind") {
    for (const Strings& config :
         {Strings{"Ciphers aes256-gcm@openssh.com", "KexAlgorithms curve25519-sha256"},
          Strings{"Ciphers chacha20-poly1305@openssh.com"},
          Strings{"Ciphers aes256-ctr", "MACs hmac-sha2-512-etm@openssh.com"},
          Strings{"Ciphers aes128-ctr", "MACs hmac-sha2-256-etm@openssh.com"}}) {
        Sshd::Options options;
        options.config = config;
        options.host_keys = {config.size() == 1 ? "rsa" : "ed25519"};
        Sshd server(options);
        Site site(server);
        write_file(site.src / "file", "x");
        site.init_or_fail();
        const Result backup = site.backup();
        CHECK_MESSAGE(backup.code == 0, config[0] << "\n" << describe(backup));
    }
}

TEST_CASE("servers: nobody listens, hangs up, speaks something else, or has no SFTP: exit code 6 "
          "and a sentence") {
    Client client;
    client.have_key("ed25519");
    client.options.timeout = milliseconds(20'000);
    const auto look_at_port = [&](int port) {
        return client.site.nfreeze({"snapshots", client.site.remote(port)}, client.options);
    };
    const int nobody = free_port();
    check_refused(look_at_port(nobody), {"127.0.0.1", std::to_string(nobody), "refused"});
    Stranger mute("");
    check_refused(look_at_port(mute.port()), {"127.0.0.1"});
    Stranger web("HTTP/1.0 400 Bad Request\r\n\r\n");
    check_refused(look_at_port(web.port()), {"127.0.0.1"});
    Sshd::Options options;
    options.config = {"Subsystem sftp /bin/false"};
    Sshd server(options);
    append_file(client.known_hosts(), server.known_hosts_lines());
    const Result no_sftp = look_at_port(server.port());
    check_refused(no_sftp, {"127.0.0.1", "SFTP"});
}

TEST_CASE("servers: a name that cannot be found is named, exit code 6") {
    if (!can_unshare_network())
        return skipped("a name server that does not answer: needs root and network namespaces");
    Site site(Site::Kind::local);
    site.options.offline = true;
    check_refused(site.nfreeze({"snapshots", "no-such-host.invalid:path"}), {"no-such-host.invalid"});
}

TEST_CASE("servers: new keys are agreed on in the middle of a transfer") {
    Sshd::Options options;
    options.config = {"RekeyLimit 1M"};
    Sshd server(options);
    Site site(server);
    for (std::uint64_t i = 0; i < 3; ++i) write_random_file(site.src / std::to_string(i), 12 * MiB, i);
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("servers: one that lets fewer connections in than were asked for gets a slower backup, "
          "not an error") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 3; ++i) write_random_file(site.src / std::to_string(i), 20 * MiB, i);
    proxy.most_connections = 1;
    site.init_or_fail();
    const auto check_silent = [&](const Result& result) {
        CHECK_EXIT(result, 0);
        CHECK_MESSAGE(result.err == "", "what works is not worth a word");
        if (slowness() == 1) // under sanitizers one connection may be enough
            CHECK_MESSAGE(proxy.refused.exchange(0) > 0,
                          "the program must have been refused for this to say anything");
    };
    check_silent(site.backup({"--connections", "4"}));
    check_silent(site.restore({"--connections", "4"}));
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("servers: a line that breaks is connected again, and what arrived is not sent twice") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 4; ++i) write_random_file(site.src / std::to_string(i), 20 * MiB, i);
    site.init_or_fail();
    const std::int64_t start = proxy.upstream;
    proxy.cut_after = start + 50 * static_cast<std::int64_t>(MiB);
    site.backup_or_fail({"--connections", "2"});
    CHECK(proxy.cuts == 1);
    // Two packs were on their way when the line broke; all else is sent once.
    CHECK(proxy.upstream - start < static_cast<std::int64_t>((80 + 2 * 17 + 4) * MiB));
    proxy.cut_after = static_cast<std::int64_t>(proxy.upstream) + 6'000;
    site.restore_or_fail();
    CHECK(proxy.cuts == 2);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("servers: one that is restarted in the middle of a backup") {
    Sshd server;
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 4; ++i) write_random_file(site.src / std::to_string(i), 16 * MiB, i);
    site.init_or_fail();
    proxy.upstream_rate = 32 * MiB;
    Child backup({nfreeze_binary(), "backup", site.src, site.url}, site.options);
    REQUIRE(wait_until([&] { return site.repository_bytes() > 20 * MiB; }, milliseconds(20'000)));
    server.stop();
    std::this_thread::sleep_for(milliseconds(1500));
    server.start();
    proxy.upstream_rate = 0;
    const Result result = backup.wait();
    REQUIRE_EXIT(result, 0);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("servers: far away, 20 ms each way, many small files do not cost a round trip each") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (int i = 0; i < 1000; ++i)
        write_file(site.src / ("dir" + std::to_string(i % 30)) / std::to_string(i),
                   random_bytes(1000, static_cast<std::uint64_t>(i)));
    site.init_or_fail();
    proxy.delay_ms = 20;
    const Result backup = site.backup();
    REQUIRE_EXIT(backup, 0);
    CHECK(backup.seconds < 15); // one for each file would be 40 s
    const Result restore = site.restore();
    REQUIRE_EXIT(restore, 0);
    CHECK(restore.seconds < 15);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("servers: an append-only one, for an account that is not root, takes backup after backup") {
    Sshd server(append_only());
    CHECK(server.uid() != 0);
    Site site(server);
    make_random_tree(site.src, 1, 30, 400'000);
    site.init_or_fail();
    const std::vector<fs::path> objects = files_below(site.repo);
    for (std::uint64_t generation = 0; generation < 5; ++generation) {
        mutate_tree(site.src, generation, 10);
        site.backup_or_fail();
    }
    for (const fs::path& object : objects)
        CHECK_MESSAGE(fs::exists(object), "an append-only server keeps everything");
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    // The witness: with this very login nothing can be changed or removed.
    const fs::path pack = files_below(site.repo / "packs").at(0);
    const std::string before = fingerprint(site.repo);
    write_file(site.dir / "batch", "-rm " + pack.string() + "\n-rename " + pack.string() + " " +
                                       pack.string() + "x\n-chmod 600 " + pack.string() + "\n-put " +
                                       (site.home / ".ssh/known_hosts").string() + " " + pack.string() +
                                       "\n");
    run({"sftp", "-q", "-b", site.dir / "batch", "-o",
         "UserKnownHostsFile=" + (site.home / ".ssh/known_hosts").string(), "-i", user_key("ed25519"), "-P",
         std::to_string(server.port()), server.user() + "@127.0.0.1"});
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("servers: on an append-only one, a connection cut in the middle of a pack leaves a torn "
          "object behind and no harm") {
    Sshd server(append_only());
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 3; ++i) write_random_file(site.src / std::to_string(i), 12 * MiB, i);
    site.init_or_fail();
    proxy.cut_after = static_cast<std::int64_t>(proxy.upstream) + 7 * static_cast<std::int64_t>(MiB);
    site.backup_or_fail({"--connections", "1"});
    CHECK(proxy.cuts == 1);
    int torn = 0;
    for (const fs::path& pack : files_below(site.repo / "packs"))
        if (must_run({"sha256sum", pack}).substr(0, 64) != pack.filename()) ++torn;
    CHECK_MESSAGE(torn == 1, "the torn object cannot be removed there");
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    const Summary again = site.backup_or_fail();
    CHECK(again.uploaded < MiB);
}

TEST_SUITE_END();
