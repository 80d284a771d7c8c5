// What does not depend on how fast the machine is: round trips, requests and memory. And lines so
// bad that speed is not the question.
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <regex>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

// Where many small files are made and removed fast: in memory, if there is enough of it.
fs::path roomy() {
    const fs::path memory = "/dev/shm";
    struct statvfs room {};
    const bool enough = statvfs(memory.c_str(), &room) == 0 && access(memory.c_str(), W_OK) == 0 &&
                        room.f_bavail * room.f_frsize > 2048 * MiB && room.f_favail > 400'000;
    return enough ? memory : TempDir().path().parent_path();
}

// ---- Round trips and requests ------------------------------------------------------------------

// sshd starts a script for each session, by which the server logs all requests: only as a program of its
// own does it write its log where it is told to. The script itself says when the server has begun and
// ended: one that is killed, by SIGPIPE when the client goes before it has all its answers, says nothing.
Sshd::Options with_log(const fs::path& program, const fs::path& dir) {
    const fs::path script = dir / "sftp-server";
    const std::string log = (dir / "log").string();
    write_file(script, "#!/bin/sh\ntrap '' HUP TERM\necho server begun >>" + log + "\n" + program.string() +
                           " -e -l DEBUG3 2>>" + log + "\necho server ended >>" + log + "\n");
    chmod(script.c_str(), 0755);
    Sshd::Options options;
    options.config = {"Subsystem sftp " + script.string()};
    return options;
}

std::ptrdiff_t count(const std::string& text, const std::string& pattern) {
    const std::regex regex(pattern);
    return std::distance(std::sregex_iterator(text.begin(), text.end(), regex), std::sregex_iterator());
}

// A server that is 20 ms away each way and whose requests are counted.
class FarAway {
  public:
    // Of one run.
    struct Cost {
        int round_trips = 0;         // that wait for one another, connecting included
        std::ptrdiff_t requests = 0; // of SFTP
    };
    explicit FarAway(const fs::path& program) : server_(with_log(program, dir_.path())) {}

