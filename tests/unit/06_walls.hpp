// Section 6: what the kernel refuses the keeper and the wire, and a wire that lies.

#include <sys/un.h>

namespace {

/// What a process tries that was taken over, by name, and which of it was done.
std::map<std::string, bool> attempts(const std::string& dir) {
    std::map<std::string, bool> done;
    auto attempt = [&](const char* what, long result) { done[what] = result >= 0; };
    attempt("open to read", ::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    attempt("open to write", ::open((dir + "/there").c_str(), O_WRONLY | O_CLOEXEC));
    attempt("create", ::open((dir + "/new").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    attempt("truncate", ::truncate((dir + "/there").c_str(), 0));
    attempt("rename", ::rename((dir + "/there").c_str(), (dir + "/other").c_str()));
    attempt("unlink", ::unlink((dir + "/there").c_str()));
    attempt("chmod", ::chmod((dir + "/there").c_str(), 0777));
    attempt("mkdir", ::mkdir((dir + "/made").c_str(), 0700));
    attempt("TCP", socket(AF_INET, SOCK_STREAM, 0));
    attempt("UDP", socket(AF_INET6, SOCK_DGRAM, 0));
    attempt("UNIX", socket(AF_UNIX, SOCK_STREAM, 0));
    attempt("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    attempt("connect",
            ::connect(3, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0 || errno != EPERM ? 0 : -1);
    char name[] = "true";
    char* argv[] = {name, nullptr};
    pid_t child = fork();
    if (child == 0) {
        execve("/bin/true", argv, environ);
        _exit(1);
    }
    int status = 1;
    if (child > 0) waitpid(child, &status, 0);
    attempt("run a program", child > 0 && status == 0 ? 0 : -1);
    attempt("fork", child);
    attempt("signal the parent", kill(getppid(), 0));
    attempt("signal a thread", syscall(SYS_tgkill, getppid(), getppid(), 0));
    attempt("own a descriptor", fcntl(1, F_SETOWN, getppid())); // who owns it gets signals
    int ends[2];
    attempt("datagrams", socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));            // which go to any address
    attempt("trace the parent", syscall(SYS_ptrace, 0x4206, getppid(), 0, 0)); // PTRACE_SEIZE
    attempt("io_uring", syscall(SYS_io_uring_setup, 4, nullptr) >= 0 || errno == EFAULT ? 0 : -1);
    attempt("memory to run",
            mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1
                                                                                                         : 0);
    return done;
}

/// What was done of it by a process that is confined by `confine`, as `uid`. Empty: it could not be confined.
std::map<std::string, bool> attempts_behind(const std::function<bool()>& confine, uid_t uid,
                                            const std::string& dir) {
    for (auto& left : {"/new", "/other", "/made"}) std::filesystem::remove(dir + left);
    support::write_file(dir + "/there", "content");
    ::chmod(dir.c_str(), 0777);
    ::chmod((dir + "/there").c_str(), 0666);
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (uid != geteuid() && (setgid(uid) != 0 || setuid(uid) != 0)) _exit(1);
        if (!confine()) _exit(2);
        std::string told;
        for (auto& [what, done] : attempts(dir)) told += what + (done ? "=1\n" : "=0\n");
        (void)!::write(ends[1], told.data(), told.size());
        _exit(0);
    }
    close(ends[1]);
    std::string told(10'000, '\0');
    told.resize(read_full(ends[0], {reinterpret_cast<uint8_t*>(told.data()), told.size()}, "a pipe"));
    close(ends[0]);
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK(WIFEXITED(status));
    std::map<std::string, bool> done;
    std::istringstream lines(told);
    for (std::string line; std::getline(lines, line);)
        done[line.substr(0, line.find('='))] = line.ends_with("=1");
    return done;
}
std::set<std::string> done_of(const std::map<std::string, bool>& tried) {
    std::set<std::string> done;
    for (auto& [what, was] : tried)
        if (was) done.insert(what);
    return done;
}

const std::vector<uid_t> kUsers =
    geteuid() == 0 ? std::vector<uid_t>{0, 65534} : std::vector<uid_t>{geteuid()};

} // namespace

TEST_CASE("walls: nothing that a wire would try that was taken over is done, as root or not") {
    if (kMachine == 0) return support::skipped("this build is not confined");
    support::TempDir dir;
    for (uid_t user : kUsers) {
        CAPTURE(user);
        auto free = attempts_behind([] { return true; }, user, dir.path().string());
        CHECK(done_of(free).size() >= 14); // so that a refusal says something
        auto tried = attempts_behind([] { return confine_wire().calls; }, user, dir.path().string());
        CHECK(tried.size() == free.size());
        CHECK(done_of(tried) == std::set<std::string>{});
    }
}

TEST_CASE("walls: Landlock alone keeps a wire from files, programs and ports") {
    if (!walls_here().files) return support::skipped("this kernel has no Landlock");
    support::TempDir dir;
    for (uid_t user : kUsers) {
        auto done =
            done_of(attempts_behind([] { return confine_files({}, true); }, user, dir.path().string()));
        for (auto* what : {"open to read", "open to write", "create", "rename", "unlink", "mkdir",
                           "run a program", "trace the parent"})
            CHECK_FALSE(done.contains(what));
    }
}

TEST_CASE("walls: a keeper that only reads has no network, starts nothing, and changes nothing") {
    if (kMachine == 0) return support::skipped("this build is not confined");
    support::TempDir dir;
    for (uid_t user : kUsers) {
        auto tried =
            attempts_behind([] { return confine_keeper(Writes::nothing); }, user, dir.path().string());
        CHECK(tried.size() > 14);
        std::set<std::string> left{"open to read", "fork", "memory to run", "own a descriptor"};
        if (user == geteuid()) left.insert({"signal the parent", "signal a thread"});
        CHECK(done_of(tried) == left);
    }
}

TEST_CASE("walls: a keeper that restores writes below its destination only") {
    if (!walls_here().files) return support::skipped("this kernel has no Landlock");
    support::TempDir dir, elsewhere;
    auto confine = [&] {
        return confine_keeper(Writes::files) && confine_files({dir.path().string()}, false);
    };
    for (uid_t user : kUsers) {
        auto below = done_of(attempts_behind(confine, user, dir.path().string()));
        for (auto* what : {"open to read", "open to write", "create", "truncate", "rename", "mkdir"})
            CHECK(below.contains(what));
        for (auto* what :
             {"TCP", "UDP", "UNIX", "netlink", "connect", "run a program", "trace the parent", "io_uring"})
            CHECK_FALSE(below.contains(what));
        auto outside = done_of(attempts_behind(confine, user, elsewhere.path().string()));
        for (auto* what : {"open to write", "create", "rename", "unlink", "mkdir"})
            CHECK_FALSE(outside.contains(what));
        CHECK(outside.contains("open to read"));
    }
}

// ---- a wire that lies -----------------------------------------------------------------------

namespace {

/// A part of an answer.
Bytes part(Part kind, View body, std::optional<uint32_t> size = {}) {
    Writer out;
    out.u8(uint8_t(kind));
    out.u32(size.value_or(uint32_t(body.size())));
    out.raw(body);
    return out.take();
}
Bytes in_a_row(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (auto& p : parts) all.insert(all.end(), p.begin(), p.end());
    return all;
}
Bytes text_bytes(std::string_view s) { return {s.begin(), s.end()}; }

/// A store whose wire says `answer`, whatever it is asked, and ends then.
struct Lying {
    explicit Lying(const Bytes& answer) {
        auto [ours, its] = socket_pair(SOCK_STREAM);
        send_full(its.get(), part(Part::done, {}), Wait::for_ever); // the login went well
        send_full(its.get(), answer, Wait::for_ever);
        shutdown(its.get(), SHUT_WR);
        wire = std::move(its);
        std::vector<Fd> channels;
        channels.push_back(std::move(ours));
        store = std::make_unique<WireStore>(SshOptions{}, std::move(channels));
    }
    Fd wire;
    std::unique_ptr<WireStore> store;
};

/// What comes of each call when the wire says so.
template <class F> std::string said_to(const Bytes& answer, F call) {
    Lying lying(answer);
    try {
        call(*lying.store);
        return "nothing";
    } catch (const Error& e) {
        CHECK((e.exit == Exit::network || e.exit == Exit::damaged || e.exit == Exit::failed ||
               e.exit == Exit::interrupted));
        return e.what();
    }
}

} // namespace

TEST_CASE("walls: of a wire that says what it is not asked, too much or too little, nothing is believed") {
    const std::string lies = "says what makes no sense", ended = "has ended";
    const auto done = part(Part::done, {}), data = part(Part::data, text_bytes("0123456789"));
    auto name = pack_name(sha256(as_bytes("x")));
    auto read = [&](const Bytes& answer) {
        return said_to(answer, [&](Store& s) {
            if (s.read(name, 0, 10).size() != 10) throw Error("that was not all");
        });
    };
    auto list = [&](const Bytes& answer) { return said_to(answer, [](Store& s) { s.list(Name::packs); }); };
    auto names = [&](const Bytes& answer) { return said_to(answer, [](Store& s) { s.list_all({}); }); };
    auto remove = [&](const Bytes& answer) { return said_to(answer, [&](Store& s) { s.remove(name); }); };
    auto create = [&](const Bytes& answer) {
        return said_to(answer, [&](Store& s) { s.create(some_object(1)); });
    };

    CHECK(read(in_a_row({data, done})) == "nothing");
    CHECK_NAMES(read(done), lies);                         // too little
    CHECK_NAMES(read(in_a_row({data, data, done})), lies); // too much
    CHECK_NAMES(read(in_a_row({part(Part::data, text_bytes("01234567890")), done})), lies);
    CHECK_NAMES(read(part(Part::data, {})), lies); // nothing, for ever
    CHECK_NAMES(read(part(Part::data, {}, 0xffffffff)), lies);
    CHECK_NAMES(read(data), ended);
    CHECK_NAMES(read({}), ended);
    CHECK_NAMES(read(part(Part::ready, {})), lies);
    CHECK_NAMES(read(part(Part(99), {})), lies);
    CHECK_NAMES(read(part(Part::note, {}, uint32_t(kPartMax) + 1)), lies);
    CHECK_NAMES(read(part(Part::failed, {})), lies);
    CHECK_NAMES(read(part(Part::failed, text_bytes("\x01\x05"))), lies);
    CHECK_NAMES(read(part(Part::failed, text_bytes("\x01\x05\x01"))), lies); // without a word

    CHECK(remove(done) == "nothing");
    CHECK_NAMES(remove(data), lies);
    CHECK_NAMES(remove(part(Part::done, text_bytes("x"))), lies);
    CHECK(remove(part(Part::failed, text_bytes("\x04\x01\x01it is not there"))) == "it is not there");
    CHECK_NAMES(remove(part(Part::failed, text_bytes("\x01\x05\x01\x1b[2J"))),
                "\\x1b[2J"); // fit for a terminal
    for (std::string_view control : {"\xc2\x9b", "\x9b", "\x7f", "\xff"}) {
        auto words = remove(part(Part::failed, text_bytes("\x01\x05\x01" + std::string(control) + "2J")));
        CHECK(words == show(std::string(control) + "2J"));
        CHECK(words.find(control) == words.npos);
    }
    CHECK(remove(part(Part::failed, text_bytes("\x01\x05\x01\xc3\xa4\\x1b"))) ==
          "\xc3\xa4\\x1b");                                                          // as it was shown
    CHECK_NAMES(remove(part(Part::failed, text_bytes("\x63\x63\x01what"))), "what"); // no such fault

    CHECK(list(done) == "nothing");
    CHECK(list(in_a_row({part(Part::data, Bytes(2 * kListedSize)), done})) == "nothing");
    CHECK_NAMES(list(in_a_row({part(Part::data, Bytes(kListedSize + 1)), done})), lies);
    CHECK_NAMES(list(in_a_row({part(Part::data, {}), done})), lies);
    CHECK_NAMES(names(in_a_row({part(Part::data, Bytes(15)), done})), lies);
    CHECK_NAMES(names(in_a_row({part(Part::data, Bytes(16 + kShownName + 1)), done})), lies);
    CHECK(names(in_a_row({part(Part::data, Bytes(16 + kShownName)), done})) == "nothing");

    CHECK(create(in_a_row({part(Part::ready, {}), done})) == "nothing");
    CHECK_NAMES(create(done), lies); // it has not even asked for the object
    CHECK_NAMES(create(in_a_row({part(Part::ready, {}), part(Part::ready, {}), done})), lies);
    CHECK_NAMES(create(part(Part::ready, {})), ended);
}

TEST_CASE("walls: a wire can ask for nothing but what logs in, and puts nothing else into known_hosts") {
    support::TempDir dir;
    NoTerminal nobody_to_ask;
    auto asks = [&](Part kind, const Bytes& about) {
        SshOptions o;
        o.host = "server";
        o.port = 22;
        o.accept_new = true;
        o.known_hosts = {(dir / "known_hosts").string()};
        auto [ours, its] = socket_pair(SOCK_STREAM);
        send_full(its.get(), in_a_row({part(kind, about), part(Part::done, {})}), Wait::for_ever);
        std::vector<Fd> channels;
        channels.push_back(std::move(ours));
        try {
            WireStore store(o, std::move(channels));
        } catch (const Error& e) {
            return std::string(e.what());
        }
        std::array<uint8_t, 5> head;
        REQUIRE(receive_full(its.get(), head, Wait::for_ever));
        return std::string(head[0] ? "yes" : "no");
    };
    auto host = [](std::string_view type, std::string_view key) {
        Writer about;
        about.u32(uint32_t(type.size()));
        about.raw(as_bytes(type));
        about.raw(as_bytes(key));
        return about.take();
    };
    const std::string lies = "says what makes no sense",
                      key = std::string("\0\0\0\x0b", 4) + "ssh-ed25519....";
    CHECK(asks(Part::ask_host, host("ssh-ed25519", key)) == "yes");
    CHECK(support::read_file(dir / "known_hosts").starts_with("server ssh-ed25519 "));
    CHECK_NAMES(asks(Part::ask_host, host("ssh-ed25519\n* ssh-ed25519", key)), lies);
    CHECK_NAMES(asks(Part::ask_host, host("ssh-ed25519", "another")), lies);
    CHECK_NAMES(asks(Part::ask_host, host("ssh-ed25519", "")), lies);
    CHECK_NAMES(asks(Part::ask_host, Bytes(3)), lies);
    CHECK_NAMES(asks(Part::ask_host, Bytes(4, 0xff)), lies);
    CHECK(asks(Part::ask_key, Bytes{7}) == "no"); // there is no terminal
    CHECK(support::lines_of(support::read_file(dir / "known_hosts")).size() == 1);
}

TEST_CASE("walls: the way to the server goes to the other processes and comes back as it was") {
    SshOptions o;
    o.user = "u";
    o.host = "h";
    o.path = "p";
    o.port = 65535;
    o.identities = {"a", "", "c d"};
    o.proxy = {"ssh", "-W"};
    o.pinned = "SHA256:x";
    o.accept_new = true;
    o.ask_unknown = false;
    o.connections = 16;
    o.timeout = std::chrono::seconds(3600);
    o.upload_limit = UINT64_MAX;
    auto back = SshOptions::decode(o.encode());
    CHECK(back.encode() == o.encode());
    CHECK(back.identities == o.identities);
    CHECK(back.upload_limit == o.upload_limit);
    CHECK(back.ask_unknown == false);
    CHECK(back.try_keys == true);
    CHECK_THROWS_AS(SshOptions::decode(Bytes(3)), Corrupt);
}
