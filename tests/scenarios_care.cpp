// Looking after a repository: check, forget, cat.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

std::vector<fs::path> packs_of(const Site& site) { return files_below(site.repo / "packs"); }

void flip_byte(const fs::path& file, std::size_t at) {
    std::string bytes = read_file(file);
    REQUIRE(at < bytes.size());
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    chmod(file.c_str(), 0600);
    write_file(file, bytes);
}

std::vector<std::string> ids_in(const Site& site, const Strings& flags = {}) {
    Strings arguments{"snapshots"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.push_back(site.url);
    const Result result = site.nfreeze(arguments);
    REQUIRE_EXIT(result, 0);
    Strings ids, lines = lines_of(result.out);
    for (std::size_t i = 1; i < lines.size(); ++i) ids.push_back(lines[i].substr(0, 8));
    return ids;
}

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
    for (const char* how : {"--read-data=x", "--read-data=101%", "--read-data=4/3", "--read-data=0/3", "--read-data=3/"}) {
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
    CHECK(chosen >= 2); // of about 16 MB each
    CHECK(chosen < sum); // two are small: the last one and that with the tree
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
    for (const char* file : {"same", "gone", "content", "mode", "dir/type"}) write_file(site.src / file, "content");
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
    const Result vague = site.nfreeze({"snapshots", "--expect", "1", site.url});
    CHECK_EXIT(vague, 2);
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
        if (*file != 0) options.env.insert_or_assign("NFREEZE_PASSWORD", lines_of(read_file(site.dir / file))[0]);
        return site.nfreeze(arguments, options);
    };
    const Result added = site.nfreeze({"key", "add", "--new-password-file", (site.dir / "second").string(), site.url});
    REQUIRE_EXIT(added, 0);
    CHECK(with({"snapshots", site.url}, "").code == 0);
    CHECK(with({"snapshots", site.url}, "second").code == 0);
    CHECK(with({"snapshots", site.url}, "third").code == 4);
    CHECK(lines_of(with({"key", "list", site.url}, "").out).size() == 3);
    CHECK(with({"key", "passwd", "--new-password-file", (site.dir / "third").string(), site.url}, "second").code == 0);
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
    const Result last = with({"key", "remove", site.url, lines_of(with({"key", "list", site.url}, "third").out)[1].substr(0, 8)}, "third");
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
        for (const Strings& arguments : {Strings{"forget", site.url}, {"forget", "--keep-last", "1", site.url, ids[0]}, {"forget", "--yes", site.url, "xyz"},
                                         {"forget", "--keep-last", "0", site.url}, {"forget", "--keep-last", "1", site.url}}) {
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
        const Result restored = site.nfreeze({"restore", "--snapshot", back.out.substr(std::string("snapshot ").size(), 32), site.url, site.dest.string()});
        CHECK_EXIT(restored, 0);
        CHECK(fs::exists(site.dest / "2"));
        CHECK(!fs::exists(site.dest / "3"));
    }
    SUBCASE("by rule") {
        const Result result = site.nfreeze({"forget", "--yes", "--keep-last", "2", "--keep-tag", "first", site.url});
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

TEST_SUITE_END();
