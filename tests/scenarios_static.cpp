// The binary itself: what it is made of, what it needs, how much memory it takes.
#include <elf.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <set>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

constexpr std::uint64_t MiB = 1 << 20;
constexpr long peak_limit_kib = 200 * 1024;

struct Elf {
    bool interpreter = false, symbols = false;
};

Elf read_elf(const std::string& path) {
    const std::string bytes = read_file(path);
    Elf found;
    Elf64_Ehdr header;
    REQUIRE(bytes.size() > sizeof header);
    std::memcpy(&header, bytes.data(), sizeof header);
    REQUIRE(header.e_ident[EI_CLASS] == ELFCLASS64);
    for (std::size_t i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr segment;
        std::memcpy(&segment, bytes.data() + header.e_phoff + i * sizeof segment, sizeof segment);
        found.interpreter |= segment.p_type == PT_INTERP;
    }
    for (std::size_t i = 0; i < header.e_shnum; ++i) {
        Elf64_Shdr section;
        std::memcpy(&section, bytes.data() + header.e_shoff + i * sizeof section, sizeof section);
        found.symbols |= section.sh_type == SHT_SYMTAB;
    }
    return found;
}

// A shared library for every need is what `make STATIC=0` asks for.
bool built_dynamic() { return read_elf(nfreeze_binary()).interpreter; }

