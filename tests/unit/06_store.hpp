// Section 6: store, addresses, host keys.

namespace {

/// The error's text, or the parts of the address: "user|host|port|path".
std::string parsed(const std::string& s) {
    try {
        Address a = parse_address(s);
        return text(a.user, "|", a.host, "|", a.port, "|", a.path, a.remote() ? "" : " (local)");
    } catch (const Usage&) {
        return "refused";
    }
}

/// A public key of one of the test's own key files, as known_hosts has it: type and raw key.
struct PublicKey {
    explicit PublicKey(const std::string& kind) {
        std::istringstream line(support::public_key_line(support::user_key(kind)));
        std::string base;
        line >> type >> base;
        blob = unbase64(base);
        words = type + " " + base;
    }
    std::string type, blob, words;
    std::string print() const { return "SHA256:" + base64(sha256(as_bytes(blob)), false); }
};

/// Standard input that is no terminal, so that nothing is asked whoever runs the tests.
class NoTerminal {
  public:
    NoTerminal() : before_(dup(0)), null_(::open("/dev/null", O_RDONLY | O_CLOEXEC)) { dup2(null_.get(), 0); }
    ~NoTerminal() { dup2(before_.get(), 0); }
    NoTerminal(const NoTerminal&) = delete;
    NoTerminal& operator=(const NoTerminal&) = delete;

  private:
    Fd before_, null_;
};

SshOptions ssh_options(const std::string& host, const std::string& known_hosts, int port = 22) {
    SshOptions o;
    o.host = host;
    o.port = port;
    o.known_hosts = {known_hosts};
    return o;
}

/// "" if the key is accepted, else why not.
std::string verdict_on(const SshOptions& o, const PublicKey& key) {
    NoTerminal nobody_to_ask;
    std::string accepted;
    try {
        check_host_key(o, known_keys(o.known_hosts, known_host_name(o)), key.type, key.blob, accepted,
                       [&] { accept_host(o, key.type, key.blob); });
        return "";
    } catch (const Error& e) {
        CHECK(e.exit == Exit::network);
        return e.what();
    }
}

} // namespace

TEST_CASE("address: a colon before the first slash means another machine") {
    CHECK(parsed("host:path") == "|host|0|path");
    CHECK(parsed("user@host:path") == "user|host|0|path");
    CHECK(parsed("host:") == "|host|0|");
    CHECK(parsed("host:/abs/path") == "|host|0|/abs/path");
    CHECK(parsed("host:~/below/home") == "|host|0|below/home");
    CHECK(parsed("host:with:colon") == "|host|0|with:colon");
    CHECK(parsed("host:dir/a@b") == "|host|0|dir/a@b");
    CHECK(parsed("us@er@host:path") == "us@er|host|0|path");
    CHECK(parsed("192.0.2.1:path") == "|192.0.2.1|0|path");
}

TEST_CASE("address: everything else is a local path") {
    for (std::string s : {"dir", "./a:b", "/a:b", "../x:y", "dir/a:b", "dir/user@host:path", "/", ".", "a b"})
        CHECK(parsed(s) == "||0|" + s + " (local)");
}

TEST_CASE("address: IPv6 stands in brackets") {
    CHECK(parsed("[::1]:path") == "|::1|0|path");
    CHECK(parsed("user@[fe80::1%eth0]:/p") == "user|fe80::1%eth0|0|/p");
    CHECK(parsed("[2001:db8::2]:a:b") == "|2001:db8::2|0|a:b");
    CHECK(parsed("sftp://[::1]/p") == "|::1|0|p");
    CHECK(parsed("sftp://u@[::1]:2222//p") == "u|::1|2222|/p");
    CHECK(parsed("sftp://[::1]") == "|::1|0|");
    CHECK(parsed("[dir]/a:b") == "||0|[dir]/a:b (local)");
    CHECK(parsed("dir/x@[y]:z") == "||0|dir/x@[y]:z (local)");
    CHECK(parsed("[unclosed:path") == "||0|[unclosed:path (local)");
}

TEST_CASE("address: sftp URLs") {
    CHECK(parsed("sftp://host/path") == "|host|0|path");
    CHECK(parsed("sftp://host//abs/path") == "|host|0|/abs/path");
    CHECK(parsed("sftp://host") == "|host|0|");
    CHECK(parsed("sftp://host/") == "|host|0|");
    CHECK(parsed("sftp://user@host:2222/path") == "user|host|2222|path");
    CHECK(parsed("sftp://host:1/p") == "|host|1|p");
    CHECK(parsed("sftp://host:65535/p") == "|host|65535|p");
    CHECK(parsed("sftp://host/a:b@c") == "|host|0|a:b@c");
}

