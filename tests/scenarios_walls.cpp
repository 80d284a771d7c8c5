// Walls that the compiler guards: what leaves was sealed, what came is not looked into before it is opened.
// Walls that the kernel guards: what reaches the network has nothing, and what has something reaches no
// network.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "mounts.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

TEST_SUITE_BEGIN("walls");

TEST_CASE(
    "walls: each misuse of what is sealed, of what came, of names and of keys is refused by the compiler") {
    const fs::path source = fs::path(NFREEZE_TESTS_DIR) / "walls/misuse.cpp";
    std::set<std::size_t> wanted, refused;
    const Strings lines = lines_of(read_file(source));
    for (std::size_t i = 0; i < lines.size(); ++i)
        if (contains(lines[i], "// WALL")) wanted.insert(i + 1);
    REQUIRE(wanted.size() > 20);
    // All errors there are, each with its line; those within the program itself come with one in that file.
    RunOptions options;
    options.env["CPATH"] = NFREEZE_INCLUDES;
    const Result result = run({NFREEZE_COMPILER, "-std=c++20", "-fsyntax-only", "-w", source}, options);
    CHECK(result.code != 0);
    const std::string begin = source.string() + ":";
    for (const std::string& line : lines_of(result.err)) {
        if (!contains(line, "error:")) continue;
        INFO(line);
        REQUIRE(line.starts_with(begin));
        const std::size_t number = std::stoul(line.substr(begin.size()));
        CHECK_MESSAGE(wanted.contains(number), "an error where none is wanted");
        refused.insert(number);
    }
    for (const std::size_t number : wanted)
        CHECK_MESSAGE(refused.contains(number), "this compiles: " << lines[number - 1]);
}

TEST_CASE("walls: no claim has more lines than were meant for it, and README says how many") {
    const fs::path tests = NFREEZE_TESTS_DIR;
    const Result audit = run({tests / "audit.py", "--quiet"});
    CHECK_EXIT(audit, 0);
    CHECK(audit.err == "");
    const std::string readme = read_file(tests.parent_path() / "README.md");
    for (const std::string& line : lines_of(read_file(tests / "audit.txt"))) {
        if (line.starts_with("#")) continue;
        std::istringstream words(line);
        std::string claim, lines;
        words >> claim >> lines;
        const std::string row = "\n| " + (claim == "all" ? "All" : claim) + " ";
        const std::size_t at = readme.find(row);
        REQUIRE(at != std::string::npos);
        CHECK_NAMES(readme.substr(at, readme.find('\n', at + 1) - at), "| " + lines + " |");
        if (claim == "all") CHECK_NAMES(readme, "in " + lines + " lines");
    }
}

// ---- walls of the operating system --------------------------------------------------------

