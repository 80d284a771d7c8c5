// What is typed means what it says, and what is printed is right: options and their values, names of
// repositories and sources, times, and numbers that agree with each other.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <ctime>
#include <set>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

const Strings verbs{"init", "backup", "restore", "snapshots", "ls",     "cat",  "diff",
                    "du",   "key",    "check",   "repair",    "forget", "prune"};

// As `help VERB` has it.
struct Option {
    std::string name;
    bool takes_value, needs_value; // "[=" is one that may be left out
};
std::vector<Option> options_of(const std::string& verb) {
    std::vector<Option> found;
    for (const std::string& line : lines_of(run({nfreeze_binary(), "help", verb}).out)) {
        const std::size_t at = line.find("--");
        if (!line.starts_with("  ") || at == std::string::npos || at > 6) continue;
        const std::size_t end = line.find_first_of(" [", at + 2);
        Option option{line.substr(at + 2, end - at - 2), false, false};
        option.needs_value = end + 1 < line.size() && line[end] == ' ' && line[end + 1] != ' ';
        option.takes_value = option.needs_value || line.substr(end, 2) == "[=";
        found.push_back(option);
    }
    return found;
}

// Operands with which a verb would do something, were it not for its options.
Strings operands_of(const std::string& verb, const Site& site) {
    if (verb == "backup") return {site.src, site.url};
    if (verb == "restore") return {site.url, site.dest};
    if (verb == "cat") return {site.url, "file"};
    if (verb == "diff") return {site.url, "00000000"};
    if (verb == "key") return {"list", site.url};
    return {site.url};
}

// Wrong usage that names what is wrong.
void check_refused(const Site& site, const Strings& words, const std::string& named) {
    const Result result = site.nfreeze(words);
    CHECK_EXIT(result, 2);
    CHECK_NAMES(result.err, named);
    CHECK(result.out == "");
}

// Each option with each verb that has it; those that all verbs have with two of them. Nothing is changed.
void for_options(const Site& site,
                 const std::function<void(const std::string& verb, const Option& option)>& check) {
    std::set<std::string> common;
    for (const Option& option : options_of("init")) common.insert(option.name);
    for (const std::string& verb : verbs) {
        const std::string before = fingerprint(site.dir.path());
        for (const Option& option : options_of(verb))
            if (verb == "init" || verb == "restore" || !common.contains(option.name)) check(verb, option);
        CHECK(fingerprint(site.dir.path()) == before);
    }
}

// A repository with a file in it.
struct Small : Site {
    std::string id;
    explicit Small(Kind kind = Kind::local) : Site(kind) {
        write_file(src / "file", "content");
        write_file(src / "dir/other", "other content");
        init_or_fail();
        id = backup_or_fail().snapshot;
    }
};

RunOptions at_terminal(const Site& site, std::vector<Answer> dialog) {
    RunOptions options = site.options;
    options.pty = true;
    options.dialog = std::move(dialog);
    return options;
}

Result words_of(const Site& site, Strings words, const RunOptions& options) {
    return site.nfreeze(words, options);
}

// The fields of an object of --json that is the last line, as a number.
double field(const Result& result, const std::string& name) {
    REQUIRE(!result.out.empty());
    return decimal_in(lines_of(result.out).back(), "\"" + name + "\":");
}

} // namespace

TEST_SUITE_BEGIN("words");

// ---- options ---------------------------------------------------------------------------------------

TEST_CASE("options: -h asks for help only as an option of nfreeze's own") {
    const Small site;
    const auto back_up = [&](const Strings& command) {
        Strings words{"backup", "--stdin-name", "dump", "--stdin-from-command", site.url, "--"};
        words.insert(words.end(), command.begin(), command.end());
        return site.nfreeze(words);
    };
    for (const std::string help : {"-h", "--help"}) {
        CAPTURE(help);
        const Result dump = back_up({"sh", "-c", "echo \"$1\" \"$2\"", "mysqldump", help, "db"});
        CHECK_EXIT(dump, 0);
        const std::string id = summary_of(dump).snapshot;
        CHECK(site.nfreeze({"cat", "--snapshot", id, site.url, "dump"}).out == help + " db\n");
        const Result tagged = site.backup({"--tag", help});
        CHECK_EXIT(tagged, 0);
        CHECK_NAMES(site.nfreeze({"snapshots", "--tag=" + help, site.url}).out,
                    summary_of(tagged).snapshot.substr(0, 8));
        write_file(site.src / help, "a file of this name");
        site.backup_or_fail();
        CHECK(site.nfreeze({"cat", "--source", site.src, site.url, "--", help}).out == "a file of this name");
        for (const Strings& words :
             {Strings{"backup", help}, {"backup", site.src, help, site.url}, {help, "backup"}})
            CHECK_NAMES(site.nfreeze(words).out, "nfreeze");
        CHECK(site.nfreeze({"backup", help}).out == site.nfreeze({"help", "backup"}).out);
    }
    CHECK_EXIT(back_up({"sh", "-c", "exit 3", "-h"}), 1);
}