TEST_CASE("address: what makes no sense is wrong usage") {
    for (std::string s :
         {":path", "user@:path", "sftp://", "sftp:///path", "sftp://user@/path", "sftp://:22/path",
          "sftp://host:/p", "sftp://host:0/p", "sftp://host:65536/p", "sftp://host:99999999999/p",
          "sftp://host:-1/p", "sftp://host:2x/p", "sftp://host: 22/p", "-oProxyCommand=x:path", "u@-x:path",
          "sftp://-x/p", "[]:path"}) {
        INFO(s);
        CHECK(parsed(s) == "refused");
    }
}

TEST_CASE("base64: as the tools of ssh write it") {
    CHECK(base64(as_bytes("a"), true) == "YQ==");
    CHECK(base64(as_bytes("a"), false) == "YQ");
    CHECK(base64(as_bytes("abc"), true) == "YWJj");
    CHECK(base64({}, true).empty());
    for (size_t n : {0u, 1u, 2u, 3u, 71u, 72u, 73u, 300u}) {
        auto bytes = string_of(noise(n, n));
        CHECK(unbase64(base64(as_bytes(bytes), true)) == bytes);
        CHECK(unbase64(base64(as_bytes(bytes), false)) == bytes);
        CHECK(base64(as_bytes(bytes), true).find('\n') == std::string::npos);
    }
    PublicKey key("ed25519");
    CHECK(key.print() == support::key_fingerprint(support::user_key("ed25519")));
}

TEST_CASE("known hosts: patterns") {
    CHECK(glob_match("", ""));
    CHECK(glob_match("*", ""));
    CHECK(glob_match("*", "anything"));
    CHECK(glob_match("host", "host"));
    CHECK(glob_match("h?st", "host"));
    CHECK(glob_match("*.example.com", "a.b.example.com"));
    CHECK(glob_match("a*b*c", "aXXbYYc"));
    CHECK(glob_match("**", "x"));
    CHECK(glob_match("[h]", "[h]")); // brackets are no pattern here
    CHECK(glob_match("*ab*ab", "aabXabYab"));
    CHECK(glob_match("a*?b?", "aXXbbX"));
    CHECK_FALSE(glob_match("*ab*ab", "aabXabY"));
    CHECK_FALSE(glob_match("a*b*a", "abaab"));
    CHECK_FALSE(glob_match("a*?b", "ab"));
    CHECK_FALSE(glob_match("", "x"));
    CHECK_FALSE(glob_match("host", "hos"));
    CHECK_FALSE(glob_match("hos", "host"));
    CHECK_FALSE(glob_match("h?st", "hst"));
    CHECK_FALSE(glob_match("?", ""));
    CHECK_FALSE(glob_match("*.example.com", "example.com"));
    CHECK_FALSE(glob_match("a*b*c", "aXXcYYb"));
    CHECK_FALSE(glob_match("h", "H"));
}

TEST_CASE("known hosts: a pattern of many asterisks is answered at once") { // else: years
    std::string stars;
    for (int i = 0; i < 1000; ++i) stars += "*a";
    CHECK(glob_match(stars, std::string(1000, 'a')));
    CHECK_FALSE(glob_match(stars, std::string(999, 'a')));
    CHECK_FALSE(glob_match(stars + "b", std::string(5000, 'a')));
}

TEST_CASE("known hosts: the field of a line that names hosts") {
    CHECK(host_field_matches("host", "host"));
    CHECK(host_field_matches("HOST", "host"));
    CHECK(host_field_matches("a,b,host", "host"));
    CHECK(host_field_matches("*.com,!bad.com", "good.com"));
    CHECK(host_field_matches("[host]:2222", "[host]:2222"));
    CHECK(host_field_matches("[*.example.com]:2222", "[a.example.com]:2222"));
    CHECK(host_field_matches("192.0.2.*", "192.0.2.7"));
    CHECK_FALSE(host_field_matches("host", "other"));
    CHECK_FALSE(host_field_matches("host", "[host]:2222"));
    CHECK_FALSE(host_field_matches("[host]:2222", "host"));
    CHECK_FALSE(host_field_matches("[host]:2222", "[host]:2223"));
    CHECK_FALSE(host_field_matches("*.com,!bad.com", "bad.com"));
    CHECK_FALSE(host_field_matches("!bad.com,*.com", "bad.com"));
    CHECK_FALSE(host_field_matches("!bad.com", "good.com")); // a negation alone names nobody
    CHECK_FALSE(host_field_matches("", "host"));
    CHECK_FALSE(host_field_matches(",", "host"));
}

