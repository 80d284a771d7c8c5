// File systems and kernels as they are at times: listings that have a name twice, names that nobody finds,
// clocks and holes that lie, automounts and dead mounts, file systems that refuse or change what they are
// given.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "mounts.hpp"
#include "trees.hpp"
#include "watch.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;

void check_whole(const Site& site) {
    const Result check = site.nfreeze({"check", "--read-data", site.url});
    CHECK_EXIT(check, 0);
}

void check_restores(const Site& site, const Strings& flags = {}) {
    remove_tree(site.dest);
    site.restore_or_fail(flags);
    CHECK(compare(site.src, site.dest) == "");
}

bool set_attribute(const fs::path& path, const std::string& name, const std::string& value) {
    return lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0) == 0;
}

std::string attribute(const fs::path& path, const std::string& name) {
    char value[256];
    const ssize_t n = lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
    return n < 0 ? "(none)" : std::string(value, static_cast<std::size_t>(n));
}

struct stat look(const fs::path& path) {
    struct stat st {};
    REQUIRE_MESSAGE(lstat(path.c_str(), &st) == 0, path.string());
    return st;
}

void make_socket(const fs::path& path) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(path.string().size() < sizeof address.sun_path);
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    close(fd);
}

// A local repository, of which files younger than a minute are read again, as they are for everybody.
struct Cautious : Site {
    Cautious() : Site(Kind::local) {
        options.unset = {"NFREEZE_RACY_SECONDS"};
        init_or_fail();
    }
};

// One that trusts all times, however young: what was not changed is not read again, without a pause between.
struct Trusting : Site {
    Trusting() : Site(Kind::local) { options.env["NFREEZE_RACY_SECONDS"] = "0"; }
};

// Every sum of --json that tells of trouble, as a user's script would add them up.
std::uint64_t trouble_in(const Result& result) {
    std::uint64_t sum = 0;
    const std::set<std::string> harmless{"restored", "bytes", "in_place", "deleted", "seconds"};
    for (std::size_t at = 0; (at = result.out.find("\":", at)) != std::string::npos; ++at) {
        const std::size_t begin = result.out.rfind('"', at - 1) + 1;
        const std::string name = result.out.substr(begin, at - begin);
        if (!harmless.contains(name)) sum += std::strtoull(result.out.c_str() + at + 2, nullptr, 10);
    }
    return sum;
}

} // namespace

TEST_SUITE_BEGIN("file systems");

// ---- Listings --------------------------------------------------------------------------------

TEST_CASE("file systems: a name that a listing has twice is stored once") {
    if (!may_preload()) return;
    Trusting site;
    for (const char* name : {"a", "log", "sub/log", "sub/deeper/x", "z"}) write_file(site.src / name, name);
    fs::create_symlink("log", site.src / "link");
    REQUIRE(mkfifo((site.src / "pipe").c_str(), 0600) == 0);
    site.init_or_fail();
    const Strings rules{"twice,log", "twice,sub", "twice,link", "twice,pipe", "twice,x", "twice,z"};
    for (const std::string run : {"first", "second"}) {
        CAPTURE(run);
        const Result backup = with_kernel(site.options, rules, {"backup", site.src, site.url});
        CHECK_EXIT(backup, 0);
        const Summary summary = summary_of(backup);
        CHECK(summary.fresh + summary.unchanged == 7);
        CHECK((summary.fresh == 0) == (run == "second"));
        check_whole(site);
        check_restores(site);
    }
}

