// Lines that break, stall and split, servers that go away and come back, sshd with narrow limits,
// and signals: a run either goes on to its end or says why not, and nothing that was there is lost.
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;
constexpr std::int64_t mib = 1 << 20; // of the proxy's counters

// A repository behind a proxy with one snapshot, of which each round begins with a copy: so all rounds
// of one kind hold the same conversation, and a cut comes at the same place in it.
struct Line {
    explicit Line(Sshd& sshd) : server(sshd), proxy(sshd.port()), site(sshd, proxy.port()) {
        make_random_tree(site.src, 7, 12, 40'000);
        site.init_or_fail();
        site.backup_or_fail();
        // What changes is small beside the conversation as a whole, so that the cuts hit every part.
        copy_tree(site.repo, site.dir / "before");
        mutate_tree(site.src, 2, 4);
        write_random_file(site.src / "new", 30'000, 1);
        settle();
    }
    // The repository as it was, with no trace of the round before.
    void rewind() const {
        remove_tree(site.repo);
        copy_tree(site.dir / "before", site.repo);
        remove_tree(site.dest);
    }
    // What the server holds is all right, seen without the network.
    void check_whole() const {
        const Result check = site.nfreeze({"check", "--read-data", site.repo});
        CHECK_EXIT(check, 0);
    }
    void calm() {
        proxy.cut_after = proxy.cut_after_down = -1;
        proxy.cuts = 0;
        REQUIRE(wait_until([&] { return proxy.open == 0; }, milliseconds(5000)));
        proxy.upstream = proxy.downstream = 0;
    }
    Sshd& server;
    Proxy proxy;
    Site site;
};

// A site behind a proxy with so much in it that there is time to disturb a run.
struct Large {
    explicit Large(std::uint64_t megabytes, Sshd& sshd = shared_sshd())
        : proxy(sshd.port()), site(sshd, proxy.port()) {
        site.options.timeout = std::chrono::minutes(3); // many cuts are many pauses
        for (std::uint64_t i = 0; i < megabytes / 8; ++i)
            write_random_file(site.src / ("file" + std::to_string(i)), 8 * MiB, 40 + i);
        site.init_or_fail();
    }
    // Of a backup, or else of a restore.
    [[nodiscard]] Strings arguments(bool backup, const Strings& flags = {}) const {
        Strings all{nfreeze_binary(), backup ? "backup" : "restore"};
        all.insert(all.end(), flags.begin(), flags.end());
        if (backup)
            all.insert(all.end(), {site.src, site.url});
        else
            all.insert(all.end(), {site.url, site.dest});
        return all;
    }
    // Until a run just started has moved so much; it still runs then.
    void wait_for(Child& child, std::int64_t bytes) {
        const std::int64_t wanted = proxy.upstream + proxy.downstream + bytes;
        REQUIRE(wait_until([&] { return proxy.upstream + proxy.downstream > wanted; }, milliseconds(20'000)));
        REQUIRE(child.running());
    }
    // What stands in DEST is complete and right, and none of it is what was being written.
    void check_nothing_half() const {
        for (const fs::path& file : files_below(site.dest))
            CHECK_MESSAGE(read_file(file) == read_file(site.src / fs::relative(file, site.dest)),
                          file.string());
    }
    void check_repository() const {
        const Result check = site.nfreeze({"check", "--read-data", site.repo});
        CHECK_EXIT(check, 0);
    }
    void check_all_there() const {
        check_repository();
        remove_tree(site.dest);
        const Result restore = site.nfreeze({"restore", site.repo, site.dest});
        CHECK_EXIT(restore, 0);
        CHECK(compare(site.src, site.dest) == "");
    }
    Proxy proxy;
    Site site;
};

// The sentence of a run that was interrupted.
void check_interrupted(const Result& result) {
    CHECK_EXIT(result, 130);
    CHECK_NAMES(result.err, "interrupted");
    CHECK_NAMES(result.err, "the next run goes on from there");
}

} // namespace

TEST_SUITE_BEGIN("networks");

TEST_CASE("networks: a backup and a restore survive a cut at any byte of the conversation") {
    Sshd append_only_server(append_only());
    Line ordinary(shared_sshd()), guarded(append_only_server);
    const int offsets = slow_tests() ? 200 : 15;
    int cuts = 0;
    for (Line* line : {&ordinary, &guarded}) {
        line->rewind();
        line->calm();
        line->site.backup_or_fail();
        const std::int64_t up = line->proxy.upstream;
        line->calm();
        line->site.restore_or_fail();
        const std::int64_t down = line->proxy.downstream;
        for (int i = 0; i < offsets; ++i) {
            if ((i % 5 == 4) != (line == &guarded)) continue;
            const std::int64_t after = up * (2 * i + 1) / (2 * offsets),
                               after_down = down * (2 * i + 1) / (2 * offsets);
            CAPTURE(after);
            CAPTURE(after_down);
            line->rewind();
            line->calm();
            line->proxy.cut_after = after;
            const Result backup = line->site.backup();
            CHECK_EXIT(backup, 0);
            cuts += line->proxy.cuts;
            if (i % 4 == 0) line->check_whole();
            if (backup.code != 0) continue;
            line->calm();
            line->proxy.cut_after_down = after_down;
            const Result restore = line->site.restore();
            CHECK_EXIT(restore, 0);
            if (restore.code == 0) CHECK(compare(line->site.src, line->site.dest) == "");
            cuts += line->proxy.cuts;
        }
    }
    CHECK_MESSAGE(cuts >= 2 * offsets - 4, "nearly all cuts must lie within a run: " << cuts);
}

TEST_CASE(
    "networks: a connection that ends on one side only, or on which nothing passes any more, is replaced") {
    Line line(shared_sshd());
    line.rewind();
    line.calm();
    line.site.backup_or_fail();
    const std::int64_t up = line.proxy.upstream;
    line.calm();
    line.site.restore_or_fail();
    const std::int64_t down = line.proxy.downstream;
    for (const auto fault : {Proxy::Fault::half_up, Proxy::Fault::half_down, Proxy::Fault::stalled}) {
        const int offsets = slow_tests() ? 40 : fault == Proxy::Fault::stalled ? 3 : 5;
        const Strings flags =
            fault == Proxy::Fault::stalled ? Strings{"--timeout", "1"} : Strings{"--timeout", "8"};
        line.proxy.fault = fault;
        int cuts = 0;
        for (int i = 0; i < offsets; ++i) {
            const std::int64_t after = up * (2 * i + 1) / (2 * offsets),
                               after_down = down * (2 * i + 1) / (2 * offsets);
            CAPTURE(static_cast<int>(fault));
            CAPTURE(after);
            CAPTURE(after_down);
            line.rewind();
            line.calm();
            line.proxy.cut_after = after;
            const Result backup = line.site.backup(flags);
            REQUIRE_EXIT(backup, 0);
            CHECK(backup.seconds < 15);
            cuts += line.proxy.cuts;
            line.calm();
            line.proxy.cut_after_down = after_down;
            const Result restore = line.site.restore(flags);
            CHECK_EXIT(restore, 0);
            CHECK(restore.seconds < 15);
            CHECK(compare(line.site.src, line.site.dest) == "");
            cuts += line.proxy.cuts;
        }
        CHECK(cuts >= 2 * offsets - 1);
        line.check_whole();
    }
}

TEST_CASE("networks: a first connection that stalls when the server has said something is tried again") {
    Line line(shared_sshd());
    line.rewind();
    line.proxy.fault = Proxy::Fault::stalled;
    for (const int after : {100, 800, 1200}) { // while keys are agreed on, and at the login
        CAPTURE(after);
        line.calm();
        line.proxy.cut_after = after;
        const Result snapshots = line.site.nfreeze({"snapshots", "--timeout", "2", line.site.url});
        CHECK_EXIT(snapshots, 0);
        CHECK(line.proxy.cuts == 1);
        CHECK_NAMES(snapshots.err, "nothing moved for 2 s; trying again");
    }
}

TEST_CASE("networks: what arrives in pieces of any size is put together") {
    Line line(shared_sshd());
    for (const int size : {1, 7, 61}) {
        CAPTURE(size);
        line.rewind();
        line.calm();
        line.proxy.at_once = size;
        line.site.backup_or_fail();
        line.site.restore_or_fail();
        CHECK(compare(line.site.src, line.site.dest) == "");
        line.check_whole();
    }
}

TEST_CASE("networks: 20 cuts in one backup, and in one restore") {
    Large large(64);
    // Small beside a pack, so that for a while none gets through; then ones that let some through.
    large.proxy.cut_every = 3 * mib;
    large.proxy.more_cuts = 19;
    large.proxy.cut_after = large.proxy.upstream + 5 * mib;
    large.site.backup_or_fail();
    CHECK(large.proxy.cuts == 20);
    large.proxy.more_cuts = 19;
    large.proxy.cut_after_down = large.proxy.downstream + 1 * mib;
    large.site.restore_or_fail();
    CHECK(large.proxy.cuts == 40);
    CHECK(compare(large.site.src, large.site.dest) == "");
    large.check_repository();
}

TEST_CASE("networks: a time without a server: the run goes on when it is back") {
    Large large(24);
    large.proxy.upstream_rate = large.proxy.downstream_rate = 24 * mib;
    const int seconds = slow_tests() ? 60 : 2;
    for (const bool backup : {true, false}) {
        CAPTURE(backup);
        Child child(large.arguments(backup), large.site.options);
        large.wait_for(child, 8 * mib);
        large.proxy.away = true;
        std::this_thread::sleep_for(std::chrono::seconds(seconds));
        CHECK(child.running());
        large.proxy.away = false;
        const Result result = child.wait();
        CHECK_EXIT(result, 0);
        CHECK_NAMES(result.err, "trying again");
        CHECK(lines_of(result.err).size() <=
              2); // once, not for each connection and each time that it is tried
    }
    CHECK(compare(large.site.src, large.site.dest) == "");
    large.check_repository();
}

TEST_CASE("networks: a server that stays away longer than --retry-for, or says nothing for so long, is exit "
          "code 6, "
          "and what was there is whole") {
    for (const bool mute : {false, true}) {
        CAPTURE(mute);
        Large large(16);
        large.site.backup_or_fail();
        copy_tree(large.site.src, large.site.dir / "first");
        for (std::uint64_t i = 0; i < 3; ++i)
            write_random_file(large.site.src / "more" / std::to_string(i), 8 * MiB, 90 + i);
        large.proxy.upstream_rate = large.proxy.downstream_rate = 16 * mib;
        for (const bool backup : {true, false}) {
            CAPTURE(backup);
            Child child(large.arguments(backup, {"--retry-for", "1", "--timeout", "2"}), large.site.options);
            large.wait_for(child, 6 * mib);
            (mute ? large.proxy.stalled : large.proxy.away) = true;
            const auto gone = Clock::now();
            const Result result = child.wait();
            CHECK_EXIT(result, 6);
            CHECK_NAMES(result.err, "127.0.0.1");
            CHECK(Clock::now() - gone < std::chrono::seconds(12));
            large.proxy.stalled = large.proxy.away = false;
            if (!backup) large.check_nothing_half();
        }
        large.proxy.upstream_rate = large.proxy.downstream_rate = 0;
        large.check_repository();
        remove_tree(large.site.dest);
        const Result first = large.site.nfreeze({"restore", large.site.repo, large.site.dest});
        CHECK_EXIT(first, 0);
        CHECK(compare(large.site.dir / "first", large.site.dest) == "");
        large.site.backup_or_fail();
        large.check_all_there();
    }
}

TEST_CASE("networks: a pause that is shorter than --timeout costs no connection") {
    Large large(24);
    large.proxy.upstream_rate = 24 * mib;
    // Of several, one may be made as late as there is work for it.
    Child backup(large.arguments(true, {"--timeout", "20", "--connections", "1"}), large.site.options);
    large.wait_for(backup, 8 * mib);
    const int connections = large.proxy.accepted;
    large.proxy.stalled = true;
    std::this_thread::sleep_for(milliseconds(1500));
    CHECK(backup.running());
    large.proxy.stalled = false;
    const Result result = backup.wait();
    CHECK_EXIT(result, 0);
    CHECK(result.err == "");
    CHECK(large.proxy.accepted == connections);
}

TEST_CASE("networks: a run on which nothing moves for five seconds says what it waits for") {
    Large large(24);
    large.site.backup_or_fail();
    large.proxy.downstream_rate = 12 * mib;
    Child restore(large.arguments(false, {"--progress"}), large.site.options);
    large.wait_for(restore, 8 * mib);
    large.proxy.stalled = true;
    Site other(Site::Kind::local);
    other.init_or_fail();
    Child stream({nfreeze_binary(), "backup", "--progress", "--stdin-name", "x", "--stdin-from-command",
                  other.url, "--", "sh", "-c", "sleep 7; echo x"},
                 other.options);
    CHECK(wait_until([&] { return contains(restore.errors_so_far(), "restoring, waiting for the server ("); },
                     milliseconds(20'000)));
    large.proxy.stalled = false;
    CHECK_EXIT(restore.wait(), 0);
    const Result result = stream.wait();
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.err, "backing up, waiting for what it reads (");
}

TEST_CASE("networks: connections that end while a backup waits for its input cost no object") {
    Large large(8);
    large.site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "3600";
    large.proxy.idle_ms = 2500; // a busy disk may take a second to make a pack durable
    const std::string input = "head -c 24M /dev/urandom; sleep 5; head -c 24M /dev/urandom";
    CHECK_EXIT(large.site.nfreeze({"backup", "--connections", "1", "--stdin-name", "x",
                                   "--stdin-from-command", large.site.url, "--", "sh", "-c", input}),
               0);
    CHECK(large.proxy.accepted > 1);
    // One whose fate nobody knew would have been sent again in two halves.
    const std::vector<fs::path> packs = files_below(large.site.repo / "packs");
    CHECK(std::ranges::count_if(packs, [](const fs::path& pack) {
              return fs::file_size(pack) > 5 * MiB && fs::file_size(pack) < 13 * MiB;
          }) <= 1);
    large.check_repository();
}

TEST_CASE("networks: a server that is restarted in the middle of a restore") {
    Sshd server;
    Large large(32, server);
    large.site.backup_or_fail();
    large.proxy.downstream_rate = 24 * mib;
    Child restore(large.arguments(false), large.site.options);
    large.wait_for(restore, 8 * mib);
    server.stop();
    std::this_thread::sleep_for(milliseconds(700));
    REQUIRE(restore.running());
    server.start();
    const Result result = restore.wait();
    CHECK_EXIT(result, 0);
    CHECK(compare(large.site.src, large.site.dest) == "");
}

TEST_CASE("networks: sshd with narrow limits") {
    Strings config;
    int connections = 1000, idle_ms = 0;
    std::uint64_t megabytes = 20; // two packs, so that there is work for several connections
    SUBCASE("new keys every 256 KiB") { config = {"RekeyLimit 256K"}; }
    SUBCASE("one session in a connection") { config = {"MaxSessions 1"}; }
    SUBCASE("one login at a time") { config = {"MaxStartups 1"}; }
    SUBCASE("two connections") { connections = 2; }
    SUBCASE("who does not answer for two seconds is thrown out") {
        config = {"ClientAliveInterval 1", "ClientAliveCountMax 1"};
    }
    SUBCASE("a session that is idle for a second is ended") { config = {"ChannelTimeout session:*=1s"}; }
    SUBCASE("a connection that is idle for a second is broken") { idle_ms = 1000; }
    CAPTURE((config.empty() ? std::string() : config[0]));
    CAPTURE(connections);
    CAPTURE(idle_ms);
    Sshd::Options options;
    options.config = config;
    Sshd server(options);
    Large large(megabytes, server);
    large.proxy.most_connections = connections;
    large.proxy.idle_ms = idle_ms;
    large.site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1";
    large.site.backup_or_fail();
    large.site.restore_or_fail();
    CHECK(compare(large.site.src, large.site.dest) == "");
    if (idle_ms > 0 || config.size() + (config.empty() ? 0 : contains(config[0], "Timeout")) > 1) {
        // What is stored takes its time: the connections are idle meanwhile.
        const std::string file = large.site.src / "file0";
        const Result slow = large.site.nfreeze(
            {"backup", "--stdin-name", "dump", "--stdin-from-command", large.site.url, "--", "sh", "-c",
             "cat \"$1\"; sleep 3.2; cat \"$2\"", "sh", file, large.site.src / "file1"});
        CHECK_EXIT(slow, 0);
        const Result dump = large.site.nfreeze({"cat", "--source", "dump", large.site.url, "dump"});
        CHECK_EXIT(dump, 0);
        CHECK(dump.out == read_file(file) + read_file(large.site.src / "file1"));
    }
    large.check_repository();
}

TEST_CASE("networks: a server that lets us in and never says a word: exit code 6 after --timeout; a signal "
          "is heard before") {
    Proxy proxy(shared_sshd().port());
    Site site(shared_sshd(), proxy.port());
    site.init_or_fail();
    proxy.stalled = true;
    const Result mute = site.nfreeze({"snapshots", "--timeout", "1", site.url});
    CHECK_EXIT(mute, 6);
    CHECK_NAMES(mute.err, "127.0.0.1");
    CHECK(mute.seconds < 10);
    REQUIRE(wait_until([&] { return proxy.open == 0; }, milliseconds(5000)));
    Child child({nfreeze_binary(), "snapshots", site.url}, site.options);
    REQUIRE(wait_until([&] { return proxy.open == 1; }, milliseconds(10'000)));
    const auto asked = Clock::now();
    child.kill(SIGINT);
    const Result result = child.wait();
    CHECK_EXIT(result, 130);
    CHECK(Clock::now() - asked < std::chrono::seconds(5));
}

TEST_CASE("networks: forget, prune and check survive a cut, too") {
    Line line(shared_sshd());
    line.site.backup_or_fail();
    fs::remove(line.site.src / "new");
    line.site.backup_or_fail({"--allow-shrink"});
    remove_tree(line.site.dir / "before");
    copy_tree(line.site.repo, line.site.dir / "before");
    for (const Strings& verb : {Strings{"forget", "--yes", "--keep-last", "1"},
                                {"prune", "--yes", "--now", "--max-unused", "0%"},
                                {"check", "--read-data"}}) {
        Strings arguments = verb;
        arguments.push_back(line.site.url);
        CAPTURE(verb[0]);
        const auto prepare = [&] {
            line.rewind();
            if (verb[0] == "prune") {
                const Result forget =
                    line.site.nfreeze({"forget", "--yes", "--keep-last", "1", line.site.repo});
                REQUIRE_EXIT(forget, 0);
            }
            line.calm();
        };
        prepare();
        const Result whole = line.site.nfreeze(arguments);
        REQUIRE_EXIT(whole, 0);
        const std::int64_t up = line.proxy.upstream;
        const int offsets = slow_tests() ? 60 : 3;
        for (int i = 0; i < offsets; ++i) {
            const std::int64_t after = up * (2 * i + 1) / (2 * offsets);
            CAPTURE(after);
            prepare();
            line.proxy.cut_after = after;
            const Result result = line.site.nfreeze(arguments);
            CHECK_EXIT(result, 0);
            CHECK(line.proxy.cuts <= 1); // what it sends varies: the last offset may lie behind its end
            CHECK(lines_of(result.out) == lines_of(whole.out));
        }
        line.site.restore_or_fail();
        CHECK(compare(line.site.src, line.site.dest) == "");
        line.check_whole();
    }
}

TEST_CASE("networks: a connection that breaks while a key is derived from the passphrase is replaced") {
    Proxy proxy(shared_sshd().port());
    Site site(shared_sshd(), proxy.port());
    site.options.env["NFREEZE_SCRYPT_LOGN"] = "18"; // long enough to be idle in
    proxy.idle_ms = 300;
    site.init_or_fail();
    write_file(site.dir / "new", "another passphrase\n");
    const Result add = site.nfreeze({"key", "add", "--new-password-file", site.dir / "new", site.url});
    CHECK_EXIT(add, 0);
    proxy.idle_ms = 0;
    const Result list = site.nfreeze({"snapshots", "--password-file", site.dir / "new", site.url});
    CHECK_EXIT(list, 0);
}

TEST_CASE(
    "networks: SIGINT and SIGTERM end a run within 5 s, whatever the server does; a second one at once") {
    Large large(72); // more than is sent within the time that transfers get to end
    large.site.backup_or_fail();
    write_random_file(large.site.src / "more", 40 * MiB, 99);
    large.proxy.upstream_rate = large.proxy.downstream_rate = 8 * mib;
    for (const bool backup : {true, false})
        for (const std::string server : {"slow", "mute", "away"}) {
            CAPTURE(backup);
            CAPTURE(server);
            remove_tree(large.site.dest);
            Child child(large.arguments(backup), large.site.options);
            large.wait_for(child, 6 * mib);
            if (server == "mute") large.proxy.stalled = true;
            if (server == "away") large.proxy.away = true;
            if (server == "away") // it has noticed, and waits before it tries again
                REQUIRE(wait_until([&] { return contains(child.errors_so_far(), "trying again"); },
                                   milliseconds(20'000)));
            REQUIRE(child.running());
            const auto asked = Clock::now();
            child.kill(backup ? SIGINT : SIGTERM);
            const Result result = child.wait();
            CHECK(Clock::now() - asked < std::chrono::seconds(5));
            check_interrupted(result);
            large.proxy.stalled = large.proxy.away = false;
            if (!backup) large.check_nothing_half();
        }
    large.proxy.upstream_rate = large.proxy.downstream_rate = 0;
    large.site.backup_or_fail();
    large.check_all_there();

    write_random_file(large.site.src / "yet more", 40 * MiB, 100);
    large.proxy.upstream_rate = 12 * mib;
    Child child(large.arguments(true), large.site.options);
    large.wait_for(child, 6 * mib);
    large.proxy.stalled = true;
    child.kill(SIGTERM);
    std::this_thread::sleep_for(milliseconds(100));
    REQUIRE(child.running());
    const auto again = Clock::now();
    child.kill(SIGTERM);
    const Result result = child.wait();
    CHECK_EXIT(result, 130);
    CHECK(Clock::now() - again < milliseconds(500) * slowness());
}

TEST_CASE("networks: SIGHUP ends a run as SIGINT does: what was sent is kept") {
    Large large(128);
    large.site.options.env["NFREEZE_CHECKPOINT_SECONDS"] = "1000";
    large.proxy.upstream_rate = 32 * mib;
    Child backup(large.arguments(true, {"--connections", "1"}), large.site.options);
    REQUIRE(wait_until([&] { return packs_of(large.site).size() >= 3; }, milliseconds(30'000)));
    backup.kill(SIGHUP);
    check_interrupted(backup.wait());
    large.proxy.upstream_rate = 0;
    CHECK(large.site.backup_or_fail().uploaded < 110 * MiB);
}

TEST_CASE("networks: a machine that sleeps: stopped, the server hangs up meanwhile, and it goes on") {
    Large large(32);
    large.proxy.upstream_rate = large.proxy.downstream_rate = 24 * mib;
    for (const bool backup : {true, false}) {
        CAPTURE(backup);
        Child child(large.arguments(backup), large.site.options);
        large.wait_for(child, 8 * mib);
        child.kill(SIGSTOP);
        large.proxy.away = true;
        REQUIRE(wait_until([&] { return large.proxy.open == 0; }, milliseconds(5000)));
        large.proxy.away = false;
        std::this_thread::sleep_for(milliseconds(300));
        child.kill(SIGCONT);
        const Result result = child.wait();
        CHECK_EXIT(result, 0);
    }
    CHECK(compare(large.site.src, large.site.dest) == "");
    large.check_repository();
}

TEST_CASE("networks: who reads no further ends what is printed, with a sentence at most") {
    Large large(8);
    large.site.backup_or_fail();
    const auto into = [&](const Strings& arguments, const std::string& reader) {
        Strings argv{"sh", "-c",   "reader=$1; shift; { \"$@\"; echo code $? >&2; } | $reader",
                     "sh", reader, nfreeze_binary()};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        return run(argv, large.site.options);
    };
    const Result cat = into({"cat", large.site.url, "file0"}, "head -c 10");
    CHECK(cat.out == read_file(large.site.src / "file0").substr(0, 10));
    CHECK_NAMES(cat.err, "code 1");
    CHECK_MESSAGE(lines_of(cat.err).size() <= 2, cat.err);
    const Result ls = into({"ls", large.site.url}, "head -1");
    CHECK(lines_of(ls.out).size() == 1);
    CHECK_MESSAGE(lines_of(ls.err).size() <= 2, ls.err);
    CHECK_NAMES(ls.err, "code ");
}

TEST_SUITE_END();
