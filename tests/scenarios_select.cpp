// What a backup takes: patterns, markers, lists of files, streams, several sources, and the guard
// against a source that is all but gone.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <random>
#include <set>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

// The names of all files of the newest snapshot, as `ls -R` prints them.
std::set<std::string> stored(const Site& site, const Strings& flags = {}) {
    Strings arguments{"ls", "-R"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.push_back(site.url);
    const Result result = site.nfreeze(arguments);
    REQUIRE_EXIT(result, 0);
    const Strings lines = lines_of(result.out);
    return {lines.begin(), lines.end()};
}
using Names = std::set<std::string>;

std::size_t snapshots_in(const Site& site) {
    const Result result = site.nfreeze({"snapshots", site.url});
    REQUIRE_EXIT(result, 0);
    return lines_of(result.out).size() - 1;
}

} // namespace

TEST_SUITE_BEGIN("select");

TEST_CASE("select: patterns mean what they mean to git, the last that matches wins") {
    const Site site(Site::Kind::local);
    for (const char* file : {"a.o", "keep.o", "dir/b.o", "dir/c.txt", "build/x", "src/build/y", "src/main.c",
                             "doc/a/deep/note.txt", "doc/note.txt", "with space ", "#hash", "!bang"})
        write_file(site.src / file, "content");
    site.init_or_fail();
    site.backup_or_fail({"--exclude", "*.o", "--exclude", "!keep.o", "--exclude", "/build", "--exclude",
                         "doc/**/note.txt", "--exclude", "\\#hash", "--exclude", "\\!bang", "--exclude",
                         "# a comment"});
    CHECK(stored(site) == Names{"dir", "dir/c.txt", "doc", "doc/a", "doc/a/deep", "keep.o", "src",
                                "src/build", "src/build/y", "src/main.c", "with space "});
    write_file(site.dir / "patterns", "build/\n\n*.txt\n!c.txt\nwith*\n");
    site.backup_or_fail({"--exclude-from", (site.dir / "patterns").string(), "--exclude", "!with space\\ "});
    CHECK(stored(site) == Names{"!bang", "#hash", "a.o", "dir", "dir/b.o", "dir/c.txt", "doc", "doc/a",
                                "doc/a/deep", "keep.o", "src", "src/main.c", "with space "});
}

TEST_CASE("select: a few named things are stored by leaving out all others") {
    const Site site(Site::Kind::local);
    for (const char* file : {"a/1", "b/2", "b/keep/3", "c"}) write_file(site.src / file, "content");
    site.init_or_fail();
    site.backup_or_fail({"--exclude", "/*", "--exclude", "!/b", "--exclude", "/b/*", "--exclude", "!/b/keep",
                         "--allow-shrink"});
    CHECK(stored(site) == Names{"b", "b/keep", "b/keep/3"});
}

TEST_CASE("select: thousands of patterns and paths give what git check-ignore gives") {
    if (!have_program("git")) return skipped("comparing patterns with git's: there is no git");
    const Site site(Site::Kind::local);
    site.init_or_fail();
    std::mt19937 random(7);
    const auto pick = [&](const Strings& from) { return from[random() % from.size()]; };
    const Strings names{"a", "b", "ab", "abc", "a.b", "x"};
    const Strings parts{"a",    "b",  "*",   "a*", "*b",  "?",      "ab?", "[ab]",
                        "[!a]", "**", "a.b", "x",  "*.b", "[a-c]b", "\\a"};
    Strings files;
    for (int i = 0; i < 150; ++i) {
        std::string path = pick(names) + "d";
        for (std::size_t depth = random() % 4; depth > 0; --depth) path += "/" + pick(names) + "d";
        files.push_back(path + "/" + pick(names));
    }
    for (const auto& file : files) write_file(site.src / file, "1");
    must_run({"git", "init", "-q", (site.dir / "git").string()});
    for (int round = 0; round < 10; ++round) {
        std::string patterns;
        for (std::size_t n = 1 + random() % 6; n > 0; --n) {
            std::string line = random() % 4 == 0 ? "!" : "";
            if (random() % 3 == 0) line += "/";
            for (std::size_t depth = random() % 3;; --depth) {
                line += pick(parts) + (random() % 3 == 0 && depth > 0 ? "d" : "");
                if (depth == 0) break;
                line += "/";
            }
            if (random() % 4 == 0) line += "/";
            patterns += line + "\n";
        }
        INFO("patterns:\n" << patterns);
        write_file(site.dir / "patterns", patterns);
        write_file(site.src / ".gitignore", patterns);
        // git names what it would take; it knows no directories of their own
        RunOptions options;
        options.cwd = site.src;
        const std::string listed =
            must_run({"git", "--git-dir", (site.dir / "git/.git").string(), "--work-tree", ".", "ls-files",
                      "--others", "--exclude-from", (site.dir / "patterns").string()},
                     options);
        Names wanted;
        for (const auto& line : lines_of(listed)) wanted.insert(line);
        const Result result =
            site.backup({"--exclude-from", (site.dir / "patterns").string(), "--allow-shrink"});
        REQUIRE_EXIT(result, 0);
        Names got;
        for (const auto& name : stored(site))
            if (fs::is_regular_file(site.src / name)) got.insert(name);
        CHECK(got == wanted);
    }
}

