// Secrets do not leave the process by what it prints.
#include "support.hpp"

using namespace support;

TEST_CASE("secrets: no verb prints a passphrase, right or wrong, nor is given one in its arguments") {
    const Site site(Site::Kind::local);
    const std::string second = "another passphrase that nobody may see",
                      wrong = "a passphrase that opens nothing";
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
            for (const std::string& secret : {std::string(passphrase), second, wrong})
                CHECK_NOT_NAMED(word, secret);
        said += result.out + result.err;
    };
    run({"init", site.url}, 0, site.options);
    run({"backup", "-v", site.src, site.url}, 0, site.options);
    run({"key", "add", "--new-password-file", site.dir / "second", site.url}, 0, site.options);
    run({"key", "list", site.url}, 0, site.options);
    for (const char* verb : {"snapshots", "ls", "check", "repair"})
        run({verb, "--password-file", site.dir / "second", site.url}, 0, by_file);
    run({"restore", "-v", "--password-command", "cat " + (site.dir / "second").string(), site.url, site.dest},
        0, by_file);
    run({"backup", "--json", "--password-file", site.dir / "wrong", site.src, site.url}, 4, by_wrong);
    run({"ls", "--password-command", "cat " + (site.dir / "wrong").string() + "; false", site.url}, 1,
        by_wrong);
    run({"ls", "--password-file", site.dir / "nothing", site.url}, 1, by_wrong);
    CHECK(said.size() > 500);
    for (const std::string& secret : {std::string(passphrase), second, wrong}) CHECK_NOT_NAMED(said, secret);
}