TEST_CASE("known hosts: names hashed by ssh-keygen -H are found") {
    support::TempDir dir;
    auto file = (dir / "known_hosts").string();
    PublicKey key("ed25519");
    support::write_file(file,
                        "plain.example.com " + key.words + "\n[ported.example.com]:2222 " + key.words + "\n");
    support::hash_known_hosts(file);
    auto hashed = support::read_file(file);
    CHECK(hashed.find("example") == std::string::npos);
    CHECK(hashed.starts_with("|1|"));
    CHECK(known_keys({file}, "plain.example.com").size() == 1);
    CHECK(known_keys({file}, "[ported.example.com]:2222").size() == 1);
    CHECK(known_keys({file}, "[plain.example.com]:2222").empty());
    CHECK(known_keys({file}, "ported.example.com").empty());
    CHECK(known_keys({file}, "other.example.com").empty());
    CHECK_FALSE(host_field_matches("|1|", "host"));
    CHECK_FALSE(host_field_matches("|1|salt", "host"));
    CHECK_FALSE(host_field_matches("|1||", "host"));
    CHECK_FALSE(host_field_matches("|2|c2FsdA==|AAAA", "host"));
}

TEST_CASE("known hosts: markers, comments and lines that nobody understands") {
    support::TempDir dir;
    auto file = (dir / "known_hosts").string(), other = (dir / "system").string();
    PublicKey one("ed25519"), two("ecdsa"), three("rsa");
    support::write_file(file, "# a comment " + one.words + "\n\n   \n#host " + one.words +
                                  "\n"
                                  "host\nhost ssh-ed25519\n"
                                  "@cert-authority host " +
                                  one.words +
                                  "\n"
                                  "@revoked * " +
                                  two.words +
                                  "\n"
                                  "  host " +
                                  one.words +
                                  " a comment\r\n"
                                  "\xff\xfe\x01 binary \n"
                                  "elsewhere " +
                                  three.words + "\n");
    support::write_file(other, "host " + three.words); // no newline at its end
    auto keys = known_keys({file, (dir / "missing").string(), other}, "host");
    REQUIRE(keys.size() == 4);
    CHECK(std::ranges::count(keys, true, &KnownKey::authority) == 1);
    std::erase_if(keys, [](auto& key) { return key.authority; });
    CHECK(keys[0].blob == two.blob);
    CHECK(keys[0].revoked);
    CHECK(keys[1].blob == one.blob);
    CHECK(keys[1].type == "ssh-ed25519");
    CHECK_FALSE(keys[1].revoked);
    CHECK(keys[2].blob == three.blob);
    CHECK(keys[2].type == "ssh-rsa");
}

TEST_CASE("known hosts: a line whose key is no key does not make a new host look changed") {
    support::TempDir dir;
    auto file = (dir / "known_hosts").string();
    PublicKey key("ed25519");
    // A key of SSH 1 (bits, exponent, modulus) as old files have it, and words.
    support::write_file(file,
                        "host 1024 35 1234567890123456789\nhost some words here\nhost ssh-ed25519 AAAA\n");
    INFO(verdict_on(ssh_options("host", file), key));
    CHECK(known_keys({file}, "host").empty());
}

TEST_CASE("host key: a name is looked for as ssh writes it") {
    CHECK(known_host_name(ssh_options("Host.Example.COM", "")) == "host.example.com");
    CHECK(known_host_name(ssh_options("Host", "", 2222)) == "[host]:2222");
    CHECK(known_host_name(ssh_options("::1", "", 22)) == "::1");
}

