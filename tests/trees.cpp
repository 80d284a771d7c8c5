#include "trees.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

#include "support.hpp"

namespace support {

namespace {

[[noreturn]] void fail(const std::string& what) {
    throw std::runtime_error("test harness: " + what + ": " + std::strerror(errno));
}

void check(int returned, const std::string& what) {
    if (returned < 0) fail(what);
}

} // namespace

std::uint64_t Random::next() { // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

std::string random_bytes(std::size_t size, std::uint64_t seed) {
    Random random(seed);
    std::string bytes(size, '\0');
    for (std::size_t at = 0; at < size; at += 8) {
        const std::uint64_t word = random.next();
        std::memcpy(bytes.data() + at, &word, std::min<std::size_t>(8, size - at));
    }
    return bytes;
}

void write_random_file(const fs::path& path, std::uint64_t size, std::uint64_t seed) {
    constexpr std::uint64_t block = 1 << 20;
    fs::create_directories(path.parent_path());
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    for (std::uint64_t at = 0; at < size; at += block) {
        const std::string bytes = random_bytes(std::min(block, size - at), seed * 1'000'003 + at / block);
        out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    out.close();
    if (!out) fail("write " + path.string());
}

void set_mtime(const fs::path& path, std::int64_t seconds, long nanoseconds) {
    const timespec times[2] = {{0, UTIME_OMIT}, {seconds, nanoseconds}};
    check(utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW), "set the time of " + path.string());
}

timespec mtime_of(const fs::path& path) {
    struct stat st {};
    check(lstat(path.c_str(), &st), "stat " + path.string());
    return st.st_mtim;
}

// ---- The awkward tree ------------------------------------------------------------------------

namespace {

constexpr int deep_levels = 24;
static_assert(deep_levels * 190 > PATH_MAX);

void set_fixed_time(int dir, const char* name) { // so that the same can be made twice
    const timespec times[2] = {{0, UTIME_OMIT}, {1'111'111'111, 222}};
    check(utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW), "utimensat");
}

// Each step is relative to the directory above it: its whole path would be too long to name.
std::string make_deep_levels(int dir, int level) {
    if (level == deep_levels) {
        const int fd = openat(dir, "bottom", O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
        check(fd, "create the deep file");
        if (write(fd, "deep down\n", 10) != 10) fail("write the deep file");
        close(fd);
        check(symlinkat("bottom", dir, "link"), "link to the deep file");
        set_fixed_time(dir, "bottom");
        set_fixed_time(dir, "link");
        return "bottom";
    }
    const std::string name = std::string(190, static_cast<char>('a' + level)) + std::to_string(level);
    check(mkdirat(dir, name.c_str(), 0755), "mkdirat");
    const int next = openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check(next, "openat");
    const std::string below = make_deep_levels(next, level + 1);
    close(next);
    set_fixed_time(dir, name.c_str());
    return name + "/" + below;
}

} // namespace

std::string make_deep_file(const fs::path& root) {
    const int dir = open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check(dir, "open " + root.string());
    const std::string path = make_deep_levels(dir, 0);
    close(dir);
    return path;
}

void make_sparse_file(const fs::path& path) {
    // Holes at the start, in the middle and at the end.
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    check(fd, "create " + path.string());
    const std::string block = random_bytes(128 << 10, 7);
    for (const off_t at : {off_t{3} << 20, off_t{9} << 20})
        if (pwrite(fd, block.data(), block.size(), at) != static_cast<ssize_t>(block.size()))
            fail("write " + path.string());
    check(ftruncate(fd, off_t{20} << 20), "ftruncate");
    close(fd);
}

namespace {

void make_socket(const fs::path& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.string().size() >= sizeof address.sun_path) {
        skipped("a socket in the tree: " + path.string() + " is too long a name for one");
        return;
    }
    std::memcpy(address.sun_path, path.c_str(), path.string().size());
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind " + path.string());
    close(fd);
}

// The kernel's own form of an ACL: version 2, then tag, permissions and id of each entry.
std::string acl_for_one_more_user(std::uint16_t permissions) {
    struct Entry {
        std::uint16_t tag, permissions;
        std::uint32_t id;
    };
    constexpr std::uint32_t none = 0xffffffff;
    const std::array<Entry, 5> entries{
        {{1, 7, none}, {2, permissions, 12345}, {4, 4, none}, {16, 7, none}, {32, 4, none}}};
    const std::uint32_t version = 2;
    std::string bytes(sizeof version + sizeof entries, '\0');
    std::memcpy(bytes.data(), &version, sizeof version);
    std::memcpy(bytes.data() + sizeof version, entries.data(), sizeof entries);
    return bytes;
}

void set_xattr(const fs::path& path, const std::string& name, const std::string& value) {
    check(lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0), "setxattr " + path.string());
}

void add_xattrs(const fs::path& root) {
    write_file(root / "xattrs/file", "with attributes");
    if (lsetxattr((root / "xattrs/file").c_str(), "user.probe", "", 0, 0) != 0) {
        skipped("extended attributes: the file system of " + root.string() + " takes none");
        return;
    }
    set_xattr(root / "xattrs/file", "user.text", "some text");
    set_xattr(root / "xattrs/file", "user.bytes", random_bytes(900, 3));
    set_xattr(root / "xattrs", "user.of a directory", std::string("with\0zero", 9));
    write_file(root / "xattrs/acl", "with an ACL");
    const std::string acl = acl_for_one_more_user(7);
    if (lsetxattr((root / "xattrs/acl").c_str(), "system.posix_acl_access", acl.data(), acl.size(), 0) != 0) {
        skipped("ACLs: the file system of " + root.string() + " takes none");
        return;
    }
    fs::create_directory(root / "xattrs/acl-dir");
    set_xattr(root / "xattrs/acl-dir", "system.posix_acl_access", acl_for_one_more_user(5));
    set_xattr(root / "xattrs/acl-dir", "system.posix_acl_default", acl_for_one_more_user(6));
    if (is_root()) set_xattr(root / "xattrs/file", "trusted.secret", "for root only");
}

void add_special_files(const fs::path& root) {
    const fs::path dir = root / "special";
    fs::create_directory(dir);
    check(mkfifo((dir / "fifo").c_str(), 0620), "mkfifo");
    make_socket(dir / "a-socket");
    fs::create_symlink("fifo", dir / "link");
    fs::create_symlink("nowhere/at/all", dir / "dangling");
    fs::create_symlink("/etc/hostname", dir / "absolute");
    std::error_code refused; // XFS takes 1024 bytes, ext4 a block
    fs::create_symlink(std::string(3000, 'x'), dir / "long", refused);
    if (refused) fs::create_symlink(std::string(1000, 'x'), dir / "long");
    fs::create_symlink("../special", dir / "loop");
    if (!is_root()) {
        skipped("device nodes, foreign owners and files of mode 000: not root");
        return;
    }
    check(mknod((dir / "chardev").c_str(), S_IFCHR | 0600, makedev(1, 3)), "mknod");
    const auto block = [&](unsigned number) {
        return mknod((dir / "blockdev").c_str(), S_IFBLK | 0640, makedev(250, number));
    };
    check(block(300'000) == 0 ? 0 : block(200'000), "mknod"); // XFS has 18 bits for it
    write_file(dir / "foreign", "owned by numbers without names");
    check(chown((dir / "foreign").c_str(), 44'444, 55'555), "chown");
    check(lchown((dir / "dangling").c_str(), 44'444, 55'555), "lchown");
    write_file(dir / "mode-000", "nobody may read this");
    chmod((dir / "mode-000").c_str(), 0);
}

void add_modes_and_links(const fs::path& root) {
    for (const auto& [name, mode] : std::map<std::string, mode_t>{{"setuid", 04755},
                                                                  {"setgid", 02755},
                                                                  {"read-only", 0444},
                                                                  {"execute-only", 0711},
                                                                  {"private", 0600}}) {
        write_file(root / "modes" / name, "mode of " + name);
        chmod((root / "modes" / name).c_str(), mode);
    }
    fs::create_directory(root / "modes/sticky");
    chmod((root / "modes/sticky").c_str(), 01777);
    fs::create_directory(root / "modes/setgid-dir");
    chmod((root / "modes/setgid-dir").c_str(), 02775);
    write_file(root / "modes/closed/inside", "in a directory that may not be written");
    write_file(root / "links/one/first", "one file, three names");
    fs::create_directories(root / "links/two");
    fs::create_hard_link(root / "links/one/first", root / "links/two/second");
    fs::create_hard_link(root / "links/one/first", root / "a-third-name");
    fs::create_symlink("one/first", root / "links/symlink");
    check(link((root / "links/symlink").c_str(), (root / "links/same-symlink").c_str()), "link to a symlink");
}

void add_names(const fs::path& root, std::vector<std::string>& names) {
    for (const std::string& name :
         {std::string("with space"), std::string("trailing space "), std::string(" leading"),
          std::string("new\nline"), std::string("-rf"), std::string("--delete"),
          std::string("invalid utf-8 \xff\xfe\xc3\x28"), std::string("control \x01\x1b[31m\x7f\t\r"),
          std::string("quote'\"`$(x)\\"), std::string("*?[a]"), std::string("..."), std::string(".hidden"),
          std::string("umlaut \xc3\xa4"), std::string("a:b"), std::string("~"), std::string("#x"),
          std::string(255, 'n')}) {
        write_file(root / "names" / name, "content of " + name);
        names.push_back("names/" + name);
    }
    // These sort on either side of the directory's own children when '/' is compared as a byte.
    write_file(root / "names/sort/child", "1");
    write_file(root / "names/sort!", "2");
    write_file(root / "names/sort.txt", "3");
    write_file(root / "names/sort0", "4");
    fs::create_directories(root / "names/dir\nwith newline/\xff");
    write_file(root / "names/dir\nwith newline/\xff/file", "5");
}

void add_contents(const fs::path& root) {
    write_file(root / "contents/empty", "");
    write_file(root / "contents/one-byte", "x");
    write_file(root / "contents/zeros", std::string(3 << 20, '\0'));
    write_random_file(root / "contents/random-5M", (5 << 20) + 12'345, 1);
    write_random_file(root / "contents/random-2M", 2 << 20, 2);
    fs::copy_file(root / "contents/random-2M", root / "contents/random-2M-again");
    write_file(root / "contents/shares-most", random_bytes(100, 4) + read_file(root / "contents/random-5M"));
    std::string text;
    for (int i = 0; i < 40'000; ++i) text += "line " + std::to_string(i) + "\n";
    write_file(root / "contents/text", text);
    fs::create_directories(root / "contents/empty-dir/and-one-below");
}

// Last, because every other change to a directory sets its time.
void set_odd_times(const fs::path& root) {
    write_file(root / "times/before-1970", "old");
    write_file(root / "times/just-before-1970", "old");
    write_file(root / "times/epoch", "old");
    write_file(root / "times/far-future", "new");
    fs::create_directory(root / "times/old-dir");
    fs::create_symlink("x", root / "times/old-link");
    set_mtime(root / "times/before-1970", -1'000'000'000, 123'456'789);
    set_mtime(root / "times/just-before-1970", -1, 999'999'999);
    set_mtime(root / "times/epoch", 0, 1);
    set_mtime(root / "times/far-future", 9'000'000'000, 999'999'999);
    set_mtime(root / "times/old-dir", 86'400, 5);
    set_mtime(root / "times/old-link", 1'000'000'000, 987'654'321);
    set_mtime(root / "times", 1'234'567'890, 100);
    set_mtime(root / "special/fifo", 1'234'567'890, 200);
    set_mtime(root / "links/one/first", 1'234'567'890, 300);
    chmod((root / "modes/closed").c_str(), 0500);
    set_mtime(root, 1'500'000'000, 700);
}

} // namespace

AwkwardTree::AwkwardTree(const fs::path& root) {
    fs::create_directories(root);
    add_special_files(root);
    add_modes_and_links(root);
    add_names(root, odd_names);
    add_contents(root);
    add_xattrs(root);
    fs::create_directory(root / "sparse");
    make_sparse_file(root / "sparse/holes");
    check(
        truncate((write_file(root / "sparse/only-a-hole", ""), root / "sparse/only-a-hole").c_str(), 8 << 20),
        "truncate");
    sparse_files = {"sparse/holes", "sparse/only-a-hole"};
    fs::create_directory(root / "deep");
    deep_file = "deep/" + make_deep_file(root / "deep");
    set_odd_times(root);
}

// ---- Random trees ----------------------------------------------------------------------------

namespace {

std::vector<fs::path> all_of(const fs::path& root, bool directories) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(root))
        if (entry.is_symlink() ? false : entry.is_directory() == directories) found.push_back(entry.path());
    std::sort(found.begin(),
              found.end()); // not in the order of the disk: a seed must mean one tree
    if (directories) found.insert(found.begin(), root);
    return found;
}

std::string some_name(Random& random) { return "n" + std::to_string(random.below(1'000'000)); }

// Small ones mostly, as in real trees.
std::size_t some_size(Random& random, std::size_t largest) {
    const std::size_t limit = random.below(8) == 0 ? largest : largest / 64 + 1;
    return random.below(limit + 1);
}

void change_content(const fs::path& file, Random& random) {
    std::string content = read_file(file);
    const std::string patch = random_bytes(random.below(5000) + 1, random.next());
    switch (random.below(4)) {
    case 0:
        content += patch;
        break;
    case 1:
        content.insert(random.below(content.size() + 1), patch);
        break;
    case 2:
        content.resize(content.size() / 2);
        break;
    default:
        content = patch;
    }
    write_file(file, content);
}

void change_one(const fs::path& root, Random& random) {
    const std::vector<fs::path> files = all_of(root, false), dirs = all_of(root, true);
    const fs::path& dir = dirs[random.below(dirs.size())];
    const fs::path fresh = dir / some_name(random);
    if (fs::exists(fs::symlink_status(fresh))) return;
    const std::uint64_t kind = random.below(10);
    if (files.empty() || kind == 0)
        return write_file(fresh, random_bytes(random.below(50'000), random.next()));
    const fs::path& file = files[random.below(files.size())];
    switch (kind) {
    case 1:
        fs::remove(file);
        break;
    case 2:
        fs::rename(file, fresh);
        break;
    case 3:
        fs::copy_file(file, fresh);
        break;
    case 4:
        chmod(file.c_str(), static_cast<mode_t>(0600 + random.below(64)));
        break;
    case 5:
        set_mtime(file, static_cast<std::int64_t>(random.below(2'000'000'000)),
                  static_cast<long>(random.below(1'000'000'000)));
        break;
    case 6:
        fs::create_hard_link(file, fresh);
        break;
    case 7:
        fs::create_symlink(some_name(random), fresh);
        break;
    case 8:
        fs::create_directory(fresh);
        break;
    default:
        change_content(file, random);
    }
}

} // namespace

void make_random_tree(const fs::path& root, std::uint64_t seed, std::size_t files, std::size_t largest) {
    Random random(seed);
    fs::create_directories(root);
    std::vector<fs::path> dirs{root};
    for (std::size_t i = 0; i < files; ++i) {
        const fs::path dir = dirs[random.below(dirs.size())];
        if (random.below(5) == 0) {
            dirs.push_back(dir / some_name(random));
            fs::create_directory(dirs.back());
        }
        write_file(dirs.back() / some_name(random), random_bytes(some_size(random, largest), random.next()));
    }
}

void mutate_tree(const fs::path& root, std::uint64_t seed, std::size_t changes) {
    Random random(seed);
    for (std::size_t i = 0; i < changes; ++i) change_one(root, random);
}

// ---- Comparison ------------------------------------------------------------------------------

namespace {

std::uint64_t hash_of(int fd) {
    std::uint64_t hash = 0xcbf29ce484222325u; // FNV-1a: accidents only, nobody attacks this
    static char buffer[1 << 16];
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
        for (ssize_t i = 0; i < n; ++i)
            hash = (hash ^ static_cast<unsigned char>(buffer[i])) * 0x100000001b3u;
    return hash;
}

std::string xattrs_of(int fd) {
    char names[65536], value[65536];
    std::map<std::string, std::string> found;
    const ssize_t size = flistxattr(fd, names, sizeof names);
    for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(std::strlen(names + at)) + 1) {
        const ssize_t n = fgetxattr(fd, names + at, value, sizeof value);
        found[names + at] = n < 0 ? "unreadable" : std::string(value, static_cast<std::size_t>(n));
    }
    std::string text;
    for (const auto& [name, content] : found) {
        text += " " + name + "=";
        for (const char c : content) text += std::to_string(static_cast<unsigned char>(c)) + ".";
    }
    return text;
}

struct Walk {
    bool owners = true;
    std::map<std::string, std::string> entries;                // path: all that must agree
    std::map<std::string, std::uint64_t> allocated;            // of sparse files, in bytes
    std::vector<std::string> sockets, deep;                    // deep: too long for rsync
    std::map<std::pair<dev_t, ino_t>, std::string> first_name; // of hard-linked files

    void directory(int dir, const std::string& prefix);
    void entry(int dir, const std::string& name, const std::string& path);
};

void Walk::entry(int dir, const std::string& name, const std::string& path) {
    struct stat st {};
    check(fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW), "stat " + path);
    if (S_ISSOCK(st.st_mode)) return sockets.push_back(path);
    std::ostringstream text;
    text << std::oct << st.st_mode << std::dec << " mtime " << st.st_mtim.tv_sec << "+" << st.st_mtim.tv_nsec;
    if (owners) text << " owner " << st.st_uid << ":" << st.st_gid;
    if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
        text << " device " << major(st.st_rdev) << "," << minor(st.st_rdev);
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
        const auto first = first_name.try_emplace({st.st_dev, st.st_ino}, path).first;
        text << " links " << st.st_nlink << " first " << first->second;
    }
    if (S_ISLNK(st.st_mode)) {
        char target[PATH_MAX];
        const ssize_t n = readlinkat(dir, name.c_str(), target, sizeof target);
        text << " -> " << std::string(target, static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    }
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        const int fd = openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        check(fd, "open " + path);
        if (S_ISREG(st.st_mode)) text << " size " << st.st_size << " hash " << hash_of(fd);
        const auto blocks = static_cast<std::uint64_t>(st.st_blocks) * 512;
        if (S_ISREG(st.st_mode)) allocated[path] = blocks;
        text << " xattrs" << xattrs_of(fd);
        if (S_ISDIR(st.st_mode)) directory(fd, path + "/");
        close(fd);
    }
    if (path.size() > PATH_MAX) deep.push_back(path);
    entries[path] = text.str();
}

void Walk::directory(int dir, const std::string& prefix) {
    std::set<std::string> names;
    DIR* stream = fdopendir(dup(dir));
    if (stream == nullptr) fail("read directory " + prefix);
    while (const dirent* found = readdir(stream)) names.insert(found->d_name);
    closedir(stream);
    for (const std::string& name : names)
        if (name != "." && name != "..") entry(dir, name, prefix + name);
}

Walk walk(const fs::path& root, bool owners) {
    Walk result;
    result.owners = owners;
    result.entry(AT_FDCWD, root.c_str(), ".");
    return result;
}

// Strips what is the same in both, so that a report of deep paths stays readable.
std::string shown(const std::string& path) {
    return path.size() < 300
               ? path
               : "[" + std::to_string(path.size()) + " bytes]..." + path.substr(path.size() - 60);
}

std::string walk_differences(const Walk& a, const Walk& b) {
    std::string text;
    for (const auto& [path, of_a] : a.entries) {
        const auto other = b.entries.find(path);
        if (other == b.entries.end())
            text += "only in the first: " + shown(path) + "\n";
        else if (other->second != of_a)
            text += shown(path) + ":\n  first:  " + of_a + "\n  second: " + other->second + "\n";
    }
    for (const auto& [path, of_b] : b.entries)
        if (!a.entries.contains(path)) text += "only in the second: " + shown(path) + "\n";
    // What had holes must have them again; a file system may place some blocks differently.
    for (const auto& [path, blocks] : a.allocated)
        if (const auto other = b.allocated.find(path);
            other != b.allocated.end() && other->second > blocks + blocks / 10 + 65'536)
            text += "not sparse: " + shown(path) + ": " + std::to_string(blocks) +
                    " bytes allocated in the first, " + std::to_string(other->second) + " in the second\n";
    return text;
}

std::string rsync_differences(const fs::path& a, const fs::path& b, const Walk& walked) {
    if (!have_program("rsync")) {
        skipped("comparison by rsync: it is not installed");
        return {};
    }
    Strings argv{"rsync", "-naiHAX", "--checksum", "--delete"};
    for (const std::string& socket : walked.sockets) argv.push_back("--exclude=" + socket.substr(1));
    std::set<std::string> tops; // rsync cannot follow into these
    for (const std::string& path : walked.deep) tops.insert(path.substr(1, path.find('/', 2) - 1));
    for (const std::string& top : tops) argv.push_back("--exclude=" + top);
    argv.insert(argv.end(), {a.string() + "/", b.string() + "/"});
    const Result result = run(argv);
    if (result.code != 0) return describe(result);
    return result.out.empty() ? "" : "rsync: " + result.out;
}

Strings find_lines(const fs::path& root) {
    RunOptions options;
    options.cwd = root;
    const std::string text =
        must_run({"find", ".", "!", "-type", "s", "(", "-type", "d", "-printf", "%p %y %m %U:%G %T@\\0", "-o",
                  "-printf", "%p %y %m %U:%G %T@ size %s links %n to %l\\0", ")"},
                 options);
    Strings records;
    std::istringstream in(text);
    for (std::string record; std::getline(in, record, '\0');) records.push_back(record);
    std::sort(records.begin(), records.end());
    return records;
}

std::string find_differences(const fs::path& a, const fs::path& b) {
    const Strings of_a = find_lines(a), of_b = find_lines(b);
    Strings first, second;
    std::set_difference(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), std::back_inserter(first));
    std::set_difference(of_b.begin(), of_b.end(), of_a.begin(), of_a.end(), std::back_inserter(second));
    std::string text;
    for (const std::string& line : first) text += "find, first:  " + shown(line) + "\n";
    for (const std::string& line : second) text += "find, second: " + shown(line) + "\n";
    return text;
}

} // namespace

std::string compare(const fs::path& a, const fs::path& b) {
    if (!fs::is_directory(b)) return b.string() + " is no directory";
    const Walk of_a = walk(a, true), of_b = walk(b, true);
    return walk_differences(of_a, of_b) + rsync_differences(a, b, of_a) + find_differences(a, b);
}

std::string compare_without_owners(const fs::path& a, const fs::path& b) {
    if (!fs::is_directory(b)) return b.string() + " is no directory";
    return walk_differences(walk(a, false), walk(b, false));
}

} // namespace support
