// Looking: patterns and versions, what differs from a disk, what takes the space, output for programs.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "answers.hpp"
#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;
using Names = std::set<std::string>;

Strings with_url(Strings arguments, const Site& site, const Strings& rest = {}) {
    arguments.push_back(site.url);
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return arguments;
}

// A JSON text as RFC 8259 has it, and nothing more lenient. Objects keep the order of their fields.
struct Json {
    enum Kind { null, boolean, number, string, array, object } kind = null;
    bool truth = false;
    double value = 0;
    std::string text;
    std::vector<Json> items;
    struct Field;
    std::vector<Field> fields;

    [[nodiscard]] const Json& operator[](const std::string& name) const;
    [[nodiscard]] Strings names() const;
};
struct Json::Field {
    std::string name;
    Json content;
};
const Json& Json::operator[](const std::string& name) const {
    for (const auto& field : fields)
        if (field.name == name) return field.content;
    FAIL("there is no field " << name);
    return *this;
}
Strings Json::names() const {
    Strings all;
    for (const auto& field : fields) all.push_back(field.name);
    return all;
}

class JsonReader {
  public:
    // Throws std::runtime_error that says what is wrong.
    static Json read(const std::string& line) {
        JsonReader reader(line);
        Json json = reader.value();
        reader.spaces();
        if (reader.at_ != line.size()) reader.wrong("something follows");
        return json;
    }

  private:
    explicit JsonReader(const std::string& line) : line_(line) {}
    [[noreturn]] void wrong(const char* what) const {
        throw std::runtime_error(std::string(what) + " at byte " + std::to_string(at_) + " of: " + line_);
    }
    [[nodiscard]] char next() const { return at_ < line_.size() ? line_[at_] : '\0'; }
    void spaces() {
        while (next() == ' ' || next() == '\t') ++at_;
    }
    bool take(const char* word) {
        const std::string_view wanted(word);
        if (std::string_view(line_).substr(at_, wanted.size()) != wanted) return false;
        at_ += wanted.size();
        return true;
    }
    void must_take(const char* word) {
        if (!take(word)) wrong((std::string("no ") + word).c_str());
    }
    std::size_t digits() {
        const std::size_t from = at_;
        while (next() >= '0' && next() <= '9') ++at_;
        if (at_ == from) wrong("no digit");
        return at_ - from;
    }
    Json value() {
        spaces();
        Json json;
        if (next() == '{') {
            json.kind = Json::object;
            ++at_;
            std::set<std::string> seen;
            for (bool first = true; spaces(), !take("}"); first = false) {
                if (!first) must_take(","), spaces();
                std::string name = string();
                if (!seen.insert(name).second) wrong("a field comes twice");
                spaces();
                must_take(":");
                json.fields.push_back({std::move(name), value()});
            }
        } else if (next() == '[') {
            json.kind = Json::array;
            ++at_;
            for (bool first = true; spaces(), !take("]"); first = false) {
                if (!first) must_take(",");
                json.items.push_back(value());
            }
        } else if (next() == '"') {
            json.kind = Json::string;
            json.text = string();
        } else if (take("true") || take("false")) {
            json.kind = Json::boolean;
            json.truth = line_[at_ - 2] == 'u';
        } else if (!take("null")) {
            json.kind = Json::number;
            const std::size_t from = at_;
            take("-");
            const bool zero = next() == '0';
            if (digits() > 1 && zero) wrong("a number begins with 0");
            if (take(".")) digits();
            if (take("e") || take("E")) {
                if (!take("+")) take("-");
                digits();
            }
            json.value = std::stod(line_.substr(from, at_ - from));
        }
        return json;
    }
    std::string string() {
        must_take("\"");
        std::string out;
        for (;;) {
            const auto c = static_cast<unsigned char>(next());
            if (at_ >= line_.size()) wrong("a string does not end");
            if (c == '"') return ++at_, out;
            if (c < 0x20) wrong("a control byte in a string");
            if (c == '\\') {
                ++at_;
                const std::string_view escapes = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
                const std::size_t which = escapes.find(next());
                if (next() == '\0' || which == std::string_view::npos)
                    wrong("an escape that JSON does not have"); // \u is not used
                out += meant[which];
                ++at_;
                continue;
            }
            std::size_t length = c < 0x80                ? 1
                                 : c >= 0xc2 && c < 0xe0 ? 2
                                 : c >= 0xe0 && c < 0xf0 ? 3
                                 : c >= 0xf0 && c < 0xf5 ? 4
                                                         : 0;
            if (length == 0 || at_ + length > line_.size()) wrong("no UTF-8");
            for (std::size_t i = 1; i < length; ++i)
                if ((line_[at_ + i] & 0xc0) != 0x80) wrong("no UTF-8");
            const auto second = static_cast<unsigned char>(length > 1 ? line_[at_ + 1] : 0);
            if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second >= 0xa0) ||
                (c == 0xf0 && second < 0x90) || (c == 0xf4 && second >= 0x90))
                wrong("no UTF-8");
            out.append(line_, at_, length);
            at_ += length;
        }
    }
    const std::string& line_;
    std::size_t at_ = 0;
};

// All lines of standard output, each of which must be an object.
std::vector<Json> objects(const Result& result) {
    std::vector<Json> found;
    CHECK((result.out.empty() || result.out.back() == '\n'));
    for (const auto& line : lines_of(result.out)) {
        try {
            found.push_back(JsonReader::read(line));
            CHECK_MESSAGE(found.back().kind == Json::object, line);
        } catch (const std::exception& e) {
            FAIL_CHECK("no JSON: " << std::string(e.what()));
            break; // one of a kind is enough
        }
    }
    return found;
}

