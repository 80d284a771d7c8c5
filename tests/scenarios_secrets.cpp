// Secrets do not leave the process: not by its arguments, its words, what other programs of the same user may read
// of it, or a core.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "support.hpp"

using namespace support;

TEST_CASE("secrets: no verb prints a passphrase, right or wrong, nor has a child with one in its arguments") {
    const Site site(Site::Kind::local);
    const std::string second = "another passphrase that nobody may see", wrong = "a passphrase that opens nothing";
    write_file(site.src / "file", "content");
    write_file(site.dir / "second", second + "\n");
    write_file(site.dir / "wrong", wrong + "\n");
    RunOptions by_file = site.options, by_wrong = site.options;
    by_file.unset = by_wrong.unset = {"NFREEZE_PASSWORD"};
    by_file.env.erase("NFREEZE_PASSWORD");
    by_wrong.env.erase("NFREEZE_PASSWORD");
    std::string said;
    auto run = [&](const Strings& arguments, int code, const RunOptions& options) {
        const Result result = site.nfreeze(arguments, options);
        CHECK_EXIT(result, code);
        for (const std::string& word : result.argv)
            for (const std::string& secret : {std::string(passphrase), second, wrong}) CHECK_NOT_NAMED(word, secret);
        said += result.out + result.err;
    };
    run({"init", site.url}, 0, site.options);
    run({"backup", "-v", site.src, site.url}, 0, site.options);
    run({"key", "add", "--new-password-file", site.dir / "second", site.url}, 0, site.options);
    run({"key", "list", site.url}, 0, site.options);
    for (const char* verb : {"snapshots", "ls", "check", "repair"}) run({verb, "--password-file", site.dir / "second", site.url}, 0, by_file);
    run({"restore", "-v", "--password-command", "cat " + (site.dir / "second").string(), site.url, site.dest}, 0, by_file);
    run({"backup", "--json", "--password-file", site.dir / "wrong", site.src, site.url}, 4, by_wrong);
    run({"ls", "--password-command", "cat " + (site.dir / "wrong").string() + "; false", site.url}, 1, by_wrong);
    run({"ls", "--password-file", site.dir / "nothing", site.url}, 1, by_wrong);
    CHECK(said.size() > 500);
    for (const std::string& secret : {std::string(passphrase), second, wrong}) CHECK_NOT_NAMED(said, secret);
}

TEST_CASE("secrets: while it runs, no other program of the same user reads its memory or its environment, and it leaves no core") {
    if (!is_root()) return skipped("runs as another account, which takes root");
    const Site site(Site::Kind::local);
    site.init_or_fail();
    write_file(site.dir / "go", "");
    give_to(site.dir.path(), account_uid);
    RunOptions options = site.options;
    options.uid = account_uid;
    options.cwd = site.dir.path();
    // It has read the passphrase and waits for the output of a command.
    const std::string command = "touch begun; exec sleep 30";
    Child child({"/bin/sh", "-c", "ulimit -c unlimited; exec \"$@\"", "sh", nfreeze_binary(), "backup", "--stdin-name", "x", "--stdin-from-command", site.url, "--", "sh", "-c", command}, options);
    REQUIRE(wait_until([&] { return fs::exists(site.dir / "begun"); }, milliseconds(20'000)));
    const std::string process = "/proc/" + std::to_string(child.pid());
    RunOptions same_user = options;
    for (const char* file : {"environ", "mem", "maps"}) {
        CAPTURE(std::string(file));
        struct stat st;
        REQUIRE(stat((process + "/" + file).c_str(), &st) == 0);
        CHECK(st.st_uid == 0); // of the account only if it could be read
        CHECK(run({"/bin/dd", "if=" + process + "/" + file, "of=/dev/null", "bs=1", "count=1"}, same_user).code != 0);
    }
    // Its arguments may be read, and tell nothing.
    CHECK_NAMES(read_file(process + "/cmdline"), "--stdin-name");
    CHECK_NOT_NAMED(read_file(process + "/cmdline"), passphrase);
    child.kill(SIGSEGV);
    CHECK(child.wait().signal == SIGSEGV);
    for (const auto& entry : fs::directory_iterator(site.dir.path())) CHECK_NOT_NAMED(entry.path().filename().string(), "core");
}