TEST_CASE("select: directories that say so themselves, large files and other file systems are left out") {
    const Site site(Site::Kind::local);
    write_file(site.src / "cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# more");
    write_file(site.src / "cache/big", "content");
    write_file(site.src / "fake/CACHEDIR.TAG", "not that");
    write_file(site.src / "fake/kept", "content");
    write_file(site.src / "marked/.nobackup", "");
    write_file(site.src / "marked/below/file", "content");
    write_file(site.src / "large", std::string(2049, 'x'));
    write_file(site.src / "small", std::string(2048, 'x'));
    fs::create_directories(site.src / "mnt");
    site.init_or_fail();
    site.backup_or_fail(
        {"--exclude-caches", "--exclude-if-present", ".nobackup", "--exclude-larger-than", "2K"});
    CHECK(stored(site) == Names{"cache", "cache/CACHEDIR.TAG", "fake", "fake/CACHEDIR.TAG", "fake/kept",
                                "marked", "marked/.nobackup", "mnt", "small"});
    const Result wrong = site.backup({"--exclude-larger-than", "2X"});
    CHECK_EXIT(wrong, 2);
    if (!can_mount()) return skipped("--one-file-system: mounting is not allowed here");
    fs::create_directories(site.dir / "other");
    write_file(site.dir / "other/file", "content");
    RunOptions options = site.options;
    options.mounts = {{"", (site.src / "mnt").string(), "size=1m"}};
    const Result result = site.nfreeze({"backup", "--one-file-system", site.src.string(), site.url}, options);
    CHECK_EXIT(result, 0);
    CHECK(stored(site).contains("mnt"));
}

TEST_CASE("select: a list of paths takes these, what is in them and what leads to them") {
    const Site site(Site::Kind::local);
    for (const char* file : {"a/1", "a/2", "b/c/3", "b/c/4", "b/5", "new\nline", "d"})
        write_file(site.src / file, "content");
    site.init_or_fail();
    write_file(site.dir / "list", "./a/1\nb/c/\n");
    site.backup_or_fail({"--files-from", (site.dir / "list").string()});
    CHECK(stored(site) == Names{"a", "a/1", "b", "b/c", "b/c/3", "b/c/4"});
    write_file(site.dir / "list0", std::string("new\nline\0d\0", 11));
    site.backup_or_fail({"--files-from", (site.dir / "list0").string(), "--from0", "--allow-shrink"});
    CHECK(stored(site) == Names{"d", "new\\x0aline"});
    write_file(site.dir / "list", "d\nnot-there\n");
    const Result result = site.backup({"--files-from", (site.dir / "list").string(), "--allow-shrink"});
    CHECK_EXIT(result, 3);
    CHECK_NAMES(result.err, "not-there");
}