TEST_CASE("options: one that takes no value is refused with one, whatever it is") {
    const Small site;
    for_options(site, [&](const std::string& verb, const Option& option) {
        if (option.takes_value) return;
        for (const char* value : {"false", "0", "true", "no", ""}) {
            const std::string word = "--" + option.name + "=" + value;
            CAPTURE(verb + " " + word);
            Strings words = operands_of(verb, site);
            words.insert(words.begin(), {verb, word});
            check_refused(site, words, option.name);
        }
    });
    const std::string before = fingerprint(site.dir.path());
    for (const Strings& words : {Strings{"restore", "--delete=false", "--overwrite", site.url, site.src},
                                 {"forget", "--yes=0", site.url, site.id},
                                 {"prune", "--now=true", "--yes", site.url},
                                 {"snapshots", "--quiet=", site.url},
                                 {"backup", "-q=1", site.src, site.url}}) {
        CAPTURE(words[1]);
        const Result result = site.nfreeze(words);
        CHECK_EXIT(result, 2);
        CHECK(fingerprint(site.dir.path()) == before);
    }
}

TEST_CASE("options: an empty value is refused, and so is one that is given twice where only one counts") {
    const Small site;
    const std::set<std::string> repeatable{
        "exclude", "exclude-from", "exclude-if-present", "files-from", "identity", "keep-tag", "path"};
    for_options(site, [&](const std::string& verb, const Option& option) {
        if (!option.takes_value) return;
        const Strings operands = operands_of(verb, site);
        CAPTURE(verb + " --" + option.name);
        const auto refused = [&](Strings words) {
            words.insert(words.begin(), verb);
            words.insert(words.end(), operands.begin(), operands.end());
            check_refused(site, words, option.name);
        };
        refused({"--" + option.name + "="});
        if (option.needs_value) refused({"--" + option.name, ""});
        if (repeatable.contains(option.name) || (option.name == "tag" && verb == "backup")) return;
        refused({"--" + option.name + "=1", "--" + option.name + "=1"});
    });
}

TEST_CASE("options: what may be repeated adds up, and a flag may be said twice") {
    const Small site;
    write_file(site.dir / "one", "file\n");
    write_file(site.dir / "two", "dir\n");
    write_file(site.src / "a.o", "object");
    write_file(site.src / "nothing/.nobackup", "");
    write_file(site.src / "nothing/x", "x");
    write_file(site.src / "neither/.never", "");
    write_file(site.src / "neither/y", "y");
    const auto stored = [&](const Strings& flags) {
        Strings all{"--allow-shrink"};
        all.insert(all.end(), flags.begin(), flags.end());
        return site.nfreeze({"ls", "-R", "--snapshot", site.backup_or_fail(all).snapshot, site.url}).out;
    };
    CHECK(stored({"--exclude", "*.o", "--exclude", "dir", "--exclude-if-present", ".nobackup",
                  "--exclude-if-present=.never"}) ==
          "file\nneither\nneither/.never\nnothing\nnothing/.nobackup\n");
    CHECK(stored({"--exclude-from", site.dir / "one", "--exclude-from", site.dir / "two", "--exclude",
                  "n*"}) == "a.o\n");
    CHECK(stored({"--files-from", site.dir / "one", "--files-from", site.dir / "two"}) ==
          "dir\ndir/other\nfile\n");
    const std::string id = site.backup_or_fail({"--tag", "a", "--tag", "b", "-v", "-v"}).snapshot;
    for (const char* tag : {"a", "b"})
        CHECK_NAMES(site.nfreeze({"snapshots", "--tag", tag, site.url}).out, id.substr(0, 8));
    CHECK_EXIT(site.nfreeze({"snapshots", "-q", "-q", "--json", "--json", site.url}), 0);
    CHECK_EXIT(site.nfreeze({"forget", "-n", "--keep-tag", "a", "--keep-tag", "b", site.url}), 0);
}