    Cost cost_of(const Strings& arguments, int code = 0) {
        proxy_.delay_ms = 20;
        REQUIRE(wait_until([&] { return all_closed(); }, milliseconds(20'000))); // of runs before
        write_file(log_, "");
        proxy_.round_trips = 0;
        const Result result = site.nfreeze(arguments);
        REQUIRE_EXIT(result, code);
        REQUIRE(wait_until([&] { return all_closed(); }, milliseconds(20'000)));
        return {proxy_.round_trips, count(read_file(log_), "request [0-9]+: (?!sent)")};
    }
    // The best of up to three runs. A count may be too high, never too low: an answer that nobody
    // waits for makes what is sent after it one deeper, if it comes while the client does something
    // else.
    Cost cost_of(const Strings& arguments, const Cost& wanted) {
        Cost best = cost_of(arguments);
        for (int i = 0; i < 2 && best.round_trips > wanted.round_trips; ++i) {
            const Cost again = cost_of(arguments);
            if (again.round_trips < best.round_trips) best = again;
        }
        return best;
    }

  private:
    bool all_closed() const {
        const std::string log = read_file(log_);
        return proxy_.open == 0 && contains(log, "server ended") &&
               count(log, "server begun") == count(log, "server ended");
    }

    TempDir dir_;
    fs::path log_ = dir_ / "log";
    Sshd server_;
    Proxy proxy_{server_.port()};

  public:
    Site site{server_, proxy_.port()};
};

// ---- Memory ------------------------------------------------------------------------------------

// A line such as "VmHWM:  1234 kB" of /proc/PID/status; 0 if there is none.
long status_kib(const std::string& status, const std::string& name) {
    const std::size_t at = status.find("\n" + name + ":");
    return at == std::string::npos ? 0 : std::atol(&status[at + name.size() + 2]);
}

// The largest resident set, in KiB, of a run after it has its keys: scrypt's 32 MiB at the start
// would hide all that is smaller. Once these are given back, the kernel is asked to forget the peak
// so far (clear_refs of proc(5)).
long peak_after_scrypt(const Site& site, const Strings& arguments) {
    Strings argv{nfreeze_binary()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    Child child(argv, site.options);
    const std::string proc = "/proc/" + std::to_string(child.pid());
    long peak = 0;
    for (bool forgotten = false; child.running(); std::this_thread::sleep_for(milliseconds(1))) {
        std::ifstream in(proc + "/status");
        const std::string status{std::istreambuf_iterator<char>(in), {}};
        const long so_far = status_kib(status, "VmHWM");
        if (forgotten) {
            peak = std::max(peak, so_far);
        } else if (so_far > 32L * 1024 && status_kib(status, "VmRSS") < so_far - 8L * 1024) {
            forgotten = static_cast<bool>(std::ofstream(proc + "/clear_refs") << "5\n" << std::flush);
        }
    }
    const Result result = child.wait();
    REQUIRE_EXIT(result, 0);
    REQUIRE_MESSAGE(peak > 0, "scrypt's memory was not seen to come and go: " << describe(result));
    return peak;
}

// Many small files, and what their backups need, in a local repository each.
class Crowd {
  public:
    struct Peaks {
        long first = 0, unchanged = 0, restore = 0; // KiB
        [[nodiscard]] bool exceed(const Peaks& other, long kib, long first_kib = 0) const {
            return first - other.first > kib + first_kib || unchanged - other.unchanged > kib ||
                   restore - other.restore > kib;
        }
    };
    static constexpr long many = 30'000;

    Crowd() {
        // Links with targets so long that a reader of the list of them reads as far ahead as it
        // ever does.
        const fs::path links = dir_ / "more/few/a";
        fs::create_directories(links);
        for (std::uint64_t i = 0; i < 8'000; ++i) {
            std::string target;
            while (target.size() < 4'000) target += std::to_string(1'000'000 + i) + "/";
            fs::create_symlink(target, links / std::to_string(i));
        }
        make_files(dir_ / "more/few/b", 10'000, false);
        make_files(dir_ / "more/equal", many, false);
        make_files(dir_ / "distinct", many, true);
        settle();
    }
    [[nodiscard]] Peaks peaks(const std::string& tree) const {
        const std::string repo = dir_ / "repo", source = dir_ / tree, dest = dir_ / "dest";
        const Result init = site_.nfreeze({"init", repo});
        REQUIRE_EXIT(init, 0);
        Peaks p;
        p.first = peak_after_scrypt(site_, {"backup", source, repo});
        p.unchanged = peak_after_scrypt(site_, {"backup", source, repo});
        p.restore = peak_after_scrypt(site_, {"restore", repo, dest});
        remove_tree(repo);
        remove_tree(dest);
        return p;
    }

  private:
    static void make_files(const fs::path& dir, long number, bool distinct) {
        for (long i = 0; i < number; ++i) {
            const fs::path below = dir / std::to_string(i / 100);
            if (i % 100 == 0) fs::create_directories(below);
            std::ofstream(below / std::to_string(i)) << 1'000'000 + (distinct ? i : 0);
        }
    }

    Site site_{Site::Kind::local};
    TempDir dir_{roomy()};
};

// One for both tests of memory: making and removing them takes as long as measuring.
const Crowd& crowd() {
    static const Crowd files;
    return files;
}

bool can_forget_peaks() {
    static const bool possible = static_cast<bool>(std::ofstream("/proc/self/clear_refs") << "5\n"
                                                                                          << std::flush);
    return possible;
}

constexpr const char* no_peaks = "peaks without scrypt's: the kernel forgets none at request";

} // namespace

// Neighbours would cost what is measured here (tests/run.sh).
TEST_SUITE_BEGIN("alone");

TEST_CASE("speed: an unchanged backup of 10,000 files, a restore of one of them and a list of "
          "snapshots take a few round trips and requests") {
    const auto program = sftp_server();
    if (!program) return skipped("counting requests: there is no sftp-server but sshd's own");
    FarAway far(*program);
    const TempDir dir(roomy());
    Site& site = far.site;
    site.src = dir / "src";
    for (int i = 0; i < 10'000; ++i)
        write_file(site.src / ("dir" + std::to_string(i / 100)) / ("file" + std::to_string(i)),
                   "content of file " + std::to_string(i) + "\n");
    site.init_or_fail();
    settle();
    for (int i = 0; i < 3; ++i) site.backup_or_fail(); // from here on one costs what the next does

    // Where there is no repository, two requests tell (no keys, and nothing else either): the rest is
    // connecting and logging in.
    const FarAway::Cost nothing = far.cost_of({"snapshots", site.url + "-not-there"}, 1);
    REQUIRE(nothing.requests == 2);
    const int connecting = nothing.round_trips - 2;

    const auto unchanged = far.cost_of({"backup", site.src, site.url}, {connecting + 25, 50});
    CHECK(unchanged.round_trips - connecting <= 25);
    CHECK(unchanged.requests <= 50);

    const std::string file = "dir50/file5050";
    const auto restore = far.cost_of({"restore", site.url, site.dest, file}, {connecting + 20, 50});
    CHECK(restore.round_trips - connecting <= 20);
    CHECK(restore.requests <= 50);
    CHECK(read_file(site.dest / file) == read_file(site.src / file));

    const auto snapshots = far.cost_of({"snapshots", site.url}, {connecting + 16, 30});
    CHECK(snapshots.round_trips - connecting <= 16);
    CHECK(snapshots.requests <= 30);
}

// These two take ten seconds, most of them for files to be made, restored and removed: fewer would
// not stand out from the noise.
TEST_CASE("speed: memory does not grow with the number of files") {
    if (!can_forget_peaks()) return skipped(no_peaks);
    // Buffers that happen to be full at the same time. An entry kept for each file would be more,
    // and every time.
    constexpr long noise_kib = 4 * 1024;
    Crowd::Peaks few, more;
    for (int attempt = 0; attempt == 0 || (attempt < 3 && more.exceed(few, noise_kib)); ++attempt) {
        few = crowd().peaks("more/few");
        more = crowd().peaks("more");
    }
    CHECK(more.first - few.first <= noise_kib);
    CHECK(more.unchanged - few.unchanged <= noise_kib);
    CHECK(more.restore - few.restore <= noise_kib);
}

// Beside these 48 bytes (a unit test shows them for a million chunks) memory holds, while the index is
// read, the list of one pack and the records of one segment, 37 bytes a chunk, and in a first backup the
// packs on their way with their lists in several forms. All that has bounds, which here, where all
// chunks are in one pack, hide nothing.
TEST_CASE("speed: memory grows by no more than 48 bytes with each distinct chunk") {
    if (!can_forget_peaks()) return skipped(no_peaks);
    constexpr long most_kib = (48 + 37) * Crowd::many / 1024, noise_kib = 512, in_flight_kib = 7 * 1024;
    Crowd::Peaks equal, distinct;
    for (int attempt = 0; attempt == 0 || (attempt < 3 && distinct.exceed(equal, most_kib, in_flight_kib));
         ++attempt) {
        equal = crowd().peaks("more/equal");
        distinct = crowd().peaks("distinct");
    }
    CHECK(distinct.first - equal.first <= most_kib + noise_kib + in_flight_kib);
    CHECK(distinct.unchanged - equal.unchanged <= most_kib + noise_kib);
    CHECK(distinct.restore - equal.restore <= most_kib + noise_kib);
}

TEST_SUITE_END();

// Takes five seconds, because 200 kB do, there and back.
TEST_CASE("speed: a line of 1 Mbit/s is slow and nothing else") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    proxy.upstream_rate = proxy.downstream_rate = 125'000;
    const Site site(server, proxy.port());
    write_random_file(site.src / "large", 200'000, 1);
    for (int i = 0; i < 100; ++i)
        write_file(site.src / "text" / std::to_string(i), std::string(1'000, 't') + std::to_string(i) + "\n");
    for (const Strings& arguments : {Strings{"init", site.url},
                                     {"backup", site.src, site.url},
                                     {"restore", site.url, site.dest},
                                     {"snapshots", site.url}}) {
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 0);
        CHECK(result.err == "");
    }
    CHECK(proxy.upstream > 200'000);
    CHECK(proxy.downstream > 200'000);
    CHECK(compare(site.src, site.dest) == "");
}
