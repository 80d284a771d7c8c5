// What a run shows while it works, and how fast it may be.
#include <csignal>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t KiB = 1024;

// A source that takes about two seconds to send, and as long to fetch, at half a megabyte a second.
struct Limited : Site {
    Limited() {
        write_random_file(src / "one", 500 * KiB, 1);
        write_random_file(src / "two", 500 * KiB, 2);
        init_or_fail();
    }
    Strings limited_backup(const Strings& more = {}) const {
        Strings words{"backup", "--limit-upload", "500", src, url};
        words.insert(words.end() - 2, more.begin(), more.end());
        return words;
    }
};

} // namespace

TEST_SUITE_BEGIN("alone"); // they measure time

TEST_CASE("limits: an upload and a download take as long as they may, and all arrives") {
    Limited site;
    const Result backup = site.nfreeze(site.limited_backup());
    CHECK_EXIT(backup, 0);
    CHECK(backup.seconds > 1.6);
    CHECK(backup.seconds < 6);
    const Result restore = site.restore({"--limit-download", "500"});
    CHECK_EXIT(restore, 0);
    CHECK(restore.seconds > 1.6);
    CHECK(restore.seconds < 6);
    CHECK(compare(site.src, site.dest) == "");
    CHECK_EXIT(site.nfreeze({"backup", "--limit-upload", "0", site.src, site.url}), 2);
}

TEST_CASE("progress: lines or objects once a second where they are asked for, else nothing") {
    Limited site;
    const Result silent = site.nfreeze(site.limited_backup());
    CHECK_EXIT(silent, 0);
    CHECK(silent.err.empty());
    write_random_file(site.src / "three", 1000 * KiB, 3);
    const Result told = site.nfreeze(site.limited_backup({"--progress"}));
    CHECK_EXIT(told, 0);
    CHECK_NAMES(told.err, " files, ");
    CHECK_NAMES(told.err, "KiB/s");
    CHECK_NOT_NAMED(told.err, "\x1b");
    write_random_file(site.src / "four", 1000 * KiB, 4);
    const Result objects = site.nfreeze(site.limited_backup({"--progress", "--json"}));
    CHECK_EXIT(objects, 0);
    const Strings lines = lines_of(objects.out);
    REQUIRE(lines.size() >= 2);
    CHECK(lines[0].starts_with("{\"progress\":true,\"files\":"));
    CHECK_NAMES(lines[0], "\"bytes_expected\":");
    CHECK(lines.back().starts_with("{\"snapshot\":"));
}

TEST_CASE("progress: a terminal shows one line that is redrawn, as wide as it is, and taken away") {
    Limited site;
    RunOptions terminal = site.options;
    terminal.pty = true;
    const Result result = site.nfreeze(site.limited_backup(), terminal);
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "2 files, ");
    CHECK_NAMES(result.out, "\r\x1b[K");
    CHECK_NAMES(result.out, "snapshot ");
    const std::size_t last = result.out.rfind("\x1b[K");
    CHECK(result.out.find("files, ", last) == std::string::npos); // nothing is left of it
}

TEST_CASE("progress: SIGUSR1 asks a run that says nothing") {
    Limited site;
    Strings words{nfreeze_binary()};
    for (const std::string& word : site.limited_backup({"-q"})) words.push_back(word);
    Child run(words, site.options);
    CHECK(wait_until([&] { return !files_below(site.repo / "packs").empty(); }, milliseconds(20'000)));
    run.kill(SIGUSR1);
    CHECK(wait_until([&] { return contains(run.errors_so_far(), "2 files, "); }, milliseconds(5000)));
    const Result result = run.wait();
    CHECK_EXIT(result, 0);
    CHECK(lines_of(result.err).size() == 1);
}

TEST_SUITE_END();
