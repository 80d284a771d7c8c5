// What a run shows while it works, and how fast it may be.
#include <sys/stat.h>

#include <cmath>
#include <csignal>
#include <cstdlib>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t KiB = 1024, MiB = 1024 * KiB;

// A source that takes about two seconds to send, and as long to fetch, at half a megabyte a second.
struct Limited : Site {
    Limited() {
        write_random_file(src / "one", 500 * KiB, 1);
        write_random_file(src / "two", 500 * KiB, 2);
        init_or_fail();
    }
    Strings limited_backup(const Strings& more = {}) const {
        Strings words{"backup", "--limit-upload", "500", src, url};
        words.insert(words.end() - 2, more.begin(), more.end());
        return words;
    }
};

} // namespace

TEST_SUITE_BEGIN("alone"); // they measure time

TEST_CASE("limits: an upload and a download take as long as they may, and all arrives") {
    Limited site;
    const Result backup = site.nfreeze(site.limited_backup());
    CHECK_EXIT(backup, 0);
    CHECK(backup.seconds > 1.6);
    CHECK(backup.seconds < 6);
    const Result restore = site.restore({"--limit-download", "500"});
    CHECK_EXIT(restore, 0);
    CHECK(restore.seconds > 1.6);
    CHECK(restore.seconds < 6);
    CHECK(compare(site.src, site.dest) == "");
    CHECK_EXIT(site.nfreeze({"backup", "--limit-upload", "0", site.src, site.url}), 2);
}

