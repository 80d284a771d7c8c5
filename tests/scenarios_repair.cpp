// When something is lost: repair, recovery sheets, and whether a server could lose it.
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

std::vector<fs::path> segments_of(const Site& site) { return files_below(site.repo / "index"); }

void shorten(const fs::path& file, std::uint64_t size) {
    REQUIRE(size < fs::file_size(file));
    chmod(file.c_str(), 0600);
    fs::resize_file(file, size);
}

fs::path largest(const std::vector<fs::path>& files) {
    REQUIRE(!files.empty());
    return *std::max_element(files.begin(), files.end(),
                             [](auto& a, auto& b) { return fs::file_size(a) < fs::file_size(b); });
}

// What is in `after` and was not in `before`.
std::vector<fs::path> added(const std::vector<fs::path>& before, const std::vector<fs::path>& after) {
    std::vector<fs::path> fresh;
    for (const auto& file : after)
        if (std::find(before.begin(), before.end(), file) == before.end()) fresh.push_back(file);
    return fresh;
}

// repair deletes nothing: each object that was there is there after it.
Result repair(const Site& site) {
    const auto before = files_below(site.repo);
    Result result = site.nfreeze({"repair", site.url});
    for (const auto& object : before)
        CHECK_MESSAGE(fs::exists(object), "repair has deleted " << object.string());
    return result;
}

// A restore of the newest snapshot of the source gives the source; that of another one, what the source was
// then.
void check_restores(const Site& site) {
    remove_tree(site.dest);
    const Result result = site.restore({"--source", site.src.string()});
    CHECK_EXIT(result, 0);
    CHECK(compare(site.src, site.dest) == "");
}
void check_restores(const Site& site, const std::string& id, const fs::path& wanted) {
    remove_tree(site.dest);
    const Result result = site.restore({"--snapshot", id});
    CHECK_EXIT(result, 0);
    CHECK(compare(wanted, site.dest) == "");
}

void check_sound(const Site& site) {
    const Result result = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "errors: 0");
}

// A repository of three snapshots, each with a copy of what the source was: `was[i]`. Made once, for what it
// holds must be a few seconds old for the next backup to believe what it sees. `large` lies in three frames
// of one pack.
struct Base {
    Site site{Site::Kind::local};
    Strings ids;
    std::vector<fs::path> was;

    Base() {
        write_file(site.src / "text", "some text\n");
        write_random_file(site.src / "dir/large", 9 * MiB, 1);
        fs::create_symlink("text", site.src / "link");
        const Strings later{"later0", "later1"};
        for (const auto& name : later)
            write_file(site.src / name, random_bytes(5'000, name.back() == '0' ? 2 : 3));
        settle();
        site.init_or_fail();
        const timespec time = mtime_of(site.src);
        for (std::size_t i = 0; i <= later.size(); ++i) {
            Strings without;
            was.push_back(site.dir / ("was" + std::to_string(i)));
            copy_tree(site.src, was.back());
            for (std::size_t k = i; k < later.size(); ++k) {
                without.insert(without.end(), {"--exclude", "/" + later[k]});
                fs::remove(was.back() / later[k]);
            }
            set_mtime(was.back(), time.tv_sec, time.tv_nsec);
            ids.push_back(site.backup_or_fail(without).snapshot.substr(0, 8));
        }
    }
};
Base& base() {
    static Base made;
    return made;
}
// A client of its own with a copy of that repository, and the same source, which it leaves alone.
struct Copy : Site {
    explicit Copy(Kind kind = Kind::local) : Site(kind) {
        src = base().site.src;
        copy_tree(base().site.repo, repo);
    }
    explicit Copy(Sshd& server) : Site(server) {
        src = base().site.src;
        copy_tree(base().site.repo, repo);
        give_to(repo, server.uid());
    }
};

} // namespace

TEST_SUITE_BEGIN("repair");

TEST_CASE("repair: a byte flipped in a pack of the right size: repair, backup, check, and all is as it was") {
    const Copy site;
    const fs::path pack = largest(packs_of(site));
    const auto size = fs::file_size(pack);
    flip_byte(pack, 5 * MiB);
    REQUIRE(fs::file_size(pack) == size);
    const Result damaged = site.nfreeze({"check", "--read-data", site.url});
    REQUIRE_EXIT(damaged, 5);
    CHECK_NAMES(damaged.err, pack.filename().string());
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 5); // something is lost until it is sent again
    CHECK_NAMES(repaired.out, "damaged: 1 packs");
    CHECK_NAMES(repaired.err, "'dir/large'");
    CHECK_NOT_NAMED(repaired.err, "'later1'");
    CHECK(number_in(repaired.out, "of the chunks in them ") > 0); // the frames that were not touched
    const Summary again = site.backup_or_fail();
    CHECK(again.uploaded > 0);
    CHECK_MESSAGE(again.uploaded < 6 * MiB, "what was saved need not be sent again");
    check_sound(site);
    check_restores(site);
    for (std::size_t i = 0; i < 3; ++i) check_restores(site, base().ids[i], base().was[i]);
    // Once more: it has nothing to do. A prune takes away what is damaged.
    const Result twice = repair(site);
    CHECK_EXIT(twice, 0);
    CHECK_NAMES(twice.out, "damaged: 0 packs");
    CHECK(fs::exists(pack));
    CHECK_EXIT(site.nfreeze({"prune", "--now", "--yes", site.url}), 0);
    CHECK(!fs::exists(pack));
    check_sound(site);
    check_restores(site);
}

