// What a backup keeps, what it reads, and what it sends.
#include <grp.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <thread>

#include "support.hpp"
#include "trees.hpp"
#include "watch.hpp"

using namespace support;

namespace {

// What a run may add to a repository without any new content: a snapshot in a segment, and the
// piece of the tree in which something changed.
constexpr std::uint64_t small_change = 24'000;
constexpr std::uint64_t MiB = 1 << 20;

// New bytes are those of files, and of the changed piece of the tree.
bool about(std::uint64_t fresh_bytes, std::uint64_t wanted) {
    return fresh_bytes >= wanted && fresh_bytes < wanted + small_change;
}

// Bytes that a run sent: by its own account, and by what the server has more of. Segments that were
// merged and deleted make the second smaller, never larger.
struct Cost {
    Summary summary;
    std::uint64_t grown = 0;
};

Cost backup_cost(const Site& site, const Strings& flags = {}) {
    const std::uint64_t before = site.repository_bytes();
    Cost cost{site.backup_or_fail(flags), 0};
    const std::uint64_t after = site.repository_bytes();
    cost.grown = after > before ? after - before : 0;
    CHECK_MESSAGE(cost.grown <= cost.summary.uploaded, "the summary must not hide what was uploaded");
    return cost;
}

void check_restores(const Site& site, const Strings& flags = {}) {
    remove_tree(site.dest);
    site.restore_or_fail(flags);
    CHECK(compare(site.src, site.dest) == "");
}

void overwrite_at(const fs::path& file, std::streamoff at, std::string_view bytes) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(at);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.close();
    REQUIRE(out);
}

// As an editor or cp -p does: other bytes, the same size, the old time.
void overwrite_keeping_mtime(const fs::path& file, std::string_view bytes) {
    const timespec time = mtime_of(file);
    overwrite_at(file, 0, bytes);
    set_mtime(file, time.tv_sec, time.tv_nsec);
}

// Hands the whole site to an ordinary account, as which nfreeze then runs.
void hand_over(Site& site) {
    give_to(site.dir.path(), account_uid);
    site.options.uid = account_uid;
}

} // namespace

TEST_SUITE_BEGIN("backup");

TEST_CASE("backup: an awkward tree comes back the same from a real server, and costs nothing the "
          "second time") {
    Site site;
    const AwkwardTree tree(site.src);
    const std::string client_before = must_run({"find", site.home});
    site.init_or_fail();
    settle();
    const Result first = site.backup();
    REQUIRE_EXIT(first, 0);
    CHECK_MESSAGE(first.err == "", "sockets are passed over silently, and nothing else here is worth a word");
    check_restores(site);

    const Cost again = backup_cost(site);
    CHECK(again.summary.fresh == 0);
    CHECK(again.summary.changed == 0);
    CHECK(again.summary.gone == 0);
    CHECK(again.summary.unchanged == summary_of(first).fresh);
    CHECK(again.summary.read == 0);
    CHECK(again.summary.fresh_bytes < small_change);
    CHECK(again.summary.uploaded < small_change);
    check_restores(site);
    CHECK_MESSAGE(must_run({"find", site.home}) == client_before,
                  "nothing is kept on the client between runs");
}

TEST_CASE("backup: sparse holes are neither read nor stored nor filled in") {
    Site site(Site::Kind::local);
    const fs::path file = site.src / "holes";
    write_file(file, "start");
    if (truncate(file.c_str(), off_t{1} << 40) != 0)
        return skipped("a file of 1 TiB: the file system does not take one");
    overwrite_at(file, off_t{1} << 39, "middle");
    site.init_or_fail();
    const Cost cost = backup_cost(site); // reading a terabyte would run into the time limit
    CHECK(cost.summary.read < MiB);
    CHECK(cost.summary.uploaded < MiB);
    site.restore_or_fail();
    struct stat st {};
    REQUIRE(stat((site.dest / "holes").c_str(), &st) == 0);
    CHECK(st.st_size == off_t{1} << 40);
    CHECK(st.st_blocks * 512 < off_t{1} << 20);
    std::ifstream in(site.dest / "holes", std::ios::binary);
    std::string start(5, 0), middle(7, 0);
    in.read(start.data(), 5);
    in.seekg(off_t{1} << 39);
    in.read(middle.data(), 7);
    CHECK(start == "start");
    CHECK(middle == std::string("middle\0", 7));
}

