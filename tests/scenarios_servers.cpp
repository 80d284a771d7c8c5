// Servers that are not OpenSSH's, by their manners: tests/servers/sftp_server.py has a switch for each.
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "clients.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;
[[maybe_unused]] constexpr std::int64_t mib = 1 << 20; // of the proxy's counters

} // namespace

TEST_SUITE_BEGIN("servers");

// ---- what was written -------------------------------------------------------------------------

TEST_CASE("servers: one that loses what was written when it is closed, although fsync went well: nothing "
          "refers to it") {
    if (!have_python()) return;
    const Odd odd;
    const Site& site = odd.site;
    odd.have_something();
    odd.set({"--answer=close-written@/keys/=failure"});
    CHECK(odd.nfreeze({"init", site.url}).code == 1);
    odd.set({});
    remove_tree(site.repo);
    site.init_or_fail();
    // An object of each kind, once (it may be sent again) and always; each status that means that it is not
    // there.
    for (const std::string& rule :
         taste({"@/packs/=failure", "@/index/=failure", "@/index/=failure*1", "@/packs/=eof",
                "@/packs/=failure*1", "@/packs/=no-space", "@/packs/=quota*1", "@/packs/=permission-denied",
                "@/packs/=unsupported"},
               4)) {
        CAPTURE(rule);
        odd.set({"--answer=close-written" + rule});
        write_file(site.src / "changed", random_bytes(100'000, std::hash<std::string>{}(rule)));
        const Result result = odd.nfreeze({"backup", site.src, site.url});
        CHECK(odd.count("close-written") > 0);
        if (rule.ends_with("*1"))
            CHECK_MESSAGE((result.code == 0 || result.code == 1), describe(result));
        else
            CHECK_EXIT(result, 1);
        if (result.code == 0)
            odd.check_sound();
        else
            CHECK_NOT_NAMED(result.out, "snapshot ");
        odd.check_sound(false);
    }
    odd.set({});
    site.backup_or_fail();
    odd.check_sound();
}

TEST_CASE("servers: a record that is lost when it is closed is no record: forget, prune and key add say so") {
    if (!have_python()) return;
    const Odd odd;
    const Site& site = odd.site;
    odd.have_something();
    site.init_or_fail();
    const std::string first = site.backup_or_fail().snapshot;
    write_random_file(site.src / "large", 3 * MiB, 3);
    site.backup_or_fail();
    write_file(site.dir / "new password", "another\n");
    for (const Strings& words :
         {Strings{"forget", "--yes", site.url, first}, Strings{"prune", "--yes", "--now", site.url},
          Strings{"key", "add", "--new-password-file", site.dir / "new password", site.url}}) {
        CAPTURE(words[0]);
        odd.set({"--answer=close-written=failure"});
        CHECK_EXIT(odd.nfreeze(words), 1);
        CHECK(odd.count("close-written") > 0);
        odd.check_sound();
        CHECK_EXIT(odd.nfreeze(words), 0);
    }
    odd.check_sound();
}

TEST_CASE("servers: fsync is refused: where it is offered, that counts; that it is not supported, does not") {
    if (!have_python()) return;
    const Odd odd;
    const Site& site = odd.site;
    odd.have_something();
    site.init_or_fail();
    for (const std::string& rule :
         taste({"failure", "unsupported", "bad-message", "no-space", "failure*1", "unsupported*1"}, 3)) {
        CAPTURE(rule);
        odd.set({"--answer=fsync=" + rule});
        write_file(site.src / "changed", random_bytes(100'000, std::hash<std::string>{}(rule)));
        const Result result = odd.nfreeze({"backup", site.src, site.url});
        if (rule.starts_with("un") || rule.starts_with("bad"))
            CHECK_EXIT(result, 0); // EINVAL comes as the latter
        else if (rule.ends_with("*1"))
            CHECK_MESSAGE((result.code == 0 || result.code == 1), describe(result));
        else
            CHECK_EXIT(result, 1);
        odd.check_sound(result.code == 0);
    }
    site.backup_or_fail();
    odd.check_sound();
}

// ---- what is read -----------------------------------------------------------------------------

TEST_CASE("servers: ones that answer a READ with less than was asked for") {
    if (!have_python()) return;
    const Odd odd;
    odd.have_something();
    for (const std::string& most : taste({"16384", "random", "4096", "29696"}, 2)) {
        CAPTURE(most);
        remove_tree(odd.site.repo);
        remove_tree(odd.site.dest);
        odd.set({"--short-reads=" + most});
        const auto start = Clock::now();
        CHECK_EXIT(odd.nfreeze({"init", odd.site.url}), 0);
        CHECK_EXIT(odd.nfreeze({"backup", odd.site.src, odd.site.url}), 0);
        CHECK_EXIT(odd.nfreeze({"restore", odd.site.url, odd.site.dest}), 0);
        CHECK(compare(odd.site.src, odd.site.dest) == "");
        CHECK_EXIT(odd.nfreeze({"check", "--read-data", odd.site.url}), 0);
        CHECK(Clock::now() - start < std::chrono::seconds(15) * slowness());
        CHECK_MESSAGE(odd.count("session") < 30, "it is found out once for a connection, not at each object");
    }
}

TEST_CASE("servers: short reads at random over several connections, all that a server is for") {
    if (!have_python()) return;
    const Odd odd({"--short-reads=random"});
    check_all_verbs(odd.site, {"--retry-for", "3", "--timeout", "5"});
}

// ---- slow starts ------------------------------------------------------------------------------

TEST_CASE("servers: one that needs 17 s for its first word, for its SSH or for its SFTP, has as long as "
          "--timeout says") {
    if (!have_python()) return;
    const Odd odd;
    const Site& site = odd.site;
    odd.have_something();
    site.init_or_fail();
    odd.set({"--late=17"});
    Proxy mute(odd.server.port()), half_way(odd.server.port());
    append_file(site.home / ".ssh/known_hosts",
                odd.server.known_hosts_lines(mute.port()) + odd.server.known_hosts_lines(half_way.port()));
    mute.stalled = true;
    half_way.downstream_rate =
        60; // the banner's 40 bytes come at once, what follows takes ten seconds and more
    const auto look = [&](const std::string& url, const Strings& flags) {
        Strings words{nfreeze_binary(), "snapshots", url};
        words.insert(words.end(), flags.begin(), flags.end());
        return std::make_unique<Child>(words, site.options);
    };
    const auto start = Clock::now();
    const auto late_sftp = look(site.url, {"--timeout", "60"}), as_usual = look(site.url, {}),
               late_ssh = look(site.remote(mute.port()), {}),
               impatient = look(site.url, {"--timeout", "3", "--retry-for", "0"}),
               impatient_ssh = look(site.remote(mute.port()), {"--timeout", "3", "--retry-for", "0"}),
               piecemeal = look(site.remote(half_way.port()), {});
    CHECK_EXIT(impatient->wait(), 6);
    CHECK_EXIT(impatient_ssh->wait(), 6);
    CHECK(Clock::now() - start < std::chrono::seconds(10) * slowness());
    std::this_thread::sleep_until(start + std::chrono::seconds(17));
    mute.stalled = false;
    half_way.downstream_rate = 0;
    odd.set({}); // who comes now waits no more
    CHECK_EXIT(late_sftp->wait(), 0);
    CHECK_EXIT(as_usual->wait(), 0);
    CHECK_EXIT(late_ssh->wait(), 0);
    CHECK_EXIT(piecemeal->wait(), 0);
    CHECK(Clock::now() - start < std::chrono::seconds(30) * slowness());
}

TEST_CASE("servers: the first connection is tried for as long as --retry-for says, where it is given") {
    const Site site;
    site.init_or_fail();
    Proxy closed(shared_sshd().port()), hangs_up(shared_sshd().port());
    append_file(site.home / ".ssh/known_hosts", shared_sshd().known_hosts_lines(closed.port()) +
                                                    shared_sshd().known_hosts_lines(hangs_up.port()));
    closed.away = true;
    hangs_up.most_connections = 0;
    std::this_thread::sleep_for(milliseconds(300));
    const auto look = [&](int port, const std::string& retry_for) {
        Strings words{nfreeze_binary(), "snapshots", site.remote(port)};
        if (!retry_for.empty()) words.insert(words.end(), {"--retry-for", retry_for});
        return std::make_unique<Child>(words, site.options);
    };
    const auto start = Clock::now();
    const auto patient = look(closed.port(), "40"), patient_too = look(hangs_up.port(), "40");
    CHECK_EXIT(look(closed.port(), "")->wait(), 6); // it may be the wrong place
    CHECK(Clock::now() - start < std::chrono::seconds(5) * slowness());
    CHECK_EXIT(look(hangs_up.port(), "")->wait(), 6);
    const Result in_vain = look(closed.port(), "2")->wait();
    CHECK_EXIT(in_vain, 6);
    CHECK(in_vain.seconds > 1.9);
    CHECK(in_vain.seconds < 10 * slowness());
    std::this_thread::sleep_until(start + std::chrono::seconds(10));
    CHECK(hangs_up.refused < 14); // with growing pauses
    closed.away = false;
    hangs_up.most_connections = 1000;
    CHECK_EXIT(patient->wait(), 0);
    CHECK_EXIT(patient_too->wait(), 0);
}

// ---- what is offered --------------------------------------------------------------------------

TEST_CASE("servers: what a server does not offer is not asked for") {
    if (!have_python()) return;
    for (const std::string& offered : taste({"", "fsync@openssh.com", "statvfs@openssh.com",
                                             "posix-rename@openssh.com", "hardlink@openssh.com"},
                                            2)) {
        CAPTURE(offered);
        const Odd odd({"--extensions=" + offered});
        check_all_verbs(odd.site, {"--retry-for", "3"});
        CHECK(odd.count("not-offered") == 0);
        CHECK((odd.count("fsync") > 0) == (offered == "fsync@openssh.com"));
        // Where there is no room, one looks how much there is; whether all is refused, one tries.
        odd.set({"--extensions=" + offered, "--answer=write@/packs/=no-space"});
        write_random_file(odd.site.src / "more", MiB, 3);
        CHECK_EXIT(odd.nfreeze({"backup", odd.site.src, odd.site.url}), 1);
        CHECK(odd.nfreeze({"check", "--append-only", odd.site.url}).code != 6);
        CHECK(odd.count("not-offered") == 0);
    }
}

TEST_CASE("servers: one that ends the session at a request is not asked without a pause") {
    if (!have_python()) return;
    const Odd odd;
    const Site& site = odd.site;
    odd.have_something();
    site.init_or_fail();
    const std::string first = site.backup_or_fail().snapshot;
    for (std::uint64_t seed = 5; seed < 7; ++seed) { // for prune, and for forget
        write_random_file(site.src / "large", 2 * MiB, seed);
        site.backup_or_fail();
    }
    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, first}), 0);
    write_file(site.dir / "new password", "another\n");
    const auto check = [&](const std::string& what, Strings words) {
        const std::string verb = words[0];
        CAPTURE(what);
        CAPTURE(verb);
        odd.set({"--answer=" + what + "=end"});
        write_file(site.src / "changed", random_bytes(100'000, std::hash<std::string>{}(what)));
        words.insert(words.begin() + 1, {"--retry-for", "5"});
        const Result result = site.nfreeze(words);
        CHECK_EXIT(result, 6);
        CHECK(result.seconds < 15 * slowness()); // pauses double
        CHECK(odd.count("session") > 0);
        // Two packs of a backup may be on their way at once, and are cut in two.
        CHECK_MESSAGE(odd.count("session") <= (verb == "backup" ? 12 : 8),
                      odd.count("session") << " logins in " << result.seconds << " s");
        if (verb == "forget") { // the next backup notes segments that were cut
            odd.set({});
            site.backup_or_fail();
        }
        odd.check_sound(false);
    };
    const Strings backup{"backup", site.src, site.url}, init{"init", site.url + "/another"},
        forget{"forget", "--yes", "--keep-last", "1", site.url},
        add{"key", "add", "--new-password-file", (site.dir / "new password").string(), site.url};
    for (const std::string what : {"create", "init", "fsync"}) check(what, backup);
    check("create", forget);
    if (all_servers()) {
        for (const std::string what : {"create@/index/", "opendir"}) check(what, backup);
        for (const Strings& words : {init, add}) check("create", words);
        for (const std::string what :
             {"write", "close-written", "readdir", "read@/index/", "read@/keys/", "open"})
            check(what, backup);
        check("realpath", {"backup", site.src,
                           "sftp://" + odd.server.user() + "@127.0.0.1:" + std::to_string(odd.server.port()) +
                               "/relative"});
        for (const std::string what : {"mkdir", "write", "fsync", "close-written"}) check(what, init);
        for (const std::string what : {"write", "close-written"}) check(what, forget);
        check("write", add);
        check("read@/packs/", {"restore", site.url, site.dest});
    }
    odd.set({});
    site.backup_or_fail();
    odd.check_sound();
}

// ---- forms of answers -------------------------------------------------------------------------

namespace {
// A whole life on servers of each manner takes minutes: a short one on the first by `make test`, all by
// `make servers`.
void check_manners(const std::vector<Strings>& all) {
    if (!have_python()) return;
    for (std::size_t i = 0; i < (all_servers() ? all.size() : 1); ++i) {
        const Strings& switches = all[i];
        std::string words;
        for (const std::string& word : switches) words += word + " ";
        CAPTURE(words);
        const Odd odd(switches);
        if (all_servers()) {
            check_all_verbs(odd.site, {"--retry-for", "3", "--timeout", "5"});
            continue;
        }
        odd.have_something();
        const std::string url = odd.site.url;
        for (const Strings& verb :
             {Strings{"init", url}, Strings{"backup", odd.site.src, url},
              Strings{"backup", "--verify", odd.site.src, url}, Strings{"restore", url, odd.site.dest},
              Strings{"forget", "--yes", "--keep-last", "1", url}, Strings{"prune", "--yes", "--now", url},
              Strings{"check", url}})
            CHECK_EXIT(odd.nfreeze(verb), 0);
        CHECK(compare(odd.site.src, odd.site.dest) == "");
    }
}
} // namespace

TEST_CASE("servers: what is not there, said in other words") {
    check_manners({{"--answer=opendir-missing=failure", "--answer=mkdir-missing=failure"},
                   {"--answer=opendir-missing=bad-message", "--answer=stat-missing=failure"},
                   {"--answer=opendir-missing=permission-denied", "--answer=mkdir-missing=permission-denied"},
                   {"--answer=opendir-missing=no-such-path", "--answer=mkdir-missing=no-such-path"},
                   {"--answer=open-missing=failure", "--answer=stat-missing=permission-denied"},
                   {"--answer=mkdir-existing=exists"},
                   {"--answer=mkdir-existing=permission-denied"}});
}

TEST_CASE("servers: directories that are to be made with what is above them, whatever it is called that they "
          "are missing") {
    if (!have_python()) return;
    Odd odd;
    odd.have_something();
    const std::string url = odd.site.url;
    for (const std::string& said :
         taste({"failure", "bad-message", "no-such-file", "permission-denied", "no-such-path"}, 2)) {
        CAPTURE(said);
        odd.set({"--answer=mkdir-missing=" + said, "--answer=opendir-missing=" + said,
                 "--answer=stat-missing=" + said});
        odd.site.url = url + "/" + said + "/of/several";
        CHECK_EXIT(odd.nfreeze({"init", odd.site.url}), 0);
        CHECK_EXIT(odd.nfreeze({"backup", odd.site.src, odd.site.url}), 0);
        odd.check_sound();
    }
}

TEST_CASE("servers: ones that do not know the flag for new files, or only with another") {
    check_manners({{"--answer=excl=unsupported"},
                   {"--answer=excl-without-trunc=failure"},
                   {"--answer=excl=failure"},
                   {"--answer=excl=invalid-parameter"},
                   {"--answer=excl-without-trunc=unsupported"},
                   {"--answer=excl-without-trunc=bad-message"}});
}

TEST_CASE("servers: listings without sizes, without times, and without either") {
    check_manners({{"--no-sizes", "--no-times"}, {"--no-sizes"}, {"--no-times"}});
}

TEST_CASE("servers: one open handle at a time") {
    check_manners(
        {{"--answer=second-handle=failure"}, {"--answer=second-handle=permission-denied", "--extensions="}});
}

TEST_CASE("servers: ones on which something is locked for a while") {
    check_manners({{"--answer=create@/packs/=failure*2"},
                   {"--answer=create@/index/=failure*2"},
                   {"--answer=create@/keys/=lock-conflict*1", "--answer=create@/index/=lock-conflict*1"},
                   {"--answer=open@/packs/=failure*2"},
                   {"--answer=remove=failure*1"}});
}

TEST_CASE("servers: files that may not be removed before their mode is set") {
    check_manners({{"--answer=remove-read-only=permission-denied"}, {"--answer=remove-read-only=failure"}});
}

TEST_CASE("servers: whatever is answered, nothing is damaged by it and no run goes on for ever") {
    if (!have_python()) return;
    const Odd odd;
    const Site& site = odd.site;
    odd.have_something();
    site.init_or_fail();
    site.backup_or_fail();
    const Strings operations{"create",  "write", "close-written", "open",  "read", "opendir",
                             "readdir", "mkdir", "lstat",         "fstat", "stat"};
    std::uint64_t turn = 0;
    for (const std::string& operation : operations)
        for (int status = 0; status <= 31; ++status) {
            // The first is "done" for what was not.
            if (status == 0 || (!slow_tests() && (++turn % (all_servers() ? 13 : 53)) != 0)) continue;
            const std::string rule = operation + "=" + std::to_string(status) + (turn % 2 == 0 ? "*1" : "");
            CAPTURE(rule);
            odd.set({"--answer=" + rule});
            write_file(site.src / "changed", random_bytes(50'000, 1000 + turn));
            remove_tree(site.dest);
            const Result backup = odd.nfreeze({"backup", site.src, site.url});
            CHECK_MESSAGE((backup.code >= 0 && backup.code <= 6 && backup.code != 2 && backup.code != 4),
                          describe(backup));
            CHECK(backup.seconds < 20 * slowness());
            odd.set({"--answer=" + rule});
            const Result restore = odd.nfreeze({"restore", site.url, site.dest});
            CHECK_MESSAGE((restore.code >= 0 && restore.code <= 6 && restore.code != 2 && restore.code != 4),
                          describe(restore));
            CHECK(restore.seconds < 20 * slowness());
            odd.check_sound(backup.code == 0);
        }
    odd.set({});
    site.backup_or_fail();
    odd.check_sound();
}

// ---- places and lines -------------------------------------------------------------------------

TEST_CASE("servers: host:~ is the login directory, another's home is refused") {
    Sshd server;
    Site site(server);
    const std::string port = std::to_string(server.port()), login = server.user() + "@127.0.0.1";
    const auto init = [&](const std::string& url) { return site.nfreeze({"init", "-p", port, url}); };
    CHECK_EXIT(init(login + ":~"), 0);
    CHECK(fs::exists(server.home() / "keys"));
    CHECK_EXIT(site.nfreeze({"snapshots", "-p", port, login + ":"}), 0);
    CHECK_EXIT(site.nfreeze({"snapshots", "-p", port, login + ":~/"}), 0);
    CHECK_EXIT(init(login + ":~/sub"), 0);
    CHECK(fs::exists(server.home() / "sub/keys"));
    for (const std::string path : {"~other", "~other/backups", "~root/x"}) {
        CHECK_EXIT(init(login + ":" + path), 2);
        CHECK_EXIT(init("sftp://" + login + "/" + path), 2);
    }
    CHECK_EXIT(site.nfreeze({"snapshots", "sftp://" + login + ":" + port + "/~"}), 0);
    CHECK_EXIT(init(login + ":./~odd"), 0); // who means it can say so
    for (const auto& entry : fs::directory_iterator(server.home()))
        CHECK_MESSAGE(
            (!entry.path().filename().string().starts_with("~") || entry.path().filename() == "~odd"),
            entry.path().string());
}

TEST_CASE("servers: a password in an address is refused and not shown") {
    const Site site;
    const std::string address =
        ":hun!ter2@127.0.0.1:" + std::to_string(shared_sshd().port()) + "/" + site.repo.string();
    write_file(site.src / "file", "content");
    for (const std::string& user : {shared_sshd().user(), std::string()})
        for (const Strings& words : {Strings{"init"},
                                     {"snapshots"},
                                     {"backup", site.src},
                                     {"check"},
                                     {"snapshots", "--json"},
                                     {"prune", "--yes"}}) {
            Strings all = words;
            all.push_back("sftp://" + user + address);
            const Result result = site.nfreeze(all);
            CHECK_EXIT(result, 2);
            CHECK_NOT_NAMED(result.out + result.err, "hun!ter2");
        }
    RunOptions by_environment = site.options;
    by_environment.env["NFREEZE_REPOSITORY"] = "sftp://" + shared_sshd().user() + address;
    const Result result = site.nfreeze({"snapshots", ""}, by_environment);
    CHECK_EXIT(result, 2);
    CHECK_NOT_NAMED(result.out + result.err, "hun!ter2");
}

TEST_CASE("servers: idle connections that a gateway forgot are given up together") {
    Proxy proxy(shared_sshd().port());
    const Site site(shared_sshd(), proxy.port());
    site.init_or_fail();
    write_random_file(site.dir / "input", 100 * MiB, 1);
    const fs::path go_on = site.dir / "go on", waits = site.dir / "waits";
    const std::string input = "cat '" + (site.dir / "input").string() + "'; touch '" + waits.string() +
                              "'; while ! [ -e '" + go_on.string() + "' ]; do sleep 0.1; done";
    Child backup({nfreeze_binary(), "backup", "--timeout", "5", "--connections", "5", "--stdin-name", "x",
                  "--stdin-from-command", site.url, "--", "sh", "-c", input},
                 site.options);
    REQUIRE(wait_until([&] { return fs::exists(waits); }, milliseconds(40'000)));
    std::int64_t before = -1; // until what was read is sent
    REQUIRE(wait_until(
        [&] {
            std::this_thread::sleep_for(milliseconds(700));
            const std::int64_t now = proxy.upstream;
            return std::exchange(before, now) == now;
        },
        milliseconds(30'000)));
    CHECK_MESSAGE(proxy.open > 2, "there must be several for this to say anything");
    proxy.fault = Proxy::Fault::stalled;
    proxy.cut_after = static_cast<std::int64_t>(proxy.upstream); // at the next byte all of them
    const auto start = Clock::now();
    write_file(go_on, "");
    CHECK_EXIT(backup.wait(), 0);
    CHECK(proxy.cuts == 1);
    CHECK(Clock::now() - start < std::chrono::seconds(5 + 4) * slowness());
    const Result check = site.nfreeze({"check", "--read-data", site.repo});
    CHECK_EXIT(check, 0);
}

// A chunk has up to 4 MiB and is sent in one session; what is read goes on in the next at the byte it came
// to.
TEST_CASE("servers: sessions that never last for two megabytes give a backup back, and take what is small") {
    if (!have_python()) return;
    Odd odd;
    Site& site = odd.site;
    site.options.timeout = std::chrono::minutes(2);
    write_random_file(site.src / "large", 20 * MiB, 1);
    write_file(site.src / "small", "x");
    site.init_or_fail();
    site.backup_or_fail();
    odd.set({"--most-bytes=1500000"});
    for (int i = 0; i < 3; ++i) {
        write_random_file(site.src / ("added " + std::to_string(i)), 200 << 10, std::uint64_t(2 + i));
        CHECK_EXIT(site.nfreeze({"backup", "--retry-for", "30", site.src, site.url}), 0);
    }
    CHECK_EXIT(site.nfreeze({"restore", "--retry-for", "30", site.url, site.dest}), 0);
    CHECK(compare(site.src, site.dest) == "");
    CHECK_EXIT(site.nfreeze({"check", "--read-data", "--retry-for", "30", site.url}), 0);
}

TEST_SUITE_END();
