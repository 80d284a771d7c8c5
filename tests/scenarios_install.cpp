// What is around the program once it is built: the manual page and the completion for bash that are made
// of its own help, and where `make install` and `make deb` put all of it.
#include <sys/stat.h>

#include <cstdlib>
#include <regex>
#include <set>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

const fs::path source_dir = fs::path(NFREEZE_TESTS_DIR).parent_path();

std::string help(const Strings& of = {}) {
    Strings argv{nfreeze_binary(), "help"};
    argv.insert(argv.end(), of.begin(), of.end());
    return must_run(argv);
}

// All that the first group of the pattern matches.
Strings all_matches(const std::string& text, const std::string& pattern) {
    Strings found;
    const std::regex regex(pattern);
    for (std::sregex_iterator i(text.begin(), text.end(), regex), end; i != end; ++i)
        found.push_back((*i)[1]);
    return found;
}

Strings verbs() {
    Strings found = all_matches(help(), "\n  nfreeze ([a-z]+) +[A-Z]");
    REQUIRE(found.size() >= 13);
    return found;
}

Strings options_of(const std::string& verb) {
    Strings found = all_matches(help({verb}), "\n  (?:-., |    )(--[a-z0-9-]+)");
    REQUIRE(found.size() >= 10);
    return found;
}

// The source of the page as a reader sees it: without fonts, with plain hyphens.
std::string manual_page() {
    const std::string page = must_run({source_dir / "packaging/man.sh", nfreeze_binary()});
    return std::regex_replace(std::regex_replace(page, std::regex(R"(\\f[BIR])"), ""), std::regex(R"(\\-)"),
                              "-");
}

// The part of the page under a heading, up to the next of its kind.
std::string section(const std::string& page, const std::string& heading) {
    const std::string kind = heading.substr(0, 4);
    const auto begin = page.find("\n" + heading);
    REQUIRE_MESSAGE(begin != page.npos, heading << " is not in the page");
    return page.substr(begin,
                       std::min(page.find("\n" + kind, begin + 1), page.find("\n.SH ", begin + 1)) - begin);
}

// What nfreeze would be started with if somebody typed this in bash, pressed the tabulator and then return.
class Typist {
  public:
    Typist() {
        write_file(dir_ / "completion", must_run({source_dir / "packaging/completion.sh", nfreeze_binary()}));
        write_file(dir_ / "rc", "PS1='ready: ' HISTFILE=\n"
                                "bind 'set enable-bracketed-paste off'\n"
                                "source ../completion\n"
                                "nfreeze() { printf '<%s>' \"$@\"; echo; }\n");
        fs::create_directories(dir_ / "here/directory");
        write_file(dir_ / "here/secret file", "");
        write_file(dir_ / "here/other", "");
    }
    [[nodiscard]] std::string gets(const std::string& typed) const {
        RunOptions options;
        options.pty = true;
        options.cwd = dir_ / "here";
        options.env = {{"TERM", "dumb"}, {"INPUTRC", "/dev/null"}};
        options.dialog = {{"ready: ", "nfreeze " + typed + "\t\n"}, {"ready: ", "exit\n"}};
        const Result result = run({"bash", "--noprofile", "--rcfile", "../rc", "-i"}, options);
        REQUIRE_EXIT(result, 0);
        const Strings got = all_matches(result.out, "\n(<.*>)");
        REQUIRE_MESSAGE(got.size() == 1, describe(result));
        return got[0];
    }

  private:
    TempDir dir_;
};

// `make install` and `make deb` take what lies in build/: other builds have nothing to do with them.
bool is_what_make_builds() {
    std::error_code none;
    if (fs::equivalent(nfreeze_binary(), source_dir / "build/nfreeze", none)) return true;
    skipped("make install, make deb: the tests run a program that lies elsewhere than in build/");
    return false;
}

std::string make(const Strings& words) {
    Strings argv{"make", "-C", source_dir};
    argv.insert(argv.end(), words.begin(), words.end());
    RunOptions options;
    options.unset = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX", "STATIC"};
    options.timeout = milliseconds(20 * 60'000);
    return must_run(argv, options);
}

} // namespace

TEST_SUITE_BEGIN("install");

TEST_CASE("manual page: each verb stands in it with all its options and what they do") {
    const std::string page = manual_page();
    const std::string common = section(page, ".SH OPTIONS");
    for (const std::string& verb : verbs()) {
        CAPTURE(verb);
        const std::string call = lines_of(help({verb})).front();
        CHECK_NAMES(section(page, ".SH SYNOPSIS"), "\n" + call + "\n");
        const std::string own = section(page, ".SS " + call);
        for (const std::string& option : options_of(verb)) {
            CAPTURE(option);
            const std::regex item("\\.TP\n(-., )?" + option + "(\\[=[A-Z]+\\]| [A-Z][^\n]*)?\n[^.\n]");
            CHECK(std::regex_search(own, item) != std::regex_search(common, item));
        }
    }
}

TEST_CASE("manual page: it names all exit codes and every variable that the program reads") {
    const std::string page = manual_page();
    for (const std::string code : {"0", "1", "2", "3", "4", "5", "6", "130"})
        CHECK_NAMES(section(page, ".SH EXIT STATUS"), ".TP\n" + code + "\n");
    const Strings variables = all_matches(read_file(source_dir / "nfreeze.cpp"),
                                          R"re((?:getenv|environment)\("(NFREEZE_[A-Z_]+)"\))re");
    CHECK(variables.size() >= 5);
    for (const std::string& variable : variables) CHECK_NAMES(section(page, ".SH ENVIRONMENT"), variable);
}

