// Section 9: trees.

namespace {

std::string shown(const Entry& e) {
    std::string s = text(show(e.path), " ", int(e.type), " ", e.racy, e.mount_point, " ", std::oct, e.mode,
                         std::dec, " ", e.uid, ":", e.gid, " ", e.mtime.seconds, ".", e.mtime.ns, " ",
                         e.ctime.seconds, ".", e.ctime.ns, " i", e.inode, " l", e.link_group, " s", e.size,
                         " d", e.device, " c", e.checksum, " ->", show(e.target), " x");
    for (auto& [name, value] : e.xattrs) s += show(name) + "=" + hex(as_bytes(value)) + ",";
    s += " h";
    for (auto& h : e.holes) s += text(h.offset, "+", h.length, ",");
    s += " #";
    for (auto& id : e.chunks) s += hex(id);
    return s;
}

Entry file(const std::string& path, size_t chunks = 1) {
    Entry e;
    e.path = path;
    e.mode = 0644;
    e.size = chunks * 1000;
    e.inode = 1000 + path.size();
    e.mtime = {1'700'000'000, 5};
    e.ctime = {1'700'000'001, 999'999'999};
    uint64_t seed = 0;
    for (char c : path) seed = seed * 31 + uint8_t(c);
    for (size_t i = 0; i < chunks; ++i) e.chunks.push_back(chunk_id(seed * 100'000 + i));
    if (chunks > 1) e.checksum = 42;
    return e;
}

/// One entry of every type, and of every oddity.
std::vector<Entry> all_sorts() {
    std::vector<Entry> all;
    Entry root;
    root.type = Type::directory;
    root.mode = 0755;
    root.mount_point = true;
    all.push_back(root);
    auto e = file("a");
    e.racy = true;
    all.push_back(e);
    e = file("a below a file's name", 2); // no tree of a disk has this, but the codec does not care
    e.mode = 07777;
    e.uid = e.gid = UINT32_MAX;
    e.inode = UINT64_MAX;
    e.size = INT64_MAX;
    e.checksum = UINT64_MAX;
    e.link_group = UINT64_MAX;
    e.mtime = {INT64_MIN, 0};
    e.ctime = {INT64_MAX, 999'999'999};
    all.push_back(e);
    e = file("b", 0); // empty: no chunks, no checksum
    e.mtime = {INT64_MAX, 999'999'999};
    e.ctime = {INT64_MIN, 0};
    all.push_back(e);
    e = file("c", 3);
    e.mtime = {-1, 999'999'999};   // just before 1970
    e.ctime = {13'569'465'600, 1}; // the year 2400
    e.holes = {{0, 4096}, {8192, 1}, {INT64_MAX - 5, 5}};
    e.size = INT64_MAX;
    e.xattrs = {{"security.selinux", std::string("label\0", 6)},
                {"user.empty", ""},
                {"user.large", std::string(70'000, '\xff')}};
    all.push_back(e);
    e = file("d", kIdsPerRecord); // just one record
    all.push_back(e);
    e = file("e", kIdsPerRecord + 1);
    e.holes = {{5, 5}};
    all.push_back(e);
    e = file("f", 2 * kIdsPerRecord + 7);
    all.push_back(e);
    Entry link;
    link.path = "link";
    link.type = Type::symlink;
    link.mode = 0777;
    link.target = std::string("../\xff\n anywhere/") + std::string(5000, 't');
    link.xattrs = {{"user.x", "y"}};
    all.push_back(link);
    Entry pipe;
    pipe.path = "pipe";
    pipe.type = Type::fifo;
    all.push_back(pipe);
    Entry node;
    node.path = "q\x01\xff weird \\x41";
    node.type = Type::character;
    node.device = makedev(1, 3);
    all.push_back(node);
    node.path = "r";
    node.type = Type::block;
    node.device = UINT64_MAX;
    all.push_back(node);
    e = file(std::string(kPathMax, 'z'));
    all.push_back(e);
    return all;
}

/// A chunk's worth of records as TreeWriter writes them; `first` is its path in the list.
Bytes encode_entries(const std::vector<Entry>& entries, const std::string& first = "") {
    TreeCodec codec;
    codec.reset(first);
    Writer out;
    for (auto& e : entries) {
        codec.encode(out, e);
        size_t done = std::min(e.chunks.size(), kIdsPerRecord);
        while (codec.encode_more(out, e, done)) {
        }
    }
    return out.take();
}
std::vector<Entry> decode_entries(View bytes) {
    TreeCodec codec;
    std::vector<Entry> all;
    Entry e;
    for (Reader in(bytes, "a tree"); !in.empty();)
        if (codec.decode(in, e)) all.push_back(e);
    return all;
}

/// Entries of a large tree, in walk order: directories up to four deep, names that sort oddly.
std::vector<Entry> synthetic_entries(size_t number) {
    support::Random random(9);
    std::vector<std::string> directories{""};
    std::set<std::string> paths;
    auto below = [](const std::string& dir, const std::string& name) {
        return dir.empty() ? name : dir + "/" + name;
    };
    static constexpr const char* odd[] = {"a", "a-b", "a b", "a\x01", "a.b",     "\xff\xfe",
                                          "A", "~",   "a\n", " ",     "\xc3\xa9"};
    std::set<std::string> is_directory{""};
    while (paths.size() < number) {
        auto& dir = directories[random.below(directories.size())];
        std::string name =
            random.below(10) == 0 ? odd[random.below(std::size(odd))] : text("name-", random.below(100'000));
        auto path = below(dir, name);
        if (!paths.insert(path).second) continue;
        if (random.below(20) == 0 && std::ranges::count(path, '/') < 4) {
            is_directory.insert(path);
            directories.push_back(path);
        }
    }
    paths.insert("");
    std::vector<Entry> all;
    for (auto& path : paths) {
        Entry e = file(path, 0);
        e.inode = random.below(1'000'000);
        e.mtime.seconds += int64_t(random.below(100'000'000));
        e.mtime.ns = uint32_t(random.below(1'000'000'000));
        if (is_directory.contains(path)) {
            e.type = Type::directory;
            e.size = 0;
        } else {
            for (auto n = random.below(3); n > 0; --n) e.chunks.push_back(chunk_id(random.next()));
            if (e.chunks.size() > 1) e.checksum = random.next();
            e.size = random.below(100'000);
        }
        all.push_back(std::move(e));
    }
    std::ranges::sort(all, path_before, &Entry::path);
    return all;
}

/// Stores a tree in a run of its own. `scattered`: other chunks lie between its chunks, so that
/// each of them has a frame to itself.
Snapshot store_tree(Repository& repo, const std::vector<Entry>& entries, bool scattered = false,
                    bool anew = false) {
    Packer packer(repo, 2, kCheckpoint);
    Chunker chunker(repo.keys.gear());
    TreeWriter tree(packer, chunker, anew);
    uint64_t written = 0, filler = 0;
    auto s = sample_snapshot(1);
    for (auto& e : entries) {
        tree.add(e);
        if (!scattered || packer.new_bytes == written) continue;
        packer.put(Kind::tree, noise(kTreeFrame - 16 * KiB, 7'000'000 + ++filler));
        written = packer.new_bytes;
    }
    s.tree = tree.finish();
    packer.flush(&s);
    packer.checkpoint(snapshot_added(s));
    return s;
}

struct ListedChunk {
    ChunkId id;
    std::string first;
};
std::vector<ListedChunk> list_of(Repository& repo, const Snapshot& s) {
    std::vector<ListedChunk> list;
    for (auto& id : s.tree) {
        auto bytes = read_chunk(repo, id);
        for (Reader in(bytes, "a list"); !in.empty();) {
            auto chunk = in.array<16>();
            list.push_back({chunk, in.string(kPathMax)});
        }
    }
    return list;
}

/// Stores a tree whose chunks hold just these bytes.
Snapshot store_raw_tree(Repository& repo, const std::vector<std::pair<std::string, Bytes>>& chunks) {
    Packer packer(repo, 1, kCheckpoint);
    Writer list;
    for (auto& [first, bytes] : chunks) {
        list.raw(packer.put(Kind::tree, bytes));
        list.string(first);
    }
    auto s = sample_snapshot(1);
    s.tree = {packer.put(Kind::tree, list.view())};
    packer.flush(&s);
    packer.checkpoint(snapshot_added(s));
    return s;
}

struct ReadTree {
    std::vector<std::string> paths, entries;
    std::vector<std::string> damage;
};
ReadTree read_tree(Repository& repo, const Snapshot& s) {
    TaskPool wire(2, 4);
    TreeReader tree(repo, wire, s);
    ReadTree r;
    tree.on_damage = [&](const std::string& what) { r.damage.push_back(what); };
    while (auto* e = tree.next()) {
        r.paths.push_back(e->path);
        r.entries.push_back(shown(*e));
    }
    return r;
}
std::vector<std::string> shown_all(const std::vector<Entry>& entries) {
    std::vector<std::string> all;
    for (auto& e : entries) all.push_back(shown(e));
    return all;
}
/// Compares without printing two lists of 20,000 lines.
void check_same(const std::vector<std::string>& got, const std::vector<std::string>& wanted) {
    CHECK(got.size() == wanted.size());
    for (size_t i = 0; i < std::min(got.size(), wanted.size()); ++i)
        if (got[i] != wanted[i]) {
            INFO("entry ", i);
            CHECK(got[i] == wanted[i]);
            return;
        }
}

/// One large tree for the tests that only read it.
struct LargeTree {
    LargeTree() : entries(synthetic_entries(20'000)), store(new_repository()), repo(open_repository(store)) {
        snapshot = store_tree(*repo, entries);
    }
    std::vector<Entry> entries;
    TestStore store;
    OpenRepository repo;
    Snapshot snapshot;
};
LargeTree& large_tree() {
    static LargeTree tree;
    return tree;
}

} // namespace

TEST_CASE("paths: walk order puts a directory's content right behind it") {
    const std::vector<std::string> in_order{"",      "A",       "a",   "a/",    "a/\x01",   "a/b",
                                            "a/b/c", "a/b\x01", "a/c", "a\x01", "a b",      "a-b",
                                            "a.b",   "a0",      "ab",  "b",     "\xc3\xa9", "\xff"};
    for (size_t i = 0; i < in_order.size(); ++i)
        for (size_t j = 0; j < in_order.size(); ++j) {
            INFO("'", show(in_order[i]), "' and '", show(in_order[j]), "'");
            CHECK((compare_paths(in_order[i], in_order[j]) == (i <=> j)));
            CHECK(path_before(in_order[i], in_order[j]) == (i < j));
        }
}

TEST_CASE("paths: walk order is a total order that a walk through sorted directories makes") {
    support::Random random(3);
    std::vector<std::string> paths;
    for (int i = 0; i < 60; ++i) {
        std::string p;
        for (auto parts = 1 + random.below(3); parts > 0; --parts) {
            if (!p.empty()) p += '/';
            for (auto n = 1 + random.below(2); n > 0; --n)
                p += "\x01 -/.0a\xff"[random.below(8)] == '/' ? 'b' : "\x01 -/.0a\xff"[random.below(8)];
        }
        paths.push_back(p);
    }
    // By comparing part by part as bytes, which is what a walk does.
    auto parts = [](const std::string& p) {
        std::vector<std::vector<uint8_t>> all(1);
        for (char c : p) {
            if (c == '/')
                all.emplace_back();
            else
                all.back().push_back(uint8_t(c));
        }
        return all;
    };
    for (auto& a : paths)
        for (auto& b : paths) {
            INFO("'", show(a), "' and '", show(b), "'");
            CHECK(path_before(a, b) == (parts(a) < parts(b)));
            CHECK((compare_paths(a, b) == 0) == (a == b));
        }
}

TEST_CASE("paths: what lies within what") {
    CHECK(is_within("a/b", "a"));
    CHECK(is_within("a", "a"));
    CHECK(is_within("a/b/c", "a/b"));
    CHECK(is_within("", ""));
    CHECK(is_within("anything", ""));
    CHECK_FALSE(is_within("ab", "a"));
    CHECK_FALSE(is_within("a-b", "a"));
    CHECK_FALSE(is_within("a", "a/b"));
    CHECK_FALSE(is_within("", "a"));
    CHECK_FALSE(is_within("b/a", "a"));
}

TEST_CASE("paths: what no backup can hold") {
    for (std::string_view good :
         {"", "a", "a/b", "...", "a..", "..a", "a/.b", ".a", "~", "-rf", "\xff", "a\nb", "\\", " "}) {
        INFO(show(good));
        CHECK(is_safe_path(good));
    }
    CHECK(is_safe_path(std::string(255, 'n') + "/" + std::string(255, 'n')));
    for (std::string_view bad : {"/", "/a", "//", "a/", "a//b", ".", "..", "./a", "../a", "a/.", "a/..",
                                 "a/../b", "a/./b", "../../etc/passwd"}) {
        INFO(show(bad));
        CHECK_FALSE(is_safe_path(bad));
    }
    CHECK_FALSE(is_safe_path(std::string_view("\0", 1)));
    CHECK_FALSE(is_safe_path(std::string_view("a\0b", 3)));
    CHECK_FALSE(is_safe_path(std::string_view("a/b\0", 4)));
}

TEST_CASE("tree codec: entries of every type and oddity come back") {
    auto entries = all_sorts();
    check_same(shown_all(decode_entries(encode_entries(entries))), shown_all(entries));
}

TEST_CASE("tree codec: records after reset() need nothing before them") {
    auto entries = all_sorts();
    for (auto& e : entries) {
        TreeCodec writer, reader;
        Writer out;
        writer.encode(out, entries[1]);
        size_t first = out.size();
        writer.reset("");
        writer.encode(out, e);
        size_t done = std::min(e.chunks.size(), kIdsPerRecord);
        while (writer.encode_more(out, e, done)) {
        }
        auto all = decode_entries(out.view().subspan(first));
        REQUIRE(all.size() == 1);
        CHECK(shown(all[0]) == shown(e));
    }
}

TEST_CASE("tree codec: a record takes about as many bytes as it must") {
    std::vector<Entry> entries;
    for (int i = 0; i < 1000; ++i) {
        entries.push_back(file(text("usr/share/doc/some-package/examples/file-", i)));
        entries.back().inode = uint64_t(1000 + i);
    }
    CHECK(encode_entries(entries).size() < 60 * entries.size());
}

TEST_CASE("tree codec: a list cut short anywhere gives an error or fewer entries, never others") {
    auto entries = all_sorts();
    entries.pop_back(); // its path alone has a million bytes
    for (auto& e : entries) {
        if (e.chunks.size() > 100) e.chunks.resize(3);
        for (auto& x : e.xattrs) x.second.resize(std::min<size_t>(x.second.size(), 10));
        e.target.resize(std::min<size_t>(e.target.size(), 10));
    }
    auto whole = encode_entries(entries);
    auto wanted = shown_all(entries);
    size_t ends = 0;
    for (size_t n = 0; n <= whole.size(); ++n) {
        Bytes cut(whole.begin(), whole.begin() + long(n));
        cut.shrink_to_fit();
        try {
            auto got = shown_all(decode_entries(cut));
            ++ends;
            bool beginning =
                got.size() <= wanted.size() && std::equal(got.begin(), got.end(), wanted.begin());
            CHECK_MESSAGE(beginning, "cut to ", n);
        } catch (const Corrupt&) {
        }
    }
    CHECK(ends == entries.size() + 1);
    check_mutilations(whole, 20'000, [](View v) { decode_entries(v); });
    auto long_one = encode_entries({file("long", kIdsPerRecord + 5)});
    for (size_t n = long_one.size() - 5 * sizeof(ChunkId); n < long_one.size(); ++n)
        CHECK_THROWS_AS(decode_entries(View(long_one).first(n)), Corrupt);
}

TEST_CASE("tree codec: a hostile record is refused") {
    struct Raw { // a record's fields, as a forger with the keys could write them
        uint64_t flags = 0, dropped = 0;
        std::string rest = "name";
        uint64_t mode = 0644, uid = 0, gid = 0;
        int64_t seconds = 0, ns = 0;
        uint64_t size = 10;
        std::vector<uint64_t> holes{};
        uint64_t hole_count = UINT64_MAX, ids = 0;
        Bytes bytes() const {
            Writer w;
            w.varint(flags);
            w.varint(dropped);
            w.string(rest);
            w.varint(mode);
            w.varint(uid);
            w.varint(gid);
            w.zigzag(seconds);
            w.zigzag(ns);
            w.zigzag(0);
            w.zigzag(0);
            w.zigzag(0);
            w.varint(size);
            if (flags & tree_flags::holes) {
                w.varint(hole_count == UINT64_MAX ? holes.size() / 2 : hole_count);
                for (auto h : holes) w.varint(h);
            }
            w.varint(ids);
            return w.take();
        }
    };
    CHECK(decode_entries(Raw{}.bytes()).size() == 1);
    auto refused = [](const Raw& r) {
        try {
            decode_entries(r.bytes());
            return false;
        } catch (const Corrupt&) {
            return true;
        }
    };
    for (std::string_view path :
         {"..", "../x", "/etc/passwd", "a/../../b", "a/", "a//b", ".", "./a", "nul\0"}) {
        Raw r;
        r.rest = path == "nul" ? std::string("nul\0", 4) : path;
        INFO(show(path));
        CHECK(refused(r));
    }
    auto with = [](auto change) {
        Raw r;
        change(r);
        return r;
    };
    CHECK(refused(with([](Raw& r) { r.dropped = 1; })));
    CHECK(refused(with([](Raw& r) { r.rest = std::string(kPathMax + 1, 'p'); })));
    CHECK(refused(with([](Raw& r) { r.flags = 6; })));
    CHECK(refused(with([](Raw& r) { r.flags = 7; })));
    CHECK(refused(with([](Raw& r) { r.flags = 1024; })));
    CHECK(refused(with([](Raw& r) { r.flags = UINT64_MAX; })));
    CHECK(refused(with([](Raw& r) { r.mode = 010000; })));
    CHECK(refused(with([](Raw& r) { r.uid = uint64_t(UINT32_MAX) + 1; })));
    CHECK(refused(with([](Raw& r) { r.gid = UINT64_MAX; })));
    CHECK(refused(with([](Raw& r) { r.ns = 1'000'000'000; })));
    CHECK(refused(with([](Raw& r) { r.ns = -1; })));
    CHECK(refused(with([](Raw& r) { r.ns = INT64_MIN; })));
    CHECK(refused(with([](Raw& r) { r.size = uint64_t(INT64_MAX) + 1; })));
    CHECK(refused(with([](Raw& r) { r.ids = 1; })));
    CHECK(refused(with([](Raw& r) { r.ids = UINT64_MAX; })));
    CHECK(refused(with([](Raw& r) { r.flags = tree_flags::xattrs, r.size = 1000; })));
    auto holes = [&](uint64_t size, std::vector<uint64_t> list, uint64_t count = UINT64_MAX) {
        return with([&](Raw& r) {
            r.flags = tree_flags::holes, r.size = size, r.holes = list, r.hole_count = count;
        });
    };
    CHECK_FALSE(refused(holes(10, {0, 5, 0, 5})));
    CHECK(refused(holes(10, {0, 11})));
    CHECK(refused(holes(10, {11, 0})));
    CHECK(refused(holes(10, {5, 6})));
    CHECK(refused(holes(10, {0, 5, 1, 5})));
    CHECK(refused(holes(10, {5, UINT64_MAX})));
    CHECK(refused(holes(INT64_MAX, {UINT64_MAX, 5})));
    CHECK(refused(holes(10, {0, 5}, 1'000'000)));
}

TEST_CASE("tree: a large one comes back entry by entry") {
    auto& t = large_tree();
    auto r = read_tree(*t.repo, t.snapshot);
    check_same(r.entries, shown_all(t.entries));
    CHECK(r.damage.empty());
    auto list = list_of(*t.repo, t.snapshot);
    INFO(list.size(), " chunks");
    CHECK(list.size() > 5);
    CHECK(list.size() < 100);
    CHECK(list[0].first == "");
    CHECK(std::ranges::is_sorted(list, path_before, &ListedChunk::first));
}

TEST_CASE("tree: entries of every type and oddity come back") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    auto entries = all_sorts();
    auto s = store_tree(*repo, entries);
    auto r = read_tree(*open_repository(store), s);
    check_same(r.entries, shown_all(entries));
    CHECK(r.damage.empty());
    std::vector<Entry> none;
    CHECK(read_tree(*repo, store_tree(*repo, none)).entries.empty());
}

TEST_CASE("tree: the largest records there can be are stored so that they can be read") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    std::vector<Entry> entries;
    for (int i = 0; i < 8; ++i)
        entries.push_back(file(text("a", i), kIdsPerRecord)); // the chunk is nearly full
    entries.pop_back();
    auto e = file("b/" + std::string(kPathMax - 2, 'p'), kIdsPerRecord);
    e.size = INT64_MAX;
    for (uint64_t i = 0; i < kHolesMax; ++i) e.holes.push_back({i << 46, uint64_t(1) << 45});
    for (int i = 0; i < 16; ++i)
        e.xattrs.emplace_back(text("user.", i, std::string(200, 'n')), std::string(kXattrMax / 16, 'v'));
    entries.push_back(e);
    entries.push_back(file("c"));
    auto s = store_tree(*repo, entries);
    auto r = read_tree(*open_repository(store), s);
    check_same(r.entries, shown_all(entries));
    CHECK(r.damage.empty());
}

TEST_CASE("tree: one that has not changed costs nothing, a change costs the chunk around it") {
    auto& t = large_tree();
    auto repo = open_repository(t.store);
    size_t packs = t.store.names("packs").size();
    auto again = store_tree(*repo, t.entries);
    CHECK(again.tree == t.snapshot.tree);
    CHECK(t.store.names("packs").size() == packs);
    auto changed = t.entries;
    changed[changed.size() / 2].mtime.seconds += 1;
    auto s = store_tree(*repo, changed);
    auto before = list_of(*repo, t.snapshot), after = list_of(*repo, s);
    REQUIRE(before.size() == after.size());
    size_t differ = 0;
    for (size_t i = 0; i < before.size(); ++i) differ += before[i].id != after[i].id;
    CHECK(differ == 1);
    changed.erase(changed.begin() + long(changed.size() / 3)); // a file gone
    auto third = list_of(*repo, store_tree(*repo, changed));
    std::set<std::string> ids;
    for (auto& c : after) ids.insert(hex(c.id));
    size_t fresh = 0;
    for (auto& c : third) fresh += !ids.contains(hex(c.id));
    CHECK(fresh <= 2);
}

TEST_CASE("tree: a directory that is renamed costs a few chunks, whatever it holds") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    auto chunks_below = [&](const std::string& top) {
        auto entries = large_tree().entries;
        for (auto& e : entries) e.path = e.path.empty() ? top : top + "/" + e.path;
        std::set<std::string> ids;
        for (auto& c : list_of(*repo, store_tree(*repo, entries))) ids.insert(hex(c.id));
        return ids;
    };
    auto before = chunks_below("old"), after = chunks_below("moved/and/renamed");
    REQUIRE(before.size() > 10);
    size_t fresh = 0;
    for (auto& id : after) fresh += !before.contains(id);
    CHECK(fresh <= 2);
}

TEST_CASE("tree: seek finds every path without reading from the start") {
    auto& t = large_tree();
    support::Random random(4);
    TaskPool wire(2, 4);
    size_t steps = 0;
    auto find = [&](TreeReader& tree, size_t i) {
        tree.seek(t.entries[i].path);
        const Entry* e = tree.next();
        for (; e && path_before(e->path, t.entries[i].path); e = tree.next()) ++steps;
        INFO(show(t.entries[i].path));
        REQUIRE(e);
        CHECK(shown(*e) == shown(t.entries[i]));
    };
    std::vector<size_t> some{0, 1, t.entries.size() - 1};
    for (int i = 0; i < 40; ++i) some.push_back(random.below(t.entries.size()));
    auto list = list_of(*t.repo, t.snapshot);
    for (size_t c = 1; c < list.size(); c += 4) { // the first and the last entry of chunks
        auto at =
            std::ranges::lower_bound(t.entries, list[c].first, path_before, &Entry::path) - t.entries.begin();
        some.push_back(size_t(at));
        some.push_back(size_t(at) - 1);
    }
    for (size_t i : some) {
        TreeReader tree(*t.repo, wire, t.snapshot);
        find(tree, i);
    }
    INFO(steps, " entries passed for ", some.size(), " finds");
    CHECK(steps < some.size() * 4000);
    std::ranges::sort(some);
    some.erase(std::unique(some.begin(), some.end()), some.end());
    TreeReader tree(*t.repo, wire, t.snapshot);
    for (size_t i : some) find(tree, i);
    // Not backwards.
    tree.seek(t.entries[5].path);
    CHECK(tree.next() == nullptr);
}

TEST_CASE("tree: a list of parts that fills several chunks is read, one beyond its limit is never written") {
    TestStore store = new_repository();
    std::vector<Entry> entries;
    for (int i = 0; i < 64;
         ++i) // two fill a part of the tree, and the path of the first one the list of these
        entries.push_back(file(text(100 + i, "/", std::string(kPathMax - 4, 'p'))));
    CHECK_NAMES(complaint([&] { store_tree(*open_repository(store), entries); }),
                "too many files for one snapshot");
    CHECK(open_repository(store)->snapshots().empty());
    entries.resize(62); // the longest list there can be
    auto s =
        store_tree(*open_repository(store), entries); // of another run: what the first has begun was not sent
    CHECK(s.tree.size() == 31);
    TaskPool wire(2, 4);
    auto again = open_repository(store);
    TreeReader tree(*again, wire, s);
    size_t same_paths = 0;
    while (auto* e = tree.next())
        same_paths += same_paths < entries.size() && e->path == entries[same_paths].path;
    CHECK(same_paths == entries.size());
}

TEST_CASE("tree: seek to what is not there goes to where it would be") {
    auto& t = large_tree();
    TaskPool wire(2, 4);
    for (size_t i : {size_t(100), size_t(9'999), t.entries.size() - 2}) {
        TreeReader tree(*t.repo, wire, t.snapshot);
        auto path = t.entries[i].path + "\x01";
        tree.seek(path);
        const Entry* e = tree.next();
        while (e && path_before(e->path, path)) e = tree.next();
        auto wanted = std::ranges::lower_bound(t.entries, path, path_before, &Entry::path);
        CHECK((e ? e->path : "the end") == (wanted == t.entries.end() ? "the end" : wanted->path));
    }
    TreeReader tree(*t.repo, wire, t.snapshot);
    tree.seek("\xff\xff\xff\xff");
    const Entry* e = tree.next();
    while (e && path_before(e->path, "\xff\xff\xff\xff")) e = tree.next();
    CHECK(e == nullptr);
}

TEST_CASE("tree: a selection gives what a filter over everything gives") {
    auto& t = large_tree();
    support::Random random(11);
    TaskPool wire(2, 4);
    for (int round = 0; round < 25; ++round) {
        std::vector<std::string> tops;
        for (auto n = random.below(6); n > 0; --n) {
            auto path = t.entries[random.below(t.entries.size())].path;
            switch (random.below(4)) {
            case 0:
                path = path.substr(0, path.rfind('/'));
                break; // its directory
            case 1:
                path += random.below(2) ? "/not-there" : "-not-there";
                break;
            default:
                break;
            }
            if (path != "" || random.below(10) == 0) tops.push_back(path);
        }
        std::vector<std::string> wanted, missing, got;
        auto any = [&](auto f) { return std::ranges::any_of(tops, f); };
        for (auto& e : t.entries) {
            bool inside = tops.empty() || any([&](auto& top) { return is_within(e.path, top); });
            bool leads = any([&](auto& top) { return is_within(top, e.path); });
            if (inside || leads) wanted.push_back((inside ? "in " : "to ") + shown(e));
        }
        for (auto& top : tops)
            if (!top.empty() &&
                std::ranges::none_of(t.entries, [&](auto& e) { return is_within(e.path, top); }))
                missing.push_back(top);
        TreeReader tree(*t.repo, wire, t.snapshot);
        auto lost = for_selected(tree, tops, [&](const Entry& e, bool inside) {
            got.push_back((inside ? "in " : "to ") + shown(e));
        });
        INFO("round ", round);
        std::string asked;
        for (auto& top : tops) asked += show(top) + " | ";
        INFO(asked);
        check_same(got, wanted);
        std::ranges::sort(lost);
        std::ranges::sort(missing);
        std::erase_if(missing, [&](auto& m) {
            return any([&](auto& top) { return top != m && is_within(m, top); });
        }); // see the next test
        missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
        CHECK(lost == missing);
    }
}

TEST_CASE("tree: a path that is not there is named, also below one that is selected") {
    auto& t = large_tree();
    TaskPool wire(2, 4);
    auto directory =
        std::ranges::find_if(t.entries, [](auto& e) { return e.type == Type::directory && !e.path.empty(); });
    auto top = directory->path;
    TreeReader tree(*t.repo, wire, t.snapshot);
    auto missing = for_selected(tree, {top, top + "/\x01not-there"}, [](const Entry&, bool) {});
    CHECK(missing == std::vector<std::string>{top + "/\x01not-there"});
}

TEST_CASE("tree: a file of more chunks than a record holds, and what stands behind it") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    std::vector<Entry> entries{file("a"), file("big", 4 * kIdsPerRecord + 3), file("c"), file("d/e")};
    auto s = store_tree(*repo, entries, true);
    auto list = list_of(*repo, s);
    REQUIRE(list.size() == 3);
    REQUIRE(list[1].first == "big"); // chunks that begin in the middle of it
    REQUIRE(list[2].first == "big");
    SUBCASE("comes back whole") {
        auto r = read_tree(*repo, s);
        check_same(r.entries, shown_all(entries));
        CHECK(r.damage.empty());
    }
    SUBCASE("what stands behind it is found, and nothing is called damaged") {
        for (std::string path : {"c", "d/e", "d"}) {
            TaskPool wire(2, 4);
            TreeReader tree(*repo, wire, s);
            std::vector<std::string> damage;
            tree.on_damage = [&](const std::string& what) { damage.push_back(what); };
            tree.seek(path);
            const Entry* e = tree.next();
            while (e && path_before(e->path, path)) {
                CHECK((e->path != "big" || shown(*e) == shown(entries[1]))); // whole or not at all
                e = tree.next();
            }
            REQUIRE(e);
            CHECK(e->path == (path == "d" ? "d/e" : path));
            CHECK(damage.empty());
        }
    }
    auto without = [&](size_t part) { // the same list, one of its chunks nowhere to be found
        Packer packer(*repo, 1, kCheckpoint);
        Writer w;
        for (size_t i = 0; i < list.size(); ++i) {
            w.raw(i == part ? chunk_id(12345) : list[i].id);
            w.string(list[i].first);
        }
        s.tree = {packer.put(Kind::tree, w.view())};
        packer.flush();
        packer.checkpoint({});
        return read_tree(*repo, s);
    };
    SUBCASE("where its beginning is lost, what stands behind it is not") {
        auto r = without(0);
        CHECK(r.damage.size() == 1);
        CHECK(r.paths == std::vector<std::string>{"c", "d/e"});
    }
    SUBCASE("where its middle is lost, what stands before and behind it is not") {
        auto r = without(1);
        CHECK(r.damage.size() == 1);
        CHECK(r.paths == std::vector<std::string>{"a", "c", "d/e"});
    }
    SUBCASE("where its end is lost, so is what stands behind it in the same part") {
        auto r = without(2);
        CHECK(r.damage.size() == 1);
        CHECK(r.paths == std::vector<std::string>{"a"});
    }
}

TEST_CASE("tree: a damaged part is named, and all other entries come") {
    auto& t = large_tree();
    TestStore store = new_repository();
    Snapshot s;
    std::vector<ListedChunk> list;
    {
        auto repo = open_repository(store);
        s = store_tree(*repo, t.entries, true);
        list = list_of(*repo, s);
        REQUIRE(list.size() > 5);
        for (size_t broken : {size_t(2), list.size() - 2}) { // the list itself lies with the last chunk
            auto& object = store.objects.at(pack_holding(*repo, list[broken].id));
            object[frame_offset(*repo, list[broken].id) + 500] ^= 1;
        }
    }
    auto repo = open_repository(store);
    auto r = read_tree(*repo, s);
    std::vector<std::string> wanted;
    auto& late = list[list.size() - 2].first;
    for (auto& e : t.entries) {
        auto between = [&](auto& a, auto& b) { return !path_before(e.path, a) && path_before(e.path, b); };
        if (!between(list[2].first, list[3].first) && !between(late, list.back().first))
            wanted.push_back(shown(e));
    }
    CHECK(wanted.size() < t.entries.size() - 100);
    check_same(r.entries, wanted);
    REQUIRE(r.damage.size() == 2);
    CHECK_NAMES(r.damage[0], in_quotes(list[2].first));
    CHECK_NAMES(r.damage[0], in_quotes(list[3].first));
    CHECK_NAMES(r.damage[1], in_quotes(late));
    // An entry in a good part is found though others are damaged.
    TaskPool wire(2, 4);
    TreeReader tree(*repo, wire, s);
    tree.seek(list[4].first);
    const Entry* e = tree.next();
    while (e && path_before(e->path, list[4].first)) e = tree.next();
    REQUIRE(e);
    CHECK(e->path == list[4].first);
}

TEST_CASE("tree: hostile trees are refused in parts, and the parts that are sound come") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    Entry evil = file("../../etc/cron.d/evil"), absolute = file("/etc/passwd"), doubled = file("a");
    SUBCASE("a path that leads out") {
        auto s = store_raw_tree(*repo, {{"a", encode_entries({file("a")}, "a")},
                                        {"b", encode_entries({evil}, "b")},
                                        {"c", encode_entries({file("c"), absolute}, "c")},
                                        {"d", encode_entries({file("d")}, "d")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"a", "c", "d"});
        CHECK(r.damage.size() == 2);
    }
    SUBCASE("entries out of order") {
        auto s = store_raw_tree(*repo, {{"a", encode_entries({file("a"), file("c"), file("b")}, "a")},
                                        {"d", encode_entries({file("d")}, "d")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"a", "c", "d"});
        CHECK(r.damage.size() == 1);
    }
    SUBCASE("chunks out of order") {
        auto s = store_raw_tree(*repo, {{"c", encode_entries({file("c")}, "c")},
                                        {"a", encode_entries({file("a")}, "a")},
                                        {"d", encode_entries({file("d")}, "d")}});
        CHECK_THROWS_AS(read_tree(*repo, s), Corrupt);
    }
    SUBCASE("something within a file") {
        auto s = store_raw_tree(*repo, {{"a", encode_entries({file("a"), file("a/b")}, "a")},
                                        {"d", encode_entries({file("d")}, "d")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"a", "d"});
        CHECK(r.damage.size() == 1);
    }
    SUBCASE("an entry twice") {
        auto s = store_raw_tree(*repo, {{"a", encode_entries({file("a")}, "a")},
                                        {"a", encode_entries({doubled, file("b")}, "a")},
                                        {"c", encode_entries({file("c")}, "c")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"a", "c"});
        CHECK(r.damage.size() == 1);
    }
    SUBCASE("no records at all") {
        auto s = store_raw_tree(*repo,
                                {{"a", {}}, {"b", noise(1000, 1)}, {"c", encode_entries({file("c")}, "c")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"c"});
        CHECK(r.damage.size() == 1);
    }
    SUBCASE("a directory that goes on") {
        Entry top = file("a");
        top.type = Type::directory;
        auto bytes = encode_entries({top}, "a");
        Writer w;
        w.varint(unsigned(Type::directory) | tree_flags::continued);
        w.raw(View(bytes).subspan(1));
        auto s = store_raw_tree(*repo, {{"a", w.take()}, {"b", encode_entries({file("b")}, "b")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"b"});
        CHECK(r.damage.size() == 1);
    }
    SUBCASE("a continuation of a file that is complete") {
        Writer w;
        w.raw(encode_entries({file("a")}, "a"));
        w.varint(tree_flags::continuation);
        w.varint(0); // of "a" is taken away
        w.string("");
        w.varint(1);
        w.raw(chunk_id(666));
        auto s = store_raw_tree(*repo, {{"a", w.take()}, {"b", encode_entries({file("b")}, "b")}});
        auto r = read_tree(*repo, s);
        CHECK(r.paths == std::vector<std::string>{"a", "b"});
        CHECK(r.entries[0] == shown(file("a")));
        CHECK(r.damage.size() == 1);
    }
    SUBCASE("a list that is none") {
        Packer packer(*repo, 1, kCheckpoint);
        auto s = sample_snapshot(1);
        s.tree = {packer.put(Kind::tree, noise(1000, 2))};
        packer.flush();
        CHECK_THROWS_AS(read_tree(*repo, s), Corrupt);
        s.tree = {chunk_id(1)};
        CHECK_THROWS_AS(read_tree(*repo, s), Corrupt);
    }
}

TEST_CASE("tree: one that is scattered over many frames is read within the budget, without waiting "
          "for itself") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    std::vector<Entry> entries;
    for (int i = 0; i < 480; ++i)
        entries.push_back(file(text("file-", 1000 + i), kIdsPerRecord)); // 8 to a chunk
    auto s = store_tree(*repo, entries, true);
    auto list = list_of(*repo, s);
    REQUIRE(list.size() >= 30); // each in a frame of 512 KiB: more than the read-ahead
    size_t read = 0;
    CHECK(in_child(20 * unsigned(support::slowness()), [&] {
              read = read_tree(*repo, s).entries.size();
              if (read != entries.size()) throw Error("entries are missing");
          }) == "");
    TaskPool wire(1, 4);
    auto [packs, least] = TreeReader(*repo, wire, s).spread();
    CHECK(packs >= 3);
    CHECK(packs >= least);
}

TEST_CASE("tree: one that is written anew lies together again") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    auto entries = large_tree().entries;
    for (size_t i = 0; i < entries.size(); i += 4000) { // each run changes some other part
        entries[i].mtime.seconds += 1;
        store_tree(*repo, entries);
    }
    auto s = store_tree(*repo, entries);
    TaskPool wire(1, 4);
    auto [packs, least] = TreeReader(*repo, wire, s).spread();
    CHECK(packs >= 4);
    CHECK(least == 1);
    auto anew = store_tree(*repo, entries, false, true);
    CHECK(TreeReader(*repo, wire, anew).spread().first == 1);
    auto next = open_repository(store); // and another run agrees: the newest place wins
    CHECK(TreeReader(*next, wire, anew).spread().first == 1);
    check_same(read_tree(*next, anew).entries, shown_all(entries));
}

TEST_CASE("tree: a reader that goes while its reads are under way takes nothing with it") {
    auto& t = large_tree();
    TestStore store = t.store;
    auto repo = open_repository(store);
    store.on_read = [](const std::string& name) {
        if (name.starts_with("packs/")) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    };
    CHECK(in_child(20, [&] {
              TaskPool wire(1, 8);
              size_t size = (sizeof(TreeReader) + 4095) / 4096 * 4096;
              void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              auto* tree = new (memory) TreeReader(*repo, wire, t.snapshot);
              if (!tree->next()) throw Error("no entry");
              tree->~TreeReader();
              mprotect(memory, size, PROT_NONE); // whoever still looks there dies
              wire.drain();
          }) == "");
}