TEST_CASE("operands: an empty one is refused in every place but REPO's") {
    Small site;
    const std::string before = fingerprint(site.dir.path());
    for (const Strings& words : {Strings{"restore", site.url, ""},
                                 {"restore", site.url, site.dest, ""},
                                 {"restore", site.url, site.dest, "file", ""},
                                 {"ls", site.url, ""},
                                 {"cat", site.url, ""},
                                 {"diff", site.url, ""},
                                 {"diff", site.url, site.id, ""},
                                 {"du", site.url, ""},
                                 {"backup", "", site.url},
                                 {"backup", site.src, "", site.url},
                                 {"forget", "--yes", site.url, ""},
                                 {"forget", "--yes", site.url, site.id, ""},
                                 {"forget", "--undo", site.url, ""},
                                 {"key", "remove", site.url, ""},
                                 {"key", "import", site.url, ""},
                                 {"key", "", site.url}}) {
        CAPTURE(joined(words));
        const Result result = site.nfreeze(words);
        CHECK_EXIT(result, 2);
        CHECK(fingerprint(site.dir.path()) == before);
    }
    site.options.env["NFREEZE_REPOSITORY"] = site.url;
    for (const Strings& words : {Strings{"snapshots", ""},
                                 {"ls", ""},
                                 {"ls", "", "file"},
                                 {"cat", "", "file"},
                                 {"check", ""},
                                 {"key", "list", ""},
                                 {"backup", site.src, ""},
                                 {"restore", "", site.dest}}) {
        CAPTURE(joined(words));
        CHECK_EXIT(site.nfreeze(words), 0);
    }
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "", ""}), 2);
}

// ---- rules that would keep nothing -------------------------------------------------------------------

TEST_CASE("forget: the newest of each host and source stays, whatever the rules say") {
    const Small site;
    write_file(site.src / "later", "x");
    const std::string newest = site.backup_or_fail().snapshot.substr(0, 8);
    const std::string other = site.backup_or_fail({"--host", "other"}).snapshot.substr(0, 8);
    for (const Strings& rule : {Strings{"--keep-tag", "typo"},
                                {"--keep-within", "0"},
                                {"--keep-within", "0h"},
                                {"--keep-tag", "typo", "--host", "other"}}) {
        CAPTURE(joined(rule));
        Strings words{"forget", "--yes"};
        words.insert(words.end(), rule.begin(), rule.end());
        words.push_back(site.url);
        CHECK_EXIT(site.nfreeze(words), 0);
        const Strings left = ids_in(site);
        CHECK(std::ranges::count(left, newest) == 1);
        CHECK(std::ranges::count(left, other) == 1);
    }
    CHECK(ids_in(site) == Strings{newest, other});
    CHECK_EXIT(site.nfreeze({"forget", "--yes", site.url, newest}), 0); // by its id it goes
    CHECK(ids_in(site) == Strings{other});
}

TEST_CASE("forget: after a long time without a backup the last one stays, and one from the future does not "
          "stand for it") {
    if (!have_reader()) return;
    const Small site;
    const std::string old = plant(site, {"snapshot", "-5000000"}).substr(0, 8),
                      late = plant(site, {"snapshot", "5000000"}).substr(0, 8),
                      older = plant(site, {"snapshot", "-9000000"}).substr(0, 8);
    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, site.id}), 0);
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--keep-within", "30d", site.url}), 0);
    CHECK(ids_in(site) == Strings{old, late});
    CHECK(ids_in(site, {"--forgotten"}) == Strings{older, site.id.substr(0, 8)});
}

TEST_CASE("forget: with --path, too, the newest keeps what the rules would take from it") {
    const Small site;
    write_file(site.src / "big.iso", "image");
    const std::string newest = site.backup_or_fail().snapshot.substr(0, 8);
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--keep-tag", "typo", "--path", "*.iso", site.url}), 0);
    CHECK(ids_in(site).back() == newest);
    CHECK_NAMES(site.nfreeze({"ls", site.url}).out, "big.iso");
}

TEST_CASE("forget: --keep-within wants an age, not a date") {
    const Small site;
    for (const std::string value : {"2026-11-27", "2026-11-27 14:00", "yesterday", "30", "-1d", "1y", "d"}) {
        CAPTURE(value);
        const Result result = site.nfreeze({"forget", "--yes", "--keep-within", value, site.url});
        CHECK_EXIT(result, 2);
        CHECK_NAMES(result.err, "keep-within");
    }
    CHECK(ids_in(site).size() == 1);
}