Names listed(const Site& site, const Strings& patterns, const Strings& flags = {}) {
    Strings arguments{"ls"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Result result = site.nfreeze(with_url(arguments, site, patterns));
    CHECK_EXIT(result, 0);
    const Strings lines = lines_of(result.out);
    Names names(lines.begin(), lines.end());
    CHECK(names.size() == lines.size()); // nothing twice
    return names;
}

std::string now_as_typed(int seconds_ago = 0) {
    char now[32];
    const time_t seconds = time(nullptr) - seconds_ago;
    struct tm parts {};
    strftime(now, sizeof now, "%Y-%m-%d %H:%M:%S", gmtime_r(&seconds, &parts)); // the tests run in UTC
    return now;
}

} // namespace

TEST_SUITE_BEGIN("look");

TEST_CASE("json: the reader of these tests takes JSON and nothing else") {
    for (const char* good : {R"({})", R"({"a":1,"b":[],"c":[true,"x"],"d":{"e":-0.5e-7}})",
                             R"({"a":"\"\\ü€😀"})", R"( {"a" : null } )"})
        CHECK_NOTHROW(JsonReader::read(good));
    for (const char* bad : {"", "{", R"({"a":1,})", R"({"a":01})", R"({a:1})", R"({"a":.5})", R"({"a":1} x)",
                            R"({"a":1,"a":2})", "{\"a\":\"\n\"}", "{\"a\":\"\x01\"}", R"({"a":"\x41"})",
                            "{\"a\":\"\xff\"}", "{\"a\":\"\xc0\xaf\"}", "{\"a\":\"\xed\xa0\x80\"}",
                            R"({"a":"x)", R"({"a":nan})", R"({"a":1.})", R"(['a'])", R"({"a":tru})"})
        CHECK_THROWS_MESSAGE(JsonReader::read(bad), bad);
}

TEST_CASE("ls: patterns choose what is listed, at any depth") {
    const Site site(Site::Kind::local);
    for (const char* file : {"a.txt", "b.md", "d/c.txt", "d/e/f.txt", "d/e/g", "bar/x", "zed", "d2/c.txt"})
        write_file(site.src / file, "content");
    site.init_or_fail();
    site.backup_or_fail();
    CHECK(listed(site, {"*.txt"}) == Names{"a.txt", "d/c.txt", "d/e/f.txt", "d2/c.txt"});
    CHECK(listed(site, {"d/*.txt"}) == Names{"d/c.txt"});
    CHECK(listed(site, {"d/**"}) == Names{"d/c.txt", "d/e", "d/e/f.txt", "d/e/g"});
    CHECK(listed(site, {"d/**/*.txt"}) == Names{"d/c.txt", "d/e/f.txt"});
    CHECK(listed(site, {"[ab]*"}) == Names{"a.txt", "b.md", "bar"});
    CHECK(listed(site, {"?ed", "*.md"}) == Names{"b.md", "zed"});
    CHECK(listed(site, {"*.md", "zed", "bar"}) ==
          Names{"b.md", "bar", "bar/x", "zed"}); // patterns beside paths
    CHECK(listed(site, {"*.txt"}, {"-R"}) == listed(site, {"*.txt"}));
    const Result details = site.nfreeze({"ls", "-l", site.url, "d*/*.txt"});
    CHECK_EXIT(details, 0);
    CHECK(lines_of(details.out).size() == 2);
    CHECK_NAMES(details.out, "-rw-r--r--");
    const Result missing = site.nfreeze({"ls", site.url, "not there"});
    CHECK_EXIT(missing, 1);
    CHECK_NAMES(missing.err, "'not there'");
}

TEST_CASE("ls: a pattern with a slash in front matches at the top only, one with a slash at its end "
          "directories only") {
    const Site site(Site::Kind::local);
    for (const char* file : {"a.txt", "d/c.txt", "cache/x", "d/cached"})
        write_file(site.src / file, "content");
    site.init_or_fail();
    site.backup_or_fail();
    CHECK(listed(site, {"/*.txt"}) == Names{"a.txt"});
    CHECK(listed(site, {"/*.txt"}, {"--json"}).size() == 1);
    CHECK(listed(site, {"cache*/"}) == Names{"cache"});
}

TEST_CASE("ls: what is not there is named beside a pattern, too") {
    const Site site(Site::Kind::local);
    write_file(site.src / "a.txt", "content");
    site.init_or_fail();
    site.backup_or_fail();
    for (const Strings& names : {Strings{"*.txt", "not there"}, {"*.not"}}) {
        const Result result = site.nfreeze(with_url({"ls"}, site, names));
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, "not");
    }
    const Result versions = site.nfreeze({"ls", "--all", site.url, "not there"});
    CHECK_EXIT(versions, 1);
}

TEST_CASE("ls: a file whose name looks like a pattern is found by its name, as ls printed it") {
    const Site site(Site::Kind::local);
    const Strings names{"photo [1].jpg", "what?", "a*b", "x[y", "back\\*slash"};
    for (const auto& name : names) write_file(site.src / "d" / name, "content of " + name);
    site.init_or_fail();
    site.backup_or_fail();
    for (const auto& name : names) {
        CAPTURE(name);
        CHECK(listed(site, {"d/" + name}) == Names{"d/" + name});
        const Result versions = site.nfreeze({"ls", "--all", site.url, "d/" + name});
        CHECK_NAMES(versions.out, name);
        const Result cat = site.nfreeze({"cat", site.url, "d/" + name});
        CHECK(cat.out == "content of " + name);
        remove_tree(site.dest);
        CHECK_EXIT(site.nfreeze({"restore", "--all-versions", site.url, site.dest.string(), "d/" + name}), 0);
        CHECK(files_below(site.dest).size() == 1);
    }
}

