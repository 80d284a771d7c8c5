// Repositories made by earlier versions, which this one must still read, and go on with. What they hold is
// described here, so that nothing of it needs to be stored. tests/golden/v1 was made by:
//
//     NFREEZE_TEST_GOLDEN=tests/golden/v1 build/nfreeze_tests -tc='golden: make*'
//
// and never is again: once a release can read a format, it reads it for ever.
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

const fs::path golden = fs::path(NFREEZE_TESTS_DIR) / "golden/v1";
constexpr const char* second_passphrase = "of the second key";
// Printed when it was made: the way into a repository whose key objects are lost.
constexpr const char* sheet = "1  e3c9 d746 3518 3738 839f\n"
                              "2  8064 8788 be0e 9108 c3b9\n"
                              "3  1be8 0930 be29 e759 49c0\n"
                              "4  0789 de93 f26a 2fd9 29c5\n";
// Of the three snapshots, the oldest first.
const Strings ids{"aafd2d4ab3836adb717d1b6e274681a0", "f45cca72eac02a5be6283993c87b25af",
                  "80faccd888fdc316c40f369738636ceb"};

void set_attribute(const fs::path& path, const char* name, const std::string& value) {
    if (setxattr(path.c_str(), name, value.data(), value.size(), 0) != 0)
        skipped("extended attributes of a golden repository: this file system has none");
}