TEST_CASE("forget: says of each snapshot that stays what keeps it") {
    const Small site;
    for (int i = 0; i < 3; ++i) {
        write_file(site.src / "file", std::to_string(i));
        site.backup_or_fail(i == 0 ? Strings{"--tag", "first"} : Strings{});
    }
    const Strings ids = ids_in(site);
    const Strings rules{"--keep-last", "1", "--keep-daily", "2", "--keep-tag", "first", "-n"};
    const auto forget = [&](Strings more) {
        more.insert(more.begin(), "forget");
        more.insert(more.end(), rules.begin(), rules.end());
        more.push_back(site.url);
        const Result result = site.nfreeze(more);
        REQUIRE_EXIT(result, 0);
        return lines_of(result.out);
    };
    for (const std::string& line : forget({})) {
        if (line.starts_with(ids[3]))
            for (const char* reason : {"last", "daily"}) CHECK_NAMES(line, reason);
        if (line.starts_with(ids[1]))
            CHECK_NAMES(line.substr(line.find("first") + 5), "tag"); // behind the tag itself
        if (line.starts_with(ids[2])) CHECK_NOT_NAMED(line, "daily");
    }
    int stay = 0;
    for (const std::string& line : forget({"--json"})) {
        if (!contains(line, "\"list\":\"stay\"")) continue;
        ++stay;
        const std::size_t at = line.find("\"reasons\":[");
        REQUIRE_MESSAGE(at != std::string::npos, line);
        const std::string reasons = line.substr(at, line.find(']', at) - at);
        if (contains(line, "\"id\":\"" + ids[3]))
            for (const char* reason : {"last", "daily"}) CHECK_NAMES(reasons, reason);
        else
            CHECK_NAMES(reasons, "tag");
    }
    CHECK(stay == 2);
}

TEST_CASE("forget --purge: a pattern that matches nothing is said, and is a failure") {
    const Small site;
    const std::string before = fingerprint(site.repo);
    for (const std::string& path :
         {std::string("*.not"), (site.src / "file").string(), std::string("nosuch")}) {
        const Result result = site.nfreeze({"forget", "--yes", "--purge", "--path", path, site.url});
        CHECK_EXIT(result, 1);
        CHECK(result.err != "");
        CHECK(fingerprint(site.repo) == before);
    }
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--purge", "--path", "/file", site.url}), 0);
}

// ---- answers ---------------------------------------------------------------------------------------------

TEST_CASE("questions: y is a yes, and nothing else but yes is") {
    const Small site;
    for (const std::string answer : {"n", "no", "", "x", "yesterday"}) {
        CAPTURE(answer);
        CHECK_EXIT(words_of(site, {"forget", site.url, site.id}, at_terminal(site, {{"(yes/no)?", answer}})),
                   1);
        CHECK(ids_in(site).size() == 1);
    }
    CHECK_EXIT(words_of(site, {"forget", site.url, site.id}, at_terminal(site, {{"(yes/no)?", "y"}})), 0);
    CHECK(ids_in(site).empty());
    CHECK_EXIT(words_of(site, {"prune", "--now", site.url}, at_terminal(site, {{"(yes/no)?", "Y"}})), 0);
    CHECK(packs_of(site).empty());
    Site fresh(Site::Kind::local);
    write_file(fresh.src / "file", "x");
    CHECK_EXIT(words_of(fresh, {"backup", fresh.src, fresh.url}, at_terminal(fresh, {{"(yes/no)?", "y"}})),
               0);
    CHECK(fs::exists(fresh.repo / "keys"));
}

TEST_CASE("key remove: asks before it takes the passphrase that is in use, and wants --yes where nobody can "
          "be asked") {
    const Small site;
    write_file(site.dir / "second", "another passphrase\n");
    const Result added = site.nfreeze({"key", "add", "--new-password-file", site.dir / "second", site.url});
    REQUIRE_EXIT(added, 0);
    std::string own, other;
    for (const auto& line : lines_of(site.nfreeze({"key", "list", site.url}).out))
        (contains(line, "this passphrase") ? own : other) = line.substr(0, 8);
    const auto keys = [&] { return files_below(site.repo / "keys").size(); };
    const Result refused = site.nfreeze({"key", "remove", site.url, own});
    CHECK_EXIT(refused, 2);
    CHECK_NAMES(refused.err, "--yes");
    const Result no =
        words_of(site, {"key", "remove", site.url, own}, at_terminal(site, {{"(yes/no)?", "no"}}));
    CHECK_EXIT(no, 1);
    CHECK(keys() == 2);
    RunOptions with_second = site.options;
    with_second.env["NFREEZE_PASSWORD"] = "another passphrase";
    SUBCASE("on a terminal") {
        CHECK_EXIT(
            words_of(site, {"key", "remove", site.url, own}, at_terminal(site, {{"(yes/no)?", "yes"}})), 0);
        CHECK_EXIT(site.nfreeze({"snapshots", site.url}), 4);
        CHECK_EXIT(site.nfreeze({"snapshots", site.url}, with_second), 0);
    }
    SUBCASE("with --yes") {
        CHECK_EXIT(site.nfreeze({"key", "remove", "--yes", site.url, own}), 0);
        CHECK_EXIT(site.nfreeze({"snapshots", site.url}, with_second), 0);
    }
    SUBCASE("another one goes without a question") {
        CHECK_EXIT(site.nfreeze({"key", "remove", site.url, own}, with_second), 0);
    }
    CHECK(keys() == 1);
}

