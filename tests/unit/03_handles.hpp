// Section 3: OS handles.

TEST_CASE("handles: a descriptor is closed once, by whoever owns it last") {
    auto is_open = [](int fd) { return fcntl(fd, F_GETFD) >= 0; };
    int number = -1;
    {
        Fd a(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        REQUIRE(a);
        number = a.get();
        Fd b(std::move(a));
        CHECK(b.get() == number);
        Fd c;
        CHECK_FALSE(c);
        c = std::move(b);
        CHECK(c.get() == number);
        CHECK(is_open(number));
    }
    CHECK_FALSE(is_open(number));
    Fd d(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    number = d.get();
    CHECK(d.close());
    CHECK_FALSE(d);
    CHECK_FALSE(is_open(number));
}

TEST_CASE("handles: a directory is listed in byte order without its dots, and not through a link") {
    support::TempDir dir;
    for (const char* name : {"b", "a", "B", "\xff", ".hidden", "a.b"}) support::write_file(dir / name, "x");
    support::fs::create_directory(dir / "sub");
    support::fs::create_directory_symlink("sub", dir / "link");
    Fd fd = open_directory(AT_FDCWD, dir.path(), "dir");
    std::vector<std::string> names;
    for (auto& [name, type] : read_directory(fd.get(), "dir")) {
        names.push_back(name);
        if (type != DT_UNKNOWN) CHECK(type == (name == "link" ? DT_LNK : name == "sub" ? DT_DIR : DT_REG));
    }
    CHECK(names == std::vector<std::string>{".hidden", "B", "a", "a.b", "b", "link", "sub", "\xff"});
    CHECK(read_directory(fd.get(), "dir").size() == 8); // a second time from the start
    CHECK_NOTHROW(open_directory(fd.get(), "sub", "sub"));
    CHECK_THROWS_AS(open_directory(fd.get(), "link", "link"), Error);
    CHECK_THROWS_AS(open_directory(fd.get(), "missing", "missing"), Error);
    CHECK(read_link(fd.get(), "link", "link") == "sub");
    CHECK_THROWS_AS(read_link(fd.get(), "sub", "sub"), Error);
}

TEST_CASE("handles: random bytes are not the same twice") {
    Salt a{}, b{};
    fill_random(a);
    fill_random(b);
    CHECK(a != b);
    CHECK(a != Salt{});
    Bytes large(MiB); // getrandom gives at most 32 MiB at once and may give less
    fill_random(large);
    CHECK(std::ranges::count(large, 0) < 6000);
    CHECK(std::ranges::count(large, 0) > 2500);
}

TEST_CASE("handles: one thread runs tasks in the order they came") {
    std::vector<int> order;
    TaskPool pool(1, 3);
    for (int i = 0; i < 100; ++i) pool.push([&order, i] { order.push_back(i); });
    pool.drain();
    REQUIRE(order.size() == 100);
    CHECK(std::ranges::is_sorted(order));
}

TEST_CASE("handles: a pool runs every task, on as many threads as it was told") {
    std::atomic<int> ran{0}, running{0}, most{0};
    TaskPool pool(3, 2);
    for (int i = 0; i < 60; ++i)
        pool.push([&] {
            int now = ++running;
            for (int m = most; now > m && !most.compare_exchange_weak(m, now);) {
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            --running;
            ++ran;
        });
    pool.drain();
    CHECK(ran.load() == 60);
    CHECK(most.load() <= 3);
    CHECK(most.load() > 1);
    CHECK_FALSE(pool.full());
}

TEST_CASE("handles: who pushes more than may wait is made to wait") {
    std::promise<void> go, began;
    auto gate = go.get_future().share();
    TaskPool pool(1, 2);
    pool.push([&] {
        began.set_value();
        gate.wait();
    });
    began.get_future().wait();
    pool.push([] {});
    CHECK_FALSE(pool.full());
    pool.push([] {});
    CHECK(pool.full());
    auto one_more = std::async(std::launch::async, [&] { pool.push([] {}); });
    CHECK(one_more.wait_for(std::chrono::milliseconds(30)) == std::future_status::timeout);
    go.set_value();
    one_more.get();
    pool.drain();
    CHECK_FALSE(pool.full());
}

TEST_CASE("handles: the first exception of a task comes out, the tasks behind it are dropped") {
    std::atomic<int> ran{0};
    TaskPool pool(1, 100);
    std::promise<void> go;
    pool.push([f = go.get_future().share()] { f.wait(); });
    pool.push([] { throw Corrupt("first"); });
    for (int i = 0; i < 5; ++i) pool.push([&] { ++ran; });
    go.set_value();
    CHECK(complaint([&] { pool.drain(); }) == "first");
    CHECK(complaint([&] { pool.push([] {}); }) == "first");
    CHECK(complaint([&] { pool.check(); }) == "first");
    CHECK(ran.load() == 0);
}

TEST_CASE("handles: what was given up does not run, what had begun is waited for") {
    std::atomic<int> ran{0};
    std::promise<void> began;
    {
        TaskPool pool(1, 100);
        pool.push([&] {
            began.set_value();
            std::this_thread::sleep_for(std::chrono::milliseconds(30));
            ++ran;
        });
        began.get_future().wait();
        for (int i = 0; i < 5; ++i) pool.push([&] { ran += 100; });
        pool.abandon();
        CHECK(ran.load() == 1);
        pool.push([&] { ++ran; });
        pool.drain();
        CHECK(ran.load() == 2);
    }
    CHECK(ran.load() == 2);
}
