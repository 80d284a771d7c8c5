// Servers that attack below SFTP: packets, key exchanges and answers that no server sends, most of them
// before the login, which is to say by anybody on the way. tests/servers/evil_ssh.py plays them. Each
// crashed, hung or misled libssh2 as Debian has it; third_party/libssh2-patches says which patch each is
// about. Some faults show only where libssh2 runs under AddressSanitizer (`make asan`).
#include <sys/stat.h>

#include <sstream>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr int kNetwork = 6;

// Whether python3 is there with these modules; a test that needs them is left out by name where not.
bool have_python(const std::string& modules) {
    return have_program("python3") && run({"python3", "-c", "import " + modules}).code == 0;
}

bool have_attacker() {
    if (have_python("cryptography")) return true;
    skipped("servers that attack: need python3 and its cryptography");
    return false;
}

// A place for a repository and a server of tests/servers before it, with one client that knows it.
struct Served {
    Site site{Site::Kind::local};
    std::string port;

    explicit Served(const Strings& server, const std::string& key = "ed25519") {
        write_file(site.src / "a", random_bytes(50'000, 1));
        write_file(site.dir / "lie", "");
        Strings argv{"python3", std::string(NFREEZE_TESTS_DIR) + "/servers/" + server.at(0)};
        argv.insert(argv.end(), server.begin() + 1, server.end());
        argv.push_back(site.dir.path());
        RunOptions options;
        options.timeout = std::chrono::minutes(10);
        child_ = std::make_unique<Child>(argv, options);
        REQUIRE(wait_until([&] { return contains(child_->output_so_far(), "\n"); }, milliseconds(20'000)));
        std::istringstream line(child_->output_so_far());
        std::string type, blob;
        line >> port >> type >> blob;
        write_file(site.home / ".ssh/known_hosts", "[127.0.0.1]:" + port + " " + type + " " + blob + "\n");
        fs::copy_file(user_key(key), site.home / ".ssh/id_key");
        site.options.env["SSH_AUTH_SOCK"] = "";
        url_ = "sftp://root@127.0.0.1:" + port + "/" + site.repo.string();
    }
    Result nfreeze(Strings arguments, milliseconds limit = milliseconds(30'000)) const {
        arguments.insert(arguments.end(),
                         {"-i", site.home / ".ssh/id_key", "--timeout", "5", "--retry-for", "0"});
        RunOptions options = site.options;
        options.timeout = limit;
        return site.nfreeze(arguments, options);
    }
    Result backup() const {
        site.init_or_fail(); // by no server
        return nfreeze({"backup", site.src, url_});
    }
    Result snapshots() const { return nfreeze({"snapshots", url_}); }
    [[nodiscard]] const std::string& url() const { return url_; }

  private:
    std::string url_;
    std::unique_ptr<Child> child_;
};

struct Evil : Served {
    explicit Evil(const std::string& attack, const std::string& key = "ed25519")
        : Served({"evil_ssh.py", attack}, key) {}
};

// That the server is no good is said in one sentence; nothing of ours crashes or hangs.
void check_ended(const Result& result) {
    CHECK_EXIT(result, kNetwork);
    CHECK(lines_of(result.err).size() == 1);
    CHECK(result.seconds < 10 * slowness());
}

void check_served(const Served& served) {
    const Result backup = served.backup();
    REQUIRE_EXIT(backup, 0);
    served.site.restore_or_fail();
    CHECK(compare(served.site.src, served.site.dest) == "");
}

void check_attacks(const Strings& attacks) {
    if (!have_attacker()) return;
    for (const std::string& attack : attacks) {
        CAPTURE(attack);
        const Evil evil(attack);
        check_ended(evil.snapshots());
    }
}

} // namespace

TEST_SUITE_BEGIN("servers");

TEST_CASE("hostile: the server that attacks does well as long as it does not") {
    if (!have_attacker()) return;
    check_served(Evil("none"));
}

TEST_CASE(
    "hostile: packets with more padding than packet, of lengths that no packet has, with a wrong tag, or "
    "that end within what they say are refused before the login") {
    check_attacks({"etm-padding", "service"});
    check_attacks({"chacha-1", "chacha-2", "chacha-3", "chacha-5", "chacha-7", "flip-chacha"});
    check_attacks({"ctr-1", "ctr-13", "ctr-29", "flip-ctr"});
    check_attacks({"etm-1", "etm-15", "etm-17", "etm-33", "flip-etm"});
    check_attacks({"gcm-1", "gcm-5", "gcm-15", "gcm-17", "gcm-31", "flip-gcm"});
}

TEST_CASE("hostile: packets that bring an unpatched libssh2 down end the run with 6 and a sentence") {
#ifndef NFREEZE_BARE
    skipped("a libssh2 without our patches: this one is the system's");
#else
    if (!have_attacker()) return;
    for (const std::string attack : {"etm-padding", "chacha-1", "gcm-1"}) {
        CAPTURE(attack);
        const Evil evil(attack);
        RunOptions options = evil.site.options;
        const Result result = run({NFREEZE_BARE, "snapshots", evil.url(), "-i",
                                   evil.site.home / ".ssh/id_key", "--timeout", "5", "--retry-for", "0"},
                                  options);
        check_ended(result);
        if (attack == "etm-padding")
            CHECK_NAMES(result.err, "the process that talks to the server has ended");
    }
#endif
}

TEST_CASE("hostile: a key exchange that is only a name for what the client knows is not agreed on") {
    check_attacks({"kex-ext-info", "kex-strict"});
}

TEST_CASE("hostile: with new keys comes no other cipher or MAC, and with the same ones all goes on") {
    check_attacks({"rekey-chacha-ctr", "rekey-ctr-chacha", "rekey-gcm-ctr", "rekey-ctr-mac"});
    if (have_attacker()) check_served(Evil("rekey-same"));
}

TEST_CASE(
    "hostile: the host's own key without its signature, in an exchange of new keys, does not make anybody "
    "the host") {
    if (!have_attacker()) return;
    const Evil evil("stolen");
    check_ended(evil.backup());
    CHECK(files_below(evil.site.repo / "packs").empty());
}

TEST_CASE("hostile: another cipher for each direction is as good as the same for both") {
    if (!have_attacker()) return;
    for (const std::string attack : {"mixed-chacha-ctr", "mixed-chacha-gcm", "mixed-ctr-chacha",
                                     "mixed-ctr-gcm", "mixed-gcm-chacha", "mixed-gcm-ctr"}) {
        CAPTURE(attack);
        check_served(Evil(attack));
    }
}

TEST_CASE(
    "hostile: signature algorithms that the server repeats, leaves out or makes up do no harm to an RSA "
    "key") {
    if (!have_attacker()) return;
    for (const std::string attack : {"sig-algs-two", "sig-algs"}) {
        CAPTURE(attack);
        check_served(Evil(attack, "rsa"));
    }
    for (const std::string attack : {"sig-algs-none", "sig-algs-others"}) { // none of which the key can do
        CAPTURE(attack);
        check_ended(Evil(attack, "rsa").backup());
    }
}

TEST_CASE("hostile: asyncssh, which repeats signature algorithms, takes an RSA key") {
    if (!have_python("asyncssh")) return skipped("a server of asyncssh: needs python3-asyncssh");
    check_served(Served({"asyncssh_server.py"}, "rsa"));
}

TEST_CASE(
    "hostile: words for stderr while nothing can be sent are forgotten, whether the server goes on, waits "
    "or ends") {
    if (!have_attacker()) return;
    for (const std::string attack : {"stderr", "stderr-stalls"}) {
        CAPTURE(attack);
        check_ended(Evil(attack).backup());
    }
    check_served(Evil("stderr-on"));
}

TEST_CASE("hostile: a listing of 4 GiB is not waited for") {
    if (!have_attacker()) return;
    const Result result = Evil("listing").snapshots();
    check_ended(result);
    CHECK(result.peak_kib < 300 * 1024);
}

TEST_CASE("hostile: a login directory that the server does not tell is not taken for the root") {
    if (!have_attacker()) return;
    const Evil evil("realpath");
    const Result result = evil.nfreeze({"snapshots", "root@127.0.0.1:place", "-p", evil.port});
    CHECK_NAMES(result.err, "place");
    CHECK_NOT_NAMED(result.err, "/place");
}

TEST_CASE("hostile: a key file that ends too early is no key") {
    if (!have_attacker()) return;
    const Evil evil("none");
    const Strings bodies{"AAA", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwA", ""};
    for (const std::string& body : bodies) {
        const fs::path key = evil.site.home / ".ssh/id_key";
        fs::remove(key);
        const std::string marks = " OPENSSH PRIVATE KEY-----\n";
        write_file(key, "-----BEGIN" + marks + body + "\n-----END" + marks);
        chmod(key.c_str(), 0600);
        check_ended(evil.snapshots());
    }
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("install");

TEST_CASE(
    "install: patches to a library stop the build where they do not fit, and the fetched source stays as "
    "it is") {
    if (!have_program("patch")) return skipped("patches to a library: need patch");
    const TempDir dir;
    const std::string tool = std::string(NFREEZE_TESTS_DIR) + "/../third_party/patch-libssh2.sh";
    const auto patched = [&] { return run({tool, dir / "fetched", dir / "patches", dir / "build"}); };
    const auto file = [&](const std::string& name) { return read_file(dir / name); };
    const std::string of_a = "--- a/src/a.c\n+++ b/src/a.c\n";
    const std::string hunk = "What it is about.\n\n" + of_a + "@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
    write_file(dir / "fetched/debian/changelog", "libssh2 (1-1)\n");
    write_file(dir / "fetched/include/a.h", "a\n");
    write_file(dir / "fetched/src/a.c", "one\ntwo\nthree\n");
    write_file(dir / "patches/01-two.patch", hunk);
    const std::string fetched = fingerprint(dir / "fetched");

    REQUIRE_EXIT(patched(), 0);
    CHECK(file("build/src/a.c") == "one\n2\nthree\n");
    const std::string built = fingerprint(dir / "build");
    REQUIRE_EXIT(patched(), 0);
    CHECK_MESSAGE(fingerprint(dir / "build") == built, "nothing is done twice");
    write_file(dir / "patches/02-three.patch", of_a + "@@ -2,2 +2,2 @@\n 2\n-three\n+3\n");
    REQUIRE_EXIT(patched(), 0);
    CHECK(file("build/src/a.c") == "one\n2\n3\n");
    CHECK(fingerprint(dir / "fetched") == fetched);
    fs::remove(dir / "patches/02-three.patch");
    REQUIRE_EXIT(patched(), 0);
    CHECK(file("build/src/a.c") == "one\n2\nthree\n");

    write_file(dir / "fetched/src/a.c", "one\n2\nthree\n"); // it has the mend
    Result result = patched();
    CHECK_EXIT(result, 1);
    CHECK_NAMES(result.err, "01-two.patch");
    CHECK_NAMES(result.err, "remove it from third_party/libssh2-patches");
    CHECK_MESSAGE(!fs::exists(dir / "build"), "what was built before is no longer taken");

    write_file(dir / "fetched/src/a.c", "one\nzwei\nthree\n"); // it was changed otherwise
    result = patched();
    CHECK_EXIT(result, 1);
    CHECK_NAMES(result.err, "01-two.patch");
    CHECK_NAMES(result.err, "does not fit");
}

TEST_SUITE_END();