namespace {

// The other processes of a run, by name; those that are not there yet are waited for.
pid_t process_of(const Child& run, const std::string& name) {
    const fs::path task = fs::path("/proc") / std::to_string(run.pid()) / "task" / std::to_string(run.pid());
    for (int turn = 0; turn < 500; ++turn, std::this_thread::sleep_for(milliseconds(10))) {
        std::istringstream children(read_file(task / "children"));
        for (pid_t pid = 0; children >> pid;)
            if (fs::exists("/proc/" + std::to_string(pid) + "/comm") &&
                read_file("/proc/" + std::to_string(pid) + "/comm") == name + "\n")
                return pid;
    }
    FAIL("there is no process " << name);
    return 0;
}

bool is_running(pid_t pid) {
    const fs::path stat = "/proc/" + std::to_string(pid) + "/stat";
    std::error_code gone;
    return fs::exists(stat, gone) && !contains(read_file(stat), ") Z ");
}
bool ends_within(pid_t pid, milliseconds time) {
    for (auto until = Clock::now() + time; Clock::now() < until;
         std::this_thread::sleep_for(milliseconds(10)))
        if (!is_running(pid)) return true;
    return false;
}

// How often each of these words stands in the memory of a process.
std::map<std::string, int> words_in_memory(pid_t pid, const Strings& words) {
    const std::string proc = "/proc/" + std::to_string(pid);
    std::map<std::string, int> found;
    const int memory = open((proc + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(memory >= 0);
    std::size_t bytes = 0;
    for (const std::string& line : lines_of(read_file(proc + "/maps"))) {
        unsigned long long from = 0, to = 0;
        char rights[5] = "";
        if (std::sscanf(line.c_str(), "%llx-%llx %4s", &from, &to, rights) != 3 || rights[0] != 'r') continue;
        std::string part(to - from, '\0');
        const ssize_t n = pread(memory, part.data(), part.size(), static_cast<off_t>(from));
        if (n <= 0) continue;
        part.resize(static_cast<std::size_t>(n));
        bytes += part.size();
        for (const std::string& word : words)
            for (auto at = part.find(word); at != part.npos; at = part.find(word, at + 1)) ++found[word];
    }
    close(memory);
    CHECK(bytes > 100'000);
    return found;
}

// Every thread of it is bound by seccomp, and can get no rights by what it would run.
void check_confined(pid_t pid, std::size_t threads) {
    std::size_t seen = 0;
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
        const std::string status = read_file(task.path() / "status");
        CHECK_NAMES(status, "Seccomp:\t2\n");
        CHECK_NAMES(status, "NoNewPrivs:\t1\n");
        ++seen;
    }
    CHECK(seen >= threads);
}

const std::string name_marker = "a-name-that-nobody-may-see",
                  content_marker = "content that nobody may see. ";

// A site whose transfers take so long that they can be looked at.
class Slow : public Site {
  public:
    explicit Slow(int files = 3) {
        src = dir / "a-source-that-nobody-may-see";
        fs::create_directories(src / name_marker);
        std::string text;
        while (text.size() < 100'000) text += content_marker;
        write_file(src / name_marker / "text", text);
        for (int i = 0; i < files; ++i)
            write_random_file(src / ("random " + std::to_string(i)), 15 << 20, unsigned(i) + 1);
        init_or_fail();
    }
    // A backup in its middle: packs are there, others are on their way.
    std::unique_ptr<Child> begin_backup() const {
        auto run = std::make_unique<Child>(
            Strings{nfreeze_binary(), "backup", "--limit-upload", "8000", src, url}, options);
        for (int turn = 0; turn < 2000 && bytes_below(repo / "packs") < 3 << 20; ++turn)
            std::this_thread::sleep_for(milliseconds(10));
        REQUIRE(bytes_below(repo / "packs") >= 3 << 20);
        REQUIRE(run->running());
        return run;
    }
    void check_next() const {
        backup_or_fail();
        restore_or_fail();
        CHECK(compare(src, dest) == "");
    }
};

} // namespace

TEST_CASE(
    "walls: what reaches the network has neither the passphrase, nor a name, nor content in its memory") {
    if (geteuid() != 0) return skipped("reading other processes' memory: only root can");
    const Slow site;
    const Strings all{passphrase, name_marker, content_marker, "a-source-that-nobody-may-see"};
    auto look = [&](const Child& run, bool sends) {
        const pid_t wire = process_of(run, "nfreeze-wire"), dialer = process_of(run, "nfreeze-dial");
        for (const pid_t outside : {wire, dialer})
            for (const auto& found : words_in_memory(outside, all))
                CHECK_MESSAGE(found.second == 0,
                              found.first << " in " << (outside == wire ? "wire" : "dialer"));
        auto kept = words_in_memory(run.pid(), all);
        if (sends) CHECK(kept[name_marker] > 0); // which shows that the search finds what is there
        check_confined(wire, 6);
        check_confined(run.pid(), 2);
        CHECK(words_in_memory(wire, {"OPENSSH PRIVATE KEY"})["OPENSSH PRIVATE KEY"] > 0);
        CHECK(read_file("/proc/" + std::to_string(wire) + "/environ").find("NFREEZE_PASSWORD=c") ==
              std::string::npos);
    };
    auto backup = site.begin_backup();
    look(*backup, true);
    CHECK_EXIT(backup->wait(), 0);
    Child restore({nfreeze_binary(), "restore", "--limit-download", "5000", site.url, site.dest},
                  site.options);
    process_of(restore, "nfreeze-wire");
    std::this_thread::sleep_for(milliseconds(2000)); // of nine seconds
    look(restore, false);
    CHECK_EXIT(restore.wait(), 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE(
    "walls: where the process that talks to the server ends, the run ends with 6, and the next goes on") {
    const Slow site;
    auto run = site.begin_backup();
    const pid_t wire = process_of(*run, "nfreeze-wire"), dialer = process_of(*run, "nfreeze-dial");
    const auto killed = Clock::now();
    REQUIRE(kill(wire, SIGKILL) == 0);
    const Result result = run->wait();
    CHECK(Clock::now() < killed + milliseconds(3000 * slowness()));
    CHECK_EXIT(result, 6);
    CHECK_NAMES(result.err, "the process that talks to the server has ended, or stands still: run it again");
    CHECK(ends_within(dialer, milliseconds(3000)));
    site.check_next();
}

TEST_CASE(
    "walls: where the process that connects ends, what is connected goes on, and then the run ends with 6") {
    const Slow site;
    auto run = site.begin_backup();
    REQUIRE(kill(process_of(*run, "nfreeze-dial"), SIGKILL) == 0);
    const Result result = run->wait();
    CHECK((result.code == 0 || result.code == 6));
    site.check_next();
}

TEST_CASE("walls: a run that is killed takes the other processes with it") {
    const Slow site;
    auto run = site.begin_backup();
    const pid_t wire = process_of(*run, "nfreeze-wire"), dialer = process_of(*run, "nfreeze-dial");
    run->kill(SIGKILL);
    CHECK(ends_within(wire, milliseconds(2000)));
    CHECK(ends_within(dialer, milliseconds(2000)));
    run->wait();
    site.check_next();
}

TEST_CASE("walls: a signal ends a run whose process that talks to the server stands still") {
    const Slow site;
    auto run = site.begin_backup();
    const pid_t wire = process_of(*run, "nfreeze-wire");
    REQUIRE(kill(wire, SIGSTOP) == 0);
    std::this_thread::sleep_for(milliseconds(200));
    const auto asked = Clock::now();
    run->kill(SIGTERM);
    CHECK_EXIT(run->wait(), 130);
    CHECK(Clock::now() < asked + milliseconds(20000 * slowness()));
    CHECK(ends_within(wire, milliseconds(2000)));
    site.check_next();
}

TEST_CASE(
    "walls: a signal to all processes, as at a terminal or by systemd, ends a run as one to the first") {
    const Slow site(12); // more than is under way at once
    auto run = site.begin_backup();
    const pid_t wire = process_of(*run, "nfreeze-wire"), dialer = process_of(*run, "nfreeze-dial");
    for (const int number : {SIGTERM, SIGINT, SIGHUP})
        for (const pid_t pid : {dialer, wire}) REQUIRE(kill(pid, number) == 0);
    std::this_thread::sleep_for(milliseconds(200));
    CHECK(run->running());
    run->kill(SIGTERM);
    const Result result = run->wait();
    CHECK_EXIT(result, 130);
    CHECK_NAMES(result.err, "what was sent is kept");
    site.check_next();
}

TEST_CASE("walls: a process that stands still for a while is waited for") {
    const Slow site;
    auto run = site.begin_backup();
    for (const pid_t pid : {process_of(*run, "nfreeze-wire"), run->pid()}) {
        REQUIRE(kill(pid, SIGSTOP) == 0);
        std::this_thread::sleep_for(milliseconds(1500));
        REQUIRE(kill(pid, SIGCONT) == 0);
    }
    CHECK_EXIT(run->wait(), 0);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("walls: -v says which stand, and without those that a kernel lacks all goes on as before") {
    if (!may_preload()) return;
    struct {
        Strings rules;
        const char* words;
    } const kernels[]{{{}, "confined by seccomp and Landlock"},
                      {{"lacks,landlock,38"}, "confined by seccomp; this kernel has no Landlock"},
                      {{"lacks,seccomp,22"}, "confined by Landlock; this kernel has no seccomp"},
                      {{"lacks,landlock,1", "lacks,seccomp,1"},
                       "confined by nothing; this kernel has neither seccomp nor Landlock"}};
    for (auto& kernel : kernels) {
        CAPTURE(kernel.words);
        Site site;
        write_random_file(site.src / "file", 3 << 20, 1);
        site.init_or_fail();
        for (const Strings& words :
             {Strings{"backup", "-v", site.src, site.url}, Strings{"restore", "-v", site.url, site.dest}}) {
            const Result result = with_kernel(site.options, kernel.rules, words);
            CHECK_EXIT(result, 0);
            CHECK_NAMES(result.err, std::string("this process, with files and keys, is ") + kernel.words);
            CHECK_NAMES(result.err, std::string("the process that talks to the server is ") + kernel.words);
        }
        CHECK(compare(site.src, site.dest) == "");
    }
}

TEST_SUITE_END();