namespace {

// A file through several snapshots: two contents, a change of its mode only, no file, the first content
// again; and beside it others in a directory.
struct Versions : Site {
    std::vector<Json> snapshots; // the oldest first
    const std::string one = random_bytes(300'000, 1), two = random_bytes(2'000, 2);

    Versions() : Site(Kind::local) {
        init_or_fail();
        write_file(src / "letters/file", one);
        write_file(src / "letters/deep/other.txt", "always the same");
        write_file(src / "elsewhere", "content");
        backup_or_fail({"--allow-shrink"});
        write_file(src / "letters/file", two);
        backup_or_fail({"--allow-shrink"});
        chmod((src / "letters/file").c_str(), 0600);
        backup_or_fail({"--allow-shrink"});
        fs::remove(src / "letters/file");
        write_file(src / "letters/new.txt", "late");
        backup_or_fail({"--allow-shrink"});
        write_file(src / "letters/file", one);
        backup_or_fail({"--allow-shrink"});
        snapshots = objects(nfreeze({"snapshots", "--json", url}));
        REQUIRE(snapshots.size() == 5);
    }
    [[nodiscard]] std::string id(std::size_t i) const { return snapshots[i]["id"].text; }
    // What the directory of a version is called: its snapshot's time, and its id.
    [[nodiscard]] std::string directory(std::size_t i) const {
        std::string time = snapshots[i]["time"].text;
        REQUIRE(time.size() == 20);
        time[10] = '_';
        time[13] = time[16] = '.';
        return time.substr(0, 19) + "_" + id(i).substr(0, 8);
    }
};

} // namespace

TEST_CASE("versions: ls --all names each content that a file ever had, with the snapshot that first had it") {
    const Versions site;
    const auto versions = objects(site.nfreeze({"ls", "--all", "--json", site.url, "letters/file"}));
    REQUIRE(versions.size() == 3);
    const std::size_t first_in[] = {0, 1, 4};
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(versions[i].names() == Strings{"path", "snapshot", "time", "size", "mtime"});
        CHECK(versions[i]["path"].text == "letters/file");
        CHECK(versions[i]["snapshot"].text == site.id(first_in[i]));
        CHECK(versions[i]["time"].text == site.snapshots[first_in[i]]["time"].text);
        CHECK(versions[i]["size"].value == (i == 1 ? 2'000 : 300'000));
    }
    const Result words = site.nfreeze({"ls", "--all", site.url, "letters/file"});
    CHECK_EXIT(words, 0);
    const Strings lines = lines_of(words.out);
    REQUIRE(lines.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(lines[i].starts_with(site.id(first_in[i]).substr(0, 8)));
        CHECK(lines[i].ends_with("letters/file"));
    }
    const auto paths = [](const std::vector<Json>& found) {
        Strings all;
        for (const auto& v : found) all.push_back(v["path"].text);
        return all;
    };
    CHECK(paths(objects(site.nfreeze({"ls", "--all", "--json", site.url, "*.txt"}))) ==
          Strings{"letters/deep/other.txt", "letters/new.txt"});
    CHECK(
        paths(objects(site.nfreeze({"ls", "--all", "--json", site.url, "letters"}))) ==
        Strings{"letters/deep/other.txt", "letters/file", "letters/file", "letters/file", "letters/new.txt"});
    CHECK(paths(objects(site.nfreeze({"ls", "--all", "--json", site.url}))).size() == 6);
}

