// A server that keeps what it was given and lies about it while it is asked: a real sshd, behind which
// tests/lying_server.py speaks SFTP. In the tests' own store a call answers or throws; here lies come in
// packets.
#include <algorithm>
#include <utility>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

struct Liar {
    TempDir dir;
    Sshd server;
    Site site;
    Liar() : server(options(dir)), site(server) {
        fs::create_directories(site.src);
        write_file(site.src / "a", random_bytes(200'000, 1));
        write_file(site.src / "d/b", "some text\n");
        tell("");
        const std::string url =
            std::exchange(site.url, site.repo.string()); // what is written goes by no server
        site.init_or_fail();
        site.backup_or_fail();
        site.url = url;
        // A million names take a second, or a quarter of a minute where nothing is optimised (make cov).
        site.options.timeout = milliseconds(240'000);
    }
    static Sshd::Options options(const TempDir& dir) {
        Sshd::Options options;
        options.config = {std::string("Subsystem sftp python3 ") + NFREEZE_TESTS_DIR + "/lying_server.py " +
                          (dir / "lie").string()};
        return options;
    }
    void tell(const std::string& lie) const { write_file(dir / "lie", lie); }
    Result nfreeze(Strings arguments) const {
        arguments.insert(arguments.end(), {"--timeout", "6", "--retry-for", "1"});
        return site.nfreeze(arguments);
    }
};

constexpr int kDamaged = 5, kNetwork = 6;

// Whatever is answered, nothing wrong is restored, nothing is written on the server, and no raw bytes of it
// are printed.
struct Lie {
    std::string name;
    std::vector<int> codes;
    std::string words;
};
void check_lies(const std::vector<Lie>& lies) {
    if (!have_program("python3")) return skipped("a server that lies: needs python3");
    const Liar liar;
    const Site& site = liar.site;
    const std::string before = fingerprint(site.repo);
    for (const Lie& lie : lies) {
        CAPTURE(lie.name);
        liar.tell(lie.name);
        remove_tree(site.dest);
        const Result result = liar.nfreeze({"restore", site.url, site.dest});
        CHECK_MESSAGE(std::ranges::count(lie.codes, result.code) == 1, describe(result));
        CHECK_NAMES(result.err, lie.words);
        CHECK(result.peak_kib < 300 * 1024);
        if (result.code == 0)
            CHECK(compare(site.src, site.dest) == "");
        else
            CHECK(files_below(site.dest).empty());
        CHECK(std::ranges::none_of(result.err, [](char c) { return c == '\x1b' || c == '\x07'; }));
    }
    CHECK(fingerprint(site.repo) == before);
}

} // namespace

TEST_SUITE_BEGIN("servers");

TEST_CASE(
    "lies: whatever a server answers, what is restored is right, or an exit code says that it is not there") {
    check_lies({{"", {0}, ""},
                {"names", {0}, ""},
                {"short", {kDamaged}, "is shorter than it was"},
                {"larger", {kDamaged}, "no key object is whole"},
                {"unknown-status", {1}, "an unknown error"},
                {"other-number", {kNetwork}, "nothing moved"},
                {"noise", {kNetwork}, ""},
                {"endless-packet", {kNetwork}, ""},
                {"too-long-a-name", {kNetwork}, ""},
                {"more-names-than-there-are", {kNetwork}, ""}});
}

TEST_CASE("lies: names without end are listened to up to a limit") {
    check_lies(
        {{"endless-names", {kDamaged}, "holds more than"}, {"endless-dots", {kDamaged}, "holds more than"}});
}

TEST_CASE("lies: names without end are listened to in bounded memory, however long they are") {
    check_lies({{"endless-long-names", {kDamaged}, "holds more than"}});
}

TEST_CASE("lies: that it cannot make durable may come as the answer for several objects at once") {
    if (!have_program("python3")) return skipped("a server that lies: needs python3");
    const Liar liar;
    liar.tell("slow-to-say-no");
    write_random_file(liar.site.src / "large", 48 << 20, 1); // three packs
    CHECK_EXIT(liar.nfreeze({"backup", liar.site.src, liar.site.url}), 0);
    CHECK_EXIT(liar.nfreeze({"check", "--read-data", liar.site.url}), 0);
}

TEST_CASE("lies: an answer that makes no sense counts as a lost connection") {
    // More content than was asked for; a length beyond the packet; nothing, where the end is said in other
    // words.
    check_lies({{"longer-than-asked", {kNetwork}, ""},
                {"wrong-length", {kNetwork}, ""},
                {"empty-data", {kDamaged, kNetwork}, ""}});
}

TEST_CASE("lies: a wrong size in a listing costs repair nothing, and nothing is recorded as gone") {
    if (!have_program("python3")) return skipped("a server that lies: needs python3");
    const Liar liar;
    Site honest(Site::Kind::local);
    honest.url = liar.site.repo.string();
    const auto check_whole = [&] {
        const Result check = honest.nfreeze({"check", "--read-data", honest.url});
        CHECK_EXIT(check, 0);
        CHECK_NAMES(check.out, "errors: 0");
        CHECK(check.err == "");
        remove_tree(honest.dest);
        honest.restore_or_fail();
        CHECK(compare(liar.site.src, honest.dest) == "");
    };
    for (const std::string lie : {"packs-larger", "packs-smaller", "packs-empty", "packs-huge",
                                  "packs-one-less", "packs-one-more", "short"}) {
        CAPTURE(lie);
        liar.tell(lie);
        const Result repaired = liar.nfreeze({"repair", liar.site.url});
        CHECK_MESSAGE((repaired.code == 0 || repaired.code == 5), describe(repaired));
        check_whole();
    }
}

TEST_CASE("lies: a wrong size in a listing costs a restore nothing that opens") {
    check_lies({{"packs-larger", {0}, ""}, {"packs-one-less", {0}, ""}, {"packs-one-more", {0}, ""}});
}

TEST_CASE("lies: objects of others under right names are passed over, and counted in a line") {
    if (!have_reader()) return;
    // What a server may plant without any key: noise, an object of another version, a key that would cost a
    // guess too much.
    struct Planted {
        Strings what;
        std::string count;
    };
    std::vector<Planted> all{
        {{"noise", "keys", "16", "193"}, "16"},      {{"keys", "version", "2", "1"}, ""},
        {{"noise", "index", "1001", "500"}, "1001"}, {{"noise", "packs", "1001", "2000"}, ""},
        {{"keys", "cost", "40", "1"}, ""},           {{"keys", "cost", "15", "16"}, ""},
        {{"noise", "keys", "40", "100"}, "40"},      {{"noise", "index", "1", "500"}, ""}};
    if (!slow_tests()) all.resize(5);
    for (const Planted& planted : all) {
        CAPTURE(joined(planted.what));
        Site site(Site::Kind::local);
        write_file(site.src / "file", "x");
        site.init_or_fail();
        const std::string id = site.backup_or_fail().snapshot;
        plant(site, planted.what);
        write_file(site.dir / "new", "another passphrase\n");
        bool noted = planted.what[1] != "index"; // until a backup has: it could be what is left of an upload
        const auto check = [&](const Strings& words, const std::string& wanted) {
            CAPTURE(joined(words));
            const Result result = site.nfreeze(words);
            CHECK_MESSAGE((result.code == 0 || (!noted && result.code == 5)), describe(result));
            CHECK_NAMES(result.out, wanted);
            CHECK(lines_of(result.err).size() <= 1);
            if (planted.what[1] == "index" ? !noted && words[0] != "key" : planted.what[1] != "packs")
                CHECK(lines_of(result.err).size() == 1);
            if (!planted.count.empty() && !result.err.empty()) {
                std::string plain = result.err;
                std::erase(plain, ',');
                CHECK_NAMES(plain, planted.count);
            }
            CHECK(result.peak_kib < 300 * 1024 * slowness());
        };
        check({"snapshots", site.url}, id.substr(0, 8));
        check({"ls", site.url}, "file");
        check({"cat", site.url, "file"}, "x");
        check({"restore", site.url, site.dest}, "restored: 1 files");
        check({"check", "--read-data", site.url}, "errors: 0");
        check({"key", "list", site.url}, "this passphrase");
        check({"backup", site.src, site.url}, "snapshot ");
        noted = true;
        check({"forget", "--yes", site.url, id}, "");
        check({"prune", "--yes", "--now", site.url}, "");
        check({"repair", site.url}, "");
        if (planted.what[0] != "keys" && planted.what[1] != "keys")
            check({"key", "add", "--new-password-file", site.dir / "new", site.url}, "added");
        CHECK(ids_in(site).size() == 1);
    }
}

TEST_SUITE_END();