// The tree as it was at the first and at the second backup.
void make_tree(const fs::path& root, int generation) {
    write_file(root / "text", "a line\n" + std::string(generation == 2 ? "and another\n" : ""));
    write_file(root / "empty", "");
    write_file(root / "dir/random", random_bytes(3'000, 1));
    write_file(root / "dir/long", std::string(5 << 20, 'x')); // more than one chunk
    write_file(root / "dir/sparse", "begin");
    fs::resize_file(root / "dir/sparse", 1 << 20);
    append_file(root / "dir/sparse", "middle");
    fs::resize_file(root / "dir/sparse", 3 << 20);
    write_file(root / (generation == 1 ? "dir/old name" : "dir/new name"), random_bytes(500, 2));
    if (generation == 1) write_file(root / "dir/gone later", "gone\n");
    if (generation == 2) write_file(root / "dir/came later", "came\n");
    write_file(root / "names/\xff\xfe no UTF-8", "1");
    write_file(root / "names/\xc3\xa9\xe2\x82\xac\n\\x41 *?[a]", "2");
    write_file(root / "names" / std::string(255, 'n'), "3");
    fs::create_directories(root / "deep/a/b/c/d/e/f/g");
    fs::create_directories(root / "empty dir");
    fs::create_symlink("../dir/random", root / "names/link");
    fs::create_symlink("no such place", root / "dangling");
    fs::create_hard_link(root / "dir/random", root / "names/linked");
    REQUIRE(mkfifo((root / "fifo").c_str(), 0640) == 0);
    for (int i = 0; i < 40; ++i) write_file(root / "many" / std::to_string(i), std::to_string(i * i));
    set_attribute(root / "text", "user.note", std::string("zero \0 within", 13));
    set_attribute(root / "dir", "user.empty", "");
    chmod((root / "text").c_str(), 04711);
    chmod((root / "dir/random").c_str(), 0400);
    chmod((root / "empty dir").c_str(), 01777);
    set_mtime(root / "text", -86'400, 123'456'789); // 1969
    set_mtime(root / "dir/random", 4'000'000'000, 999'999'999);
    set_mtime(root / "dangling", 1'000'000'000, 1);
    // All others, the directories from below: whatever is made in one changes its time.
    std::vector<fs::path> rest{root};
    for (const auto& entry : fs::recursive_directory_iterator(root))
        if (const std::string name = entry.path().lexically_relative(root);
            name != "text" && name != "dir/random" && name != "names/linked" && name != "dangling")
            rest.push_back(entry.path());
    for (auto path = rest.rbegin(); path != rest.rend(); ++path) set_mtime(*path, 1'600'000'000, 5);
    if (is_root()) give_to(root / "many", account_uid);
    for (int i = 0; i < 40; ++i) set_mtime(root / "many" / std::to_string(i), 1'600'000'000, 5);
}

// A site whose repository is a copy of the golden one.
struct GoldenSite : Site {
    GoldenSite() : Site(Kind::local) {
        copy_tree(golden, repo);
        for (const char* kind : {"packs", "index", "keys"}) REQUIRE(fs::is_directory(repo / kind));
    }
    std::string difference_to(int generation) const {
        const TempDir expected;
        make_tree(expected / "tree", generation);
        return is_root() ? compare(expected / "tree", dest) : compare_without_owners(expected / "tree", dest);
    }
};

} // namespace

TEST_SUITE_BEGIN("golden");

TEST_CASE("golden: make a repository for later versions to read") {
    const char* where = std::getenv("NFREEZE_TEST_GOLDEN");
    if (where == nullptr) return; // no test
    Site site(Site::Kind::local);
    site.url = fs::absolute(where);
    RunOptions options = site.options;
    const auto must = [&](const Strings& arguments) {
        const Result result = site.nfreeze(arguments, options);
        REQUIRE_EXIT(result, 0);
        return result.out;
    };
    must({"init", site.url});
    write_file(site.dir / "other/file", "forgotten and pruned\n");
    must({"backup", "--host", "golden", site.dir / "other", site.url});
    make_tree(site.src, 1);
    must({"backup", "--host", "golden", "--tag", "first", site.src, site.url});
    remove_tree(site.src);
    make_tree(site.src, 2);
    must({"backup", "--host", "golden", "--tag", "second", "--tag", "a b", site.src, site.url});
    options.input = "from a pipe\n";
    must({"backup", "--host", "golden", "--stdin-name", "dump", site.url});
    options.input = "";
    const Strings listed = lines_of(must({"snapshots", "--json", site.url}));
    REQUIRE(listed.size() == 4);
    must({"forget", "--yes", site.url, listed[0].substr(7, 32)});
    must({"prune", "--now", "--yes", site.url});
    for (const std::string& snapshot : listed) MESSAGE(snapshot);
    write_file(site.dir / "second", second_passphrase);
    must({"key", "add", "--new-password-file", site.dir / "second", site.url});
    MESSAGE(must({"key", "export", site.url}));
}

TEST_CASE("golden: a repository of format 1 is listed, checked and restored") {
    GoldenSite site;
    const Result listed = site.nfreeze({"snapshots", "--json", site.url});
    REQUIRE_EXIT(listed, 0);
    for (const std::string& id : ids) CHECK_NAMES(listed.out, id);
    CHECK_NAMES(listed.out, R"("tags":["second","a b"])");
    const Result checked = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(checked, 0);
    for (const int generation : {1, 2}) {
        CAPTURE(generation);
        const std::string id = ids[std::size_t(generation - 1)];
        const Result restored = site.restore({"--snapshot", id});
        CHECK_EXIT(restored, 0);
        CHECK(site.difference_to(generation) == "");
        remove_tree(site.dest);
    }
    const Result differ = site.nfreeze({"diff", site.url, ids[0], ids[1]});
    CHECK_EXIT(differ, 0);
    for (const char* line :
         {"+ dir/came later\n", "- dir/gone later\n", "+ dir/new name\n", "- dir/old name\n", "M text\n"})
        CHECK_NAMES(differ.out, line);
    const Result dump = site.nfreeze({"cat", "--snapshot", ids[2], site.url, "dump"});
    CHECK_EXIT(dump, 0);
    CHECK(dump.out == "from a pipe\n");
    const Result part = site.nfreeze({"cat", "--snapshot", ids[1], site.url, "names/\\xff\\xfe no UTF-8"});
    CHECK(part.out == "1");
}

TEST_CASE("golden: a repository of format 1 opens with each of its passphrases and with its sheet") {
    GoldenSite site;
    site.options.env["NFREEZE_PASSWORD"] = second_passphrase;
    const Result exported = site.nfreeze({"key", "export", site.url});
    CHECK_EXIT(exported, 0);
    CHECK_NAMES(exported.out, sheet);
    for (const fs::path& key : files_below(site.repo / "keys")) fs::remove(key);
    write_file(site.dir / "sheet", sheet);
    write_file(site.dir / "new", "a new one");
    const Result imported = site.nfreeze(
        {"key", "import", "--new-password-file", site.dir / "new", site.url, site.dir / "sheet"});
    CHECK_EXIT(imported, 0);
    site.options.env["NFREEZE_PASSWORD"] = "a new one";
    const Result restored = site.restore({"--snapshot", ids[1]});
    CHECK_EXIT(restored, 0);
    CHECK(site.difference_to(2) == "");
}

TEST_CASE("golden: a repository of format 1 takes further backups, and is repaired and pruned") {
    GoldenSite site;
    make_tree(site.src, 2);
    const Summary again = site.backup_or_fail({"--host", "golden"});
    CHECK(again.fresh_bytes < 20'000); // the list of files; 5 MB of them are there, cut where they were then
    remove_tree(site.repo / "index");
    fs::create_directories(site.repo / "index");
    const Result repaired = site.nfreeze({"repair", site.url});
    CHECK_EXIT(repaired, 0);
    const Result forgotten = site.nfreeze({"forget", "--yes", site.url, ids[0]});
    CHECK_EXIT(forgotten, 0);
    const Result pruned = site.nfreeze({"prune", "--now", "--yes", site.url});
    CHECK_EXIT(pruned, 0);
    const Result checked = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(checked, 0);
    site.restore_or_fail({"--snapshot", again.snapshot});
    CHECK(site.difference_to(2) == "");
}

TEST_SUITE_END();