namespace {

// A client behind a line of its own, and what its run said of how long it would take, with when it said so.
class Timed {
  public:
    struct Line {
        double at; // seconds since the start
        std::string text;
    };
    explicit Timed(const std::string& what)
        : name(what), proxy_(shared_sshd().port()), site(shared_sshd(), proxy_.port()) {
        site.init_or_fail();
    }
    void slow_down(std::int64_t rate) { proxy_.upstream_rate = proxy_.downstream_rate = rate; }
    void start(Strings words, const Strings& behind = {}) { // REPO
        words.insert(words.begin(), nfreeze_binary());
        words.insert(words.end(), {"--progress", "--json", site.url});
        words.insert(words.end(), behind.begin(), behind.end());
        begun_ = Clock::now();
        RunOptions options = site.options;
        options.timeout = milliseconds(200'000);
        child_ = std::make_unique<Child>(words, options);
    }
    // False once it has ended.
    bool look() {
        if (ended_) return false;
        const bool running = child_->running();
        const Strings all = lines_of(child_->output_so_far());
        const double now = std::chrono::duration<double>(Clock::now() - begun_).count();
        for (std::size_t i = lines_.size(); i < all.size(); ++i) lines_.push_back({now, all[i]});
        if (!running) {
            ended_ = true;
            result = child_->wait();
        }
        return running;
    }
    // From a fifth of the run on, what it says is left is within a quarter of what is; a second more is that
    // of its clock.
    void check(double least, double most) const {
        CAPTURE(name);
        CHECK_EXIT(result, 0);
        const double end = result.seconds;
        CHECK(end > least);
        CHECK(end < most);
        double before = 0;
        int said = 0;
        for (const Line& line : lines_) {
            if (!contains(line.text, "\"progress\":true")) continue;
            const double left = end - line.at;
            if (line.at < end / 5 || left < 1.5) continue;
            CAPTURE(end);
            CAPTURE(line.at);
            CAPTURE(line.text);
            CHECK(contains(line.text, "\"seconds_left\":"));
            CHECK(contains(line.text, "\"percent\":"));
            if (!contains(line.text, "\"seconds_left\":") || !contains(line.text, "\"percent\":"))
                return; // one is enough
            ++said;
            const double told = decimal_in(line.text, "\"seconds_left\":"),
                         percent = decimal_in(line.text, "\"percent\":");
            CHECK_MESSAGE(std::abs(told - left) <= left / 4 + 1,
                          told << " s are said to be left, and it was " << left);
            CHECK(percent >= before);
            CHECK(percent <= 100);
            before = percent;
        }
        CHECK(said > end / 2);
    }
    std::string name;

  private:
    Proxy proxy_;

  public:
    Site site;
    Result result;

  private:
    Clock::time_point begun_;
    std::unique_ptr<Child> child_;
    std::vector<Line> lines_;
    bool ended_ = false;
};

// Four verbs side by side, each on a line of its own: they wait more than they work. `mixed`: with many small
// files, and with what can be compressed.
void check_time_left(std::uint64_t seconds, bool mixed) {
    constexpr std::uint64_t rate = 2 * MiB;
    Timed backup("a first backup"), restore("a restore"), check("a check that reads"),
        prune("a prune that copies");
    for (Timed* timed : {&backup, &restore, &check, &prune}) {
        const std::uint64_t share = timed == &prune ? 2 : 1; // which has to come, and to go
        const std::uint64_t files = seconds * rate / share / (2 * MiB);
        for (std::uint64_t i = 0; i < files; ++i)
            write_random_file(timed->site.src / "large" / std::to_string(i), 2 * MiB, i);
        if (timed == &prune)
            for (std::uint64_t i = 0; i < files; ++i)
                write_random_file(timed->site.src / "gone" / std::to_string(i), 2 * MiB, 1000 + i);
        if (!mixed) continue;
        make_random_tree(timed->site.src / "tree", 1, 2000, 2000);
        for (int i = 0; i < 40; ++i)
            write_file(timed->site.src / "text" / std::to_string(i),
                       must_run({"seq", std::to_string(i * 1000), std::to_string(i * 1000 + 30'000)}));
    }
    for (Timed* timed : {&restore, &check}) timed->site.backup_or_fail();
    // Each pack has half of what stays: files come by name, and these take turns.
    for (const auto& file : files_below(prune.site.src / "gone"))
        fs::rename(file, prune.site.src / "large" / (file.filename().string() + "-gone"));
    fs::remove(prune.site.src / "gone");
    const std::string first = prune.site.backup_or_fail().snapshot;
    for (const auto& file : files_below(prune.site.src / "large"))
        if (file.string().ends_with("-gone")) fs::remove(file);
    prune.site.backup_or_fail({"--allow-shrink"});
    REQUIRE_EXIT(prune.site.nfreeze({"forget", "--yes", prune.site.url, first}), 0);
    for (Timed* timed : {&backup, &restore, &check, &prune}) timed->slow_down(rate);
    backup.start({"backup", backup.site.src});
    restore.start({"restore"}, {restore.site.dest});
    check.start({"check", "--read-data"});
    prune.start({"prune", "--yes", "--now", "--max-unused", "0%"});
    for (bool running = true; running;) {
        running = false;
        for (Timed* timed : {&backup, &restore, &check, &prune}) running = timed->look() || running;
        std::this_thread::sleep_for(milliseconds(20));
    }
    for (Timed* timed : {&backup, &restore, &check, &prune})
        timed->check(double(seconds) * 0.7, double(seconds) * 2);
}

} // namespace

TEST_CASE("progress: the time that is left is known from a fifth of a run on, in a backup, a restore, a "
          "check and a prune") {
    check_time_left(13, false);
}

TEST_CASE("progress: the time that is left is known in a run of a minute, of files large and small") {
    if (!slow_tests()) return skipped("runs of a minute: NFREEZE_TEST_SLOW=1 runs them");
    check_time_left(60, true);
}

TEST_SUITE_END();
TEST_SUITE_BEGIN("progress");

TEST_CASE("progress: lines or objects once a second where they are asked for, else nothing") {
    Limited site;
    const Result silent = site.nfreeze(site.limited_backup());
    CHECK_EXIT(silent, 0);
    CHECK(silent.err.empty());
    write_random_file(site.src / "three", 1000 * KiB, 3);
    const Result told = site.nfreeze(site.limited_backup({"--progress"}));
    CHECK_EXIT(told, 0);
    CHECK_NAMES(told.err, "nfreeze: finishing, ");
    CHECK_NAMES(told.err, " %, ");
    CHECK_NAMES(told.err, "3 files, ");
    CHECK_NAMES(told.err, "KiB/s");
    CHECK_NAMES(told.err, " KiB new"); // of more that was read: two files are there already
    CHECK_NOT_NAMED(told.err, "\x1b");
    write_random_file(site.src / "four", 1000 * KiB, 4);
    const Result objects = site.nfreeze(site.limited_backup({"--progress", "--json"}));
    CHECK_EXIT(objects, 0);
    const Strings lines = lines_of(objects.out);
    REQUIRE(lines.size() >= 2);
    CHECK(lines[0].starts_with("{\"progress\":true,\"phase\":\""));
    for (const char* key :
         {"\"files\":", "\"bytes\":", "\"bytes_expected\":", "\"bytes_new\":", "\"bytes_uploaded\":"})
        CHECK_NAMES(lines[0], key);
    CHECK(lines.back().starts_with("{\"snapshot\":"));
}

TEST_CASE("progress: a terminal shows one line that is redrawn, as wide as it is, and taken away") {
    Limited site;
    RunOptions terminal = site.options;
    terminal.pty = true;
    const Result result = site.nfreeze(site.limited_backup(), terminal);
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "2 files, ");
    CHECK_NAMES(result.out, "\r\x1b[K");
    CHECK_NAMES(result.out, "snapshot ");
    const std::size_t last = result.out.rfind("\x1b[K");
    CHECK(result.out.find("files, ", last) == std::string::npos); // nothing is left of it
}

TEST_CASE("progress: on a narrow terminal what matters less is left out") {
    Limited site;
    RunOptions terminal = site.options;
    terminal.pty = true;
    terminal.columns = 30;
    const Result result = site.nfreeze(site.limited_backup(), terminal);
    CHECK_EXIT(result, 0);
    int drawn = 0;
    for (std::size_t at = 0; (at = result.out.find("finishing", at)) != std::string::npos; ++drawn) {
        const std::string line = result.out.substr(at, result.out.find('\r', at) - at);
        CAPTURE(line);
        CHECK(line.size() < 30);
        CHECK((line.ends_with("%") || line.ends_with("left") || line.ends_with("s") ||
               line.ends_with("B"))); // what is there is whole: "2 files", "1000 KiB"
        at += line.size();
    }
    CHECK(drawn > 2);
}

TEST_CASE("progress: SIGUSR1 asks a run that says nothing") {
    Limited site;
    Strings words{nfreeze_binary()};
    for (const std::string& word : site.limited_backup({"-q"})) words.push_back(word);
    Child run(words, site.options);
    CHECK(wait_until([&] { return !files_below(site.repo / "packs").empty(); }, milliseconds(20'000)));
    run.kill(SIGUSR1);
    CHECK(wait_until([&] { return contains(run.errors_so_far(), "2 files, "); }, milliseconds(5000)));
    const Result result = run.wait();
    CHECK_EXIT(result, 0);
    CHECK(lines_of(result.err).size() == 1);
}

TEST_CASE("secrets: a run can't be looked into, its arguments and what it starts hold no secret") {
    Limited site;
    write_file(site.dir / "look.sh", "#!/bin/sh\nenv >>" + (site.dir / "seen").string() + "\necho '" +
                                         std::string(passphrase) + "'\n");
    chmod((site.dir / "look.sh").c_str(), 0755);
    site.options.env["NFREEZE_SSH_PASSWORD"] = "another secret";
    site.options.unset.push_back("NFREEZE_PASSWORD");
    site.options.env.erase("NFREEZE_PASSWORD");
    Strings words{nfreeze_binary()};
    for (const std::string& word : site.limited_backup({"--password-command", site.dir / "look.sh"}))
        words.push_back(word);
    Child run(words, site.options);
    REQUIRE(wait_until([&] { return !files_below(site.repo / "packs").empty(); }, milliseconds(20'000)));
    const fs::path process = fs::path("/proc") / std::to_string(run.pid());
    const std::string status = read_file(process / "status");
    const std::size_t locked = status.find("VmLck:");
    REQUIRE(locked != std::string::npos);
    if (slowness() == 1)                                   // sanitizers lock nothing
        CHECK(std::atoi(status.c_str() + locked + 6) > 0); // KiB that are never swapped out
    CHECK_NOT_NAMED(read_file(process / "cmdline"), passphrase);
    CHECK_EXIT(run.wait(), 0);
    const std::string seen = read_file(site.dir / "seen");
    CHECK_NAMES(seen, "HOME=");
    CHECK_NOT_NAMED(seen, "NFREEZE_SSH_PASSWORD");
    CHECK_NOT_NAMED(seen, "another secret");
    if (!is_root()) return skipped("whose process it is: needs root");
    // The kernel gives what may not be looked into to root.
    Site local(Site::Kind::local);
    local.init_or_fail();
    give_to(local.dir.path(), account_uid);
    local.options.uid = account_uid;
    const Child other({nfreeze_binary(), "snapshots", "--password-command", "sleep 5", local.url},
                      local.options);
    struct stat st {};
    CHECK(wait_until(
        [&] {
            return stat(("/proc/" + std::to_string(other.pid()) + "/environ").c_str(), &st) == 0 &&
                   st.st_uid == 0;
        },
        milliseconds(1000)));
}

TEST_SUITE_END();