TEST_CASE("repair: a sound repository stays what it is") {
    const Copy site;
    const auto names = files_below(site.repo);
    const Result listed = site.nfreeze({"snapshots", "--json", site.url});
    const Result result = repair(site);
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "listed anew: 0");
    CHECK_NAMES(result.out, "damaged: 0");
    CHECK(result.err == "");
    CHECK(files_below(site.repo) == names);
    CHECK(site.nfreeze({"snapshots", "--json", site.url}).out == listed.out);
    check_sound(site);
    check_restores(site);
}

TEST_CASE("repair: an index that is gone is made anew from the packs, with the snapshots") {
    const auto lost_and_found = [](const Site& site, std::size_t oldest) {
        const Result before = site.nfreeze({"snapshots", "--json", base().site.url});
        const Result lost = site.nfreeze({"snapshots", site.url});
        CHECK_EXIT(lost, 5);
        CHECK_NAMES(lost.err, "nfreeze help repair");
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 0);
        CHECK_NAMES(repaired.out, "with 3 snapshots");
        CHECK_MESSAGE(site.nfreeze({"snapshots", "--json", site.url}).out == before.out,
                      "each snapshot with all that is known of it");
        check_sound(site);
        for (std::size_t i = oldest; i < 3; ++i) check_restores(site, base().ids[i], base().was[i]);
        const Summary again = site.backup_or_fail();
        CHECK_MESSAGE(again.fresh_bytes == 0, "everything is known again");
    };
    SUBCASE("the directory") {
        const Copy site;
        remove_tree(site.repo / "index");
        lost_and_found(site, 0);
        const Result twice = repair(site);
        CHECK_EXIT(twice, 0);
        CHECK_NAMES(twice.out, "listed anew: 0");
    }
    SUBCASE("all of it damaged") {
        const Copy site;
        for (const auto& segment : segments_of(site)) flip_byte(segment, fs::file_size(segment) / 2);
        lost_and_found(site, 1);
    }
    SUBCASE("all that is in it, behind sshd") {
        const Copy site(Site::Kind::ssh);
        for (const auto& segment : segments_of(site)) fs::remove(segment);
        lost_and_found(site, 2);
    }
}

TEST_CASE("repair: one segment that is gone or shorter") {
    const Copy site;
    const auto segments = segments_of(site); // by number: the last is the newest
    REQUIRE(segments.size() >= 2);
    copy_tree(site.repo, site.dir / "sound");
    for (const auto& victim : segments)
        for (const bool gone : {true, false}) {
            CAPTURE(victim.filename().string());
            CAPTURE(gone);
            if (gone)
                fs::remove(victim);
            else
                shorten(victim, fs::file_size(victim) / 2);
            const Result repaired = repair(site);
            CHECK_EXIT(repaired, 0);
            if (gone && victim == segments.back()) {
                // Nobody names the newest, but its packs are there, and its snapshot rides in one of them.
                CHECK_NAMES(repaired.out, "with 1 snapshots");
                CHECK(ids_in(site) == base().ids);
                CHECK_EXIT(site.nfreeze({"snapshots", "--expect", base().ids[2], site.url}), 0);
            } else {
                CHECK(ids_in(site) == base().ids);
            }
            check_restores(site);
            remove_tree(site.repo);
            copy_tree(site.dir / "sound", site.repo);
        }
}

