// The command line: verbs, names of repositories, passphrases, output.
#include <sys/stat.h>
#include <unistd.h>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

// One sentence for the user on stderr, nothing that only a programmer understands.
void check_sentence(const Result& result, const Strings& named) {
    INFO(describe(result));
    CHECK(result.err.starts_with("nfreeze: "));
    for (const std::string& part : named) CHECK_NAMES(result.err, part);
    for (const std::string jargon : {"terminate called", "what():", "std::", "exception", "unexpected"})
        CHECK_NOT_NAMED(result.err, jargon);
}

// In a terminal of its own, with no passphrase given otherwise.
RunOptions at_terminal(const Site& site, std::vector<Answer> dialog) {
    RunOptions options = site.options;
    options.pty = true;
    options.dialog = std::move(dialog);
    return options;
}

RunOptions asking_for_passphrase(const Site& site, std::vector<Answer> dialog) {
    RunOptions options = at_terminal(site, std::move(dialog));
    options.env.erase("NFREEZE_PASSWORD");
    return options;
}

RunOptions without_passphrase(const Site& site) {
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    return options;
}

} // namespace

TEST_SUITE_BEGIN("command line");

TEST_CASE("command line: --version, --help, help and help VERB answer on standard output") {
    const std::string nfreeze = nfreeze_binary();
    const Result version = run({nfreeze, "--version"});
    CHECK_EXIT(version, 0);
    CHECK(version.out.starts_with("nfreeze "));
    const Result help = run({nfreeze, "--help"});
    CHECK_EXIT(help, 0);
    CHECK(help.err == "");
    CHECK(run({nfreeze, "help"}).out == help.out);
    for (const std::string word :
         {"init", "backup", "restore", "snapshots", "ls", "help", "NFREEZE_REPOSITORY", "NFREEZE_PASSWORD"})
        CHECK_NAMES(help.out, word);
    for (const std::string code : {"0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "130 "})
        CHECK_NAMES(help.out, code);
    for (const std::string verb :
         {"init", "backup", "restore", "snapshots", "ls", "cat", "diff", "check", "forget", "key"}) {
        const Result of_verb = run({nfreeze, "help", verb});
        CHECK_EXIT(of_verb, 0);
        for (const std::string option :
             {"-i", "-p", "--known-hosts", "--host-key", "--accept-new-host-key", "--password-file",
              "--password-command", "--connections", "-q", "-v"})
            CHECK_NAMES(of_verb.out, option);
        CHECK(run({nfreeze, verb, "--help"}).out == of_verb.out);
    }
    for (const std::string option : {"--checksum", "--ignore-inode", "--ignore-ctime"})
        CHECK_NAMES(run({nfreeze, "help", "backup"}).out, option);
    for (const std::string option : {"--snapshot", "--source", "--overwrite", "--delete", "--dry-run"})
        CHECK_NAMES(run({nfreeze, "help", "restore"}).out, option);
}

TEST_CASE("command line: what is not understood is wrong usage, exit code 2, and is named") {
    Site site(Site::Kind::local);
    const auto wrong = [&](const Strings& arguments, const Strings& named) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 2);
        CHECK(result.out == "");
        check_sentence(result, named);
    };
    wrong({}, {"nfreeze help"});
    wrong({"frobnicate"}, {"frobnicate"});
    wrong({"help", "frobnicate"}, {"frobnicate"});
    wrong({"backup", "--frobnicate", site.src, site.url}, {"frobnicate", "help backup"});
    wrong({"backup", "-Z", site.src, site.url}, {"Z", "help backup"});
    wrong({"backup", "--overwrite", site.src, site.url}, {"overwrite"}); // an option of another verb
    wrong({"restore", "--snapshot"}, {"snapshot"});                      // without its value
    wrong({"backup"}, {"help backup"});
    wrong({"backup", site.url}, {"REPO"});
    wrong({"check", site.url, "more"}, {"help check"});
    wrong({"backup", "--stdin-name", "name", site.src, site.url}, {"--stdin-name"});
    wrong({"init"}, {"REPO"});
    wrong({"snapshots", site.url, "more"}, {"help snapshots"});
    wrong({"backup", "--connections", "0", site.src, site.url}, {"connections", "0"});
    wrong({"backup", "--connections", "many", site.src, site.url}, {"connections", "many"});
    wrong({"snapshots", "-p", "65536", "host:path"}, {"port", "65536"});
    wrong({"snapshots", "sftp://host:port/path"}, {"port"});
    wrong({"snapshots", "--host-key", "aa:bb:cc", "host:path"}, {"host-key", "SHA256:"});
    CHECK(!fs::exists(site.repo));
}

