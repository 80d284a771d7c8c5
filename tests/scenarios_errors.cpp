// Bad input and bad places: each has its sentence and its exit code.
#include <sys/stat.h>
#include <unistd.h>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

// One line for the user that names what must be named, and no word that only a programmer knows.
void check_error(const Result& result, int code, const Strings& named) {
    CHECK_EXIT(result, code);
    INFO(describe(result));
    CHECK(result.err.starts_with("nfreeze: "));
    for (const std::string& part : named) CHECK_NAMES(result.err, part);
    for (const std::string jargon : {"terminate called", "what():", "std::", "exception", "unexpected"})
        CHECK_NOT_NAMED(result.err, jargon);
}

} // namespace

TEST_SUITE_BEGIN("errors");

TEST_CASE("errors: SRC that does not exist, or may not be opened") {
    Site site(Site::Kind::local);
    site.init_or_fail();
    check_error(site.nfreeze({"backup", site.dir / "no such place", site.url}), 1,
                {"no such place", "No such file"});
    const Result table = site.nfreeze({"snapshots", site.url});
    CHECK(lines_of(table.out).size() <= 1);
    if (is_root()) {
        give_to(site.dir.path(), account_uid);
        site.options.uid = account_uid;
    }
    chmod(site.src.c_str(), 0);
    const Result closed = site.backup();
    CHECK((closed.code == 1 || closed.code == 3));
    CHECK_NAMES(closed.err, site.src.string());
    CHECK_NAMES(closed.err, "Permission denied");
    chmod(site.src.c_str(), 0700);
}

TEST_CASE("errors: a place that is not a repository") {
    for (const Site::Kind kind : {Site::Kind::ssh, Site::Kind::local}) {
        Site site(kind);
        write_file(site.repo / "holiday.jpg", "a folder of photos");
        check_error(site.restore(), 1, {site.url, "nfreeze init"});
        check_error(site.nfreeze({"snapshots", site.url}), 1, {site.url});
        check_error(site.nfreeze({"ls", site.url}), 1, {site.url});
        CHECK(!fs::exists(site.dest));
    }
}

