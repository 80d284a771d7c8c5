// Section 12 and 13: tables, lists, and what is typed.

TEST_CASE("looking: sizes for people") {
    CHECK(human_size(0) == "0 B");
    CHECK(human_size(1) == "1 B");
    CHECK(human_size(1023) == "1023 B");
    CHECK(human_size(1024) == "1.0 KiB");
    CHECK(human_size(1536) == "1.5 KiB");
    CHECK(human_size(10 * 1024) == "10 KiB");
    CHECK(human_size(100 * 1024) == "100 KiB");
    CHECK(human_size(MiB) == "1.0 MiB");
    CHECK(human_size(uint64_t(5) << 30) == "5.0 GiB");
    CHECK(human_size(uint64_t(3) << 40) == "3.0 TiB");
    CHECK(human_size(uint64_t(3) << 50) == "3.0 PiB");
    CHECK(human_size(UINT64_MAX) == "16 EiB");
}

TEST_CASE("looking: modes as ls prints them") {
    auto mode = [](Type type, uint32_t bits) {
        Entry e;
        e.type = type;
        e.mode = bits;
        return mode_string(e);
    };
    CHECK(mode(Type::file, 0644) == "-rw-r--r--");
    CHECK(mode(Type::file, 0) == "----------");
    CHECK(mode(Type::file, 0777) == "-rwxrwxrwx");
    CHECK(mode(Type::file, 0421) == "-r---w---x");
    CHECK(mode(Type::directory, 0755) == "drwxr-xr-x");
    CHECK(mode(Type::symlink, 0777) == "lrwxrwxrwx");
    CHECK(mode(Type::fifo, 0600) == "prw-------");
    CHECK(mode(Type::character, 0666) == "crw-rw-rw-");
    CHECK(mode(Type::block, 0660) == "brw-rw----");
    CHECK(mode(Type::file, 04755) == "-rwsr-xr-x");
    CHECK(mode(Type::file, 04644) == "-rwSr--r--");
    CHECK(mode(Type::file, 02755) == "-rwxr-sr-x");
    CHECK(mode(Type::file, 02644) == "-rw-r-Sr--");
    CHECK(mode(Type::directory, 01777) == "drwxrwxrwt");
    CHECK(mode(Type::directory, 01770) == "drwxrwx--T");
    CHECK(mode(Type::file, 07777) == "-rwsrwsrwt");
    CHECK(mode(Type::file, 07000) == "---S--S--T");
    Entry with_acl;
    with_acl.mode = 0600;
    with_acl.xattrs = {{"system.posix_acl_access", "x"}};
    CHECK(mode_string(with_acl) == "-rw-------+");
}

