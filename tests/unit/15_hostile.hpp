// Whole runs against a repository that somebody has prepared: a client that holds the key and seals what it
// likes, a server that alters, swaps, hides and replays. What comes out is right, or an error that leads to
// exit code 5; never wrong data, a write outside of the destination, a crash, a hang, or memory without
// bound.

namespace {

// ---- verbs, as the command line runs them --------------------------------------------------------------

/// As main(): what an Error leads to. Any other exception is a defect and ends the test.
template <class F> Exit exit_of(F f) {
    try {
        return f();
    } catch (const Error& e) {
        say(e.what());
        return e.exit;
    }
}
/// The same, and nothing of it is seen. (Not around checks: what they report would not be seen, either.)
template <class F> Exit quiet_exit_of(F f) {
    Captured said, out(std::cout);
    return exit_of(f);
}
Exit verdict_of(const Repository& repo, bool damaged) {
    return damaged || !repo.damage.empty() || !repo.doubts.empty() ? Exit::damaged : Exit::ok;
}

/// A verb that is run on a store; `dir` is a directory of its own, in which it may write to "dest".
struct Deed {
    const char* name;
    std::function<Exit(Store&, const support::fs::path& dir)> run;
};
constexpr const char *kHost = "host", *kSource = "/source"; // of sample_snapshot()

Exit restore_into(Store& store, const support::fs::path& dest, bool overwrite = false) {
    auto repo = open_repository(store);
    auto all = repo->snapshots();
    if (all.empty()) return verdict_of(*repo, false);
    RestoreOptions o;
    o.connections = 2;
    o.overwrite = overwrite;
    RestoreResult r;
    Restore(*repo, *all[0], o).run(dest.string(), r);
    return worse(r.kept + r.failed > 0 ? Exit::partial : Exit::ok, verdict_of(*repo, r.damaged > 0));
}
Exit list_all(Store& store) {
    auto repo = open_repository(store);
    auto all = repo->snapshots();
    bool damaged = false;
    ListOptions o;
    o.recursive = o.details = true;
    if (!all.empty()) Lister(*repo, *all[0], o).run(damaged);
    return verdict_of(*repo, damaged);
}
Exit check_all(Store& store) {
    auto repo = open_repository(store);
    CheckResult r;
    Sample sample;
    Check(*repo, 2).run(&sample, true, r);
    return verdict_of(*repo, r.errors > 0);
}
Exit back_up(Store& store, const support::fs::path& dir) {
    support::write_file(dir / "src/file", "content");
    auto repo = open_repository(store);
    BackupOptions o;
    o.connections = 1;
    o.allow_shrink = true;
    Stream stream;
    stream.name = "stream";
    Fd from(::open((dir / "src/file").c_str(), O_RDONLY));
    stream.fd = from.get();
    Backup(*repo, o).run(kSource, Scene::record(kHost), &stream); // compares with what somebody prepared
    return repo->damage.empty() ? Exit::ok : Exit::damaged;
}
Exit repair(Store& store) {
    auto repo = open_repository(store);
    auto r = Repair(*repo, 2).run();
    repo->index.see(store.Store::list(Name::packs));
    CheckResult left;
    Check(*repo, 2).run(nullptr, true, left);
    return left.errors + r.unreadable > 0 ? Exit::damaged : Exit::ok;
}
const std::vector<Deed>& deeds() {
    static const std::vector<Deed> all{
        {"restore", [](Store& s, auto& dir) { return restore_into(s, dir / "dest"); }},
        {"restore --overwrite", [](Store& s, auto& dir) { return restore_into(s, dir / "dest", true); }},
        {"ls", [](Store& s, auto&) { return list_all(s); }},
        {"check", [](Store& s, auto&) { return check_all(s); }},
        {"backup", [](Store& s, auto& dir) { return back_up(s, dir); }},
        {"prune", [](Store& s, auto&) { return prune(s), Exit::ok; }},
        {"repair", [](Store& s, auto&) { return repair(s); }},
    };
    return all;
}

// ---- within bounds ---------------------------------------------------------------------------------------

constexpr long kMemoryMax = 300 * 1024,
               kMemoryLeast = 20 * 1024; // KiB; the latter is taken without any attack
long peak_kib() {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_maxrss;
}
/// Whether all of it may go to a terminal.
bool is_printable(std::string_view s) {
    while (!s.empty()) {
        size_t n = utf8_length(s);
        auto c = uint8_t(s[0]);
        if (n == 0 || (c < 0x20 && c != '\n') || c == 0x7f || (n == 2 && c == 0xc2 && uint8_t(s[1]) < 0xa0))
            return false;
        s.remove_prefix(n);
    }
    return true;
}
/// How `f` ends in a process of its own with the program's settings: "" if all is well, else what is wrong:
/// a crash, a hang, too much memory, an exception that is no Error, or an exit code that is not among these.
template <class F>
std::string bounded(F f, const std::set<Exit>& allowed, unsigned seconds = 30, long memory_max = kMemoryMax) {
    return in_child(seconds, [&] {
        prepare_process();
        Captured said, out(std::cout);
        long before = peak_kib();
        Exit exit = exit_of(f);
        long took = peak_kib() - before;
        if (!is_printable(said.text() + out.text()))
            throw Error("raw bytes for a terminal: " + show(said.text() + out.text()).substr(0, 500));
        if (took > memory_max)
            throw Error(
                text("takes ", took / 1024, " MiB; ends with ", int(exit), ": ", said.text().substr(0, 200)));
        if (!allowed.contains(exit))
            throw Error(text("ends with ", int(exit), ": ", said.text().substr(0, 500)));
    });
}
/// Every verb on a copy of what somebody prepared: none but these exit codes, nothing outside of "dest".
void check_deeds(const TestStore& prepared, const std::set<Exit>& allowed,
                 const std::set<std::string>& only = {}, const std::vector<Deed>& all = deeds()) {
    for (auto& deed : all) {
        if (!only.empty() && !only.contains(deed.name)) continue;
        INFO(std::string(deed.name));
        support::TempDir dir;
        support::write_file(dir / "outside/file", "as it was");
        auto wrong = bounded(
            [&] {
                TestStore store(prepared);
                return deed.run(store, dir.path());
            },
            allowed);
        CHECK(wrong == "");
        CHECK(support::read_file(dir / "outside/file") == "as it was");
        CHECK(support::files_below(dir / "outside").size() == 1);
        for (auto& e : support::fs::directory_iterator(dir.path()))
            CHECK(std::set<std::string>{"dest", "outside", "src"}.contains(e.path().filename().string()));
    }
}

// ---- a client that holds the key and seals what it likes -------------------------------------------------

FramePlain compress_copy(Bytes raw) { return compress(raw); }
/// A segment of these frames, each of which is sealed as it is.
void put_segment(TestStore& store, const std::vector<Bytes>& raw_frames) {
    auto repo = open_repository(store);
    Label label = kSegmentLabel;
    label.seq = 77;
    Sealer sealer(repo->keys, label);
    const Bytes* before = nullptr;
    FramePlain plain;
    for (auto& raw : raw_frames) { // which are often the same
        if (!before || *before != raw) plain = compress_copy(raw);
        before = &raw;
        FrameInfo info;
        info.kind = Kind::records;
        sealer.add(info, plain.head, plain.body);
    }
    PlainObject object(sealer.finish());
    store.put(text("index/0000004d-", hex(object.name)), object.bytes);
}
/// One record, cut into frames as large as can be.
void put_record_of(TestStore& store, Record type, const Bytes& body) {
    auto whole = record(type, body);
    std::vector<Bytes> frames;
    for (View rest = whole; !rest.empty(); rest = rest.subspan(frames.back().size())) {
        View part = rest.first(std::min(rest.size(), kFrameMax));
        frames.emplace_back(part.begin(), part.end());
    }
    put_segment(store, frames);
}
Bytes repeated(const Bytes& what, size_t size) {
    Bytes all;
    all.reserve(size + what.size());
    while (all.size() < size) all.insert(all.end(), what.begin(), what.end());
    return all;
}
/// A snapshot record with these tags, users and ids of the list of its tree, the first two as raw bytes.
Bytes raw_snapshot(View tags, View users, const std::vector<ChunkId>& tree) {
    Writer w;
    w.raw(noise_array<16>(1));
    w.u64(1);
    for (auto* s : {kHost, "somebody", kSource, "1"}) w.string(s);
    w.raw(tags);
    w.u8(0);
    for (int i = 0; i < 7; ++i) w.varint(0);
    w.raw(users);
    w.varint(0);
    w.varint(tree.size());
    for (auto& id : tree) w.raw(id);
    return w.take();
}
const Bytes kNone1{0}; // a list of nothing

/// A pack of these frames: what they say they hold, and what is in them, before it is compressed.
PackInfo put_pack(TestStore& store, std::vector<std::pair<FrameInfo, Bytes>> frames) {
    auto repo = open_repository(store);
    Sealer sealer(repo->keys, kPackLabel);
    std::map<Bytes, FramePlain> done; // many are the same
    for (auto& [info, raw] : frames) {
        if (!done.contains(raw)) done[raw] = compress_copy(raw);
        sealer.add(info, done[raw].head, done[raw].body);
    }
    return put_pack(*repo, sealer);
}

} // namespace