TEST_CASE("repair: a pack that is gone or shorter") {
    const Copy site;
    const fs::path pack = largest(packs_of(site));
    SUBCASE("gone") {
        fs::remove(pack);
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 5);
        CHECK_NAMES(repaired.err, "'dir/large'");
    }
    SUBCASE("half of it, of which what is there is saved") {
        shorten(pack, 7 * MiB);
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 5);
        CHECK_NAMES(repaired.err, "'dir/large'");
        CHECK_NAMES(repaired.out, "damaged: 1 packs");
        CHECK(number_in(repaired.out, "of the chunks in them ") > 0);
    }
    SUBCASE("a byte less, which no chunk needs") {
        shorten(pack, fs::file_size(pack) - 1);
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 0);
        CHECK_NAMES(repaired.out, ", 0 cannot be had");
        check_restores(site);
    }
    SUBCASE("all of it, but not its name") {
        shorten(pack, 0);
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 5);
    }
    site.backup_or_fail();
    check_sound(site);
    check_restores(site);
}

TEST_CASE("repair: what is gone from the disk as well is named by path, and the rest goes on") {
    Copy site;
    site.src = site.dir / "src";
    copy_tree(base().site.src, site.src);
    const auto before = packs_of(site);
    write_random_file(site.src / "dir/gone from the disk", 3 * MiB, 2);
    const std::string id = site.backup_or_fail({"--tag", "only"}).snapshot.substr(0, 8);
    fs::remove(site.src / "dir/gone from the disk");
    fs::remove(largest(added(before, packs_of(site))));
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 5);
    CHECK_NAMES(repaired.err, "'dir/gone from the disk' is lost or damaged (snapshot " + id + ")");
    CHECK_NOT_NAMED(repaired.err, "large");
    for (const auto& other : base().ids) CHECK_NOT_NAMED(repaired.err, other);
    site.backup_or_fail();
    check_restores(site);
    const Result checked = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(checked, 5);
    CHECK_NAMES(checked.err, "'dir/gone from the disk' is lost or damaged (snapshot " + id + ")");
    const Result forgotten = site.nfreeze({"forget", "--yes", "--purge", "--path", "gone*", site.url});
    CHECK_EXIT(forgotten, 0);
    check_sound(site);
}

