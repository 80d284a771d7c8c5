// Making room: forget, then prune, which condemns what no snapshot needs and deletes it some days
// later. What the server's clock says is the time stamps of the files in index/: days pass here by
// setting these back.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

/// A source of which a large file was replaced, and of its two snapshots the first is forgotten.
/// Returns its id.
std::string forget_a_snapshot(const Site& site) {
    write_random_file(site.src / "first", 5 * MiB, 1);
    write_random_file(site.src / "stays", 3 * MiB, 2);
    write_file(site.src / "dir/small", "content");
    site.init_or_fail();
    const std::string gone = site.backup_or_fail().snapshot;
    fs::copy_file(site.src / "first", site.dir / "first");
    fs::remove(site.src / "first");
    write_random_file(site.src / "second", 4 * MiB, 3);
    site.backup_or_fail();
    pass_days(site, 4); // what is younger than the grace period is left alone
    const Result result = site.nfreeze({"forget", "--yes", site.url, gone});
    REQUIRE_EXIT(result, 0);
    return gone;
}

/// How many packs a prune deletes.
int prune(const Site& site, const Strings& flags = {}, const std::string& repository = "") {
    Strings arguments{"prune", "--yes"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.push_back(repository.empty() ? site.url : repository);
    const Result result = site.nfreeze(arguments);
    REQUIRE_EXIT(result, 0);
    CHECK(result.err == "");
    const std::string last = lines_of(result.out).back(), head = "deleted: ";
    return last.starts_with(head) ? std::stoi(last.substr(head.size())) : 0;
}

void check_whole(const Site& site) {
    const Result result = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "errors: 0");
    CHECK(result.err == "");
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

std::size_t lines_in(const Site& site, const Strings& arguments) {
    Strings all{"snapshots"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    all.push_back(site.url);
    const Result result = site.nfreeze(all);
    REQUIRE_EXIT(result, 0);
    return lines_of(result.out).size();
}

} // namespace

TEST_SUITE_BEGIN("prune");

TEST_CASE("prune: condemns, waits three days by the server's clock, then deletes; what stays is whole") {
    for (const auto kind : {Site::Kind::local, Site::Kind::ssh}) {
        INFO((kind == Site::Kind::ssh ? "over SFTP" : "in a directory"));
        const Site site(kind);
        forget_a_snapshot(site);
        const auto packs = packs_of(site);
        const auto bytes = site.repository_bytes();
        CHECK(prune(site) == 0);
        for (const auto& pack : packs) CHECK_MESSAGE(fs::exists(pack), "condemned is not deleted");
        check_whole(site);
        pass_days(site, 2);
        copy_tree(site.repo, site.dir / "copy");
        CHECK_MESSAGE(prune(site, {}, (site.dir / "copy").string()) == 0, "two days are not three");
        pass_days(site, 1);
        CHECK(prune(site) > 0);
        CHECK(site.repository_bytes() < bytes - 4 * MiB);
        CHECK(site.repository_bytes() > 7 * MiB);
        check_whole(site);
        const std::string before = fingerprint(site.repo);
        prune(site);
        CHECK_MESSAGE(fingerprint(site.repo) == before, "there is nothing left to do");
        site.backup_or_fail();
        check_whole(site);
    }
}

TEST_CASE("prune: --grace is the time between condemning and deleting") {
    const Site site(Site::Kind::local);
    forget_a_snapshot(site);
    prune(site);
    pass_days(site, 4);
    CHECK(prune(site, {"--grace", "5d"}) == 0);
    CHECK(prune(site, {"--grace", "97h"}) == 0);
    CHECK(prune(site, {"--grace", "95h"}) > 0);
    check_whole(site);
}

TEST_CASE("prune: --now deletes at once, and what stays is whole") {
    for (const auto kind : {Site::Kind::local, Site::Kind::ssh}) {
        INFO((kind == Site::Kind::ssh ? "over SFTP" : "in a directory"));
        const Site site(kind);
        forget_a_snapshot(site);
        write_file(site.repo / "packs" / std::string(64, 'a'), "left behind by an upload that broke off");
        const auto bytes = site.repository_bytes();
        CHECK(prune(site, {"--now", "--max-unused", "0%"}) > 0);
        CHECK(site.repository_bytes() < bytes - 4 * MiB);
        CHECK(!fs::exists(site.repo / "packs" / std::string(64, 'a')));
        check_whole(site);
        CHECK(lines_in(site, {}) == 2);
        CHECK_MESSAGE(lines_in(site, {"--forgotten"}) == 1, "of the forgotten one nothing is left");
    }
}

TEST_CASE("prune: a dry run, a refusal, a wrong value or a no changes nothing") {
    const Site site(Site::Kind::local);
    const std::string gone = forget_a_snapshot(site);
    const std::string before = fingerprint(site.repo);
    const Result dry = site.nfreeze({"prune", "-n", site.url});
    CHECK_EXIT(dry, 0);
    CHECK_NAMES(dry.out, gone.substr(0, 8)); // what was forgotten is shown first
    CHECK_NAMES(dry.out, "to condemn:");
    CHECK(!contains(dry.out, "to condemn: 0 packs"));
    const Result now = site.nfreeze({"prune", "-n", "--now", site.url});
    CHECK_EXIT(now, 0);
    const Result nobody = site.nfreeze({"prune", site.url});
    CHECK_EXIT(nobody, 2);
    CHECK_NAMES(nobody.err, "--yes");
    for (const Strings& wrong : {Strings{"--grace", "0"},
                                 {"--grace", "0d"},
                                 {"--grace", "3"},
                                 {"--grace", "x"},
                                 {"--grace", "-1d"},
                                 {"--grace", ""},
                                 {"--max-unused", "10"},
                                 {"--max-unused", "101%"},
                                 {"--max-unused", "x%"},
                                 {"--max-unused", "-1%"},
                                 {"--max-unused", "1.5%"},
                                 {"--max-unused", "10%%"},
                                 {"--max-unused", ""},
                                 {"--max-repack", "x"},
                                 {"--max-repack", "-1"},
                                 {"--max-repack", "10%"}}) {
        INFO(wrong[0], " '", wrong[1], "'");
        const Result result = site.nfreeze({"prune", "--yes", wrong[0], wrong[1], site.url});
        CHECK_EXIT(result, 2);
    }
    RunOptions options = site.options;
    options.pty = true;
    options.dialog = {{"(yes/no)?", "no"}};
    const Result no = site.nfreeze({"prune", site.url}, options);
    CHECK_EXIT(no, 1);
    CHECK(fingerprint(site.repo) == before);
    options.dialog = {{"(yes/no)?", "yes"}};
    const Result yes = site.nfreeze({"prune", site.url}, options);
    CHECK_EXIT(yes, 0);
    CHECK(fingerprint(site.repo) != before);
}

TEST_CASE("prune: a share without a number is a wrong value") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Result result = site.nfreeze({"prune", "--yes", "--max-unused", "%", site.url});
    CHECK_EXIT(result, 2);
}

