// What a restore deletes, whose files it takes over, what rights it gives; and a repository that lies where
// others may write.
#include <fcntl.h>
#include <grp.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <thread>

#include "mounts.hpp"
#include "trees.hpp"
#include "watch.hpp"

using namespace support;

namespace {

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

// A source of a few files, backed up once and restored once.
struct Restored : Site {
    explicit Restored(bool restore = true) : Site(Kind::local) {
        for (const char* name : {"a/one", "a/two", "b/three", "readme", "z/last"})
            write_file(src / name, name);
        init_or_fail();
        backup_or_fail();
        if (restore) restore_or_fail();
    }
};

// chattr +i for as long as it lives.
class Immutable {
  public:
    explicit Immutable(const fs::path& path) : path_(path), works_(run({"chattr", "+i", path}).code == 0) {
        forget_transcript();
    }
    ~Immutable() {
        if (works_) must_run({"chattr", "-i", path_});
    }
    Immutable(const Immutable&) = delete;
    Immutable& operator=(const Immutable&) = delete;
    explicit operator bool() const { return works_; }

  private:
    fs::path path_;
    bool works_;
};

std::string attribute(const fs::path& path, const std::string& name) {
    char value[256];
    const ssize_t n = lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
    return n < 0 ? "(none)" : std::string(value, static_cast<std::size_t>(n));
}

// Another /etc/passwd and /etc/group for one run.
RunOptions with_accounts(const Site& site, const std::string& passwd, const std::string& group) {
    RunOptions options = site.options;
    write_file(site.dir / "passwd", passwd);
    write_file(site.dir / "group", group);
    options.mounts = {{site.dir / "passwd", "/etc/passwd", ""}, {site.dir / "group", "/etc/group", ""}};
    return options;
}

} // namespace

TEST_SUITE_BEGIN("rights");

// ---- What may be deleted ---------------------------------------------------------------------

TEST_CASE("rights: --delete takes nothing of what is mounted below DEST") {
    if (!may_mount()) return;
    Restored site;
    fs::create_directory(site.src / "data");
    write_file(site.src / "data/own", "own");
    site.backup_or_fail();
    write_file(site.dir / "elsewhere/file", "bound");
    fs::create_directory(site.dest / "data");
    const Mounted known("tmpfs", "tmpfs", "size=1m", site.dest / "data");
    const Mounted other("tmpfs", "tmpfs", "size=1m", site.dest / "other");
    const Mounted deep("tmpfs", "tmpfs", "size=1m", site.dest / "extra/deep/mount");
    const Mounted bound("bind", site.dir / "elsewhere", "", site.dest / "bound");
    const Mounted below("bind", site.dir / "elsewhere", "", site.dest / "a/extra/bound");
    for (const Mounted* mounted : {&known, &other, &deep})
        write_file(*mounted / "sub/file", "on the other disk");
    write_file(site.dest / "a/gone", "x");
    const Result restore = site.restore({"--delete"});
    CHECK((restore.code == 0 || restore.code == 3));
    for (const Mounted* mounted : {&known, &other, &deep}) CHECK(fs::exists(*mounted / "sub/file"));
    CHECK(fs::exists(site.dir / "elsewhere/file"));
    CHECK(read_file(site.dest / "data/own") == "own");
    CHECK(!fs::exists(site.dest / "a/gone"));
}

TEST_CASE("rights: --delete into / is refused, unless / is what was backed up") {
    if (!is_root()) return skipped("a root of its own: not root");
    TempDir root;
    Site site(Site::Kind::local);
    fs::copy_file(nfreeze_binary(), root / "nfreeze");
    for (const char* name :
         {"home/me/letter", "home/me/notes", "etc/passwd", "etc/group", "usr/lib/x", "var/y"})
        write_file(root / name, name);
    RunOptions inside = site.options;
    inside.chroot = root.path();
    inside.env["HOME"] = "/home/me";
    const auto nfreeze = [&](Strings arguments, const std::string& cwd = "/") {
        arguments.insert(arguments.begin(), "/nfreeze");
        inside.cwd = cwd;
        return run(arguments, inside);
    };
    const Result init = nfreeze({"init", "/repo"});
    if (init.code != 0) return skipped("a root of its own: needs a static binary");
    CHECK_EXIT(nfreeze({"backup", "/home/me", "/repo"}), 0);
    fs::create_directory(root / "tmp");
    const std::size_t files = files_below(root.path()).size();
    for (const Strings& where : {Strings{"/"}, Strings{"//"}, Strings{"/."}, Strings{"/home/.."},
                                 Strings{"."}, Strings{"..", "/home"}}) {
        CAPTURE(where[0]);
        for (const Strings& flags : {Strings{}, Strings{"--allow-shrink"}, Strings{"--overwrite"}}) {
            Strings arguments{"restore", "--delete"};
            arguments.insert(arguments.end(), flags.begin(), flags.end());
            arguments.insert(arguments.end(), {"/repo", where[0]});
            CHECK_EXIT(nfreeze(arguments, where.size() > 1 ? where[1] : "/"), 2);
            REQUIRE(files_below(root.path()).size() == files);
            CHECK(!fs::exists(root / "letter"));
        }
    }
    CHECK_EXIT(nfreeze({"backup", "/", "/repo"}), 0);
    write_file(root / "var/extra", "x");
    write_file(root / "home/me/letter", "changed");
    const Result whole = nfreeze({"restore", "--delete", "--overwrite", "--source", "/", "/repo", "/"});
    CHECK_EXIT(whole, 0);
    CHECK(!fs::exists(root / "var/extra"));
    CHECK(read_file(root / "home/me/letter") == "home/me/letter");
    CHECK_EXIT(nfreeze({"check", "/repo"}), 0);
}