TEST_CASE("key import: asks for each line of a sheet, and tells a typing error where it is") {
    const Small site;
    const Result sheet = site.nfreeze({"key", "export", site.url});
    REQUIRE_EXIT(sheet, 0);
    Strings rows;
    for (const std::string& line : lines_of(sheet.out))
        if (line.size() > 20 && line[0] >= '1' && line[0] <= '4' && line[1] == ' ') rows.push_back(line);
    REQUIRE(rows.size() == 4);
    std::string wrong = rows[1];
    wrong[4] = wrong[4] == '0' ? '1' : '0';
    write_file(site.dir / "new", "a new passphrase\n");
    const Strings words{"key", "import", "--new-password-file", site.dir / "new", site.url, "-"};
    // The second line is asked for again at once, before the third is typed.
    const Result typed = words_of(site, words, [&] {
        RunOptions options = at_terminal(site, {{"ine 1", rows[0]},
                                                {"ine 2", wrong},
                                                {"ine 2", rows[1]},
                                                {"ine 3", rows[2]},
                                                {"ine 4", rows[3]}});
        options.timeout = milliseconds(10'000);
        return options;
    }());
    CHECK_EXIT(typed, 0);
    const std::size_t error = typed.out.find(wrong), again = typed.out.find(rows[1], error + 1),
                      third = typed.out.find(rows[2]);
    CHECK(error < again);
    CHECK(again < third);
    RunOptions with_new = site.options;
    with_new.env["NFREEZE_PASSWORD"] = "a new passphrase";
    CHECK_EXIT(site.nfreeze({"snapshots", site.url}, with_new), 0);
    // Through a pipe nothing is asked.
    RunOptions piped = site.options;
    piped.input = sheet.out;
    const Result through = site.nfreeze(words, piped);
    CHECK_EXIT(through, 0);
    CHECK_NOT_NAMED(through.out + through.err, "ine 1");
}

// ---- names of repositories and sources -------------------------------------------------------------------

TEST_CASE("sources: what is printed to choose one by works as it is, in a shell") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Strings names{"plain",       "with blank",   "it's",      "dollar$HOME`x`",
                        "back\\slash", "\xff\xfe odd", "new\nline", "tab\there",
                        "a \"quote\"", "\\x41",        "--dash"};
    for (const std::string& name : names) {
        write_file(site.dir / "sources" / name / "file", "of " + name);
        REQUIRE_EXIT(site.nfreeze({"backup", (site.dir / "sources").string() + "/" + name + "/", site.url}),
                     0);
    }
    const Result choice = site.nfreeze({"ls", site.url});
    CHECK_EXIT(choice, 2);
    Strings choices;
    for (const std::string& line : lines_of(choice.err))
        if (const std::size_t at = line.find("--source"); at != std::string::npos)
            choices.push_back(line.substr(at));
    REQUIRE(choices.size() == names.size());
    std::set<std::string> seen;
    for (const std::string& words : choices) {
        CAPTURE(words);
        const Result result = in_shell("\"$0\" cat " + words + " \"$1\" file", {site.url}, site.options);
        CHECK_EXIT(result, 0);
        seen.insert(result.out);
    }
    CHECK(seen.size() == names.size());
    for (const char* verb : {"restore", "du"}) { // say the same
        const Result other = site.nfreeze(
            verb == std::string("du") ? Strings{"du", site.url} : Strings{"restore", site.url, site.dest});
        CHECK_EXIT(other, 2);
        for (const std::string& words : choices) CHECK_NAMES(other.err, words);
    }
    for (const std::string end : {"", "/", "//"}) { // as it was typed
        const Result slash =
            site.nfreeze({"cat", "--source", (site.dir / "sources/plain").string() + end, site.url, "file"});
        CHECK_EXIT(slash, 0);
        CHECK(slash.out == "of plain");
    }
}

