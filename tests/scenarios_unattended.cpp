// Nobody looks on: closed descriptors, signals that are ignored, a full standard output, commands that do not
// end, an account that only the network knows; and somebody at a terminal who does other things meanwhile.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

struct Stored : Site {
    explicit Stored(Kind kind = Kind::local) : Site(kind) { prepare(); }
    explicit Stored(Sshd& server) : Site(server) { prepare(); }

  private:
    void prepare() const {
        for (int i = 0; i < 30; ++i)
            write_file(src / "dir" / std::to_string(i), "content of " + std::to_string(i) + "\n");
        write_random_file(src / "large", 3 * MiB, 1);
        init_or_fail();
        backup_or_fail();
    }
};

// In a shell that has closed or redirected some of 0, 1 and 2 before.
Result run_with(const std::string& redirections, const Strings& arguments, const RunOptions& options) {
    return in_shell("exec \"$0\" \"$@\" " + redirections, arguments, options);
}

std::size_t snapshots_in(const Site& site) {
    return lines_of(site.nfreeze({"snapshots", "--json", site.url}).out).size();
}

// A sentence for the user, and none that is not true.
void check_said(const Result& result, int code) {
    CHECK_EXIT(result, code);
    CHECK(result.err.starts_with("nfreeze: "));
    if (code == 3) CHECK_NOT_NAMED(result.err, "nothing was");
}

void check_whole(const Site& site) {
    const Result check = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(check, 0);
    CHECK(check.err == "");
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

} // namespace

TEST_SUITE_BEGIN("unattended");

// ---- descriptors -----------------------------------------------------------------------------------------

TEST_CASE("closed descriptors: a recovery sheet goes nowhere but to standard output") {
    if (!have_program("ssh") || !have_program("bash"))
        return skipped("what goes over the line: needs ssh, and bash for its sockets");
    Sshd server;
    const Stored site(server);
    const std::string sheet = site.nfreeze({"key", "export", site.url}).out;
    Strings rows;
    for (const std::string& line : lines_of(sheet))
        if (line.size() > 20 && line[0] >= '1' && line[0] <= '4' && line[1] == ' ') rows.push_back(line);
    REQUIRE(rows.size() == 4);
    // A way to the server that writes down what is sent.
    write_file(site.dir / "way.sh", "exec 3<>/dev/tcp/127.0.0.1/" + std::to_string(server.port()) +
                                        "\ncat <&3 &\ntee -a '" + (site.dir / "sent").string() + "' >&3\n");
    write_file(site.home / ".ssh/config",
               "Host 127.0.0.1\n    ProxyCommand bash " + (site.dir / "way.sh").string() + "\n");
    const std::string nobody = fingerprint(site.repo);
    const auto check_sent = [&] {
        if (fs::exists(site.dir / "sent")) // it may have been refused before anything was sent
            for (const std::string& row : rows) CHECK_NOT_NAMED(read_file(site.dir / "sent"), row);
    };
    CHECK_EXIT(site.nfreeze({"key", "export", site.url, "-F", site.home / ".ssh/config"}), 0);
    REQUIRE(fs::file_size(site.dir / "sent") > 1000); // that way works
    check_sent();
    for (const char* closed : {">&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"}) {
        CAPTURE(std::string(closed));
        for (const bool tapped : {false, true}) {
            Strings words{"key", "export", site.url};
            if (tapped) words.insert(words.end(), {"-F", site.home / ".ssh/config"});
            const Result result = run_with(closed, words, site.options);
            CHECK_EXIT(result, 1);
            for (const std::string& row : rows) CHECK_NOT_NAMED(result.out + result.err, row);
        }
        check_sent();
    }
    CHECK(fingerprint(site.repo) == nobody);
}

TEST_CASE("closed descriptors: a restore writes into its files what belongs there, and nothing else") {
    for (const Site::Kind kind : {Site::Kind::local, Site::Kind::ssh}) {
        const Stored site(kind);
        for (const char* closed : {">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&-"}) {
            CAPTURE(std::string(closed));
            remove_tree(site.dest);
            write_file(site.dest / "dir/3", "mine, which is named and kept");
            write_file(site.dest / "dir/7", "another, too");
            const Result result = run_with(closed, {"restore", "-v", site.url, site.dest}, site.options);
            CHECK_EXIT(result, 3);
            CHECK(read_file(site.dest / "dir/3") == "mine, which is named and kept");
            for (const char* kept : {"dir/3", "dir/7"})
                fs::copy(site.src / kept, site.dest / kept, fs::copy_options::overwrite_existing);
            CHECK(must_run({"diff", "-r", site.src, site.dest}) == "");
        }
    }
}