TEST_CASE("command line: a colon before the first slash means a server, ./a:b is a directory") {
    Site site(Site::Kind::local);
    site.options.cwd = site.dir.path();
    const Result local = site.nfreeze({"init", "./a:b"});
    CHECK_EXIT(local, 0);
    CHECK(fs::is_directory(site.dir / "a:b/keys"));
    const Result absolute = site.nfreeze({"init", (site.dir / "c:d").string()});
    CHECK_EXIT(absolute, 0);
    CHECK(fs::is_directory(site.dir / "c:d/keys"));
    const std::string nobody = std::to_string(free_port());
    for (const std::string address :
         {"127.0.0.1:path", "user@127.0.0.1:path/with:colon", "127.0.0.1:/absolute"}) {
        const Result remote = site.nfreeze({"init", "-p", nobody, address});
        CHECK_EXIT(remote, 6);
        check_sentence(remote, {"127.0.0.1", nobody});
        CHECK(!fs::exists(site.dir / address));
    }
}

TEST_CASE("command line: [::1]:path is an IPv6 address and a path") {
    if (!can_unshare_network())
        return skipped("[::1]:path without a network: needs root and network namespaces");
    Site site(Site::Kind::local);
    site.options.offline = true;
    site.options.cwd = site.dir.path();
    for (const std::string address : {"[::1]:path", "somebody@[::1]:path", "sftp://[::1]:2222/path"}) {
        const Result result = site.nfreeze({"init", address});
        CHECK_EXIT(result, 6);
        check_sentence(result, {"::1"});
        CHECK_NOT_NAMED(result.err, "cannot find the host"); // it is an address, not a name
    }
    CHECK(!fs::exists(site.dir / "[::1]:path"));
}

TEST_CASE("command line: user@host:path and sftp:// name the same repository, from the login "
          "directory or from the root") {
    Sshd server;
    Site site(server);
    const std::string port = std::to_string(server.port()), login = server.user() + "@127.0.0.1";
    write_file(site.src / "file", "x");
    const Result init = site.nfreeze({"init", "-p", port, login + ":backups/mine"});
    REQUIRE_EXIT(init, 0);
    CHECK(fs::is_directory(server.home() / "backups/mine/packs"));
    const Result backup =
        site.nfreeze({"backup", site.src, "sftp://" + login + ":" + port + "/backups/mine"});
    REQUIRE_EXIT(backup, 0);
    const std::string id = summary_of(backup).snapshot.substr(0, 8);
    const std::string absolute = (server.home() / "backups/mine").string();
    for (const Strings& arguments :
         {Strings{"snapshots", "-p", port, login + ":" + absolute},
          Strings{"snapshots", "sftp://" + login + ":" + port + "/" + absolute},
          Strings{"snapshots", "-p", port, login + ":./backups//mine/"}, Strings{"snapshots", absolute}}) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 0);
        CHECK_NAMES(result.out, id);
    }
}

TEST_CASE("command line: NFREEZE_REPOSITORY fills a missing REPO") {
    Site site(Site::Kind::local);
    write_file(site.src / "file", "x");
    site.options.env["NFREEZE_REPOSITORY"] = site.url;
    for (const Strings& arguments : {Strings{"init"}, Strings{"backup", site.src}, Strings{"snapshots"},
                                     Strings{"ls"}, Strings{"restore", site.dest}}) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 0);
    }
    CHECK(read_file(site.dest / "file") == "x");
    const Result named = site.nfreeze({"snapshots", site.dir / "elsewhere"});
    CHECK_MESSAGE(named.code == 1, "a REPO that is named counts");
}

TEST_CASE("command line: names that begin with a dash are given after --") {
    Site site(Site::Kind::local);
    write_file(site.src / "-rf", "a file");
    write_file(site.src / "--delete/x", "another");
    write_file(site.src / "plain", "not asked for");
    site.init_or_fail();
    site.backup_or_fail();
    const Result result = site.nfreeze({"restore", site.url, site.dest, "--", "-rf", "--delete"});
    CHECK_EXIT(result, 0);
    CHECK(fs::exists(site.dest / "-rf"));
    CHECK(fs::exists(site.dest / "--delete/x"));
    CHECK(!fs::exists(site.dest / "plain"));
}

TEST_CASE("command line: operands with commas, spaces and equal signs stay whole, options may "
          "stand behind them") {
    Site site(Site::Kind::local);
    const fs::path source = site.dir / "a, b=c d";
    write_file(source / "one,two", "x");
    site.url = site.dir / "server/repo,with=odd name";
    site.init_or_fail();
    const Result backup = site.nfreeze({"backup", source, site.url, "-v"});
    REQUIRE_EXIT(backup, 0);
    CHECK_NAMES(backup.out, "+ one,two\n");
    const Result restore = site.nfreeze({"restore", site.url, site.dest, "one,two", "--overwrite"});
    CHECK_EXIT(restore, 0);
    CHECK(fs::exists(site.dest / "one,two"));
}

