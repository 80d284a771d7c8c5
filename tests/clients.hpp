// Clients that log in, each with a home directory of its own, on one repository that they only look at; and
// servers that are not OpenSSH's.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "support.hpp"
#include "trees.hpp"

namespace support {

inline void check_refused(const Result& result, const Strings& named) {
    CHECK_EXIT(result, 6);
    INFO(describe(result));
    CHECK(result.err.starts_with("nfreeze: "));
    for (const std::string& part : named) CHECK_NAMES(result.err, part);
}

inline RunOptions at_terminal(const Site& site, std::vector<Answer> dialog) {
    RunOptions options = site.options;
    options.pty = true;
    options.dialog = std::move(dialog);
    return options;
}

// A site with a repository, made while the login was still easy: known host, default key.
struct Ready : Site {
    explicit Ready(Sshd& server = shared_sshd(), int port = 0) : Site(server, port) {
        write_file(src / "file", "content");
        init_or_fail();
        backup_or_fail();
    }
    void forget_key() const { fs::remove(home / ".ssh/id_ed25519"); }
    void forget_host() const { fs::remove(known_hosts()); }
    [[nodiscard]] fs::path known_hosts() const { return home / ".ssh/known_hosts"; }
    Result look(const Strings& flags = {}) const { return look(flags, options); }
    Result look(const Strings& flags, const RunOptions& with) const {
        Strings arguments{"snapshots"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        arguments.push_back(url);
        return nfreeze(arguments, with);
    }
};

// One repository for all tests that only look: each of them would else pay for its own.
inline const Ready& looked_at() {
    static const Ready site;
    return site;
}

// A client's home of its own on the same repository.
struct Client {
    Client() : site(looked_at()) {
        home = dir / "home";
        fs::create_directories(home / ".ssh");
        chmod((home / ".ssh").c_str(), 0700);
        options = site.options;
        options.env["HOME"] = home;
        write_file(known_hosts(), shared_sshd().known_hosts_lines());
    }
    void have_key(const std::string& kind) const {
        const fs::path from = kind == "passphrase" ? user_key_with_passphrase() : user_key(kind);
        fs::copy_file(from, home / ".ssh" / ("id_" + (kind == "passphrase" ? std::string("ed25519") : kind)));
    }
    [[nodiscard]] fs::path known_hosts() const { return home / ".ssh/known_hosts"; }
    Result look(const Strings& flags = {}) const { return site.look(flags, options); }
    Result look_at_terminal(const Strings& flags, std::vector<Answer> dialog) const {
        RunOptions with = options;
        with.pty = true;
        with.dialog = std::move(dialog);
        return site.look(flags, with);
    }
    TempDir dir;
    const Ready& site;
    fs::path home;
    RunOptions options;
};

// Somebody who listens on loopback and answers every connection with these words.
class Stranger {
  public:
    explicit Stranger(std::string words) : words_(std::move(words)) {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
        REQUIRE(listen(listener_, 8) == 0);
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = ntohs(address.sin_port);
        thread_ = std::thread([this] {
            for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0;) {
                static_cast<void>(send(fd, words_.data(), words_.size(), MSG_NOSIGNAL) > 0);
                close(fd);
            }
        });
    }
    ~Stranger() {
        shutdown(listener_, SHUT_RDWR);
        thread_.join();
        close(listener_);
    }
    Stranger(const Stranger&) = delete;
    Stranger& operator=(const Stranger&) = delete;
    [[nodiscard]] int port() const { return port_; }