TEST_CASE("prune: a backup of what is condemned sends it again, and needs nothing of it later") {
    for (const bool pipe : {false, true}) {
        INFO((pipe ? "standard input" : "a file"));
        const Site site(Site::Kind::local);
        forget_a_snapshot(site);
        prune(site);
        pass_days(site, 4);
        const std::string content = read_file(site.dir / "first");
        Summary sent;
        if (pipe) {
            RunOptions options = site.options;
            options.input = content;
            const Result result = site.nfreeze({"backup", "--stdin-name", "first", site.url}, options);
            REQUIRE_EXIT(result, 0);
            sent = summary_of(result);
        } else {
            fs::copy_file(site.dir / "first", site.src / "first");
            sent = site.backup_or_fail();
        }
        CHECK(sent.fresh_bytes >= 5 * MiB);
        CHECK(prune(site) > 0);
        if (!pipe) check_whole(site);
        const Result result = site.nfreeze({"cat", "--snapshot", sent.snapshot, site.url, "first"});
        CHECK_EXIT(result, 0);
        CHECK(result.out == content);
        const Result checked = site.nfreeze({"check", "--read-data", site.url});
        CHECK_EXIT(checked, 0);
    }
}

TEST_CASE("prune: a forgotten snapshot can be taken back until its packs are deleted, and then stays") {
    const Site site(Site::Kind::local);
    const std::string gone = forget_a_snapshot(site);
    CHECK(lines_in(site, {}) == 2); // with a headline
    CHECK(lines_in(site, {"--forgotten"}) == 2);
    prune(site);
    pass_days(site, 4);
    SUBCASE("within the grace period") {
        const Result undo = site.nfreeze({"forget", "--undo", site.url, gone});
        REQUIRE_EXIT(undo, 0);
        const std::string back = undo.out.substr(std::string("snapshot ").size(), 32);
        CHECK(lines_in(site, {}) == 3);
        CHECK(prune(site) > 0);
        check_whole(site);
        remove_tree(site.dest);
        const Result restored = site.nfreeze({"restore", "--snapshot", back, site.url, site.dest.string()});
        CHECK_EXIT(restored, 0);
        CHECK(read_file(site.dest / "first") == read_file(site.dir / "first"));
        CHECK(!fs::exists(site.dest / "second"));
    }
    SUBCASE("later") {
        CHECK(prune(site, {"--max-unused", "0%"}) > 0);
        const std::string before = fingerprint(site.repo);
        const Result undo = site.nfreeze({"forget", "--undo", site.url, gone});
        CHECK((undo.code == 1 || undo.code == 2));
        CHECK(lines_of(undo.err).size() == 1);
        CHECK(fingerprint(site.repo) == before);
        check_whole(site);
    }
}

