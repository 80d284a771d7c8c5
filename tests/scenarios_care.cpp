// Looking after a repository: check, forget, cat.
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

} // namespace

TEST_SUITE_BEGIN("care");

TEST_CASE("check: a repository that is whole passes, read or not, and nothing is written") {
    const Site site(Site::Kind::local);
    make_random_tree(site.src, 1, 200, 100'000);
    site.init_or_fail();
    site.backup_or_fail();
    write_file(site.src / "new", "content");
    site.backup_or_fail();
    const std::string before = fingerprint(site.repo);
    for (const char* how : {"", "--read-data", "--read-data=50%", "--read-data=1K", "--read-data=2/3"}) {
        Strings arguments{"check", site.url};
        if (*how != 0) arguments.insert(arguments.begin() + 1, how);
        const Result result = site.nfreeze(arguments);
        CHECK_EXIT(result, 0);
        CHECK_NAMES(result.out, "2 snapshots");
        CHECK_NAMES(result.out, "errors: 0");
    }
    for (const char* how :
         {"--read-data=x", "--read-data=101%", "--read-data=4/3", "--read-data=0/3", "--read-data=3/"}) {
        const Result result = site.nfreeze({"check", how, site.url});
        CHECK_EXIT(result, 2);
    }
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("check: the parts of a whole are together all packs") {
    const Site site(Site::Kind::local);
    for (std::uint64_t i = 0; i < 6; ++i) write_random_file(site.src / std::to_string(i), 16 * MiB, i);
    site.init_or_fail();
    site.backup_or_fail();
    std::size_t sum = 0;
    for (int part = 1; part <= 3; ++part) {
        const Result result = site.nfreeze({"check", "--read-data=" + std::to_string(part) + "/3", site.url});
        REQUIRE_EXIT(result, 0);
        sum += std::stoul(result.out.substr(std::string("reading ").size()));
    }
    CHECK(sum == packs_of(site).size());
    const Result some = site.nfreeze({"check", "--read-data=20M", site.url});
    const auto chosen = std::stoul(some.out.substr(std::string("reading ").size()));
    CHECK(chosen >= 2);  // of about 16 MB each
    CHECK(chosen < sum); // two are small: the last one and that with the tree
}

TEST_CASE("check: reading files goes on behind those that are damaged") {
    const Site site(Site::Kind::local);
    for (std::uint64_t i = 0; i < 24; ++i) write_random_file(site.src / std::to_string(i), 4 * MiB, i);
    site.init_or_fail();
    site.backup_or_fail();
    for (const auto& pack : packs_of(site)) {
        if (fs::file_size(pack) < MiB) continue; // that with the tree
        std::string bytes = read_file(pack);
        for (std::size_t at = 1'000'000; at < bytes.size(); at += 3 * MiB)
            bytes[at] = static_cast<char>(bytes[at] ^ 1);
        chmod(pack.c_str(), 0600);
        write_file(pack, bytes);
    }
    const Result result = site.nfreeze({"check", "--read-data=files:24", site.url});
    CHECK_EXIT(result, 5);
    CHECK(lines_of(result.err).size() > 10);
}

TEST_CASE("check: of a damaged pack, the files are named that cannot be restored, and no others") {
    const Site site(Site::Kind::local);
    for (std::uint64_t i = 0; i < 100; ++i)
        write_random_file(site.src / ("file" + std::to_string(i)), 100'000, i);
    site.init_or_fail();
    site.backup_or_fail();
    const auto packs = packs_of(site);
    flip_byte(*std::ranges::max_element(packs, {}, [](auto& pack) { return fs::file_size(pack); }),
              5'000'000);
    const Result check = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(check, 5);
    const Result restore = site.restore();
    CHECK_EXIT(restore, 5);
    int lost = 0;
    for (int i = 0; i < 100; ++i) {
        const std::string name = "file" + std::to_string(i);
        CAPTURE(name);
        const bool is_there = fs::exists(site.dest / name);
        CHECK(contains(check.err, "'" + name + "'") == !is_there);
        lost += !is_there;
    }
    CHECK(lost >= 1);
    CHECK(lost <= 50);
    CHECK_NAMES(check.out, "errors: " + std::to_string(lost + 1)); // and the pack
}

TEST_CASE("check: each file that lost a part is named, with each snapshot that has it") {
    const Site site(Site::Kind::local);
    write_random_file(site.src / "first", 20 * MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    const auto before = packs_of(site);
    write_random_file(site.src / "second", 3 * MiB, 2);
    site.backup_or_fail();
    const auto ids = ids_in(site);
    REQUIRE(ids.size() == 2);
    fs::path lost;
    for (const auto& pack : before)
        if (fs::file_size(pack) > 10 * MiB) lost = pack;
    SUBCASE("a pack that is gone") { fs::remove(lost); }
    SUBCASE("a pack that is shorter") {
        chmod(lost.c_str(), 0600);
        fs::resize_file(lost, fs::file_size(lost) - 1);
    }
    SUBCASE("a pack with a byte that changed, which only reading shows") {
        flip_byte(lost, 5 * MiB);
        const Result result = site.nfreeze({"check", site.url});
        CHECK_EXIT(result, 0);
    }
    const Result result = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(result, 5);
    CHECK_NAMES(result.err, lost.filename().string());
    for (const auto& id : ids) CHECK_NAMES(result.err, "'first' is lost or damaged (snapshot " + id + ")");
    CHECK(!contains(result.err, "'second'"));
    CHECK(!contains(result.out, "errors: 0"));
    // A backup sends anew what is not there; then all is well again.
    if (fs::exists(lost) && fs::file_size(lost) > 10 * MiB) fs::remove(lost);
    site.backup_or_fail({"--checksum"});
    const Result healed = site.nfreeze({"check", "--read-data", site.url});
    CHECK(!contains(healed.err, "'first'"));
}

TEST_CASE("check: a damaged tree is named with its snapshot") {
    const Site site(Site::Kind::local);
    for (int i = 0; i < 300; ++i) write_file(site.src / std::to_string(i), "content " + std::to_string(i));
    site.init_or_fail();
    site.backup_or_fail();
    for (const auto& pack : packs_of(site)) flip_byte(pack, 100);
    const Result result = site.nfreeze({"check", site.url});
    CHECK_EXIT(result, 5);
    CHECK_NAMES(result.err, ids_in(site)[0]);
}

TEST_CASE("cat: prints a file as it was, holes and all") {
    const Site site(Site::Kind::local);
    write_random_file(site.src / "large", 12 * MiB, 1);
    write_file(site.src / "dir/small", "content\n");
    write_file(site.src / "sparse", "begin");
    fs::resize_file(site.src / "sparse", 5 * MiB);
    append_file(site.src / "sparse", "end");
    site.init_or_fail();
    site.backup_or_fail();
    for (const char* file : {"large", "dir/small", "sparse"}) {
        const Result result = site.nfreeze({"cat", site.url, file});
        CHECK_EXIT(result, 0);
        CHECK(result.out == read_file(site.src / file));
    }
    for (const char* file : {"dir", "not-there"}) {
        const Result result = site.nfreeze({"cat", site.url, file});
        CHECK_EXIT(result, 1);
        CHECK(result.out == "");
    }
}

TEST_CASE("diff: what is new, gone, changed, or changed in its metadata only") {
    const Site site(Site::Kind::local);
    for (const char* file : {"same", "gone", "content", "mode", "dir/type"})
        write_file(site.src / file, "content");
    site.init_or_fail();
    site.backup_or_fail();
    fs::remove(site.src / "gone");
    write_file(site.src / "new", "content");
    write_file(site.src / "content", "CONTENT");
    chmod((site.src / "mode").c_str(), 0600);
    fs::remove(site.src / "dir/type");
    fs::create_symlink("elsewhere", site.src / "dir/type");
    site.backup_or_fail();
    const auto ids = ids_in(site);
    const std::string wanted = "U .\nM content\nU dir\nM dir/type\n- gone\nU mode\n+ new\n";
    const Result newest = site.nfreeze({"diff", site.url, ids[0]});
    CHECK_EXIT(newest, 0);
    CHECK(newest.out == wanted);
    const Result both = site.nfreeze({"diff", site.url, ids[1], ids[0]});
    CHECK_NAMES(both.out, "+ gone");
    CHECK_NAMES(both.out, "- new");
    const Result none = site.nfreeze({"diff", site.url, ids[1]});
    CHECK(none.out == "");
    const Result wrong = site.nfreeze({"diff", site.url, "zz"});
    CHECK_EXIT(wrong, 1);
}

TEST_CASE("expect: an older state of the repository is noticed, one that lost nothing passes") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "1");
    site.init_or_fail();
    site.backup_or_fail();
    copy_tree(site.repo, site.dir / "older");
    write_file(site.src / "file2", "2");
    const std::string id = site.backup_or_fail().snapshot;
    for (int i = 0; i < 20; ++i) { // merges of segments
        write_file(site.src / "changing", std::to_string(i));
        site.backup_or_fail();
    }
    const Result forgotten = site.nfreeze({"forget", "--yes", site.url, id});
    REQUIRE_EXIT(forgotten, 0);
    for (const char* verb : {"snapshots", "check", "ls"}) {
        const Result result = site.nfreeze({verb, "--expect", id, site.url});
        CHECK_EXIT(result, 0);
        const Result old = site.nfreeze({verb, "--expect", id, (site.dir / "older").string()});
        CHECK_EXIT(old, 5);
        CHECK_NAMES(old.err, id);
        CHECK(old.out == "");
    }
    const Result pruned =
        site.nfreeze({"prune", "--now", "--yes", site.url}); // nothing of it is left but its id
    REQUIRE_EXIT(pruned, 0);
    CHECK(lines_of(site.nfreeze({"snapshots", "--forgotten", site.url}).out).size() == 1);
    const Result after = site.nfreeze({"snapshots", "--expect", id, site.url});
    CHECK_EXIT(after, 0);
    const Result vague = site.nfreeze({"snapshots", "--expect", "1", site.url});
    CHECK_EXIT(vague, 2);
}

TEST_CASE("expect: a verb that takes it heeds it") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Result result = site.nfreeze({"key", "list", "--expect", "0123456789", site.url});
    CHECK((result.code == 5 || result.code == 2));
}

TEST_CASE("key: several passphrases open a repository, and the last cannot be removed") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    site.backup_or_fail();
    write_file(site.dir / "second", "another passphrase\n");
    write_file(site.dir / "third", "a third one\n");
    write_file(site.dir / "empty", "\n");
    const auto with = [&](const Strings& arguments, const char* file) {
        RunOptions options = site.options;
        if (*file != 0)
            options.env.insert_or_assign("NFREEZE_PASSWORD", lines_of(read_file(site.dir / file))[0]);
        return site.nfreeze(arguments, options);
    };
    const Result added =
        site.nfreeze({"key", "add", "--new-password-file", (site.dir / "second").string(), site.url});
    REQUIRE_EXIT(added, 0);
    CHECK(with({"snapshots", site.url}, "").code == 0);
    CHECK(with({"snapshots", site.url}, "second").code == 0);
    CHECK(with({"snapshots", site.url}, "third").code == 4);
    CHECK(lines_of(with({"key", "list", site.url}, "").out).size() == 3);
    CHECK(with({"key", "passwd", "--new-password-file", (site.dir / "third").string(), site.url}, "second")
              .code == 0);
    CHECK(with({"snapshots", site.url}, "second").code == 4);
    CHECK(with({"snapshots", site.url}, "third").code == 0);
    CHECK(with({"snapshots", site.url}, "").code == 0);
    CHECK(with({"key", "add", "--new-password-file", (site.dir / "empty").string(), site.url}, "").code == 1);
    CHECK(with({"key", "remove", site.url}, "").code == 2);
    CHECK(with({"key", "steal", site.url}, "").code == 2);
    std::string id;
    for (const auto& line : lines_of(with({"key", "list", site.url}, "").out))
        if (contains(line, "this passphrase")) id = line.substr(0, 8);
    CHECK(with({"key", "remove", site.url, id}, "third").code == 0);
    CHECK(with({"snapshots", site.url}, "").code == 4);
    const Result last = with(
        {"key", "remove", site.url, lines_of(with({"key", "list", site.url}, "third").out)[1].substr(0, 8)},
        "third");
    CHECK_EXIT(last, 1);
    CHECK_NAMES(last.err, "last key");
    CHECK(with({"check", "--read-data", site.url}, "third").code == 0);
}

