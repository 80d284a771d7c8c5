// Lines that break, stall and split, servers that go away and come back, sshd with narrow limits,
// and signals: a run either goes on to its end or says why not, and nothing that was there is lost.
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;
constexpr std::int64_t mib = 1 << 20; // of the proxy's counters

bool slow_tests() { return std::getenv("NFREEZE_TEST_SLOW") != nullptr; }

// The line of sshd_config in which an append-only server consists.
Sshd::Options append_only() {
    Sshd::Options options;
    options.ordinary_account = true;
    options.config = {
        "ForceCommand internal-sftp -P "
        "remove,rmdir,rename,posix-rename,setstat,fsetstat,lsetstat,hardlink,symlink,copy-data"};
    return options;
}

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

} // namespace

TEST_SUITE_BEGIN("networks");

TEST_CASE("networks: a backup and a restore survive a cut at any byte of the conversation") {
    Sshd append_only_server(append_only());
    Line ordinary(shared_sshd()), guarded(append_only_server);
    const int offsets = slow_tests() ? 200 : 30;
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
            const std::int64_t after = up * (2 * i + 1) / (2 * offsets), after_down = down * (2 * i + 1) / (2 * offsets);
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

TEST_SUITE_END();
