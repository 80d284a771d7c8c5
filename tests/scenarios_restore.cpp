// Getting things back, and looking at what is there.
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "support.hpp"
#include "trees.hpp"
#include "watch.hpp"

using namespace support;

namespace {

ino_t inode_of(const fs::path& path) {
    struct stat st {};
    REQUIRE_MESSAGE(lstat(path.c_str(), &st) == 0, path.string());
    return st.st_ino;
}

// A site whose source has a few files and directories, backed up once.
struct Filled : Site {
    explicit Filled(Kind kind = Kind::local) : Site(kind) {
        write_file(src / "readme", "top level");
        write_file(src / "docs/letter", "dear all");
        write_file(src / "docs/old/notes", "notes");
        write_file(src / "music/song", random_bytes(300'000, 1));
        write_file(src / "tool", "#!/bin/sh\n");
        chmod((src / "tool").c_str(), 0751);
        fs::create_symlink("docs/letter", src / "link");
        init_or_fail();
        first = backup_or_fail().snapshot;
    }
    std::string first;
};

std::string stripped(const std::string& line) {
    const std::size_t end = line.find_last_not_of(" \n");
    return end == std::string::npos ? "" : line.substr(0, end + 1);
}

} // namespace

TEST_SUITE_BEGIN("restore");

TEST_CASE("restore: DEST becomes SRC, its own mode, owner and time as well") {
    Filled site(Site::Kind::ssh);
    chmod(site.src.c_str(), 0750);
    set_mtime(site.src, 1'600'000'000, 123);
    site.backup_or_fail();
    SUBCASE("where DEST does not exist") {}
    SUBCASE("where DEST is empty") { fs::create_directory(site.dest); }
    SUBCASE("where its parents do not exist either") { site.dest = site.dir / "not/there/yet"; }
    const Result result = site.restore();
    REQUIRE_EXIT(result, 0);
    CHECK_NAMES(result.out, "restored: ");
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("restore: only the PATHs asked for, as ls prints them") {
    Filled site;
    const Result one = site.restore({}, {"docs/letter"});
    REQUIRE_EXIT(one, 0);
    CHECK(read_file(site.dest / "docs/letter") == "dear all");
    CHECK(files_below(site.dest).size() == 1);

    const Result two = site.restore({}, {"docs/old", "link"});
    REQUIRE_EXIT(two, 0);
    CHECK(read_file(site.dest / "docs/old/notes") == "notes");
    CHECK(fs::read_symlink(site.dest / "link") == "docs/letter");
    CHECK(files_below(site.dest).size() == 2);

    // Everything that ls lists can be asked for by that name.
    const Result listed = site.nfreeze({"ls", "-R", site.url});
    REQUIRE_EXIT(listed, 0);
    remove_tree(site.dest);
    Strings paths;
    for (const std::string& line : lines_of(listed.out)) paths.push_back(line);
    CHECK(paths.size() >= 8);
    const Result all = site.restore({}, paths);
    REQUIRE_EXIT(all, 0);
    CHECK(files_below(site.dest).size() == files_below(site.src).size());

    remove_tree(site.dest);
    const Result none = site.restore({}, {"docs/no such thing"});
    CHECK(none.code != 0);
    CHECK_NAMES(none.err, "docs/no such thing");
    CHECK(files_below(site.dest).empty());
}

TEST_CASE("restore: a PATH with parents outside the snapshot, or a name that begins like another, "
          "takes nothing else along") {
    Filled site;
    write_file(site.src / "docs2/other", "begins like docs");
    write_file(site.src / "docs.txt", "sorts between");
    site.backup_or_fail();
    const Result result = site.restore({}, {"docs"});
    REQUIRE_EXIT(result, 0);
    CHECK(files_below(site.dest).size() == 2);
    const Result outside = site.restore({}, {"../src/readme"});
    CHECK(outside.code != 0);
    CHECK(files_below(site.dest).size() == 2);
}

TEST_CASE("restore: the newest snapshot, or the one that --snapshot names") {
    Filled site;
    write_file(site.src / "readme", "second version");
    const std::string second = site.backup_or_fail().snapshot;
    site.restore_or_fail();
    CHECK(read_file(site.dest / "readme") == "second version");
    remove_tree(site.dest);
    site.restore_or_fail({"--snapshot", site.first});
    CHECK(read_file(site.dest / "readme") == "top level");
    remove_tree(site.dest);
    site.restore_or_fail({"--snapshot", site.first.substr(0, 8)});
    CHECK(read_file(site.dest / "readme") == "top level");
    remove_tree(site.dest);
    const Result unknown = site.restore({"--snapshot", "0123456789abcdef0123456789abcdef"});
    CHECK((unknown.code == 1 || unknown.code == 2));
    CHECK_NAMES(unknown.err, "01234567");
    CHECK(!fs::exists(site.dest / "readme"));
    const Result listed = site.nfreeze({"ls", "--snapshot", site.first.substr(0, 8), site.url});
    CHECK_EXIT(listed, 0);
}

TEST_CASE("restore: where there are several sources one is named with --source, or the choice is "
          "listed, exit code 2") {
    Filled site;
    write_file(site.dir / "other source/file", "from elsewhere");
    const Result backup = site.nfreeze({"backup", site.dir / "other source", site.url});
    REQUIRE_EXIT(backup, 0);
    const Result unclear = site.restore();
    CHECK_EXIT(unclear, 2);
    CHECK_NAMES(unclear.err, site.src.string());
    CHECK_NAMES(unclear.err, (site.dir / "other source").string());
    CHECK_NAMES(unclear.err, "--source");
    CHECK(!fs::exists(site.dest));
    site.restore_or_fail({"--source", site.src});
    CHECK(compare(site.src, site.dest) == "");
    remove_tree(site.dest);
    site.restore_or_fail({"--source", site.dir / "other source"});
    CHECK(read_file(site.dest / "file") == "from elsewhere");
}

TEST_CASE("restore: files in place with the right content are left alone, their metadata is set") {
    Filled site;
    site.restore_or_fail();
    const ino_t song = inode_of(site.dest / "music/song"), tool = inode_of(site.dest / "tool");
    chmod((site.dest / "tool").c_str(), 0600);
    set_mtime(site.dest / "music/song", 1, 1);
    fs::remove(site.dest / "docs/letter");
    // Not IN_MODIFY, which setting a time alone makes.
    Watch watch(site.dest, IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    CHECK(inode_of(site.dest / "music/song") == song);
    CHECK(inode_of(site.dest / "tool") == tool);
    CHECK(watch.saw("docs/letter", IN_MOVED_TO));
    CHECK(!watch.saw("music/song", IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE));
    CHECK(!watch.saw("tool", IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE));
}

TEST_CASE("restore: a file with holes that is in place is left alone, with holes or with the zeros they "
          "stand for, and nothing else is taken for it") {
    Site site(Site::Kind::local);
    fs::create_directories(site.src);
    make_sparse_file(site.src / "holes");
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    const fs::path file = site.dest / "holes";
    const std::string right = read_file(file);
    const auto check = [&](bool in_place) {
        const ino_t before = inode_of(file);
        const Result result = site.restore();
        CHECK_EXIT(result, in_place ? 0 : 3);
        CHECK(inode_of(file) == before);
        CHECK_NAMES(result.out, in_place ? "in place: 1;" : "kept: 1;");
        fs::remove(file);
        site.restore_or_fail();
        CHECK((read_file(file) == right)); // not shown
    };
    check(true);
    write_file(file, right); // no hole any more
    check(true);
    for (const std::size_t at : {std::size_t(0), (std::size_t(3) << 20) - 1, (std::size_t(3) << 20) + 5,
                                 std::size_t(5) << 20, right.size() - 1}) {
        CAPTURE(at);
        std::string other = right;
        other[at] = static_cast<char>(other[at] ^ 1);
        write_file(file, other);
        check(false);
    }
}

TEST_CASE("restore: pipes and devices that are in place are left alone, others of their name are kept") {
    Site site(Site::Kind::local);
    fs::create_directories(site.src);
    REQUIRE(mkfifo((site.src / "pipe").c_str(), 0600) == 0);
    const bool devices = is_root() &&
                         mknod((site.src / "character").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0 &&
                         mknod((site.src / "block").c_str(), S_IFBLK | 0600, makedev(250, 7)) == 0;
    if (!devices) skipped("devices: needs root");
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    const Result again = site.restore();
    CHECK_EXIT(again, 0);
    CHECK_NAMES(again.out, devices ? "in place: 3;" : "in place: 1;");
    const auto kept = [&](const std::string& name) {
        const Result result = site.restore();
        CHECK_EXIT(result, 3);
        CHECK_NAMES(result.err, name);
        CHECK_NAMES(result.out, "kept: 1;");
        CHECK_EXIT(site.restore({"--overwrite"}), 0);
        CHECK(compare(site.src, site.dest) == "");
    };
    fs::remove(site.dest / "pipe");
    write_file(site.dest / "pipe", "a file");
    kept("pipe");
    if (!devices) return;
    for (const char* name :
         {"character", "block"}) { // the same numbers as the other kind, or the same kind with another number
        fs::remove(site.dest / name);
        const bool block = std::string(name) == "block";
        REQUIRE(mknod((site.dest / name).c_str(), S_IFCHR | 0600, block ? makedev(250, 7) : makedev(1, 5)) ==
                0);
        kept(name);
    }
}

TEST_CASE("restore: a file that differs is kept and named, exit code 3, unless --overwrite") {
    Filled site;
    write_file(site.dest / "readme", "my own");
    write_file(site.dest / "music/song", random_bytes(300'000, 2)); // of the same size
    write_file(site.dest / "extra", "not in the snapshot");
    const Result kept = site.restore();
    CHECK_EXIT(kept, 3);
    CHECK_NAMES(kept.err, "readme");
    CHECK_NAMES(kept.err, "music/song");
    CHECK_NOT_NAMED(kept.err, "extra");
    CHECK(read_file(site.dest / "readme") == "my own");
    CHECK(read_file(site.dest / "docs/letter") == "dear all");
    const Result overwritten = site.restore({"--overwrite"});
    CHECK_EXIT(overwritten, 0);
    CHECK(read_file(site.dest / "extra") == "not in the snapshot");
    fs::remove(site.dest / "extra");
    set_mtime(site.dest, mtime_of(site.src).tv_sec, mtime_of(site.src).tv_nsec);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("restore: something of another type in the way is kept and named") {
    Filled site;
    write_file(site.dest / "readme/a file inside", "a directory where the file belongs");
    write_file(site.dest / "docs", "a file where the directory belongs");
    fs::create_symlink("/nowhere", site.dest / "tool");
    const Result kept = site.restore();
    CHECK_EXIT(kept, 3);
    for (const std::string name : {"readme", "docs", "tool"}) CHECK_NAMES(kept.err, name);
    CHECK(read_file(site.dest / "readme/a file inside") == "a directory where the file belongs");
    CHECK(read_file(site.dest / "docs") == "a file where the directory belongs");
    CHECK(fs::read_symlink(site.dest / "tool") == "/nowhere");
    CHECK(read_file(site.dest / "music/song") == read_file(site.src / "music/song"));
}

TEST_CASE("restore: --delete removes what the snapshot does not have") {
    Filled site;
    site.restore_or_fail();
    write_file(site.dest / "docs/extra", "x");
    write_file(site.dest / "extra dir/deep/down", "x");
    fs::create_symlink(site.src, site.dest / "extra link"); // the link goes, not what it points to
    site.restore_or_fail();
    CHECK(fs::exists(site.dest / "extra dir/deep/down"));
    site.restore_or_fail({"--delete"});
    CHECK(compare(site.src, site.dest) == "");
    CHECK(files_below(site.src).size() == 5);
}

TEST_CASE("restore: --delete from a snapshot that is incomplete deletes nothing: it may lack what could not "
          "be read") {
    Filled site;
    site.restore_or_fail();
    write_file(site.dest / "extra", "x");
    chmod((site.src / "readme").c_str(), 0);
    RunOptions other = site.options;
    if (is_root()) { // who reads everything
        give_to(site.dir.path(), account_uid);
        other.uid = account_uid;
    }
    const Result backup = site.nfreeze({"backup", site.src, site.url}, other);
    CHECK_EXIT(backup, 3);
    const Result restore = site.restore({"--delete"});
    CHECK_EXIT(restore, 0);
    CHECK_NAMES(restore.err, "the snapshot is incomplete");
    CHECK(read_file(site.dest / "extra") == "x");
    CHECK(read_file(site.dest / "readme") == "top level");
    chmod((site.src / "readme").c_str(), 0644);
    CHECK_EXIT(site.nfreeze({"backup", site.src, site.url}, other), 0);
    CHECK_EXIT(site.restore({"--delete"}), 0);
    CHECK(!fs::exists(site.dest / "extra"));
}

TEST_CASE("restore: that a snapshot is incomplete is said, on stderr and in --json") {
    Filled site;
    const Result whole = site.restore({"--json"});
    CHECK_NAMES(whole.out, "\"incomplete\":false");
    CHECK(whole.err == "");
    chmod((site.src / "readme").c_str(), 0);
    RunOptions other = site.options;
    if (is_root()) { // who reads everything
        give_to(site.dir.path(), account_uid);
        other.uid = account_uid;
    }
    CHECK_EXIT(site.nfreeze({"backup", site.src, site.url}, other), 3);
    for (const Strings& flags : {Strings{}, Strings{"-n"}, Strings{"--json"}}) {
        const Result restore = site.restore(flags);
        CHECK_EXIT(restore, 0);
        CHECK_NAMES(restore.err, "incomplete");
        if (!flags.empty() && flags[0] == "--json") CHECK_NAMES(restore.out, "\"incomplete\":true");
    }
    const Result before = site.restore({"--snapshot", site.first});
    CHECK_NOT_NAMED(before.err, "incomplete");
}

TEST_CASE("restore: patterns, as ls takes them") {
    Site site(Site::Kind::local);
    for (const char* name : {"one.jpg", "photos/two.jpg", "photos/2025/three.jpg", "photos/2025/notes",
                             "letters/a[1].txt", "letters/a1.txt", "letters/b.txt", "*.jpg"})
        write_file(site.src / name, name);
    site.init_or_fail();
    site.backup_or_fail();
    const auto restored = [&](const Strings& names, int code = 0) {
        remove_tree(site.dest);
        const Result result = site.restore({}, names);
        CHECK_EXIT(result, code);
        Strings found;
        for (const fs::path& file : files_below(site.dest)) found.push_back(fs::relative(file, site.dest));
        return found;
    };
    const auto listed = [&](const std::string& name) {
        return lines_of(must_run({nfreeze_binary(), "ls", site.url, name}, site.options));
    };
    CHECK(restored({"*.jpg"}) == Strings{"*.jpg", "one.jpg", "photos/2025/three.jpg", "photos/two.jpg"});
    CHECK(restored({"*.jpg"}) == listed("*.jpg"));
    CHECK(restored({"/*.jpg"}) == Strings{"*.jpg", "one.jpg"});
    for (const std::string all :
         {"photos/*", "photo?", "photos/2*"}) { // a directory comes with what is in it
        CAPTURE(all);
        Strings wanted{"photos/2025/notes", "photos/2025/three.jpg"};
        if (all != "photos/2*") wanted.emplace_back("photos/two.jpg");
        CHECK(restored({all}) == wanted);
    }
    CHECK(restored({"photos/**/notes", "letters/b.txt"}) == Strings{"letters/b.txt", "photos/2025/notes"});
    CHECK(restored({"letters/a[1].txt"}) == Strings{"letters/a1.txt", "letters/a[1].txt"});
    CHECK(restored({"two*", "*.png"}, 3) == Strings{"photos/two.jpg"});
    remove_tree(site.dest);
    const Result none = site.restore({}, {"*.png"});
    CHECK_EXIT(none, 1);
    CHECK_NAMES(none.err, "*.png");
    CHECK(files_below(site.dest).empty());
    site.restore_or_fail();
    write_file(site.dest / "photos/extra", "x");
    CHECK_EXIT(site.restore({"--delete"}, {"*.jpg"}), 0); // no directory was asked for
    CHECK(fs::exists(site.dest / "photos/extra"));
    const Result look = site.restore({"-n"}, {"photos/*.jpg"});
    CHECK_EXIT(look, 0);
}

TEST_CASE("restore: --delete with PATHs leaves alone what was not asked for") {
    Filled site;
    site.restore_or_fail();
    write_file(site.dest / "docs/extra", "x");
    write_file(site.dest / "music/extra", "x");
    const Result result = site.restore({"--delete"}, {"docs"});
    REQUIRE_EXIT(result, 0);
    CHECK(!fs::exists(site.dest / "docs/extra"));
    CHECK(fs::exists(site.dest / "music/extra"));
    CHECK(fs::exists(site.dest / "readme"));
}

TEST_CASE("restore: -n says what would happen and touches nothing") {
    Filled site;
    const Result empty = site.restore({"-n"});
    REQUIRE_EXIT(empty, 0);
    CHECK_NAMES(empty.out, "would restore docs/letter\n");
    CHECK(!fs::exists(site.dest));

    site.restore_or_fail();
    fs::remove(site.dest / "docs/letter");
    write_file(site.dest / "readme", "my own");
    write_file(site.dest / "extra", "x");
    chmod((site.dest / "tool").c_str(), 0600);
    const std::string before = fingerprint(site.dest);
    const Result changes = site.restore({"--dry-run", "--delete", "--overwrite"});
    CHECK(changes.code == 0);
    CHECK_NAMES(changes.out, "would restore docs/letter\n");
    CHECK_NAMES(changes.out, "readme");
    CHECK_NAMES(changes.out, "would delete extra\n");
    CHECK_NOT_NAMED(changes.out, "song");
    CHECK(fingerprint(site.dest) == before);
}

TEST_CASE("restore: a file appears under its name only when it is complete") {
    Filled site;
    fs::create_directories(site.dest / "music");
    Watch watch(site.dest, IN_CREATE | IN_MOVED_TO);
    site.restore_or_fail();
    CHECK(watch.saw("music/song", IN_MOVED_TO));
    CHECK(watch.saw("readme", IN_MOVED_TO));
    for (const std::string name : {"music/song", "readme", "tool"})
        CHECK_MESSAGE(!watch.saw(name, IN_CREATE), name << " was created under its own name");
    CHECK_MESSAGE(compare(site.src, site.dest) == "", "and no other name is left behind");
}

TEST_CASE("restore: killed in the middle it leaves no half file under a name, and the next one "
          "completes it") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 12; ++i)
        write_random_file(site.src / ("file" + std::to_string(i)), 3 << 20, i);
    site.init_or_fail();
    site.backup_or_fail();
    proxy.downstream_rate = 24 << 20;
    for (const int file : {2, 6}) {
        Child restore({nfreeze_binary(), "restore", site.url, site.dest}, site.options);
        REQUIRE(wait_until([&] { return files_below(site.dest).size() > static_cast<std::size_t>(file); },
                           milliseconds(30'000)));
        REQUIRE_MESSAGE(restore.running(), "it must be killed before it is done");
        restore.kill(SIGKILL);
        restore.wait();
        for (const fs::path& path : files_below(site.dest))
            if (fs::exists(site.src / path.filename()))
                CHECK_MESSAGE(read_file(path) == read_file(site.src / path.filename()),
                              path.string() << " is not whole");
    }
    proxy.downstream_rate = 0;
    site.restore_or_fail(); // what the killed runs had begun goes, too
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("restore: a symlink in DEST is never followed out of it") {
    Filled site;
    const fs::path outside = site.dir / "outside";
    write_file(outside / "letter", "somebody else's");
    write_file(outside / "target", "somebody else's");
    fs::create_directory(site.dest);
    fs::create_symlink(outside, site.dest / "docs");              // where the snapshot has a directory
    fs::create_symlink(outside / "target", site.dest / "readme"); // where it has a file
    const std::string before = fingerprint(outside);
    const Result plain = site.restore();
    CHECK_EXIT(plain, 3);
    CHECK(fingerprint(outside) == before);
    const Result forced = site.restore({"--overwrite", "--delete"});
    CHECK_EXIT(forced, 0);
    CHECK(fingerprint(outside) == before);
    CHECK(read_file(outside / "target") == "somebody else's");
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("restore: not being root is a line of the summary, not an error") {
    if (!is_root()) return skipped("a tree with foreign owners and devices: making one needs root");
    Site site(Site::Kind::local);
    AwkwardTree tree(site.src);
    site.init_or_fail();
    site.backup_or_fail();
    give_to(site.repo.parent_path(), account_uid);
    fs::create_directory(site.dir / "theirs");
    give_to(site.dir / "theirs", account_uid);
    site.dest = site.dir / "theirs/dest";
    RunOptions as_account = site.options;
    as_account.uid = account_uid;
    const Result result = site.nfreeze({"restore", site.url, site.dest}, as_account);
    CHECK_EXIT(result, 0);
    CHECK_MESSAGE((contains(result.out, "owner") || contains(result.err, "owner")), describe(result));
    CHECK_MESSAGE((contains(result.out, "device") || contains(result.err, "device")), describe(result));
    CHECK(read_file(site.dest / "contents/random-5M") == read_file(site.src / "contents/random-5M"));
    CHECK(!fs::exists(site.dest / "special/chardev"));
    struct stat st {};
    REQUIRE(lstat((site.dest / "special/foreign").c_str(), &st) == 0);
    CHECK(st.st_uid == account_uid);
    REQUIRE(lstat((site.dest / "modes/setuid").c_str(), &st) == 0);
    CHECK_MESSAGE((st.st_mode & S_ISUID) == 0, "a setuid file of root must not become one of somebody else");
}

TEST_CASE("restore: what cannot be written is named, the rest goes on, exit code 3") {
    Filled site;
    if (is_root()) { // who may write everywhere
        give_to(site.dir.path(), account_uid);
        site.options.uid = account_uid;
    }
    fs::create_directories(site.dest / "docs");
    if (is_root()) give_to(site.dest, account_uid);
    if (is_root()) give_to(site.dest / "docs", 0); // so that the account cannot open it by chmod
    chmod((site.dest / "docs").c_str(), 0555);
    const Result result = site.restore();
    if (!is_root()) return skipped("a directory that its owner may not open again: needs root to make");
    CHECK_EXIT(result, 3);
    CHECK_NAMES(result.err, "docs");
    CHECK(read_file(site.dest / "readme") == "top level");
    CHECK(read_file(site.dest / "music/song") == read_file(site.src / "music/song"));
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("looking");

TEST_CASE("looking: snapshots prints an aligned table, one line per snapshot, times local") {
    Filled site;
    write_file(site.src / "second", "2");
    const std::string second = site.backup_or_fail().snapshot;
    const auto table_in = [&](const std::string& zone) {
        RunOptions there = site.options;
        there.env["TZ"] = zone;
        const Result result = site.nfreeze({"snapshots", site.url}, there);
        REQUIRE_EXIT(result, 0);
        CHECK(result.err == "");
        return lines_of(result.out);
    };
    const Strings table = table_in("UTC0");
    REQUIRE(table.size() == 3);
    CHECK(table[1].substr(0, 8) == site.first.substr(0, 8));
    CHECK(table[2].substr(0, 8) == second.substr(0, 8));
    char host[256] = {};
    gethostname(host, sizeof host - 1);
    for (const std::size_t line : {1u, 2u}) {
        CHECK_NAMES(table[line], site.src.string());
        CHECK_NAMES(table[line], std::string(host));
        CHECK(table[line].find(host) == table[1].find(host)); // columns
        CHECK(table[line].find(site.src) == table[1].find(site.src));
    }
    // The same moments, five and a half hours later on the wall.
    const Strings elsewhere = table_in("XXX-5:30");
    REQUIRE(elsewhere.size() == 3);
    CHECK(elsewhere[1] != table[1]);
    CHECK(elsewhere[1].substr(0, 8) == table[1].substr(0, 8));
}

TEST_CASE("looking: an empty repository has no snapshots, and nothing to restore") {
    Site site(Site::Kind::local);
    site.init_or_fail();
    const Result table = site.nfreeze({"snapshots", site.url});
    CHECK_EXIT(table, 0);
    CHECK(lines_of(table.out).size() <= 1);
    const Result restore = site.restore();
    CHECK_EXIT(restore, 1);
    CHECK_NAMES(restore.err, "snapshot");
}

TEST_CASE("looking: ls lists the children of a directory, -R all below") {
    Filled site;
    const auto ls = [&](const Strings& arguments) {
        Strings all{"ls"};
        all.insert(all.end(), arguments.begin(), arguments.end());
        const Result result = site.nfreeze(all);
        REQUIRE_EXIT(result, 0);
        Strings lines;
        for (const std::string& line : lines_of(result.out))
            lines.push_back(line.ends_with("/") ? line.substr(0, line.size() - 1) : line);
        return lines;
    };
    CHECK(ls({site.url}) == Strings{"docs", "link", "music", "readme", "tool"});
    CHECK(ls({site.url, "docs"}) == Strings{"docs/letter", "docs/old"});
    CHECK(ls({site.url, "docs/letter"}) == Strings{"docs/letter"});
    const Strings all = ls({"-R", site.url});
    for (const std::string name : {"docs", "docs/letter", "docs/old", "docs/old/notes", "link", "music",
                                   "music/song", "readme", "tool"})
        CHECK_MESSAGE(std::count(all.begin(), all.end(), name) == 1, name);
    const Result none = site.nfreeze({"ls", site.url, "nowhere"});
    CHECK(none.code != 0);
    CHECK_NAMES(none.err, "nowhere");
}

TEST_CASE("looking: ls -l is like ls -l, with aligned columns and local times") {
    Filled site;
    set_mtime(site.src / "tool", 1'500'000'000, 0); // 2017-07-14 02:40:00 UTC
    site.backup_or_fail();
    const auto long_list = [&](const std::string& zone) {
        RunOptions there = site.options;
        there.env["TZ"] = zone;
        const Result result = site.nfreeze({"ls", "-l", site.url}, there);
        REQUIRE_EXIT(result, 0);
        return result.out;
    };
    const std::string list = long_list("UTC0");
    for (const std::string& part : {std::string("drwxr-xr-x"), std::string("-rwxr-x--x"),
                                    std::string("lrwxrwxrwx"), std::string("link -> docs/letter")})
        CHECK_NAMES(list, part);
    CHECK_NAMES(list, "2017-07-14");
    CHECK_NAMES(list, "02:40");
    CHECK_NAMES(long_list("XXX-5:30"), "08:10");
    std::size_t name_column = std::string::npos;
    for (const std::string& line : lines_of(list)) {
        CAPTURE(line);
        for (const std::string name : {"docs", "music", "readme", "tool"})
            if (stripped(line).ends_with(" " + name) || stripped(line).ends_with(" " + name + "/")) {
                const std::size_t at = line.rfind(name);
                if (name_column == std::string::npos) name_column = at;
                CHECK(at == name_column);
            }
        if (line.ends_with("readme")) CHECK_NAMES(line, " 9 "); // its size
    }
    CHECK(name_column != std::string::npos);
}

TEST_CASE("looking: control bytes in names are escaped, so that a name cannot write to the terminal") {
    Site site(Site::Kind::local);
    write_file(site.src / "bell\a and \x1b[31mred", "x");
    write_file(site.src / "two\nlines", "x");
    write_file(site.src / "no utf-8 \xff\xfe", "x");
    write_file(site.src / "a backslash \\x41 and \\n", "x");
    site.init_or_fail();
    const Result backup = site.backup({"-v"});
    REQUIRE_EXIT(backup, 0);
    const auto harmless = [](const std::string& text) {
        return std::all_of(text.begin(), text.end(), [](char c) {
            return c == '\n' || (static_cast<unsigned char>(c) >= 32 && c != 127);
        });
    };
    CHECK(harmless(backup.out));
    const Result list = site.nfreeze({"ls", site.url}), details = site.nfreeze({"ls", "-l", site.url});
    for (const Result* result : {&list, &details}) {
        REQUIRE_EXIT(*result, 0);
        CHECK(lines_of(result->out).size() == 4);
        CHECK(harmless(result->out));
        for (const std::string word : {"red", "lines", "no utf-8", "a backslash"})
            CHECK_NAMES(result->out, word);
    }
    // And what was printed can be asked for.
    const Result restore = site.restore({}, lines_of(list.out));
    CHECK_EXIT(restore, 0);
    CHECK(fs::exists(site.dest / "two\nlines"));
    CHECK(fs::exists(site.dest / "no utf-8 \xff\xfe"));
    CHECK(fs::exists(site.dest / "a backslash \\x41 and \\n"));
    CHECK(files_below(site.dest).size() == 4);
}

TEST_CASE("looking: restore, ls and snapshots work on a server that only lets itself be read") {
    Filled site(Site::Kind::ssh);
    Sshd::Options read_only;
    read_only.sftp_arguments = "-R";
    Sshd server(read_only);
    append_file(site.home / ".ssh/known_hosts", server.known_hosts_lines());
    site.url = site.remote(server.port());
    for (const Strings& arguments : {Strings{"snapshots", site.url}, Strings{"ls", "-R", site.url}}) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 0);
    }
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    const Result backup = site.backup();
    CHECK_EXIT(backup, 1); // the witness: this server does refuse to be written to
}

TEST_CASE("looking: restore, ls and snapshots do not write to the repository") {
    Filled site;
    // A read-only copy on disk: for root, whom modes do not stop, what was written shows
    // afterwards.
    must_run({"chmod", "-R", "a-w", site.repo});
    if (is_root()) {
        must_run({"chmod", "-R", "a+rX", site.repo});
        fs::create_directory(site.dir / "theirs");
        give_to(site.dir / "theirs", account_uid);
        site.dest = site.dir / "theirs/dest";
        site.options.uid = account_uid;
    }
    const std::string before = fingerprint(site.repo);
    for (const Strings& arguments : {Strings{"snapshots", site.url}, Strings{"ls", "-R", site.url}}) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 0);
    }
    site.restore_or_fail();
    CHECK(compare_without_owners(site.src, site.dest) == "");
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("restore: one file here that is two in the snapshot is taken apart") {
    Site site(Site::Kind::local);
    write_file(site.src / "a", "same");
    fs::create_hard_link(site.src / "a", site.src / "b");
    site.init_or_fail();
    const std::string linked = site.backup_or_fail().snapshot;
    fs::remove(site.src / "b");
    must_run({"cp", "-p", site.src / "a", site.src / "b"});
    chmod((site.src / "a").c_str(), 0600);
    site.backup_or_fail();
    site.restore_or_fail({"--snapshot", linked});
    CHECK(fs::hard_link_count(site.dest / "a") == 2);
    CHECK_EXIT(site.restore(), 3); // one of them differs, and is kept
    CHECK_EXIT(site.restore({"--overwrite"}), 0);
    CHECK(fs::hard_link_count(site.dest / "a") == 1);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE(
    "restore: two files here that are one in the snapshot are put together, but only with --overwrite") {
    Site site(Site::Kind::local);
    for (const char* name : {"a", "b", "c"}) write_file(site.src / name, "same");
    for (const char* name : {"b", "c"}) must_run({"touch", "-r", site.src / "a", site.src / name});
    site.init_or_fail();
    const std::string apart = site.backup_or_fail().snapshot;
    for (const char* name : {"b", "c"}) {
        fs::remove(site.src / name);
        fs::create_hard_link(site.src / "a", site.src / name);
    }
    site.backup_or_fail();
    site.restore_or_fail({"--snapshot", apart});
    SUBCASE("all have the right content") {}
    SUBCASE("the first must be written") { write_file(site.dest / "a", "else"); }
    SUBCASE("two of them are one already") {
        fs::remove(site.dest / "c");
        fs::create_hard_link(site.dest / "b", site.dest / "c");
    }
    if (read_file(site.dest / "a") == "same") site.restore_or_fail();
    CHECK(fs::hard_link_count(site.dest / "a") == 1);
    const Result look = site.restore({"--overwrite", "-n"});
    CHECK_EXIT(look, 0);
    CHECK_NAMES(look.out, read_file(site.dest / "a") == "same" ? "would restore b\n" : "would restore a\n");
    CHECK(fs::hard_link_count(site.dest / "a") == 1);
    CHECK_EXIT(site.restore({"--overwrite"}), 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("restore, backup: not into a local repository, nor of one to itself: it would be deleted, or grow "
          "by itself") {
    const Site site(Site::Kind::local);
    write_file(site.src / "dir/file", "x");
    site.init_or_fail();
    site.backup_or_fail();
    fs::create_symlink(site.repo, site.dir / "link");
    const std::string before = fingerprint(site.repo);
    for (const fs::path& place :
         {fs::path(), fs::path("packs"), fs::path("not/there"), fs::path("packs/not/there")})
        for (const fs::path& repo : {fs::path(site.repo), site.dir / "link"}) {
            const std::string dest = place.empty() ? repo : repo / place;
            CAPTURE(dest);
            for (const Strings& words : {Strings{"restore", site.url, dest},
                                         Strings{"restore", "--delete", "--allow-shrink", site.url, dest},
                                         Strings{"restore", "--all-versions", site.url, dest, "dir/file"},
                                         Strings{"backup", dest, site.url}}) {
                if (words[0] == "backup" && contains(dest, "not")) continue;
                const Result result = site.nfreeze(words);
                CHECK_EXIT(result, 2);
                CHECK_NAMES(result.err, "is the repository, or lies in it");
            }
        }
    CHECK(fingerprint(site.repo) == before);
    // Beside it, and above it, are other things.
    CHECK_EXIT(site.nfreeze({"restore", site.url, site.repo.string() + "-not"}), 0);
    CHECK_EXIT(site.nfreeze({"restore", "--delete", "--allow-shrink", site.url, site.repo.parent_path()}), 0);
    CHECK(fingerprint(site.repo) == before);
}

TEST_SUITE_END();