TEST_CASE("select: standard input is stored as a file, and most of a second dump is known") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    RunOptions options = site.options;
    for (int i = 0; i < 100'000; ++i)
        options.input += "INSERT INTO t VALUES (" + std::to_string(i * 7919LL % 1'000'003) + ");\n";
    const Result first = site.nfreeze({"backup", "--stdin-name", "db/dump.sql", site.url}, options);
    REQUIRE_EXIT(first, 0);
    options.input.replace(1'000'000, 6, "SELECT");
    const Result second = site.nfreeze({"backup", "--stdin-name", "db/dump.sql", site.url}, options);
    REQUIRE_EXIT(second, 0);
    CHECK(summary_of(second).fresh_bytes < 2'500'000);
    CHECK(summary_of(second).fresh_bytes > 0);
    REQUIRE_EXIT(site.restore(), 0);
    CHECK(read_file(site.dest / "db/dump.sql") == options.input);
    options.input.clear();
    const Result empty = site.nfreeze({"backup", "--stdin-name", "db/dump.sql", site.url}, options);
    CHECK_EXIT(empty, 1);
    CHECK_NAMES(empty.err, "--allow-empty");
    CHECK(snapshots_in(site) == 2);
    const Result allowed =
        site.nfreeze({"backup", "--stdin-name", "e", "--allow-empty", "--allow-shrink", site.url}, options);
    CHECK_EXIT(allowed, 0);
    for (const char* name : {"", "/", "..", "a/../b"}) {
        const Result result = site.nfreeze({"backup", "--stdin-name", name, site.url}, options);
        CHECK_EXIT(result, 2);
    }
}

TEST_CASE("select: what a command prints is stored only if it ends well, and it gets no secrets") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const auto backup_of = [&](const Strings& command) {
        Strings arguments{"backup", "--stdin-name", "dump", "--stdin-from-command", site.url, "--"};
        arguments.insert(arguments.end(), command.begin(), command.end());
        return site.nfreeze(arguments);
    };
    const Result good = backup_of({"sh", "-c", "env; echo done"});
    REQUIRE_EXIT(good, 0);
    REQUIRE_EXIT(site.restore(), 0);
    const std::string printed = read_file(site.dest / "dump");
    CHECK_NAMES(printed, "done\n");
    CHECK(!contains(printed, "NFREEZE_PASSWORD"));
    const Result failed = backup_of({"sh", "-c", "echo half; exit 7"});
    CHECK_EXIT(failed, 1);
    CHECK_NAMES(failed.err, "7");
    const Result killed = backup_of({"sh", "-c", "echo half; kill -9 $$"});
    CHECK_EXIT(killed, 1);
    const Result absent = backup_of({"no-such-program-anywhere"});
    CHECK_EXIT(absent, 1);
    CHECK(snapshots_in(site) == 1);
    const Result none = site.nfreeze({"backup", "--stdin-name", "dump", "--stdin-from-command", site.url});
    CHECK_EXIT(none, 2);
}