// A name server that knows one name: every question for an address of it is answered with
// 127.0.0.1, every other question with "no such name".
class NameServer {
  public:
    explicit NameServer(std::string known) : known_(std::move(known)) {
        fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(53);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const timeval patience{0, 100'000};
        setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        listening = bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
        if (listening) thread_ = std::thread([this] { serve(); });
    }
    ~NameServer() {
        stopping_ = true;
        if (thread_.joinable()) thread_.join();
        close(fd_);
    }
    NameServer(const NameServer&) = delete;
    NameServer& operator=(const NameServer&) = delete;
    bool listening = false;
    std::atomic<int> answered{0};

  private:
    // From the labels of a question: 3www7example0.
    static std::string name_in(std::string_view question) {
        std::string name;
        for (std::size_t at = 0; at < question.size() && question[at] != 0;) {
            const auto length = static_cast<std::size_t>(question[at]);
            name += std::string(name.empty() ? "" : ".") + std::string(question.substr(at + 1, length));
            at += length + 1;
        }
        return name;
    }
    std::string answer_to(std::string query) {
        if (query.size() < 17) return {};
        const std::string_view question = std::string_view(query).substr(12);
        const std::string name = name_in(question);
        const std::size_t end = 12 + name.size() + 2 + 4;
        if (query.size() < end) return {};
        const bool address = query[end - 3] == 1; // type A
        const bool known = name == known_;
        std::string reply = query.substr(0, end);
        reply[2] = static_cast<char>(0x84 | (query[2] & 1)); // an answer, with authority
        reply[3] = static_cast<char>(known ? 0x80 : 0x83);   // or: no such name
        reply[7] = known && address ? 1 : 0;
        reply[9] = reply[11] = 0;
        if (known && address) {
            reply += std::string("\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1", 16);
            ++answered;
        }
        return reply;
    }
    void serve() {
        while (!stopping_) {
            char buffer[512];
            sockaddr_in from{};
            socklen_t size = sizeof from;
            const ssize_t n =
                recvfrom(fd_, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
            if (n <= 0) continue;
            const std::string reply = answer_to(std::string(buffer, static_cast<std::size_t>(n)));
            sendto(fd_, reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
        }
    }
    std::string known_;
    int fd_ = -1;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

// A directory with the binary, the two files that name resolution needs, and the tester's data.
struct Chroot {
    explicit Chroot(const Site& site) : root(site.dir / "chroot") {
        fs::create_directories(root / "etc");
        fs::copy_file(nfreeze_binary(), root / "nfreeze");
        copy_tree(site.home, root / "home");
        make_random_tree(root / "src", 1, 20, 100'000);
        options = site.options;
        options.chroot = root;
        options.env["HOME"] = "/home";
    }
    fs::path root;
    RunOptions options;
};

void check_peak(const Result& result) {
    rusage own{};
    getrusage(RUSAGE_SELF, &own);
    // A child's peak begins with its parent's memory at the fork.
    REQUIRE_MESSAGE(own.ru_maxrss < peak_limit_kib,
                    "the tests themselves are too large to measure this: " << own.ru_maxrss << " KiB");
    CHECK_MESSAGE(result.peak_kib < peak_limit_kib, describe(result));
}

std::uint64_t free_bytes(const fs::path& path) { return fs::space(path).available; }

} // namespace

TEST_SUITE_BEGIN("binary");

TEST_CASE("binary: it is static, stripped, and under 8 MB") {
    const Elf elf = read_elf(nfreeze_binary());
    CHECK(!elf.symbols);
    CHECK(fs::file_size(nfreeze_binary()) < 8'000'000);
    if (elf.interpreter) return skipped("static linking: this is a build with STATIC=0");
    const Result ldd = run({"ldd", nfreeze_binary()});
    CHECK((contains(ldd.out + ldd.err, "not a dynamic executable") ||
           contains(ldd.out + ldd.err, "statically linked")));
}

TEST_CASE("binary: its code lies at another address in each run") {
    if (read_file("/proc/sys/kernel/randomize_va_space")[0] == '0')
        return skipped("addresses: this kernel does not vary them");
    const Site site(Site::Kind::local);
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    options.pty = true;
    std::set<std::string> addresses;
    for (int i = 0; i < 4; ++i) {
        Child asking({nfreeze_binary(), "init", site.url}, options);
        REQUIRE(wait_until([&] { return asking.running() && contains(asking.output_so_far(), ":"); },
                           milliseconds(10'000)));
        for (const std::string& line : lines_of(read_file("/proc/" + std::to_string(asking.pid()) + "/maps")))
            if (contains(line, " r-xp ") && contains(line, nfreeze_binary()))
                addresses.insert(line.substr(0, line.find('-')));
    }
    CHECK(addresses.size() > 1);
}

TEST_CASE("binary: in a chroot with nothing but /etc/resolv.conf and /etc/hosts it resolves names, "
          "backs up and restores") {
    if (!is_root()) return skipped("chroot: not root");
    if (built_dynamic()) return skipped("an empty chroot: this is a build with STATIC=0");
    Site site;
    const Chroot chroot(site);
    const std::string port = std::to_string(shared_sshd().port());
    const std::string place = "/" + site.repo.string();
    write_file(chroot.root / "etc/hosts", "127.0.0.1 in-hosts.example\n");
    write_file(chroot.root / "etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n");
    for (const std::string host : {"in-hosts.example", "in-dns.example"})
        for (const std::string kind : {"ed25519", "ecdsa", "rsa"})
            append_file(chroot.root / "home/.ssh/known_hosts",
                        "[" + host + "]:" + port + " " + public_key_line(host_key(kind)) + "\n");
    const auto inside = [&](const std::string& verb, const std::string& host, const std::string& path) {
        const std::string url = "sftp://" + shared_sshd().user() + "@" + host + ":" + port + place;
        Strings argv{"/nfreeze", verb};
        if (verb == "backup") argv.push_back(path);
        argv.push_back(url);
        if (verb == "restore") argv.push_back(path);
        return run(argv, chroot.options);
    };
    const Result init = inside("init", "in-hosts.example", "");
    REQUIRE_EXIT(init, 0);
    const Result backup = inside("backup", "in-hosts.example", "/src");
    REQUIRE_EXIT(backup, 0);

    NameServer names("in-dns.example");
    if (names.listening) {
        const Result second = inside("backup", "in-dns.example", "/src");
        CHECK_EXIT(second, 0);
        CHECK(names.answered > 0);
        const Result unknown = inside("snapshots", "unknown.example", "");
        CHECK_EXIT(unknown, 6);
        CHECK_NAMES(unknown.err, "unknown.example");
    } else {
        skipped("resolving a name by DNS: port 53 of 127.0.0.1 is taken");
    }
    const Result restore = inside("restore", "in-hosts.example", "/dest");
    REQUIRE_EXIT(restore, 0);
    CHECK(compare(chroot.root / "src", chroot.root / "dest") == "");
}

TEST_CASE("binary: a foreign nsswitch.conf does not make it load foreign libraries") {
    if (!is_root()) return skipped("chroot: not root");
    if (built_dynamic()) return skipped("an empty chroot: this is a build with STATIC=0");
    Site site;
    const Chroot chroot(site);
    write_file(chroot.root / "etc/hosts", "127.0.0.1 in-hosts.example\n");
    write_file(chroot.root / "etc/nsswitch.conf",
               "passwd: sss systemd\ngroup: sss\nhosts: myhostname mdns4_minimal [NOTFOUND=return] "
               "resolve\n");
    const std::string port = std::to_string(shared_sshd().port());
    append_file(chroot.root / "home/.ssh/known_hosts",
                "[in-hosts.example]:" + port + " " + public_key_line(host_key("ed25519")) + "\n");
    const Result init =
        run({"/nfreeze", "init",
             "sftp://" + shared_sshd().user() + "@in-hosts.example:" + port + "/" + site.repo.string()},
            chroot.options);
    CHECK_EXIT(init, 0);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("memory");

TEST_CASE("memory: a tree of 200 MB with 12,000 small files is backed up and restored in less than "
          "200 MB") {
    Site site;
    for (int i = 0; i < 12'000; ++i)
        write_file(site.src / ("dir" + std::to_string(i / 100)) / ("file" + std::to_string(i)),
                   random_bytes(2000, static_cast<std::uint64_t>(i)));
    for (std::uint64_t i = 0; i < 18; ++i)
        write_random_file(site.src / "large" / std::to_string(i), 10 * MiB, i);
    site.init_or_fail();
    const Result first = site.backup();
    REQUIRE_EXIT(first, 0);
    CHECK(summary_of(first).read == bytes_below(site.src));
    check_peak(first);
    const Result second = site.backup();
    REQUIRE_EXIT(second, 0);
    check_peak(second);
    const Result restore = site.restore();
    REQUIRE_EXIT(restore, 0);
    check_peak(restore);
    const Result list = site.nfreeze({"ls", "-lR", site.url});
    CHECK_EXIT(list, 0);
    check_peak(list);
    CHECK(compare_without_owners(site.src, site.dest) == ""); // rsync and find have their say elsewhere
}

TEST_CASE("memory: a file of 4 GB is backed up and restored in less than 200 MB") {
    // 4 GiB on the disk twice. All of it is read and cut; most of it is there already after the
    // first part.
    Site site(Site::Kind::local);
    if (!slow_tests()) return skipped("a file of 4 GB: takes half a minute; NFREEZE_TEST_SLOW=1 runs it");
    if (free_bytes(site.dir.path()) < 10'000 * MiB)
        return skipped("a file of 4 GB: there is no room for it twice");
    write_random_file(site.dir / "part", 256 * MiB, 1);
    must_run({"sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat \"$1\"; done > \"$2\"",
              "sh", site.dir / "part", site.src / "4GB"});
    REQUIRE(fs::file_size(site.src / "4GB") == 4096 * MiB);
    site.options.timeout = milliseconds(300'000);
    site.init_or_fail();
    const Result backup = site.backup();
    REQUIRE_EXIT(backup, 0);
    CHECK(summary_of(backup).read == 4096 * MiB);
    check_peak(backup);
    const Result restore = site.restore();
    REQUIRE_EXIT(restore, 0);
    check_peak(restore);
    must_run({"cmp", site.src / "4GB", site.dest / "4GB"});
}

TEST_CASE("memory: a million files are backed up, compared, and one of them restored, in less than 300 MB") {
    Site site(Site::Kind::local);
    if (std::getenv("NFREEZE_TEST_SLOW") == nullptr)
        return skipped("a million files: takes minutes; NFREEZE_TEST_SLOW=1 runs it");
    if (free_bytes(site.dir.path()) < 10'000 * MiB)
        return skipped("a million files: there is no room for them");
    constexpr int many = 1'000'000;
    for (int i = 0; i < many; ++i) {
        const fs::path dir = site.src / std::to_string(i / 100'000) / std::to_string(i / 1000);
        if (i % 1000 == 0) fs::create_directories(dir);
        std::ofstream(dir / ("file" + std::to_string(i))) << i;
    }
    settle();
    site.options.timeout = milliseconds(1'200'000);
    site.init_or_fail();
    const auto must_stay_small = [&](const Strings& arguments) {
        const Result result = site.nfreeze(arguments);
        REQUIRE_EXIT(result, 0);
        MESSAGE(arguments[0] << ": " << result.seconds << " s, " << result.peak_kib / 1024 << " MiB");
        CHECK_MESSAGE(result.peak_kib < 300L * 1024, describe(result));
        return result;
    };
    CHECK(summary_of(must_stay_small({"backup", site.src, site.url})).fresh == many);
    const Summary second = summary_of(must_stay_small({"backup", site.src, site.url}));
    CHECK(second.unchanged == many);
    CHECK(second.uploaded < 100'000);
    must_stay_small({"restore", site.url, site.dest, "5/543/file543210"});
    CHECK(read_file(site.dest / "5/543/file543210") == "543210");
    must_stay_small({"check", site.url});
}

TEST_SUITE_END();
