// Disks that are full, read-only or closed, on the server's side and on ours; and servers other than
// OpenSSH's internal one.
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t KiB = 1 << 10, MiB = 1 << 20;

// A small file system of its own, which the processes of one mount namespace see: those of a server, or
// of a program that is started by run().
class SmallDisk {
  public:
    explicit SmallDisk(std::string options) : options_(std::move(options) + ",mode=0755") {}
    [[nodiscard]] Mount mount() const { return {"", place_.path(), options_}; }
    [[nodiscard]] fs::path path() const { return place_.path(); } // as its users call it
    // Nobody but the programs that run() starts sees it.
    void keep_for_ourselves() {
        RunOptions options;
        options.mounts = {mount()};
        options.timeout = std::chrono::hours(1);
        holder_ = std::make_unique<Child>(Strings{"sleep", "3600"}, options);
        see_through(holder_->pid());
    }
    void see_through(pid_t pid) {
        pid_ = pid;
        REQUIRE(wait_until(
            [&] { return fs::exists(inside()) && stat_of(inside()).f_blocks != stat_of(path()).f_blocks; },
            milliseconds(10'000)));
    }
    // The same files, as the tests see them.
    [[nodiscard]] fs::path inside(const fs::path& name = {}) const {
        return fs::path("/proc/" + std::to_string(pid_) + "/root" + path().string()) / name;
    }
    [[nodiscard]] std::uint64_t free() const {
        return stat_of(inside()).f_bavail * stat_of(inside()).f_frsize;
    }
    // Leaves only so many bytes, or fewer by less than a page.
    void leave(std::uint64_t bytes) const {
        make_room();
        const std::uint64_t have = free();
        if (have > bytes) write_file(inside("filler"), std::string(have - bytes, '\0'));
    }
    void make_room() const { fs::remove(inside("filler")); }
    // A server may end a little after its client, with files still open.
    void remount(const std::string& options) const {
        const Strings mount{"nsenter",
                            "--mount=/proc/" + std::to_string(pid_) + "/ns/mnt",
                            "mount",
                            "-o",
                            "remount," + options,
                            path()};
        REQUIRE(wait_until([&] { return support::run(mount).code == 0; }, milliseconds(10'000)));
    }
    Result run(const Strings& arguments, const RunOptions& options) const {
        Strings argv{"nsenter", "--mount=/proc/" + std::to_string(pid_) + "/ns/mnt", "--", nfreeze_binary()};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        return support::run(argv, options);
    }

  private:
    static struct statvfs stat_of(const fs::path& path) {
        struct statvfs found {};
        static_cast<void>(::statvfs(path.c_str(), &found));
        return found;
    }
    TempDir place_;
    std::string options_;
    std::unique_ptr<Child> holder_;
    pid_t pid_ = -1;
};

bool can_have_small_disks() { return can_mount() && have_program("nsenter"); }

// A repository on a small disk, behind a server or not.
struct Crowded {
    Crowded(const std::string& kind, const std::string& disk_options) : disk(disk_options) {
        if (kind == "local") {
            disk.keep_for_ourselves();
            site = std::make_unique<Site>(Site::Kind::local);
            site->url = (disk.path() / "repo").string();
        } else {
            Sshd::Options options = kind == "append-only" ? append_only() : Sshd::Options{};
            options.mounts = {disk.mount()};
            server = std::make_unique<Sshd>(options);
            disk.see_through(server->pid());
            if (kind == "append-only") give_to(disk.inside(), server->uid());
            site = std::make_unique<Site>(*server);
            site->repo = disk.path() / "repo";
            site->url = site->remote(server->port());
        }
    }
    Result nfreeze(const Strings& arguments) const {
        return server ? site->nfreeze(arguments) : disk.run(arguments, site->options);
    }
    void must(const Strings& arguments) const {
        const Result result = nfreeze(arguments);
        REQUIRE_EXIT(result, 0);
    }
    Result backup() const { return nfreeze({"backup", site->src, site->url}); }
    // `torn`: a segment may have been left cut where nothing can be removed. Until the next backup has
    // noted that, nobody knows what it held.
    void check_code(const Result& result, bool torn) const {
        if (!torn || result.code != 5)
            CHECK_EXIT(result, 0);
        else
            CHECK_NAMES(result.err, "the next backup notes it");
    }
    void check_whole() const {
        const Result check = nfreeze({"check", "--read-data", site->url});
        CHECK_EXIT(check, 0);
    }
    void check_restores(const fs::path& wanted, bool torn = false) const {
        remove_tree(site->dest);
        const Result restore = nfreeze({"restore", site->url, site->dest});
        check_code(restore, torn);
        CHECK(compare(wanted, site->dest) == "");
    }
    SmallDisk disk;
    std::unique_ptr<Sshd> server;
    std::unique_ptr<Site> site;
};

// One sentence that says what is the matter.
void check_full(const Result& result) {
    CHECK_EXIT(result, 1);
    CHECK_MESSAGE(lines_of(result.err).size() == 1, result.err);
    CHECK_MESSAGE((contains(result.err, "No space left") || contains(result.err, "full")), result.err);
}

} // namespace

TEST_SUITE_BEGIN("disks");

TEST_CASE("disks: the server's is full, whichever object is being written: what was there is whole, and with "
          "room the next run completes") {
    if (!can_have_small_disks())
        return skipped("a small disk of its own: needs root, mount namespaces and nsenter");
    for (const std::string kind : {"local", "sftp", "append-only"}) {
        CAPTURE(kind);
        const Crowded c(kind, "size=64m");
        write_file(c.site->src / "first", random_bytes(100'000, 1));
        c.must({"init", c.site->url});
        c.must({"backup", c.site->src, c.site->url});
        copy_tree(c.site->src, c.site->dir / "first");
        copy_tree(c.disk.inside("repo"), c.site->dir / "before");
        write_random_file(c.site->src / "large", 17 * MiB, 2); // two packs of data
        settle();
        const std::uint64_t before = c.disk.free();
        c.must({"backup", c.site->src, c.site->url});
        const std::uint64_t grown = before - c.disk.free();
        REQUIRE(grown > 17 * MiB);
        // The last few pages are the list of files and the segment.
        std::vector<std::uint64_t> room{10 * MiB, grown - 4 * KiB};
        if (kind == "sftp" || slow_tests()) room.insert(room.end(), {0, grown - MiB, grown - 8 * KiB});
        if (slow_tests()) room.insert(room.end(), {MiB, grown - 16 * KiB, grown - 12 * KiB});
        for (const std::uint64_t bytes : room) {
            CAPTURE(bytes);
            remove_tree(c.disk.inside("repo"));
            copy_tree(c.site->dir / "before", c.disk.inside("repo"));
            c.disk.leave(bytes);
            const Result full = c.backup();
            check_full(full);
            CHECK_NAMES(full.err, "KiB are free");
            c.check_restores(c.site->dir / "first",
                             kind == "append-only" && bytes >= grown - 16 * KiB); // on a full disk
            c.disk.make_room();
            const Result again = c.backup();
            REQUIRE_EXIT(again, 0);
            c.check_restores(c.site->src);
        }
        c.check_whole();
    }
}

TEST_CASE("disks: forget and prune on a full one say so and lose nothing, and with room they complete") {
    if (!can_have_small_disks())
        return skipped("a small disk of its own: needs root, mount namespaces and nsenter");
    for (const std::string kind : {"local", "sftp"}) {
        CAPTURE(kind);
        const Crowded c(kind, "size=32m");
        write_random_file(c.site->src / "stays", 3 * MiB, 1);
        write_random_file(c.site->src / "goes", 6 * MiB, 2);
        c.must({"init", c.site->url});
        c.must({"backup", c.site->src, c.site->url});
        fs::remove(c.site->src / "goes");
        c.must({"backup", "--allow-shrink", c.site->src, c.site->url});
        const Strings forget{"forget", "--keep-last", "1", "--yes", c.site->url};
        const Strings prune{"prune", "--now", "--max-unused", "0%", "--yes", c.site->url};
        c.disk.leave(0);
        check_full(c.nfreeze(forget));
        c.check_restores(c.site->src); // on a full disk
        c.disk.make_room();
        c.must(forget);
        copy_tree(c.disk.inside("repo"), c.site->dir / "before");
        const std::uint64_t free = c.disk.free();
        for (const std::uint64_t bytes :
             {0 * KiB, 64 * KiB,
              3 * MiB + 64 * KiB}) { // nothing, a part of what is copied, all but the segment
            CAPTURE(bytes);
            remove_tree(c.disk.inside("repo"));
            copy_tree(c.site->dir / "before", c.disk.inside("repo"));
            c.disk.leave(bytes);
            const Result full = c.nfreeze(prune);
            if (bytes < 3 * MiB) check_full(full);
            c.check_restores(c.site->src);
            c.disk.make_room();
            c.must(prune);
            c.check_whole();
            c.check_restores(c.site->src);
            CHECK(c.disk.free() > free + 5 * MiB);
        }
    }
}

TEST_CASE("disks: a quota is reached on the server, where there is room for others: what was there is whole, "
          "and with a larger one the next run completes") {
    const auto program = sftp_server();
    if (!program) return skipped("a quota: there is no sftp-server but sshd's own");
    const TempDir place;
    // The server's processes may be somebody else's.
    const auto allow = [quota = place / "quota"](std::int64_t bytes) {
        write_file(quota, std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes));
        chmod(quota.c_str(), 0666);
    };
    const auto left = [&] {
        std::int64_t bytes = 0;
        read_file(place / "quota").copy(reinterpret_cast<char*>(&bytes), sizeof bytes);
        return bytes;
    };
    bool tells = true;
    SUBCASE("and the server tells of that") {}
    SUBCASE("and the server tells nothing") { tells = false; }
    Sshd::Options options;
    options.config = {
        "Subsystem sftp env LD_PRELOAD=" NFREEZE_QUOTA " NFREEZE_TEST_QUOTA=" + (place / "quota").string() +
        " " + program->string() + (tells ? "" : " -P statvfs,fstatvfs")};
    Sshd server(options);
    const Site site(server);
    constexpr std::int64_t plenty = 1 << 30;
    allow(plenty);
    write_file(site.src / "first", random_bytes(100'000, 1));
    site.init_or_fail();
    site.backup_or_fail();
    copy_tree(site.src, site.dir / "first");
    copy_tree(site.repo, site.dir / "before");
    write_random_file(site.src / "large", 17 * MiB, 2); // two packs of data
    allow(plenty);
    site.backup_or_fail();
    const std::int64_t grown = plenty - left();
    REQUIRE(grown > std::int64_t(17 * MiB));
    // Each of the packs and, in the last KiB, the segment is what finds no room.
    std::vector<std::int64_t> room{10 * MiB};
    if (tells) room.insert(room.end(), {0, grown - std::int64_t(MiB), grown - 8 * 1024, grown - 1});
    for (const std::int64_t bytes : room) {
        CAPTURE(bytes);
        remove_tree(site.repo);
        copy_tree(site.dir / "before", site.repo);
        allow(bytes);
        const Result full = site.backup();
        CHECK_EXIT(full, 1);
        CHECK_MESSAGE(lines_of(full.err).size() == 1, full.err);
        CHECK_NAMES(full.err, "over quota");
        CHECK_NOT_NAMED(full.err, "are free"); // which is no help
        remove_tree(site.dest);
        site.restore_or_fail();
        CHECK(compare(site.dir / "first", site.dest) == "");
        const std::uint64_t kept = bytes_below(site.repo / "packs") - bytes_below(site.dir / "before/packs");
        if (bytes == 10 * MiB) CHECK(kept < 5 * MiB); // the small pack at most, and no half of the large one
        // Where there was room for a segment, which a quota that gives nothing back does not promise.
        const bool listed = bytes < grown - 1 && files_below(site.repo / "index").size() >
                                                     files_below(site.dir / "before/index").size();
        allow(plenty);
        const std::uint64_t sent = site.backup_or_fail().uploaded;
        if (listed) CHECK(sent < std::uint64_t(grown) - kept + 16 * KiB); // it goes on from there
        remove_tree(site.dest);
        site.restore_or_fail();
        CHECK(compare(site.src, site.dest) == "");
        const Result check = site.nfreeze({"check", "--read-data", site.url});
        CHECK_EXIT(check, 0);
    }
}

TEST_CASE("disks: init on a full one says so, and works when there is room") {
    if (!can_have_small_disks())
        return skipped("a small disk of its own: needs root, mount namespaces and nsenter");
    for (const std::string kind : {"local", "sftp"})
        for (const std::uint64_t bytes : {0 * KiB, 4 * KiB, 8 * KiB}) {
            CAPTURE(kind);
            CAPTURE(bytes);
            const Crowded c(kind, "size=2m");
            write_file(c.site->src / "file", "content");
            c.disk.leave(bytes);
            const Result full = c.nfreeze({"init", c.site->url});
            if (full.code == 0) continue; // directories of a tmpfs take no room
            check_full(full);
            const Result early = c.backup();
            CHECK_MESSAGE(early.code == 1, "what is half there is no repository: " << describe(early));
            c.disk.make_room();
            c.must({"init", c.site->url}); // nor is it in the way
            c.must({"backup", c.site->src, c.site->url});
            c.check_whole();
        }
}

TEST_CASE("disks: no inodes are left on the server, which is no lack of space") {
    if (!can_have_small_disks())
        return skipped("a small disk of its own: needs root, mount namespaces and nsenter");
    for (const std::string kind : {"local", "sftp"}) {
        CAPTURE(kind);
        const Crowded c(kind, "size=32m,nr_inodes=100");
        write_file(c.site->src / "first", "content");
        c.must({"init", c.site->url});
        c.must({"backup", c.site->src, c.site->url});
        for (int i = 0; i < 90; ++i) {
            struct statvfs now {};
            REQUIRE(::statvfs(c.disk.inside().c_str(), &now) == 0);
            if (now.f_ffree <= 1) break; // room for the pack of data, none for that of the tree
            write_file(c.disk.inside("filler" + std::to_string(i)), "");
        }
        write_random_file(c.site->src / "more", MiB, 1);
        const Result full = c.backup();
        check_full(full);
        CHECK_NOT_NAMED(full.err, "KiB are free");
        c.check_whole();
        fs::remove(c.disk.inside("filler1"));
        fs::remove(c.disk.inside("filler2"));
        fs::remove(c.disk.inside("filler3"));
        fs::remove(c.disk.inside("filler4"));
        REQUIRE_EXIT(c.backup(), 0);
        c.check_whole();
        c.check_restores(c.site->src);
    }
}

TEST_CASE("disks: a read-only one can be read, and a backup to it says why it cannot") {
    if (!can_have_small_disks())
        return skipped("a small disk of its own: needs root, mount namespaces and nsenter");
    for (const std::string kind : {"local", "sftp"}) {
        CAPTURE(kind);
        const Crowded c(kind, "size=32m");
        write_random_file(c.site->src / "first", MiB, 1);
        c.must({"init", c.site->url});
        c.must({"backup", c.site->src, c.site->url});
        copy_tree(c.site->src, c.site->dir / "first");
        write_random_file(c.site->src / "more", MiB, 2);
        c.disk.remount("ro");
        const Result refused = c.backup();
        CHECK_EXIT(refused, 1);
        CHECK_MESSAGE(lines_of(refused.err).size() == 1, refused.err);
        CHECK_NOT_NAMED(refused.err, "are free");
        if (kind == "local") CHECK_NAMES(refused.err, "Read-only file system");
        c.check_whole();
        c.check_restores(c.site->dir / "first");
        c.disk.remount("rw");
        REQUIRE_EXIT(c.backup(), 0);
        c.check_restores(c.site->src);
    }
}

TEST_CASE("disks: a server that offers reading only can be read") {
    Site site;
    write_random_file(site.src / "file", MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    Sshd::Options options;
    options.sftp_arguments = "-R";
    Sshd server(options);
    append_file(site.home / ".ssh/known_hosts", server.known_hosts_lines());
    const std::string url = site.remote(server.port());
    const std::string before = fingerprint(site.repo);
    const Result restore = site.nfreeze({"restore", url, site.dest});
    CHECK_EXIT(restore, 0);
    CHECK(compare(site.src, site.dest) == "");
    const Result check = site.nfreeze({"check", "--read-data", url});
    CHECK_EXIT(check, 0);
    append_file(site.src / "file", "more");
    const Result backup = site.nfreeze({"backup", site.src, url});
    CHECK_EXIT(backup, 1);
    CHECK_NAMES(backup.err, "permission");
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("disks: a restore to a full or read-only one keeps what is complete, leaves nothing half, and goes "
          "on when there is room") {
    if (!can_have_small_disks())
        return skipped("a small disk of its own: needs root, mount namespaces and nsenter");
    Site site(Site::Kind::local);
    for (std::uint64_t i = 0; i < 6; ++i) write_random_file(site.src / ("large" + std::to_string(i)), MiB, i);
    for (int i = 0; i < 50; ++i)
        write_file(site.src / "small" / std::to_string(i), "content " + std::to_string(i));
    site.init_or_fail();
    site.backup_or_fail();
    SmallDisk disk("size=4m");
    disk.keep_for_ourselves();
    const fs::path dest = disk.path() / "dest";
    // rsync does not follow the way by which the tests see the disk.
    const auto copied = [&] {
        remove_tree(site.dest);
        copy_tree(disk.inside("dest"), site.dest);
        return site.dest;
    };
    const Result full = disk.run({"restore", site.url, dest}, site.options);
    CHECK_EXIT(full, 1);
    CHECK_NAMES(full.err, "No space left on device; make room, and run it again\n");
    CHECK(std::ranges::count(full.err, '\n') ==
          1); // not one for each file that finds no room, nor were they fetched
    std::size_t large = 0;
    for (const fs::path& file : files_below(copied())) {
        CHECK_MESSAGE(read_file(file) == read_file(site.src / fs::relative(file, site.dest)), file.string());
        large += file.parent_path() == site.dest;
    }
    CHECK(large >= 2);
    CHECK(large < 6);
    disk.remount("size=16m");
    const Result rest = disk.run({"restore", site.url, dest}, site.options);
    CHECK_EXIT(rest, 0);
    CHECK(compare(site.src, copied()) == "");

    fs::remove(disk.inside("dest/large0"));
    write_file(disk.inside("dest/large1"), "mine");
    disk.remount("ro");
    const Result closed = disk.run({"restore", "--overwrite", site.url, dest}, site.options);
    CHECK_EXIT(closed, 3);
    CHECK_NAMES(closed.err, "Read-only file system");
    CHECK(read_file(disk.inside("dest/large1")) == "mine");
    const Result nowhere = disk.run({"restore", site.url, disk.path() / "other"}, site.options);
    CHECK_EXIT(nowhere, 1);
    CHECK_NAMES(nowhere.err, "other");
    CHECK_NAMES(nowhere.err, "Read-only file system");
    disk.remount("rw");
    const Result again = disk.run({"restore", "--overwrite", site.url, dest}, site.options);
    CHECK_EXIT(again, 0);
    CHECK(compare(site.src, copied()) == "");
}

TEST_CASE("disks: a restore where some directories may not be written names them and restores the rest") {
    if (!is_root()) return skipped("an account that may not write everywhere: needs root");
    Site site(Site::Kind::local);
    write_file(site.src / "a/one", "1");
    write_file(site.src / "b/two", "2");
    write_file(site.src / "c/three", "3");
    give_to(site.src, account_uid);
    site.init_or_fail();
    site.backup_or_fail();
    give_to(site.dir.path(), account_uid);
    RunOptions as_account = site.options;
    as_account.uid = account_uid;
    fs::create_directories(site.dest / "b");
    CHECK(chown(site.dest.c_str(), account_uid, account_uid) == 0);
    const Result some = site.nfreeze({"restore", site.url, site.dest}, as_account);
    CHECK_EXIT(some, 3);
    CHECK_NAMES(some.err, "b");
    CHECK_NAMES(some.err, "ermi"); // "Permission denied", "Operation not permitted"
    CHECK(read_file(site.dest / "a/one") == "1");
    CHECK(read_file(site.dest / "c/three") == "3");
    CHECK(!fs::exists(site.dest / "b/two"));
    fs::create_directories(site.dir / "closed");
    chmod((site.dir / "closed").c_str(), 0755);
    CHECK(chown((site.dir / "closed").c_str(), 0, 0) == 0);
    const Result none = site.nfreeze({"restore", site.url, site.dir / "closed/dest"}, as_account);
    CHECK((none.code == 1 || none.code == 3));
    CHECK_NAMES(none.err, "closed/dest");
    CHECK_NAMES(none.err, "Permission denied");
}

TEST_SUITE_END();

namespace {

// `rclone serve sftp` in front of a directory or any of its remotes, with a cache of its own.
class RcloneServer {
  public:
    RcloneServer(const std::string& remote, const Strings& flags, Environment env = {}) : port_(free_port()) {
        write_file(dir_ / "authorized_keys", public_key_line(user_key("ed25519")) + "\n");
        RunOptions options;
        options.timeout = std::chrono::hours(1);
        options.stdout_to = dir_ / "log";
        options.env = std::move(env);
        options.env["HOME"] = dir_.path();
        options.env["XDG_CACHE_HOME"] = dir_ / "cache";
        Strings argv{"rclone",
                     "serve",
                     "sftp",
                     remote,
                     "--addr",
                     "127.0.0.1:" + std::to_string(port_),
                     "--key",
                     host_key("ed25519"),
                     "--authorized-keys",
                     dir_ / "authorized_keys"};
        argv.insert(argv.end(), flags.begin(), flags.end());
        child_ = std::make_unique<Child>(argv, options);
        REQUIRE(
            wait_until([&] { return contains(read_file(dir_ / "log"), "listening") || !child_->running(); },
                       milliseconds(20'000)));
        REQUIRE_MESSAGE(child_->running(), read_file(dir_ / "log"));
    }
    void kill() const { child_->kill(SIGKILL); }
    // The client's repository is "repo" among the files, by this server.
    void serve(Site& site, const fs::path& files) const {
        append_file(site.home / ".ssh/known_hosts", "[127.0.0.1]:" + std::to_string(port_) + " " +
                                                        public_key_line(host_key("ed25519")) + "\n");
        site.repo = files / "repo";
        site.url = "sftp://somebody@127.0.0.1:" + std::to_string(port_) + "/repo";
    }

  private:
    TempDir dir_;
    int port_;
    std::unique_ptr<Child> child_;
};

// All that a server is asked for in a repository's life.
void check_life_of_a_repository(const Site& site) {
    const auto must = [&](const Strings& arguments) {
        const Result result = site.nfreeze(arguments);
        REQUIRE_EXIT(result, 0);
        CHECK_MESSAGE(result.err == "", describe(result));
        return result;
    };
    const auto check_whole = [&] {
        CHECK_NAMES(must({"check", "--read-data", site.url}).out, "errors: 0");
        remove_tree(site.dest);
        must({"restore", site.url, site.dest});
        CHECK(compare(site.src, site.dest) == "");
    };
    make_random_tree(site.src, 3, 20, 60'000);
    write_random_file(site.src / "large", 4 * MiB, 1);
    must({"init", site.url});
    const std::string first = summary_of(must({"backup", site.src, site.url})).snapshot;
    check_whole();
    settle();
    mutate_tree(site.src, 4, 6);
    fs::remove(site.src / "large");
    write_random_file(site.src / "other", MiB, 2);
    const Result second = must({"backup", "--allow-shrink", site.src, site.url});
    CHECK(summary_of(second).uploaded < 4 * MiB);
    check_whole();
    const std::size_t packs = packs_of(site).size();
    const std::uint64_t bytes = site.repository_bytes();
    must({"forget", "--yes", site.url, first});
    must({"prune", "--yes", "--now", "--max-unused", "0%", site.url});
    CHECK(packs_of(site).size() < packs);
    CHECK(site.repository_bytes() < bytes - 3 * MiB);
    check_whole();
    const Result again = must({"backup", site.src, site.url});
    CHECK(summary_of(again).snapshot != first);
}

} // namespace

TEST_SUITE_BEGIN("servers");

TEST_CASE("servers: OpenSSH's, as a program of its own, and behind a changed root") {
    Sshd::Options options;
    SUBCASE("sftp-server") {
        const auto program = sftp_server();
        if (!program) return skipped("there is no sftp-server but sshd's own");
        options.config = {"Subsystem sftp " + program->string()};
        Sshd server(options);
        check_life_of_a_repository(Site(server));
    }
    SUBCASE("chrooted") {
        if (!is_root()) return skipped("a changed root: needs root");
        // Of root and writable by nobody else, as is all that leads to it: sshd insists.
        TempDir root("/run");
        if (!root.path().string().starts_with("/run")) return;
        options.ordinary_account = true;
        options.config = {"ChrootDirectory " + root.path().string(), "Subsystem sftp internal-sftp"};
        chmod(root.path().c_str(), 0755);
        Sshd server(options);
        if (!server.has_password()) return skipped("a changed root: needs an account of the tests' own");
        Site site(server);
        site.repo = root / "backups/repo";
        fs::create_directory(root / "backups");
        give_to(root / "backups", server.uid());
        site.url =
            "sftp://" + server.user() + "@127.0.0.1:" + std::to_string(server.port()) + "//backups/repo";
        check_life_of_a_repository(site);
    }
}

TEST_CASE("servers: rclone's, which overwrites and cannot make durable") {
    if (!have_program("rclone")) return skipped("there is no rclone");
    TempDir files;
    RcloneServer server(files.path(), {"--vfs-cache-mode", "off"});
    Site site;
    server.serve(site, files.path());
    check_life_of_a_repository(site);
}

TEST_SUITE_END();

namespace {

// An FTP server and, in front of it, rclone as README.md says.
class FtpSpace {
  public:
    explicit FtpSpace(const SmallDisk* disk = nullptr)
        : files(disk ? disk->path() : own_.path()), port_(free_port()) {
        options_.timeout = std::chrono::hours(1);
        if (disk) options_.mounts = {disk->mount()};
        start_ftp();
    }
    void start_ftp() {
        ftp = std::make_unique<Child>(Strings{"python3", "-m", "pyftpdlib", "-i", "127.0.0.1", "-p",
                                              std::to_string(port_), "-w", "-d", files, "-u", "me", "-P",
                                              "sesame"},
                                      options_);
        REQUIRE(wait_until(
            [&] {
                return run({"rclone", "lsd", "space:"}, remote()).code == 0 || !ftp->running();
            },
            milliseconds(20'000)));
        REQUIRE_MESSAGE(ftp->running(), ftp->errors_so_far());
    }
    [[nodiscard]] RunOptions remote() const {
        static const std::string password = lines_of(must_run({"rclone", "obscure", "sesame"})).at(0);
        RunOptions options;
        options.env = {
            {"RCLONE_CONFIG_SPACE_TYPE", "ftp"},        {"RCLONE_CONFIG_SPACE_HOST", "127.0.0.1"},
            {"RCLONE_CONFIG_SPACE_USER", "me"},         {"RCLONE_CONFIG_SPACE_PORT", std::to_string(port_)},
            {"RCLONE_CONFIG_SPACE_PASS", password},     {"RCLONE_CONFIG_SPACE_SHUT_TIMEOUT", "1s"},
            {"RCLONE_CONFIG_SPACE_CLOSE_TIMEOUT", "1s"}};
        return options;
    }
    // With a cache of its own, so that what is read comes from the FTP server.
    [[nodiscard]] std::unique_ptr<RcloneServer> rclone(Strings flags = {},
                                                       const std::string& write_back = "0s") const {
        const Strings cache{"--vfs-cache-mode", "full", "--vfs-write-back", write_back};
        flags.insert(flags.end(), cache.begin(), cache.end());
        return std::make_unique<RcloneServer>("space:", flags, remote().env);
    }

  private:
    TempDir own_;
    RunOptions options_;

  public:
    const fs::path files; // as the FTP server calls them
    std::unique_ptr<Child> ftp;

  private:
    const int port_;
};

bool have_ftp() {
    if (have_program("rclone") && run({"python3", "-c", "import pyftpdlib"}).code == 0) return true;
    skipped("FTP: needs rclone and python3-pyftpdlib");
    return false;
}

// What FTP holds is whole and enough.
void check_stored(const Site& site, const fs::path& wanted) {
    const Result check = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(check, 0);
    remove_tree(site.dest);
    const Result restore = site.nfreeze({"restore", site.url, site.dest});
    CHECK_EXIT(restore, 0);
    CHECK(compare(wanted, site.dest) == "");
}

} // namespace

TEST_SUITE_BEGIN("destinations");

TEST_CASE("destinations: FTP behind rclone serves a repository's whole life") {
    if (!have_ftp()) return;
    FtpSpace space;
    const auto server = space.rclone();
    Site site;
    server->serve(site, space.files);
    check_life_of_a_repository(site);
}

TEST_CASE("destinations: S3 behind rclone serves a repository's whole life") {
    const fs::path s3rver = fs::path(nfreeze_binary()).parent_path() / "s3/node_modules/.bin/s3rver";
    if (!have_program("rclone") || !fs::exists(s3rver))
        return skipped("S3: needs rclone and s3rver, which `make s3` gets");
    TempDir files;
    const std::string port = std::to_string(free_port());
    RunOptions options;
    options.timeout = std::chrono::hours(1);
    Child s3({s3rver, "--directory", files.path(), "--address", "127.0.0.1", "--port", port, "--silent",
              "--configure-bucket", "backups"},
             options);
    options.env = {{"RCLONE_CONFIG_SPACE_TYPE", "s3"},
                   {"RCLONE_CONFIG_SPACE_PROVIDER", "Other"},
                   {"RCLONE_CONFIG_SPACE_ACCESS_KEY_ID", "S3RVER"},
                   {"RCLONE_CONFIG_SPACE_SECRET_ACCESS_KEY", "S3RVER"},
                   {"RCLONE_CONFIG_SPACE_ENDPOINT", "http://127.0.0.1:" + port}};
    REQUIRE(wait_until(
        [&] {
            return run({"rclone", "lsd", "space:backups"}, options).code == 0 || !s3.running();
        },
        milliseconds(20'000)));
    REQUIRE_MESSAGE(s3.running(), s3.errors_so_far());
    const RcloneServer server("space:backups", {"--vfs-cache-mode", "full", "--vfs-write-back", "0s"},
                              options.env);
    Site site;
    server.serve(site, files / "backups");
    check_life_of_a_repository(site);
}

TEST_CASE("destinations: FTP space that is full ends a backup with 1, and what was confirmed is stored") {
    if (!have_ftp()) return;
    if (!can_have_small_disks()) return skipped("a small disk: needs the right to mount, and nsenter");
    SmallDisk disk("size=24m");
    FtpSpace space(&disk);
    disk.see_through(space.ftp->pid());
    auto server = space.rclone();
    Site site;
    server->serve(site, space.files);
    write_random_file(site.src / "first", 3 * MiB, 1);
    REQUIRE_EXIT(site.init(), 0);
    REQUIRE_EXIT(site.backup(), 0);
    copy_tree(site.src, site.dir / "before");
    write_random_file(site.src / "second", 30 * MiB, 2);
    const Result full = site.backup();
    CHECK_EXIT(full, 1);
    CHECK_NAMES(full.err, "full");

    server = space.rclone();
    server->serve(site, space.files);
    check_stored(site, site.dir / "before");
}

TEST_CASE("destinations: rclone or FTP that is killed during an upload leaves a whole repository") {
    if (!have_ftp()) return;
    FtpSpace space;
    auto server = space.rclone({"--bwlimit", "4M"});
    Site site;
    server->serve(site, space.files);
    write_random_file(site.src / "large", 8 * MiB, 1);
    REQUIRE_EXIT(site.init(), 0);
    {
        Child backup({nfreeze_binary(), "backup", "--retry-for", "1", "--timeout", "4", site.src, site.url},
                     site.options);
        const auto sending = [&] {
            for (const fs::path& pack : files_below(space.files / "repo/packs"))
                if (fs::file_size(pack) > 256 * KiB) return true;
            return false;
        };
        REQUIRE(wait_until(sending, milliseconds(30'000)));
        SUBCASE("rclone") {
            server->kill();
            CHECK_EXIT(backup.wait(), 6);
        }
        SUBCASE("FTP") {
            space.ftp->kill(SIGKILL);
            // rclone says so, or tries for longer than nfreeze waits.
            const Result lost = backup.wait();
            CHECK_MESSAGE((lost.code == 1 || lost.code == 6), describe(lost));
            space.start_ftp();
        }
    }
    server = space.rclone();
    server->serve(site, space.files);
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
    REQUIRE_EXIT(site.backup(), 0);
    server = space.rclone();
    server->serve(site, space.files);
    check_stored(site, site.src);
}

// Why README.md insists on --vfs-write-back 0s.
TEST_CASE("destinations: what rclone confirms before it is stored and then loses is found, and sent again") {
    if (!have_ftp()) return;
    FtpSpace space;
    auto server = space.rclone();
    Site site;
    server->serve(site, space.files);
    REQUIRE_EXIT(site.init(), 0);
    server = space.rclone({}, "1h");
    server->serve(site, space.files);
    write_random_file(site.src / "large", 2 * MiB, 1);
    REQUIRE_EXIT(site.backup(), 0);
    CHECK(packs_of(site).empty());
    server->kill();
    server = space.rclone();
    server->serve(site, space.files);
    // Nothing of it came to be stored, its segment as little as its packs: as if it had not been.
    const Result nothing = site.nfreeze({"restore", site.url, site.dest});
    CHECK_EXIT(nothing, 1);
    CHECK_NAMES(nothing.err, "holds no snapshot yet");
    REQUIRE_EXIT(site.backup(), 0);
    check_stored(site, site.src);
}

TEST_SUITE_END();
