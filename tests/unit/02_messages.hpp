// Section 2: errors and messages.

TEST_CASE("messages: printable text is shown as it is") {
    for (std::string_view s :
         {"", "plain", "with space", "\xc3\xa9t\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8d\x8e", "\xc2\xa0",
          "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf", "back\\slash"}) {
        INFO(std::string(s));
        CHECK(show(s) == s);
    }
}

TEST_CASE("messages: control bytes never reach a terminal") {
    CHECK(show("a\x1b[31mred") == "a\\x1b[31mred");
    CHECK(show("line\nbreak\ttab\rreturn") == "line\\x0abreak\\x09tab\\x0dreturn");
    CHECK(show(std::string_view("nul\0", 4)) == "nul\\x00");
    CHECK(show("\x7f") == "\\x7f");
    // C1: U+009B is CSI to some terminals.
    CHECK(show("\xc2\x9b"
               "31m") == "\\xc2\\x9b31m");
    CHECK(show("\xc2\x80\xc2\x9f\xc2\xa0") == "\\xc2\\x80\\xc2\\x9f\xc2\xa0");
}

TEST_CASE("messages: bytes that are no UTF-8 are escaped one by one") {
    CHECK(show("\xff") == "\\xff");
    CHECK(show("\x80 alone") == "\\x80 alone");
    CHECK(show("\xe2\x82") == "\\xe2\\x82"); // cut short
    CHECK(show("\xe2\x82x") == "\\xe2\\x82x");
    CHECK(show("\xc0\xaf") == "\\xc0\\xaf"); // overlong '/'
    CHECK(show("\xc1\xbf") == "\\xc1\\xbf");
    CHECK(show("\xe0\x80\xaf") == "\\xe0\\x80\\xaf");
    CHECK(show("\xe0\x9f\xbf") == "\\xe0\\x9f\\xbf");
    CHECK(show("\xf0\x80\x80\xaf") == "\\xf0\\x80\\x80\\xaf");
    CHECK(show("\xf0\x8f\xbf\xbf") == "\\xf0\\x8f\\xbf\\xbf");
    CHECK(show("\xed\xa0\x80") == "\\xed\\xa0\\x80");          // a surrogate
    CHECK(show("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80"); // beyond U+10FFFF
    CHECK(show("\xf5\x80\x80\x80") == "\\xf5\\x80\\x80\\x80");
}

TEST_CASE("messages: what show() wrote, unshow() reads") {
    SUBCASE("every string of two bytes") {
        int wrong = 0;
        for (int a = 0; a < 256; ++a)
            for (int b = 0; b < 256; ++b) {
                std::string s{char(a), char(b)};
                std::string shown = show(s);
                bool clean =
                    std::ranges::none_of(shown, [](char c) { return uint8_t(c) < 0x20 || c == 0x7f; });
                if (!clean || unshow(shown) != s) ++wrong;
            }
        CHECK(wrong == 0);
    }
    SUBCASE("random strings") {
        support::Random random(2);
        for (int i = 0; i < 2000; ++i) {
            std::string s = support::random_bytes(random.below(40), random.next());
            INFO(show(s));
            CHECK(unshow(show(s)) == s);
        }
    }
    SUBCASE("names that look like what show() writes") {
        for (std::string s :
             {"\\x41", "\\\\x41", "\\x5cx41", "a\\x0a\n", "\\x", "\\x4", "\\xzz", "\\x5c", "end\\", "\\\\"}) {
            INFO("the name ", s, " is shown as ", show(s));
            CHECK(unshow(show(s)) == s);
        }
    }
}

TEST_CASE("messages: what is typed without escapes means itself") {
    for (std::string s : {"", "plain", "\\", "\\x", "\\xg0", "\\x4", "\\n", "x41", "\\x 1"}) {
        INFO(s);
        CHECK(unshow(s) == s);
    }
    CHECK(unshow("\\x41\\x0a") == "A\n");
    CHECK(unshow("\\xAb") == "\xab");
}

TEST_CASE("messages: a name in an error is quoted and escaped") {
    auto e = system_error("open", "a\nb", ENOENT);
    CHECK(std::string(e.what()) == "cannot open 'a\\x0ab': No such file or directory");
    CHECK(e.exit == Exit::failed);
}

TEST_CASE("messages: each kind of error has its exit code") {
    CHECK(int(Error("x").exit) == 1);
    CHECK(int(Usage("x").exit) == 2);
    CHECK(int(Corrupt("x").exit) == 5);
    CHECK(int(ConnectionLost("x").exit) == 6);
    CHECK(int(Uncertain("x").exit) == 6);
    CHECK(int(NotThere("x").exit) == 1);
    CHECK(int(Interrupted().exit) == 130);
}

TEST_CASE("messages: lines of several threads stay whole") {
    Captured said;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([t] {
            for (int i = 0; i < 100; ++i) say(std::string(50, char('a' + t)));
        });
    for (auto& t : threads) t.join();
    std::istringstream lines(said.text());
    int count = 0;
    for (std::string line; std::getline(lines, line); ++count) {
        bool whole = line.size() == 59 && line.starts_with("nfreeze: ") &&
                     line.find_first_not_of(line[9], 9) == line.npos;
        CHECK_MESSAGE(whole, line);
    }
    CHECK(count == 400);
}