TEST_CASE("closed descriptors: a backup commits, and what it stored is whole") {
    for (const Site::Kind kind : {Site::Kind::local, Site::Kind::ssh}) {
        const Stored site(kind);
        std::size_t there = snapshots_in(site);
        for (const std::string closed : {"<&-", ">&-", "2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"}) {
            CAPTURE(closed);
            write_random_file(site.src / "large", 3 * MiB, there);
            write_file(site.src / "unreadable no more", closed);
            const Result result = run_with(closed, {"backup", "-v", site.src, site.url}, site.options);
            CHECK_EXIT(result,
                       contains(closed, ">&- ") || closed.ends_with(" >&-") || closed == ">&-" ? 3 : 0);
            CHECK(snapshots_in(site) == ++there);
        }
        check_whole(site);
        Site fresh(kind);
        const Result init = run_with("<&- >&- 2>&-", {"init", "-q", fresh.url}, fresh.options);
        CHECK_EXIT(init, 0);
        write_file(fresh.src / "file", "x");
        CHECK_EXIT(run_with("<&- >&- 2>&-", {"backup", "-q", fresh.src, fresh.url}, fresh.options),
                   0); // there was nothing to print
        check_whole(fresh);
    }
}

TEST_CASE("closed descriptors: the same where there is no /dev") {
    if (!is_root()) return skipped("a directory without /dev as the root: needs root");
    const Stored site;
    fs::copy_file(nfreeze_binary(), site.dir / "nfreeze");
    const auto inside = [&](const std::string& closed, Strings words) {
        Strings argv{"sh", "-c", "exec chroot \"$0\" /nfreeze \"$@\" " + closed, site.dir.path()};
        argv.insert(argv.end(), words.begin(), words.end());
        return run(argv, site.options);
    };
    for (const std::string closed : {"<&- >&- 2>&-", ">&- 2>&-", "2>&-"}) {
        CAPTURE(closed);
        const bool printed = closed == "2>&-";
        remove_tree(site.dest);
        write_random_file(site.src / "large", 3 * MiB, closed.size());
        CHECK_EXIT(inside(closed, {"backup", "-v", "/src", "/server/repo"}), printed ? 0 : 3);
        CHECK_EXIT(inside(closed, {"restore", "--source", "/src", "/server/repo", "/dest"}), printed ? 0 : 3);
        CHECK(compare(site.src, site.dest) == "");
        CHECK_EXIT(inside(closed, {"key", "export", "/server/repo"}), printed ? 0 : 1);
    }
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
}

TEST_CASE("standard output: full or closed after a commit it is code 3 and a sentence") {
    for (const char* where : {"> /dev/full", ">&-"}) {
        CAPTURE(std::string(where));
        Site site(Site::Kind::local);
        const auto said = [&](const Strings& words) {
            CAPTURE(joined(words));
            const Result result = run_with(where, words, site.options);
            check_said(result, 3);
        };
        said({"init", site.url});
        REQUIRE(fs::exists(site.repo / "keys"));
        write_file(site.src / "file", "x");
        said({"backup", site.src, site.url});
        said({"backup", "--json", site.src, site.url});
        said({"backup", "-v", site.src, site.url});
        CHECK(snapshots_in(site) == 3);
        said({"restore", site.url, site.dest});
        CHECK(read_file(site.dest / "file") == "x");
        const Strings ids = ids_in(site);
        said({"forget", "--yes", site.url, ids[0]});
        CHECK(snapshots_in(site) == 2);
        said({"forget", "--undo", site.url, ids[0]});
        CHECK(snapshots_in(site) == 3);
        said({"forget", "--yes", "--keep-last", "1", site.url});
        said({"prune", "--yes", "--now", site.url});
        write_file(site.dir / "new", "another one\n");
        const Result key =
            run_with(where, {"key", "add", "--new-password-file", site.dir / "new", site.url}, site.options);
        const bool added =
            files_below(site.repo / "keys").size() == 2; // or it saw before that nobody would learn of it
        check_said(key, added ? 3 : 1);
    }
}