TEST_CASE(
    "repair: packs that nobody names are listed, with their snapshot, whether the index is sound or gone") {
    const Copy site;
    Copy more; // a backup whose segment is lost leaves its packs
    more.src = more.dir / "src";
    write_file(more.src / "uncommitted", random_bytes(50'000, 9));
    const std::string id = more.backup_or_fail().snapshot;
    std::size_t orphans = 0;
    for (const auto& pack : packs_of(more))
        orphans +=
            fs::copy_file(pack, site.repo / "packs" / pack.filename(), fs::copy_options::skip_existing);
    REQUIRE(orphans > 0);
    const Result noticed = site.nfreeze({"check", site.url});
    CHECK_EXIT(noticed, 0);
    CHECK_NAMES(noticed.out + noticed.err, std::to_string(orphans) + " packs");
    CHECK_NAMES(noticed.out, "errors: 0");
    bool index_too = false;
    SUBCASE("the index is sound") {}
    SUBCASE("the index is lost") {
        index_too = true;
        remove_tree(site.repo / "index");
    }
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 0);
    CHECK_NAMES(repaired.out, index_too ? "with 4 snapshots"
                                        : "listed anew: " + std::to_string(orphans) + ", with 1 snapshots");
    CHECK(ids_in(site).size() == 4);
    CHECK(std::ranges::count(ids_in(site), id.substr(0, 8)) == 1);
    check_sound(site);
    const Result quiet = site.nfreeze({"check", site.url});
    CHECK_NOT_NAMED(quiet.out + quiet.err, std::to_string(orphans) + " packs");
    const Result restored = site.restore({"--snapshot", id});
    CHECK_EXIT(restored, 0);
    CHECK(read_file(site.dest / "uncommitted") == random_bytes(50'000, 9));
}

TEST_CASE("check: of the newest backup, whose segment was deleted, packs are left that no segment names, and "
          "of what age they are is said") {
    const Copy site;
    const std::size_t before = packs_of(site).size();
    for (const auto& pack : packs_of(site)) set_mtime(pack, mtime_of(pack).tv_sec - 5 * 86'400, 0);
    for (const auto& segment : segments_of(site))
        set_mtime(segment, mtime_of(segment).tv_sec - 5 * 86'400, 0);
    fs::remove(segments_of(site).back());
    const Result check = site.nfreeze({"check", site.url});
    CHECK_EXIT(check, 0);
    CHECK_NAMES(check.out, "checked: 2 snapshots");
    CHECK_NAMES(check.out + check.err, "packs that no segment");
    CHECK_EXIT(site.nfreeze({"check", "--expect", base().ids[2], site.url}), 5);
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 0);
    CHECK(ids_in(site) == base().ids);
    CHECK(packs_of(site).size() == before);
    CHECK_EXIT(site.nfreeze({"check", "--expect", base().ids[2], site.url}), 0);
    check_restores(site);
}

TEST_CASE("repair: a whole pack that was recorded as deleted, and is needed, is used again") {
    if (!have_reader()) return;
    const Copy site;
    plant(site, {"say", "deleted", "all"});
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 0);
    CHECK(ids_in(site) == base().ids);
    check_sound(site);
    check_restores(site);
    for (std::size_t i = 0; i < base().ids.size(); ++i) check_restores(site, base().ids[i], base().was[i]);
    site.backup_or_fail();
    CHECK_EXIT(site.nfreeze({"prune", "--yes", "--now", site.url}), 0);
    check_sound(site);
}

TEST_CASE("restore: of a pack that is a byte longer or shorter than it was, all comes back that opens") {
    const Copy site;
    const fs::path pack = largest(packs_of(site));
    SUBCASE("longer") {
        chmod(pack.c_str(), 0600);
        append_file(pack, "x");
    }
    SUBCASE("shorter") { shorten(pack, fs::file_size(pack) - 1); }
    const Result restored = site.restore();
    CHECK_MESSAGE((restored.code == 0 || restored.code == 5), describe(restored));
    CHECK(compare(site.src, site.dest) == "");
    const Result check = site.nfreeze({"check", site.url});
    CHECK_EXIT(check, 5);
    CHECK_NAMES(check.err, pack.filename().string());
    CHECK_MESSAGE((repair(site).code & ~5) == 0, "nothing of it is lost");
    site.backup_or_fail();
    check_restores(site);
}

TEST_CASE("repair: the index lost and a pack damaged at once") {
    const Copy site;
    const fs::path pack = largest(packs_of(site));
    const auto size = fs::file_size(pack);
    remove_tree(site.repo / "index");
    SUBCASE("in the middle") { flip_byte(pack, size / 2); }
    SUBCASE("at the start, so that nothing of it opens") { flip_byte(pack, 12); }
    SUBCASE("at the end, where its table is") { flip_byte(pack, size - 20); }
    SUBCASE("half of it is gone, and the table with that") { shorten(pack, size / 2); }
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 5);
    CHECK_NAMES(repaired.err, "'dir/large'");
    CHECK_NAMES(repaired.out, "damaged: 1 packs");
    CHECK(ids_in(site) == base().ids);
    site.backup_or_fail();
    check_sound(site);
    check_restores(site);
}

TEST_CASE("repair: a byte flipped in the head of a pack while the index is lost spoils that pack alone") {
    const Copy site;
    const fs::path pack = largest(packs_of(site));
    const std::string sound = read_file(pack);
    for (const std::size_t at : {0u, 6u, 7u, 8u}) {
        CAPTURE(at);
        write_file(pack, sound);
        flip_byte(pack, at);
        remove_tree(site.repo / "index");
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 5);
        CHECK_NAMES(repaired.err, "'dir/large'");
        CHECK_NAMES(repaired.out, "damaged: 1 packs");
        CHECK_NAMES(repaired.out, "with 3 snapshots");
    }
    site.backup_or_fail();
    check_sound(site);
    check_restores(site);
}

TEST_CASE("repair: the index lost and with it a snapshot, whose only copy is in a damaged pack, is not "
          "passed over in silence") {
    Copy site;
    const auto before = packs_of(site);
    site.src = site.dir / "src";
    write_file(site.src / "last", "content");
    site.backup_or_fail();
    remove_tree(site.repo / "index");
    for (const auto& pack : added(before, packs_of(site)))
        flip_byte(pack, 12); // the salt: nothing of it opens
    const Result repaired = repair(site);
    CHECK_NAMES(repaired.out, "with 3 snapshots");
    // Nobody can know how much was in those packs: a word that something is lost, and an exit code that says
    // so.
    CHECK_EXIT(repaired, 5);
    site.backup_or_fail();
    check_restores(site);
}

TEST_CASE(
    "repair: a byte flipped anywhere in a small pack of a tree or of data is mended by repair and a backup") {
    const Site site(Site::Kind::local);
    write_file(site.src / "text", "some text\n");
    write_file(site.src / "dir/random", random_bytes(2'000, 1));
    settle();
    site.init_or_fail();
    site.backup_or_fail();
    const auto packs = packs_of(site);
    REQUIRE(packs.size() == 2); // one of data, one of the tree with the snapshot
    copy_tree(site.repo, site.dir / "sound");
    for (const auto& pack : packs) {
        const std::size_t size = fs::file_size(pack), stride = std::max<std::size_t>(1, size / 2);
        std::vector<std::size_t> offsets{8, size - 1};
        for (std::size_t at = stride / 2; at < size; at += stride) offsets.push_back(at);
        for (const std::size_t at : offsets) {
            INFO("byte " << at << " of " << size << " of " << pack.filename().string());
            flip_byte(pack, at);
            const Result repaired = repair(site);
            CHECK((repaired.code == 0 || repaired.code == 5));
            CHECK_NAMES(repaired.out, "damaged: 1 packs");
            site.backup_or_fail();
            check_sound(site);
            check_restores(site);
            remove_tree(site.repo);
            copy_tree(site.dir / "sound", site.repo);
        }
    }
}

TEST_CASE("repair: on a server that lets nothing be deleted it works as well") {
    Sshd server(append_only());
    const Copy site(server);
    const fs::path pack = largest(packs_of(site));
    flip_byte(pack, 1000);
    give_to(pack, server.uid());
    const Result repaired = repair(site);
    CHECK_EXIT(repaired, 5);
    site.backup_or_fail();
    check_sound(site);
    check_restores(site);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("recovery sheet");

namespace {

// The four lines of a sheet, as they are printed.
Strings sheet_of(const Site& site) {
    const Result result = site.nfreeze({"key", "export", site.url});
    REQUIRE_EXIT(result, 0);
    Strings lines;
    for (const auto& line : lines_of(result.out))
        if (line.size() > 20 && line[0] >= '1' && line[0] <= '4' && line[1] == ' ') lines.push_back(line);
    REQUIRE(lines.size() == 4);
    return lines;
}
std::string in_lines(const Strings& lines) {
    std::string all;
    for (const auto& line : lines) all += line + "\n";
    return all;
}
// Makes a new passphrase from what is in the file, or typed.
Result import(const Site& site, const std::string& sheet, const std::string& from = "") {
    write_file(site.dir / "sheet", sheet);
    write_file(site.dir / "new", "made from the sheet\n");
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    options.unset = {"NFREEZE_PASSWORD"};
    if (from == "-") options.input = sheet;
    return site.nfreeze({"key", "import", "--new-password-file", (site.dir / "new").string(), site.url,
                         from == "-" ? "-" : (site.dir / "sheet").string()},
                        options);
}
RunOptions with_new(const Site& site) {
    RunOptions options = site.options;
    options.env.insert_or_assign("NFREEZE_PASSWORD", "made from the sheet");
    return options;
}

} // namespace

TEST_CASE("recovery sheet: it opens a repository whose keys are gone, from a file or typed, as printed or a "
          "little otherwise") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    site.backup_or_fail();
    const Result exported = site.nfreeze({"key", "export", site.url});
    REQUIRE_EXIT(exported, 0);
    CHECK_NOT_NAMED(exported.out, passphrase);
    CHECK(exported.err == "");
    const Strings lines = sheet_of(site);
    for (const auto& line : lines)
        CHECK(std::count_if(line.begin() + 1, line.end(), [](char c) { return c != ' '; }) == 20);
    std::string upper = in_lines(lines), squeezed;
    for (char& c : upper) c = static_cast<char>(toupper(c));
    for (const char c : in_lines(lines))
        if (c != ' ') squeezed += c;
    const Strings sheets{exported.out, in_lines(lines), in_lines({lines[3], lines[1], lines[0], lines[2]}),
                         upper,        squeezed,        "  " + in_lines(lines) + "\r\n"};
    for (const auto& sheet : sheets) {
        CAPTURE(sheet);
        remove_tree(site.repo / "keys");
        if (&sheet == &sheets[1]) fs::create_directory(site.repo / "keys"); // there, and empty
        const Result lost = site.nfreeze({"snapshots", site.url}, with_new(site));
        CHECK_EXIT(lost, 1);
        CHECK_NAMES(lost.err, "key");
        const Result imported = import(site, sheet, &sheet == &sheets[0] || &sheet == &sheets[2] ? "-" : "");
        REQUIRE_EXIT(imported, 0);
        CHECK(files_below(site.repo / "keys").size() == 1);
        const Result opened = site.nfreeze({"check", "--read-data", site.url}, with_new(site));
        CHECK_EXIT(opened, 0);
        if (&sheet != &sheets[0]) continue;
        CHECK_EXIT(site.nfreeze({"snapshots", site.url}), 4); // the old passphrase went with its key object
        CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest.string()}, with_new(site)), 0);
        CHECK(compare(site.src, site.dest) == "");
    }
}

