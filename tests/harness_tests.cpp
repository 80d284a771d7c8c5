// The harness is tested first: a comparison that sees no difference, or a proxy that never cuts,
// would let every scenario pass.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "mounts.hpp"
#include "trees.hpp"

using namespace support;

namespace {

sockaddr_in on_loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// Sends back each byte that it gets, to up to two clients at a time.
class Echo {
  public:
    Echo() {
        sockaddr_in address = on_loopback(0);
        socklen_t size = sizeof address;
        REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
        REQUIRE(listen(listener_, 8) == 0);
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = ntohs(address.sin_port);
        for (std::thread& thread : threads_)
            thread = std::thread([this] {
                for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0; close(fd)) {
                    char buffer[4096];
                    for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;)
                        if (send(fd, buffer, static_cast<std::size_t>(n), MSG_NOSIGNAL) != n) break;
                }
            });
    }
    ~Echo() {
        shutdown(listener_, SHUT_RDWR);
        for (std::thread& thread : threads_) thread.join();
        close(listener_);
    }
    Echo(const Echo&) = delete;
    Echo& operator=(const Echo&) = delete;
    [[nodiscard]] int port() const { return port_; }

  private:
    int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port_ = 0;
    std::thread threads_[2];
};

class Caller {
  public:
    explicit Caller(int port) {
        const sockaddr_in address = on_loopback(port);
        REQUIRE(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        const int yes = 1;
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    }
    ~Caller() { close(fd_); }
    Caller(const Caller&) = delete;
    Caller& operator=(const Caller&) = delete;
    [[nodiscard]] static bool could_connect(int port) {
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const sockaddr_in address = on_loopback(port);
        const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
        close(fd);
        return connected;
    }
    void say(std::size_t bytes) const {
        REQUIRE(send(fd_, std::string(bytes, 'x').data(), bytes, MSG_NOSIGNAL) ==
                static_cast<ssize_t>(bytes));
    }
    void hear(std::size_t bytes) const {
        for (char byte; bytes > 0; --bytes) REQUIRE(recv(fd_, &byte, 1, 0) == 1);
    }
    // How many bytes come until the end, or a reset, or nothing for a while.
    enum class Ending { orderly, reset, silence };
    std::pair<std::size_t, Ending> hear_out() const {
        for (std::size_t bytes = 0;; ++bytes) {
            pollfd polled{fd_, POLLIN, 0};
            if (poll(&polled, 1, 150) == 0) return {bytes, Ending::silence};
            char byte;
            const ssize_t n = recv(fd_, &byte, 1, 0);
            if (n != 1) return {bytes, n == 0 ? Ending::orderly : Ending::reset};
        }
    }
    // The sizes of the pieces in which something comes.
    std::vector<std::size_t> pieces(std::size_t bytes) const {
        std::vector<std::size_t> sizes;
        char buffer[4096];
        while (bytes > 0) {
            const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
            REQUIRE(n > 0);
            sizes.push_back(static_cast<std::size_t>(n));
            bytes -= sizes.back();
        }
        return sizes;
    }

  private:
    int fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
};

} // namespace

TEST_SUITE_BEGIN("harness");