TEST_CASE("standard output: a verb that only prints has failed where it is full or closed") {
    const Stored site;
    const std::string id = ids_in(site)[0];
    write_file(site.src / "new", "x");
    site.backup_or_fail();
    const std::string before = fingerprint(site.repo);
    for (const char* where : {"> /dev/full", ">&-"})
        for (const Strings& words : {Strings{"snapshots", site.url},
                                     {"snapshots", "--json", site.url},
                                     {"ls", "-lR", site.url},
                                     {"cat", site.url, "large"},
                                     {"cat", site.url, "new"},
                                     {"diff", site.url, id},
                                     {"du", site.url},
                                     {"check", site.url},
                                     {"key", "list", site.url},
                                     {"key", "export", site.url},
                                     {"help"},
                                     {"help", "backup"},
                                     {"--version"},
                                     {"backup", "-n", site.src, site.url},
                                     {"prune", "-n", site.url},
                                     {"forget", "-n", "--keep-last", "1", site.url}}) {
            CAPTURE(joined(words) + where);
            check_said(run_with(where, words, site.options), 1);
        }
    CHECK(fingerprint(site.repo) == before);
    CHECK_EXIT(run_with(">&-", {"check", "-q", site.url}, site.options), 0); // which has nothing to say
}

// ---- signals
// -----------------------------------------------------------------------------------------------