TEST_CASE("NFREEZE_REPOSITORY: what stands in REPO's place counts as one only if it can be one") {
    Small site;
    site.options.env["NFREEZE_REPOSITORY"] = site.url;
    write_file(site.src / "Documents/letter", "dear");
    site.backup_or_fail();
    write_file(site.dir / "cwd/Documents/mine", "a directory of this name here is no repository");
    site.options.cwd = site.dir / "cwd";
    const auto check = [&](const Strings& words, int code, const std::string& named) {
        CAPTURE(joined(words));
        const Result result = site.nfreeze(words);
        CHECK_EXIT(result, code);
        CHECK_NAMES(result.out + result.err, named);
        CHECK_NOT_NAMED(result.err, "nfreeze init");
        return result;
    };
    check({"ls", "Documents"}, 0, "letter");
    check({"ls", "dir", "Documents"}, 0, "other");
    check({"du", "Documents"}, 0, "letter");
    check({"cat", "Documents/letter"}, 0, "dear");
    check({"diff", site.id.substr(0, 8)}, 0, "+ Documents");
    check({"diff", site.id.substr(0, 8), site.id}, 0, "");
    check({"restore", site.dest}, 0, "restored");
    CHECK(read_file(site.dest / "file") == "content");
    check({"restore", site.dest, "file"}, 0, "in place: 1");
    check({"forget", "--yes", site.id.substr(0, 8)}, 0, site.id.substr(0, 8));
    CHECK(ids_in(site).size() == 1);
    check({"key", "list"}, 0, "this passphrase");
    check({"backup", site.src}, 0, "snapshot ");
    // A repository that is one, and addresses.
    Small other;
    const Result named = site.nfreeze({"snapshots", other.url});
    CHECK_EXIT(named, 0);
    CHECK_NAMES(named.out, other.id.substr(0, 8));
    CHECK_EXIT(site.nfreeze({"ls", "-p", std::to_string(free_port()), "--retry-for", "0", "127.0.0.1:path"}),
               6);
    CHECK_EXIT(site.nfreeze({"ls", "sftp://127.0.0.1:" + std::to_string(free_port()) + "/path"}), 6);
}

TEST_CASE("restore: latest is no destination, and a missing one is named") {
    Small site;
    site.options.cwd = site.dir / "cwd";
    fs::create_directory(site.dir / "cwd");
    const Result missing = site.nfreeze({"restore", site.url});
    CHECK_EXIT(missing, 2);
    CHECK_NAMES(missing.err, "DEST");
    CHECK_NOT_NAMED(missing.err, "REPO is missing");
    site.options.env["NFREEZE_REPOSITORY"] = site.url;
    const Result latest = site.nfreeze({"restore", "latest"});
    CHECK_EXIT(latest, 2);
    CHECK((contains(latest.err, "--snapshot") || contains(latest.err, "DEST")));
    CHECK(fs::is_empty(site.dir / "cwd"));
    fs::create_directory(site.dir / "cwd/latest");
    CHECK_EXIT(site.nfreeze({"restore", "latest"}), 0);
    CHECK(fs::exists(site.dir / "cwd/latest/file"));
    for (const std::string verb :
         {"ls", "cat", "du", "diff", "forget", "snapshots", "check", "backup"}) { // without REPO anywhere
        CAPTURE(verb);
        RunOptions bare = site.options;
        bare.env.erase("NFREEZE_REPOSITORY");
        const Result result = site.nfreeze({verb}, bare);
        CHECK_EXIT(result, 2);
        CHECK(result.err != "");
    }
}

TEST_CASE("addresses: those of other tools are told from ours") {
    const Site site(Site::Kind::local);
    for (const std::string address :
         {"ssh://me@host/path", "ssh://host:22/path", "file:///srv/backup", "sftp:me@host:path",
          "sftp:host:/path", "http://host/path", "rsync://host/path"}) {
        CAPTURE(address);
        for (const Strings& words :
             {Strings{"init", address}, {"snapshots", address}, {"backup", site.src, address}}) {
            const Result result = site.nfreeze(words);
            CHECK_EXIT(result, 2);
            CHECK_NAMES(result.err, "sftp://");
        }
    }
}

TEST_CASE("keys that are lost are not taken for a repository that was never made") {
    for (const Site::Kind kind : {Site::Kind::local, Site::Kind::ssh}) {
        const Small site(kind);
        const auto check = [&] {
            for (const Strings& words : {Strings{"snapshots", site.url},
                                         {"restore", site.url, site.dest},
                                         {"backup", site.src, site.url},
                                         {"key", "list", site.url}}) {
                CAPTURE(words[0]);
                const Result result = site.nfreeze(words);
                CHECK((result.code == 1 || result.code == 5));
                CHECK_NAMES(result.err, "recovery sheet");
                CHECK_NOT_NAMED(result.err, "nfreeze init");
            }
        };
        for (const auto& key : files_below(site.repo / "keys")) fs::remove(key);
        check();
        fs::remove(site.repo / "keys");
        check();
        remove_tree(site.repo / "index");
        check(); // packs/ alone say that there was one
        // On a terminal no new one is offered in its place.
        const Result asked =
            words_of(site, {"backup", site.src, site.url}, at_terminal(site, {{"(yes/no)?", "yes"}}));
        CHECK(asked.code != 0);
        CHECK_NOT_NAMED(asked.out, "(yes/no)");
    }
}

// ---- times and ids
// ------------------------------------------------------------------------------------------