TEST_CASE("select: a signal ends a backup that waits for a command, and the command with it") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const fs::path pid_file = site.dir / "pid";
    Child child({nfreeze_binary(), "backup", "--stdin-name", "dump", "--stdin-from-command", site.url, "--",
                 "sh", "-c", "echo $$ > '" + pid_file.string() + "'; exec sleep 60"},
                site.options);
    REQUIRE(wait_until([&] { return fs::exists(pid_file) && !read_file(pid_file).empty(); },
                       milliseconds(5'000)));
    const std::string pid = lines_of(read_file(pid_file))[0];
    child.kill(SIGTERM);
    const Result result = child.wait();
    CHECK_EXIT(result, 130);
    CHECK(result.seconds < 10);
    CHECK(wait_until([&] { return !fs::exists("/proc/" + pid); }, milliseconds(2'000)));
    CHECK(snapshots_in(site) == 0);
}

TEST_CASE("select: several sources become a snapshot each, and the worst outcome is the exit code") {
    const Site site(Site::Kind::local);
    write_file(site.dir / "one/file", "1");
    write_file(site.dir / "two/file", "2");
    fs::create_directories(site.dir / "void");
    site.init_or_fail();
    const Result result = site.nfreeze({"backup", (site.dir / "one").string(), (site.dir / "void").string(),
                                        (site.dir / "two").string(), site.url});
    CHECK_EXIT(result, 1); // for the empty one
    CHECK_NAMES(result.err, "void");
    CHECK(snapshots_in(site) == 2);
    CHECK(stored(site, {"--source", (site.dir / "two").string()}) == Names{"file"});
}

TEST_CASE("select: snapshots are found by tag, host and time") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "old");
    site.init_or_fail();
    site.backup_or_fail({"--tag", "weekly", "--tag", "one,two", "--host", "elsewhere"});
    std::this_thread::sleep_for(milliseconds(1100));
    char now[32];
    const time_t seconds = time(nullptr) - 1;
    struct tm parts {};
    strftime(now, sizeof now, "%Y-%m-%d %H:%M:%S", localtime_r(&seconds, &parts));
    write_file(site.src / "second", "new");
    site.backup_or_fail({"--host", "elsewhere"});
    CHECK(stored(site, {"--tag", "weekly"}) == Names{"file"});
    CHECK(stored(site, {"--tag", "one,two"}) == Names{"file"});
    CHECK(stored(site, {"--host", "elsewhere"}) == Names{"file", "second"});
    CHECK(stored(site, {"--at", now}) == Names{"file"});
    CHECK(stored(site, {"--at", "0h"}) == Names{"file", "second"});
    const Result listed = site.nfreeze({"snapshots", "--tag", "weekly", site.url});
    CHECK(lines_of(listed.out).size() == 2);
    for (const char* wrong : {"3x", "yesterday", "2026-13-01", ""}) {
        const Result result = site.nfreeze({"ls", "--at", wrong, site.url});
        CHECK_EXIT(result, 2);
    }
    const Result early = site.nfreeze({"ls", "--at", "1999-12-31", site.url});
    CHECK_EXIT(early, 1);
}

TEST_CASE("select: a dry run lists what would be stored and sends nothing") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", std::string(100'000, 'x'));
    site.init_or_fail();
    const std::string before = fingerprint(site.repo);
    const Result result = site.backup({"-n", "-v"});
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "+ file");
    CHECK_NAMES(result.out, "100000 read, 100");
    CHECK(fingerprint(site.repo) == before);
    CHECK(snapshots_in(site) == 0);
}

TEST_CASE("guard: a source that is all but gone is not committed unless that is said to be right") {
    const Site site(Site::Kind::local);
    for (int i = 0; i < 10; ++i) write_file(site.src / std::to_string(i), std::string(1000, 'x'));
    site.init_or_fail();
    site.backup_or_fail();
    const auto refused = [&](const char* why) {
        const Result result = site.backup();
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, "--allow-shrink");
        CHECK_NAMES(result.err, why);
    };
    for (int i = 0; i < 6; ++i) fs::remove(site.src / std::to_string(i));
    refused("4 of 10 files");
    for (int i = 0; i < 6; ++i) write_file(site.src / std::to_string(i), "");
    refused("4000 of 10000 bytes");
    for (int i = 0; i < 10; ++i) fs::remove(site.src / std::to_string(i));
    refused("empty");
    CHECK(snapshots_in(site) == 1);
    site.backup_or_fail({"--allow-shrink"});
    CHECK(snapshots_in(site) == 2);
    for (int i = 0; i < 2; ++i) write_file(site.src / std::to_string(i), "1");
    site.backup_or_fail();
    fs::remove(site.src / "0"); // half is not less than half
    site.backup_or_fail();
}

TEST_CASE("guard: a disk that was mounted and is not now is noticed, whatever lies beneath it") {
    if (!can_mount()) return skipped("disks that are not mounted: mounting is not allowed here");
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    write_file(site.src / "mnt/beneath", "content");
    site.init_or_fail();
    RunOptions options = site.options;
    options.mounts = {{"", (site.src / "mnt").string(), "size=1m"}};
    const Result mounted = site.nfreeze({"backup", site.src.string(), site.url}, options);
    REQUIRE_EXIT(mounted, 0);
    const Result result = site.backup();
    CHECK_EXIT(result, 1);
    CHECK_NAMES(result.err, "mnt");
    site.backup_or_fail({"--allow-shrink"});
    site.backup_or_fail();
}