TEST_CASE("manual page: man shows it and has nothing to warn of") {
    if (!have_program("man")) return skipped("the manual page: needs man");
    const TempDir dir;
    write_file(dir / "nfreeze.1", must_run({source_dir / "packaging/man.sh", nfreeze_binary()}));
    RunOptions options;
    options.env = {{"LC_ALL", "C.UTF-8"}, {"MANWIDTH", "80"}, {"MAN_KEEP_FORMATTING", ""}};
    const Result man = run({"man", "--warnings", "-l", dir / "nfreeze.1"}, options);
    REQUIRE_EXIT(man, 0);
    CHECK(man.err == "");
    CHECK_NAMES(man.out, "nfreeze backup [options] SRC... REPO");
}

TEST_CASE("completion: verbs, and for each verb its own options") {
    const Typist typist;
    CHECK(typist.gets("bac") == "<backup>");
    CHECK(typist.gets("help snap") == "<help><snapshots>");
    for (const std::string& verb : verbs()) {
        CAPTURE(verb);
        CHECK(typist.gets(verb + " --password-f") == "<" + verb + "><--password-file>");
    }
    CHECK(typist.gets("backup --exclude-c") == "<backup><--exclude-caches>");
    CHECK(typist.gets("restore --exclude-c") == "<restore><--exclude-c>");
    CHECK(typist.gets("key pa") == "<key><passwd>");
    // After --, the words are those of another program.
    CHECK(typist.gets("backup --stdin-name x --stdin-from-command repo -- --exclude-c") ==
          "<backup><--stdin-name><x><--stdin-from-command><repo><--><--exclude-c>");
}

TEST_CASE("completion: it knows every option of every verb") {
    const std::string script = must_run({source_dir / "packaging/completion.sh", nfreeze_binary()});
    const TempDir dir;
    write_file(dir / "completion", script);
    for (const std::string& verb : verbs()) {
        CAPTURE(verb);
        const std::string proposed =
            must_run({"bash", "-c",
                      "source \"$1\"; COMP_WORDS=(nfreeze \"$2\" --) COMP_CWORD=2; _nfreeze 2>/dev/null; "
                      "printf '%s\\n' \"${COMPREPLY[@]}\"",
                      "bash", dir / "completion", verb});
        const Strings lines = lines_of(proposed), wanted = options_of(verb);
        CHECK(std::set<std::string>(lines.begin(), lines.end()) ==
              std::set<std::string>(wanted.begin(), wanted.end()));
    }
}

TEST_CASE("completion: names of files where a file is wanted, of directories where a directory is") {
    const Typist typist;
    CHECK(typist.gets("backup --password-file sec") == "<backup><--password-file><secret file>");
    CHECK(typist.gets("backup --password-file=sec") == "<backup><--password-file=secret file>");
    CHECK(typist.gets("snapshots -i oth") == "<snapshots><-i><other>");
    CHECK(typist.gets("backup dir") == "<backup><directory/>");
    CHECK(typist.gets("diff --dir dir") == "<diff><--dir><directory/>");
    CHECK(typist.gets("diff --dir oth") == "<diff><--dir><oth>");
    CHECK(typist.gets("backup --connections oth") == "<backup><--connections><oth>");
    CHECK(typist.gets("snapshots host:oth") == "<snapshots><host:oth>"); // files there are not ours
}

TEST_CASE("make install: program, manual page and completion, below DESTDIR and PREFIX and nowhere else") {
    if (!is_what_make_builds()) return;
    const TempDir dir;
    make({"install", "DESTDIR=" + (dir / "a stage").string(), "PREFIX=/opt/nfreeze"});
    const fs::path prefix = dir / "a stage/opt/nfreeze";
    const std::vector<fs::path> wanted{prefix / "bin/nfreeze",
                                       prefix / "share/bash-completion/completions/nfreeze",
                                       prefix / "share/man/man1/nfreeze.1.gz"};
    CHECK(files_below(dir.path()) == wanted);
    CHECK(read_file(wanted[0]) == read_file(nfreeze_binary()));
    CHECK(fs::status(wanted[0]).permissions() == fs::perms(0755));
    CHECK(fs::status(wanted[1]).permissions() == fs::perms(0644));
    CHECK(read_file(wanted[1]) == must_run({source_dir / "packaging/completion.sh", nfreeze_binary()}));
    CHECK(must_run({"gzip", "-dc", wanted[2]}) ==
          must_run({source_dir / "packaging/man.sh", nfreeze_binary()}));
}

// Two builds in two directories are to be the same; `make reproducible` does both and compares.
TEST_CASE("make: the program does not know where it was built") {
    if (!is_what_make_builds()) return;
    CHECK(!contains(read_file(nfreeze_binary()), source_dir.string()));
}

TEST_CASE("make deb: installed in a bare Debian 12, the program runs, and is gone when it is removed") {
    if (!slow_tests())
        return skipped("the Debian package in a chroot: takes minutes; NFREEZE_TEST_SLOW=1 runs it");
    if (!is_what_make_builds()) return;
    if (!is_root()) return skipped("the Debian package in a chroot: not root");
    if (!contains(read_file(source_dir / "build/CMakeCache.txt"), "\nSTATIC:BOOL=1\n"))
        return skipped("the Debian package in a chroot: this is a build with STATIC=0");
    if (std::getenv("NFREEZE_TEST_CHROOT") == nullptr && !have_program("debootstrap"))
        return skipped(
            "the Debian package in a chroot: needs debootstrap, or a tar file in NFREEZE_TEST_CHROOT");
    const Strings lines = lines_of(make({"-s", "deb"}));
    REQUIRE(!lines.empty());
    RunOptions options;
    options.timeout = milliseconds(20 * 60'000);
    const Result result = run({source_dir / "tests/deb.sh", source_dir / lines.back()}, options);
    CHECK_EXIT(result, 0);
}

TEST_SUITE_END();
