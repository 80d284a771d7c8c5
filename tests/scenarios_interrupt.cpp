// Runs that are killed, interrupted, or run side by side.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <random>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

// The packs on the server, oldest first. With one connection they come one after the other, so that
// all but the last are complete.
std::vector<fs::path> packs_by_age(const Site& site) {
    std::vector<fs::path> packs = files_below(site.repo / "packs");
    std::sort(packs.begin(), packs.end(), [](const fs::path& a, const fs::path& b) {
        const timespec x = mtime_of(a), y = mtime_of(b);
        return std::pair(x.tv_sec, x.tv_nsec) < std::pair(y.tv_sec, y.tv_nsec);
    });
    return packs;
}

std::uint64_t bytes_of(const std::vector<fs::path>& files) {
    std::uint64_t sum = 0;
    for (const fs::path& file : files) sum += fs::file_size(file);
    return sum;
}

// A site behind a line of limited speed, with more to upload than goes up in a few seconds.
struct Slow {
    explicit Slow(std::uint64_t megabytes, std::int64_t rate)
        : proxy(shared_sshd().port()), site(shared_sshd(), proxy.port()) {
        for (std::uint64_t i = 0; i < megabytes / 8; ++i)
            write_random_file(site.src / ("file" + std::to_string(i)), 8 * MiB, 77 + i);
        site.init_or_fail();
        proxy.upstream_rate = rate;
    }
    Strings backup_arguments() const {
        return {nfreeze_binary(), "backup", "--connections", "1", site.src, site.url};
    }
    bool wait_for_packs(std::size_t count) const {
        return wait_until([&] { return files_below(site.repo / "packs").size() >= count; },
                          milliseconds(30'000));
    }
    Proxy proxy;
    Site site;
};

// Whether the process has begun to handle a signal, by the mask SigCgt of proc(5).
bool handles(pid_t pid, int signal) {
    for (const std::string& line : lines_of(read_file("/proc/" + std::to_string(pid) + "/status")))
        if (line.starts_with("SigCgt:"))
            return (std::strtoull(line.c_str() + 7, nullptr, 16) >> (signal - 1) & 1) != 0;
    return false;
}

} // namespace

TEST_SUITE_BEGIN("interruptions");

TEST_CASE("interruptions: killed at random moments, each time a backup and a full restore work") {
    const char* given = std::getenv("NFREEZE_TEST_SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    MESSAGE("the random moments come from NFREEZE_TEST_SEED=" << seed);
    Random random(seed);
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1";
    make_random_tree(site.src, seed, 30, 200'000);
    site.init_or_fail();
    site.backup_or_fail();
    copy_tree(site.src, site.dir / "last");
    int killed = 0;
    const std::uint64_t rounds = slow_tests() ? 100 : 10;
    for (std::uint64_t round = 0; round < rounds; ++round) {
        CAPTURE(round);
        mutate_tree(site.src, random.next(), 5);
        write_random_file(site.src / "new" / std::to_string(round), 4 * MiB, random.next());
        proxy.upstream_rate = 16 * MiB;
        Child victim({nfreeze_binary(), "backup", site.src, site.url}, site.options);
        std::this_thread::sleep_for(milliseconds(random.below(550)));
        victim.kill(SIGKILL);
        if (victim.wait().signal == SIGKILL) ++killed;
        proxy.upstream_rate = 0;

        if (round % 5 == 4) { // before anything mends it, the last complete snapshot is there
            remove_tree(site.dest);
            const Result as_it_is = site.restore();
            REQUIRE_EXIT(as_it_is, 0);
            CHECK((compare(site.dir / "last", site.dest) == "" || compare(site.src, site.dest) == ""));
        }
        site.backup_or_fail();
        remove_tree(site.dest);
        site.restore_or_fail();
        CHECK(compare(site.src, site.dest) == "");
        if (round % 5 == 3) {
            remove_tree(site.dir / "last");
            copy_tree(site.src, site.dir / "last");
        }
        fs::remove(site.src / "new" / std::to_string(round));
    }
    CHECK_MESSAGE(killed >= int(rounds) / 2, "most moments must lie within a run: " << killed << " did");
}

TEST_CASE("interruptions: after kill -9 the next run sends again at most what went up since the "
          "last checkpoint") {
    Slow slow(176, 32 * MiB);
    slow.site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1";
    Child victim(slow.backup_arguments(), slow.site.options);
    REQUIRE(slow.wait_for_packs(4));
    std::vector<fs::path> complete = packs_by_age(slow.site);
    complete.resize(3);
    const std::uint64_t safe = bytes_of(complete);
    std::this_thread::sleep_for(milliseconds(2800)); // a checkpoint has followed, behind what was queued
    REQUIRE(victim.running());
    victim.kill(SIGKILL);
    CHECK(victim.wait().signal == SIGKILL);
    slow.proxy.upstream_rate = 0;
    const Summary again = slow.site.backup_or_fail();
    CHECK(safe > 40 * MiB);
    CHECK(again.fresh_bytes <= 176 * MiB + 2 * MiB - safe);
    CHECK(again.uploaded <=
          again.fresh_bytes + 3 * MiB); // each of a dozen packs at most is filled up to whole 256 KiB
    slow.site.restore_or_fail();
    CHECK(compare(slow.site.src, slow.site.dest) == "");
}

TEST_CASE("interruptions: SIGINT and SIGTERM write a checkpoint first, exit code 130") {
    for (const int signal : {SIGINT, SIGTERM}) {
        CAPTURE(signal);
        Slow slow(128, 32 * MiB); // more than is ever in flight, or the run could still end well
        slow.site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1000"; // so that none comes by itself
        Child backup(slow.backup_arguments(), slow.site.options);
        REQUIRE(slow.wait_for_packs(3));
        std::vector<fs::path> complete = packs_by_age(slow.site);
        complete.resize(2);
        const std::uint64_t safe = bytes_of(complete);
        const auto asked = Clock::now();
        REQUIRE(backup.running());
        backup.kill(signal);
        const Result result = backup.wait();
        CHECK_EXIT(result, 130);
        CHECK(Clock::now() - asked < std::chrono::seconds(10));
        CHECK_NAMES(result.err, "interrupted");
        slow.proxy.upstream_rate = 0;
        const Result table = slow.site.nfreeze({"snapshots", slow.site.url});
        CHECK_EXIT(table, 0);
        CHECK_MESSAGE(!contains(table.out, slow.site.src.string()), "half a backup is no snapshot");
        const Summary again = slow.site.backup_or_fail();
        CHECK(safe > 24 * MiB);
        CHECK(again.uploaded <= 128 * MiB + 2 * MiB - safe);
    }
}

TEST_CASE("interruptions: a signal that comes early, or while a restore runs, is exit code 130 as well") {
    Site site;
    write_random_file(site.src / "large", 4 * MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    Proxy proxy(shared_sshd().port());
    append_file(site.home / ".ssh/known_hosts", shared_sshd().known_hosts_lines(proxy.port()));
    proxy.downstream_rate = 512 * 1024;
    Child restore({nfreeze_binary(), "restore", site.remote(proxy.port()), site.dest}, site.options);
    REQUIRE(wait_until([&] { return proxy.downstream > 300'000; }, milliseconds(20'000)));
    REQUIRE(restore.running());
    restore.kill(SIGINT);
    const Result result = restore.wait();
    CHECK_EXIT(result, 130);
    CHECK(result.seconds < 15);
    CHECK_MESSAGE(files_below(site.dest).empty(), "neither half a file nor what it was written as");
    Child early({nfreeze_binary(), "snapshots", site.remote(proxy.port())}, site.options);
    // The last that it sets up, and one that this process, which it was a copy of, does not handle.
    REQUIRE(wait_until([&] { return handles(early.pid(), SIGHUP); }, milliseconds(20'000)));
    std::this_thread::sleep_for(milliseconds(20)); // it derives the key, or connects
    early.kill(SIGTERM);
    const Result early_result = early.wait();
    CHECK_EXIT(early_result, 130);
}

TEST_CASE("interruptions: while a backup runs the repository is readable, to the last complete "
          "snapshot") {
    Proxy proxy(shared_sshd().port());
    Site site(shared_sshd(), proxy.port());
    site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1";
    make_random_tree(site.src, 5, 30, 100'000);
    site.init_or_fail();
    const std::string first = site.backup_or_fail().snapshot.substr(0, 8);
    copy_tree(site.src, site.dir / "first");
    for (std::uint64_t i = 0; i < 6; ++i)
        write_random_file(site.src / ("large" + std::to_string(i)), 8 * MiB, i);
    proxy.upstream_rate = 16 * MiB;
    Child backup({nfreeze_binary(), "backup", site.src, site.url}, site.options);
    REQUIRE(wait_until([&] { return site.repository_bytes() > 10 * MiB; }, milliseconds(20'000)));
    const std::string direct = site.remote(shared_sshd().port());
    while (backup.running()) {
        const Result table = site.nfreeze({"snapshots", direct});
        CHECK_EXIT(table, 0);
        CHECK_NAMES(table.out, first);
        if (!backup.running()) break;
        remove_tree(site.dest);
        const Result restore = site.nfreeze({"restore", "--snapshot", first, direct, site.dest});
        CHECK_EXIT(restore, 0);
        CHECK(compare(site.dir / "first", site.dest) == "");
    }
    const Result result = backup.wait();
    CHECK_EXIT(result, 0);
}

TEST_CASE("interruptions: two backups to one repository at the same time both succeed") {
    Site site;
    make_random_tree(site.src, 1, 40, 1 * MiB);
    const fs::path other = site.dir / "other";
    make_random_tree(other, 2, 40, 1 * MiB);
    write_random_file(site.src / "shared", 5 * MiB, 3);
    write_random_file(other / "shared", 5 * MiB, 3);
    site.init_or_fail();
    site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1";
    for (std::uint64_t round = 0; round < 3; ++round) {
        Child one({nfreeze_binary(), "backup", site.src, site.url}, site.options);
        Child two({nfreeze_binary(), "backup", other, site.url}, site.options);
        Child three({nfreeze_binary(), "backup", other, site.url},
                    site.options); // even of the same source
        for (Child* child : {&one, &two, &three}) {
            const Result result = child->wait();
            CHECK_EXIT(result, 0);
        }
        const Result table = site.nfreeze({"snapshots", site.url});
        CHECK_EXIT(table, 0);
        CHECK(lines_of(table.out).size() == 1 + 3 * (round + 1));
        for (const fs::path& source : {site.src, other}) {
            remove_tree(site.dest);
            site.restore_or_fail({"--source", source});
            CHECK(compare(source, site.dest) == "");
        }
        mutate_tree(site.src, round, 10);
        mutate_tree(other, round + 50, 10);
    }
}

TEST_SUITE_END();