TEST_CASE("prune: refuses while a part of the index is missing, and deletes nothing") {
    const Site site(Site::Kind::local);
    forget_a_snapshot(site);
    prune(site);
    pass_days(site, 4);
    SUBCASE("a segment is cut") {
        const auto segment = files_below(site.repo / "index").back();
        chmod(segment.c_str(), 0600);
        fs::resize_file(segment, fs::file_size(segment) / 2);
    }
    SUBCASE("a pack of a snapshot that stays is gone") {
        for (const auto& pack : packs_of(site))
            if (const auto size = fs::file_size(pack); size > 7 * MiB / 2 && size < 5 * MiB) fs::remove(pack);
    }
    const std::string before = fingerprint(site.repo);
    for (const Strings& how : {Strings{"prune", "--yes", site.url},
                               {"prune", "--yes", "--now", site.url},
                               {"prune", "-n", site.url}}) {
        const Result result = site.nfreeze(how);
        CHECK_EXIT(result, 5);
    }
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("prune: on an append-only server it says why it cannot delete, and all else goes on to work") {
    Sshd server(append_only());
    const Site site(server);
    forget_a_snapshot(site);
    const auto packs = packs_of(site);
    CHECK(prune(site) == 0); // condemning only adds
    pass_days(site, 4);
    for (const Strings& how : {Strings{"prune", "--yes", site.url}, {"prune", "--yes", "--now", site.url}}) {
        const Result result = site.nfreeze(how);
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, "append-only");
        CHECK_MESSAGE(lines_of(result.err).size() == 1, result.err);
    }
    for (const auto& pack : packs) CHECK(fs::exists(pack));
    fs::copy_file(site.dir / "first", site.src / "first"); // condemned, so it is sent again
    CHECK(site.backup_or_fail().fresh_bytes >= 5 * MiB);
    check_whole(site);
    // Somebody with the right to delete prunes.
    Site owner(Site::Kind::local);
    owner.url = site.repo.string();
    CHECK(prune(owner) > 0);
    give_to(site.repo, server.uid()); // it was the same account, behind another door
    check_whole(site);
    site.backup_or_fail();
}

namespace {

double number_of(const Result& result, const std::string& name) {
    std::string all;
    for (const std::string& line : lines_of(result.out))
        if (contains(line, "\"" + name + "\":")) all = line;
    return decimal_in(all, "\"" + name + "\":");
}

} // namespace