TEST_CASE("hostile client: what unfolds to very much in the index is refused, in bounded memory") {
    TestStore store = new_repository();
    store_snapshot(store, 0, {{"a", {noise(500, 1)}}});
    SUBCASE("records without end") {
        put_segment(store, std::vector<Bytes>(
                               30, repeated(record(Record::snapshot_forgotten, Bytes(16)), kFrameMax - 100)));
    }
    SUBCASE("a record of many tags") {
        Writer tags;
        tags.varint(30 * MiB);
        tags.raw(Bytes(30 * MiB));
        put_record_of(store, Record::snapshot_added, raw_snapshot(tags.view(), kNone1, {}));
    }
    SUBCASE("a record of many users") {
        Writer users;
        users.varint(6'000'000);
        for (uint32_t i = 0; i < 6'000'000; ++i) users.varint(i), users.varint(0);
        put_record_of(store, Record::snapshot_added, raw_snapshot(kNone1, users.view(), {}));
    }
    SUBCASE("a pack of many frames that hold nothing") {
        Writer pack;
        pack.raw(hash_of(1));
        pack.raw(hash_of(2));
        pack.varint(kPackMax);
        pack.varint(4'000'000);
        pack.raw(Bytes(12'000'000));
        put_record_of(store, Record::pack_added, pack.take());
    }
    SUBCASE("packs of many frames that hold nothing") {
        Bytes records;
        for (uint64_t i = 0; i < 9; ++i) {
            Writer pack;
            pack.raw(hash_of(i));
            pack.raw(hash_of(2));
            pack.varint(kPackMax);
            pack.varint(4'000'000);
            pack.raw(Bytes(12'000'000));
            auto r = record(Record::pack_added, pack.view());
            records.insert(records.end(), r.begin(), r.end());
        }
        std::vector<Bytes> frames;
        for (View rest = records; !rest.empty(); rest = rest.subspan(frames.back().size())) {
            View part = rest.first(std::min(rest.size(), kFrameMax));
            frames.emplace_back(part.begin(), part.end());
        }
        put_segment(store, frames);
    }
    check_deeds(store, {Exit::ok, Exit::damaged}, {"restore", "backup"});
}

TEST_CASE("hostile client: a tree that unfolds to very much is refused, in bounded memory") {
    TestStore store = new_repository();
    auto list_one = [&](const Bytes& part,
                        size_t times) { // the same part of a tree, and the same list, many times
        auto repo = open_repository(store);
        Packer packer(*repo, 1, kCheckpoint);
        auto id = packer.put(Kind::tree, part);
        Writer list;
        while (list.size() < (times > 1 ? kChunkMax - 32 : 1)) list.raw(id), list.string("");
        auto s = sample_snapshot(1);
        s.tree = std::vector<ChunkId>(times, packer.put(Kind::tree, list.view()));
        packer.flush();
        packer.checkpoint(snapshot_added(s));
    };
    auto entry = [&](unsigned flags, auto rest) {
        Writer w;
        w.varint(flags);
        w.varint(0);
        w.string("a");
        for (int i = 0; i < 3; ++i) w.varint(0); // mode, uid, gid
        for (int i = 0; i < 5; ++i) w.zigzag(0); // times, inode
        rest(w);
        return w.take();
    };
    SUBCASE("a list that is named a thousand times") { list_one(encode_entries({all_sorts()[0]}), 1000); }
    SUBCASE("as many attributes as there are bytes") {
        list_one(entry(tree_flags::xattrs,
                       [](Writer& w) {
                           w.varint(kChunkMax - 100);
                           w.raw(Bytes(kChunkMax - 100));
                       }),
                 1);
    }
    SUBCASE("empty attributes in all of it") {
        list_one(entry(tree_flags::xattrs,
                       [](Writer& w) {
                           w.varint((kChunkMax - 100) / 2);
                           w.raw(Bytes(kChunkMax - 50));
                       }),
                 1);
    }
    SUBCASE("as many holes as there are bytes") {
        list_one(entry(tree_flags::holes,
                       [](Writer& w) {
                           w.varint(1);
                           w.varint((kChunkMax - 100) / 2);
                           w.raw(Bytes(kChunkMax - 100));
                       }),
                 1);
    }
    check_deeds(store, {Exit::ok, Exit::damaged}, {"restore", "backup"});
}