TEST_CASE("host key: without a terminal only a known key is accepted") {
    support::TempDir dir;
    auto file = (dir / "known_hosts").string();
    PublicKey mine("ed25519"), other("ecdsa");
    auto o = ssh_options("server", file);
    SUBCASE("an unknown host is refused, with its fingerprint") {
        auto why = verdict_on(o, mine);
        CHECK_NAMES(why, "not known");
        CHECK_NAMES(why, mine.print());
        CHECK_NAMES(why, "--host-key");
    }
    SUBCASE("a known one is accepted") {
        support::write_file(file, "server " + mine.words + "\n");
        CHECK(verdict_on(o, mine) == "");
    }
    SUBCASE("one of several known keys is accepted") {
        support::write_file(file, "server " + other.words + "\nserver " + mine.words + "\n");
        CHECK(verdict_on(o, mine) == "");
    }
    SUBCASE("a changed one is refused") {
        support::write_file(file, "server " + other.words + "\n");
        auto why = verdict_on(o, mine);
        CHECK_NAMES(why, "has changed");
        CHECK_NAMES(why, "ssh-keygen -R 'server'");
    }
    SUBCASE("a revoked one is refused, though it is known as well") {
        support::write_file(file, "server " + mine.words + "\n@revoked * " + mine.words + "\n");
        CHECK_NAMES(verdict_on(o, mine), "revoked");
    }
    SUBCASE("that another key was revoked makes a host neither known nor changed") {
        support::write_file(file, "@revoked * " + other.words + "\n");
        CHECK_NAMES(verdict_on(o, mine), "not known");
    }
    SUBCASE("a certificate authority for it does not vouch for a plain key") {
        support::write_file(file, "@cert-authority server " + mine.words + "\n");
        CHECK_NAMES(verdict_on(o, mine), "not known");
    }
    SUBCASE("the key of another port is not this one's") {
        support::write_file(file, "[server]:2222 " + mine.words + "\n");
        CHECK_NAMES(verdict_on(o, mine), "not known");
        CHECK(verdict_on(ssh_options("server", file, 2222), mine) == "");
    }
}

TEST_CASE("host key: a pinned one is the only one that counts") {
    support::TempDir dir;
    auto file = (dir / "known_hosts").string();
    PublicKey mine("ed25519"), other("ecdsa");
    auto o = ssh_options("server", file);
    o.pinned = mine.print();
    CHECK(verdict_on(o, mine) == "");
    CHECK_NAMES(verdict_on(o, other), "--host-key");
    support::write_file(file, "server " + other.words + "\n");
    CHECK(verdict_on(o, mine) == "");
    CHECK_NAMES(verdict_on(o, other), "--host-key"); // known, but not what was asked for
    o.accept_new = true;
    CHECK_NAMES(verdict_on(o, other), "--host-key");
    CHECK(support::read_file(file) == "server " + other.words + "\n");
}