TEST_CASE("versions: restore --all-versions gets every content there ever was, in directories named after "
          "the time") {
    const Versions site;
    const auto restore = [&](const Strings& flags, const std::string& path) {
        remove_tree(site.dest);
        Strings arguments{"restore", "--all-versions"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        return site.nfreeze(with_url(arguments, site, {site.dest.string(), path}));
    };
    const auto restored = [&] {
        Names names;
        for (const auto& file : files_below(site.dest)) names.insert(fs::relative(file, site.dest).string());
        return names;
    };
    REQUIRE_EXIT(restore({}, "letters/file"), 0);
    CHECK(restored() == Names{site.directory(0) + "/letters/file", site.directory(1) + "/letters/file",
                              site.directory(4) + "/letters/file"});
    CHECK(read_file(site.dest / site.directory(0) / "letters/file") == site.one);
    CHECK(read_file(site.dest / site.directory(1) / "letters/file") == site.two);
    CHECK(read_file(site.dest / site.directory(4) / "letters/file") == site.one);
    const Result again =
        site.nfreeze({"restore", "--all-versions", site.url, site.dest.string(), "letters/file"});
    CHECK_EXIT(again, 0); // all is there
    REQUIRE_EXIT(restore({}, "letters"), 0);
    CHECK(restored() == Names{site.directory(0) + "/letters/file",
                              site.directory(0) + "/letters/deep/other.txt",
                              site.directory(1) + "/letters/file", site.directory(3) + "/letters/new.txt",
                              site.directory(4) + "/letters/file"});
    REQUIRE_EXIT(restore({}, "*.txt"), 0);
    CHECK(restored() ==
          Names{site.directory(0) + "/letters/deep/other.txt", site.directory(3) + "/letters/new.txt"});
    REQUIRE_EXIT(restore({"-n"}, "letters/file"), 0);
    CHECK(!fs::exists(site.dest));
    const Result never = restore({}, "never/there");
    CHECK_EXIT(never, 1);
    CHECK(files_below(site.dest.parent_path() / "dest").empty());
    CHECK_EXIT(site.nfreeze({"restore", "--all-versions", site.url, site.dest.string()}), 2);
}

TEST_CASE("diff --dir: what is new, gone, and changed, by content, whatever size and time say") {
    const Site site(Site::Kind::local);
    for (const char* file : {"same", "gone", "dir/content", "mode", "dir/touched", "longer"})
        write_file(site.src / file, "content");
    write_file(site.src / "large", random_bytes(2 * MiB, 1));
    fs::create_symlink("same", site.src / "link");
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot;
    const auto diff = [&](const Strings& flags = {}) {
        Strings arguments{"diff", "--dir", site.src.string()};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        return site.nfreeze(with_url(arguments, site, {id}));
    };
    const std::string repository = fingerprint(site.repo);
    const Result none = diff();
    CHECK_EXIT(none, 0);
    CHECK(none.out == "");
    site.restore_or_fail();
    const Result copy = site.nfreeze({"diff", "--dir", site.dest.string(), site.url, id});
    CHECK_EXIT(copy, 0);
    CHECK_MESSAGE(copy.out == "", "a restored tree is what was stored");
    const auto rewrite = [&](const fs::path& file, std::string content) {
        const timespec time = mtime_of(file);
        write_file(file, content);
        set_mtime(file, time.tv_sec, time.tv_nsec);
    };
    fs::remove(site.src / "gone");
    write_file(site.src / "new", "content");
    rewrite(site.src / "dir/content", "CONTENT"); // neither size nor mtime tell
    std::string large = random_bytes(2 * MiB, 1);
    large[MiB] ^= 1;
    rewrite(site.src / "large", large);
    chmod((site.src / "mode").c_str(), 0600);
    set_mtime(site.src / "dir/touched", 1'000'000'000, 0);
    append_file(site.src / "longer", "more");
    fs::remove(site.src / "link");
    fs::create_symlink("elsewhere", site.src / "link");
    const Result result = diff();
    CHECK_EXIT(result, 0);
    Strings lines = lines_of(result.out);
    std::erase_if(lines,
                  [](const std::string& line) { return line == "U ." || line == "U dir"; }); // their mtime
    CHECK(lines == Strings{"M dir/content", "U dir/touched", "- gone", "M large", "M link", "M longer",
                           "U mode", "+ new"});
    CHECK(fingerprint(site.repo) == repository);
    const auto json = objects(diff({"--json"}));
    CHECK(json.size() == lines_of(result.out).size());
    for (const auto& line : json) CHECK(line.names() == Strings{"change", "path"});
    CHECK_EXIT(site.nfreeze({"diff", "--dir", (site.dir / "not there").string(), site.url, id}), 1);
    CHECK_EXIT(site.nfreeze({"diff", "--dir", site.src.string(), site.url, id, id}), 2);
    CHECK_EXIT(site.nfreeze({"diff", "--dir", site.src.string(), site.url}), 2);
}

TEST_CASE("diff --dir: it says of directories and of types what diff says of two snapshots") {
    const Site site(Site::Kind::local);
    for (const char* file :
         {"file to directory", "file to link", "directory to file/x", "directory/x", "mode/x"})
        write_file(site.src / file, "content");
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot;
    fs::remove(site.src / "file to directory");
    fs::create_directory(site.src / "file to directory");
    fs::remove(site.src / "file to link");
    fs::create_symlink("x", site.src / "file to link");
    remove_tree(site.src / "directory to file");
    write_file(site.src / "directory to file", "content");
    chmod((site.src / "mode").c_str(), 0700);
    fs::create_directory(site.src / "new directory");
    const Result disk = site.nfreeze({"diff", "--dir", site.src.string(), site.url, id});
    CHECK_EXIT(disk, 0);
    site.backup_or_fail();
    const Result snapshots = site.nfreeze({"diff", site.url, id});
    CHECK_EXIT(snapshots, 0);
    for (const auto& line : lines_of(snapshots.out)) {
        CAPTURE(line);
        CHECK_NAMES(disk.out, line + "\n");
    }
    CHECK(disk.out == snapshots.out);
}

TEST_CASE("diff --dir: everything that a tree may hold is equal to itself") {
    const Site site(Site::Kind::local);
    const AwkwardTree tree(site.src);
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot;
    const Result result = site.nfreeze({"diff", "--dir", site.src.string(), site.url, id});
    CHECK_EXIT(result, 0);
    CHECK(result.out == "");
    write_file(site.src / "new", "x");
    CHECK_NAMES(site.nfreeze({"diff", "--dir", site.src.string(), site.url, id}).out, "+ new\n");
}

TEST_CASE("diff --dir: the repository itself is passed over where it lies in the directory") {
    Site site(Site::Kind::local);
    site.repo = site.src / "repo";
    site.url = site.repo.string();
    write_file(site.src / "file", "content");
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot;
    const Result result = site.nfreeze({"diff", "--dir", site.src.string(), site.url, id});
    CHECK_EXIT(result, 0);
    Strings lines = lines_of(result.out);
    std::erase(lines, "U ."); // it was made before the backup, and its mtime is what it was
    CHECK(lines.empty());
}

TEST_CASE("diff --dir: only the list of files is downloaded") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    const Site site(server, proxy.port());
    make_random_tree(site.src, 1, 200, 10'000);
    write_random_file(site.src / "large", 12 * MiB, 1);
    site.init_or_fail();
    const std::string id = site.backup_or_fail().snapshot;
    const std::string repository = fingerprint(site.repo);
    append_file(site.src / "large", "x");
    const std::int64_t down = proxy.downstream, up = proxy.upstream;
    const Result result = site.nfreeze({"diff", "--dir", site.src.string(), site.url, id});
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "M large\n");
    CHECK(proxy.downstream - down < 200'000);
    CHECK(proxy.upstream - up < 100'000);
    CHECK(fingerprint(site.repo) == repository);
}

TEST_CASE("du: what directories hold, the largest first, sums up") {
    const Site site(Site::Kind::local);
    write_file(site.src / "a/1", std::string(1'000, 'x'));
    write_file(site.src / "a/deep/2", std::string(2'000, 'x'));
    write_file(site.src / "b/c/3", std::string(50'000, 'x'));
    write_file(site.src / "b/4", std::string(300, 'x'));
    write_file(site.src / "a.txt", std::string(20'000, 'x')); // sorts before a/ as bytes go
    write_file(site.src / "empty", "");
    fs::create_directories(site.src / "void");
    site.init_or_fail();
    site.backup_or_fail();
    const auto du = [&](const Strings& flags, const Strings& rest = {}) {
        Strings arguments{"du", "--json"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        const Result result = site.nfreeze(with_url(arguments, site, rest));
        CHECK_EXIT(result, 0);
        std::vector<std::string> rows;
        for (const auto& o : objects(result)) {
            CHECK(o.names() == Strings{"path", "files", "bytes"});
            rows.push_back(o["path"].text + " " + std::to_string(int(o["files"].value)) + " " +
                           std::to_string(int(o["bytes"].value)));
        }
        return rows;
    };
    CHECK(du({}) == Strings{"b/ 2 50300", "a.txt 1 20000", "a/ 2 3000", "empty 1 0"});
    CHECK(du({}, {"b"}) == Strings{"b/c/ 1 50000", "b/4 1 300"});
    CHECK(du({}, {"./b/c/"}) == Strings{"b/c/3 1 50000"});
    CHECK(du({}, {"a.txt"}) == Strings{"a.txt 1 20000"});
    const Result words = site.nfreeze({"du", site.url});
    CHECK_EXIT(words, 0);
    const Strings lines = lines_of(words.out);
    REQUIRE(lines.size() == 4);
    CHECK_NAMES(lines[0], "49 KiB");
    CHECK(lines[0].ends_with("b/"));
    CHECK(lines[3].ends_with("empty"));
    CHECK(std::count(lines[0].begin(), lines[0].end(), '#') >
          std::count(lines[1].begin(), lines[1].end(), '#'));
    std::this_thread::sleep_for(milliseconds(1'100));
    const std::string then = now_as_typed();
    write_file(site.src / "a/deep/new", std::string(10, 'x'));
    chmod((site.src / "b/4").c_str(), 0600); // a change of status is one
    site.backup_or_fail();
    CHECK(du({"--newer", then}) == Strings{"b/ 1 300", "a/ 1 10"});
    CHECK(du({"--newer", then}, {"a"}) == Strings{"a/deep/ 1 10"});
    CHECK(du({"--newer", "1h"}).size() == 4);
    CHECK_EXIT(site.nfreeze({"du", "--newer", "yesterday", site.url}), 2);
}

TEST_CASE("du: a path that is not there is named") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    site.backup_or_fail();
    const Result result = site.nfreeze({"du", site.url, "not there"});
    CHECK_EXIT(result, 1);
    CHECK_NAMES(result.err, "'not there'");
}

TEST_CASE("du --unique: what only one snapshot needs counts there, and nowhere else") {
    const Site site(Site::Kind::local);
    write_random_file(site.src / "shared", 3 * MiB, 1);
    make_random_tree(site.src / "tree", 2, 300, 3'000);
    settle();
    site.init_or_fail();
    site.backup_or_fail();
    write_random_file(site.src / "only one has this", 3 * MiB, 3);
    site.backup_or_fail();
    fs::remove(site.src / "only one has this");
    site.backup_or_fail({"--tag", "last"});
    const auto ids = objects(site.nfreeze({"snapshots", "--json", site.url}));
    REQUIRE(ids.size() == 3);
    const Result result = site.nfreeze({"du", "--unique", "--json", site.url});
    CHECK_EXIT(result, 0);
    const auto rows = objects(result);
    REQUIRE(rows.size() == 3);
    for (const auto& row : rows) {
        CHECK(row.names() == Strings{"snapshot", "files", "bytes"});
        const double bytes = row["bytes"].value;
        const bool second = row["snapshot"].text == ids[1]["id"].text;
        CAPTURE(row["snapshot"].text);
        if (second)
            CHECK((bytes > 3.0 * MiB && bytes < 3.3 * MiB));
        else
            CHECK(bytes < 60'000); // the part of the list of files where the names differ
    }
    CHECK(rows[0]["snapshot"].text == ids[1]["id"].text); // the largest first
    const Result words = site.nfreeze({"du", "--unique", site.url});
    CHECK_NAMES(lines_of(words.out)[0], ids[1]["id"].text.substr(0, 8));
    CHECK_NAMES(lines_of(words.out)[0], "3.0 MiB");
    // What it says is what goes: forgetting that snapshot alone frees so much.
    const auto before = site.repository_bytes();
    REQUIRE_EXIT(site.nfreeze({"forget", "--yes", site.url, ids[1]["id"].text}), 0);
    REQUIRE_EXIT(site.nfreeze({"prune", "--now", "--yes", "--max-unused", "0%", site.url}), 0);
    const double freed = double(before) - double(site.repository_bytes());
    CHECK(std::abs(freed - rows[0]["bytes"].value) < 200'000);
    const auto left = objects(site.nfreeze({"du", "--unique", "--json", "--tag", "last", site.url}));
    REQUIRE(left.size() == 1);
    CHECK(left[0]["snapshot"].text == ids[2]["id"].text);
}

namespace {

const Strings awkward_names{"quote\"d",
                            "back\\slash",
                            "\\x41 literally",
                            "new\nline",
                            "tab\tbell\x07 delete\x7f",
                            "bad \xff\xfe utf-8",
                            "overlong \xc0\xaf",
                            "surrogate \xed\xa0\x80",
                            "c1 \xc2\x85",
                            "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80",
                            "{\"a\":1}",
                            "' $(x) `",
                            "trailing\\"};

// One line for a set of field names.
std::string fields(const std::vector<Json>& all, std::size_t i) {
    if (i >= all.size()) return "(no object)";
    std::string names;
    for (const auto& name : all[i].names()) names += (names.empty() ? "" : " ") + name;
    return names;
}
const char* const backup_fields = "snapshot source incomplete new changed unchanged gone unreadable "
                                  "bytes_read bytes_new bytes_uploaded seconds";
const char* const snapshot_fields = "id time host user source tags incomplete files directories others bytes "
                                    "new_files changed_files new_bytes version";
const char* const restore_fields =
    "snapshot dest restored bytes in_place kept deleted failed missing incomplete deletion_refused "
    "owners_not_set devices_left_out attributes_not_set";
const char* const check_fields = "snapshots packs packs_read bytes_read errors";
const char* const repair_fields = "packs_read packs_adopted snapshots_adopted packs_damaged packs_unreadable "
                                  "chunks_saved chunks_lost errors_left";
const char* const prune_fields = "packs bytes bytes_needed packs_to_condemn bytes_to_condemn bytes_to_copy "
                                 "bytes_young bytes_condemned bytes_due";

struct AwkwardSite : Site {
    AwkwardSite() : Site(Kind::local) {
        src = dir / "so\"ur\\ce\n\xff";
        dest = dir / "de\"st\\";
        for (const auto& name : awkward_names) write_file(src / name, "content of " + name);
        fs::create_symlink("to \"quoted\"\\ \xfe", src / "link");
        init_or_fail();
    }
    [[nodiscard]] Result json(const std::string& verb, const Strings& flags, const Strings& rest = {}) const {
        Strings arguments{verb, "--json"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        return nfreeze(with_url(arguments, *this, rest));
    }
};

} // namespace

TEST_CASE("json: every line is an object with the fields that are promised, whatever the names are") {
    const AwkwardSite site;
    const Result backup = site.nfreeze({"backup", "--json", "-v", "--tag", "t\"a\\g", "--tag", "x", "--host",
                                        "h\"o\\st\x01", "--verify", site.src.string(), site.url});
    REQUIRE_EXIT(backup, 0);
    auto all = objects(backup);
    REQUIRE(all.size() == awkward_names.size() + 4); // ., the link; the sum and what was verified
    for (std::size_t i = 0; i + 2 < all.size(); ++i) CHECK(fields(all, i) == "change path");
    const Json sum = all[all.size() - 2];
    CHECK(fields(all, all.size() - 2) == backup_fields);
    CHECK(fields(all, all.size() - 1) == "packs_read bytes_read errors");
    CHECK(sum["snapshot"].text.size() == 32);
    CHECK(sum["incomplete"].kind == Json::boolean);
    CHECK(sum["new"].value == double(awkward_names.size() + 1));
    CHECK(sum["seconds"].value > 0);
    CHECK(sum["bytes_uploaded"].value > 0);

    all = objects(site.json("snapshots", {}));
    REQUIRE(all.size() == 1);
    CHECK(fields(all, 0) == snapshot_fields);
    CHECK(all[0]["id"].text == sum["snapshot"].text);
    REQUIRE(all[0]["tags"].items.size() == 2);
    CHECK(all[0]["tags"].items[0].text == "t\"a\\g");
    CHECK(all[0]["host"].text == "h\"o\\st\\x01");
    CHECK(all[0]["source"].text == sum["source"].text);
    CHECK(sum["source"].text.ends_with("so\"ur\\ce\\x0a\\xff"));
    CHECK(all[0]["time"].text.ends_with("Z"));

    // The names are those that other verbs take.
    all = objects(site.json("ls", {}));
    REQUIRE(all.size() == awkward_names.size() + 1);
    Names contents, wanted;
    for (std::size_t i = 0; i < all.size(); ++i) {
        CHECK(fields(all, i) == "path type mode uid gid user group size mtime target");
        if (all[i]["type"].text == "symlink")
            CHECK(all[i]["target"].text == "to \"quoted\"\\ \\xfe");
        else
            CHECK(all[i]["mode"].text == "644");
        if (all[i]["type"].text == "file")
            contents.insert(site.nfreeze({"cat", site.url, all[i]["path"].text}).out);
    }
    for (const auto& name : awkward_names) wanted.insert("content of " + name);
    CHECK(contents == wanted);

    all = objects(site.json("ls", {"--all"}));
    REQUIRE(all.size() == awkward_names.size() + 1);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(fields(all, i) == "path snapshot time size mtime");

    const std::string id = sum["snapshot"].text;
    write_file(site.src / "new \"\\\n\xff", "x");
    fs::remove(site.src / awkward_names[0]);
    const Result dry =
        site.nfreeze({"backup", "--json", "-n", "--host", "h\"o\\st\x01", site.src.string(), site.url});
    all = objects(dry);
    REQUIRE(all.size() == 1);
    CHECK(fields(all, 0) == backup_fields);
    CHECK(all[0]["snapshot"].text == "");
    const auto disk = objects(site.json("diff", {"--dir", site.src.string()}, {id}));
    REQUIRE(site.nfreeze({"backup", "--json", "--host", "h\"o\\st\x01", site.src.string(), site.url}).code ==
            0);
    all = objects(site.json("diff", {}, {id}));
    REQUIRE(all.size() >= 2);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(fields(all, i) == "change path");
    for (std::size_t i = 0; i < disk.size(); ++i) CHECK(fields(disk, i) == "change path");

    all = objects(site.json("du", {}));
    CHECK(all.size() == awkward_names.size() + 1); // and a link, which is a file, too
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(fields(all, i) == "path files bytes");
    all = objects(site.json("du", {"--unique"}));
    CHECK(all.size() == 2);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(fields(all, i) == "snapshot files bytes");

    all = objects(site.json("key", {"list"}));
    REQUIRE(all.size() == 1);
    CHECK(fields(all, 0) == "id time opens");
    CHECK(all[0]["id"].text.size() == 64);
    CHECK(all[0]["opens"].truth);
}

TEST_CASE("json: restore, check, repair, forget and prune print the fields that are promised") {
    const AwkwardSite site;
    for (int i = 0; i < 2; ++i) {
        write_file(site.src / "file", std::to_string(i));
        site.backup_or_fail();
    }
    auto all = objects(site.json("restore", {}, {site.dest.string()}));
    REQUIRE(all.size() == 1);
    CHECK(fields(all, 0) == restore_fields);
    CHECK(all[0]["restored"].value == double(awkward_names.size() + 2));
    CHECK(all[0]["dest"].text == site.dest.string());
    CHECK(all[0]["missing"].items.empty());
    write_file(site.dest / "file", "other");
    const Result partly = site.json("restore", {}, {site.dest.string(), "not \"there\"", "file", "link"});
    CHECK_EXIT(partly, 3);
    all = objects(partly);
    REQUIRE(all.size() == 1);
    CHECK(all[0]["kept"].value == 1);
    REQUIRE(all[0]["missing"].items.size() == 1);
    CHECK(all[0]["missing"].items[0].text == "not \"there\"");

    all = objects(site.json("check", {}));
    REQUIRE(all.size() == 1);
    CHECK(fields(all, 0) == check_fields);
    CHECK(all[0]["snapshots"].value == 2);
    CHECK(all[0]["errors"].value == 0);
    all = objects(site.json("repair", {}));
    REQUIRE(all.size() == 1);
    CHECK(fields(all, 0) == repair_fields);
    CHECK(all[0]["packs_damaged"].value == 0);

    all = objects(site.json("forget", {"-n", "--keep-last", "1"}));
    REQUIRE(all.size() == 2);
    CHECK(fields(all, 0) == std::string("list ") + snapshot_fields + " reasons"); // why it stays
    CHECK(fields(all, 1) == std::string("list ") + snapshot_fields);
    CHECK(all[0]["list"].text == "stay");
    CHECK(all[1]["list"].text == "go");
    all = objects(site.json("forget", {"-n", "--purge", "--path", "file"}));
    REQUIRE(all.size() == 4);
    CHECK(fields(all, 0) == "snapshot entries");
    CHECK(fields(all, 1) == "snapshot entries");
    CHECK(fields(all, 2) == std::string("list ") + snapshot_fields);
    CHECK(all[2]["list"].text == "written anew");

    all = objects(site.json("forget", {"--yes", "--keep-last", "1"}));
    CHECK(all.size() == 2);
    all = objects(site.json("prune", {"-n"}));
    REQUIRE(all.size() == 2);
    CHECK(fields(all, 0) == std::string("list ") + snapshot_fields);
    CHECK(all[0]["list"].text == "forgotten");
    CHECK(fields(all, 1) == prune_fields);
    all = objects(site.json("prune", {"--now", "--yes"}));
    REQUIRE(all.size() == 3);
    CHECK(fields(all, 2) == "packs_deleted bytes_deleted bytes_left");
}

TEST_CASE("json: no words come between the objects, whatever else is asked for") {
    const AwkwardSite site;
    write_file(site.src / "file", "1");
    const std::string first = site.backup_or_fail().snapshot;
    write_file(site.src / "file", "2");
    site.backup_or_fail();
    write_file(site.dir / "new", "another\n");
    const fs::path packs = site.repo / "packs";
    const std::vector<std::pair<std::string, Strings>> runs{{"restore", {"--all-versions"}},
                                                            {"restore", {"-n"}},
                                                            {"restore", {"-v"}},
                                                            {"check", {"--read-data"}},
                                                            {"check", {"--read-data=files:5"}},
                                                            {"check", {"--append-only"}}};
    for (const auto& [verb, options] : runs) {
        const Strings& flags = options;
        CAPTURE(flags[0]);
        remove_tree(site.dest);
        const Result result = site.json(verb, flags,
                                        verb == "check"                ? Strings{}
                                        : flags[0] == "--all-versions" ? Strings{site.dest.string(), "file"}
                                                                       : Strings{site.dest.string()});
        CHECK(objects(result).size() > 0);
    }
    write_file(site.dest / "more", "x");
    objects(site.json("restore", {"--delete", "-n"}, {site.dest.string()}));
    objects(site.json("restore", {"--delete", "-v"}, {site.dest.string()}));
    REQUIRE_EXIT(site.json("forget", {"--yes"}, {first}), 0);
    objects(site.json("forget", {"--undo"}, {first}));
    objects(
        site.nfreeze({"key", "add", "--json", "--new-password-file", (site.dir / "new").string(), site.url}));
}

TEST_CASE("versions: a name that is not there is named however it is written") {
    const Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    site.backup_or_fail();
    for (const char* name : {"nosuch", "nosuch/", "./nosuch"}) {
        INFO(name);
        CHECK_EXIT(site.nfreeze({"ls", "--all", site.url, name}), 1);
        const Result result = site.nfreeze({"restore", "--all-versions", site.url, site.dest, name});
        CHECK_EXIT(result, 1);
        CHECK_NAMES(result.err, "nosuch");
    }
}

namespace {

// A source of which a snapshot exists that a clock which ran ahead has dated: of an older state.
struct Ahead : Site {
    std::string ahead, newest, older;
    explicit Ahead(int seconds) : Site(Kind::local) {
        write_file(src / "file", "older");
        write_random_file(src / "large", 3 * MiB, 1);
        init_or_fail();
        older = backup_or_fail().snapshot;
        ahead = plant(*this, {"snapshot", std::to_string(seconds), older});
        write_file(src / "file", "newest");
        fs::remove(src / "large");
        write_random_file(src / "larger", 4 * MiB, 2);
        settle();
        newest = backup_or_fail({"--allow-shrink"}).snapshot;
    }
};

} // namespace

TEST_CASE("clocks: a snapshot from after now is named, and is not the newest") {
    if (!have_reader()) return;
    const Ahead site(86'400);
    const std::string id = site.ahead.substr(0, 8);
    const auto check = [&](const Strings& words, const std::string& wanted, const std::string& not_wanted) {
        CAPTURE(words[0]);
        const Result result = site.nfreeze(words);
        CHECK_EXIT(result, 0);
        CHECK_NAMES(result.out, wanted);
        CHECK_NOT_NAMED(result.out, not_wanted);
        CHECK_NAMES(result.err, id);
        CHECK_MESSAGE((contains(result.err, "after now") || contains(result.err, "future")), result.err);
    };
    check({"ls", site.url}, "larger\n", "large\n");
    check({"cat", site.url, "file"}, "newest", "older");
    check({"restore", site.url, site.dest}, site.newest, site.ahead);
    CHECK(compare(site.src, site.dest) == "");
    check({"du", site.url}, "larger", "large\n");
    check({"diff", site.url, site.older}, "+ larger", "- larger");
    check({"backup", site.src, site.url}, "2 unchanged", "changed, 1");
    // Asked for, it is given.
    const Result asked = site.nfreeze({"cat", "--snapshot", id, site.url, "file"});
    CHECK_EXIT(asked, 0);
    CHECK(asked.out == "older");
    const Result against = site.nfreeze({"diff", site.url, site.newest, id});
    CHECK_NAMES(against.out, "- larger");
    // It stays where rules choose, and goes by its id.
    CHECK_EXIT(site.nfreeze({"forget", "--yes", "--keep-last", "1", site.url}), 0);
    const Strings left = ids_in(site);
    CHECK(left.size() == 2);
    CHECK(left.back() == id);
    CHECK_EXIT(site.nfreeze({"forget", "--yes", site.url, id}), 0);
    const Result after = site.nfreeze({"ls", site.url});
    CHECK(after.err == "");
}

TEST_CASE("clocks: the guard of a backup compares with what is from before now") {
    if (!have_reader()) return;
    const Ahead site(864'000);
    write_file(site.src / "more", "x");
    const Summary same =
        site.backup_or_fail(); // "large" was taken away before the newest, which was allowed to
    CHECK(same.fresh == 1);
    CHECK(same.gone == 0);
    fs::remove(site.src / "larger");
    CHECK_EXIT(site.backup(), 1); // and it is there to be refused
}

TEST_CASE("clocks: two minutes are nothing, and what is all that there is counts") {
    if (!have_reader()) return;
    const Ahead close(90);
    const Result listed = close.nfreeze({"cat", close.url, "file"});
    CHECK_EXIT(listed, 0);
    CHECK(listed.out == "older"); // of a minute from now
    CHECK(listed.err == "");
    const Ahead far(100'000);
    REQUIRE_EXIT(far.nfreeze({"forget", "--yes", far.url, far.older, far.newest}), 0);
    const Result only = far.nfreeze({"cat", far.url, "file"});
    CHECK_EXIT(only, 0);
    CHECK(only.out == "older");
    CHECK_NAMES(only.err, far.ahead.substr(0, 8));
    const Result restored = far.restore();
    CHECK_EXIT(restored, 0);
    CHECK(read_file(far.dest / "file") == "older");
    CHECK_EXIT(far.backup({"--allow-shrink"}), 0);
}

TEST_CASE("ls: a file of a name with slashes, from standard input, is found as others are") {
    const Site site(Site::Kind::local);
    site.init_or_fail();
    RunOptions options = site.options;
    options.input = "a dump";
    REQUIRE_EXIT(site.nfreeze({"backup", "--stdin-name", "a/b/c", site.url}, options), 0);
    CHECK(listed(site, {}) == Names{"a"});
    CHECK(listed(site, {}, {"-R"}) == Names{"a", "a/b", "a/b/c"});
    CHECK(listed(site, {"a"}) == Names{"a/b"});
    CHECK(listed(site, {"a/b/c"}) == Names{"a/b/c"});
    CHECK(listed(site, {"*c"}).contains("a/b/c"));
    CHECK(site.nfreeze({"cat", site.url, "a/b/c"}).out == "a dump");
    CHECK_EXIT(site.restore(), 0);
    CHECK(read_file(site.dest / "a/b/c") == "a dump");
    CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
    options.input = "a longer dump";
    const Result again = site.nfreeze({"backup", "--stdin-name", "/a//b/./c", site.url}, options);
    CHECK_EXIT(again, 0);
    CHECK(site.nfreeze({"cat", "--snapshot", summary_of(again).snapshot, site.url, "a/b/c"}).out ==
          "a longer dump");
}

TEST_SUITE_END();