TEST_CASE("looking: times far away do not confuse") {
    CHECK(local_time(0, "%Y-%m-%d %H:%M:%S").size() == 19);
    // The tests run in UTC (see main.cpp).
    CHECK(local_time(0, "%Y-%m-%d %H:%M:%S") == "1970-01-01 00:00:00");
    CHECK(local_time(-1, "%Y-%m-%d %H:%M:%S") == "1969-12-31 23:59:59");
    CHECK(local_time(13'569'465'600, "%Y-%m-%d") == "2400-01-01");
    CHECK_NOTHROW(local_time(INT64_MAX, "%Y-%m-%d %H:%M:%S"));
    CHECK_NOTHROW(local_time(INT64_MIN, "%Y-%m-%d %H:%M:%S"));
}

TEST_CASE("looking: columns line up, also where letters have several bytes") {
    Captured out(std::cout);
    print_table({{"A", "SIZE", "NAME"}, {"\xc3\xa9\xc3\xa9\xc3\xa9", "1", "x"}, {"b", "12345", "long name"}},
                {1});
    CHECK(out.text() == "A     SIZE  NAME\n\xc3\xa9\xc3\xa9\xc3\xa9      1  x\nb    12345  long name\n");
    print_table({}, {});
}

TEST_CASE("looking: a long list comes in blocks, all of it and in order") {
    auto& t = large_tree();
    ListOptions o;
    o.details = o.recursive = true;
    bool damaged = false;
    Captured out(std::cout);
    Lister(*t.repo, t.snapshot, o).run(damaged);
    CHECK_FALSE(damaged);
    std::istringstream lines(out.text());
    size_t number = 1; // but for the directory itself
    for (std::string line; std::getline(lines, line); ++number)
        if (number >= t.entries.size() || !line.ends_with(" " + show(t.entries[number].path))) break;
    CHECK(number == t.entries.size());
}

TEST_CASE("looking: which snapshot is meant") {
    TestStore store = new_repository();
    {
        auto repo = open_repository(store);
        CHECK_NAMES(complaint([&] { (void)choose_snapshot(*repo, {}); }), "no snapshot yet");
        Writer w;
        for (uint64_t i = 1; i <= 3; ++i) {
            auto s = sample_snapshot(i);
            s.id = SnapshotId{0xab, uint8_t(i)};
            if (i == 3) s.source = "/other";
            put_record(w, Record::snapshot_added, encode_snapshot(s));
        }
        write_segment(*repo, w.view());
    }
    auto repo = open_repository(store);
    auto chosen = [&](const std::string& id, const std::string& source) {
        try {
            return text(int(choose_snapshot(*repo, {id, source, "", "", INT64_MAX}).id[1]));
        } catch (const Error& e) {
            return text("exit ", int(e.exit));
        }
    };
    CHECK(chosen("", "") == "exit 2"); // two sources
    CHECK_NAMES(complaint([&] { (void)choose_snapshot(*repo, {}); }), "--source 'host:/other'");
    CHECK(chosen("", "/source") == "2"); // the newest
    CHECK(chosen("", "host:/source") == "2");
    CHECK(chosen("", "/other") == "3");
    CHECK(chosen("latest", "/source") == "2");
    CHECK(chosen("ab01", "") == "1");
    CHECK(chosen("ab0100000000000000000000000000", "") == "1");
    CHECK(chosen("ab", "") == "exit 2"); // several
    CHECK(chosen("ab", "/other") == "3");
    CHECK(chosen("ff", "") == "exit 1");
    CHECK(chosen("ab01", "/other") == "exit 1");
    CHECK(chosen("", "/elsewhere") == "exit 1");
    repo->damage.insert("something is lost");
    CHECK(chosen("ff", "") == "exit 5"); // it may have been in what is lost
}

TEST_CASE("command line: paths as they are typed") {
    CHECK(clean_path("") == "");
    CHECK(clean_path(".") == "");
    CHECK(clean_path("/") == "");
    CHECK(clean_path("a") == "a");
    CHECK(clean_path("./a//b/") == "a/b");
    CHECK(clean_path("/a/./b") == "a/b");
    CHECK(clean_path("caf\\xe9") == "caf\xe9");
    CHECK(clean_path("..") == ".."); // which no tree holds
    CHECK(clean_path(show("a\\x41/b\n")) == "a\\x41/b\n");
}

TEST_CASE("command line: the first line is the passphrase") {
    CHECK(first_line("words\n") == "words");
    CHECK(first_line("words\r\nmore\n") == "words");
    CHECK(first_line("words") == "words");
    CHECK(first_line(" words \n") == " words ");
    CHECK(first_line("\nwords") == "");
    CHECK(first_line("") == "");
    auto output = [](const char* line) { return Command({"/bin/sh", "-c", line}, "it").all_output(100); };
    CHECK(output("printf 'a\\nb'") == "a\nb");
    CHECK(complaint([&] { output("exit 3"); }).find("status 3") != std::string::npos);
    CHECK(has_word("restore ls", "ls"));
    CHECK_FALSE(has_word("restore ls", "l"));
    CHECK_FALSE(has_word("restore ls", "store"));
}

TEST_CASE("command line: options and operands") {
    auto parse = [](std::vector<std::string> words) {
        std::vector<char*> argv;
        for (auto& w : words) argv.push_back(w.data());
        argv.push_back(nullptr);
        return Arguments(words[0], int(words.size()), argv.data());
    };
    auto a = parse({"restore", "--snapshot", "ab", "repo", "-n", "dest", "a,b", "--overwrite", "-p", "22"});
    CHECK(a.operands() == std::vector<std::string>{"repo", "dest", "a,b"});
    CHECK(a.value("snapshot") == "ab");
    CHECK(a.value("source", "none") == "none");
    CHECK(a.flag("dry-run"));
    CHECK(a.flag("overwrite"));
    CHECK_FALSE(a.flag("delete"));
    CHECK(a.number("port", 1, 1, 65535) == 22);
    CHECK(a.number("connections", 4, 1, 16) == 4);
    for (std::string bad : {"0", "65536", "x", "", "2 2", "22x", "-1", "99999999999"})
        CHECK_THROWS_AS(parse({"ls", "--port=" + bad, "repo"}).number("port", 22, 1, 65535), Usage);
    CHECK_THROWS_AS(parse({"ls", "--no-such-option", "repo"}), Usage);
    CHECK_THROWS_AS(parse({"ls", "-Z", "repo"}), Usage);
    CHECK_THROWS_AS(parse({"ls", "--overwrite", "repo"}), Usage); // another verb's
    CHECK_THROWS_AS(parse({"ls", "repo", "--snapshot"}), Usage);
    CHECK(parse({"ls", "repo", "-"}).operands() == std::vector<std::string>{"repo", "-"});
    CHECK(parse({"restore", "repo", "dest", "--", "-x", "--overwrite"}).operands() ==
          std::vector<std::string>{"repo", "dest", "-x", "--overwrite"});
}