TEST_CASE("times: --at takes what --json prints, and no day that there is not") {
    const Small site;
    const std::string json = site.nfreeze({"snapshots", "--json", site.url}).out;
    const std::size_t at = json.find("\"time\":\"");
    REQUIRE(at != std::string::npos);
    const std::string time = json.substr(at + 8, 20);
    REQUIRE(time.back() == 'Z');
    RunOptions elsewhere = site.options;
    elsewhere.env["TZ"] = "America/New_York";
    for (const RunOptions& options : {site.options, elsewhere}) {
        CHECK_EXIT(site.nfreeze({"ls", "--at", time, site.url}, options), 0);
        CHECK_EXIT(site.nfreeze({"ls", "--at", "2020-01-01T00:00:00Z", site.url}, options), 1);
        CHECK_EXIT(site.nfreeze({"du", "--newer", time, site.url}, options), 0);
    }
    CHECK_EXIT(site.nfreeze({"ls", "--at", "2030-11-20T14:00:00Z", site.url}), 0);
    for (const std::string wrong : {"2026-02-31", "2026-02-29", "2026-13-01", "2026-00-10", "2026-11-31",
                                    "2026-11-20 24:30", "2026-11-20 14:60", "2026-02-31T00:00:00Z",
                                    "2026-11-20T14:00:00Zx", "2026-11-20T14:00:00+01:00x", "20261120"}) {
        CAPTURE(wrong);
        const Result result = site.nfreeze({"ls", "--at", wrong, site.url});
        CHECK_EXIT(result, 2);
        CHECK_NAMES(result.err, wrong.substr(0, 8));
    }
    CHECK_EXIT(site.nfreeze({"ls", "--at", "2028-02-29", site.url}), 0);
}