TEST_CASE("errors: no space on the server") {
    if (!can_mount()) return skipped("a server whose disk is full: needs root and mount namespaces");
    // The server alone sees a small file system at its end of the repository's path.
    TempDir place;
    Sshd::Options options;
    options.mounts = {{"", place.path(), "size=12m,mode=0755"}};
    Sshd server(options);
    Site site(server);
    site.repo = place / "repo";
    site.url = site.remote(server.port());
    write_random_file(site.src / "fits", 2 * MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    copy_tree(site.src, site.dir / "first");
    write_random_file(site.src / "does not fit", 40 * MiB, 2);
    site.options.timeout = milliseconds(20'000);
    const Result full = site.backup();
    check_error(full, 1, {"127.0.0.1"});
    CHECK_MESSAGE((contains(full.err, "full") || contains(full.err, "space")), full.err);
    site.restore_or_fail(); // what was there before is as good as it was
    CHECK(compare(site.dir / "first", site.dest) == "");
}

TEST_CASE("errors: no permission on the server") {
    Sshd::Options options;
    options.ordinary_account = true;
    Sshd server(options);
    Site site(server);
    write_file(site.src / "file", "x");
    chmod(site.repo.parent_path().c_str(), 0555);
    check_error(site.init(), 1, {"127.0.0.1", "permission"});
    chmod(site.repo.parent_path().c_str(), 0755);
    site.init_or_fail();
    chmod((site.repo / "packs").c_str(), 0555);
    check_error(site.backup(), 1, {"127.0.0.1", "permission"});
    chmod((site.repo / "packs").c_str(), 0755);
    site.backup_or_fail();
    chmod((site.repo / "packs").c_str(), 0);
    const Result unreadable = site.restore();
    CHECK((unreadable.code == 1 || unreadable.code == 5));
    CHECK_NAMES(unreadable.err, "permission");
    chmod((site.repo / "packs").c_str(), 0755);
}

TEST_CASE("errors: no permission, and no space, in a local repository") {
    Site site(Site::Kind::local);
    write_random_file(site.src / "file", 20 * MiB, 1);
    if (can_mount()) {
        RunOptions small = site.options;
        fs::create_directory(site.dir / "small");
        small.mounts = {{"", site.dir / "small", "size=8m,mode=0755"}};
        // One process for both verbs: the small file system is gone with it.
        const Result result =
            run({"sh", "-c", "\"$1\" init \"$3\" > /dev/null && exec \"$1\" backup \"$2\" \"$3\"", "sh",
                 nfreeze_binary(), site.src, site.dir / "small/repo"},
                small);
        check_error(result, 1, {"small/repo", "No space left"});
    } else {
        skipped("a full local disk: needs root and mount namespaces");
    }
    if (is_root()) {
        give_to(site.dir.path(), account_uid);
        site.options.uid = account_uid;
    }
    chmod(site.repo.parent_path().c_str(), 0555);
    check_error(site.init(), 1, {site.repo.string(), "Permission denied"});
    chmod(site.repo.parent_path().c_str(), 0755);
}

TEST_CASE("errors: DEST that cannot be made, or is a file") {
    Site site(Site::Kind::local);
    write_file(site.src / "file", "x");
    site.init_or_fail();
    site.backup_or_fail();
    write_file(site.dir / "in the way", "mine");
    const Result file = site.nfreeze({"restore", site.url, site.dir / "in the way"});
    CHECK((file.code == 1 || file.code == 3));
    CHECK_NAMES(file.err, "in the way");
    CHECK(read_file(site.dir / "in the way") == "mine");
    const Result below = site.nfreeze({"restore", site.url, site.dir / "in the way/dest"});
    CHECK((below.code == 1 || below.code == 3));
    CHECK_NAMES(below.err, "in the way");
}

TEST_CASE("errors: words that are too long to be read back are refused, the repository stays whole") {
    Site site(Site::Kind::local);
    write_file(site.src / "file", "x");
    site.init_or_fail();
    site.backup_or_fail();
    const std::string at = site.src.string();
    check_error(site.nfreeze({"backup", "--host", std::string(5000, 'h'), at, site.url}), 1,
                {"too long", "nothing was committed"});
    Strings many{"backup"};
    for (int i = 0; i < 5000; ++i) many.push_back("--tag=" + std::to_string(i));
    many.insert(many.end(), {at, site.url});
    check_error(site.nfreeze(many), 1, {"nothing was committed"});
    CHECK_EXIT(site.nfreeze({"check", site.url}), 0);
    site.backup_or_fail();
    CHECK(site.nfreeze({"snapshots", "--json", site.url}).out.find("\"source\"") != std::string::npos);
}

TEST_CASE("errors: init goes on where one was cut short, and touches nothing that somebody may need") {
    Site site(Site::Kind::local);
    site.init_or_fail();
    check_error(site.init(), 1, {"keys/ is not empty"});
    for (const fs::path& key : files_below(site.repo / "keys")) fs::remove(key);
    site.init_or_fail(); // nobody can ever open what was in index/
    CHECK(files_below(site.repo / "index").size() == 1);
    write_file(site.src / "file", "x");
    site.backup_or_fail();
    for (const fs::path& key : files_below(site.repo / "keys")) fs::remove(key);
    check_error(site.init(), 1, {"packs/ is not empty"}); // a recovery sheet opens these
}

TEST_CASE("errors: init takes nothing away that is not its own, from no directory and through no link") {
    for (const Site::Kind kind : {Site::Kind::ssh, Site::Kind::local}) {
        for (const std::string& name : Strings{
                 "index/thesis.tex", "index/book/chapter 1", "index/00000001-" + std::string(63, 'a'),
                 "index/00000001-" + std::string(64, 'A'), "index/.hidden", "packs/picture", "keys/door"}) {
            CAPTURE(name);
            const Site site(kind);
            write_file(site.repo / name, "mine");
            write_file(site.repo / "index" / ("00000001-" + std::string(64, 'a')), "half a segment");
            check_error(site.init(), 1, {});
            CHECK(read_file(site.repo / name) == "mine");
            CHECK(files_below(site.repo).size() == 2);
        }
        const Site begun(kind); // one that was cut short is gone on with
        write_file(begun.repo / "index" / ("00000001-" + std::string(64, 'a')), "half a segment");
        fs::create_directory(begun.repo / "packs");
        begun.init_or_fail();
        write_file(begun.src / "file", "x");
        begun.backup_or_fail();
        CHECK_EXIT(begun.nfreeze({"check", begun.url}), 0);
    }
}

TEST_CASE("errors: init follows no link out of a directory") {
    for (const std::string where : {"index", "packs", "keys"}) {
        CAPTURE(where);
        const Site site(Site::Kind::local);
        write_file(site.dir / "elsewhere" / ("00000001-" + std::string(64, 'a')), "somebody's");
        fs::create_directories(site.repo);
        fs::create_directory_symlink(site.dir / "elsewhere", site.repo / where);
        const std::string before = fingerprint(site.dir / "elsewhere");
        CHECK_EXIT(site.init(), 1);
        CHECK(fingerprint(site.dir / "elsewhere") == before);
        fs::remove_all(site.dir / "elsewhere");
        fs::create_directory(site.dir / "elsewhere"); // nor into an empty one
        CHECK_EXIT(site.init(), 1);
        CHECK(fs::is_empty(site.dir / "elsewhere"));
        fs::remove(site.dir / "elsewhere"); // nor to nowhere
        CHECK_EXIT(site.init(), 1);
        CHECK(!fs::exists(site.dir / "elsewhere"));
    }
}

TEST_CASE("errors: of several that make a repository at once one has made it, and can open it") {
    for (const Site::Kind kind : {Site::Kind::local, Site::Kind::ssh})
        for (int round = 0; round < (slow_tests() ? 100 : 3); ++round) {
            CAPTURE(round);
            const Site site(kind);
            std::vector<std::unique_ptr<Child>> all;
            std::vector<RunOptions> options(4, site.options);
            for (std::size_t i = 0; i < options.size(); ++i) {
                options[i].env["NFREEZE_PASSWORD"] = "of client " + std::to_string(i);
                all.push_back(
                    std::make_unique<Child>(Strings{nfreeze_binary(), "init", site.url}, options[i]));
            }
            int made = 0;
            for (std::size_t i = 0; i < options.size(); ++i) {
                const Result result = all[i]->wait();
                CHECK_MESSAGE((result.code == 0 || result.code == 1), describe(result));
                made += result.code == 0;
                CHECK(contains(result.out, "created") == (result.code == 0));
                if (result.code == 0) continue;
                CHECK(result.err.starts_with("nfreeze: "));
                options[i].env.clear();
            }
            CHECK(made <= 1);
            write_file(site.src / "file", "x");
            for (const RunOptions& with : options) {
                if (with.env.empty()) continue;
                CHECK_EXIT(site.nfreeze({"backup", site.src, site.url}, with), 0);
                CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}, with), 0);
            }
        }
}

TEST_SUITE_END();