TEST_CASE("host key: a new one that may be accepted is remembered, a changed one never") {
    support::TempDir dir;
    auto file = (dir / "ssh/known_hosts").string();
    PublicKey mine("ed25519"), other("ecdsa");
    auto o = ssh_options("Server", file, 2222);
    o.accept_new = true;
    CHECK(verdict_on(o, mine) == "");
    CHECK(support::read_file(file) == "[server]:2222 " + mine.words + "\n");
    struct stat st;
    REQUIRE(stat(file.c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0600);
    CHECK(verdict_on(o, mine) == "");
    CHECK(support::read_file(file) == "[server]:2222 " + mine.words + "\n"); // not twice
    CHECK_NAMES(verdict_on(o, other), "has changed");
    CHECK(support::read_file(file) == "[server]:2222 " + mine.words + "\n");
    o.accept_new = false;
    CHECK(verdict_on(o, mine) == "");
}

TEST_CASE("host key: one that was accepted is not asked about again by the next connection") {
    NoTerminal nobody_to_ask;
    support::TempDir dir;
    PublicKey mine("ed25519"), other("ecdsa");
    auto o = ssh_options("server", (dir / "known_hosts").string());
    std::string accepted = mine.blob;
    CHECK_NOTHROW(check_host_key(o, {}, mine.type, mine.blob, accepted, [] {}));
    CHECK_THROWS_AS(check_host_key(o, {}, other.type, other.blob, accepted, [] {}), Error);
}

TEST_CASE("host key: one that is added does not run into a last line without a newline") {
    support::TempDir dir;
    auto file = (dir / "known_hosts").string();
    PublicKey mine("ed25519"), other("ecdsa");
    support::write_file(file, "first " + other.words);
    auto o = ssh_options("second", file);
    o.accept_new = true;
    CHECK(verdict_on(o, mine) == "");
    INFO(support::read_file(file));
    CHECK(verdict_on(ssh_options("first", file), other) == "");
    CHECK(verdict_on(ssh_options("second", file), mine) == "");
}

TEST_CASE("host key: one that cannot be remembered is a warning") {
    Captured said;
    support::TempDir dir;
    auto o = ssh_options("server", (dir / "no/such/dir/known_hosts").string());
    o.accept_new = true;
    CHECK(verdict_on(o, PublicKey("ed25519")) == "");
    CHECK_NAMES(said.text(), "could not be added");
}

TEST_CASE("small files: read whole, and not beyond the limit") {
    support::TempDir dir;
    auto file = (dir / "file").string();
    support::write_file(file, std::string(100, 'x'));
    CHECK(read_small_file(file, 100) == std::string(100, 'x'));
    CHECK_THROWS_AS(read_small_file(file, 99), Error);
    CHECK_THROWS_AS(read_small_file((dir / "missing").string(), 99), Error);
    CHECK_THROWS_AS(read_small_file(dir.path(), 99), Error);
    support::write_file(file, "");
    CHECK(read_small_file(file, 0).empty());
}

// ---- a directory as a store -------------------------------------------------------------------

TEST_CASE("local store: objects are created once and read back in parts") {
    support::TempDir dir;
    auto root = (dir / "new/repo").string();
    LocalStore store(root);
    CHECK_THROWS_AS((void)store.list_all({}), NotThere);
    store.make_directory({});
    store.make_directory(Name::packs);
    CHECK_NOTHROW(store.make_directory(Name::packs));
    CHECK(store.list(Name::packs).empty());
    const Sealed one = some_object(100'000), other = some_object(10);
    const Bytes data(one.bytes().begin(), one.bytes().end());
    auto read = [&](uint64_t offset, size_t length) {
        return inside(store.read(one.name(), offset, length));
    };
    store.create(one);
    CHECK(read(0, data.size()) == data);
    CHECK(read(99'999, 1) == Bytes{data[99'999]});
    CHECK(read(500, 1000) == Bytes(data.begin() + 500, data.begin() + 1500));
    CHECK(read(0, 0).empty());

    CHECK_THROWS_AS(store.create(one), Error); // EXCL
    CHECK(read(0, data.size()) == data);
    struct stat st;
    REQUIRE(stat((root + "/" + one.name().path()).c_str(), &st) == 0);
    CHECK((st.st_mode & 07777) == 0400);

    store.create(other);
    support::write_file(root + "/packs/none of ours", "x");
    auto listed = store.list(Name::packs);
    REQUIRE(listed.size() == 2);
    auto& first = listed[listed[0].name == one.name() ? 0 : 1];
    CHECK(first.name == one.name());
    CHECK(first.size == data.size());
    CHECK(first.mtime == st.st_mtime);
    CHECK(store.list_all(Name::packs).size() == 3);
    CHECK(store.list_all({}).size() == 1);
    store.remove(one.name());
    REQUIRE(store.list(Name::packs).size() == 1);
    CHECK(store.list(Name::packs)[0].name == other.name());
}

TEST_CASE("local store: what is not there, and what is shorter than it was") {
    support::TempDir dir;
    LocalStore store(dir.path());
    store.make_directory(Name::packs);
    const Sealed one = some_object(100);
    const Name name = one.name(), none{Name::packs, hash_of(1)}, nowhere{Name::index, hash_of(1), 3};
    const size_t size = one.bytes().size();
    store.create(one);
    CHECK_THROWS_AS((void)store.read(name, 0, size + 1), Corrupt);
    CHECK_THROWS_AS((void)store.read(name, size, 1), Corrupt);
    CHECK_THROWS_AS((void)store.read(name, uint64_t(1) << 40, 1), Corrupt);
    CHECK_THROWS_AS((void)store.read(none, 0, 1), NotThere);
    CHECK_THROWS_AS((void)store.read(nowhere, 0, 1), NotThere);
    CHECK_THROWS_AS((void)store.list(Name::index), NotThere);
    CHECK_THROWS_AS(store.remove(none), NotThere);
    support::fs::create_directory(dir / none.path());
    CHECK_THROWS_AS((void)store.read(none, 0, 1), Error);
    support::fs::remove_all(dir / "packs");
    CHECK_THROWS_AS(store.create(one), Error);
    support::write_file(dir / "packs", "");
    CHECK_THROWS_AS((void)store.list(Name::packs), NotThere);
    CHECK_THROWS_AS((void)store.read(name, 0, 1), NotThere);
}

TEST_CASE("local store: a link is not written through") {
    support::TempDir dir;
    LocalStore store(dir / "repo");
    store.make_directory(Name::packs);
    const Sealed one = some_object(1);
    support::fs::create_symlink(dir / "elsewhere", dir / "repo" / one.name().path());
    CHECK_THROWS_AS(store.create(one), Error);
    CHECK_FALSE(support::fs::exists(dir / "elsewhere"));
}

TEST_CASE("local store: nothing is left of an object that could not be written whole") {
    support::TempDir dir;
    LocalStore store(dir.path());
    store.make_directory(Name::packs);
    const Sealed one = some_object(100'000);
    // A limit on the size of files stands in for a full disk.
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 10'000;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    auto why = complaint([&] { store.create(one); });
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    CHECK_NAMES(why, "File too large");
    CHECK(store.list(Name::packs).empty());
    CHECK_NOTHROW(store.create(one));
}