TEST_CASE("command line: the passphrase from a file, a command or the environment opens the same "
          "repository") {
    Site site(Site::Kind::local);
    write_file(site.dir / "password", std::string(passphrase) + "\nsecond line\n");
    const RunOptions bare = without_passphrase(site);
    const Result init = site.nfreeze({"init", "--password-file", site.dir / "password", site.url}, bare);
    REQUIRE_EXIT(init, 0);
    const Result piped = site.nfreeze(
        {"snapshots", "--password-command", "echo 'correct xorse' battery staple | sed s/x/h/", site.url},
        bare);
    CHECK_EXIT(piped, 0);
    const Result other =
        site.nfreeze({"snapshots", "--password-command", "echo battery staple", site.url}, bare);
    CHECK_EXIT(other, 4);
    const Result right = site.nfreeze(
        {"snapshots", "--password-command", "cat '" + (site.dir / "password").string() + "'", site.url},
        bare);
    CHECK_EXIT(right, 0);
    const Result environment = site.nfreeze({"snapshots", site.url});
    CHECK_EXIT(environment, 0);
}

TEST_CASE("command line: a wrong passphrase is exit code 4, and nothing is shown") {
    Site site(Site::Kind::local);
    write_file(site.src / "secret name", "x");
    site.init_or_fail();
    site.backup_or_fail();
    site.options.env["NFREEZE_PASSWORD"] = "wrong";
    const std::string before = fingerprint(site.repo);
    for (const Strings& arguments : {Strings{"ls", site.url}, Strings{"backup", site.src, site.url},
                                     Strings{"restore", site.url, site.dest}}) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 4);
        check_sentence(result, {"passphrase"});
        CHECK(result.out == "");
    }
    CHECK(fingerprint(site.repo) == before);
    CHECK(!fs::exists(site.dest));
}

TEST_CASE("command line: an empty passphrase is refused wherever it comes from") {
    Site site(Site::Kind::local);
    write_file(site.dir / "empty", "\n");
    RunOptions empty = site.options;
    empty.env["NFREEZE_PASSWORD"] = "";
    const RunOptions bare = without_passphrase(site);
    for (const Result& result :
         {site.nfreeze({"init", site.url}, empty),
          site.nfreeze({"init", "--password-file", site.dir / "empty", site.url}, bare),
          site.nfreeze({"init", "--password-command", "true", site.url}, bare),
          site.nfreeze({"init", site.url}, asking_for_passphrase(site, {{"assphrase", ""}}))}) {
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.out + result.err, "empty");
    }
    const Result nowhere = site.nfreeze({"init", site.url}, bare); // no terminal to ask at
    CHECK_EXIT(nowhere, 1);
    check_sentence(nowhere, {"assphrase"});
    CHECK(!fs::exists(site.repo));
}

TEST_CASE("command line: a password file that cannot be read, a command that fails") {
    Site site(Site::Kind::local);
    const RunOptions bare = without_passphrase(site);
    const Result file = site.nfreeze({"init", "--password-file", site.dir / "missing", site.url}, bare);
    CHECK_EXIT(file, 1);
    check_sentence(file, {(site.dir / "missing").string(), "No such file"});
    const Result directory = site.nfreeze({"init", "--password-file", site.dir.path(), site.url}, bare);
    CHECK_EXIT(directory, 1);
    check_sentence(directory, {site.dir.path().string()});
    const Result command =
        site.nfreeze({"init", "--password-command", "echo half a secret; exit 7", site.url}, bare);
    CHECK_EXIT(command, 1);
    check_sentence(command, {"7"});
    CHECK_NOT_NAMED(command.err, "half a secret\n");
    CHECK(!fs::exists(site.repo));
}

TEST_CASE("command line: at a terminal the passphrase is asked for twice at init, once later, and "
          "never shown") {
    Site site(Site::Kind::local);
    const std::string typed = "typed by hand";
    const Result init = site.nfreeze({"init", site.url},
                                     asking_for_passphrase(site, {{"assphrase", typed}, {"again", typed}}));
    REQUIRE_EXIT(init, 0);
    CHECK_NOT_NAMED(init.out, typed);
    write_file(site.src / "file", "x");
    const Result backup =
        site.nfreeze({"backup", site.src, site.url}, asking_for_passphrase(site, {{"assphrase", typed}}));
    CHECK_EXIT(backup, 0);
    CHECK_NOT_NAMED(backup.out, typed);
    const Result wrong = site.nfreeze({"backup", site.src, site.url},
                                      asking_for_passphrase(site, {{"assphrase", "mistyped"}}));
    CHECK_EXIT(wrong, 4);

    Site other(Site::Kind::local);
    const Result differ =
        other.nfreeze({"init", other.url},
                      asking_for_passphrase(other, {{"assphrase", typed}, {"again", "something else"}}));
    CHECK_EXIT(differ, 1);
    CHECK_NAMES(differ.out, "differ");
    CHECK(!fs::exists(other.repo));
}