TEST_CASE("forget: snapshots go by id and by rule, stay on the disk, and can be taken back") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    for (int i = 0; i < 4; ++i) {
        write_file(site.src / std::to_string(i), "content");
        site.backup_or_fail(i == 0 ? Strings{"--tag", "first"} : Strings{});
    }
    const auto ids = ids_in(site);
    REQUIRE(ids.size() == 4);
    SUBCASE("without a rule or an id it refuses, and so it does with both") {
        for (const Strings& arguments : {Strings{"forget", site.url},
                                         {"forget", "--keep-last", "1", site.url, ids[0]},
                                         {"forget", "--yes", site.url, "xyz"},
                                         {"forget", "--keep-last", "0", site.url},
                                         {"forget", "--keep-last", "1", site.url}}) {
            const Result result = site.nfreeze(arguments); // the last: nobody to ask, and no --yes
            CHECK_EXIT(result, 2);
        }
        CHECK(ids_in(site) == ids);
    }
    SUBCASE("a dry run changes nothing") {
        const std::string before = fingerprint(site.repo);
        const Result result = site.nfreeze({"forget", "-n", "--keep-last", "1", site.url});
        CHECK_EXIT(result, 0);
        CHECK_NAMES(result.out, "go: 3");
        CHECK(fingerprint(site.repo) == before);
    }
    SUBCASE("by id") {
        const Result result = site.nfreeze({"forget", "--yes", site.url, ids[1], ids[2]});
        CHECK_EXIT(result, 0);
        CHECK(ids_in(site) == Strings{ids[0], ids[3]});
        CHECK(ids_in(site, {"--forgotten"}) == Strings{ids[1], ids[2]});
        const Result back = site.nfreeze({"forget", "--undo", site.url, ids[2]});
        CHECK_EXIT(back, 0);
        CHECK(ids_in(site).size() == 3);
        const Result restored =
            site.nfreeze({"restore", "--snapshot", back.out.substr(std::string("snapshot ").size(), 32),
                          site.url, site.dest.string()});
        CHECK_EXIT(restored, 0);
        CHECK(fs::exists(site.dest / "2"));
        CHECK(!fs::exists(site.dest / "3"));
    }
    SUBCASE("by rule") {
        const Result result =
            site.nfreeze({"forget", "--yes", "--keep-last", "2", "--keep-tag", "first", site.url});
        CHECK_EXIT(result, 0);
        CHECK(ids_in(site) == Strings{ids[0], ids[2], ids[3]});
        const Result within = site.nfreeze({"forget", "--yes", "--keep-within", "1d", site.url});
        CHECK_EXIT(within, 0);
        CHECK(ids_in(site).size() == 3);
    }
    SUBCASE("other hosts and sources have their own") {
        fs::create_directories(site.dir / "other");
        write_file(site.dir / "other/file", "content");
        const Result other = site.nfreeze({"backup", (site.dir / "other").string(), site.url});
        REQUIRE_EXIT(other, 0);
        site.backup_or_fail({"--host", "elsewhere"});
        const Result result = site.nfreeze({"forget", "--yes", "--keep-last", "1", site.url});
        CHECK_EXIT(result, 0);
        CHECK(ids_in(site).size() == 3);
    }
    SUBCASE("asked on a terminal") {
        RunOptions options = site.options;
        options.pty = true;
        options.dialog = {{"(yes/no)?", "no"}};
        const Result no = site.nfreeze({"forget", "--keep-last", "1", site.url}, options);
        CHECK_EXIT(no, 1);
        CHECK(ids_in(site) == ids);
        options.dialog = {{"(yes/no)?", "yes"}};
        const Result yes = site.nfreeze({"forget", "--keep-last", "1", site.url}, options);
        CHECK_EXIT(yes, 0);
        CHECK(ids_in(site) == Strings{ids[3]});
    }
}

