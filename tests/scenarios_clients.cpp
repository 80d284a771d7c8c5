// Several clients with one repository, at the same time and for a long time: what they store counts, and what
// the index says once it does not say over and over.
#include <csignal>
#include <set>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr int kClients = 8;

// What the segments that count say.
struct Said {
    std::uint64_t records, distinct, bytes;
};
Said said(const Site& site) {
    const std::string stats = plant(site, {"stats"});
    return {number_in(stats, "records "), number_in(stats, "distinct "), number_in(stats, "bytes ")};
}

// Clients which each have one small file, and what they have stored.
struct Clients {
    const Site& site;
    Random random{1};
    std::multiset<std::string> ids; // of what must be listed, eight digits each
    bool torn = false;              // a run that was killed may have left half a segment behind

    explicit Clients(const Site& with) : site(with) { site.init_or_fail(); }

    [[nodiscard]] Strings backup(int client, int round) const {
        const std::string name = "client" + std::to_string(client);
        const fs::path source = site.dir / name;
        write_file(source / "file", name + " in round " + std::to_string(round));
        return {nfreeze_binary(), "backup", "--host", name, source, site.url};
    }
    // All at once, and beside them, by turns: one that is killed, a forget, a prune.
    void run_round(int round) {
        std::vector<std::unique_ptr<Child>> running;
        for (int i = 0; i < kClients; ++i)
            running.push_back(std::make_unique<Child>(backup(i, round), site.options));
        std::unique_ptr<Child> other;
        const std::string forgotten = ids.empty() ? "" : *ids.begin();
        switch (round % 4) {
        case 1:
            other = std::make_unique<Child>(backup(kClients, round), site.options);
            break;
        case 2:
            other = std::make_unique<Child>(Strings{nfreeze_binary(), "forget", "--yes", site.url, forgotten},
                                            site.options);
            break;
        case 3:
            other =
                std::make_unique<Child>(Strings{nfreeze_binary(), "prune", "--yes", site.url}, site.options);
            break;
        default:
            break;
        }
        if (round % 4 == 1) {
            std::this_thread::sleep_for(milliseconds(40 + random.below(120)));
            other->kill(SIGKILL);
            const Result killed = other->wait();
            if (killed.code == 0)
                ids.insert(summary_of(killed).snapshot.substr(0, 8));
            else
                torn = true;
        }
        for (auto& client : running) {
            const Result result = client->wait();
            REQUIRE_EXIT(result, 0);
            CHECK_MESSAGE((torn || result.err == ""), result.err);
            ids.insert(summary_of(result).snapshot.substr(0, 8));
        }
        if (round % 4 < 2) return;
        const Result result = other->wait();
        if (torn && result.code == 5)
            return; // a prune wants to know what half a segment is; so does a forget
        REQUIRE_EXIT(result, 0);
        if (round % 4 == 2) ids.erase(ids.find(forgotten));
    }
    // A day passes between rounds: whatever waits for time to pass is due.
    void run_rounds(int rounds) {
        for (int round = 0; round < rounds; ++round) {
            CAPTURE(round);
            run_round(round);
            pass_days(site, 1);
        }
    }
    // All that was said to be stored is listed; what else there is are runs that were killed a moment too
    // late.
    void check_all() const {
        REQUIRE_EXIT(run(backup(0, 1'000'000), site.options), 0); // which notes half a segment
        const Result listed = site.nfreeze({"snapshots", site.url});
        CHECK_EXIT(listed, 0);
        CHECK(listed.err == "");
        for (const std::string& id : ids) CHECK_NAMES(listed.out, "\n" + id + " ");
        const Result check = site.nfreeze({"check", "--read-data", site.url});
        CHECK_EXIT(check, 0);
        CHECK_NAMES(check.out, "errors: 0");
        const Result prune = site.nfreeze({"prune", "--yes", site.url});
        CHECK_EXIT(prune, 0);
        // A client that is alone merges what they left many times; the next, a day later, takes that away.
        for (int i = 1; i <= 2; ++i) {
            pass_days(site, 1);
            REQUIRE_EXIT(run(backup(0, 1'000'000 + i), site.options), 0);
        }
    }
};

// As many backups by one client that is alone.
std::uint64_t index_bytes_of_one(int backups) {
    const Site site(Site::Kind::local);
    const Clients one(site);
    for (int i = 0; i < backups; ++i) {
        REQUIRE_EXIT(run(one.backup(i % kClients, i / kClients), site.options), 0);
        if (i % kClients == kClients - 1) pass_days(site, 1);
    }
    return bytes_below(site.repo / "index");
}

// While they are at it each may have merged the same; once one is alone, what it finds many times it writes
// once.
void check_size(const Site& site, bool settled) {
    const Said now = said(site);
    CAPTURE(now.bytes);
    CHECK_MESSAGE(now.records <= (settled ? 2 : kClients) * now.distinct,
                  now.records << " records, of which " << now.distinct << " differ");
}