TEST_CASE("recovery sheet: beside keys that are there it adds one; through a pipe; behind sshd") {
    SUBCASE("beside keys that are there it adds one") {
        const Site more(Site::Kind::local);
        more.init_or_fail();
        REQUIRE_EXIT(import(more, in_lines(sheet_of(more))), 0);
        CHECK_EXIT(more.nfreeze({"snapshots", more.url}), 0);
        CHECK_EXIT(more.nfreeze({"snapshots", more.url}, with_new(more)), 0);
        CHECK(lines_of(more.nfreeze({"key", "list", more.url}).out).size() == 3);
    }
    SUBCASE("through a pipe, behind sshd") {
        const Site far;
        far.init_or_fail();
        const std::string sheet = in_lines(sheet_of(far));
        remove_tree(far.repo / "keys");
        write_file(far.dir / "sheet", sheet);
        write_file(far.dir / "new", "made from the sheet\n");
        const Result result = run(
            {"sh", "-c", "(cat \"$1\"; sleep 0.3) | \"$2\" key import --new-password-file \"$3\" \"$4\" -",
             "sh", (far.dir / "sheet").string(), nfreeze_binary(), (far.dir / "new").string(), far.url},
            far.options);
        CHECK_EXIT(result, 0);
        CHECK_EXIT(far.nfreeze({"snapshots", far.url}, with_new(far)), 0);
    }
}