TEST_CASE("prune: a dry run shows what the run then does") {
    const auto compare_both = [](const Site& site, const Strings& flags) {
        CAPTURE(joined(flags));
        Strings words{"prune", "-n", "--json"};
        words.insert(words.end(), flags.begin(), flags.end());
        words.push_back(site.url);
        const Result dry = site.nfreeze(words);
        REQUIRE_EXIT(dry, 0);
        words[1] = "--yes";
        const Result run = site.nfreeze(words);
        REQUIRE_EXIT(run, 0);
        for (const char* name : {"packs", "bytes", "packs_to_condemn", "bytes_to_condemn", "bytes_to_copy",
                                 "bytes_young", "bytes_condemned", "bytes_due"})
            CHECK_MESSAGE(number_of(dry, name) == number_of(run, name), std::string(name));
        const bool at_once = std::ranges::count(flags, "--now") > 0;
        const double due = number_of(dry, "bytes_due") + (at_once ? number_of(dry, "bytes_to_condemn") : 0);
        const double deleted = contains(run.out, "packs_deleted") ? number_of(run, "bytes_deleted") : 0;
        CHECK(deleted == due);
    };
    const Site site(Site::Kind::local);
    forget_a_snapshot(site);
    write_file(site.repo / "packs" / std::string(64, 'a'), "left behind by an upload that broke off");
    set_mtime(site.repo / "packs" / std::string(64, 'a'), time(nullptr) - 3 * 86'400, 0);
    write_file(site.repo / "packs" / std::string(64, 'b'), "young");
    copy_tree(site.repo, site.dir / "copy");
    for (const Strings& flags :
         {Strings{}, {"--max-unused", "0%"}, {"--grace", "1d"}, {"--now"}, {"--now", "--max-unused", "0%"}}) {
        remove_tree(site.repo);
        copy_tree(site.dir / "copy", site.repo);
        compare_both(site, flags);
        pass_days(site, 2);
        compare_both(site, flags);
        pass_days(site, 5); // and nobody has written since
        compare_both(site, flags);
        compare_both(site, flags);
        check_whole(site);
    }
}

TEST_CASE("prune: a pack that was condemned nobody knows when is not due before a grace period of which the "
          "time is known") {
    if (!have_reader()) return;
    for (const std::string since :
         {"1", "86400", "946684799", "0"}) { // seconds: 1970, the last one of 1999, and that of the segment
        CAPTURE(since);
        const Site site(Site::Kind::local);
        forget_a_snapshot(site);
        const std::string segment = plant(site, {"say", "condemned", "all", since});
        const std::size_t before = packs_of(site).size();
        pass_days(site, 30);
        if (since == "0")
            set_mtime(site.repo / "index" / segment, 0, 0); // of which the server knows no time either
        const Result dry = site.nfreeze({"prune", "-n", "--json", site.url});
        CHECK(number_of(dry, "bytes_due") == 0);
        CHECK(prune(site) == 0); // it stores anew what is needed of them
        CHECK(packs_of(site).size() >= before);
        pass_days(site, 2);
        CHECK(prune(site) == 0);
        check_whole(site);
        CHECK(prune(site, {"--now"}) > 0);
        check_whole(site);
    }
}

TEST_CASE("prune: --max-unused takes a share or a size") {
    const Site site(Site::Kind::local);
    forget_a_snapshot(site);
    for (const char* amount : {"0", "0%", "500M", "10%", "1G", "100%", "2K"}) {
        CAPTURE(std::string(amount));
        CHECK_EXIT(site.nfreeze({"prune", "-n", "--max-unused", amount, site.url}), 0);
    }
    const auto copies = [&](const char* amount) {
        return number_of(site.nfreeze({"prune", "-n", "--json", "--max-unused", amount, site.url}),
                         "bytes_to_copy");
    };
    CHECK(copies("0") == copies("0%"));
    CHECK(copies("0") > 1 * MiB); // of the first pack "stays" is worth keeping
    CHECK(copies("500M") == 0);
    CHECK(copies("100%") == copies("1G"));
}

TEST_SUITE_END();