// A repository in which merges of clients side by side have repeated what the index says until nobody could
// read it.
struct BlownUp : Site {
    std::string older, newest;
    explicit BlownUp(Kind kind = Kind::local) : Site(kind) {
        write_file(src / "file", "older");
        init_or_fail();
        older = backup_or_fail().snapshot;
        write_file(src / "file", "newest");
        write_random_file(src / "large", 3 << 20, 1);
        newest = backup_or_fail().snapshot;
        copy_tree(repo, dir / "before");
        plant(*this, {"blow-up"});
    }
    void check_content() const {
        CHECK(ids_in(*this) == Strings{older.substr(0, 8), newest.substr(0, 8)});
        const Result check = nfreeze({"check", "--read-data", url});
        CHECK_EXIT(check, 0);
        CHECK_NAMES(check.out, "checked: 2 snapshots");
        CHECK_NAMES(check.out, "errors: 0");
        CHECK(check.err == "");
        remove_tree(dest);
        restore_or_fail();
        CHECK(compare(src, dest) == "");
    }
};

} // namespace

TEST_SUITE_BEGIN("clients");

TEST_CASE("clients: eight side by side in a directory, round after round, are told apart, and the index "
          "stays small") {
    if (!have_reader()) return;
    const Site site(Site::Kind::local);
    const int rounds = slow_tests() ? 200 : 12;
    Clients clients(site);
    clients.run_rounds(rounds);
    check_size(site, false);
    clients.check_all();
    check_size(site, true);
    if (!slow_tests()) return skipped("200 rounds, and as much by one client: NFREEZE_TEST_SLOW=1 runs it");
    const std::uint64_t bytes = bytes_below(site.repo / "index"),
                        alone = index_bytes_of_one(kClients * rounds);
    CHECK_MESSAGE(bytes <= 2 * alone, bytes << " bytes of index, where one client alone has " << alone);
}

TEST_CASE("clients: eight side by side over SFTP") {
    if (!have_reader()) return;
    Sshd server;
    const Site site(server);
    Clients clients(site);
    clients.run_rounds(slow_tests() ? 50 : 5);
    check_size(site, false);
    clients.check_all();
    check_size(site, true);
}

TEST_CASE("clients: an index that was blown up is read, and the next backup mends it") {
    if (!have_reader()) return;
    const BlownUp site;
    REQUIRE(fs::file_size(files_below(site.repo / "index").back()) < 20'000'000);
    site.check_content();
    const std::uint64_t before = said(site).records;
    REQUIRE(before > 100'000);
    const std::string third = site.backup_or_fail().snapshot;
    CHECK(ids_in(site) == Strings{site.older.substr(0, 8), site.newest.substr(0, 8), third.substr(0, 8)});
    const Said now = said(site);
    CHECK(now.records == now.distinct);
    CHECK(now.bytes < 20'000);
    pass_days(site, 1);
    site.backup_or_fail(); // what is superseded goes
    CHECK(bytes_below(site.repo / "index") < 100'000);
}

TEST_CASE("clients: of an index that was blown up every verb makes what it made before") {
    if (!have_reader()) return;
    for (const Site::Kind kind : {Site::Kind::local, Site::Kind::ssh}) {
        const BlownUp site(kind);
        const std::string was = (site.dir / "before").string();
        RunOptions local = site.options;
        for (const Strings& words : {Strings{"snapshots"}, {"ls", "-R"}, {"du"}, {"prune", "-n"}}) {
            CAPTURE(words[0]);
            Strings here = words, there = words;
            here.push_back(site.url);
            there.push_back(was);
            const Result result = site.nfreeze(here);
            CHECK_EXIT(result, 0);
            CHECK(result.out == site.nfreeze(there).out);
            CHECK(result.err == "");
            CHECK_MESSAGE(result.peak_kib < 300 * 1024 * slowness(),
                          "what is said again is dropped as it is read");
        }
        CHECK_EXIT(site.nfreeze({"forget", "--yes", site.url, site.older}), 0);
        CHECK_EXIT(site.nfreeze({"prune", "--yes", "--now", site.url}), 0);
        CHECK(ids_in(site) == Strings{site.newest.substr(0, 8)});
        CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
        const Said now = said(site);
        CHECK(now.records <= 2 * now.distinct);
    }
}

TEST_CASE("clients: several that blew up beside each other, and repair") {
    if (!have_reader()) return;
    const BlownUp site;
    // Another client merged the same before it saw that.
    const auto planted = files_below(site.repo / "index").back();
    fs::rename(planted, site.dir / "planted");
    remove_tree(site.repo / "index");
    copy_tree(site.dir / "before/index", site.repo / "index");
    plant(site, {"blow-up"});
    fs::rename(site.dir / "planted", planted);
    site.check_content();
    CHECK_EXIT(site.nfreeze({"repair", site.url}), 0);
    site.check_content();
    site.backup_or_fail();
    const Said now = said(site);
    CHECK(now.records <= 2 * now.distinct);
}

TEST_SUITE_END();