  private:
    std::string words_;
    int listener_ = -1, port_ = 0;
    std::thread thread_;
};

// ---- servers that are not OpenSSH's ------------------------------------------------------------------

// An sshd behind which our own server speaks SFTP, with the switches of the moment.
struct Odd {
    TempDir dir;
    Sshd server;
    Site site;
    explicit Odd(const Strings& switches = {}) : server(options(dir)), site(server) { set(switches); }
    static Sshd::Options options(const TempDir& dir) {
        Sshd::Options options;
        options.config = {std::string("Subsystem sftp /usr/bin/python3 ") + NFREEZE_TESTS_DIR +
                          "/servers/sftp_server.py @" + (dir / "switches").string()};
        return options;
    }
    // For sessions to come; its log and its counts begin anew.
    void set(const Strings& switches) const {
        remove_tree(dir / "state");
        fs::create_directory(dir / "state");
        std::string text = "--state=" + (dir / "state").string() + "\n";
        for (const std::string& line : switches) text += line + "\n";
        write_file(dir / "switches", text);
    }
    [[nodiscard]] std::string log() const {
        return fs::exists(dir / "state/log") ? read_file(dir / "state/log") : "";
    }
    // How many requests of a kind there were; "session": how many logins.
    [[nodiscard]] std::ptrdiff_t count(const std::string& kind) const {
        return std::ranges::count_if(lines_of(log()), [&](const std::string& line) {
            return line == kind || line.starts_with(kind + " ");
        });
    }
    // For a run of which we do not know how it ends: not for a quarter of an hour.
    Result nfreeze(Strings words) const {
        words.insert(words.begin() + 1, {"--retry-for", "3", "--timeout", "5"});
        return site.nfreeze(words);
    }
    void have_something() const { // for a backup
        make_random_tree(site.src, 1, 10, 50'000);
        write_random_file(site.src / "large", 3 << 20, 2);
    }
    // With the server in its senses again, all is there, and goes on.
    void check_sound(bool restored = true) const {
        set({});
        const Result check = nfreeze({"check", "--read-data", site.url});
        CHECK_EXIT(check, 0);
        if (!restored) return;
        remove_tree(site.dest);
        CHECK_EXIT(nfreeze({"restore", site.url, site.dest}), 0);
        CHECK(compare(site.src, site.dest) == "");
    }
};

// Whether all that such servers do is tried, or a taste of it.
inline bool all_servers() { return slow_tests() || std::getenv("NFREEZE_TEST_SERVERS") != nullptr; }

// The first so many of these, where not all are to be tried.
inline Strings taste(Strings all, std::size_t so_many) {
    if (!all_servers()) all.resize(so_many);
    return all;
}

inline bool have_python() {
    if (fs::exists("/usr/bin/python3")) return true;
    skipped("a server that is not OpenSSH's: needs /usr/bin/python3");
    return false;
}

// Has a server do all that it is for, from init to prune: each step ends well, and what comes back is what
// was there. Leaves one snapshot behind.
inline void check_all_verbs(const Site& site, const Strings& flags = {}) {
    const auto nfreeze = [&](Strings words) {
        words.insert(words.begin() + 1, flags.begin(), flags.end());
        return site.nfreeze(words);
    };
    const auto good = [&](const Strings& words) {
        const Result result = nfreeze(words);
        CHECK_EXIT(result, 0);
        return result;
    };
    make_random_tree(site.src, 11, 25, 60'000);
    write_random_file(site.src / "large", 5 << 20, 12);
    if (good({"init", site.url}).code != 0) return;
    CHECK_EXIT(nfreeze({"init", site.url}), 1); // it is there already
    if (good({"backup", site.src, site.url}).code != 0) return;
    good({"backup", site.src, site.url});
    mutate_tree(site.src, 13, 5);
    write_random_file(site.src / "large", 3 << 20, 14);
    good({"backup", "--verify", site.src, site.url});
    const auto restored = [&] {
        remove_tree(site.dest);
        good({"restore", site.url, site.dest});
        CHECK(compare(site.src, site.dest) == "");
    };
    restored();
    CHECK_NAMES(good({"check", "--read-data", site.url}).out, "errors: 0");
    good({"forget", "--yes", "--keep-last", "1", site.url});
    CHECK_NAMES(good({"prune", "--yes", "--now", "--max-unused", "0%", site.url}).out, "deleted: ");
    good({"check", site.url});
    restored();
}

} // namespace support