TEST_CASE("hostile client: frames that unfold to more than they say are refused, in bounded memory") {
    TestStore store = new_repository();
    std::vector<std::pair<FrameInfo, Bytes>> frames;
    auto bomb = Bytes(kFrameMax - 1);
    const uint64_t number =
        support::slow_tests() ? 200 : 60; // together 1 GB at least, where 300 MB are allowed
    for (uint64_t i = 0; i < number; ++i) {
        FrameInfo info;
        info.chunks = {{chunk_id(i), 8}};
        frames.emplace_back(info, bomb);
    }
    auto pack = put_pack(store, std::move(frames));
    auto repo = open_repository(store);
    Packer packer(*repo, 1, kCheckpoint);
    Chunker chunker(repo->keys.gear());
    TreeWriter tree(packer, chunker, false);
    tree.add(all_sorts()[0]);
    for (uint64_t i = 0; i < number; ++i) {
        auto e = file(text("a", 100 + i), 0);
        e.chunks = {chunk_id(i)};
        e.size = 8;
        tree.add(e);
    }
    auto s = sample_snapshot(1);
    s.tree = tree.finish();
    packer.flush();
    auto records = record(Record::pack_added, encode_pack(pack));
    auto added = snapshot_added(s);
    records.insert(records.end(), added.begin(), added.end());
    packer.checkpoint(records);
    check_deeds(store, {Exit::damaged}, {"restore", "check", "repair"});
}

// ---- trees that no disk has ------------------------------------------------------------------------------

namespace {

/// Stores a snapshot of these parts of a tree; `make` gets the packer for what is in the files.
template <class F> void put_tree(TestStore& store, F make) {
    auto repo = open_repository(store);
    Packer packer(*repo, 1, kCheckpoint);
    std::vector<std::pair<std::string, Bytes>> parts = make(packer);
    Writer list;
    for (auto& [first, bytes] : parts) {
        list.raw(packer.put(Kind::tree, bytes));
        list.string(first);
    }
    auto s = sample_snapshot(1);
    s.users[1] = "\x1b[31mred\n";
    s.tree = {packer.put(Kind::tree, list.view())};
    packer.flush(&s);
    packer.checkpoint(snapshot_added(s));
}
Entry entry_of(Type type, const std::string& path) {
    Entry e = file(path, 0);
    e.type = type;
    e.mode = type == Type::directory ? 0755 : 0644;
    e.uid = 1;
    return e;
}
Entry link_to(const std::string& path, const std::string& target) {
    Entry e = entry_of(Type::symlink, path);
    e.target = target;
    return e;
}

} // namespace

TEST_CASE("hostile client: a path that leads out of the tree is refused, and what is beside it is restored") {
    for (auto& path :
         {std::string("../outside/file"), std::string(".."), std::string("."), std::string("/outside/file"),
          std::string("a//b"), std::string("a/./b"), std::string("a/../../outside/file"), std::string("a/.."),
          std::string("a/"), std::string("/"), std::string("a\0b", 3)}) {
        CAPTURE(path);
        TestStore store = new_repository();
        put_tree(store, [&](Packer& packer) {
            auto good = stored_file(packer, "good", {noise(300, 1)}),
                 last = stored_file(packer, "z", {noise(300, 2)}),
                 bad = stored_file(packer, path, {noise(300, 3)});
            // All in their order, which is not what is wrong.
            return std::vector{std::pair(std::string(), encode_entries({entry_of(Type::directory, "")})),
                               {path, encode_entries({bad}, path)},
                               {std::string("good"), encode_entries({good, last}, "good")}};
        });
        check_deeds(store, {Exit::damaged}, {"restore", "restore --overwrite", "ls", "check"});
        check_deeds(store, {Exit::ok}, {"backup"});
        support::TempDir dir;
        Captured said;
        CHECK(restore_into(store, dir / "dest") == Exit::damaged);
        CHECK(support::files_below(dir / "dest") == std::vector{dir / "dest/good", dir / "dest/z"});
        CHECK(same(as_bytes(support::read_file(dir / "dest/good")), noise(300, 1)));
    }
}

TEST_CASE("hostile client: a link in a tree leads nowhere, whatever lies behind it") {
    TestStore store = new_repository();
    auto below = [](const char* name) { return Entry(entry_of(Type::directory, name)); };
    std::vector<Entry> all{below("")};
    put_tree(store, [&](Packer& packer) {
        auto with = [&](const std::string& path) { return stored_file(packer, path, {noise(300, 1)}); };
        SUBCASE("a file in a link") { all.insert(all.end(), {link_to("l", "../outside"), with("l/file")}); }
        SUBCASE("a directory in a link") {
            all.insert(all.end(), {link_to("l", "../outside"), below("l/d"), with("l/d/file")});
        }
        SUBCASE("a link in a link") {
            all.insert(all.end(), {link_to("l", "../outside"), link_to("l/file", "new")});
        }
        SUBCASE("two links, one behind the other") {
            all.insert(all.end(), {link_to("k", ".."), link_to("l", "k/outside"), with("l/file")});
        }
        SUBCASE("a hard link to what is behind a link") {
            auto first = with("l/file"), second = with("m");
            first.link_group = second.link_group = 1;
            first.inode = second.inode = 7;
            all.insert(all.end(), {link_to("l", "../outside"), first, second});
        }
        SUBCASE("a file in a file") { all.insert(all.end(), {with("l"), with("l/file")}); }
        SUBCASE("the same name twice: a link, then a file") {
            all.insert(all.end(), {link_to("l", "../outside/file"), with("l")});
        }
        SUBCASE("the same name twice: a link, then a directory") {
            all.insert(all.end(), {link_to("l", "../outside"), below("l"), with("l/file")});
        }
        return std::vector{std::pair(std::string(), encode_entries(all))};
    });
    check_deeds(store, {Exit::damaged}, {"restore", "restore --overwrite"});
    check_deeds(store, {Exit::ok, Exit::damaged}, {"ls", "check", "backup", "prune", "repair"});
}

TEST_CASE("hostile client: hard links to what is not there, or is something else, are files of their own") {
    TestStore store = new_repository();
    Bytes content = noise(300, 1);
    put_tree(store, [&](Packer& packer) {
        auto linked = [](Entry e) {
            e.link_group = 1;
            e.inode = 7;
            return e;
        };
        auto other = linked(stored_file(packer, "e", {noise(300, 2)}));
        return std::vector{std::pair(
            std::string(),
            encode_entries({entry_of(Type::directory, ""), linked(link_to("a", "../outside/file")),
                            linked(entry_of(Type::file, "b")), linked(stored_file(packer, "c", {content})),
                            linked(entry_of(Type::directory, "d")), other}))};
    });
    check_deeds(store, {Exit::ok}, {"restore", "restore --overwrite", "ls", "check", "backup"});
    support::TempDir dir;
    CHECK(restore_into(store, dir / "dest") == Exit::ok);
    CHECK(support::fs::is_symlink(dir / "dest/a"));
    CHECK(support::read_file(dir / "dest/b").empty());
    CHECK_FALSE(support::fs::is_symlink(dir / "dest/b"));
    CHECK(same(as_bytes(support::read_file(dir / "dest/c")), content));
    CHECK(same(as_bytes(support::read_file(dir / "dest/e")), noise(300, 2)));
}