TEST_CASE("command line: init makes a repository in a new or an empty place, and nowhere else") {
    Site site;
    site.init_or_fail(); // the directory did not exist
    const Result again = site.init();
    CHECK_EXIT(again, 1);
    check_sentence(again, {});
    Site empty;
    fs::create_directory(empty.repo);
    empty.init_or_fail();
    write_file(empty.src / "file", "x");
    empty.backup_or_fail();

    for (const Site::Kind kind : {Site::Kind::ssh, Site::Kind::local}) {
        Site photos(kind);
        write_file(photos.repo / "holiday.jpg", "not a repository");
        const Result refused = photos.init();
        CHECK_EXIT(refused, 1);
        check_sentence(refused, {"holiday.jpg"});
        CHECK(files_below(photos.repo).size() == 1);
    }
}

TEST_CASE("command line: a backup into a place without a repository fails, names nfreeze init, and "
          "writes nothing") {
    for (const Site::Kind kind : {Site::Kind::ssh, Site::Kind::local}) {
        Site site(kind);
        write_file(site.src / "file", "x");
        const auto fails = [&] {
            const Result result = site.backup();
            CHECK_EXIT(result, 1);
            check_sentence(result, {"nfreeze init", site.url});
        };
        fails();
        CHECK(!fs::exists(site.repo));
        fs::create_directory(site.repo);
        fails();
        CHECK(fs::is_empty(site.repo));
        write_file(site.repo / "holiday.jpg", "a folder of photos");
        fails();
        CHECK(files_below(site.repo).size() == 1);
    }
}

TEST_CASE("command line: at a terminal, backup offers to make a repository where the place is "
          "empty or new") {
    Site site;
    write_file(site.src / "file", "x");
    const Result no = site.nfreeze({"backup", site.src, site.url}, at_terminal(site, {{"yes/no", "no"}}));
    CHECK_EXIT(no, 1);
    CHECK_NAMES(no.out, "nfreeze init");
    CHECK(!fs::exists(site.repo));
    const Result yes = site.nfreeze({"backup", site.src, site.url}, at_terminal(site, {{"yes/no", "yes"}}));
    CHECK_EXIT(yes, 0);
    site.restore_or_fail();
    CHECK(read_file(site.dest / "file") == "x");

    Site empty(Site::Kind::local);
    fs::create_directory(empty.repo);
    write_file(empty.src / "file", "x");
    const Result made =
        empty.nfreeze({"backup", empty.src, empty.url}, at_terminal(empty, {{"yes/no", "yes"}}));
    CHECK_EXIT(made, 0);

    Site photos(Site::Kind::local);
    write_file(photos.repo / "holiday.jpg", "a folder of photos");
    write_file(photos.src / "file", "x");
    const Result refused =
        photos.nfreeze({"backup", photos.src, photos.url}, at_terminal(photos, {{"yes/no", "yes"}}));
    CHECK_EXIT(refused, 1);
    CHECK_NOT_NAMED(refused.out, "yes/no");
    CHECK(files_below(photos.repo).size() == 1);

    Site restoring(Site::Kind::local);
    const Result restore = restoring.nfreeze({"restore", restoring.url, restoring.dest},
                                             at_terminal(restoring, {{"yes/no", "yes"}}));
    CHECK_EXIT(restore, 1);
    CHECK_NOT_NAMED(restore.out, "yes/no");
}

TEST_CASE("command line: the default cost of a guess at the passphrase is that of 2^17, and less "
          "than 2^15 is refused") {
    Site site(Site::Kind::local);
    site.options.unset = {"NFREEZE_SCRYPT_LOGN"};
    const Result init = site.init();
    REQUIRE_EXIT(init, 0);
    CHECK_MESSAGE(init.peak_kib > 128 * 1024, "scrypt with N = 2^17 and r = 8 fills 128 MiB");
    CHECK(init.peak_kib < 200 * 1024);
    Site cheap(Site::Kind::local);
    cheap.options.env["NFREEZE_SCRYPT_LOGN"] = "14";
    CHECK(cheap.init().code != 0);
    CHECK(!fs::exists(cheap.repo));
}

TEST_SUITE_END();