TEST_CASE("recovery sheet: a typing error is found wherever it is, and named by its line") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Strings lines = sheet_of(site);
    const std::string before = fingerprint(site.repo);
    int passed = 0;
    for (std::size_t line = 0; line < 4; ++line)
        for (std::size_t at = 1; at < lines[line].size(); ++at) {
            if (lines[line][at] == ' ') continue;
            Strings typed = lines;
            char& digit = typed[line][at];
            digit = digit == '9' ? 'a' : digit == 'f' ? '0' : static_cast<char>(digit + 1);
            CAPTURE(typed[line]);
            const Result result = import(site, in_lines(typed));
            // Two bytes of checksum let one error in 65536 through; then the key fits no repository.
            passed += result.code == 4;
            if (result.code == 4) continue;
            CHECK_EXIT(result, 1);
            CHECK_NAMES(result.err, "line " + std::to_string(line + 1) + " ");
            CHECK_NOT_NAMED(result.err, lines[line].substr(4, 4)); // nothing of the key is shown
        }
    CHECK(passed <= 1);
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("recovery sheet: what is no digit, two that changed places, and a line that is missing") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Strings lines = sheet_of(site);
    const std::string before = fingerprint(site.repo);
    const auto refused = [&](const Strings& typed, const std::string& named) {
        CAPTURE(in_lines(typed));
        const Result result = import(site, in_lines(typed));
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, named);
    };
    Strings letter = lines;
    letter[1].back() = 'o';
    refused(letter, "line 2 ");
    Strings swapped = lines;
    for (std::size_t at = 3; at + 1 < swapped[2].size(); ++at)
        if (swapped[2][at] != ' ' && swapped[2][at + 1] != ' ' && swapped[2][at] != swapped[2][at + 1]) {
            std::swap(swapped[2][at], swapped[2][at + 1]);
            break;
        }
    refused(swapped, "line 3 ");
    Strings numbers = lines; // the lines change places, and keep what they hold
    std::swap(numbers[0][0], numbers[1][0]);
    refused(numbers, "line 2 ");
    refused({lines[0], lines[1], lines[3]}, "four lines");
    refused({}, "four lines");
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("recovery sheet: typed at a terminal, which asks for the new passphrase") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Strings lines = sheet_of(site);
    remove_tree(site.repo / "keys");
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    options.pty = true;
    options.dialog = {{"line 1", lines[0]},
                      {"line 2", lines[1]},
                      {"line 3", lines[2]},
                      {"line 4", lines[3]},
                      {"New passphrase", "made from the sheet"},
                      {"again", "made from the sheet"}};
    options.timeout = milliseconds(20'000);
    const Result result = site.nfreeze({"key", "import", site.url, "-"}, options);
    CHECK_EXIT(result, 0);
    CHECK_EXIT(site.nfreeze({"snapshots", site.url}, with_new(site)), 0);
}