TEST_CASE("hostile client: absurd numbers in a tree lead to an error, not to a crash") {
    TestStore store = new_repository();
    auto e = file("a", 0);
    std::set<Exit> allowed{Exit::damaged};
    bool has_its_size = true;
    put_tree(store, [&](Packer& packer) {
        auto content = packer.put(Kind::data, noise(300, 1));
        SUBCASE("a size that no content has") { e.size = INT64_MAX, has_its_size = false; }
        SUBCASE("a size that the content does not have") {
            e.size = INT64_MAX, e.chunks = {content}, has_its_size = false;
        }
        SUBCASE("more content than its size") { e.size = 299, e.chunks = {content}, has_its_size = false; }
        SUBCASE("content of the right size that is not the file's") {
            e.size = 600;
            e.chunks = {content, content};
            e.checksum = 1;
        }
        SUBCASE("the same content a million times") {
            e.size = 300;
            e.chunks.assign(200'000, content);
            has_its_size = false;
        }
        SUBCASE("a hole of all that can be") {
            e.size = INT64_MAX;
            e.holes = {{0, INT64_MAX}};
            allowed = {Exit::ok, Exit::partial}; // as the file system can
        }
        SUBCASE("holes of nothing") {
            e.size = 300;
            e.chunks = {content};
            e.holes.assign(100'000, {0, 0});
            allowed = {Exit::ok};
        }
        SUBCASE("times beyond all calendars") {
            e.mtime = {INT64_MAX, 999'999'999};
            e.ctime = {INT64_MIN, 0};
            allowed = {Exit::ok, Exit::partial};
        }
        return std::vector{std::pair(std::string(), encode_entries({entry_of(Type::directory, ""), e}))};
    });
    check_deeds(store, allowed, {"restore"});
    check_deeds(store, {Exit::ok}, {"ls", "backup"});
    check_deeds(store, {has_its_size ? Exit::ok : Exit::damaged}, {"check"});
}

TEST_CASE("hostile client: packs whose tables are not true give an error, and a repair gets past them") {
    Captured said;
    TestStore store = new_repository();
    std::set<Exit> allowed{Exit::damaged};
    store_snapshot(store, 0, {{"good", {noise(500, 1)}}});
    SUBCASE("frames beyond 4 GiB") {
        auto pack = put_pack(store, {{FrameInfo{}, Bytes(10)}});
        pack.table.clear();
        for (uint64_t i = 0; i < 300; ++i)
            pack.table.push_back({Kind::data, uint32_t(kFrameMax), {{chunk_id(i), 8}}});
        put_segment(store, {record(Record::pack_added, encode_pack(pack))});
        put_tree(store, [](Packer&) {
            std::vector<Entry> all{entry_of(Type::directory, "")};
            for (uint64_t i = 0; i < 300; ++i) {
                all.push_back(file(text("a", 100 + i), 0));
                all.back().chunks = {chunk_id(i)};
                all.back().size = 8;
            }
            return std::vector{std::pair(std::string(), encode_entries(all))};
        });
    }
    SUBCASE("frames that open and do not unfold") {
        auto repo = open_repository(store);
        Sealer sealer(repo->keys, kPackLabel);
        std::vector<Entry> all{entry_of(Type::directory, "")};
        const std::vector<Bytes> frames{{},
                                        {0},
                                        {1, 8},
                                        {0, 7, 1, 2, 3, 4, 5, 6, 7, 8},
                                        {2, 1, 1},
                                        joined({{1, 8}, noise(20, 1)}),
                                        Bytes(10, 0xff)};
        for (uint64_t i = 0; i < frames.size(); ++i) {
            sealer.add({Kind::data, 0, {{chunk_id(i), 8}}}, frames[i]);
            all.push_back(file(text("a", i), 0));
            all.back().chunks = {chunk_id(i)};
            all.back().size = 8;
        }
        auto pack = put_pack(*repo, sealer);
        auto bytes = foreign(store.objects.at(object_name(Name::packs, pack.name)));
        write_segment(*repo, pack_added(pack));
        put_tree(store, [&](Packer&) { return std::vector{std::pair(std::string(), encode_entries(all))}; });
        auto again = open_repository(store);
        CHECK(open_frames(*again, pack.table, pack.salt, bytes, [](auto&, auto&, View) {}) == frames.size());
        CHECK_NAMES(complaint([&] { open_pack(*again, pack, bytes, [](auto&, auto&, View) {}); }),
                    "is not what its id says");
    }
    SUBCASE("a snapshot that is none, which only a repair reads") {
        FrameInfo info;
        info.kind = Kind::snapshot;
        Bytes nonsense = noise(50, 1);
        info.chunks = {{open_repository(store)->keys.hasher()(nonsense), 50}};
        put_pack(store, {{info, nonsense}});
        store.put("index/00000063-" + hex(hash_of(1)), noise(500, 9)); // so that the index counts as damaged
        auto wrong = bounded(
            [&] {
                TestStore copy(store);
                repair(copy);
                copy.objects.erase("index/00000063-" + hex(hash_of(1)));
                return repair(copy); // it got to its end
            },
            {Exit::ok, Exit::damaged});
        CHECK(wrong == "");
        CHECK_NOTHROW(repair(store));
        return;
    }
    check_deeds(store, allowed, {"restore", "check"});
    check_deeds(store, {Exit::ok, Exit::damaged}, {"backup", "repair"});
}

TEST_CASE("hostile client: objects in packs/ that are whole and no packs are named by a repair, which gets "
          "past them") {
    TestStore store = new_repository();
    store_snapshot(store, 0, {{"good", {noise(500, 1)}}});
    std::vector<Bytes>
        none; // what is too short for a head, for a footer; and what is long enough and was never sealed
    for (size_t size :
         {size_t(0), size_t(1), kHead - 1, kHead, kHead + kTag + kFooter - 1, kHead + kTag + kFooter}) {
        none.push_back(noise(size, size));
        std::ranges::copy(View(kPackLabel.magic).first(std::min(size, kPackLabel.magic.size())),
                          none.back().begin());
    }
    for (auto& bytes : none) store.put(object_name(Name::packs, sha256(bytes)), bytes);
    Captured said;
    auto repo = open_repository(store);
    repo->damage.insert("for the test"); // so that a repair looks at packs that nobody names
    auto result = Repair(*repo, 2).run();
    CHECK(result.damaged == none.size());
    CHECK(result.unreadable == 0); // nothing of anybody's can have been in them
    CHECK(result.lost == 0);
    for (auto& bytes : none) CHECK_NAMES(said.text(), object_name(Name::packs, sha256(bytes)));
    for (auto& bytes : none) CHECK_FALSE(open_repository(store)->index.find_pack(sha256(bytes)));
    CHECK(check_all(store) == Exit::ok);
}

TEST_CASE("hostile client: a pack as large as can be, to which the server adds a byte, spoils no segment "
          "that a repair writes") {
    TestStore store = new_repository();
    store_snapshot(store, 0, {{"good", {noise(500, 1)}}});
    auto repo = open_repository(store);
    Sealer sealer(repo->keys, kPackLabel);
    const Bytes zeros(kChunkMax);
    auto id = repo->keys.hasher()(zeros);
    for (size_t size : {kFrameMax, kFrameMax, kFrameMax, kFrameMax - MiB}) { // which padding makes 64 MiB of
        Writer head;
        head.u8(uint8_t(Codec::stored));
        head.varint(size);
        sealer.add({Kind::data, 0, std::vector<Chunk>(size / kChunkMax, {id, uint32_t(kChunkMax)})},
                   head.view(), Bytes(size));
    }
    PlainObject object(sealer.finish());
    REQUIRE(object.bytes.size() == kPackMax);
    object.bytes.push_back(0);
    store.put(object_name(Name::packs, object.name), object.bytes);
    Captured said;
    repo->damage.insert("for the test"); // so that a repair looks at packs that nobody names
    Repair(*repo, 2).run();
    auto again = open_repository(store);
    CHECK(again->doubts.empty());
    CHECK(again->damage.empty());
    CHECK(again->snapshots().size() == 1);
}

// ---- verbs that look at a tree ---------------------------------------------------------------------------

namespace {

/// What they do with two snapshots, the first of which is damaged, as the command line runs them.
const std::vector<Deed>& looks() {
    static const auto with = [](auto f) {
        return [f](Store& store, const support::fs::path& dir) {
            auto repo = open_repository(store);
            auto all = repo->snapshots();
            bool damaged = false;
            f(*repo, all, damaged, dir);
            return damaged ? Exit::damaged : Exit::ok;
        };
    };
    static const std::vector<Deed> all{
        {"ls --all", with([](Repository& repo, auto& all, bool& damaged, auto&) {
             std::vector<std::string> names{"z"};
             auto found = find_versions(repo, all, names, damaged);
             if (found["z"].size() != 1 || !names.empty())
                 throw std::runtime_error("what is whole was not found");
         })},
        {"du", with([](Repository& repo, auto& all, bool& damaged, auto&) {
             disk_usage(repo, *all[0], "", INT64_MIN, damaged);
         })},
        {"du of what is not there", with([](Repository& repo, auto& all, bool& damaged, auto&) {
             disk_usage(repo, *all[0], "m", INT64_MIN, damaged);
         })},
        {"du --unique",
         with([](Repository& repo, auto& all, bool& damaged, auto&) { unique_bytes(repo, all, damaged); })},
        {"diff", with([](Repository& repo, auto& all, bool& damaged, auto&) {
             damaged = !print_difference(repo, *all[0], *all[1], false);
         })},
        {"diff, the other way", with([](Repository& repo, auto& all, bool& damaged, auto&) {
             damaged = !print_difference(repo, *all[1], *all[0], false);
         })},
        {"diff --dir", with([](Repository& repo, auto& all, bool&, auto& dir) {
             BackupOptions o;
             o.dry_run = o.verbose = true;
             o.against = all[0];
             Backup(repo, o).run((dir / "outside").string(), Scene::record(kHost));
         })},
        {"cat of what may have been there",
         with([](Repository& repo, auto& all, bool&, auto&) { print_file(repo, *all[0], "m"); })},
        {"forget --path", with([](Repository& repo, auto& all, bool&, auto&) {
             Patterns patterns;
             patterns.add("z");
             for_not_matching(repo, *all[0], patterns, [](auto&) {});
         })},
    };
    return all;
}

} // namespace

TEST_CASE("damaged tree: whoever looks at it is told so, with exit code 5, and gets what is whole") {
    TestStore store = new_repository();
    store_snapshot(store, 0, {{"a", {noise(300, 1)}}, {"z", {noise(300, 2)}}});
    {
        TestStore whole(store);
        store_snapshot(whole, 1, {{"a", {noise(300, 1)}}, {"z", {noise(300, 2)}}});
        check_deeds(whole, {Exit::ok, Exit::failed}, {}, looks()); // "m" is not there
    }
    auto prepare = [&](bool list_is_lost) {
        put_tree(store, [&](Packer& packer) {
            std::vector<Entry> first{entry_of(Type::directory, ""),
                                     stored_file(packer, "a", {noise(300, 1)})};
            return std::vector{
                std::pair(std::string(), encode_entries(first)),
                {std::string("m"), noise(100, 3)},
                {std::string("z"), encode_entries({stored_file(packer, "z", {noise(300, 2)})}, "z")}};
        });
        if (!list_is_lost) return;
        auto s = sample_snapshot(2);
        s.tree = {chunk_id(1)};
        write_segment(*open_repository(store), snapshot_added(s));
    };
    SUBCASE("a part of it is no list of files") {
        prepare(false);
        check_deeds(store, {Exit::damaged}, {"restore", "ls", "check"}, deeds());
    }
    SUBCASE("what lists its parts is lost") { prepare(true); }
    check_deeds(store, {Exit::damaged}, {}, looks());
}
TEST_CASE("cat: a file whose content does not have its size is an error, one with holes comes as it was") {
    TestStore store = new_repository();
    auto one = noise(300, 1), two = noise(200, 2);
    std::map<std::string, std::pair<Exit, std::string>> wanted;
    auto zeros = [](size_t n) { return Bytes(n); };
    put_tree(store, [&](Packer& packer) {
        std::vector<Entry> all{entry_of(Type::directory, "")};
        auto add = [&](const std::string& path, int64_t more, std::vector<Extent> holes, Exit exit,
                       const Bytes& content) {
            auto e = stored_file(packer, path, {one, two});
            e.size += uint64_t(more);
            e.holes = std::move(holes);
            all.push_back(e);
            wanted[path] = {exit, string_of(content)};
        };
        add("a whole one", 0, {}, Exit::ok, joined({one, two}));
        add("b hole at its begin", 100, {{0, 100}}, Exit::ok, joined({zeros(100), one, two}));
        add("c holes in a chunk and at its end", 150, {{100, 50}, {550, 100}}, Exit::ok,
            joined({Bytes(one.begin(), one.begin() + 100), zeros(50), Bytes(one.begin() + 100, one.end()),
                    two, zeros(100)}));
        add("d hole larger than a buffer", int64_t(3 * MiB + 1), {{300, 3 * MiB + 1}}, Exit::ok,
            joined({one, zeros(3 * MiB + 1), two}));
        add("e more content", -1, {}, Exit::damaged, joined({one, Bytes(two.begin(), two.end() - 1)}));
        add("f much more content", -200, {}, Exit::damaged, one);
        add("g more content, before a hole", 99, {{499, 100}}, Exit::damaged,
            joined({one, Bytes(two.begin(), two.end() - 1), zeros(100)}));
        add("h less content", 1, {}, Exit::damaged, joined({one, two}));
        add("i less content, with a hole", 101, {{0, 100}}, Exit::damaged, joined({zeros(100), one, two}));
        return std::vector{std::pair(std::string(), encode_entries(all))};
    });
    support::TempDir dir;
    for (auto& [listed, expected] : wanted) {
        auto& path = listed;
        CAPTURE(path);
        auto wrong = bounded(
            [&] {
                Fd to(::open((dir / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                             0600)); // in a process of its own
                dup2(to.get(), 1);
                auto repo = open_repository(store);
                print_file(*repo, *repo->snapshots()[0], path);
                return Exit::ok;
            },
            {expected.first});
        CHECK(wrong == "");
        CHECK((support::read_file(dir / "out") == expected.second)); // not shown
    }
}
TEST_CASE("check: what it reads and cannot have is named, whichever way it reads") {
    TestStore store = new_repository();
    auto lost = noise(500, 1);
    store_snapshot(store, 0, {{"bad", {lost}}});
    store_snapshot(store, 1, {{"good", {noise(500, 2)}}});
    auto check = [&](const Sample& sample, std::string& words) {
        Captured said;
        auto repo = open_repository(store);
        CheckResult r;
        Check(*repo, 2).run(&sample, true, r);
        words = said.text();
        return r.errors.load();
    };
    Sample packs, files;
    files.files = 10;
    std::string words;
    CHECK(check(packs, words) == 0);
    CHECK(check(files, words) == 0);
    auto name = *packs_with(store, lost).begin();
    SUBCASE("a pack that changed") {
        store.objects.at(name)[kHead + 10] ^= 1;
        CHECK(check(files, words) == 1);
        CHECK_NAMES(words, "'bad' cannot be read (snapshot ");
        CHECK(check(packs, words) == 2); // the pack, and the file that needs it
        CHECK_NAMES(words, name);
        CHECK_NAMES(words, "a part of 'bad' is lost or damaged");
    }
    SUBCASE("a pack that the server does not give") {
        store.on_read = [&](const std::string& read) {
            if (read == name) throw Error("input/output error");
        };
        CHECK(check(files, words) == 1);
        CHECK_NAMES(words, "'bad' cannot be read (snapshot ");
        CHECK(check(packs, words) == 2);
        CHECK_NAMES(words, "input/output error");
    }
    SUBCASE("a lost connection is none of that") {
        store.on_read = [&](const std::string& read) {
            if (read == name) throw ConnectionLost("the line broke");
        };
        CHECK_THROWS_AS(check(packs, words), ConnectionLost);
        CHECK_THROWS_AS(check(files, words), ConnectionLost);
    }
}

// ---- a server that alters, swaps, hides and replays
// --------------------------------------------------------

namespace {

/// A small repository: one key, three segments of which one is superseded, packs of two backups; what the
/// source was at each of them.
struct Small {
    support::TempDir dir;
    TestStore store = new_repository();
    std::vector<TestStore> before; // as it was before each backup
    std::vector<std::map<std::string, std::string>> sources;
    std::vector<Snapshot> snapshots;

    static BackupOptions options() {
        BackupOptions o;
        o.connections = 1;
        o.allow_shrink = true;
        return o;
    }
    Snapshot back_up(Store& to) const {
        auto repo = open_repository(to);
        return Backup(*repo, options()).run((dir / "src").string(), Scene::record(kHost)).snapshot;
    }
    void write(const char* path, size_t size, uint64_t seed) const {
        support::write_file(dir / "src" / path, string_of(noise(size, seed)));
    }
    Small() {
        write("a", 300, 1);
        write("d/b", 200, 2);
        support::fs::create_symlink("a", dir / "src/link");
        for (uint64_t n = 0; n < 2; ++n) {
            if (n == 1) write("d/c", 250, 3);
            before.emplace_back(store);
            sources.push_back(picture(dir / "src"));
            snapshots.push_back(back_up(store));
            store.clock += 100;
        }
        support::settle(); // so that another backup reads nothing again
    }
    static const Small& get() {
        static const Small small;
        return small;
    }
};

/// What a client sees of a small repository that was tampered with. Throws where anything is wrong that is
/// not said.
struct Sight {
    Exit restore = Exit::ok, list = Exit::ok, check = Exit::ok;
    bool nothing_wrong = true; // all that was restored is right
    bool whole = false;        // all of the newest snapshot was restored
};
Sight look_at(Store& store, bool all_verbs = true) {
    auto& small = Small::get();
    Sight seen;
    support::TempDir dest;
    seen.restore = quiet_exit_of([&] { return restore_into(store, dest / "to"); });
    // An older state is right as well: without --expect nobody can tell.
    auto newest = wrong_in(dest / "to", small.sources[1], false),
         older = wrong_in(dest / "to", small.sources[0], false);
    seen.nothing_wrong = newest.empty() || older.empty();
    seen.whole = wrong_in(dest / "to", small.sources[1], true).empty();
    if (all_verbs) {
        seen.list = quiet_exit_of([&] { return list_all(store); });
        seen.check = quiet_exit_of([&] { return check_all(store); });
    }
    return seen;
}
/// Whatever was done to the store: what is restored is right, and where something is missing that is said.
void check_sight(Store& store, bool older_is_right = false, bool all_verbs = true) {
    auto seen = look_at(store, all_verbs);
    CHECK(seen.nothing_wrong);
    CHECK((seen.restore == Exit::ok || seen.restore == Exit::damaged));
    CHECK((seen.list == Exit::ok || seen.list == Exit::damaged));
    CHECK((seen.check == Exit::ok || seen.check == Exit::damaged));
    if (seen.restore == Exit::ok && !older_is_right) CHECK(seen.whole);
    if (all_verbs && seen.restore == Exit::damaged) CHECK(seen.check == Exit::damaged);
}
/// A repair and a backup make all well again that is still on the disk: the newest snapshot, and whatever is
/// stored from now on. What is lost of an older one is said.
void check_heals(TestStore& store, bool all_is_there = false) {
    support::TempDir dest;
    CHECK(quiet_exit_of([&] { return repair(store), Exit::ok; }) == Exit::ok);
    CHECK(quiet_exit_of([&] { return Small::get().back_up(store), Exit::ok; }) == Exit::ok);
    CHECK(quiet_exit_of([&] { return restore_into(store, dest / "to"); }) == Exit::ok);
    CHECK(wrong_in(dest / "to", Small::get().sources[1], true) == "");
    auto check = quiet_exit_of([&] { return check_all(store); });
    CHECK((check == Exit::ok || (check == Exit::damaged && !all_is_there)));
}

} // namespace

TEST_CASE("hostile server: any byte of any object flipped, any object cut anywhere or longer: right data or "
          "exit code 5, and a repair heals it") {
    auto& small = Small::get();
    const size_t step = support::slow_tests() ? 1 : 7;
    size_t altered = 0;
    for (auto& one : small.store.objects) {
        auto& name = one.first;
        auto& bytes = one.second;
        if (name.starts_with("keys/")) continue; // below
        for (size_t at = altered % step; at < bytes.size(); at += step, ++altered) {
            for (bool cut : {false, true}) {
                INFO(text(name, cut ? " cut to " : " flipped at ", at, " of ", bytes.size()));
                TestStore store(small.store);
                auto& object = store.objects.at(name);
                if (cut)
                    object.resize(at);
                else
                    object[at] ^= uint8_t(1u << at % 8);
                bool all = at / step % 8 == 0;
                check_sight(store, name.starts_with("index/"), all);
                if (all) check_heals(store, name.starts_with("index/"));
            }
        }
        for (size_t more : {1u, 16u, 70000u}) {
            INFO(text(name, " with ", more, " bytes more"));
            TestStore store(small.store);
            store.objects.at(name).resize(bytes.size() + more);
            check_sight(store, name.starts_with("index/"));
            check_heals(store);
        }
    }
    INFO(altered, " bytes");
    CHECK(altered * step > 2000);
}

TEST_CASE("hostile server: a key object flipped or cut anywhere, or longer, is damage, and nobody is asked "
          "for a passphrase") {
    auto& small = Small::get();
    auto name = small.store.names("keys").at(0);
    auto open = [&](TestStore& store) {
        return exit_of([&]() -> Exit {
            Captured said;
            Repository::open(store, []() -> Secret { throw std::runtime_error("asked for a passphrase"); });
            return Exit::ok;
        });
    };
    Captured said;
    for (size_t at = 0; at < kKeySize; ++at) {
        CAPTURE(at);
        TestStore flipped(small.store), cut(small.store);
        flipped.objects.at(name)[at] ^= 1;
        cut.objects.at(name).resize(at);
        CHECK(open(flipped) == Exit::damaged);
        CHECK(open(cut) == Exit::damaged);
    }
    TestStore longer(small.store);
    longer.objects.at(name).push_back(0);
    CHECK(open(longer) == Exit::damaged);
}

TEST_CASE("hostile server: objects swapped, replaced by others of this or of another repository, under any "
          "name: right data or exit code 5") {
    auto& small = Small::get();
    Captured said;
    // The same files in other repositories: with the same passphrase, and with another.
    std::vector<TestStore> others;
    for (auto* words : {"correct horse battery staple", "another"}) {
        auto& other = others.emplace_back();
        Repository::init(other, Secret(std::string_view(words)), cheap(), 1, "test");
        auto repo = Repository::open(other, [&] { return Secret(std::string_view(words)); });
        Backup(*repo, Small::options()).run((small.dir / "src").string(), Scene::record(kHost));
    }
    for (auto& one : small.store.objects) {
        auto& name = one.first;
        if (name.starts_with("keys/")) continue;
        bool index = name.starts_with("index/");
        for (auto& two : small.store.objects) {
            auto& other = two.first;
            auto& other_bytes = two.second;
            if (other == name) continue;
            INFO(name, " and ", other);
            TestStore replaced(small.store), swapped(small.store), moved(small.store);
            replaced.objects.at(name) = other_bytes;
            swapped.objects.at(name).swap(swapped.objects.at(other));
            check_sight(replaced, index);
            if (!other.starts_with("keys/")) check_sight(swapped, true);
            moved.objects[name.substr(0, name.find('/')) + other.substr(other.find('/'))] =
                other_bytes; // in another directory
            check_sight(moved, index, false);
        }
        for (auto& other : others)
            for (auto& two : other.objects) {
                auto& foreign = two.first;
                auto& foreign_bytes = two.second;
                INFO(name, " replaced by ", foreign, " of another repository, or beside it");
                TestStore replaced(small.store), beside(small.store);
                replaced.objects.at(name) = foreign_bytes;
                check_sight(replaced, index);
                if (foreign.starts_with("keys/")) continue;
                beside.objects[foreign] = foreign_bytes;
                check_sight(beside, true, false); // segments that do not open are doubtful: that is said
            }
    }
    // Another repository's key in place of ours, or all but the key of another one.
    for (auto& other : others) {
        TestStore key(small.store), rest(other);
        for (auto& n : key.names("keys")) key.objects.erase(n);
        for (auto& n : other.names("keys")) key.objects[n] = other.objects.at(n);
        for (auto& n : rest.names("keys")) rest.objects.erase(n);
        for (auto& n : small.store.names("keys")) rest.objects[n] = small.store.objects.at(n);
        for (auto* store : {&key, &rest}) {
            auto exit = exit_of([&] { return Repository::open(*store, passphrase), Exit::ok; });
            CHECK((exit == Exit::damaged || exit == Exit::passphrase));
        }
    }
}

TEST_CASE("hostile server: any object or any pair of objects withheld, and old ones brought back: right data "
          "or exit code 5") {
    auto& small = Small::get();
    Captured said;
    std::vector<std::string> names;
    for (auto& [name, bytes] : small.store.objects)
        if (!name.starts_with("keys/")) names.push_back(name);
    for (auto& a : names)
        for (auto& b : names) {
            INFO(a, " and ", b);
            TestStore store(small.store);
            store.hidden = {a, b};
            check_sight(store, true);
            bool has_packs =
                std::ranges::none_of(store.hidden, [](auto& n) { return n.starts_with("packs/"); });
            if (a.starts_with("packs/") &&
                b.starts_with("packs/")) { // a backup sends again what is not there, and it counts
                small.back_up(store);
                auto seen = look_at(store);
                CHECK(seen.whole);
                CHECK(seen.restore == Exit::ok);
                store.hidden.clear();
                CHECK(look_at(store).check == Exit::ok);
            } else if (has_packs) { // the packs alone are enough
                store.objects.erase(a);
                store.objects.erase(b);
                store.hidden.clear();
                check_heals(store, true);
            }
        }
    // Old states, whole and in parts: what was listed then beside what is now.
    for (auto& old : small.before) {
        TestStore store(old);
        check_sight(store, true);
        CHECK(look_at(store).restore == Exit::ok); // consistent: --expect is what notices it
        for (auto& n : small.store.names("packs")) store.objects[n] = small.store.objects.at(n);
        check_sight(store, true);
        CHECK_FALSE(open_repository(store)->index.snapshots.contains(
            small.snapshots[1].id)); // which is what --expect looks for
    }
}

TEST_CASE("hostile server: names in a listing that are none of ours are passed over, and none reaches a "
          "terminal as it is") {
    auto& small = Small::get();
    std::vector<std::string> odd{"",
                                 ".",
                                 "..",
                                 "../../outside/file",
                                 "a/b",
                                 "/",
                                 std::string("a\0b", 3),
                                 std::string("\0", 1),
                                 "\x1b[31m\x07\n\r",
                                 "\xff\xfe",
                                 "\xc2\x9b",
                                 std::string(64, 'g'),
                                 std::string(64, 'A'),
                                 std::string(64, '/'),
                                 std::string(73, '-'),
                                 std::string(1'000'000, 'x'),
                                 "0000000g-" + std::string(64, '0'),
                                 "-0000001-" + std::string(64, '0'),
                                 "+0000001-" + std::string(64, '0'),
                                 "00000001_" + std::string(64, '0')};
    TestStore store(small.store);
    store.on_list = [&](const std::string&, auto& found) {
        for (auto& name : odd) {
            found.insert(found.begin(), {name, 1000, 5});
            found.push_back({name, UINT64_MAX, INT64_MIN});
        }
    };
    for (auto& deed : deeds()) {
        INFO(std::string(deed.name));
        support::TempDir dir;
        auto wrong = bounded(
            [&] {
                TestStore copy(store);
                copy.on_list = store.on_list;
                return deed.run(copy, dir.path());
            },
            {Exit::ok});
        CHECK(wrong == "");
        if (std::string_view(deed.name) == "restore")
            CHECK(wrong_in(dir / "dest", small.sources[1], true) == "");
    }
    // Where there is no repository, what is there is named: fit for a terminal.
    for (auto& name : odd) {
        TestStore other;
        other.directories.insert("");
        other.on_list = [&](const std::string&, auto& found) { found.push_back({name, 1, 1}); };
        auto words = complaint([&] { Repository::init(other, passphrase(), cheap(), 1, "test"); });
        CHECK(!words.empty());
        CHECK(is_printable(words));
        CHECK(other.objects.empty());
    }
}

TEST_CASE("hostile server: sizes and times in a listing are whatever it likes: right data or exit code 5") {
    auto& small = Small::get();
    Captured said;
    for (auto& one : small.store.objects) {
        auto& name = one.first;
        auto& bytes = one.second;
        uint64_t size = bytes.size();
        for (uint64_t listed :
             {uint64_t(0), uint64_t(1), size - 1, size + 1, uint64_t(kHead), uint64_t(kSegmentMax),
              uint64_t(INT64_MAX), uint64_t(INT64_MAX) + 1, UINT64_MAX}) {
            INFO(name, " of ", size, " bytes is listed with ", listed);
            TestStore store(small.store);
            store.on_list = [&](const std::string& dir, auto& found) {
                for (auto& o : found)
                    if (dir + "/" + o.name == name) o.size = listed;
            };
            if (name.starts_with("keys/")) {
                CHECK(quiet_exit_of([&] { return Repository::open(store, passphrase), Exit::ok; }) ==
                      Exit::damaged);
                continue;
            }
            check_sight(store, name.starts_with("index/"), listed % 2 == 0);
            store.on_list = nullptr;
            check_sight(store);
        }
    }
    for (int64_t time : {INT64_MIN, int64_t(-1), int64_t(0), INT64_MAX - 1, INT64_MAX}) {
        CAPTURE(time);
        TestStore store(small.store);
        store.on_list = [&](const std::string&, auto& found) {
            for (auto& o : found) o.mtime = time;
        };
        check_sight(store);
        CHECK(look_at(store).restore == Exit::ok);
        for (auto verb : {"backup", "prune", "repair"}) {
            auto deed = std::ranges::find(deeds(), std::string_view(verb),
                                          [](auto& d) { return std::string_view(d.name); });
            support::TempDir dir;
            auto exit = quiet_exit_of([&] { return deed->run(store, dir.path()); });
            CHECK((exit == Exit::ok || exit == Exit::damaged));
        }
        store.on_list = nullptr;
        CHECK(quiet_exit_of([&] { return check_all(store); }) == Exit::ok);
    }
}

namespace {

/// A server that makes names up, and for each of them bytes.
struct Endless : Forward {
    std::string dir;
    size_t number;
    std::function<std::string(uint64_t)> name;
    std::atomic<int> reads{0};
    std::vector<Listed> list_all(Where where) override {
        auto found = Forward::list_all(where);
        if (where && Name::path(*where) == dir) {
            found.reserve(found.size() + number);
            for (uint64_t i = 0; i < number; ++i) found.push_back({name(i), 500, 1'000'000'000});
        }
        return found;
    }
    Foreign read(const Name& which, uint64_t offset, size_t length) override {
        try {
            return Forward::read(which, offset, length);
        } catch (const NotThere&) {
            ++reads;
            return Foreign(noise(length, uint64_t(reads)));
        }
    }
};

} // namespace

TEST_CASE("hostile server: a million names cost bounded time and memory, whatever they look like") {
    Small::get(); // made before other processes are
    auto digits = [](uint64_t i, size_t width) {
        std::string s(width, '0');
        for (auto at = s.rbegin(); i > 0; i >>= 4) *at++ = "0123456789abcdef"[i & 15];
        return s;
    };
    const size_t number = support::slow_tests() ? 1'000'000 : 200'000;
    const long memory_max = kMemoryLeast + (kMemoryMax - kMemoryLeast) * long(number) / 1'000'000;
    Endless store;
    store.number = number;
    std::set<std::string> verbs{"restore"};
    SUBCASE("names of nothing in index/") {
        store.dir = "index";
        store.name = [=](uint64_t i) { return digits(i, 70); };
    }
    SUBCASE("names of segments in index/") {
        store.dir = "index";
        store.name = [=](uint64_t i) { return digits(i, 8) + "-" + digits(i, 64); };
    }
    SUBCASE("the name of one segment under many numbers") {
        store.dir = "index";
        store.name = [=](uint64_t i) { return digits(i, 8) + "-" + digits(1, 64); };
    }
    SUBCASE("names of packs") {
        store.dir = "packs";
        store.name = [=](uint64_t i) { return digits(i, 64); };
        verbs = {"restore", "backup", "prune"};
    }
    SUBCASE("names of keys") {
        store.dir = "keys";
        store.name = [=](uint64_t i) { return digits(i, 64); };
        TestStore objects(Small::get().store);
        store.to = &objects;
        CHECK(bounded([&] { return Repository::open(store, passphrase), Exit::ok; }, {Exit::ok}, 60,
                      memory_max) == "");
        return;
    }
    for (auto& deed : deeds()) {
        if (!verbs.contains(deed.name)) continue;
        INFO(std::string(deed.name));
        support::TempDir work;
        TestStore objects(Small::get().store);
        store.to = &objects;
        auto wrong = bounded(
            [&] {
                auto exit = exit_of([&] { return deed.run(store, work.path()); });
                if (store.reads > 5000)
                    throw std::runtime_error(
                        text(store.reads.load(), " made-up objects were read")); // each is a round trip
                return exit;
            },
            {Exit::ok, Exit::damaged}, 120, memory_max);
        CHECK(wrong == "");
        CHECK(wrong_in(work / "dest", Small::get().sources[1], false) == "");
    }
}

TEST_CASE(
    "hostile server: key objects that ask for a scrypt of a terabyte, or of none, are refused before that") {
    auto& small = Small::get();
    for (auto& cost : {std::tuple<uint8_t, uint32_t, uint32_t>{30, 8, 1},
                       {20, 8192, 1},
                       {15, UINT32_MAX, 1},
                       {63, 8, 1},
                       {255, 8, 1},
                       {15, 8, UINT32_MAX},
                       {15, 8, 17},
                       {0, 0, 0},
                       {0, 8, 1},
                       {14, 8, 1},
                       {15, 0, 1},
                       {15, 1, 1},
                       {15, 8, 0}}) {
        auto log_n = std::get<0>(cost);
        auto r = std::get<1>(cost), p = std::get<2>(cost);
        INFO(int(log_n), " ", r, " ", p);
        Writer w;
        w.raw(kKeyMagic);
        w.u8(log_n);
        w.u32(r);
        w.u32(p);
        w.raw(noise(kKeySize - w.size(), 1));
        TestStore only(small.store), beside(small.store);
        for (auto& n : only.names("keys")) only.objects.erase(n);
        for (auto* store : {&only, &beside}) store->put(object_name(Name::keys, sha256(w.view())), w.view());
        CHECK(bounded([&] { return Repository::open(only, passphrase), Exit::ok; }, {Exit::damaged}, 10) ==
              "");
        CHECK(bounded([&] { return Repository::open(beside, passphrase), Exit::ok; },
                      {Exit::ok, Exit::damaged}, 10) == "");
    }
}