TEST_CASE("backup: owners are kept by name, and go to whatever number has that name at restore") {
    if (!can_mount()) return skipped("another /etc/passwd for one run: needs root and mount namespaces");
    Site site(Site::Kind::local);
    write_file(site.src / "named", "by name");
    write_file(site.src / "unnamed", "by number");
    const group* games = getgrnam("games");
    REQUIRE(games != nullptr);
    REQUIRE(chown((site.src / "named").c_str(), 5, games->gr_gid) == 0);
    REQUIRE(chown((site.src / "unnamed").c_str(), 43'210, 43'211) == 0);
    site.init_or_fail();
    site.backup_or_fail();
    // The machine restored to gives the same names other numbers.
    write_file(site.dir / "passwd", "root:x:0:0::/root:/bin/sh\ngames:x:4005:4060::/:/bin/sh\n");
    write_file(site.dir / "group", "root:x:0:\ngames:x:4060:\n");
    site.options.mounts = {{site.dir / "passwd", "/etc/passwd", ""}, {site.dir / "group", "/etc/group", ""}};
    site.restore_or_fail();
    struct stat st {};
    REQUIRE(lstat((site.dest / "named").c_str(), &st) == 0);
    CHECK(st.st_uid == 4005);
    CHECK(st.st_gid == 4060);
    REQUIRE(lstat((site.dest / "unnamed").c_str(), &st) == 0);
    CHECK(st.st_uid == 43'210);
    CHECK(st.st_gid == 43'211);
}

TEST_CASE("backup: unchanged files are not read") {
    Site site(Site::Kind::local);
    make_random_tree(site.src, 5, 40, 100'000);
    write_file(site.src / "changed", "before");
    write_file(site.src / "below/changed too", "before");
    site.init_or_fail();
    settle();
    site.backup_or_fail();
    write_file(site.src / "changed", "after");
    write_file(site.src / "below/changed too", "after, and longer");
    Watch watch(site.src, IN_ACCESS);
    const Summary summary = site.backup_or_fail();
    CHECK(summary.changed == 2);
    CHECK(summary.read == 5 + 17);
    CHECK(watch.saw("changed", IN_ACCESS)); // the witness is awake
    CHECK(watch.saw("below/changed too", IN_ACCESS));
    for (const Event& event : watch.events())
        CHECK_MESSAGE((event.path == "changed" || event.path == "below/changed too"),
                      event.path << " was read");
}

TEST_CASE("backup: a touched, moved, renamed or copied file is read and costs no upload") {
    Site site(Site::Kind::local);
    constexpr std::uint64_t size = 2 * MiB;
    for (const std::string name :
         {"a/touched", "a/renamed", "a/moved", "dir/one", "dir/deeper/two", "copied", "left alone"})
        write_random_file(site.src / name, size, std::hash<std::string>{}(name));
    site.init_or_fail();
    settle();
    CHECK(about(backup_cost(site).summary.fresh_bytes, 7 * size));

    const auto costs_no_upload = [&](std::uint64_t files_read) {
        const Cost cost = backup_cost(site);
        // What the step before touched is less than two seconds old, and may be read once more.
        CHECK(cost.summary.read >= files_read * size);
        CHECK(cost.summary.fresh_bytes < small_change);
        CHECK(cost.summary.uploaded < small_change);
        return cost.summary;
    };
    set_mtime(site.src / "a/touched", 1'700'000'000, 1);
    CHECK(costs_no_upload(1).read == size);

    fs::rename(site.src / "a/renamed", site.src / "a/another name");
    fs::rename(site.src / "a/moved", site.src / "dir/moved");
    const Summary moved = costs_no_upload(2);
    CHECK(moved.fresh == 2);
    CHECK(moved.gone == 2);

    fs::rename(site.src / "dir", site.src / "z-other-dir");
    CHECK(costs_no_upload(3).fresh == 3);

    fs::copy_file(site.src / "copied", site.src / "a copy");
    CHECK(costs_no_upload(1).fresh == 1);
    check_restores(site);

    chmod((site.src / "a/touched").c_str(), 0600);
    if (setxattr((site.src / "copied").c_str(), "user.later", "x", 1, 0) != 0)
        skipped("a changed attribute: the file system takes none");
    costs_no_upload(0);
    check_restores(site);
}

TEST_CASE("backup: a change inside a large file uploads the chunks around it only") {
    Site site(Site::Kind::local);
    constexpr std::uint64_t size = 40 * MiB;
    // A chunk has at most 4 MiB, and a change can spoil the cut before it and the one after it.
    constexpr std::uint64_t around = 9 * MiB;
    write_random_file(site.src / "large", size, 1);
    site.init_or_fail();
    CHECK(about(backup_cost(site).summary.fresh_bytes, size));
    overwrite_at(site.src / "large", 20 * MiB, "changed");
    const Cost changed = backup_cost(site);
    CHECK(changed.summary.fresh_bytes > 0);
    CHECK(changed.summary.fresh_bytes <= around);
    CHECK(changed.summary.uploaded <= around + MiB);
    must_run({"sh", "-c", "printf inserted | cat - \"$1\" > \"$1.new\" && mv \"$1.new\" \"$1\"", "sh",
              site.src / "large"});
    const Cost inserted = backup_cost(site);
    CHECK(inserted.summary.fresh_bytes > 0);
    CHECK(inserted.summary.fresh_bytes <= around);
    CHECK(inserted.summary.uploaded <= around + MiB);
    check_restores(site);
}

TEST_CASE("backup: content that is there twice is uploaded once, and text is compressed") {
    Site site(Site::Kind::local);
    write_random_file(site.src / "one", 5 * MiB, 1);
    write_random_file(site.src / "two", 5 * MiB, 1);
    std::string text;
    for (int i = 0; i < 200'000; ++i) text += "the same words again, line " + std::to_string(i % 100) + "\n";
    write_file(site.src / "text", text);
    site.init_or_fail();
    const Cost cost = backup_cost(site);
    CHECK(cost.summary.read == 10 * MiB + text.size());
    CHECK(cost.summary.fresh_bytes <= 5 * MiB + text.size() + small_change);
    CHECK(cost.summary.uploaded < 6 * MiB);
    check_restores(site);
}

TEST_CASE("backup: --checksum reads everything and trusts content alone") {
    Site site(Site::Kind::local);
    make_random_tree(site.src, 6, 20, 50'000);
    write_file(site.src / "changed in secret", std::string(1000, 'a'));
    site.init_or_fail();
    settle();
    site.backup_or_fail();
    // With the inode's change time ignored, nothing but the content tells.
    overwrite_keeping_mtime(site.src / "changed in secret", "b");
    const Summary blind = site.backup_or_fail({"--ignore-ctime"});
    CHECK(blind.changed == 0);
    const Summary seen = site.backup_or_fail({"--ignore-ctime", "--checksum"});
    CHECK(seen.changed == 1);
    CHECK(seen.read == bytes_below(site.src));
    CHECK(seen.fresh_bytes > 0);
    check_restores(site);
    set_mtime(site.src / "changed in secret", 1'600'000'000, 0);
    CHECK(site.backup_or_fail({"--checksum"}).fresh_bytes < small_change);
}

TEST_CASE("backup: --ignore-inode and --ignore-ctime are for mounts on which these change by "
          "themselves") {
    Site site(Site::Kind::local);
    for (const std::string name : {"one", "two", "three"}) write_file(site.src / name, "as it was");
    site.init_or_fail();
    settle();
    site.backup_or_fail();
    // Another inode, and with it another ctime; all else the same. Each step has a file of its own,
    // because what it leaves behind is so young that the next backup reads it again anyway.
    const auto is_read = [&](const std::string& name, const Strings& flags) {
        must_run({"cp", "-a", site.src / name, site.dir / "copy"});
        fs::rename(site.dir / "copy", site.src / name);
        Watch watch(site.src, IN_ACCESS);
        site.backup_or_fail(flags);
        return watch.saw(name, IN_ACCESS);
    };
    CHECK(is_read("one", {"--ignore-ctime"}));
    CHECK(is_read("two", {"--ignore-inode"}));
    CHECK(!is_read("three", {"--ignore-inode", "--ignore-ctime"}));
}

TEST_CASE("backup: a file written less than two seconds before is read again by the next backup") {
    // A second change in the same tick of the clock would leave all its times as they are.
    Site site(Site::Kind::local);
    site.init_or_fail();
    write_file(site.src / "young", "just now");
    site.backup_or_fail();
    settle();
    const Summary second = site.backup_or_fail();
    CHECK(second.read == 8);
    CHECK_MESSAGE(second.unchanged == 1, "it was read, and found to be the same");
    CHECK(site.backup_or_fail().read == 0);
}

TEST_CASE("backup: a file that changes once while it is read is read again, and stored as it is then") {
    Site site(Site::Kind::local);
    write_random_file(site.src / "large", 160 * MiB, 1);
    site.init_or_fail();
    settle();
    Watch watch(site.src, IN_ACCESS);
    Child backup({nfreeze_binary(), "backup", site.src, site.url}, site.options);
    REQUIRE(wait_until([&] { return watch.saw("large", IN_ACCESS); }, milliseconds(20'000)));
    overwrite_at(site.src / "large", 0, "changed at the start, which has been read");
    const Result result = backup.wait();
    REQUIRE_EXIT(result, 0);
    CHECK_NOT_NAMED(result.err, "large");
    check_restores(site);
}

TEST_CASE("backup: a file that goes on changing while it is read is stored with a warning") {
    Site site(Site::Kind::local);
    write_random_file(site.src / "restless", 48 * MiB, 1);
    write_file(site.src / "still", "quiet");
    site.init_or_fail();
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        for (std::uint64_t i = 0; !stop; ++i) {
            overwrite_at(site.src / "restless", static_cast<std::streamoff>(i % 48 * MiB), std::to_string(i));
            std::this_thread::sleep_for(milliseconds(1));
        }
    });
    const Result result = site.backup();
    stop = true;
    writer.join();
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.err, "restless");
    CHECK_NOT_NAMED(result.err, "still");
    CHECK(!summary_of(result).incomplete);
    site.restore_or_fail();
    CHECK(fs::file_size(site.dest / "restless") == 48 * MiB);
    CHECK(read_file(site.dest / "still") == "quiet");
}

TEST_CASE("backup: a file that vanishes after it was listed is no error") {
    Site site(Site::Kind::local);
    write_random_file(site.src / "a-large", 160 * MiB, 1);
    write_file(site.src / "b-fleeting", "here now");
    write_file(site.src / "dir/c-stays", "still here");
    site.init_or_fail();
    Watch watch(site.src, IN_ACCESS);
    Child backup({nfreeze_binary(), "backup", site.src, site.url}, site.options);
    REQUIRE(wait_until([&] { return watch.saw("a-large", IN_ACCESS); }, milliseconds(20'000)));
    fs::remove(site.src / "b-fleeting");
    const Result result = backup.wait();
    REQUIRE_EXIT(result, 0);
    CHECK_NOT_NAMED(result.err, "b-fleeting");
    CHECK(!summary_of(result).incomplete);
    site.restore_or_fail();
    CHECK(read_file(site.dest / "dir/c-stays") == "still here");
}

TEST_CASE("backup: what cannot be read is named, the rest goes on, the snapshot is marked "
          "incomplete, exit code 3") {
    Site site(Site::Kind::local);
    write_file(site.src / "a-readable", "a");
    write_file(site.src / "closed-file", "secret");
    write_file(site.src / "closed-dir/inside", "secret");
    write_file(site.src / "z-readable", "z");
    if (is_root()) hand_over(site); // root reads everything
    site.init_or_fail();
    chmod((site.src / "closed-file").c_str(), 0);
    chmod((site.src / "closed-dir").c_str(), 0);
    const Result result = site.backup();
    CHECK_EXIT(result, 3);
    CHECK_NAMES(result.err, "closed-file");
    CHECK_NAMES(result.err, "closed-dir");
    CHECK_NOT_NAMED(result.err, "readable");
    CHECK(summary_of(result).incomplete);
    site.restore_or_fail();
    CHECK(read_file(site.dest / "a-readable") == "a");
    CHECK(read_file(site.dest / "z-readable") == "z");
    CHECK(!fs::exists(site.dest / "closed-file"));

    chmod((site.src / "closed-file").c_str(), 0600);
    chmod((site.src / "closed-dir").c_str(), 0700);
    CHECK(!site.backup_or_fail().incomplete);
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("backup: the summary counts files and bytes as they are, and -v names them") {
    Site site(Site::Kind::local);
    for (const std::string name : {"keep-1", "keep-2", "sub/keep-3", "sub/change", "gone-1", "gone-2"})
        write_file(site.src / name, "content of " + name);
    site.init_or_fail();
    settle();
    const Result first = site.backup({"-v"});
    REQUIRE_EXIT(first, 0);
    CHECK(summary_of(first).fresh == 6);
    CHECK(summary_of(first).read == bytes_below(site.src));
    CHECK(about(summary_of(first).fresh_bytes, bytes_below(site.src)));
    CHECK(summary_of(first).uploaded >= site.repository_bytes() / 2);
    CHECK_NAMES(first.out, "+ sub/keep-3\n");

    write_file(site.src / "sub/change", "something else");
    write_file(site.src / "sub/fresh", "fresh");
    fs::remove(site.src / "gone-1");
    fs::remove(site.src / "gone-2");
    const Result second = site.backup({"-v"});
    REQUIRE_EXIT(second, 0);
    const Summary summary = summary_of(second);
    CHECK(summary.fresh == 1);
    CHECK(summary.changed == 1);
    CHECK(summary.unchanged == 3);
    CHECK(summary.gone == 2);
    CHECK(summary.read == 14 + 5);
    CHECK_NAMES(second.out, "M sub/change\n");
    CHECK_NAMES(second.out, "+ sub/fresh\n");
    CHECK_NAMES(second.out, "- gone-1\n");
    CHECK_NAMES(second.out, "- gone-2\n");
    CHECK_NOT_NAMED(second.out, "keep");

    const Result quiet = site.backup({"-q"});
    REQUIRE_EXIT(quiet, 0);
    CHECK(quiet.out == "");
    CHECK(quiet.err == "");
}

TEST_CASE("backup: SRC that is a file is backed up as that one file") {
    Site site;
    write_file(site.src / "letter", "dear all");
    write_file(site.src / "neighbour", "not asked for");
    site.init_or_fail();
    const Result result = site.nfreeze({"backup", site.src / "letter", site.url});
    REQUIRE_EXIT(result, 0);
    CHECK(summary_of(result).fresh == 1);
    site.restore_or_fail();
    // Where a file goes when DEST is not there yet is DEST itself or a name in it; its content is
    // what counts.
    const std::vector<fs::path> restored =
        fs::is_directory(site.dest) ? files_below(site.dest) : std::vector<fs::path>{site.dest};
    REQUIRE(restored.size() == 1);
    CHECK(read_file(restored[0]) == "dear all");
}

TEST_CASE("backup: a repository inside SRC is passed over") {
    Site site(Site::Kind::local);
    site.repo = site.src / "below/repository";
    site.url = site.repo;
    write_file(site.src / "below/file", "beside the repository");
    site.init_or_fail();
    site.backup_or_fail();
    write_file(site.src / "below/second", "2");
    const Result second = site.backup({"-v"});
    REQUIRE_EXIT(second, 0);
    CHECK(summary_of(second).fresh == 1);
    CHECK_NOT_NAMED(second.out, "packs");
    site.restore_or_fail();
    CHECK(read_file(site.dest / "below/file") == "beside the repository");
    CHECK(files_below(site.dest).size() == 2);
}

TEST_CASE("backup: SRC may be relative, end in a slash, or be empty") {
    Site site(Site::Kind::local);
    write_file(site.src / "sub/file", "x");
    site.init_or_fail();
    RunOptions inside = site.options;
    inside.cwd = site.dir.path();
    const Result relative = site.nfreeze({"backup", "src/", site.url}, inside);
    REQUIRE_EXIT(relative, 0);
    CHECK(summary_of(relative).fresh == 1);
    const Result absolute = site.nfreeze({"backup", site.src, site.url});
    REQUIRE_EXIT(absolute, 0);
    CHECK_MESSAGE(summary_of(absolute).fresh == 0, "the same directory by another name is the same source");
    inside.cwd = site.src;
    const Result dot = site.nfreeze({"backup", ".", site.url}, inside);
    REQUIRE_EXIT(dot, 0);
    CHECK(summary_of(dot).fresh == 0);
    check_restores(site);
    fs::create_directory(site.dir / "empty");
    const Result empty = site.nfreeze({"backup", "--allow-shrink", site.dir / "empty", site.url});
    CHECK_EXIT(empty, 0);
}

TEST_CASE("backup: eight generations of a changing tree are all restored as they were") {
    Site site;
    make_random_tree(site.src, 100, 60, 300'000);
    site.init_or_fail();
    Strings snapshots;
    for (std::uint64_t generation = 0; generation < 8; ++generation) {
        snapshots.push_back(site.backup_or_fail().snapshot);
        copy_tree(site.src, site.dir / ("generation" + std::to_string(generation)));
        mutate_tree(site.src, 200 + generation, 25);
    }
    for (const std::size_t generation : {0u, 3u, 6u, 7u}) {
        remove_tree(site.dest);
        site.restore_or_fail({"--snapshot", snapshots[generation]});
        CHECK_MESSAGE(compare(site.dir / ("generation" + std::to_string(generation)), site.dest) == "",
                      "generation " << generation);
    }
}

TEST_CASE("backup: the server sees objects named by their SHA-256, read-only, and none of the content") {
    Site site;
    const std::string secret = "a sentence that must not reach the server in clear";
    write_file(site.src / "telling name.txt", secret);
    write_file(site.src / "zeros", std::string(MiB, '\0'));
    site.init_or_fail();
    site.backup_or_fail();
    const std::vector<fs::path> objects = files_below(site.repo);
    CHECK(objects.size() >= 4); // a key, a segment, a pack of data, one of the tree
    for (const fs::path& object : objects) {
        const std::string name = object.filename();
        const std::string kind = object.parent_path().filename();
        CAPTURE(object.string());
        CHECK((kind == "keys" || kind == "index" || kind == "packs"));
        const std::string wanted = kind == "index" ? name.substr(9) : name;
        CHECK(must_run({"sha256sum", object}).substr(0, 64) == wanted);
        CHECK((fs::status(object).permissions() & fs::perms::all) == fs::perms::owner_read);
        const std::string bytes = read_file(object);
        for (const std::string& word :
             {secret, std::string("telling name"), std::string(passphrase), site.src.string()})
            CHECK(!contains(bytes, word));
        CHECK(!contains(bytes, std::string(64, '\0')));
    }
}

TEST_CASE("backup: after many backups the index is still a few segments") {
    Site site(Site::Kind::local);
    site.init_or_fail();
    for (int i = 0; i < 16; ++i) {
        write_file(site.src / "file", std::to_string(i));
        site.backup_or_fail();
        const fs::path newest = files_below(site.repo / "index").back();
        fs::last_write_time(newest,
                            fs::last_write_time(newest) + std::chrono::hours(i)); // there is one every hour
    }
    CHECK(files_below(site.repo / "index").size() <= 9);
    const Result table = site.nfreeze({"snapshots", site.url});
    CHECK(lines_of(table.out).size() == 17);
    check_restores(site);
}

TEST_CASE("backup: one connection or eight, the result is the same") {
    Site site;
    make_random_tree(site.src, 9, 40, 2 << 20);
    site.init_or_fail();
    site.backup_or_fail({"--connections", "1"});
    mutate_tree(site.src, 10, 20);
    write_random_file(site.src / "large", 40 * MiB, 11);
    site.backup_or_fail({"--connections", "8"});
    site.restore_or_fail({"--connections", "8"});
    CHECK(compare(site.src, site.dest) == "");
    remove_tree(site.dest);
    site.restore_or_fail({"--connections", "1"});
    CHECK(compare(site.src, site.dest) == "");
}

TEST_SUITE_END();