TEST_CASE("rights: --delete takes nothing where anything failed, was damaged, kept or missing") {
    Restored site;
    write_file(site.dest / "a/extra", "x"); // in the first directory: what fails comes behind it
    write_file(site.dest / "extra", "x");
    Strings flags{"--delete"}, paths;
    std::unique_ptr<Immutable> held;
    int code = 3;
    SUBCASE("kept") { write_file(site.dest / "z/last", "mine"); }
    SUBCASE("failed") {
        write_file(site.dest / "z/last", "mine");
        held = std::make_unique<Immutable>(site.dest / "z/last");
        if (!*held) return skipped("a file that cannot be replaced: there is no chattr for it");
        flags.emplace_back("--overwrite");
    }
    SUBCASE("damaged") {
        write_random_file(site.src / "z/last", 300'000, 1);
        site.backup_or_fail();
        for (const fs::path& pack : packs_of(site))
            if (fs::file_size(pack) > 300'000) flip_byte(pack, 150'000);
        fs::remove(site.dest / "z/last");
        code = 5;
    }
    SUBCASE("missing") { paths = {"a", "no such thing"}; }
    SUBCASE("only one name cannot be opened for what it is") {
        fs::remove(site.dest / "z/last");
        write_file(site.dest / "z/last/in the way", "x");
    }
    const Result restore = site.restore(flags, paths);
    CHECK_EXIT(restore, code);
    CHECK(fs::exists(site.dest / "a/extra"));
    CHECK(fs::exists(site.dest / "extra"));
    CHECK_NAMES(restore.out, "deleted: 0");
}

TEST_CASE("rights: --delete that was interrupted has taken nothing") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 30; ++i)
        write_random_file(site.src / ("dir" + std::to_string(i)) / "file", 3 << 20, i);
    site.init_or_fail();
    site.backup_or_fail();
    write_file(site.dest / "dir0/extra", "x");
    proxy.downstream_rate = 48 << 20;
    Child restore({nfreeze_binary(), "restore", "--delete", site.url, site.dest}, site.options);
    REQUIRE(wait_until([&] { return fs::exists(site.dest / "dir1/file"); }, milliseconds(30'000)));
    REQUIRE_MESSAGE(restore.running(), "it must be interrupted before it is done");
    restore.kill(SIGINT);
    CHECK_EXIT(restore.wait(), 130);
    CHECK(fs::exists(site.dest / "dir0/extra"));
    proxy.downstream_rate = 0;
    CHECK_EXIT(site.restore({"--delete"}), 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("rights: --delete leaves sockets, which no snapshot can have") {
    Restored site;
    make_socket(site.dest / "socket");
    make_socket(site.dest / "a/socket");
    fs::create_directories(site.dest / "extra/dir");
    make_socket(site.dest / "extra/dir/socket");
    write_file(site.dest / "extra/dir/file", "x");
    const Result restore = site.restore({"--delete"});
    CHECK((restore.code == 0 || restore.code == 3));
    for (const char* name : {"socket", "a/socket", "extra/dir/socket"})
        CHECK(fs::is_socket(site.dest / name));
    CHECK(!fs::exists(site.dest / "extra/dir/file"));
    CHECK(files_below(site.dest).size() == 5);
}

TEST_CASE(
    "rights: a name that cannot be deleted stops neither the others nor what its directory is to have") {
    Restored site;
    chmod((site.src / "a").c_str(), 0751);
    set_mtime(site.src / "a", 1'500'000'000, 3);
    if (is_root()) REQUIRE(chown((site.src / "a").c_str(), 12, 34) == 0);
    site.backup_or_fail();
    for (const char* name : {"a/b-before", "a/held", "a/x-behind", "b/extra"})
        write_file(site.dest / name, "x");
    {
        const Immutable held(site.dest / "a/held");
        if (!held) return skipped("a file that cannot be removed: there is no chattr for it");
        const Result restore = site.restore({"--delete"});
        CHECK_EXIT(restore, 3);
        CHECK_NAMES(restore.err, "a/held");
        CHECK_NAMES(restore.out, "deleted: 3");
        for (const char* name : {"a/b-before", "a/x-behind", "b/extra"})
            CHECK_MESSAGE(!fs::exists(site.dest / name), name);
        const struct stat wanted = look(site.src / "a"), dir = look(site.dest / "a");
        CHECK(dir.st_mode == wanted.st_mode);
        CHECK(dir.st_uid == wanted.st_uid);
        CHECK(dir.st_gid == wanted.st_gid);
        CHECK(dir.st_mtim.tv_sec == 1'500'000'000);
    }
    CHECK_EXIT(site.restore({"--delete"}), 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("rights: --delete that would take more than half of what DEST holds takes nothing, exit code 3, "
          "unless --allow-shrink") {
    Restored site;
    int extra = 0;
    SUBCASE("many files") {
        for (extra = 0; extra < 6; ++extra) write_file(site.dest / ("extra" + std::to_string(extra)), "x");
    }
    SUBCASE("one directory with many files") {
        for (extra = 0; extra < 6; ++extra) write_file(site.dest / "a/photos" / std::to_string(extra), "x");
    }
    SUBCASE("a DEST of something else") {
        remove_tree(site.dest);
        for (extra = 0; extra < 20; ++extra)
            write_file(site.dest / "other/things" / std::to_string(extra), "x");
    }
    const Result refused = site.restore({"--delete"});
    CHECK_EXIT(refused, 3);
    CHECK_NAMES(refused.err, "--allow-shrink");
    CHECK_NAMES(refused.out, "deleted: 0");
    CHECK(files_below(site.dest).size() == 5 + static_cast<std::size_t>(extra));
    const Result allowed = site.restore({"--delete", "--allow-shrink"});
    CHECK_EXIT(allowed, 0);
    CHECK(compare(site.src, site.dest) == "");
    for (int few = 0; few < 4; ++few) write_file(site.dest / ("extra" + std::to_string(few)), "x"); // 4 of 9
    CHECK_EXIT(site.restore({"--delete"}), 0);
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE(
    "rights: a directory in the way of a file goes with --overwrite --delete, and stays with either alone") {
    Restored site;
    fs::remove(site.dest / "readme");
    write_file(site.dest / "readme/in the way", "x");
    for (const Strings& flags : {Strings{}, Strings{"--overwrite"}, Strings{"--delete"}}) {
        CHECK_EXIT(site.restore(flags), 3);
        CHECK(read_file(site.dest / "readme/in the way") == "x");
    }
    CHECK_EXIT(site.restore({"--overwrite", "--delete"}), 0);
    CHECK(compare(site.src, site.dest) == "");
    fs::remove(site.dest / "readme"); // but not if the guard says no
    for (int i = 0; i < 20; ++i) write_file(site.dest / "readme" / std::to_string(i), "x");
    CHECK_EXIT(site.restore({"--overwrite", "--delete"}), 3);
    CHECK(files_below(site.dest / "readme").size() == 20);
}

// ---- Files that are there already ------------------------------------------------------------

TEST_CASE("rights: root takes over nobody's file: what another put there is written anew before it is "
          "root's, or setuid") {
    if (!is_root()) return skipped("files of others: not root");
    Site site(Site::Kind::local);
    write_file(site.src / "bin/tool", "#!/bin/sh\nid\n");
    chmod((site.src / "bin/tool").c_str(), 04755);
    write_file(site.src / "config", "setting");
    site.init_or_fail();
    site.backup_or_fail();
    fs::create_directories(site.dest / "bin");
    for (const char* name : {"bin/tool", "config"}) fs::copy_file(site.src / name, site.dest / name);
    give_to(site.dest, account_uid);
    for (const char* name : {"bin/tool", "config"}) {
        fs::permissions(site.dest / name, fs::perms(0755));
        fs::create_hard_link(site.dest / name,
                             site.dir / fs::path(name).filename()); // where it can be looked at afterwards
    }
    bool one_link = false;
    SUBCASE("with another link to it") {}
    SUBCASE("without") { one_link = true; }
    const int tool = open((site.dest / "bin/tool").c_str(), O_RDWR | O_CLOEXEC),
              config = open((site.dest / "config").c_str(), O_RDWR | O_CLOEXEC);
    if (one_link)
        for (const char* name : {"tool", "config"}) fs::remove(site.dir / name);
    const Result restore = site.restore();
    CHECK_EXIT(restore, 0);
    CHECK(compare(site.src, site.dest) == "");
    for (const auto& [fd, name] : {std::pair{tool, "bin/tool"}, std::pair{config, "config"}}) {
        const auto captured = name;
        CAPTURE(captured);
        struct stat theirs {};
        REQUIRE(fstat(fd, &theirs) == 0);
        CHECK(theirs.st_uid == account_uid);
        CHECK((theirs.st_mode & 07777) == 0755);
        CHECK(theirs.st_ino != look(site.dest / name).st_ino);
        CHECK(pwrite(fd, "#!/bin/evil", 11, 0) == 11);
        CHECK(read_file(site.dest / name) == read_file(site.src / name));
        close(fd);
    }
}

TEST_CASE("rights: a file in place that has another name elsewhere keeps there what it has") {
    Site site(Site::Kind::local);
    for (const char* name : {"mode", "time", "attribute", "right"}) write_file(site.src / name, name);
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    for (const char* name : {"mode", "time", "attribute", "right"}) {
        fs::create_directories(site.dir / "outside");
        fs::create_hard_link(site.dest / name, site.dir / "outside" / name);
    }
    chmod((site.dest / "mode").c_str(), 0600);
    set_mtime(site.dest / "time", 1'000'000'000, 0);
    const bool attributes = lsetxattr((site.dest / "attribute").c_str(), "user.mine", "x", 1, 0) == 0;
    const std::string before = fingerprint(site.dir / "outside");
    const ino_t right = look(site.dest / "right").st_ino;
    const Result restore = site.restore();
    CHECK_EXIT(restore, 0);
    CHECK(look(site.dest / "right").st_ino == right);
    // A link less changes the ctime, and nothing else.
    const auto without_ctime = [](const std::string& text) {
        std::string kept;
        for (const std::string& line : lines_of(text)) {
            const std::size_t inode = line.rfind(' '), ctime = line.rfind(' ', inode - 1);
            kept += line.substr(0, ctime) + line.substr(inode) + "\n";
        }
        return kept;
    };
    CHECK(without_ctime(fingerprint(site.dir / "outside")) == without_ctime(before));
    if (attributes) CHECK(attribute(site.dir / "outside/attribute", "user.mine") == "x");
    fs::remove(site.dir / "outside/right");
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("rights: what is in place and right keeps its inode and its ctime, and the next backup reads "
          "nothing of it") {
    Site site(Site::Kind::local);
    const AwkwardTree tree(site.src);
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    const std::string before = fingerprint(site.dest);
    for (const Strings& flags :
         {Strings{}, Strings{"--overwrite"}, Strings{"--delete"}, Strings{"--overwrite", "--delete"}}) {
        CAPTURE(flags.size());
        const Result restore = site.restore(flags);
        CHECK_EXIT(restore, 0);
        CHECK((fingerprint(site.dest) == before)); // not shown
    }
    site.options.env["NFREEZE_RACY_SECONDS"] = "0";
    const Result first = site.nfreeze({"backup", site.dest, site.url});
    CHECK_EXIT(first, 0);
    CHECK_EXIT(site.restore({"--source", site.src}), 0);
    const Result second = site.nfreeze({"backup", site.dest, site.url});
    CHECK_EXIT(second, 0);
    CHECK(summary_of(second).read == 0);
    CHECK(summary_of(second).changed == 0);
}

TEST_CASE("rights: what is in place and right need not be changed: it may be immutable, or another's") {
    Restored site;
    for (const char* name : {"readme", "z"}) {
        const Immutable held(site.dest / name);
        if (!held) return skipped("a file that cannot be changed: there is no chattr for it");
        for (const Strings& flags : {Strings{}, Strings{"--overwrite"}}) {
            const Result restore = site.restore(flags);
            CHECK_EXIT(restore, 0);
            CHECK(restore.err == "");
        }
    }
    if (!is_root()) return;
    give_to(site.dir / "server", account_uid);
    RunOptions theirs = site.options;
    theirs.uid = account_uid;
    const Result restore = site.nfreeze({"restore", site.url, site.dest}, theirs); // all of it is root's
    CHECK_EXIT(restore, 0);
    CHECK(restore.err == "");
}

// ---- What is made, and with which rights -------------------------------------------------------

TEST_CASE("rights: pipes, devices and links get their owner and mode where nobody can put another file in "
          "their place") {
    if (!is_root()) return skipped("files of others: not root");
    if (!may_preload()) return;
    Site site(Site::Kind::local);
    for (int i = 0; i < 4; ++i) {
        REQUIRE(mkfifo((site.src / ("pipe" + std::to_string(i))).c_str(), 0600) == 0);
        fs::create_symlink("nowhere", site.src / ("link" + std::to_string(i)));
        REQUIRE(mknod((site.src / ("null" + std::to_string(i))).c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
    }
    site.init_or_fail();
    site.backup_or_fail();
    fs::create_directories(site.dest);
    REQUIRE(chown(site.dest.c_str(), account_uid, account_uid) == 0);
    const fs::path victim = site.dir / "theirs";
    write_file(victim, "a file that would like to be root's");
    give_to(victim, account_uid);
    const struct stat before = look(victim);
    std::atomic<bool> stop = false;
    std::atomic<int> swapped = 0;
    std::thread swapping([&] { // as who owns the directory may
        for (int i = 0; !stop; ++i) {
            std::error_code gone;
            for (fs::directory_iterator entry(site.dest, gone), end; !gone && entry != end;
                 entry.increment(gone)) {
                const std::string name = entry->path().filename();
                struct stat st {};
                if (!name.starts_with(".nfreeze-") || lstat(entry->path().c_str(), &st) != 0 ||
                    st.st_ino == before.st_ino)
                    continue;
                if (rename(entry->path().c_str(), (site.dir / ("stolen" + std::to_string(++i))).c_str()) ==
                        0 &&
                    link(victim.c_str(), entry->path().c_str()) == 0)
                    ++swapped;
            }
        }
    });
    const Result restore = with_kernel(site.options, {"pause,mknodat,20", "pause,symlinkat,20"},
                                       {"restore", site.url, site.dest});
    stop = true;
    swapping.join();
    CHECK((restore.code == 0 || restore.code == 3));
    const struct stat after = look(victim);
    CHECK_MESSAGE(after.st_uid == before.st_uid, swapped << " were swapped");
    CHECK(after.st_gid == before.st_gid);
    CHECK(after.st_mode == before.st_mode);
    CHECK(after.st_mtim.tv_sec == before.st_mtim.tv_sec);
}

TEST_CASE(
    "rights: a pipe, device or link in place whose owner or mode differs is made anew, not taken over") {
    if (!is_root()) return skipped("files of others: not root");
    Site site(Site::Kind::local);
    fs::create_directories(site.src);
    const auto make = [](const fs::path& at) {
        REQUIRE(mkfifo((at / "pipe").c_str(), 0600) == 0);
        fs::create_symlink("nowhere", at / "link");
        REQUIRE(mknod((at / "null").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
    };
    make(site.src);
    site.init_or_fail();
    site.backup_or_fail();
    fs::create_directories(site.dest);
    make(site.dest);
    give_to(site.dest, account_uid);
    fs::create_directory(site.dir / "theirs");
    for (const char* name : {"pipe", "link", "null"})
        REQUIRE(linkat(AT_FDCWD, (site.dest / name).c_str(), AT_FDCWD, (site.dir / "theirs" / name).c_str(),
                       0) == 0);
    const Result restore = site.restore();
    CHECK_EXIT(restore, 0);
    CHECK(compare(site.src, site.dest) == "");
    for (const char* name : {"pipe", "link", "null"}) {
        CAPTURE(name);
        CHECK(look(site.dir / "theirs" / name).st_uid == account_uid);
        CHECK(look(site.dir / "theirs" / name).st_ino != look(site.dest / name).st_ino);
    }
    const std::string now = fingerprint(site.dest);
    CHECK_EXIT(site.restore(), 0);
    CHECK(fingerprint(site.dest) == now);
}

TEST_CASE("rights: a program of an account that is unknown here is not setuid for whoever has its number") {
    if (!can_mount()) return skipped("another /etc/passwd for one run: needs root and mount namespaces");
    Site site(Site::Kind::local);
    for (const char* name : {"theirs", "their group's", "plain", "root's", "nobody's"}) {
        write_file(site.src / name, name);
        chmod((site.src / name).c_str(), 0755);
    }
    REQUIRE(chown((site.src / "theirs").c_str(), 7777, 0) == 0);
    REQUIRE(chown((site.src / "their group's").c_str(), 0, 7777) == 0);
    REQUIRE(chown((site.src / "plain").c_str(), 7777, 7777) == 0);
    REQUIRE(chown((site.src / "nobody's").c_str(), 8888, 8888) == 0); // no name there either
    chmod((site.src / "theirs").c_str(), 04755);
    chmod((site.src / "their group's").c_str(), 02755);
    chmod((site.src / "root's").c_str(), 06755);
    chmod((site.src / "nobody's").c_str(), 06755);
    site.init_or_fail();
    const RunOptions there = with_accounts(site, "root:x:0:0::/root:/bin/sh\nghost:x:7777:7777::/:/bin/sh\n",
                                           "root:x:0:\nghosts:x:7777:\n");
    CHECK_EXIT(site.nfreeze({"backup", site.src, site.url}, there), 0);
    const RunOptions here = with_accounts(site, "root:x:0:0::/root:/bin/sh\nme:x:7777:7777::/:/bin/sh\n",
                                          "root:x:0:\nus:x:7777:\n");
    for (int run = 0; run < 2; ++run) {
        CAPTURE(run);
        const Result restore = site.nfreeze({"restore", site.url, site.dest}, here);
        CHECK_EXIT(restore, 3);
        CHECK_NAMES(restore.err, "'theirs'");
        CHECK_NAMES(restore.err, "their group's");
        for (const char* name : {"plain", "root's", "nobody's"}) CHECK_NOT_NAMED(restore.err, name);
        CHECK((look(site.dest / "theirs").st_mode & 07777) == 0755);
        CHECK((look(site.dest / "their group's").st_mode & 07777) == 0755);
        CHECK((look(site.dest / "root's").st_mode & 07777) == 06755);
        CHECK((look(site.dest / "nobody's").st_mode & 07777) == 06755);
    }
    const RunOptions again = with_accounts(site, "root:x:0:0::/root:/bin/sh\nghost:x:4321:4321::/:/bin/sh\n",
                                           "root:x:0:\nghosts:x:4321:\n");
    CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, again), 0); // who is known by another number
    CHECK(look(site.dest / "theirs").st_uid == 4321);
    CHECK((look(site.dest / "theirs").st_mode & 07777) == 04755);
}

TEST_CASE("rights: access control lists go by name where owners do") {
    if (!can_mount()) return skipped("another /etc/passwd for one run: needs root and mount namespaces");
    if (!have_program("setfacl")) return skipped("access control lists: there is no setfacl");
    Site site(Site::Kind::local);
    write_file(site.src / "dir/file", "content");
    const group* games = getgrnam("games");
    REQUIRE(games != nullptr);
    must_run({"setfacl", "-m", "u:games:rw,g:games:r,u:43210:r", site.src / "dir/file"});
    must_run({"setfacl", "-m", "u:games:rx,d:u:games:rwx,d:g:games:rx", site.src / "dir"});
    site.init_or_fail();
    site.backup_or_fail();
    const RunOptions here = with_accounts(site, "root:x:0:0::/root:/bin/sh\ngames:x:4005:4060::/:/bin/sh\n",
                                          "root:x:0:\ngames:x:4060:\n");
    for (int run = 0; run < 2; ++run) {
        CAPTURE(run);
        CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, here), 0);
        const std::string file = must_run({"getfacl", "-cpn", site.dest / "dir/file"}),
                          dir = must_run({"getfacl", "-cpn", site.dest / "dir"});
        for (const char* line : {"user:4005:rw-", "group:4060:r--", "user:43210:r--"})
            CHECK_NAMES(file, line);
        CHECK_NOT_NAMED(file, "user:5:");
        for (const char* line : {"user:4005:r-x", "default:user:4005:rwx", "default:group:4060:r-x"})
            CHECK_NAMES(dir, line);
        CHECK_NOT_NAMED(dir, "user:5:");
    }
    const std::string before = fingerprint(site.dest); // which is how it is to be
    CHECK_EXIT(site.nfreeze({"restore", site.url, site.dest}, here), 0);
    CHECK(fingerprint(site.dest) == before);
}

TEST_CASE("rights: capabilities that a program was given since do not survive --overwrite") {
    if (!is_root()) return skipped("capabilities: not root");
    Site site(Site::Kind::local);
    for (const char* name : {"without", "with"}) write_file(site.src / name, name);
    // struct vfs_cap_data, revision 2: magic, then permitted and inheritable, low and high
    const auto capability = [](const fs::path& path, unsigned char permitted) {
        const char value[20] = {1, 0, 0, 2, static_cast<char>(permitted)};
        return setxattr(path.c_str(), "security.capability", value, sizeof value, 0) == 0;
    };
    if (!capability(site.src / "with", 1)) return skipped("capabilities: the file system takes none");
    site.init_or_fail();
    site.backup_or_fail();
    site.restore_or_fail();
    CHECK(attribute(site.dest / "with", "security.capability") ==
          attribute(site.src / "with", "security.capability"));
    REQUIRE(capability(site.dest / "without", 255));
    REQUIRE(capability(site.dest / "with", 255));
    CHECK_EXIT(site.restore({"--overwrite"}), 0);
    CHECK(attribute(site.dest / "without", "security.capability") == "(none)");
    CHECK(attribute(site.dest / "with", "security.capability") ==
          attribute(site.src / "with", "security.capability"));
}

// ---- As an ordinary user ---------------------------------------------------------------------

TEST_CASE("rights: a directory that its owner may not write gets what it lacks, and is closed again") {
    if (!is_root()) return skipped("another account than root's: not root");
    Site site(Site::Kind::local);
    for (const char* name : {"closed/one", "closed/two", "closed/deeper/three", "open/four"})
        write_file(site.src / name, name);
    fs::create_symlink("one", site.src / "closed/link");
    chmod((site.src / "closed/deeper").c_str(), 0500);
    chmod((site.src / "closed").c_str(), 0555);
    give_to(site.src, account_uid);
    site.init_or_fail();
    site.backup_or_fail();
    give_to(site.dir.path(), account_uid);
    site.options.uid = account_uid;
    const auto mode = [&](const char* name) { return look(site.dest / name).st_mode & 07777; };
    CHECK_EXIT(site.restore({}, {"closed/one"}), 0);
    chmod((site.dest / "closed").c_str(), 0555);
    SUBCASE("the rest") { CHECK_EXIT(site.restore(), 0); }
    SUBCASE("a file in place of another") {
        CHECK_EXIT(site.restore(), 0);
        chmod((site.dest / "closed").c_str(), 0755);
        write_file(site.dest / "closed/one", "other");
        chmod((site.dest / "closed").c_str(), 0555);
        CHECK_EXIT(site.restore({"--overwrite"}), 0);
    }
    SUBCASE("what is too much goes") {
        chmod((site.dest / "closed").c_str(), 0755);
        write_file(site.dest / "closed/extra", "x");
        chmod((site.dest / "closed").c_str(), 0555);
        CHECK_EXIT(site.restore({"--delete"}), 0);
    }
    SUBCASE("only a path in it") {
        CHECK_EXIT(site.restore({}, {"closed/two"}), 0);
        CHECK(mode("closed") == 0555); // as it was
        CHECK_EXIT(site.restore(), 0);
    }
    CHECK(compare(site.src, site.dest) == "");
    CHECK(mode("closed") == 0555);
    CHECK(mode("closed/deeper") == 0500);
    CHECK_EXIT(site.restore(), 0);
}

// ---- What a killed restore leaves --------------------------------------------------------------

TEST_CASE("rights: what a killed restore had begun goes with the next one, and no backup stores it") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 8; ++i)
        write_random_file(site.src / "dir" / ("file" + std::to_string(i)), 3 << 20, i);
    site.init_or_fail();
    site.backup_or_fail();
    proxy.downstream_rate = 16 << 20;
    const auto leftovers = [&] { return must_run({"find", site.dest, "-name", ".nfreeze-*"}); };
    for (int tries = 0; tries < 10; ++tries) {
        Child restore({nfreeze_binary(), "restore", site.url, site.dest}, site.options);
        REQUIRE(wait_until([&] { return fs::exists(site.dest) && (leftovers() != "" || !restore.running()); },
                           milliseconds(30'000)));
        restore.kill(SIGKILL);
        restore.wait();
        if (leftovers() != "") break;
    }
    REQUIRE(leftovers() != "");
    const Result backup = site.nfreeze({"backup", site.dest, site.url});
    CHECK_EXIT(backup, 0);
    const Result list = site.nfreeze({"ls", "-R", "--source", site.dest, site.url});
    CHECK_NOT_NAMED(list.out, ".nfreeze-");
    proxy.downstream_rate = 0;
    site.restore_or_fail({"--source", site.src});
    CHECK(leftovers() == "");
    CHECK(compare(site.src, site.dest) == "");
}

TEST_CASE("rights: only names that a restore makes are taken for what one left, and not while it is being "
          "written") {
    Restored site;
    const Strings begun{".nfreeze-0123456789abcdef", "a/.nfreeze-fedcba9876543210"};
    const Strings mine{".nfreeze-0123",
                       ".nfreeze-0123456789abcdef0",
                       ".nfreeze-0123456789ABCDEF",
                       "nfreeze-0123456789abcdef",
                       ".nfreeze-notes",
                       ".nfreeze-0123456789abcdeg"};
    for (const Strings* names : {&begun, &mine})
        for (const std::string& name : *names) {
            write_file(site.dest / name, "x");
            write_file(site.src / name, "x");
        }
    site.restore_or_fail();
    for (const std::string& name : begun) CHECK_MESSAGE(!fs::exists(site.dest / name), name);
    for (const std::string& name : mine) CHECK_MESSAGE(fs::exists(site.dest / name), name);
    site.backup_or_fail();
    const Result list = site.nfreeze({"ls", "-R", site.url});
    for (const std::string& name : begun) CHECK_NOT_NAMED(list.out, name + "\n");
    for (const std::string& name : mine) CHECK_NAMES(list.out, name + "\n");
}

TEST_CASE("rights: two restores to one place beside each other take nothing from each other") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    for (std::uint64_t i = 0; i < 6; ++i)
        write_random_file(site.src / "dir" / ("file" + std::to_string(i)), 2 << 20, i);
    site.init_or_fail();
    site.backup_or_fail();
    proxy.downstream_rate = 12 << 20;
    const Strings argv{nfreeze_binary(), "restore", "--overwrite", site.url, site.dest};
    Child one(argv, site.options);
    REQUIRE(wait_until([&] { return !files_below(site.dest).empty(); }, milliseconds(30'000)));
    Child two(argv, site.options);
    CHECK_EXIT(two.wait(), 0);
    CHECK_EXIT(one.wait(), 0);
    CHECK(compare(site.src, site.dest) == "");
}

// ---- A repository where others may write -------------------------------------------------------

TEST_CASE("rights: in a local repository no link stands in for keys, index, packs or an object, and none is "
          "followed") {
    Restored site;
    const auto each_verb_fails = [&](const Strings& left_out) {
        const std::string before = fingerprint(site.dir / "elsewhere");
        write_file(site.src / "new", random_bytes(5000, 1));
        for (const Strings& verb :
             {Strings{"backup", site.src}, Strings{"restore"}, Strings{"check", "--read-data"},
              Strings{"check", "--append-only"}, Strings{"prune", "--now", "--yes"}, Strings{"repair"},
              Strings{"snapshots"}, Strings{"key", "list"}}) {
            if (std::ranges::count(left_out, verb[0]) > 0) continue;
            Strings arguments = verb;
            arguments.push_back(site.url);
            if (verb[0] == "restore") arguments.push_back(site.dir / "new place");
            const Result result = site.nfreeze(arguments);
            CHECK_MESSAGE(result.code != 0, describe(result));
            CHECK(result.signal == 0);
        }
        CHECK(fingerprint(site.dir / "elsewhere") == before);
    };
    fs::create_directory(site.dir / "elsewhere");
    for (const std::string dir : {"keys", "index", "packs"}) {
        CAPTURE(dir);
        fs::rename(site.repo / dir, site.dir / "elsewhere" / dir);
        fs::create_symlink(site.dir / "elsewhere" / dir, site.repo / dir);
        // What needs no keys, or no packs, need not look at them.
        each_verb_fails(dir == "packs"   ? Strings{"snapshots", "key"}
                        : dir == "index" ? Strings{"key"}
                                         : Strings{});
        fs::remove(site.repo / dir);
        fs::rename(site.dir / "elsewhere" / dir, site.repo / dir);
        const fs::path object = files_below(site.repo / dir).back(); // of the index, one that counts
        fs::rename(object, site.dir / "elsewhere" / object.filename());
        fs::create_symlink(site.dir / "elsewhere" / object.filename(), object);
        const std::string before = fingerprint(site.dir / "elsewhere");
        const Result check = site.nfreeze({"check", "--read-data", site.url});
        CHECK_MESSAGE(check.code != 0, describe(check));
        const Result restore = site.nfreeze({"restore", site.url, site.dir / "new place"});
        if (dir != "packs")
            CHECK_MESSAGE(restore.code != 0,
                          describe(restore)); // a pack may be that of the list of files before
        CHECK(fingerprint(site.dir / "elsewhere") == before);
        fs::remove(object);
        fs::rename(site.dir / "elsewhere" / object.filename(), object);
        CHECK_EXIT(site.nfreeze({"check", "--read-data", site.url}), 0);
    }
}

TEST_CASE(
    "rights: check --append-only harms no file to which a link is put in the place of what it tries on") {
    Restored site;
    const fs::path victim = site.dir / "victim";
    write_file(victim, "dear to its owner");
    chmod(victim.c_str(), 0600);
    const struct stat before = look(victim);
    std::atomic<bool> stop = false;
    std::atomic<int> swapped = 0;
    std::thread swapping([&] {
        const auto known = packs_of(site);
        while (!stop)
            for (const auto& entry : fs::directory_iterator(site.repo / "packs"))
                if (!std::ranges::count(known, entry.path()) && !entry.is_symlink() &&
                    unlink(entry.path().c_str()) == 0 && symlink(victim.c_str(), entry.path().c_str()) == 0)
                    ++swapped;
    });
    for (int tries = 0; tries < 5; ++tries)
        static_cast<void>(site.nfreeze({"check", "--append-only", site.url}));
    stop = true;
    swapping.join();
    CHECK_MESSAGE(read_file(victim) == "dear to its owner", swapped << " were swapped");
    CHECK(look(victim).st_mode == before.st_mode);
}

TEST_CASE("rights: a pipe among the objects of a local repository is an error at once") {
    Restored site;
    site.options.timeout = milliseconds(10'000);
    for (const std::string dir : {"keys", "index", "packs"}) {
        CAPTURE(dir);
        const fs::path object = files_below(site.repo / dir).back(); // of the index, one that counts
        fs::rename(object, site.dir / "kept");
        REQUIRE(mkfifo(object.c_str(), 0600) == 0);
        for (const Strings& arguments :
             {Strings{"check", "--read-data", site.url}, Strings{"restore", site.url, site.dir / "new place"},
              Strings{"repair", site.url}}) {
            const Result result = site.nfreeze(arguments);
            CHECK_MESSAGE(!result.timed_out, describe(result));
            if (arguments[0] == "check" || dir != "packs") CHECK(result.code != 0);
        }
        fs::remove(object);
        fs::rename(site.dir / "kept", object);
        // One that nobody asked for.
        fs::path extra = object;
        std::string name = object.filename();
        name.back() = name.back() == '0' ? '1' : '0';
        extra.replace_filename(name);
        REQUIRE(mkfifo(extra.c_str(), 0600) == 0);
        const Result check = site.nfreeze({"check", "--read-data", site.url});
        CHECK_MESSAGE(!check.timed_out, describe(check));
        const Result backup = site.backup();
        CHECK_MESSAGE(!backup.timed_out, describe(backup));
        fs::remove(extra);
    }
}

TEST_SUITE_END();
