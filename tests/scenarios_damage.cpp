// A server that damages, hides, swaps and withholds what it keeps.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

// The server's hand: objects are read-only, it is not bound by that.
void tamper(const fs::path& object, const std::string& bytes) {
    chmod(object.c_str(), 0600);
    write_file(object, bytes);
    chmod(object.c_str(), 0400);
}

std::string flipped(std::string bytes, std::size_t at) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    return bytes;
}

// Whatever was restored must be as it was: a file may be missing, never wrong.
void check_nothing_wrong(const fs::path& src, const fs::path& dest) {
    for (const fs::path& file : files_below(dest)) {
        const fs::path original = src / fs::relative(file, dest);
        CHECK_MESSAGE(fs::exists(original), file.string() << " was never in the source");
        if (fs::exists(original))
            CHECK_MESSAGE(read_file(file) == read_file(original), file.string() << " has wrong bytes");
    }
}

// Restores from a damaged repository: everything right, or exit code 5 with a word about it.
void check_right_or_code_5(const Site& site, const std::string& damage) {
    CAPTURE(damage);
    remove_tree(site.dest);
    const Result result = site.restore();
    CHECK_MESSAGE((result.code == 0 || result.code == 5), describe(result));
    if (result.code == 0) CHECK_MESSAGE(compare(site.src, site.dest) == "", describe(result));
    if (result.code == 5) CHECK_MESSAGE(result.err.starts_with("nfreeze: "), describe(result));
    check_nothing_wrong(site.src, site.dest);
}

