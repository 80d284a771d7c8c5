// The format as the comment at the head of nfreeze.cpp describes it: tests/reader.py was written from
// that alone, in another language, and must make of every repository what the program makes of it.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

const fs::path tests_dir = NFREEZE_TESTS_DIR;

Result reader(const Site& site, const Strings& arguments) {
    Strings argv{"python3", tests_dir / "reader.py"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return run(argv, site.options);
}

// The ids that the reader lists, the oldest first.
Strings ids_by_reader(const Site& site, const Strings& flags = {}) {
    Strings arguments{"snapshots", site.repo};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Result result = reader(site, arguments);
    REQUIRE_EXIT(result, 0);
    Strings ids;
    for (const std::string& line : lines_of(result.out)) ids.push_back(line.substr(0, 32));
    return ids;
}

// By the reader and by the program, from the same snapshot; both as the source is.
void check_both_restore(const Site& site, const std::string& id) {
    CAPTURE(id);
    remove_tree(site.dest);
    CHECK_EXIT(site.nfreeze({"restore", "--snapshot", id, site.url, site.dest}), 0);
    CHECK(compare(site.src, site.dest) == "");
    remove_tree(site.dest);
    const Result result = reader(site, {"restore", site.repo, site.dest, "--snapshot", id});
    CHECK_EXIT(result, 0);
    CHECK(result.err == "");
    CHECK(compare(site.src, site.dest) == "");
}

void check_whole_to_reader(const Site& site) {
    const Result result = reader(site, {"check", site.repo});
    CHECK_EXIT(result, 0);
    CHECK(result.out + result.err == "");
}

// Several chunks on either side of a hole, and a hole at the end.
void write_content_with_holes(const fs::path& path) {
    const std::string content = random_bytes(6 * MiB, 11);
    write_file(path, content);
    REQUIRE(truncate(path.c_str(), 20 * MiB) == 0);
    append_file(path, content.substr(5 * MiB + 77) + content.substr(0, 4 * MiB));
    REQUIRE(truncate(path.c_str(), 33 * MiB + 5) == 0);
}

// Many records of a tree, and so several chunks and an index segment that later ones do not merge with.
void write_many_files(const fs::path& dir) {
    for (int i = 0; i < 1500; ++i)
        write_file(dir / std::to_string(i % 10) / ("file number " + std::to_string(i)),
                   random_bytes(static_cast<std::size_t>(i % 300), static_cast<std::uint64_t>(i)));
}

} // namespace

TEST_SUITE_BEGIN("reader");

TEST_CASE("reader: restores every snapshot as the program does, before and after forget and prune") {
    if (!have_reader()) return;
    const Site site(Site::Kind::local);
    site.init_or_fail();
    CHECK(ids_by_reader(site).empty());

    const AwkwardTree awkward(site.src);
    write_content_with_holes(site.src / "sparse/several-chunks");
    const std::string first = site.backup_or_fail({"--tag", "one", "--tag", "zwei \xc3\xa4"}).snapshot;
    check_both_restore(site, first);
    CHECK_NAMES(reader(site, {"snapshots", site.repo}).out, "#one #zwei \xc3\xa4");

    write_many_files(site.src / "many");
    const std::string second = site.backup_or_fail().snapshot;
    fs::remove(site.src / "contents/random-5M");
    write_file(site.src / "contents/text", "another text\n");
    const std::string third = site.backup_or_fail().snapshot;
    check_both_restore(site, third);
    const Strings ids{first, second, third};
    CHECK(ids_by_reader(site) == ids);
    CHECK_MESSAGE(ids_by_reader(site, {"--without-index"}) == ids, "packs/ is enough");
    check_whole_to_reader(site);

    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, second}), 0);
    CHECK_NAMES(reader(site, {"snapshots", site.repo}).out, "(forgotten)");
    check_whole_to_reader(site);
    const std::size_t packs = packs_of(site).size();
    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, first}), 0);
    REQUIRE_EXIT(site.nfreeze({"prune", "--now", "--yes", "--max-unused", "0%", site.url}), 0);
    REQUIRE_MESSAGE(packs_of(site).size() < packs, "packs were copied together");
    CHECK(ids_by_reader(site) == Strings{ids.back()});
    check_both_restore(site, third);
    check_whole_to_reader(site);
}

TEST_CASE("reader: a source that is a file, one directory out of many, another passphrase") {
    if (!have_reader()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "dir/inside", "content");
    write_file(site.src / "dir2/beside", "not wanted");
    write_file(site.dir / "single", "a file is a source, too");
    site.init_or_fail();
    site.backup_or_fail();
    Result result = reader(site, {"restore", site.repo, site.dest, "--path", "dir"});
    CHECK_EXIT(result, 0);
    CHECK(read_file(site.dest / "dir/inside") == "content");
    CHECK_FALSE(fs::exists(site.dest / "dir2"));
    CHECK_MESSAGE(reader(site, {"restore", site.repo, site.dest}).code == 1, "it is there already");

    REQUIRE_EXIT(site.nfreeze({"backup", site.dir / "single", site.url}), 0);
    remove_tree(site.dest);
    CHECK_EXIT(reader(site, {"restore", site.repo, site.dest}), 0);
    CHECK(read_file(site.dest / "single") == "a file is a source, too");
    CHECK_NAMES(reader(site, {"ls", site.repo}).out, " single\n");

    site.options.env["NFREEZE_PASSWORD"] = "another";
    result = reader(site, {"snapshots", site.repo});
    CHECK_EXIT(result, 1);
    CHECK_NAMES(result.err, "no key object opens with this passphrase");
}

TEST_CASE("reader: a byte flipped in any object is noticed, and a file that needs it is not restored") {
    if (!have_reader()) return;
    const Site site(Site::Kind::local);
    write_file(site.src / "small", "some text\n");
    write_random_file(site.src / "large", 5 * MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    copy_tree(site.repo, site.dir / "whole");
    for (const fs::path& object : files_below(site.dir / "whole")) {
        const fs::path name = fs::relative(object, site.dir / "whole");
        CAPTURE(name.string());
        const std::uintmax_t at = std::min<std::uintmax_t>(
            fs::file_size(object) / 2, 100'000); // in the first frame, which "large" fills
        flip_byte(site.repo / name, at);
        const Result result = reader(site, {"check", site.repo});
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, name.string());
        if (name.begin()->string() == "packs" && fs::file_size(object) > MiB) {
            CHECK_EXIT(reader(site, {"restore", site.repo, site.dest}), 1);
            CHECK_FALSE(fs::exists(site.dest / "large"));
            CHECK_MESSAGE(read_file(site.dest / "small") == "some text\n", "it is in another frame");
        }
        flip_byte(site.repo / name, at); // back again
    }
    check_whole_to_reader(site);
}

TEST_CASE("reader: a file of so many chunks that its record has a continuation") {
    if (!have_reader()) return;
    if (std::getenv("NFREEZE_TEST_SLOW") == nullptr)
        return skipped("a file of 6 GB: takes some minutes; NFREEZE_TEST_SLOW=1 runs it");
    Site site(Site::Kind::local);
    site.options.timeout = std::chrono::minutes(5);
    write_random_file(site.src / "huge", 6000 * MiB, 1);
    write_file(site.src / "next", "its time is less that of the file before");
    site.init_or_fail();
    site.backup_or_fail();
    CHECK_EXIT(reader(site, {"restore", site.repo, site.dest}), 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_SUITE_END();