TEST_CASE("copy-links: what links lead to is stored in their place, as cp -L would") {
    const Site site(Site::Kind::local);
    write_file(site.src / "dir/file", "inside");
    write_file(site.src / "dir/deep/more", std::string(100'000, 'x'));
    write_file(site.dir / "outside/file", "outside");
    write_file(site.dir / "outside/deep/below", "outside, below");
    fs::create_symlink("../file", site.dir / "outside/deep/link"); // a link in what a link leads to
    fs::create_symlink("dir/file", site.src / "to a file");
    fs::create_symlink("dir", site.src / "to a directory");
    fs::create_symlink(site.dir / "outside/file", site.src / "dir/to a file outside");
    fs::create_symlink(site.dir / "outside", site.src / "dir/deep/to a directory outside");
    fs::create_symlink("to a file", site.src / "to a link");
    chmod((site.dir / "outside/file").c_str(), 0640);
    set_mtime(site.dir / "outside/file", 1'000'000'000, 123'456'789);
    set_mtime(site.dir / "outside/deep", 1'100'000'000, 0);
    must_run({"cp", "-rL", "--preserve=mode,ownership,timestamps,xattr", site.src, site.dir / "wanted"});
    settle();
    site.init_or_fail();
    const Summary first = site.backup_or_fail({"--copy-links"});
    site.restore_or_fail();
    CHECK(compare(site.dir / "wanted", site.dest) == "");
    CHECK(!fs::is_symlink(site.dest / "to a directory"));
    CHECK(read_file(site.dest / "to a directory/deep/to a directory outside/deep/link") == "outside");
    const Summary again = site.backup_or_fail({"--copy-links"});
    CHECK(again.read == 0);
    CHECK(again.unchanged == first.fresh);
    write_file(site.dir / "outside/deep/below", "changed");
    const Summary changed = site.backup_or_fail({"--copy-links"});
    CHECK(changed.changed == 2); // through "dir" and through "to a directory"
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(read_file(site.dest / "dir/deep/to a directory outside/deep/below") == "changed");
    site.backup_or_fail({"--allow-shrink"}); // without it links are links
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    CHECK(fs::is_symlink(site.dest / "to a directory"));
}

TEST_CASE("copy-links: links that lead nowhere or in circles stay links, and the run comes to an end") {
    const Site site(Site::Kind::local);
    write_file(site.src / "a/file", "content");
    write_file(site.src / "b/file", "content");
    const Strings stay{"itself", "nowhere", "a/parent", "a/here", "a/round", "b/top", "pair1", "pair2"};
    fs::create_symlink("itself", site.src / "itself");
    fs::create_symlink("pair2", site.src / "pair1");
    fs::create_symlink("pair1", site.src / "pair2");
    fs::create_symlink("not/there", site.src / "nowhere");
    fs::create_symlink("..", site.src / "a/parent");
    fs::create_symlink(".", site.src / "a/here");
    fs::create_symlink("../a", site.src / "a/round");
    fs::create_symlink(site.src, site.src / "b/top");
    site.init_or_fail();
    const Result result = site.backup({"--copy-links"});
    REQUIRE_EXIT(result, 0);
    site.restore_or_fail();
    for (const auto& link : stay) {
        CAPTURE(link);
        REQUIRE(fs::is_symlink(site.dest / link));
        CHECK(fs::read_symlink(site.dest / link) == fs::read_symlink(site.src / link));
    }
    CHECK(compare(site.src, site.dest) == "");
    SUBCASE("two directories that lead to each other, and one above the source") {
        fs::create_symlink("../b", site.src / "a/to b");
        fs::create_symlink("../a", site.src / "b/to a");
        write_file(site.dir / "beside", "x");
        fs::create_symlink("..", site.src / "above"); // with the source and the repository in it
        remove_tree(site.dest);
        const Result more = site.backup({"--copy-links"});
        REQUIRE_EXIT(more, 0);
        site.restore_or_fail();
        CHECK(read_file(site.dest / "a/to b/file") == "content");
        CHECK(fs::is_symlink(site.dest / "a/to b/to a"));
        CHECK(read_file(site.dest / "above/beside") == "x");
        CHECK(fs::is_symlink(site.dest / "above/src/above"));
        CHECK(!fs::exists(site.dest / "above/server/repo/packs"));
    }
}

TEST_CASE("copy-links: several links to one file, and those to what is no file") {
    const Site site(Site::Kind::local);
    write_file(site.dir / "outside/file", "content");
    fs::create_hard_link(site.dir / "outside/file", site.dir / "outside/second name");
    mkfifo((site.dir / "outside/fifo").c_str(), 0600);
    for (const char* name : {"one", "two"}) fs::create_symlink(site.dir / "outside/file", site.src / name);
    fs::create_symlink(site.dir / "outside/second name", site.src / "three");
    fs::create_symlink(site.dir / "outside/fifo", site.src / "fifo");
    fs::create_symlink("/dev/null", site.src / "device");
    site.init_or_fail();
    const Result result = site.backup({"--copy-links", "--exclude", "device"});
    REQUIRE_EXIT(result, 0);
    CHECK(stored(site) == Names{"fifo", "one", "three", "two"});
    site.restore_or_fail();
    for (const char* name : {"one", "two", "three"}) {
        CHECK(!fs::is_symlink(site.dest / name));
        CHECK(read_file(site.dest / name) == "content");
    }
    CHECK(fs::symlink_status(site.dest / "fifo").type() == fs::file_type::fifo);
    // A pattern means what a link leads to, as everything else does.
    fs::create_directories(site.dir / "outside/sub");
    fs::create_symlink(site.dir / "outside/sub", site.src / "sub");
    site.backup_or_fail({"--copy-links", "--exclude", "sub/", "--exclude", "device"});
    CHECK(!stored(site).contains("sub"));
}

TEST_CASE("select: a second dump of a database that hardly changed costs no more than restic's") {
    if (!have_program("restic")) return skipped("comparing dumps with restic's: there is no restic");
    const TempDir dumps;
    // 60 MB of rows, as a dump of an SQL database has them: numbers, words, a hash that nobody can compress.
    Random random(42);
    const Strings words{"alpha",       "bravo",   "customer", "delivered", "pending",
                        "Main Street", "invoice", "refund",   "Berlin",    "Lyon"};
    Strings rows;
    std::size_t size = 0;
    const auto row = [&](std::size_t id) {
        char text[256];
        std::snprintf(text, sizeof text,
                      "INSERT INTO `orders` VALUES (%zu,'%s %s','%s','2026-%02d-%02d "
                      "%02d:%02d:%02d',%d.%02d,'%016lx%016lx',NULL);\n",
                      id, words[random.below(words.size())].c_str(),
                      words[random.below(words.size())].c_str(), words[random.below(words.size())].c_str(),
                      int(1 + random.below(12)), int(1 + random.below(28)), int(random.below(24)),
                      int(random.below(60)), int(random.below(60)), int(random.below(1000)),
                      int(random.below(100)), static_cast<unsigned long>(random.next()),
                      static_cast<unsigned long>(random.next()));
        return std::string(text);
    };
    while (size < 60'000'000) {
        rows.push_back(row(rows.size()));
        size += rows.back().size();
    }
    const auto dump = [&](const fs::path& to) {
        std::string all;
        all.reserve(size);
        for (const auto& each : rows) all += each;
        write_file(to, all);
    };
    dump(dumps / "first.sql");
    for (int i = 0; i < 50; ++i) {
        const std::size_t which = random.below(rows.size());
        rows[which] = row(which);
    }
    dump(dumps / "second.sql");
    // Where the cuts fall is chance, with both, which one time in some thirty decides: so three trials count
    // together.
    std::uint64_t ours[2] = {}, theirs[2] = {};
    for (int trial = 0; trial < 3; ++trial) {
        const Site site(Site::Kind::local);
        site.init_or_fail();
        RunOptions restic = site.options;
        restic.env.insert_or_assign("RESTIC_PASSWORD", "x");
        restic.env.insert_or_assign("RESTIC_REPOSITORY", (site.dir / "restic").string());
        restic.timeout = milliseconds(120'000);
        must_run({"restic", "-q", "init"}, restic);
        int i = 0;
        for (const char* name : {"first.sql", "second.sql"}) {
            const std::string file = (dumps / name).string();
            const std::uint64_t before = site.repository_bytes(),
                                before_theirs = bytes_below(site.dir / "restic");
            const Result result = run({"sh", "-c", "exec \"$1\" backup --stdin-name dump.sql \"$2\" < \"$3\"",
                                       "sh", nfreeze_binary(), site.url, file},
                                      site.options);
            REQUIRE_EXIT(result, 0);
            must_run(
                {"sh", "-c", "exec restic -q backup --stdin --stdin-filename dump.sql < \"$1\"", "sh", file},
                restic);
            ours[i] += site.repository_bytes() - before;
            theirs[i++] += bytes_below(site.dir / "restic") - before_theirs;
        }
        const Result cat = site.nfreeze({"cat", site.url, "dump.sql"});
        CHECK((cat.out == read_file(dumps / "second.sql")));
    }
    INFO("first dump: nfreeze " << ours[0] << ", restic " << theirs[0] << "; second: nfreeze " << ours[1]
                                << ", restic " << theirs[1]);
    CHECK(ours[1] <= theirs[1]);
}

TEST_SUITE_END();