TEST_CASE("recovery sheet: a digit too few or too many is named by its line, too") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Strings lines = sheet_of(site);
    for (const bool more : {false, true}) {
        Strings typed = lines;
        if (more)
            typed[2] += "0";
        else
            typed[2].pop_back();
        const Result result = import(site, in_lines(typed));
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, "line 3 ");
    }
}

TEST_CASE("recovery sheet: that of another repository opens nothing and changes nothing") {
    const Site site(Site::Kind::local), other(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    site.backup_or_fail();
    other.init_or_fail();
    for (const bool keys : {true, false}) {
        if (!keys) remove_tree(site.repo / "keys");
        const std::string before = fingerprint(site.repo);
        const Result result = import(site, in_lines(sheet_of(other)));
        CHECK_EXIT(result, 4);
        CHECK_NAMES(result.err, "not of this repository");
        CHECK(fingerprint(site.repo) == before);
    }
    const Result nowhere = site.nfreeze({"key", "import", "--new-password-file", (site.dir / "new").string(),
                                         site.url, (site.dir / "no such file").string()});
    CHECK_EXIT(nowhere, 1);
    CHECK_EXIT(site.nfreeze({"key", "import", site.url}), 2);
    CHECK_EXIT(site.nfreeze({"key", "export", site.url, "word"}), 2);
}

TEST_CASE("recovery sheet: an empty passphrase is refused, and nobody without a passphrase gets a sheet") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    const Strings lines = sheet_of(site);
    const std::string before = fingerprint(site.repo);
    write_file(site.dir / "sheet", in_lines(lines));
    write_file(site.dir / "empty", "\n");
    CHECK_EXIT(site.nfreeze({"key", "import", "--new-password-file", (site.dir / "empty").string(), site.url,
                             (site.dir / "sheet").string()}),
               1);
    RunOptions wrong = site.options;
    wrong.env.insert_or_assign("NFREEZE_PASSWORD", "wrong");
    const Result result = site.nfreeze({"key", "export", site.url}, wrong);
    CHECK_EXIT(result, 4);
    CHECK(result.out == "");
    for (const auto& line : lines) CHECK_NOT_NAMED(result.err, line.substr(3, 9));
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("repair: an index that is lost before anything was stored") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    remove_tree(site.repo / "index");
    const Result result = site.nfreeze({"repair", site.url});
    CHECK_EXIT(result, 0);
    const Result snapshots = site.nfreeze({"snapshots", site.url});
    CHECK_EXIT(snapshots, 0);
    site.backup_or_fail();
    check_sound(site);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("append-only");

TEST_CASE("append-only: check says whether a server lets objects be changed, and leaves none behind where it "
          "does") {
    SUBCASE("a server that refuses to remove and to rename, but not to change modes, is none") {
        Sshd::Options options;
        options.ordinary_account = true;
        options.config = {"ForceCommand internal-sftp -P remove,rmdir,rename,posix-rename"};
        Sshd server(options);
        const Site site(server);
        site.init_or_fail();
        const Result result = site.nfreeze({"check", "--append-only", site.url});
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.out, "let an object be truncated");
        CHECK_NAMES(result.out, "refused: an object cannot be renamed");
        const Result json = site.nfreeze({"check", "--append-only", "--json", site.url});
        CHECK_EXIT(json, 1);
        CHECK(lines_of(json.out).back() == "{\"append_only\":false}");
    }
    SUBCASE("an append-only server refuses everything") {
        Sshd server(append_only());
        const Site site(server);
        write_file(site.src / "file", "content");
        site.init_or_fail();
        site.backup_or_fail();
        const std::string before = fingerprint(site.repo / "index") + fingerprint(site.repo / "keys");
        const auto packs = packs_of(site);
        const Result result = site.nfreeze({"check", "--append-only", site.url});
        CHECK_EXIT(result, 0);
        for (const char* what : {"truncated", "renamed", "removed"})
            CHECK_NAMES(result.out, std::string("refused: an object cannot be ") + what);
        CHECK_NAMES(result.out, "append-only");
        CHECK(result.err == "");
        CHECK(fingerprint(site.repo / "index") + fingerprint(site.repo / "keys") == before);
        const auto fresh = added(packs, packs_of(site)); // it cannot be taken away again
        REQUIRE(fresh.size() == 1);
        CHECK(fs::file_size(fresh[0]) <= 1024); // a pack of nothing
        check_sound(site);
        site.backup_or_fail();
        const Result repaired = repair(site);
        CHECK_EXIT(repaired, 0);
        // That object is nobody's loss: a repair of a lost index may not call anything lost for its sake.
        remove_tree(site.repo / "index");
        const Result anew = repair(site);
        CHECK_EXIT(anew, 0);
        check_sound(site);
    }
    SUBCASE("an ordinary one does not, nor does a directory") {
        for (const Site::Kind kind : {Site::Kind::ssh, Site::Kind::local}) {
            const Site site(kind);
            site.init_or_fail();
            const auto before = files_below(site.repo);
            const Result result = site.nfreeze({"check", "--append-only", site.url});
            CHECK_EXIT(result, 1);
            CHECK_NAMES(result.err, "NOT append-only");
            CHECK_NAMES(result.out, "let an object be removed");
            CHECK(files_below(site.repo) == before);
            const Result quiet = site.nfreeze({"check", "--append-only", "-q", site.url});
            CHECK_EXIT(quiet, 1);
            CHECK(files_below(site.repo) == before);
            check_sound(site);
        }
    }
    SUBCASE("one that refuses only a part is not append-only") {
        for (const char* requests : {"remove", "rename,posix-rename"}) {
            Sshd::Options options;
            options.ordinary_account = true;
            options.config = {std::string("ForceCommand internal-sftp -P ") + requests};
            Sshd server(options);
            const Site site(server);
            site.init_or_fail();
            const Result result = site.nfreeze({"check", "--append-only", site.url});
            CHECK_EXIT(result, 1);
            CHECK_NAMES(result.err, "NOT append-only");
        }
    }
}

TEST_CASE("append-only: with -q a good answer is no words") {
    Sshd server(append_only());
    const Site site(server);
    site.init_or_fail();
    const Result result = site.nfreeze({"check", "--append-only", "-q", site.url});
    CHECK_EXIT(result, 0);
    CHECK(result.out + result.err == "");
}

TEST_SUITE_END();