TEST_CASE("file systems: programs that rotate files beside backups cost none of the files that stay") {
    if (!may_mount()) return;
    Site site(Site::Kind::local);
    std::unique_ptr<Mounted> memory;
    std::unique_ptr<LoopDisk> disk;
    SUBCASE("tmpfs") { memory = std::make_unique<Mounted>("tmpfs", "tmpfs", "size=64m", site.src); }
    SUBCASE("XFS") {
        if (!all_file_systems() || !have_program("mkfs.xfs"))
            return skipped("XFS: `make filesystems` tries it");
        disk = std::make_unique<LoopDisk>(Strings{"mkfs.xfs", "-q", "-f"}, "400M");
        site.src = disk->path();
    }
    constexpr int staying = 4000, logs = 50; // XFS has one of them twice in one of a hundred listings
    for (int i = 0; i < staying; ++i) {
        write_file(site.src / ("stays-" + std::to_string(i)), std::to_string(i));
        if (i % (staying / logs) == 0)
            write_file(site.src / ("log." + std::to_string(i / (staying / logs))), "");
    }
    site.init_or_fail();
    std::atomic<bool> stop = false;
    std::thread rotating([&] {
        Random random(1);
        for (int i = 0; !stop; ++i) {
            const fs::path name = site.src / ("log." + std::to_string(random.below(logs)));
            unlink(name.c_str());
            close(open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
            if (i % 8 == 0)
                rename(name.c_str(), (site.src / ("log." + std::to_string(random.below(logs)))).c_str());
        }
    });
    const int rounds = all_file_systems() ? 100 : 4;
    for (int round = 0; round < rounds; ++round) {
        const Result backup = site.backup();
        CHECK_EXIT(backup, 0);
        if (round % 10 == 3) check_whole(site);
    }
    stop = true;
    rotating.join();
    check_whole(site);
    site.restore_or_fail();
    int back = 0;
    for (int i = 0; i < staying; ++i) {
        const fs::path file = site.dest / ("stays-" + std::to_string(i));
        back += fs::exists(file) && read_file(file) == std::to_string(i);
    }
    CHECK(back == staying);
}

TEST_CASE("file systems: nanoseconds that no clock has are the moment they stand for") {
    if (!may_preload()) return;
    Trusting site;
    const std::vector<std::tuple<std::string, long, std::int64_t, long>> files{
        // name, what the kernel says, seconds and nanoseconds that it means
        {"before", -5, 999, 999'999'995},
        {"long before", -2'000'000'000, 998, 0},
        {"behind", 1'000'000'000, 1001, 0},
        {"long behind", 2'147'483'647, 1002, 147'483'647}};
    Strings rules;
    for (const auto& [name, ns, seconds, rest] : files) {
        write_file(site.src / name, name);
        set_mtime(site.src / name, 1000, 0);
        rules.push_back("ns," + name + "," + std::to_string(ns));
    }
    write_file(site.src / "sane", "sane");
    site.init_or_fail();
    const Result backup = with_kernel(site.options, rules, {"backup", site.src, site.url});
    CHECK_EXIT(backup, 0);
    check_whole(site);
    site.restore_or_fail();
    for (const auto& [name, ns, seconds, rest] : files) {
        const auto captured = name;
        CAPTURE(captured);
        REQUIRE(fs::exists(site.dest / name));
        CHECK(read_file(site.dest / name) == name);
        CHECK(mtime_of(site.dest / name).tv_sec == seconds);
        CHECK(mtime_of(site.dest / name).tv_nsec == rest);
    }
    CHECK(read_file(site.dest / "sane") == "sane");
    const Result again = with_kernel(site.options, rules, {"backup", site.src, site.url});
    CHECK_EXIT(again, 0);
    CHECK(summary_of(again).read == 0);
}

namespace {

// Files, of which "odd" is odd; the others are stored and come back all the same.
struct WithOdd : Site {
    WithOdd() : Site(Kind::local) {
        for (const char* name : {"a", "odd", "sub/deeper/inside", "z"}) write_file(src / name, name);
        init_or_fail();
    }
    void check_rest() const {
        check_whole(*this);
        const Result list = nfreeze({"ls", "-lR", url});
        CHECK_EXIT(list, 0);
        remove_tree(dest);
        static_cast<void>(restore());
        for (const std::string name : {"a", "z", "sub/deeper/inside"}) {
            REQUIRE_MESSAGE(fs::exists(dest / name), name);
            CHECK(read_file(dest / name) == name);
        }
    }
};

} // namespace

TEST_CASE("file systems: names that no file can have are named, exit code 3, and harm nothing else") {
    if (!may_preload()) return;
    WithOdd site;
    for (const std::string name : {"sub//deeper", "sub/deeper", "./sub", "", "sub/"}) {
        CAPTURE(name);
        const Result backup = with_kernel(site.options, {"called,odd," + name},
                                          {"backup", "--allow-shrink", site.src, site.url});
        CHECK_EXIT(backup, 3);
        if (!name.empty()) CHECK_NAMES(backup.err, name);
        CHECK(summary_of(backup).incomplete);
        site.check_rest();
    }
}

TEST_CASE("file systems: times at the end of all time harm nothing") {
    if (!may_preload()) return;
    WithOdd site;
    for (const std::string seconds : {"9223372036854775807", "-9223372036854775808", "-1", "1000000000000"}) {
        CAPTURE(seconds);
        const Result backup = with_kernel(site.options, {"s,odd," + seconds}, {"backup", site.src, site.url});
        CHECK_EXIT(backup, 0);
        site.check_rest();
        CHECK(read_file(site.dest / "odd") == "odd");
    }
}

TEST_CASE("file systems: a name that the listing keeps and nobody finds is named, exit code 3; one that went "
          "is not") {
    if (!may_preload()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "a", "a");
    write_file(site.src / "lost", "lost");
    write_file(site.src / "sub/lost directory/inside", "inside");
    write_file(site.src / "z", "z");
    site.init_or_fail();
    const auto try_rules = [&](const Strings& rules, const std::string& name) {
        CAPTURE(rules[0]);
        const Result backup =
            with_kernel(site.options, rules, {"backup", "--allow-shrink", site.src, site.url});
        CHECK_EXIT(backup, 3);
        CHECK_NAMES(backup.err, name);
        CHECK(summary_of(backup).incomplete);
        check_whole(site);
        remove_tree(site.dest);
        site.restore_or_fail();
        CHECK(read_file(site.dest / "a") == "a");
        CHECK(read_file(site.dest / "z") == "z");
    };
    try_rules({"open,lost,2"}, "lost");
    try_rules({"look,lost,2"}, "lost");
    try_rules({"open,lost directory,2"}, "sub/lost directory");
    try_rules({"look,lost directory,2"}, "sub/lost directory");
    for (const std::string path :
         {"'lost'", "'sub/lost directory'"}) { // in the moment before they are opened
        fs::path gone = site.src / path.substr(1, path.size() - 2);
        const Result backup =
            with_kernel(site.options, {"run," + gone.filename().string() + ",rm -r '" + gone.string() + "'"},
                        {"backup", "--allow-shrink", "--checksum", site.src, site.url});
        CHECK_EXIT(backup, 0);
        CHECK_NOT_NAMED(backup.err, "lost");
        CHECK(!fs::exists(gone));
    }
}

TEST_CASE("file systems: each line of --files-from that stored nothing is named, exit code 3") {
    Site site(Site::Kind::local);
    for (const char* name : {"kept", "sub/kept too", "real/inside", "object.o", "left out/inside", "sub/up",
                             "cached/CACHEDIR.TAG"})
        write_file(site.src / name, name);
    write_file(site.src / "cached/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    write_file(site.src / "cached/thing", "x");
    write_file(site.src / "large", std::string(20'000, 'x'));
    fs::create_directories(site.src / "empty");
    fs::create_symlink("real", site.src / "link");
    make_socket(site.src / "socket");
    site.init_or_fail();
    const auto backup_of = [&](const Strings& lines) {
        std::string list;
        for (const std::string& line : lines) list += line + "\n";
        write_file(site.dir / "list", list);
        return site.backup({"--files-from", site.dir / "list", "--exclude", "*.o", "--exclude", "/left out",
                            "--exclude-caches", "--exclude-larger-than", "10000", "--allow-shrink"});
    };
    const Strings good{"kept", "./sub/kept too", "empty", "link"};
    const Strings bad{"link/inside",  "sub/../sub/up",    "../" + site.src.filename().string() + "/kept",
                      "object.o",     "left out/inside",  "missing",
                      "sub/missing",  "socket",           "large",
                      "cached/thing", "kept/below a file"};
    Strings all = good;
    all.insert(all.end(), bad.begin(), bad.end());
    const Result backup = backup_of(all);
    CHECK_EXIT(backup, 3);
    for (const std::string& line : bad) CHECK_NAMES(backup.err, "'" + line + "'");
    for (const std::string name : {"'kept'", "kept too", "empty", "'link'"})
        CHECK_NOT_NAMED(backup.err, name);
    CHECK(summary_of(backup).incomplete);
    site.restore_or_fail();
    for (const std::string name : {"kept", "sub/kept too"}) CHECK(read_file(site.dest / name) == name);
    CHECK(fs::is_directory(site.dest / "empty"));
    CHECK(fs::is_symlink(site.dest / "link"));
    for (const std::string& line : bad) { // and each by itself
        CAPTURE(line);
        const Result one = backup_of({"kept", line});
        CHECK_EXIT(one, 3);
        CHECK_NAMES(one.err, line);
    }
    CHECK_EXIT(backup_of(good), 0);
}

TEST_CASE("file systems: each SRC is tried; one that is missing, closed or emptied keeps none of the others "
          "from being stored") {
    Site site(Site::Kind::local);
    for (const char* name : {"one", "two", "emptied", "closed"}) write_file(site.dir / name / "file", name);
    site.init_or_fail();
    if (is_root()) {
        give_to(site.dir.path(), account_uid);
        site.options.uid = account_uid;
    }
    const auto backup = [&](const Strings& sources) {
        Strings arguments{"backup"};
        for (const std::string& name : sources) arguments.push_back(site.dir / name);
        arguments.push_back(site.url);
        return site.nfreeze(arguments);
    };
    const auto stored = [&](const std::string& name) {
        const Result list = site.nfreeze({"ls", "--source", site.dir / name, site.url});
        return list.code == 0 && list.out == "file\n";
    };
    CHECK_EXIT(backup({"emptied"}), 0);
    fs::remove(site.dir / "emptied/file");
    chmod((site.dir / "closed").c_str(), 0);
    const Result result = backup({"missing", "one", "emptied", "closed", "two"});
    CHECK_EXIT(result, 1);
    CHECK_NAMES(result.err, "missing");
    CHECK_NAMES(result.err, "emptied");
    CHECK_NAMES(result.err, "closed");
    CHECK(stored("one"));
    CHECK(stored("two"));
    chmod((site.dir / "closed").c_str(), 0700);
    write_file(site.dir / "two/file2", "2");
    const Result last = backup({"closed", "two", "missing"});
    CHECK_EXIT(last, 1);
    CHECK(stored("closed"));
    const Result list = site.nfreeze({"ls", "--source", site.dir / "two", site.url});
    CHECK(list.out == "file\nfile2\n");
}

// ---- What is not what it seems ---------------------------------------------------------------

TEST_CASE("backup: a file that was written less than a minute before it was read is read again by the next "
          "backup") {
    Cautious site;
    write_file(site.src / "young", "just now");
    settle();
    CHECK(site.backup_or_fail().read == 8);
    const Summary second = site.backup_or_fail();
    CHECK(second.read == 8);
    CHECK(second.unchanged == 1);
}

TEST_CASE("backup: what is written to a mapped page that was dirty already is not missed, although no time "
          "tells of it") {
    Cautious site;
    constexpr std::size_t size = 8192;
    write_file(site.src / "mapped", std::string(size, 'a'));
    const int fd = open((site.src / "mapped").c_str(), O_RDWR | O_CLOEXEC);
    char* const page = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    REQUIRE(page != MAP_FAILED);
    page[0] = 'b';
    settle();
    const struct stat before = look(site.src / "mapped");
    site.backup_or_fail();
    page[1] = 'c';
    const struct stat after = look(site.src / "mapped");
    const bool silent =
        before.st_ctim.tv_sec == after.st_ctim.tv_sec && before.st_ctim.tv_nsec == after.st_ctim.tv_nsec;
    site.backup_or_fail();
    munmap(page, size);
    close(fd);
    if (!silent) return skipped("a page that is written without a new time: it was written back meanwhile");
    site.restore_or_fail();
    CHECK(read_file(site.dest / "mapped").substr(0, 3) == "bca");
}

TEST_CASE(
    "backup: a file system that shows holes where it has not written yet what a file holds is asked again") {
    if (!may_preload()) return;
    Cautious site;
    write_random_file(site.src / "young", MiB, 1);
    settle();
    const Result lied = with_kernel(site.options, {"hole,young"}, {"backup", site.src, site.url});
    CHECK_EXIT(lied, 0);
    site.backup_or_fail();
    site.restore_or_fail();
    const bool same = read_file(site.src / "young") == read_file(site.dest / "young");
    CHECK(same);
}

TEST_CASE("file systems: of more holes than are kept the largest are, and the rest take the room of zeros") {
    if (!all_file_systems()) return skipped("200,000 holes: `make filesystems` tries it");
    if (!may_mount()) return;
    Site site(Site::Kind::local);
    const LoopDisk disk({"mkfs.ext4", "-q", "-b", "1024", "-N", "64", "-O", "^has_journal"}, "1G");
    site.src = disk / "src";
    site.dest = disk / "dest";
    fs::create_directory(site.src);
    constexpr off_t step = 2048, equal = 200'100, largest = off_t{64} << 20;
    const fs::path file = site.src / "holes";
    {
        const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        const std::string block(1024, 'x');
        for (off_t i = 0; i < equal; ++i) REQUIRE(pwrite(fd, block.data(), 1024, i * step) == 1024);
        REQUIRE(pwrite(fd, block.data(), 1024, equal * step + largest) ==
                1024); // behind one that is by far the largest
        close(fd);
    }
    const auto blocks = look(file).st_blocks;
    site.init_or_fail();
    const Result backup = site.backup();
    CHECK_EXIT(backup, 0);
    CHECK(summary_of(backup).read < std::uint64_t(equal) * step);
    site.restore_or_fail();
    CHECK(must_run({"cmp", file, site.dest / "holes"}) == "");
    constexpr off_t kept = 1 << 17; // the others are 1 KiB each, two blocks
    const auto more = look(site.dest / "holes").st_blocks - blocks;
    CHECK(more < (equal - kept) * 2 + blocks / 100);
    CHECK(more > (equal - kept) * 2 - blocks / 100);
}

TEST_CASE("file systems: a file of many small pieces between holes takes no longer than one without holes" *
          doctest::test_suite("alone")) {
    Site site(Site::Kind::local);
    constexpr off_t pieces = 6000, piece = 4096;
    const auto make = [&](const char* name, off_t step) {
        write_file(site.src / name / "file", "");
        const int fd = open((site.src / name / "file").c_str(), O_WRONLY | O_CLOEXEC);
        const std::string block(piece, 'x'); // in which no place looks like the end of a chunk
        for (off_t i = 0; i < pieces; ++i) REQUIRE(pwrite(fd, block.data(), piece, i * step) == piece);
        close(fd);
    };
    make("whole", piece);
    make("sparse", 2 * piece);
    if (look(site.src / "sparse/file").st_blocks * 512 > pieces * piece * 3 / 2)
        return skipped("holes: the file system has none so small");
    site.init_or_fail();
    const auto seconds = [&](const char* name) {
        const Result result = site.nfreeze({"backup", site.src / name, site.url});
        CHECK_EXIT(result, 0);
        return result.seconds;
    };
    const double whole = seconds("whole"), sparse = seconds("sparse");
    CHECK(sparse < 2 * whole + 1);
}

TEST_CASE("file systems: a further name of a hard link is read neither by a backup nor by a restore") {
    Trusting site;
    write_random_file(site.src / "a/first", 6 * MiB, 1);
    fs::create_directory(site.src / "b");
    for (const char* name : {"a/second", "b/third", "b/fourth"})
        fs::create_hard_link(site.src / "a/first", site.src / name);
    site.init_or_fail();
    const auto names_read = [](Watch& watch) {
        std::set<std::string> names;
        for (const Event& event : watch.events())
            if ((event.mask & IN_ACCESS) != 0) names.insert(event.path);
        return names.size();
    };
    {
        Watch watch(site.src, IN_ACCESS);
        CHECK(site.backup_or_fail().read == 6 * MiB);
        CHECK(names_read(watch) == 1);
    }
    chmod((site.src / "a/first").c_str(), 0600);
    {
        Watch watch(site.src, IN_ACCESS);
        CHECK(site.backup_or_fail().read == 6 * MiB);
        CHECK(names_read(watch) == 1);
    }
    fs::create_directories(site.dest / "a");
    fs::create_directories(site.dest / "b");
    {
        Watch watch(site.dest, IN_ACCESS);
        site.restore_or_fail();
        CHECK_MESSAGE(names_read(watch) == 0, watch.names(IN_ACCESS));
    }
    CHECK(compare(site.src, site.dest) == "");
    {
        Watch watch(site.dest, IN_ACCESS);
        site.restore_or_fail();
        CHECK_MESSAGE(names_read(watch) == 1, watch.names(IN_ACCESS));
    }
    CHECK(fs::hard_link_count(site.dest / "b/fourth") == 4);
}

TEST_CASE("file systems: the names of a file that changes during a backup tell all the same") {
    if (!may_preload()) return;
    Trusting site;
    write_file(site.src / "a", "before");
    write_file(site.src / "m", "between");
    write_file(site.src / "untouched", "before");
    for (const char* name : {"y", "z"}) fs::create_hard_link(site.src / "a", site.src / name);
    fs::create_hard_link(site.src / "untouched", site.src / "z untouched");
    site.init_or_fail();
    SUBCASE("a file that is new") {}
    SUBCASE("a file that was stored before") { site.backup_or_fail(); }
    for (const std::string change : {"printf ' and after' >> y", "printf other > z", "chmod 600 y",
                                     "setfattr -n user.new -v x y", "ln y x", "rm z; cp a z", "mv z zz"}) {
        if (!all_file_systems() && !change.starts_with("printf ' ") && change[0] != 'c') continue;
        CAPTURE(change);
        write_file(site.src / "m", change); // so that it is opened
        const std::string before = read_file(site.src / "a");
        const Result backup = with_kernel(site.options, {"run,m,cd " + site.src.string() + " && " + change},
                                          {"backup", site.src, site.url});
        CHECK_EXIT(backup, 0);
        remove_tree(site.dest);
        site.restore_or_fail();
        Strings names; // of one file, as the disk has it now
        for (const char* name : {"a", "y", "z"})
            if (fs::exists(site.src / name) && look(site.src / name).st_ino == look(site.src / "a").st_ino)
                names.emplace_back(name);
        for (const std::string& name : names) {
            REQUIRE(fs::exists(site.dest / name));
            CHECK_MESSAGE(look(site.dest / "a").st_ino == look(site.dest / name).st_ino, name);
        }
        const std::string content = read_file(site.dest / "a");
        CHECK((content == before || content == read_file(site.src / "a")));
        Strings list{"ls", "-l", site.url};
        list.insert(list.end(), names.begin(), names.end());
        std::set<std::string> records; // without their names
        for (const std::string& line : lines_of(site.nfreeze(list).out))
            records.insert(line.substr(0, line.size() - 1));
        CHECK(records.size() == 1);
        CHECK(fs::hard_link_count(site.dest / "untouched") == 2);
    }
    check_whole(site);
    site.backup_or_fail();
    check_restores(site);
}

// ---- Attributes ------------------------------------------------------------------------------

TEST_CASE("file systems: an attribute that cannot be read once leaves the others, exit code 3, and the next "
          "backup has it") {
    if (!may_preload()) return;
    Trusting site;
    write_file(site.src / "file", "content");
    write_file(site.src / "directory/inside", "inside");
    fs::create_symlink("file", site.src / "link");
    write_file(site.src / "other", "no attributes");
    for (const char* name : {"file", "directory"})
        for (const char* attribute : {"user.a", "user.b", "user.c"})
            if (!set_attribute(site.src / name, attribute, std::string(attribute) + " of " + name))
                return skipped("attributes: the file system takes none");
    if (is_root()) REQUIRE(set_attribute(site.src / "link", "trusted.b", "of link"));
    site.init_or_fail();
    const std::string error = std::to_string(EIO);
    SUBCASE("one of them") {}
    SUBCASE("known from before") { site.backup_or_fail(); }
    Strings rules{"attribute,user.b," + error, "attribute,trusted.b," + error};
    bool list = false;
    SUBCASE("the list of them") {
        rules = {"list,file," + error, "list,directory," + error};
        list = true;
    }
    for (const char* name : {"file", "directory"})
        chmod((site.src / name).c_str(), 0755); // so that they are read again
    if (is_root()) REQUIRE(lchown((site.src / "link").c_str(), 1, 1) == 0);
    const Result failed = with_kernel(site.options, rules, {"backup", site.src, site.url});
    CHECK_EXIT(failed, 3);
    CHECK_NAMES(failed.err, "file");
    CHECK_NAMES(failed.err, "directory");
    if (is_root() && !list) CHECK_NAMES(failed.err, "link");
    CHECK_NOT_NAMED(failed.err, "other");
    CHECK(summary_of(failed).incomplete);
    site.restore_or_fail();
    CHECK(read_file(site.dest / "file") == "content");
    if (!list)
        for (const std::string name : {"file", "directory"})
            for (const std::string kept : {"user.a", "user.c"})
                CHECK(attribute(site.dest / name, kept) == kept + " of " + name);
    const Summary next = site.backup_or_fail(); // nothing on the disk has changed
    CHECK(!next.incomplete);
    check_restores(site);
    CHECK(attribute(site.dest / "file", "user.b") == "user.b of file");
}

TEST_CASE(
    "file systems: what an ordinary user may not read of a file's attributes, the next backup by root has") {
    if (!is_root()) return skipped("attributes that only root sees: not root");
    Trusting site;
    write_file(site.src / "file", "content");
    write_file(site.src / "directory/inside", "inside");
    fs::create_symlink("file", site.src / "link");
    for (const char* name : {"file", "directory", "link"})
        if (!set_attribute(site.src / name, "trusted.secret", name))
            return skipped("trusted attributes: the file system takes none");
    site.init_or_fail();
    give_to(site.repo.parent_path() / site.repo.filename(), account_uid);
    RunOptions theirs = site.options;
    theirs.uid = account_uid;
    const Result by_user = site.nfreeze({"backup", site.src, site.url}, theirs);
    CHECK((by_user.code == 0 || by_user.code == 3));
    site.backup_or_fail();
    check_restores(site);
    for (const std::string name : {"file", "directory", "link"})
        CHECK(attribute(site.dest / name, "trusted.secret") == name);
    const Summary again = site.backup_or_fail();
    CHECK(again.read == 0);
}

TEST_CASE(
    "file systems: --copy-links takes the attributes of what a link leads to, with --ignore-ctime too") {
    Trusting site;
    write_file(site.src / "target", "content");
    fs::create_symlink("target", site.src / "link");
    if (!set_attribute(site.src / "target", "user.of", "the target"))
        return skipped("attributes: the file system takes none");
    if (is_root()) REQUIRE(set_attribute(site.src / "link", "trusted.of", "the link"));
    site.init_or_fail();
    for (const std::string run : {"first", "second"}) {
        CAPTURE(run);
        site.backup_or_fail({"--copy-links", "--ignore-ctime"});
        remove_tree(site.dest);
        site.restore_or_fail();
        CHECK(!fs::is_symlink(site.dest / "link"));
        CHECK(attribute(site.dest / "link", "user.of") == "the target");
        CHECK(attribute(site.dest / "link", "trusted.of") == "(none)");
    }
}

// ---- Mounts ----------------------------------------------------------------------------------

TEST_CASE("file systems: an automount is what is mounted there, as SRC and in it, triggered or not") {
    if (!may_automount()) return;
    Trusting site;
    const Mounted disk("tmpfs", "tmpfs", "size=4m");
    write_file(disk / "sub/file", "on the other disk");
    site.init_or_fail();
    SUBCASE("as SRC") {
        const Automount automount(site.src, disk.path());
        for (const Strings& flags : {Strings{"--one-file-system"}, Strings{"--one-file-system"}, Strings{}}) {
            automount.expire();
            CHECK(!automount.triggered());
            const Result backup = site.backup(flags);
            CHECK_EXIT(backup, 0);
            remove_tree(site.dest);
            site.restore_or_fail();
            CHECK(read_file(site.dest / "sub/file") == "on the other disk");
        }
    }
    SUBCASE("in SRC") {
        write_file(site.src / "beside", "beside");
        const Automount automount(site.src / "auto", disk.path());
        for (const bool before : {false, true, false, false}) {
            CAPTURE(before);
            automount.expire();
            if (before) CHECK(fs::exists(site.src / "auto/sub"));
            CHECK(automount.triggered() == before);
            const Result backup = site.backup();
            CHECK_EXIT(backup, 0);
            remove_tree(site.dest);
            site.restore_or_fail();
            CHECK(read_file(site.dest / "auto/sub/file") == "on the other disk");
        }
        for (int run = 0; run < 2; ++run) { // and it does not belong to SRC's own
            automount.expire();
            const Result own = site.backup({"--one-file-system", "--allow-shrink"});
            CHECK_EXIT(own, 0);
            const Result list = site.nfreeze({"ls", "-R", site.url});
            CHECK_NOT_NAMED(list.out, "auto/sub");
            CHECK_NAMES(list.out, "beside");
        }
    }
}

TEST_CASE("file systems: with --one-file-system what is mounted in SRC may be there or not; without it, its "
          "absence is refused") {
    if (!may_mount()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "beside", "beside");
    fs::create_directory(site.src / "disk");
    site.init_or_fail();
    bool one = true;
    SUBCASE("--one-file-system") {}
    SUBCASE("all of it") { one = false; }
    const Strings flags = one ? Strings{"--one-file-system"} : Strings{};
    {
        const Mounted disk("tmpfs", "tmpfs", "size=4m", site.src / "disk");
        write_file(disk / "file", "on the disk");
        const Result mounted = site.backup(flags);
        CHECK_EXIT(mounted, 0);
    }
    const Result unmounted = site.backup(flags);
    CHECK_EXIT(unmounted, one ? 0 : 1);
    if (one) {
        check_restores(site);
        const Mounted disk("tmpfs", "tmpfs", "size=4m", site.src / "disk");
        const Result again = site.backup(flags);
        CHECK_EXIT(again, 0);
    } else {
        CHECK_NAMES(unmounted.err, "disk");
    }
}

TEST_CASE("file systems: what a pattern leaves out, or --one-file-system ends at, is not looked at: a dead "
          "mount is no trouble there") {
    if (!may_fuse()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "beside", "beside");
    write_file(site.src / "sub/beside", "beside");
    OddFilesystem dead({}, site.src / "sub/dead");
    OddFilesystem refusing({"refuse:getattr:closed*=EACCES", "refuse:getattr:broken*=EIO"},
                           site.src / "refusing");
    OddFilesystem untyped({"untyped", "refuse:getattr:closed*=EACCES"}, site.src / "untyped");
    write_file(untyped.behind() / "closed.dat", "x");
    write_file(refusing.behind() / "closed.dat", "x");
    fs::create_directory(refusing.behind() / "broken");
    dead.die();
    site.init_or_fail();
    const Result plain = site.backup();
    CHECK_EXIT(plain, 3); // the witness
    CHECK_NAMES(plain.err, "sub/dead");
    CHECK_NAMES(plain.err, "refusing/closed.dat");
    CHECK_NAMES(plain.err, "refusing/broken");
    CHECK_NAMES(plain.err, "untyped/closed.dat");
    const auto quiet = [&](const Strings& flags) {
        CAPTURE(flags[1]);
        const Result backup = site.backup(flags);
        CHECK_EXIT(backup, 0);
        CHECK(backup.err == "");
        CHECK(!summary_of(backup).incomplete);
        remove_tree(site.dest);
        site.restore_or_fail();
        CHECK(read_file(site.dest / "sub/beside") == "beside");
    };
    quiet({"--exclude", "/sub/dead", "--exclude", "/refusing", "--exclude", "/untyped"});
    quiet({"--exclude", "dead/", "--exclude", "closed.*", "--exclude", "broken/"});
    quiet({"--exclude", "dead", "--exclude", "refusing/**", "--exclude", "closed*"});
    quiet({"--exclude", "/refusing", "--exclude", "/untyped", "--one-file-system"});
    write_file(site.dir / "list", "beside\nsub/beside\n");
    quiet({"--files-from", site.dir / "list"});
}

TEST_CASE("file systems: those of the kernel are left out by themselves, and refused as SRC") {
    if (!may_mount()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    site.init_or_fail();
    std::vector<std::unique_ptr<Mounted>> mounts;
    Strings types;
    for (const std::string type :
         {"proc", "sysfs", "devpts", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "pstore",
          "bpf", "mqueue", "binfmt_misc", "fusectl", "efivarfs", "selinuxfs", "smackfs", "rpc_pipefs"}) {
        if (!contains(read_file("/proc/filesystems"), "\t" + type + "\n")) continue;
        try {
            mounts.push_back(std::make_unique<Mounted>(type, type, "", site.src / "system" / type));
            types.push_back(type);
        } catch (const std::exception&) {
        } // not in this namespace, or not twice
    }
    REQUIRE(std::ranges::count(types, "proc") + std::ranges::count(types, "sysfs") == 2);
    RunOptions hurried = site.options;
    hurried.timeout = milliseconds(15'000);
    for (int run = 0; run < 2; ++run) {
        Result backup = site.nfreeze({"backup", site.src, site.url}, hurried);
        forget_transcript();
        backup.err.resize(std::min<std::size_t>(backup.err.size(), 1000));
        REQUIRE_EXIT(backup, 0);
        const Result list = site.nfreeze({"ls", "-R", site.url});
        forget_transcript(); // which may be all of /proc
        Strings wanted{"file", "system"};
        for (const std::string& type : types) wanted.push_back("system/" + type);
        Strings listed;
        for (const std::string& line : lines_of(list.out))
            listed.push_back(line.ends_with("/") ? line.substr(0, line.size() - 1) : line);
        std::ranges::sort(wanted);
        std::ranges::sort(listed);
        CHECK_MESSAGE(listed == wanted, list.out.substr(0, 2000));
    }
    for (const std::string& type : types) {
        CAPTURE(type);
        const Result refused = site.nfreeze({"backup", site.src / "system" / type, site.url}, hurried);
        CHECK_EXIT(refused, 1);
        CHECK_NAMES(refused.err, "system/" + type);
    }
    for (const std::string below : {"/proc/sys", "/proc/1/task", "/proc/version", "/sys/kernel"}) {
        CAPTURE(below);
        const Result refused = site.nfreeze({"backup", below, site.url}, hurried);
        CHECK_EXIT(refused, 1);
        CHECK_NAMES(refused.err, below);
    }
    mounts.clear();
    const Result gone = site.backup(); // nothing of them was stored: nothing is missing
    CHECK_EXIT(gone, 0);
}

TEST_CASE("backup: it does not change when files and directories were last read, where it may leave that") {
    Site site(Site::Kind::local);
    write_file(site.src / "sub/file", "content");
    write_file(site.src / "large", std::string(MiB, 'x'));
    const timespec old[2] = {{1'000'000'000, 7}, {0, UTIME_OMIT}};
    const auto age = [&] {
        for (const fs::path& path : {site.src / "sub/file", site.src / "large", site.src / "sub", site.src})
            REQUIRE(utimensat(AT_FDCWD, path.c_str(), old, AT_SYMLINK_NOFOLLOW) == 0);
    };
    age();
    static_cast<void>(read_file(site.src / "large"));
    if (look(site.src / "large").st_atim.tv_sec == 1'000'000'000)
        return skipped("times of reading: they are not kept here (noatime)");
    site.init_or_fail();
    age();
    for (const Strings& flags : {Strings{}, Strings{"--checksum"}, Strings{"--exclude-caches"}}) {
        site.backup_or_fail(flags);
        for (const fs::path& path : {site.src / "sub/file", site.src / "large", site.src / "sub", site.src})
            CHECK_MESSAGE(look(path).st_atim.tv_sec == 1'000'000'000, path.string());
    }
    if (!is_root()) return;
    // Another's files can be read all the same.
    give_to(site.repo.parent_path() / site.repo.filename(), account_uid);
    site.options.uid = account_uid;
    const Result theirs = site.backup({"--checksum"});
    CHECK_EXIT(theirs, 0);
    CHECK(theirs.err == "");
}

namespace {

int leased = -1;
std::atomic<int> breaks = 0;
void count_break(int) { ++breaks; }

} // namespace

TEST_CASE("backup: a file under a write lease is waited for") {
    Site site(Site::Kind::local);
    write_file(site.src / "a", "a");
    write_file(site.src / "leased", "what its owner holds back");
    write_file(site.src / "z", "z");
    site.init_or_fail();
    leased = open((site.src / "leased").c_str(), O_RDWR | O_CLOEXEC);
    breaks = 0;
    const auto old = std::signal(SIGIO, count_break);
    if (fcntl(leased, F_SETLEASE, F_WRLCK) != 0) {
        close(leased);
        return skipped("leases: the file system has none");
    }
    Child backup({nfreeze_binary(), "backup", site.src, site.url}, site.options);
    CHECK(wait_until([&] { return breaks > 0 || !backup.running(); }, milliseconds(20'000)));
    CHECK(breaks > 0);
    std::this_thread::sleep_for(milliseconds(700)); // it has something to write back first
    CHECK(pwrite(leased, "WHAT", 4, 0) == 4);
    CHECK(fcntl(leased, F_SETLEASE, F_UNLCK) == 0);
    const Result result = backup.wait();
    close(leased);
    std::signal(SIGIO, old);
    CHECK_EXIT(result, 0);
    CHECK_NOT_NAMED(result.err, "leased");
    site.restore_or_fail();
    REQUIRE(fs::exists(site.dest / "leased"));
    CHECK(read_file(site.dest / "leased") == "WHAT its owner holds back");
    CHECK(read_file(site.dest / "z") == "z");
}

TEST_CASE("restore: a file in place under a write lease is waited for, not taken for another") {
    Site site(Site::Kind::local);
    write_file(site.src / "leased", "content");
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    leased = open((site.dest / "leased").c_str(), O_RDWR | O_CLOEXEC);
    breaks = 0;
    const auto old = std::signal(SIGIO, count_break);
    if (fcntl(leased, F_SETLEASE, F_WRLCK) != 0) {
        close(leased);
        return skipped("leases: the file system has none");
    }
    Child restore({nfreeze_binary(), "restore", site.url, site.dest}, site.options);
    CHECK(wait_until([&] { return breaks > 0 || !restore.running(); }, milliseconds(20'000)));
    std::this_thread::sleep_for(milliseconds(300));
    CHECK(fcntl(leased, F_SETLEASE, F_UNLCK) == 0);
    const Result result = restore.wait();
    close(leased);
    std::signal(SIGIO, old);
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, "in place: 1;");
}

// ---- Restoring to file systems that refuse or change -------------------------------------------

TEST_CASE("file systems: what the one restored to refuses is named and counted, exit code 3, and loses "
          "nothing else") {
    if (!may_fuse()) return;
    Site site(Site::Kind::local);
    for (const char* name : {"plain", "with attributes", "with acl", "owned", "what?", "one", "sub/plain"})
        write_file(site.src / name, name);
    fs::create_symlink("plain", site.src / "link");
    REQUIRE(mkfifo((site.src / "pipe").c_str(), 0600) == 0);
    fs::create_hard_link(site.src / "one", site.src / "other");
    for (const char* name : {"user.a", "user.b", "user.c"})
        REQUIRE(set_attribute(site.src / "with attributes", name, name));
    must_run({"setfacl", "-m", "u:1:r", site.src / "with acl"});
    REQUIRE(chown((site.src / "owned").c_str(), account_uid, account_uid) == 0);
    chmod((site.src / "sub/plain").c_str(), 0640);
    set_mtime(site.src / "sub/plain", 1'000'000'000, 0);
    site.init_or_fail();
    site.backup_or_fail();
    Strings switches, named, there{"plain", "sub/plain"};
    SUBCASE("as FAT does") {
        switches = {"refuse:symlink=EPERM", "refuse:mknod=EPERM", "refuse:setxattr:*=EOPNOTSUPP",
                    "refuse:chown=EPERM",   "refuse:link=EPERM",  "refuse:name:*[?]*=EINVAL"};
        named = {"link", "pipe", "with attributes", "with acl", "owned", "what?"};
        there = {"plain", "sub/plain", "with attributes", "with acl", "owned", "one", "other"};
    }
    SUBCASE("symbolic links, in other words") {
        switches = {"refuse:symlink=EOPNOTSUPP"};
        named = {"link"};
    }
    SUBCASE("an attribute") {
        switches = {"refuse:setxattr:user.b=EPERM"};
        named = {"with attributes"};
    }
    SUBCASE("an attribute for which it has no room") {
        switches = {"refuse:setxattr:user.b=ENOSPC"};
        named = {"with attributes"};
    }
    SUBCASE("access control lists") {
        switches = {"refuse:setxattr:system.posix_acl_access=EOPNOTSUPP"};
        named = {"with acl"};
    }
    SUBCASE("modes") {
        switches = {"refuse:chmod=EPERM"};
        named = {"sub/plain"};
    }
    SUBCASE("times") {
        switches = {"refuse:utimens=EPERM"};
        named = {"sub/plain"};
    }
    SUBCASE("to link") {
        switches = {"refuse:link=EPERM"};
        named = {"other"};
        there = {"plain", "sub/plain", "one", "other"};
    }
    REQUIRE(!switches.empty());
    const OddFilesystem odd(switches);
    site.dest = odd / "dest";
    const Result restore = site.restore({"--json"});
    CHECK_EXIT(restore, 3);
    for (const std::string& name : named) CHECK_NAMES(restore.err, "'" + name + "'");
    CHECK(trouble_in(restore) >= named.size());
    for (const std::string& name : there) {
        REQUIRE_MESSAGE(fs::exists(site.dest / name), name);
        CHECK(read_file(site.dest / name) == read_file(site.src / name));
    }
    if (switches[0].starts_with("refuse:setxattr:user.b")) {
        CHECK(attribute(site.dest / "with attributes", "user.a") == "user.a");
        CHECK(attribute(site.dest / "with attributes", "user.c") == "user.c");
    }
    if (switches[0] != "refuse:utimens=EPERM")
        CHECK(mtime_of(site.dest / "sub/plain").tv_sec == 1'000'000'000);
    if (switches[0] != "refuse:chmod=EPERM") CHECK((look(site.dest / "sub/plain").st_mode & 07777) == 0640);
    CHECK(files_below(odd.behind()).size() <= files_below(site.src).size()); // nothing is left beside
    if (switches[0] != "refuse:link=EPERM") { // files of their own are put together with --overwrite only
        const Result again = site.restore({"--json"}); // and it does not become all right by asking twice
        CHECK_EXIT(again, 3);
        for (const std::string& name : named) CHECK_NAMES(again.err, "'" + name + "'");
    }
    if (switches[0] == "refuse:symlink=EOPNOTSUPP") { // an ordinary user has no fewer rights to a link
        fs::create_directory(odd.behind() / "theirs");
        give_to(odd.behind() / "theirs", account_uid);
        give_to(site.repo.parent_path() / site.repo.filename(), account_uid);
        site.options.uid = account_uid;
        site.dest = odd / "theirs/dest";
        const Result theirs = site.restore({"--json"});
        CHECK_EXIT(theirs, 3);
        CHECK_NAMES(theirs.err, "'link'");
    }
}

TEST_CASE("file systems: one that says only at the close that it could not write is heard") {
    if (!may_fuse()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "file", "content");
    write_file(site.src / "sub/file", "content");
    site.init_or_fail();
    site.backup_or_fail();
    SUBCASE("in a restore") {
        const OddFilesystem odd({"refuse:flush=EIO"});
        site.dest = odd / "dest";
        const Result restore = site.restore();
        CHECK_EXIT(restore, 3);
        CHECK_NAMES(restore.err, "'file'");
        CHECK_NAMES(restore.err, "'sub/file'");
        CHECK(files_below(odd.behind()).empty());
    }
    SUBCASE("in a repository") {
        const OddFilesystem odd({"refuse:flush=EIO"});
        copy_tree(site.repo, odd.behind() / "repo");
        write_file(site.src / "new", "new");
        const Result backup = site.nfreeze({"backup", site.src, odd / "repo"});
        CHECK_EXIT(backup, 1);
        const Result list = site.nfreeze({"ls", odd.behind() / "repo"});
        CHECK_NOT_NAMED(list.out, "new");
    }
}

TEST_CASE("file systems: names that differ in case only are named where they are one file, and none takes "
          "the other's place") {
    if (!may_fuse()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "README", "in capitals");
    write_file(site.src / "readme", "in small letters");
    write_file(site.src / "Docs/letter", "one");
    write_file(site.src / "docs/letter", "two");
    write_file(site.src / "other", "other");
    site.init_or_fail();
    site.backup_or_fail();
    const OddFilesystem odd({"fold"});
    site.dest = odd / "dest";
    const auto restore = [&](const Strings& flags) {
        Strings with = flags;
        with.push_back("--json");
        CAPTURE(with[0]);
        const Result result = site.restore(with);
        CHECK_EXIT(result, 3);
        CHECK((contains(result.err, "'README'") || contains(result.err, "'readme'")));
        CHECK((contains(result.err, "'Docs") || contains(result.err, "'docs")));
        CHECK(trouble_in(result) >= 2);
        CHECK(files_below(odd.behind()).size() == 3);
        const std::string content = read_file(site.dest / "readme");
        CHECK((content == "in capitals" || content == "in small letters"));
        CHECK(read_file(site.dest / "other") == "other");
        return content;
    };
    const std::string first = restore({});
    CHECK(restore({}) == first);
    restore({"--overwrite"});
    restore({"--overwrite", "--delete"});
    write_file(site.dest / "extra", "extra");
    const Result kept = site.restore({"--delete"}); // nothing goes where something failed
    CHECK_EXIT(kept, 3);
    CHECK(read_file(site.dest / "extra") == "extra");
}

TEST_CASE("file systems: --delete takes nothing that was restored, where names are changed or folded") {
    if (!may_fuse()) return;
    Site site(Site::Kind::local);
    write_file(site.src / "Song.MP3", "music");
    write_file(site.src / "with a dot.", "dot");
    write_file(site.src / "caf\xc3\xa9/Stra\xc3\x9f"
                          "e",
               "street");
    write_file(site.src / "plain", "plain");
    site.init_or_fail();
    site.backup_or_fail();
    std::string change;
    SUBCASE("to lower case") { change = "lower"; }
    SUBCASE("dots at their ends") { change = "strip"; }
    SUBCASE("decomposed") { change = "decompose"; }
    SUBCASE("folded") { change = "fold"; }
    const OddFilesystem odd({change});
    site.dest = odd / "dest";
    if (change == "fold") { // what is there has its own spelling
        write_file(odd.behind() / "dest/SONG.mp3", "music");
        write_file(odd.behind() / "dest/CAF\xc3\x89/x", "x");
    }
    for (int run = 0; run < 3; ++run) {
        CAPTURE(run);
        if (run > 0) write_file(site.dest / "extra", "extra"); // beside more than that
        const Result restore =
            site.restore({"--delete", "--allow-shrink"}); // at first all that is there goes
        CHECK_EXIT(restore, 0);
        std::multiset<std::string> contents;
        for (const fs::path& file : files_below(odd.behind() / "dest")) contents.insert(read_file(file));
        contents.erase("x"); // in a directory that may be another one here
        CHECK(contents == std::multiset<std::string>{"dot", "music", "plain", "street"});
    }
}

// ---- Bounds ----------------------------------------------------------------------------------

TEST_CASE("file systems: 6,000 directories with files are restored with 256 descriptors") {
    Site site(Site::Kind::local);
    for (int i = 0; i < 6000; ++i) write_file(site.src / std::to_string(i) / "file", std::to_string(i));
    site.init_or_fail();
    site.backup_or_fail();
    const Result restore = with_limit(site.options, "-n 256", {"restore", site.url, site.dest});
    CHECK_EXIT(restore, 0);
    CHECK(restore.err == "");
    CHECK(files_below(site.dest).size() == 6000);
    for (const char* some : {"0", "1234", "5999"}) CHECK(read_file(site.dest / some / "file") == some);
    fs::remove(site.dest / "17/file");
    const Result again = with_limit(site.options, "-n 256", {"restore", "--delete", site.url, site.dest});
    CHECK_EXIT(again, 0);
    CHECK(read_file(site.dest / "17/file") == "17");
}

TEST_CASE("file systems: 600 levels of directories want as many descriptors, and with 256 nothing is stored "
          "or half restored in silence") {
    Site site(Site::Kind::local);
    fs::path deep = "d";
    for (int i = 1; i < 600; ++i) deep /= "d";
    write_file(site.src / deep / "file", "at the bottom");
    site.init_or_fail();
    const Result backup = with_limit(site.options, "-n 256", {"backup", site.src, site.url});
    CHECK_EXIT(backup, 1);
    CHECK_NAMES(backup.err, "Too many open files");
    site.backup_or_fail();
    const Result restore = with_limit(site.options, "-n 256", {"restore", site.url, site.dest});
    CHECK_EXIT(restore, 1);
    CHECK_NAMES(restore.err, "Too many open files");
    const Result again = site.restore({"--delete"});
    CHECK_EXIT(again, 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("file systems: too few descriptors end a run with 1 and are no damage") {
    Site site(Site::Kind::local);
    make_random_tree(site.src, 1, 60, 40'000);
    site.init_or_fail();
    site.backup_or_fail();
    const std::string before = fingerprint(site.repo);
    int failed = 0, worked = 0;
    for (int limit = 4; limit <= 44; limit += all_file_systems() ? 1 : 4) {
        CAPTURE(limit);
        for (const Strings& arguments :
             {Strings{"restore", site.url, site.dest}, Strings{"check", "--read-data", site.url},
              Strings{"backup", "-n", "--checksum", site.src, site.url}}) {
            remove_tree(site.dest);
            const Result result = with_limit(site.options, "-n " + std::to_string(limit), arguments);
            CHECK_MESSAGE((result.code == 0 || result.code == 1), describe(result));
            CHECK_NOT_NAMED(result.err, "amage");
            ++(result.code == 0 ? worked : failed);
            if (result.code != 0) CHECK(result.err != "");
            for (const fs::path& file : files_below(site.dest))
                if (file.filename().string()[0] != '.')
                    CHECK(read_file(file) == read_file(site.src / fs::relative(file, site.dest)));
        }
    }
    CHECK(failed > 0);
    CHECK(worked > 0);
    CHECK(fingerprint(site.repo) == before);
}

TEST_CASE("file systems: too little memory ends a run, which does not hang, and is no damage") {
    Site site(Site::Kind::local);
    for (int i = 0; i < 24; ++i) { // more than is read ahead, of what compresses well
        std::string text;
        for (int line = 0; text.size() < 4 * MiB; ++line)
            text += std::to_string(i) + " has a line " + std::to_string(line) + "\n";
        write_file(site.src / ("large" + std::to_string(i)), text);
    }
    make_random_tree(site.src / "small", 1, 40, 100'000);
    site.init_or_fail();
    site.backup_or_fail();
    site.options.timeout = milliseconds(20'000);
    const std::vector<Strings> verbs{{"restore", site.url, site.dest},
                                     {"backup", "--checksum", "-n", site.src, site.url},
                                     {"check", "--read-data", site.url}};
    const auto ends = [&](const auto& run, const Strings& arguments) {
        remove_tree(site.dest);
        const Result result = run(arguments);
        CHECK_MESSAGE(!result.timed_out, "it hangs: " << describe(result));
        CHECK_MESSAGE((result.code == 0 || result.code == 1), describe(result));
        for (const char* word : {"amage", "authenticate"}) CHECK_NOT_NAMED(result.err, word);
        for (const fs::path& file : files_below(site.dest)) {
            const bool same = read_file(file) == read_file(site.src / fs::relative(file, site.dest));
            CHECK_MESSAGE(same, file.string());
        }
    };
    SUBCASE("address space") {
        for (int mib = 60; mib <= (all_file_systems() ? 300 : 90); mib += 10)
            for (const Strings& arguments : verbs) {
                if (mib % 20 == 10 && arguments[0] != "restore" && !all_file_systems()) continue;
                CAPTURE(mib);
                ends(
                    [&](const Strings& a) {
                        return with_limit(site.options, "-v " + std::to_string(mib * 1024), a);
                    },
                    arguments);
            }
    }
    SUBCASE("an allocation that fails, and those behind it") {
        if (!may_preload()) return;
        std::vector<int> numbers{3, 10, 60};
        if (all_file_systems())
            for (int n = 2; n < 1500; n += 1 + n / 12) numbers.push_back(n);
        for (const int nth : numbers)
            for (const Strings& arguments : verbs)
                for (const std::string times : {"", ",1"}) {
                    if (arguments[0] != "restore" && nth != 10 && !all_file_systems()) continue;
                    CAPTURE(nth);
                    CAPTURE(times);
                    ends(
                        [&](const Strings& a) {
                            return with_kernel(site.options, {"memory," + std::to_string(nth) + times}, a);
                        },
                        arguments);
                }
    }
}

TEST_CASE("file systems: a limit on the size of files is an error with a sentence, not the end by a signal") {
    Site site(Site::Kind::local);
    write_file(site.src / "small", "small");
    write_random_file(site.src / "large", 3 * MiB, 1);
    site.init_or_fail();
    const Result unstored = with_limit(site.options, "-f 1024", {"backup", site.src, site.url}); // 512 KiB
    CHECK_EXIT(unstored, 1);
    CHECK(unstored.signal == 0);
    CHECK_NAMES(unstored.err, "File too large");
    check_whole(site);
    site.backup_or_fail();
    const Result restore = with_limit(site.options, "-f 1024", {"restore", site.url, site.dest});
    CHECK((restore.code == 1 || restore.code == 3));
    CHECK(restore.signal == 0);
    CHECK_NAMES(restore.err, "large");
    CHECK_NAMES(restore.err, "File too large");
    CHECK(!fs::exists(site.dest / "large"));
    CHECK(must_run({"find", site.dest, "-name", ".nfreeze-*"}) == "");
    if (restore.code == 3) CHECK(read_file(site.dest / "small") == "small");
}

// ---- Other file systems, whole -----------------------------------------------------------------

TEST_CASE("file systems: XFS, btrfs, ext4 and tmpfs give back what they held") {
    if (!all_file_systems()) return skipped("disks of its own: `make filesystems` tries them");
    if (!may_mount()) return;
    std::string kind;
    SUBCASE("XFS") { kind = "xfs"; }
    SUBCASE("btrfs") { kind = "btrfs"; }
    SUBCASE("ext4 with small blocks") { kind = "ext4"; }
    SUBCASE("tmpfs") { kind = "tmpfs"; }
    SUBCASE("an overlay") { kind = "overlay"; }
    if (kind != "tmpfs" && !have_program("mkfs." + kind) && kind != "overlay")
        return skipped("there is no mkfs." + kind);
    if (!contains(read_file("/proc/filesystems"), kind + "\n")) return skipped("this kernel has no " + kind);
    const std::map<std::string, Strings> mkfs{{"xfs", {"mkfs.xfs", "-q", "-f"}},
                                              {"btrfs", {"mkfs.btrfs", "-q"}},
                                              {"ext4", {"mkfs.ext4", "-q", "-b", "1024", "-I", "256"}}};
    std::unique_ptr<LoopDisk> disk;
    std::unique_ptr<Mounted> mounted;
    std::unique_ptr<TempDir> layers;
    if (mkfs.contains(kind))
        disk = std::make_unique<LoopDisk>(mkfs.at(kind), "600M");
    else if (kind == "tmpfs")
        mounted = std::make_unique<Mounted>("tmpfs", "tmpfs", "size=600m");
    else {
        layers = std::make_unique<TempDir>();
        for (const char* name : {"lower", "upper", "work"}) fs::create_directory(*layers / name);
        mounted = std::make_unique<Mounted>("overlay", "overlay",
                                            "lowerdir=" + (*layers / "lower").string() +
                                                ",upperdir=" + (*layers / "upper").string() +
                                                ",workdir=" + (*layers / "work").string());
    }
    const fs::path at = disk ? disk->path() : mounted->path();
    Trusting site;
    site.src = at / "src";
    site.dest = at / "dest";
    const AwkwardTree tree(site.src);
    site.init_or_fail();
    const Result first = site.backup();
    CHECK_EXIT(first, 0);
    CHECK(first.err == "");
    const Result restore = site.restore();
    CHECK_EXIT(restore, 0);
    CHECK(compare(site.src, site.dest) == "");
    const Summary again = site.backup_or_fail();
    CHECK(again.read == 0);
    CHECK(again.fresh + again.changed + again.gone == 0);
    const std::string before = fingerprint(site.dest);
    CHECK_EXIT(site.restore({"--delete"}), 0);
    CHECK(fingerprint(site.dest) == before);
    const Result diff = site.nfreeze({"diff", site.url, again.snapshot, "--dir", site.dest});
    CHECK(diff.out == "");
}

TEST_CASE("file systems: FAT, exFAT and NTFS keep what they can, and the rest is named") {
    if (!all_file_systems()) return skipped("disks of its own: `make filesystems` tries them");
    if (!may_mount()) return;
    Strings mkfs, mount;
    SUBCASE("exFAT") {
        mkfs = {"mkfs.exfat"};
        mount = {"sh", "-c",
                 "disk=$(losetup -f --show \"$0\") && mount.exfat-fuse \"$disk\" \"$1\"; code=$?; losetup -d "
                 "\"$disk\"; exit $code"};
    }
    SUBCASE("NTFS") {
        mkfs = {"mkfs.ntfs", "-q", "-F"};
        mount = {"ntfs-3g", "-o", "silent"};
    }
    SUBCASE("FAT") {
        mkfs = {"mkfs.vfat"};
        mount = {"fusefat", "-o", "rw+"};
    }
    for (const std::string& program : {mkfs[0], mount[0], mount[0] == "sh" ? "mount.exfat-fuse" : mount[0]})
        if (!have_program(program)) return skipped("there is no " + program);
    const LoopDisk disk(mkfs, "64M", mount);
    Site site(Site::Kind::local);
    for (const char* name : {"plain", "README", "readme", "sub/file", "what?", "caf\xc3\xa9"})
        write_file(site.src / name, name);
    write_random_file(site.src / "sub/large", 3 * MiB, 1);
    fs::create_symlink("plain", site.src / "link");
    set_mtime(site.src / "plain", 1'600'000'000, 0);
    site.init_or_fail();
    site.backup_or_fail();
    site.dest = disk / "dest";
    const Result restore = site.restore({"--json"});
    CHECK((restore.code == 0 || restore.code == 3));
    const auto holds = [&](const std::string& name) {
        return contains(restore.err, "'" + name + "'") ||
               (fs::exists(site.dest / name) && read_file(site.dest / name) == read_file(site.src / name));
    };
    for (const std::string name : {"plain", "sub/file", "sub/large"})
        CHECK_MESSAGE(read_file(site.dest / name) == read_file(site.src / name), name);
    for (const std::string name : {"README", "readme", "what?", "caf\xc3\xa9"})
        CHECK_MESSAGE(holds(name), name << " is neither there nor named: " << describe(restore));
    CHECK((fs::is_symlink(site.dest / "link") || contains(restore.err, "'link'")));
    const std::size_t files = files_below(site.dest).size();
    const Result again = site.restore({"--delete"});
    CHECK(again.code == restore.code);
    CHECK(files_below(site.dest).size() == files);
}

TEST_SUITE_END();