namespace {

// Takes a file away, or a directory with all in it, and gives the directory above the time that it had.
void take_out(const fs::path& path) {
    const timespec time = mtime_of(path.parent_path());
    REQUIRE(fs::exists(path));
    remove_tree(path);
    set_mtime(path.parent_path(), time.tv_sec, time.tv_nsec);
}

// Three snapshots with two images that should never have been stored (the third has one of them) and some
// text; `was[i]`: what each of them is, as it is restored.
struct Images : Site {
    Strings ids;
    std::vector<fs::path> was;

    // `everything`: with all else that a tree may hold.
    explicit Images(bool everything) : Site(Kind::local) {
        if (everything)
            const AwkwardTree tree(src / "tree");
        else
            make_random_tree(src / "tree", 1, 20, 10'000);
        write_file(src / "notes", "1");
        write_random_file(src / "big.iso", 3 * MiB, 7001);
        write_random_file(src / "d/other.iso", 2 * MiB, 7002);
        write_file(src / "d/text", "text");
        init_or_fail();
        for (int i = 0; i < 3; ++i) {
            write_file(src / "notes", std::to_string(i));
            if (i == 2) fs::remove(src / "big.iso");
            backup_or_fail({"--tag", "tag" + std::to_string(i), "--allow-shrink"});
            was.push_back(dir / ("was" + std::to_string(i)));
            const Result restored = nfreeze({"restore", url, was.back()});
            REQUIRE_EXIT(restored, 0);
            CHECK(compare(src, was.back()) == "");
        }
        ids = ids_in(*this);
        REQUIRE(ids.size() == 3);
    }
    // A copy of one that is made once.
    Images() : Site(Kind::local) {
        static const Images first(false);
        copy_tree(first.repo, repo);
        ids = first.ids;
        for (const auto& each : first.was) {
            was.push_back(dir / each.filename());
            copy_tree(each, was.back());
        }
    }
    [[nodiscard]] Result forget(const Strings& flags, const Strings& which = {}) const {
        Strings arguments{"forget"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        arguments.push_back(url);
        arguments.insert(arguments.end(), which.begin(), which.end());
        return nfreeze(arguments);
    }
    // The snapshots are, by their time, what `was` is now.
    void check_snapshots() const {
        const auto now = ids_in(*this);
        REQUIRE(now.size() == 3);
        for (std::size_t i = 0; i < 3; ++i) {
            CAPTURE(i);
            remove_tree(dest);
            const Result restored = nfreeze({"restore", "--snapshot", now[i], url, dest});
            CHECK_EXIT(restored, 0);
            CHECK(compare(was[i], dest) == "");
        }
    }
};

} // namespace

TEST_CASE("forget --path --purge: takes files out of all snapshots and changes nothing else") {
    const Images site(true);
    const std::string before = fingerprint(site.repo);
    const Result dry = site.forget({"-n", "--purge", "--path", "*.iso"});
    CHECK_EXIT(dry, 0);
    CHECK_NAMES(dry.out, "2 entries go from " + site.ids[0]);
    CHECK_NAMES(dry.out, "2 entries go from " + site.ids[1]);
    CHECK_NAMES(dry.out, "1 entry goes from " + site.ids[2]);
    CHECK_EXIT(site.forget({"--purge", "--path", "*.iso"}), 2);          // nobody to ask
    CHECK_EXIT(site.forget({"--yes", "--purge", "--path", "*.not"}), 1); // a slip of the hand, probably
    CHECK(fingerprint(site.repo) == before);
    const auto packs_before = bytes_below(site.repo / "packs");

    REQUIRE_EXIT(site.forget({"--yes", "--purge", "--path", "*.iso"}), 0);
    const auto fresh = ids_in(site);
    for (const auto& id : site.ids) {
        CHECK(std::find(fresh.begin(), fresh.end(), id) == fresh.end());
    }
    CHECK_EXIT(site.nfreeze({"snapshots", "--expect", site.ids[0], site.url}), 0); // nothing is withheld
    auto old = ids_in(site, {"--forgotten"}), wanted = site.ids;
    std::sort(old.begin(), old.end());
    std::sort(wanted.begin(), wanted.end());
    CHECK(old == wanted);
    for (std::size_t i = 0; i < 3; ++i) {
        if (i < 2) take_out(site.was[i] / "big.iso");
        take_out(site.was[i] / "d/other.iso");
        const Result tagged = site.nfreeze({"snapshots", "--tag", "tag" + std::to_string(i), site.url});
        CHECK_NAMES(tagged.out, fresh[i]); // who, when and what for are as before
    }
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
    REQUIRE_EXIT(site.nfreeze({"prune", "--now", "--yes", "--max-unused", "0%", site.url}), 0);
    const auto packs_after = bytes_below(site.repo / "packs");
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
    CHECK_MESSAGE(packs_before - packs_after > 5 * MiB - 100'000,
                  "the bytes are really gone: " << packs_before << " before, " << packs_after << " after");
    site.check_snapshots();
    CHECK(site.forget({"--undo"}, {site.ids[0]}).code != 0); // there is nothing left to take back
}

TEST_CASE("forget --path: undo brings the old snapshots back with their files") {
    const Images site;
    REQUIRE_EXIT(site.forget({"--yes", "--purge", "--path", "*.iso"}), 0);
    const auto purged = ids_in(site);
    REQUIRE_EXIT(site.forget({"--undo"}, site.ids), 0);
    REQUIRE_EXIT(site.forget({"--yes"}, purged), 0);
    site.check_snapshots();
}

TEST_CASE("forget --path: only from the snapshots that were given or that the rules drop") {
    const Images site;
    SUBCASE("by id") {
        REQUIRE_EXIT(site.forget({"--yes", "--path", "*.iso"}, {site.ids[1]}), 0);
        take_out(site.was[1] / "big.iso");
        take_out(site.was[1] / "d/other.iso");
        CHECK(ids_in(site, {"--forgotten"}) == Strings{site.ids[1]});
    }
    SUBCASE("by rule") {
        REQUIRE_EXIT(site.forget({"--yes", "--keep-last", "1", "--path", "*.iso"}), 0);
        for (std::size_t i = 0; i < 2; ++i) {
            take_out(site.was[i] / "big.iso");
            take_out(site.was[i] / "d/other.iso");
        }
        CHECK(ids_in(site)[2] == site.ids[2]);
    }
    SUBCASE("by tag") {
        REQUIRE_EXIT(site.forget({"--yes", "--purge", "--tag", "tag0", "--path", "*.iso"}), 0);
        take_out(site.was[0] / "big.iso");
        take_out(site.was[0] / "d/other.iso");
        CHECK(ids_in(site, {"--forgotten"}) == Strings{site.ids[0]});
    }
    SUBCASE("at the top only") {
        REQUIRE_EXIT(site.forget({"--yes", "--purge", "--path", "/*.iso"}), 0);
        for (std::size_t i = 0; i < 2; ++i) take_out(site.was[i] / "big.iso");
        CHECK(ids_in(site)[2] == site.ids[2]); // it has none: it is not written anew
    }
    SUBCASE("all but one, and a directory with what is in it") {
        REQUIRE_EXIT(
            site.forget({"--yes", "--purge", "--path", "*.iso", "--path", "!big.iso", "--path", "tree/"}), 0);
        for (std::size_t i = 0; i < 3; ++i) {
            take_out(site.was[i] / "d/other.iso");
            take_out(site.was[i] / "tree");
        }
    }
    site.check_snapshots();
}

TEST_CASE("forget --path: what is not clear is refused") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot, before = fingerprint(site.repo);
    for (const Strings& flags :
         {Strings{"--purge"}, {"--path", "file"}, {"--purge", "--keep-last", "1", "--path", "file"}}) {
        Strings arguments{"forget", "--yes"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        arguments.push_back(site.url);
        CHECK_EXIT(site.nfreeze(arguments), 2);
    }
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--purge", "--path", "file", site.url, id}), 2);
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--purge", site.url, id}), 2);
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--path", "file", site.url, "no id"}), 2);
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("forget --path: an empty directory with a name that nobody should see goes as well") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    fs::create_directories(site.src / "secret/deeper");
    site.init_or_fail();
    site.backup_or_fail();
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--purge", "--path", "secret", site.url}), 0);
    const Result listed = site.nfreeze({"ls", "-R", site.url});
    CHECK(listed.out == "file\n");
}

TEST_CASE("check --read-data: some files by chance") {
    const Site site(Site::Kind::local);
    for (int i = 0; i < 5; ++i)
        write_file(site.src / std::to_string(i), random_bytes(300'000, static_cast<std::uint64_t>(i)));
    write_file(site.src / "empty", "");
    site.init_or_fail();
    site.backup_or_fail();
    const auto check = [&](const std::string& how) {
        return site.nfreeze({"check", "--read-data=" + how, site.url});
    };
    for (const char* how : {"files:5", "files:2", "files:1", "files:1000"}) {
        const Result result = check(how);
        CHECK_EXIT(result, 0);
        const auto wanted = std::min<std::uint64_t>(5, std::stoull(std::string(how).substr(6)));
        CHECK(number_in(result.out, "reading ") == wanted); // an empty file is no help
        CHECK_NAMES(result.out, "reading " + std::to_string(wanted) + " files");
    }
    for (const auto& each : packs_of(site))
        if (fs::file_size(each) > MiB) flip_byte(each, 700'000);
    CHECK_EXIT(site.nfreeze({"check", site.url}), 0); // without reading nobody sees it
    const Result found = check("files:5");
    CHECK_EXIT(found, 5);
    CHECK_NAMES(found.err, "cannot be read (snapshot " + ids_in(site)[0] + ")");
    for (const char* how : {"files:", "files:0", "files:x", "files:-1", "files:2000000", "file:5", "files"}) {
        CAPTURE(how);
        CHECK_EXIT(check(how), 2);
    }
}

TEST_CASE("check --read-data: what is new since some days") {
    const Site site(Site::Kind::local);
    write_random_file(site.src / "old", MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    const auto old = packs_of(site);
    for (const auto& pack : old) set_mtime(pack, time(nullptr) - 30 * 86'400, 0);
    write_random_file(site.src / "new", MiB, 2);
    site.backup_or_fail();
    auto fresh = packs_of(site);
    std::erase_if(fresh,
                  [&](const fs::path& p) { return std::find(old.begin(), old.end(), p) != old.end(); });
    REQUIRE(!fresh.empty());
    const auto read_with = [&](const std::string& how, int code) {
        const Result result = site.nfreeze({"check", "--read-data=newer:" + how, site.url});
        CHECK_EXIT(result, code);
        return number_in(result.out, "reading ");
    };
    CHECK(read_with("7d", 0) == fresh.size());
    CHECK(read_with("700h", 0) == fresh.size());
    CHECK(read_with("5w", 0) == fresh.size() + old.size());
    CHECK(read_with("0", 0) <= fresh.size()); // as old as the newest segment, or less
    const auto large_of = [](const std::vector<fs::path>& packs) {
        return *std::max_element(packs.begin(), packs.end(),
                                 [](auto& a, auto& b) { return fs::file_size(a) < fs::file_size(b); });
    };
    flip_byte(large_of(old), 500'000);
    set_mtime(large_of(old), time(nullptr) - 30 * 86'400, 0);
    read_with("7d", 0);
    read_with("40d", 5);
    flip_byte(large_of(fresh), 500'000);
    read_with("7d", 5);
    for (const char* how : {"newer:", "newer:x", "newer:7", "newer:-1d", "newer:1y", "newer:d"}) {
        CAPTURE(how);
        CHECK_EXIT(site.nfreeze({"check", std::string("--read-data=") + how, site.url}), 2);
    }
}

TEST_CASE("backup --verify: reads back what was uploaded, or a part of it") {
    const Site site(Site::Kind::local);
    write_random_file(site.src / "before", 3 * MiB, 9);
    site.init_or_fail();
    site.backup_or_fail();
    for (std::uint64_t i = 0; i < 3; ++i) write_random_file(site.src / std::to_string(i), 16 * MiB, i);
    const auto before = packs_of(site);
    const auto bytes_read = [](const Result& result) {
        REQUIRE_EXIT(result, 0);
        const Strings lines = lines_of(result.out);
        REQUIRE(lines.size() == 2);
        CHECK_NAMES(lines[1], "\"errors\":0");
        return number_in(lines[1], "\"bytes_read\":");
    };
    const auto all = bytes_read(site.backup({"--verify", "--json"}));
    std::uint64_t sent = 0;
    for (const auto& pack : packs_of(site))
        if (std::find(before.begin(), before.end(), pack) == before.end()) sent += fs::file_size(pack);
    CHECK(all == sent); // not what was there before
    CHECK(all > 48 * MiB);
    for (const auto& [flag, least, most] : {std::tuple{"--verify=10%", sent / 10, sent / 2},
                                            {"--verify=20M", 20 * MiB, sent * 3 / 4},
                                            {"--verify=0%", std::uint64_t(0), std::uint64_t(0)}}) {
        const std::string how = flag;
        for (std::uint64_t i = 0; i < 3; ++i)
            write_random_file(site.src / std::to_string(i), 16 * MiB,
                              static_cast<std::uint64_t>(how[9]) * 10 + i);
        CAPTURE(how);
        const auto some = bytes_read(site.backup({how, "--json"}));
        CHECK(some >= least);
        CHECK(some <= most);
    }
    const Result words = site.backup({"--verify"});
    CHECK_EXIT(words, 0);
    CHECK_NAMES(words.out, "verified: ");
    CHECK_NAMES(words.out, "errors: 0");
    const auto snapshots = ids_in(site).size();
    for (const char* how :
         {"--verify=x", "--verify=101%", "--verify=4/3", "--verify=files:", "--verify=10X"}) {
        CAPTURE(how);
        CHECK_EXIT(site.backup({how}), 2);
    }
    CHECK(ids_in(site).size() == snapshots);
}

TEST_CASE("backup --verify: a pack that changes after it was sent is found") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    write_random_file(site.dir / "random", 40 * MiB, 5);
    // The command whose output is backed up waits until a pack of it lies there whole, and changes eight
    // bytes of that.
    write_file(site.dir / "script", R"sh(
        cat "$1"
        for i in $(seq 300); do
            for pack in "$2"/packs/*; do
                [ "$(sha256sum < "$pack" 2>/dev/null | cut -c1-64)" = "$(basename "$pack")" ] || continue
                chmod u+w "$pack"
                printf XXXXXXXX | dd of="$pack" bs=1 seek=1000000 conv=notrunc 2>/dev/null
                basename "$pack" > "$3"
                exit 0
            done
            sleep 0.05
        done
        exit 1)sh");
    const auto backup = [&](const Strings& flags) {
        Strings arguments{"backup", "--stdin-name", "dump", "--stdin-from-command"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        for (const std::string& word :
             {site.url, std::string("--"), std::string("sh"), (site.dir / "script").string(),
              (site.dir / "random").string(), site.repo.string(), (site.dir / "which").string()})
            arguments.push_back(word);
        return site.nfreeze(arguments);
    };
    SUBCASE("with --verify") {
        const Result result = backup({"--verify"});
        CHECK_EXIT(result, 5);
        CHECK_NAMES(result.err, lines_of(read_file(site.dir / "which"))[0]);
        CHECK_NAMES(result.out, "errors: 1");
    }
    SUBCASE("but not without") { // the witness
        const Result result = backup({});
        CHECK_EXIT(result, 0);
    }
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 5);
}

TEST_CASE("backup --verify: over a line, what it reads comes back over it") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    const Site site(server, proxy.port());
    write_random_file(site.src / "file", 5 * MiB, 1);
    site.init_or_fail();
    const std::int64_t before = proxy.downstream;
    site.backup_or_fail({"--verify"});
    CHECK(proxy.downstream - before > 5 * std::int64_t(MiB));
    write_random_file(site.src / "file", 5 * MiB, 2);
    const std::int64_t between = proxy.downstream;
    site.backup_or_fail();
    CHECK(proxy.downstream - between < 200'000);
}

TEST_CASE("backup --verify: what it cannot verify is said before anything is stored") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    RunOptions options = site.options;
    options.input = "a dump";
    CHECK_EXIT(site.nfreeze({"backup", "--stdin-name", "dump", "--verify=x", site.url}, options), 2);
    CHECK(ids_in(site).empty());
    const Result files = site.backup({"--verify=files:5"}); // of the files of the source, or not at all
    CHECK((files.code == 2 || number_in(files.out, "verified: ") > 0));
}

TEST_CASE("key: no more are added than are tried, and all that there are open the repository") {
    if (!have_reader()) return;
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const auto with = [&](const Strings& words, int number) {
        RunOptions options = site.options;
        if (number > 1) options.env["NFREEZE_PASSWORD"] = "passphrase number " + std::to_string(number);
        return site.nfreeze(words, options);
    };
    const auto file = [&](int number) {
        write_file(site.dir / "new", "passphrase number " + std::to_string(number) + "\n");
        return site.dir / "new";
    };
    const auto add = [&](int number) {
        return with({"key", "add", "--new-password-file", file(number), site.url}, 1);
    };
    CHECK_EXIT(add(2), 0);
    plant(site, {"keys", "cost", "15", "13"}); // of others, whose passphrases nobody here knows
    CHECK_EXIT(add(16), 0);
    const std::string before = fingerprint(site.repo);
    const Result refused = add(17);
    CHECK_EXIT(refused, 1);
    CHECK_NAMES(refused.err, "16");
    write_file(site.dir / "sheet", with({"key", "export", site.url}, 1).out);
    CHECK_EXIT(site.nfreeze(
                   {"key", "import", "--new-password-file", site.dir / "new", site.url, site.dir / "sheet"}),
               1);
    CHECK(fingerprint(site.repo) == before);
    CHECK_EXIT(with({"snapshots", site.url}, 16), 0);
    // One that takes another's place is one more for a moment only.
    CHECK_EXIT(with({"key", "passwd", "--new-password-file", file(18), site.url}, 2), 0);
    CHECK(files_below(site.repo / "keys").size() == 16);
    for (const auto& [number, code] : {std::pair{2, 4}, {16, 0}, {18, 0}})
        CHECK_EXIT(with({"snapshots", site.url}, number), code);
}

TEST_CASE("forget --undo: twice makes one snapshot") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot;
    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, id}), 0);
    SUBCASE("one after the other") {
        REQUIRE_EXIT(site.nfreeze({"forget", "--undo", site.url, id}), 0);
        const Result again = site.nfreeze({"forget", "--undo", site.url, id});
        CHECK((again.code == 0 || again.code == 1));
        CHECK(again.out + again.err != "");
    }
    SUBCASE("in one breath") {
        CHECK_EXIT(site.nfreeze({"forget", "--undo", site.url, id, id.substr(0, 10)}), 0);
    }
    const Strings back = ids_in(site);
    REQUIRE(back.size() == 1);
    // What is forgotten once more can be taken back once more.
    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, back[0]}), 0);
    CHECK(ids_in(site).empty());
    CHECK_EXIT(site.nfreeze({"forget", "--undo", site.url, back[0]}), 0);
    CHECK(ids_in(site).size() == 1);
}

TEST_CASE("check: a file whose size is not that of its parts is named, without reading a byte of it") {
    if (!have_reader()) return;
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const std::string id = plant(site, {"tree", "size"});
    for (const std::string how : {"", "--read-data", "--read-data=files:all", "--read-data=files:2"}) {
        CAPTURE(how);
        Strings words{"check", site.url};
        if (!how.empty()) words.insert(words.begin() + 1, how);
        const Result check = site.nfreeze(words);
        CHECK_EXIT(check, 5);
        CHECK_NAMES(check.err, "'bad'");
        CHECK_NAMES(check.err, id.substr(0, 8));
        CHECK_NOT_NAMED(check.err, "'good'");
        CHECK_NAMES(check.out, "errors: 1");
    }
    CHECK_EXIT(site.restore(), 5);
    CHECK(!fs::exists(site.dest / "bad"));
    CHECK(fs::file_size(site.dest / "good") == 900'000);
}

TEST_CASE("check --read-data=files: compares the checksum of a whole file, too") {
    if (!have_reader()) return;
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const std::string id = plant(site, {"tree", "checksum"});
    CHECK_EXIT(site.nfreeze({"check", site.url}), 0); // each of its parts is what it was
    for (const std::string how : {"files:all", "files:2", "files:100"}) {
        CAPTURE(how);
        const Result check = site.nfreeze({"check", "--read-data=" + how, site.url});
        CHECK_EXIT(check, 5);
        CHECK_NAMES(check.err, "'bad'");
        CHECK_NAMES(check.err, id.substr(0, 8));
        CHECK_NOT_NAMED(check.err, "'good'");
        CHECK_NAMES(check.out, "reading 2 files");
        CHECK_NAMES(check.out, "errors: 1");
    }
    CHECK_EXIT(site.restore(), 5);
    CHECK(!fs::exists(site.dest / "bad"));
}

TEST_CASE("check --read-data=files:all reads each file there is, with holes and without") {
    const Site site(Site::Kind::local);
    make_random_tree(site.src, 3, 100, 20'000);
    make_sparse_file(site.src / "sparse");
    write_random_file(site.src / "large", 9 * MiB, 1);
    site.init_or_fail();
    site.backup_or_fail();
    std::size_t with_content = 0;
    for (const auto& file : files_below(site.src)) with_content += fs::file_size(file) > 0;
    const Result check = site.nfreeze({"check", "--read-data=files:all", site.url});
    CHECK_EXIT(check, 0);
    CHECK_NAMES(check.out, "reading " + std::to_string(with_content) + " files");
}

TEST_CASE("a record that says it is continued, and is not, is damage that every verb names") {
    if (!have_reader()) return;
    for (const Strings& how : {Strings{"tree", "no-continuation"}, {"tree", "no-continuation", "last"}}) {
        CAPTURE(joined(how));
        const Site site(Site::Kind::local);
        site.init_or_fail();
        plant(site, how);
        for (const Strings& words : {Strings{"ls", site.url},
                                     {"check", site.url},
                                     {"check", "--read-data", site.url},
                                     {"restore", site.url, site.dest},
                                     {"du", site.url}}) {
            CAPTURE(words[0]);
            const Result result = site.nfreeze(words);
            CHECK_EXIT(result, 5);
            CHECK_NAMES(result.err, "bad");
        }
        CHECK(!fs::exists(site.dest / "bad"));
        if (how.size() == 2) CHECK(fs::exists(site.dest / "good"));
        CHECK_EXIT(site.nfreeze({"prune", "--yes", site.url}), 5);
        const Result second =
            run({"python3", fs::path(NFREEZE_TESTS_DIR) / "reader.py", "check", site.repo}, site.options);
        CHECK_EXIT(second, 1); // so it does to who reads the format elsewise
        CHECK_NAMES(second.err, "bad");
    }
}

TEST_CASE(
    "a segment that authenticates and makes no sense counts not at all, and is not called half an upload") {
    if (!have_reader()) return;
    for (const std::string how : {"early", "long", "snapshot"}) {
        CAPTURE(how);
        const Site site(Site::Kind::local);
        write_file(site.src / "file", "content");
        site.init_or_fail();
        const std::string id = site.backup_or_fail().snapshot;
        const std::string segment =
            plant(site, {"malformed", id, how}); // which forgets the snapshot, and goes on wrongly
        const Result listed = site.nfreeze({"snapshots", site.url});
        CHECK_EXIT(listed, 5);
        CHECK_NAMES(listed.out, id.substr(0, 8));
        CHECK_NAMES(listed.err, segment.substr(0, 20));
        CHECK_NOT_NAMED(listed.err, "interrupted");
        CHECK_EXIT(site.restore(), 5);
        CHECK(compare(site.src, site.dest) == "");
        CHECK_EXIT(site.nfreeze({"prune", "--yes", "--now", site.url}), 5);
        const Result repaired = site.nfreeze({"repair", site.url});
        CHECK_EXIT(repaired, 0);
        const Result after = site.nfreeze({"check", "--read-data", site.url});
        CHECK_EXIT(after, 0);
        CHECK(ids_in(site) == Strings{id.substr(0, 8)});
    }
}

TEST_SUITE_END();