TEST_CASE("signals: those that are ignored at the start stay ignored, as nohup wants it") {
    for (const auto& [signal, number] :
         {std::pair{"HUP", SIGHUP}, {"INT", SIGINT}, {"TERM", SIGTERM}, {"USR1", SIGUSR1}}) {
        const std::string name = signal;
        CAPTURE(name);
        const Site site(Site::Kind::local);
        site.init_or_fail();
        const auto backup = [&, number = number](const std::string& ignored) {
            const fs::path begun = site.dir / ("begun" + ignored);
            Child child({"sh", "-c", "trap '' " + ignored + "; exec \"$0\" \"$@\"", nfreeze_binary(),
                         "backup", "--stdin-name", "dump", "--stdin-from-command", site.url, "--", "sh", "-c",
                         "echo begin; touch '" + begun.string() + "'; sleep 1; echo end"},
                        site.options);
            CHECK(wait_until([&] { return fs::exists(begun); }, milliseconds(20'000)));
            child.kill(number);
            return child.wait();
        };
        const Result unmoved = backup(name);
        CHECK_EXIT(unmoved, 0);
        CHECK(unmoved.err == "");
        CHECK(snapshots_in(site) == 1);
        const Result moved = backup("QUIT"); // the witness
        CHECK_EXIT(moved, number == SIGUSR1 ? 0 : 130);
        CHECK(moved.err != "");
    }
}

TEST_CASE("commands: one that ignores SIGTERM is ended all the same") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    // Which prints now and then, or nothing at all, or has closed its output.
    for (const std::string does :
         {"while :; do echo x; sleep 0.2; done", "sleep 1000", "exec >&-; while :; do sleep 1; done"}) {
        CAPTURE(does);
        Child child(
            {nfreeze_binary(), "backup", "--stdin-name", "dump", "--stdin-from-command", site.url, "--", "sh",
             "-c",
             "trap '' TERM INT HUP; echo $$ > '" + (site.dir / "pid").string() + "'; echo begin; " + does},
            site.options);
        REQUIRE(
            wait_until([&] { return fs::exists(site.dir / "pid") && fs::file_size(site.dir / "pid") > 1; },
                       milliseconds(10'000)));
        std::this_thread::sleep_for(milliseconds(300));
        const auto begun = Clock::now();
        child.kill(SIGINT);
        CHECK(wait_until([&] { return !child.running(); }, milliseconds(5000)));
        CHECK(Clock::now() - begun < milliseconds(5000));
        child.kill(SIGKILL);
        CHECK_EXIT(child.wait(), 130);
        const std::string pid = lines_of(read_file(site.dir / "pid"))[0];
        CHECK(wait_until([&] { return !fs::exists("/proc/" + pid); }, milliseconds(2000)));
        if (fs::exists("/proc/" + pid)) ::kill(std::stoi(pid), SIGKILL);
        fs::remove(site.dir / "pid");
        CHECK(snapshots_in(site) == 0);
    }
}

// ---- passphrases
// ---------------------------------------------------------------------------------------------

TEST_CASE("passphrases: the end of a line and a byte order mark are no part of one") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    RunOptions options = site.options;
    for (const char* end : {"\n", "\r\n", "\r", "\n\n", "\nanother line"}) {
        options.env["NFREEZE_PASSWORD"] = std::string(passphrase) + end;
        CHECK_EXIT(site.nfreeze({"snapshots", site.url}, options), 0);
        Site fresh(Site::Kind::local); // and what is made so, opens with the words alone
        CHECK_EXIT(fresh.nfreeze({"init", fresh.url}, options), 0);
        CHECK_EXIT(fresh.nfreeze({"snapshots", fresh.url}), 0);
    }
    options.env.erase("NFREEZE_PASSWORD");
    for (const std::string& content :
         {"\xef\xbb\xbf" + std::string(passphrase), "\xef\xbb\xbf" + std::string(passphrase) + "\r\n",
          std::string(passphrase) + "\r\n"}) {
        write_file(site.dir / "password", content);
        chmod((site.dir / "password").c_str(), 0600);
        CHECK_EXIT(site.nfreeze({"snapshots", "--password-file", site.dir / "password", site.url}, options),
                   0);
        CHECK_EXIT(site.nfreeze({"snapshots", "--password-command",
                                 "cat '" + (site.dir / "password").string() + "'", site.url},
                                options),
                   0);
    }
    write_file(site.dir / "password", "\xef\xbb\xbf\n");
    const Result empty =
        site.nfreeze({"snapshots", "--password-file", site.dir / "password", site.url}, options);
    CHECK_EXIT(empty, 1);
    CHECK_NAMES(empty.err, "empty");
    options.env["NFREEZE_PASSWORD"] = "\n";
    CHECK_EXIT(site.nfreeze({"snapshots", site.url}, options), 1);
}

TEST_CASE("passphrases: without a terminal it is said how to give one") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    for (const Strings& words : {Strings{"snapshots", site.url},
                                 {"backup", site.src, site.url},
                                 {"key", "list", site.url},
                                 {"check", site.url}}) {
        const Result result = site.nfreeze(words, options);
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, "--password-file");
        CHECK_NAMES(result.err, "NFREEZE_PASSWORD");
    }
    const Result added = site.nfreeze({"key", "add", site.url});
    CHECK_EXIT(added, 1);
    CHECK_NAMES(added.err, "--new-password-file");
}

TEST_CASE("passphrases: a command that prints without end is given up at once") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    options.timeout = milliseconds(8000);
    for (const char* command :
         {"yes", "cat /dev/zero", "head -c 1000000 /dev/zero", "head -c 100000 /dev/zero; sleep 100",
          "trap '' TERM PIPE; while :; do echo 0123456789 2>&-; done"}) {
        CAPTURE(std::string(command));
        const Result result = site.nfreeze({"snapshots", "--password-command", command, site.url}, options);
        check_said(result, 1);
        CHECK_FALSE(result.timed_out);
        CHECK(result.seconds < 4);
        CHECK(lines_of(result.err).size() == 1);
    }
    const Result still =
        site.nfreeze({"snapshots", "--password-command",
                      "echo '" + std::string(passphrase) + "'; head -c 60000 /dev/zero", site.url},
                     options);
    CHECK_EXIT(still, 0); // what a pipe does not hold is not too much
}

TEST_CASE("passphrases: at a terminal that stops, continues and ends the run, nothing is shown, and all is "
          "put back") {
    if (!have_program("python3") || !have_program("bash"))
        return skipped("a terminal with job control: needs python3 and bash");
    const Site site(Site::Kind::local);
    site.init_or_fail();
    for (const char* scenario :
         {"stop", "stop-elsewhere", "background", "quit", "interrupt", "terminate", "hang-up"}) {
        CAPTURE(std::string(scenario));
        RunOptions options = site.options;
        options.env.erase("NFREEZE_PASSWORD");
        const Result result = run({"python3", fs::path(NFREEZE_TESTS_DIR) / "terminal.py", scenario,
                                   passphrase, nfreeze_binary(), "snapshots", site.url},
                                  options);
        CHECK_EXIT(result, 0);
        CHECK(result.out == "");
    }
}

// ---- accounts
// ----------------------------------------------------------------------------------------------------

namespace {

// Programs that stand before those of the machine: getent, which knows one account more, and ssh.
struct Strangers {
    explicit Strangers(const Site& site, uid_t uid) : dir(site.dir / "bin"), asked(site.dir / "asked") {
        const std::string number = std::to_string(uid), line = "ldapuser:x:" + number + ":" + number +
                                                               "::" + site.home.string() + ":/bin/sh";
        put("getent",
            "case \"$1\" in\npasswd) answer='" + line + "';;\ngroup) answer='ldapgroup:x:" + number +
                ":';;\n*) exec /usr/bin/getent \"$@\";;\nesac\n"
                "database=$1; shift; code=0\n[ \"$1\" != -- ] || shift\nfor key; do\ncase \"$key\" in\n" +
                number +
                "|ldapuser|ldapgroup) echo \"$answer\";;\n"
                "*) /usr/bin/getent \"$database\" \"$key\" || code=2;;\nesac\ndone\nexit $code\n");
    }
    void put(const std::string& name, const std::string& script) const {
        write_file(dir / name, "#!/bin/sh\necho \"" + name + " $*\" >> '" + asked.string() + "'\n" + script);
        chmod((dir / name).c_str(), 0755);
    }
    [[nodiscard]] RunOptions before(RunOptions options) const {
        options.env["PATH"] = dir.string() + ":/usr/local/bin:/usr/bin:/bin";
        return options;
    }
    fs::path dir, asked;
};
constexpr uid_t stranger = 65'433; // whom /etc/passwd does not have

} // namespace

TEST_CASE("accounts: ssh is asked for a user that is not in /etc/passwd, too") {
    if (!is_root()) return skipped("a user that is not in /etc/passwd: needs root");
    Sshd server;
    const Site site(server);
    const Strangers strangers(site, stranger);
    const std::string known = (site.home / ".ssh/known_hosts").string();
    strangers.put("ssh", "echo 'hostname 127.0.0.1'; echo 'port " + std::to_string(server.port()) +
                             "'; echo 'user " + server.user() + "'; echo 'identityfile " +
                             (site.home / ".ssh/id_ed25519").string() + "'; echo 'userknownhostsfile " +
                             known + "'\n");
    give_to(site.dir.path(), stranger);
    give_to(site.repo.parent_path(), server.uid());
    RunOptions options = strangers.before(site.options);
    options.uid = stranger;
    const std::string url = "box:" + site.repo.string();
    CHECK_EXIT(site.nfreeze({"init", url}, options), 0);
    CHECK_NAMES(read_file(strangers.asked), "ssh -G");
    write_file(site.src / "file", "x");
    give_to(site.src, stranger);
    const Result backup = site.nfreeze({"backup", site.src, url}, options);
    CHECK_EXIT(backup, 0);
    const Result listed = site.nfreeze({"ls", "-l", url}, options);
    CHECK_NAMES(listed.out, "ldapuser");
    const Result who = site.nfreeze({"snapshots", "--json", url}, options);
    CHECK_NAMES(who.out, "\"user\":\"ldapuser\"");
}

TEST_CASE("accounts: owners that only getent knows have names, and get their files back by these") {
    if (!is_root()) return skipped("owners of files: needs root");
    const Site site(Site::Kind::local);
    write_file(site.src / "theirs", "x");
    write_file(site.src / "ours", "x");
    REQUIRE(lchown((site.src / "theirs").c_str(), stranger, stranger) == 0);
    site.init_or_fail();
    const Strangers here(site, stranger);
    CHECK_EXIT(site.nfreeze({"backup", site.src, site.url}, here.before(site.options)), 0);
    const std::string listed = site.nfreeze({"ls", "-l", site.url}).out;
    CHECK_NAMES(listed, "ldapuser");
    CHECK_NAMES(listed, "ldapgroup");
    CHECK_NAMES(listed, "root");
    // Where the same name has another number.
    const Strangers there(site, stranger + 1);
    CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, there.before(site.options)), 0);
    struct stat st {};
    REQUIRE(stat((site.dest / "theirs").c_str(), &st) == 0);
    CHECK(st.st_uid == stranger + 1);
    CHECK(st.st_gid == stranger + 1);
    // Without a program of that name it is as it was.
    RunOptions without = site.options;
    without.env["PATH"] = (site.dir / "nowhere").string();
    const Result bare = site.nfreeze({"backup", site.src, site.url}, without);
    CHECK_EXIT(bare, 0);
    remove_tree(site.dest);
    CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, without), 0);
    REQUIRE(stat((site.dest / "theirs").c_str(), &st) == 0);
    CHECK(st.st_uid == stranger);
}

TEST_SUITE_END();
