// A server that keeps what it was given and lies about it while it is asked: a real sshd, behind which
// tests/lying_server.py speaks SFTP. In the tests' own store a call answers or throws; here lies come in packets.
#include <algorithm>
#include <utility>

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
        const std::string url = std::exchange(site.url, site.repo.string()); // what is written goes by no server
        site.init_or_fail();
        site.backup_or_fail();
        site.url = url;
        // A million names take a second, or a quarter of a minute where nothing is optimised (make cov).
        site.options.timeout = milliseconds(240'000);
    }
    static Sshd::Options options(const TempDir& dir) {
        Sshd::Options options;
        options.config = {std::string("Subsystem sftp python3 ") + NFREEZE_TESTS_DIR + "/lying_server.py " + (dir / "lie").string()};
        return options;
    }
    void tell(const std::string& lie) const { write_file(dir / "lie", lie); }
    Result nfreeze(Strings arguments) const {
        arguments.insert(arguments.end(), {"--timeout", "3", "--retry-for", "1"});
        return site.nfreeze(arguments);
    }
};

constexpr int kDamaged = 5, kNetwork = 6;

// Whatever is answered, nothing wrong is restored, nothing is written on the server, and no raw bytes of it are printed.
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
        if (result.code == 0) CHECK(compare(site.src, site.dest) == "");
        else CHECK(files_below(site.dest).empty());
        CHECK(std::ranges::none_of(result.err, [](char c) { return c == '\x1b' || c == '\x07'; }));
    }
    CHECK(fingerprint(site.repo) == before);
}

} // namespace

TEST_SUITE_BEGIN("servers");

TEST_CASE("lies: whatever a server answers, what is restored is right, or an exit code says that it is not there") {
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
    check_lies({{"endless-names", {kDamaged}, "holds more than"}, {"endless-dots", {kDamaged}, "holds more than"}});
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
    // More content than was asked for; a length beyond the packet; nothing, where the end is said in other words.
    check_lies({{"longer-than-asked", {kNetwork}, ""}, {"wrong-length", {kNetwork}, ""}, {"empty-data", {kDamaged, kNetwork}, ""}});
}

TEST_SUITE_END();