TEST_CASE("harness: a faithful copy of an awkward tree compares equal, and every kind of change is "
          "seen") {
    TempDir dir;
    const AwkwardTree tree(dir / "a");
    // No tool at hand copies paths longer than PATH_MAX: that part is made twice.
    fs::rename(dir / "a/deep", dir / "aside");
    copy_tree(dir / "a", dir / "b");
    fs::rename(dir / "aside", dir / "a/deep");
    fs::create_directory(dir / "b/deep");
    make_deep_file(dir / "b/deep");
    fs::remove(dir / "b/special/a-socket");
    const auto undo_time = [&](const std::string& name) {
        const timespec t = mtime_of(dir / "a" / name);
        set_mtime(dir / "b" / name, t.tv_sec, t.tv_nsec);
    };
    for (const std::string name : {"special", "deep", ""}) undo_time(name);
    REQUIRE(compare(dir / "a", dir / "b") == "");

    const fs::path b = dir / "b";
    std::string text = read_file(b / "contents/text");
    text[1000] ^= 1;
    write_file(b / "contents/text", text);
    undo_time("contents/text");
    set_mtime(b / "times/epoch", 0, 2);
    set_mtime(b / "times/old-link", 1'000'000'000, 987'654'320);
    chmod((b / "modes/setuid").c_str(), 0755);
    fs::remove(b / "a-third-name"); // a hard link that becomes a copy
    fs::copy_file(b / "links/one/first", b / "a-third-name");
    undo_time("a-third-name");
    write_file(b / "sparse/holes", read_file(b / "sparse/holes"));
    undo_time("sparse/holes");
    write_file(b / "names/sort/more", "");
    fs::remove(b / "special/fifo");
    fs::remove(b / "special/absolute");
    fs::create_symlink("/etc/hostnam3", b / "special/absolute");
    undo_time("special/absolute");
    RunOptions in_b;
    in_b.cwd = b;
    must_run({"find", "deep", "-name", "bottom", "-execdir", "truncate", "-s", "11", "{}", ";"}, in_b);
    const bool takes_xattrs = run({"setfattr", "-n", "user.more", "-v", "1", b / "contents/empty"}).code == 0;

    const std::string report = compare(dir / "a", dir / "b");
    for (const std::string name :
         {"contents/text", "times/epoch", "times/old-link", "modes/setuid", "a-third-name", "sparse/holes",
          "names/sort/more", "special/fifo", "special/absolute", "bottom", "not sparse: ./sparse/holes"})
        CHECK_NAMES(report, name);
    CHECK((!takes_xattrs || contains(report, "contents/empty")));
    CHECK_NOT_NAMED(report, "contents/zeros");
    const std::string by_rsync =
        report.substr(report.find("rsync: "), report.find("find, first") - report.find("rsync: "));
    for (const std::string name : {"contents/text", "modes/setuid", "names/sort/more", "special/absolute"})
        CHECK_NAMES(by_rsync, name);
    CHECK_NAMES(report, "find, second: ./times/epoch");
}

TEST_CASE("harness: the same seed makes the same tree and the same changes") {
    TempDir dir;
    for (const std::string name : {"a", "b"}) {
        make_random_tree(dir / name, 42, 60, 20'000);
        mutate_tree(dir / name, 43, 40);
    }
    const auto listing = [&](const std::string& name) {
        RunOptions options;
        options.cwd = dir / name;
        return must_run({"sh", "-c", "find . -type f | LC_ALL=C sort | xargs sha256sum"}, options);
    };
    CHECK(listing("a") == listing("b"));
    CHECK(lines_of(listing("a")).size() > 30);
}

TEST_CASE("harness: a child is killed at its time limit, and a dialog is held in a terminal") {
    RunOptions hasty;
    hasty.timeout = milliseconds(200);
    const Result slow = run({"sh", "-c", "sleep 30 & sleep 30"}, hasty);
    CHECK(slow.timed_out);
    CHECK(slow.seconds < 5);

    RunOptions terminal;
    terminal.pty = true;
    terminal.dialog = {{"name?", "Ada"}, {"sure?", "yes"}};
    const Result talk = run({"sh", "-c",
                             "test -t 0 || exit 9; printf 'name? '; read a; printf 'sure? '; read "
                             "b < /dev/tty; echo \"<$a|$b>\""},
                            terminal);
    CHECK_EXIT(talk, 0);
    CHECK_NAMES(talk.out, "<Ada|yes>");
    const Result none = run({"sh", "-c", "exec 3</dev/tty"});
    CHECK_MESSAGE(none.code != 0, "without a terminal of its own a child must not reach the tester's");
}

TEST_CASE("harness: sshd lets the sftp client in, stops with its sessions, and comes back on its port") {
    Sshd server;
    Site site(server);
    write_file(site.dir / "batch", "put " + (site.home / ".ssh/known_hosts").string() + " " +
                                       (server.home() / "x").string() + "\n");
    const auto sftp = [&](int port) {
        return run({"sftp", "-q", "-b", site.dir / "batch", "-o",
                    "UserKnownHostsFile=" + (site.home / ".ssh/known_hosts").string(), "-i",
                    user_key("ed25519"), "-P", std::to_string(port), server.user() + "@127.0.0.1"});
    };
    const Result first = sftp(server.port());
    CHECK_EXIT(first, 0);
    CHECK(fs::exists(server.home() / "x"));
    server.stop();
    CHECK(sftp(server.port()).code != 0);
    server.start();
    const Result second = sftp(server.port());
    CHECK_EXIT(second, 0);
}

TEST_CASE("harness: the proxy counts, refuses and cuts") {
    Sshd& server = shared_sshd();
    Proxy proxy(server.port());
    Site site(server, proxy.port());
    write_random_file(site.dir / "big", 4 << 20, 1);
    write_file(site.dir / "batch",
               "put " + (site.dir / "big").string() + " " + (site.repo.parent_path() / "x").string() + "\n");
    const auto sftp = [&] {
        return run({"sftp", "-q", "-b", site.dir / "batch", "-o",
                    "UserKnownHostsFile=" + (site.home / ".ssh/known_hosts").string(), "-i",
                    user_key("ed25519"), "-P", std::to_string(proxy.port()), server.user() + "@127.0.0.1"});
    };
    const Result whole = sftp();
    CHECK_EXIT(whole, 0);
    CHECK(proxy.upstream > 4 << 20);
    CHECK(proxy.accepted == 1);
    proxy.cut_after = proxy.upstream + (1 << 20);
    CHECK(sftp().code != 0);
    CHECK(proxy.cuts == 1);
    CHECK(fs::file_size(site.repo.parent_path() / "x") < 4 << 20);
    proxy.most_connections = 0;
    CHECK(sftp().code != 0);
    CHECK(proxy.refused == 1);
    proxy.most_connections = 1;
    proxy.upstream_rate = 4 << 20;
    const Result slow = sftp();
    CHECK_EXIT(slow, 0);
    CHECK(slow.seconds > 0.7);
}

TEST_CASE("harness: the proxy tells round trips that wait for one another from those that do not" *
          doctest::test_suite("alone")) {
    const Echo echo;
    Proxy proxy(echo.port());
    proxy.delay_ms = 20;
    const Caller one(proxy.port()), other(proxy.port());
    const auto round_trips = [&] { return proxy.round_trips.exchange(0); };
    SUBCASE("one after the other") {
        for (int i = 0; i < 5; ++i) {
            one.say(10);
            one.hear(10);
        }
        CHECK(round_trips() == 5);
    }
    SUBCASE("sent together, on one connection and on two") {
        for (int i = 0; i < 5; ++i) one.say(10);
        other.say(10);
        one.hear(50);
        other.hear(10);
        CHECK(round_trips() == 1);
    }
    SUBCASE("a chain that goes from connection to connection") {
        for (const Caller* caller : {&one, &other, &one, &other}) {
            caller->say(10);
            caller->hear(10);
        }
        CHECK(round_trips() == 4);
    }
    SUBCASE("one that nobody waits for does not count beside another") {
        one.say(10);
        other.say(10);
        other.hear(10);
        other.say(10);
        other.hear(10);
        one.hear(10);
        CHECK(round_trips() == 2);
    }
    SUBCASE("what the client says last and hears nothing about is no round trip") {
        one.say(10);
        one.hear(10);
        one.say(10);
        std::this_thread::sleep_for(milliseconds(30));
        CHECK(round_trips() == 1);
    }
}

TEST_CASE("harness: the proxy's faults come at the byte, and are what they are called") {
    using Ending = Caller::Ending;
    const Echo echo;
    Proxy proxy(echo.port());
    SUBCASE("a cut after so many bytes upstream, and again") {
        proxy.cut_every = 50;
        proxy.more_cuts = 1;
        proxy.cut_after = 137;
        const Caller one(proxy.port());
        one.say(1000);
        CHECK(one.hear_out().second == Ending::reset);
        CHECK(proxy.upstream == 137);
        const Caller other(proxy.port());
        other.say(1000);
        CHECK(other.hear_out().second == Ending::reset);
        CHECK(proxy.upstream == 187);
        CHECK(proxy.cuts == 2);
        const Caller third(proxy.port());
        third.say(1000);
        third.hear(1000);
    }
    SUBCASE("a cut after so many bytes downstream") {
        proxy.cut_after_down = 333;
        const Caller one(proxy.port());
        one.say(1000);
        CHECK(one.hear_out() == std::pair(std::size_t{333}, Ending::reset));
        CHECK(proxy.downstream == 333);
    }
    SUBCASE("a stall: nothing comes and nobody is told; a later connection is not concerned") {
        proxy.fault = Proxy::Fault::stalled;
        proxy.cut_after = 100;
        const Caller one(proxy.port());
        one.say(1000);
        REQUIRE(wait_until([&] { return proxy.cuts == 1; }, milliseconds(2000)));
        CHECK(one.hear_out().second == Ending::silence);
        CHECK(proxy.upstream == 100);
        const Caller other(proxy.port());
        other.say(10);
        other.hear(10);
    }
    SUBCASE("a stall of all, for a while") {
        const Caller one(proxy.port());
        one.say(10);
        one.hear(10);
        proxy.stalled = true;
        one.say(10);
        CHECK(one.hear_out() == std::pair(std::size_t{0}, Ending::silence));
        {
            const Caller other(proxy.port());
            other.say(10);
            CHECK(other.hear_out() == std::pair(std::size_t{0}, Ending::silence));
        }
        CHECK_MESSAGE(wait_until([&] { return proxy.open == 1; }, milliseconds(2000)),
                      "who leaves is noticed");
        proxy.stalled = false;
        one.hear(10);
    }
    SUBCASE("the client alone is told of an end") {
        proxy.fault = Proxy::Fault::half_down;
        proxy.cut_after = 100;
        const Caller one(proxy.port());
        one.say(1000);
        const auto [bytes, ending] = one.hear_out();
        CHECK(ending == Ending::orderly);
        CHECK(bytes <= 100);
    }
    SUBCASE("the server alone is told of an end, which this one answers with its own") {
        proxy.fault = Proxy::Fault::half_up;
        proxy.cut_after = 100;
        const Caller one(proxy.port());
        one.say(1000);
        CHECK(one.hear_out().first == 100);
    }
    SUBCASE("away: broken, refused, and back on the same port") {
        const Caller one(proxy.port());
        one.say(10);
        one.hear(10);
        proxy.away = true;
        CHECK(one.hear_out() == std::pair(std::size_t{0}, Ending::reset));
        CHECK(!Caller::could_connect(proxy.port()));
        proxy.away = false;
        REQUIRE(wait_until([&] { return Caller::could_connect(proxy.port()); }, milliseconds(2000)));
    }
    SUBCASE("idle connections break, busy ones do not") {
        proxy.idle_ms = 300;
        const Caller idle(proxy.port()), busy(proxy.port());
        for (int i = 0; i < 12; ++i) {
            busy.say(10);
            busy.hear(10);
            std::this_thread::sleep_for(milliseconds(50));
        }
        CHECK(idle.hear_out() == std::pair(std::size_t{0}, Ending::reset));
    }
    SUBCASE("pieces") {
        proxy.at_once = 7;
        const Caller one(proxy.port());
        std::ptrdiff_t most = 0; // a reader that is late finds several of them together
        for (int tries = 0; tries < 50 && most < 50; ++tries) {
            one.say(1000);
            const std::vector<std::size_t> sizes = one.pieces(1000);
            most = std::max(most, std::count(sizes.begin(), sizes.end(), 7u));
        }
        CHECK(most >= 50);
    }
}

TEST_CASE("harness: an ordinary account logs in with key and password, and what it writes is its own") {
    Sshd::Options options;
    options.ordinary_account = true;
    Sshd server(options);
    Site site(server);
    write_file(site.dir / "batch", "pwd\nput " + (site.home / ".ssh/known_hosts").string() + " " +
                                       (server.home() / "x").string() + "\n");
    const Result result =
        run({"sftp", "-q", "-b", site.dir / "batch", "-o",
             "UserKnownHostsFile=" + (site.home / ".ssh/known_hosts").string(), "-i", user_key("ed25519"),
             "-P", std::to_string(server.port()), server.user() + "@127.0.0.1"});
    CHECK_EXIT(result, 0);
    CHECK_NAMES(result.out, server.home().string());
    struct stat st {};
    REQUIRE(stat((server.home() / "x").c_str(), &st) == 0);
    CHECK(st.st_uid == server.uid());
    CHECK((server.uid() != 0));
}

TEST_CASE("harness: file systems have the oddities that they are asked for, die, and are mounted when "
          "somebody comes") {
    if (!may_fuse()) return;
    OddFilesystem odd(
        {"fold", "strip", "refuse:symlink=EPERM", "refuse:flush:bad=EIO", "refuse:name:*[?]*=EINVAL"});
    write_file(odd / "Name.", "content");
    CHECK(read_file(odd / "nAME") == "content");
    CHECK(files_below(odd.behind()) == std::vector<fs::path>{odd.behind() / "Name"});
    set_mtime(odd / "NAME", 1'000'000'000, 5);
    CHECK(mtime_of(odd.behind() / "Name").tv_sec == 1'000'000'000);
    std::error_code error;
    fs::create_symlink("x", odd / "link", error);
    CHECK(error == std::errc::operation_not_permitted);
    CHECK_THROWS(write_file(odd / "bad", "content"));
    CHECK_THROWS(write_file(odd / "what?", "content"));
    odd.die();
    CHECK_THROWS(static_cast<void>(fs::exists(odd / "Name")));
    if (!may_automount()) return;
    const Mounted disk("tmpfs", "tmpfs", "size=1m");
    write_file(disk / "file", "on the disk");
    const TempDir place;
    const Automount automount(place / "auto", disk.path());
    for (int times = 0; times < 2; ++times) {
        struct stat st {};
        CHECK(lstat((place / "auto").c_str(), &st) == 0);
        CHECK(!automount.triggered());
        CHECK(read_file(place / "auto/file") == "on the disk");
        CHECK(automount.triggered());
        automount.expire();
    }
}

TEST_SUITE_END();