TEST_CASE("ids: capitals are the same digits") {
    const Small site;
    std::string capitals = site.id;
    std::ranges::transform(capitals, capitals.begin(),
                           [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    CHECK_EXIT(site.nfreeze({"snapshots", "--expect", capitals, site.url}), 0);
    CHECK_EXIT(site.nfreeze({"ls", "--snapshot", capitals, site.url}), 0);
    CHECK_EXIT(site.nfreeze({"diff", site.url, capitals}), 0);
    CHECK_EXIT(site.nfreeze({"snapshots", "--expect", "not an id", site.url}), 2);
    CHECK_EXIT(site.nfreeze({"forget", "--yes", site.url, capitals.substr(0, 10)}), 0);
    CHECK(ids_in(site).empty());
}

// ---- numbers
// ----------------------------------------------------------------------------------------------------

TEST_CASE("numbers: whatever is no directory counts as a file, in every verb") {
    const Site site(Site::Kind::local);
    for (int i = 0; i < 5; ++i)
        write_file(site.src / "dir" / std::to_string(i), "content " + std::to_string(i));
    fs::create_symlink("dir/1", site.src / "link");
    fs::create_symlink("nowhere", site.src / "dir/dangling");
    fs::create_hard_link(site.src / "dir/1", site.src / "hard");
    REQUIRE(mkfifo((site.src / "fifo").c_str(), 0600) == 0);
    settle();
    site.init_or_fail();
    const double all = 5 + 2 + 1 + 1, others = 3;
    Result backup = site.backup({"--json"});
    REQUIRE_EXIT(backup, 0);
    CHECK(field(backup, "new") == all);
    backup = site.backup({"--json"});
    CHECK(field(backup, "unchanged") == all);
    CHECK(field(backup, "new") + field(backup, "changed") + field(backup, "gone") == 0);
    fs::remove(site.src / "dir/dangling");
    fs::remove(site.src / "link");
    fs::create_symlink("dir/2", site.src / "link");
    backup = site.backup({"--json"});
    CHECK(field(backup, "gone") == 1);
    CHECK(field(backup, "changed") == 1);
    CHECK(field(backup, "unchanged") == all - 2);
    const Result listed = site.nfreeze({"snapshots", "--json", site.url});
    CHECK(field(listed, "files") == all - 1);
    CHECK(field(listed, "others") == others - 1);
    CHECK(field(listed, "changed_files") == 1);
    const Result table = site.nfreeze({"snapshots", site.url});
    const std::string last = lines_of(table.out).back();
    CHECK(number_in(last, site.src.string()) == all - 1);
    CHECK(lines_of(site.nfreeze({"ls", "-R", site.url}).out).size() == all - 1 + 1); // and a directory
    double in_du = 0;
    for (const std::string& line : lines_of(site.nfreeze({"du", "--json", site.url}).out))
        in_du += decimal_in(line, "\"files\":");
    CHECK(in_du == all - 1);
    Result restored = site.restore({"--json"});
    REQUIRE_EXIT(restored, 0);
    CHECK(field(restored, "restored") == all - 1);
    restored = site.restore({"--json"});
    CHECK(field(restored, "in_place") == all - 1);
    CHECK(field(restored, "restored") == 0);
    remove_tree(site.dest);
    const Result dry = site.restore({"-n", "--json"});
    CHECK(field(dry, "restored") == all - 1);
    const Result words = site.restore();
    CHECK_NAMES(words.out, "restored: 8 files");
}

TEST_CASE("numbers: what a backup, the table, ls, restore and du say of a large tree is the same") {
    const Site site(Site::Kind::local);
    make_random_tree(site.src, 7, 400, 5000);
    const AwkwardTree awkward(site.src / "awkward");
    site.init_or_fail();
    const Result backup = site.backup({"--json"});
    REQUIRE_EXIT(backup, 0);
    const double all = field(backup, "new");
    int seen = 0;
    for (const std::string& line : lines_of(site.nfreeze({"ls", "-R", "--json", site.url}).out))
        seen += !contains(line, "\"type\":\"directory\"");
    CHECK(seen == all);
    CHECK(field(site.nfreeze({"snapshots", "--json", site.url}), "files") == all);
    const Result restored = site.restore({"--json"});
    CHECK(field(restored, "restored") == all);
    CHECK(field(site.restore({"--json"}), "in_place") == all);
    double in_du = 0;
    for (const std::string& line : lines_of(site.nfreeze({"du", "--json", site.url}).out))
        in_du += decimal_in(line, "\"files\":");
    CHECK(in_du == all);
}

TEST_CASE("words: who interrupts a run is told what that run did: a restore has sent nothing") {
    Proxy proxy(shared_sshd().port());
    const Site site(shared_sshd(), proxy.port());
    for (std::uint64_t i = 0; i < 8; ++i) write_random_file(site.src / std::to_string(i), 2 * MiB, i);
    write_random_file(site.src / "large", 8 * MiB, 9);
    site.init_or_fail();
    site.backup_or_fail();
    const auto interrupted = [&](Strings words) {
        const std::int64_t before = proxy.downstream;
        words.insert(words.begin(), nfreeze_binary());
        Child child(words, site.options);
        CHECK(wait_until([&] { return proxy.downstream - before > 3 * std::int64_t(MiB); },
                         milliseconds(20'000)));
        child.kill(SIGINT);
        const Result result = child.wait();
        CHECK_EXIT(result, 130);
        CHECK_NOT_NAMED(result.err, "sent");
        return result.err;
    };
    proxy.downstream_rate = 2 * MiB;
    const std::string restore = interrupted({"restore", site.url, site.dest});
    CHECK_NAMES(restore, "restored");
    for (const Strings& words : {Strings{"check", "--read-data", site.url}, {"cat", site.url, "large"}}) {
        const std::string other = interrupted(words);
        CHECK_NOT_NAMED(other, "restored");
    }
}

TEST_CASE("words: a check that reads no contents says so") {
    const Small site;
    const Result plain = site.nfreeze({"check", site.url});
    CHECK_EXIT(plain, 0);
    CHECK_NAMES(plain.out, "--read-data");
    CHECK_NOT_NAMED(plain.out, "0 of them read");
    const Result read = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(read, 0);
    CHECK_NOT_NAMED(read.out, "--read-data");
}

TEST_CASE("words: a prune that has nothing to do says so in a line") {
    const Small site;
    for (const Strings& flags : {Strings{"-n"}, {"--yes"}, {}}) {
        Strings words{"prune"};
        words.insert(words.end(), flags.begin(), flags.end());
        words.push_back(site.url);
        const Result result = site.nfreeze(words);
        CHECK_EXIT(result, 0);
        CHECK(lines_of(result.out).size() == 1);
        CHECK_NOT_NAMED(result.out, "0 packs");
        CHECK_NAMES(result.out, "nothing");
    }
}

TEST_CASE("words: a password file that others can read is warned of") {
    Small site;
    const fs::path file = site.dir / "password";
    write_file(file, std::string(passphrase) + "\n");
    site.options.env.erase("NFREEZE_PASSWORD");
    for (const auto& [mode, warned] :
         {std::pair{0600, false}, {0400, false}, {0644, true}, {0640, true}, {0604, true}}) {
        const auto captured = mode;
        CAPTURE(captured);
        chmod(file.c_str(), static_cast<mode_t>(mode));
        const Result result = site.nfreeze({"snapshots", "--password-file", file, site.url});
        CHECK_EXIT(result, 0);
        CHECK(contains(result.err, file.string()) == warned);
        CHECK(lines_of(result.err).size() == (warned ? 1 : 0));
    }
    chmod(file.c_str(), 0600);
    RunOptions input = site.options;
    input.input = passphrase;
    const Result from_pipe =
        in_shell("cat | \"$0\" snapshots --password-file /dev/stdin \"$1\"", {site.url}, input);
    CHECK_EXIT(from_pipe, 0);
    CHECK(from_pipe.err == "");
}

TEST_SUITE_END();