// Few and small objects: one key, a segment or two, packs of a tree and of data.
struct SmallSite : Site {
    SmallSite() : Site(Kind::local) {
        write_file(src / "text", "some text\n");
        write_file(src / "dir/random", random_bytes(20'000, 1));
        write_file(src / "dir/more", random_bytes(3'000, 2));
        fs::create_symlink("text", src / "link");
        init_or_fail();
        backup_or_fail();
        write_file(src / "dir/later", random_bytes(5'000, 3));
        backup_or_fail();
    }
};

std::vector<fs::path> objects_of(const Site& site, const std::string& kind) {
    return files_below(site.repo / kind);
}

fs::path largest_pack(const Site& site) {
    const std::vector<fs::path> packs = objects_of(site, "packs");
    REQUIRE(!packs.empty());
    return *std::max_element(packs.begin(), packs.end(), [](const fs::path& a, const fs::path& b) {
        return fs::file_size(a) < fs::file_size(b);
    });
}

} // namespace

TEST_SUITE_BEGIN("damage");

TEST_CASE("damage: a byte flipped in, or a truncation of, any object gives the right bytes or exit "
          "code 5, never wrong bytes") {
    const SmallSite site;
    const std::vector<fs::path> objects = files_below(site.repo);
    CHECK(objects.size() >= 5);
    int refused = 0;
    for (const fs::path& object : objects) {
        const std::string whole = read_file(object);
        const std::string name = fs::relative(object, site.repo);
        for (const std::size_t at : {std::size_t{0}, std::size_t{20}, whole.size() / 2, whole.size() - 1}) {
            tamper(object, flipped(whole, at));
            check_right_or_code_5(site, name + ": byte " + std::to_string(at) + " of " +
                                            std::to_string(whole.size()));
        }
        for (const std::size_t length : {std::size_t{0}, whole.size() / 2, whole.size() - 1}) {
            tamper(object, whole.substr(0, length));
            check_right_or_code_5(site, name + ": cut to " + std::to_string(length));
            refused += files_below(site.dest).size() != files_below(site.src).size();
        }
        tamper(object, whole + "x");
        check_right_or_code_5(site, name + ": one byte longer");
        tamper(object, whole);
    }
    CHECK_MESSAGE(refused >= 3, "truncated objects must have been needed for this to say anything");
    check_right_or_code_5(site, "none: it is whole again");
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("damage: an object deleted, or two of a kind swapped, gives the right bytes or an error, "
          "never wrong bytes") {
    const SmallSite site;
    for (const fs::path& object : files_below(site.repo)) {
        const fs::path hidden = site.dir / "hidden";
        fs::rename(object, hidden);
        remove_tree(site.dest);
        const Result result = site.restore();
        CHECK_MESSAGE((result.code == 0 || result.code == 1 || result.code == 5), describe(result));
        check_nothing_wrong(site.src, site.dest);
        if (result.code == 0)
            // Withholding the newest segment shows an older state: no client without memory can
            // tell.
            CHECK((compare(site.src, site.dest) == "" || object.parent_path().filename() == "index"));
        fs::rename(hidden, object);
    }
    for (const std::string kind : {"packs", "index"}) {
        const std::vector<fs::path> objects = objects_of(site, kind);
        if (objects.size() < 2) continue;
        const std::string first = read_file(objects[0]), second = read_file(objects[1]);
        tamper(objects[0], second);
        tamper(objects[1], first);
        check_right_or_code_5(site, "two swapped in " + kind);
        tamper(objects[0], first);
        tamper(objects[1], second);
    }
}

TEST_CASE("damage: content that does not authenticate stops that file, names it, leaves nothing "
          "under its name; the rest goes on") {
    Site site;
    write_random_file(site.src / "a-small", 100'000, 1);
    write_random_file(site.src / "b-large", 12 * MiB, 2);
    write_file(site.src / "sub/c-small", "also small");
    site.init_or_fail();
    site.backup_or_fail();
    const fs::path pack = largest_pack(site);
    const std::string whole = read_file(pack);
    tamper(pack, flipped(whole, whole.size() / 2));
    const Result result = site.restore();
    CHECK_EXIT(result, 5);
    CHECK_NAMES(result.err, "b-large");
    CHECK_NOT_NAMED(result.err, "small");
    CHECK(!fs::exists(site.dest / "b-large"));
    CHECK_MESSAGE(files_below(site.dest).size() == 2, "and nothing under another name");
    CHECK(read_file(site.dest / "a-small") == read_file(site.src / "a-small"));
    CHECK(read_file(site.dest / "sub/c-small") == "also small");
    // A good file that stands there already is not spoilt by a bad backup of it.
    write_file(site.dest / "b-large", "my own");
    const Result over = site.restore({"--overwrite"});
    CHECK_EXIT(over, 5);
    CHECK(read_file(site.dest / "b-large") == "my own");
}

TEST_CASE("damage: a pack deleted or cut short on the server is sent again by the next backup") {
    Site site;
    write_random_file(site.src / "one", 3 * MiB, 1);
    write_random_file(site.src / "two", 2 * MiB, 2);
    site.init_or_fail();
    settle(); // or the files would be read again for their youth alone
    site.backup_or_fail();
    for (const fs::path& pack : objects_of(site, "packs")) fs::remove(pack);
    const Result lost = site.restore();
    CHECK_EXIT(lost, 5);
    const Summary healed = site.backup_or_fail();
    CHECK(healed.uploaded > 5 * MiB);
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
    CHECK(site.backup_or_fail().uploaded < MiB);

    const fs::path pack = largest_pack(site);
    tamper(pack, read_file(pack).substr(0, 1'000'000));
    CHECK(site.backup_or_fail().uploaded > 4 * MiB);
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("damage: a pack hidden for a run and back again costs nothing") {
    Site site;
    write_random_file(site.src / "one", 3 * MiB, 1);
    site.init_or_fail();
    const std::string first = site.backup_or_fail().snapshot;
    const fs::path pack = largest_pack(site);
    fs::rename(pack, site.dir / "hidden");
    fs::remove(site.src / "one"); // its content is nowhere else now
    write_file(site.src / "two", "another");
    site.backup_or_fail({"--allow-shrink"});
    fs::rename(site.dir / "hidden", pack);
    write_random_file(site.src / "one again", 3 * MiB, 1); // the same content
    const Summary back = site.backup_or_fail();
    CHECK_MESSAGE(back.uploaded < MiB, "absence was never written down: the pack serves again");
    remove_tree(site.dest);
    site.restore_or_fail({"--snapshot", first});
    CHECK(fs::file_size(site.dest / "one") == 3 * MiB);
}

TEST_CASE("damage: a key without a segment, or a key object of another repository, stops the run "
          "before it writes") {
    const SmallSite site;
    SUBCASE("all segments gone") {
        for (const fs::path& segment : objects_of(site, "index"))
            fs::rename(segment, site.dir / segment.filename());
    }
    SUBCASE("a second key with the same passphrase") {
        Site other(Site::Kind::local);
        other.init_or_fail();
        const fs::path key = objects_of(other, "keys").at(0);
        fs::copy_file(key, site.repo / "keys" / key.filename());
    }
    const std::string before = fingerprint(site.repo);
    const Result backup = site.backup();
    CHECK_EXIT(backup, 5);
    const Result restore = site.restore();
    CHECK_EXIT(restore, 5);
    CHECK(fingerprint(site.repo) == before);
    CHECK(!fs::exists(site.dest));
}

TEST_CASE("damage: a segment that vanished is spoken of, and the next backup makes the state whole "
          "again") {
    const SmallSite site;
    // Between two snapshots, so that the later one names it or what it named.
    const std::vector<fs::path> segments = objects_of(site, "index");
    REQUIRE(!segments.empty());
    for (const fs::path& segment : segments) {
        fs::rename(segment, site.dir / "hidden");
        if (!objects_of(site, "index").empty()) {
            Site copy(Site::Kind::local);
            copy_tree(site.repo, copy.repo);
            const Result backup = copy.nfreeze({"backup", site.src, copy.url});
            CHECK_MESSAGE((backup.code == 0 || backup.code == 5), describe(backup));
            const Result restore = copy.restore();
            CHECK_MESSAGE((restore.code == 0 || restore.code == 5), describe(restore));
            CHECK(compare(site.src, copy.dest) == "");
        }
        fs::rename(site.dir / "hidden", segment);
    }
}

namespace {

// Enough files with names that do not shrink that the list of them fills more than a frame (1 MiB), and that
// the segment which names their pieces is too large to be merged into the next one, which therefore names it.
struct LargeSite : Site {
    Strings ids;
    LargeSite() : Site(Kind::local) {
        for (std::size_t i = 0; i < 4800; ++i) write_file(src / "many" / file_name(i), std::to_string(i));
        write_file(src / "zz/file", "first");
        settle(); // what is young is listed anew by the next backup: here, but for zz/file, both share one
                  // list
        init_or_fail();
        ids.push_back(backup_or_fail().snapshot);
        write_file(src / "zz/file", "second");
        ids.push_back(backup_or_fail().snapshot);
    }
    static std::string file_name(std::size_t i) {
        std::string name = std::to_string(10'000 + i) + "-";
        for (char c : random_bytes(115, i))
            name += {"0123456789abcdef"[c >> 4 & 15], "0123456789abcdef"[c & 15]};
        return name;
    }
    // Every verb that reads ends with exit code 5. What it is to print all the same stands behind it.
    void check_all_say_so(const std::vector<std::pair<Strings, std::string>>& verbs) const {
        for (auto& [arguments, shown] : verbs) {
            const std::string& printed = shown;
            remove_tree(dest);
            const Result result = nfreeze(arguments);
            CHECK_EXIT(result, 5);
            CHECK_NAMES(result.out, printed);
            CHECK_NAMES(result.err, "nfreeze: ");
        }
    }
};

} // namespace

TEST_CASE("damage: a part of the list of files is lost: every verb that looks there says so with exit code "
          "5, and shows the rest") {
    const LargeSite site;
    const fs::path pack = largest_pack(site); // the list of files
    REQUIRE(fs::file_size(pack) > 600'000);
    flip_byte(pack, fs::file_size(pack) / 3); // in the first of its two frames
    const std::string lost = "many/" + LargeSite::file_name(0), kept = "zz/file";
    site.check_all_say_so({{{"ls", "--recursive", site.url}, kept},
                           {{"ls", site.url, lost}, ""},
                           {{"ls", "--all", site.url, "*ile"}, ""},
                           {{"du", site.url}, "zz/"},
                           {{"du", site.url, lost}, ""},
                           {{"du", "--unique", site.url}, site.ids[0].substr(0, 8)},
                           {{"diff", site.url, site.ids[0], site.ids[1]}, kept},
                           {{"diff", site.url, site.ids[1], "--dir", site.src}, ""},
                           {{"cat", site.url, lost}, ""},
                           {{"restore", "--all-versions", site.url, site.dest, "*ile"}, ""},
                           {{"restore", site.url, site.dest}, ""},
                           {{"check", site.url}, ""},
                           {{"forget", "--purge", "--path", "*.secret", site.url}, ""},
                           {{"prune", "--now", site.url}, ""}});
    // What does not lie there is had, and a backup makes the rest anew.
    const Result cat = site.nfreeze({"cat", site.url, kept});
    CHECK_EXIT(cat, 0);
    CHECK(cat.out == "second");
    CHECK_EXIT(site.restore({}, {kept}), 5); // the directories above it are in the part that is lost
    CHECK(read_file(site.dest / kept) == "second");
    CHECK_EXIT(site.nfreeze({"repair", site.url}), 5);
    CHECK_EXIT(site.backup(), 0);
    remove_tree(site.dest);
    site.restore_or_fail();
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("damage: a part of the index is lost or withheld: every verb shows what is left and ends with exit "
          "code 5") {
    const LargeSite site;
    const std::vector<fs::path> segments = objects_of(site, "index");
    fs::rename(*std::max_element(
                   segments.begin(), segments.end(),
                   [](const fs::path& a, const fs::path& b) { return fs::file_size(a) < fs::file_size(b); }),
               site.dir / "hidden");
    const std::string kept = "zz/file", id = site.ids[1].substr(0, 8);
    site.check_all_say_so({{{"snapshots", site.url}, id},
                           {{"ls", site.url, "zz"}, ""},
                           {{"ls", "--all", site.url, kept}, ""},
                           {{"du", site.url, "zz"}, ""},
                           {{"du", "--unique", site.url}, ""},
                           {{"diff", site.url, id, id}, ""},
                           {{"restore", "--all-versions", site.url, site.dest, kept}, ""},
                           {{"restore", site.url, site.dest}, ""},
                           {{"check", site.url}, ""},
                           {{"prune", "--now", site.url}, ""},
                           {{"backup", site.src, site.url}, ""}});
}

TEST_CASE("damage: things that are no objects of ours do not disturb") {
    Site site;
    write_file(site.src / "file", "x");
    site.init_or_fail();
    site.backup_or_fail();
    write_file(site.repo / "README.txt", "put here by the server's owner");
    write_file(site.repo / "lost+found/x", "");
    write_file(site.repo / "packs/.DS_Store", "junk");
    write_file(site.repo / "packs" / std::string(64, 'a'), "a torn upload of some run that was killed");
    write_file(site.repo / "index/.nfs0001", "junk");
    write_file(site.repo / "keys/notes", "junk");
    append_file(site.src / "file", "y");
    const Result backup = site.backup();
    CHECK_EXIT(backup, 0);
    const Result restore = site.restore();
    CHECK_EXIT(restore, 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("damage: a newer format stops the run before it writes, exit code 1, and says to get a "
          "newer nfreeze") {
    for (const std::string kind : {"keys", "index"}) {
        const SmallSite site;
        for (const fs::path& object : objects_of(site, kind)) {
            // As a later nfreeze would write it: another version behind the magic, and a name that
            // fits.
            std::string bytes = read_file(object);
            bytes[7] = static_cast<char>(bytes[7] + 1);
            tamper(object, bytes);
            const std::string old = object.filename(), prefix = kind == "index" ? old.substr(0, 9) : "";
            fs::rename(object,
                       object.parent_path() / (prefix + must_run({"sha256sum", object}).substr(0, 64)));
        }
        const std::string before = fingerprint(site.repo);
        for (const Result& result : {site.backup(), site.restore()}) {
            CHECK_EXIT(result, 1);
            CHECK_NAMES(result.err, "version");
            CHECK_NAMES(result.err, "newer");
        }
        CHECK(fingerprint(site.repo) == before);
    }
}

TEST_SUITE_END();
